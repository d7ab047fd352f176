//! Trust on first use: the servers whose keys were accepted once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use kwik_delivery::{Fingerprint, PartError, PartFile};

use crate::{
    failure::{Failure, Kind},
    state,
};

/// More than anyone trusts by hand.
const MAX_FILE: u64 = 1024 * 1024;

/// The file `known_servers`: a line `HOST:PORT FINGERPRINT` each.
#[derive(Debug)]
pub(crate) struct KnownServers {
    folder: PathBuf,
    lines: Vec<(String, Fingerprint)>,
}

impl KnownServers {
    pub(crate) fn open(folder: PathBuf) -> Result<Self, Failure> {
        let path = path(&folder);
        let shown = path.display();
        let failed =
            |text: String| Failure::new(Kind::Disk, format!("cannot read {shown}: {text}"));
        let text = match path.metadata() {
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(failed("it is longer than 1 MiB".into()));
            }
            Ok(_) => fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        let parse = |line: &str| {
            let (server, fingerprint) = line.split_once(' ')?;
            Some((server.to_owned(), fingerprint.trim().parse().ok()?))
        };
        let lines = (1..).zip(text.lines()).map(|(number, line)| {
            parse(line).ok_or_else(|| failed(format!("line {number} is not HOST:PORT FINGERPRINT")))
        });
        let lines = lines.collect::<Result<_, _>>()?;
        Ok(Self { folder, lines })
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.folder)
    }

    pub(crate) fn find(&self, server: &str) -> Option<Fingerprint> {
        let line = self.lines.iter().find(|(known, _)| known.eq_ignore_ascii_case(server));
        line.map(|(_, fingerprint)| *fingerprint)
    }

    pub(crate) fn remember(
        &mut self,
        server: &str,
        fingerprint: Fingerprint,
    ) -> Result<(), Failure> {
        state::create(&self.folder)?;
        self.lines.push((server.to_owned(), fingerprint));
        Ok(self.save()?)
    }

    fn save(&self) -> Result<(), PartError> {
        let lines = self.lines.iter();
        let text: String = lines.map(|(server, print)| format!("{server} {print}\n")).collect();
        let file = PartFile::create(self.path(), text.len() as u64)?;
        file.write_at(0, text.as_bytes())?;
        file.finish()
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("known_servers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut known = KnownServers::open(state.clone()).unwrap();
        assert_eq!(known.find("h:1"), None);
        let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        known.remember("h:1", one).unwrap();
        known.remember("[::1]:2", two).unwrap();

        let known = KnownServers::open(state.clone()).unwrap();
        assert_eq!((known.find("H:1"), known.find("[::1]:2")), (Some(one), Some(two)));
        assert_eq!(known.find("h:2"), None);

        fs::write(known.path(), "h:1 abc\n").unwrap();
        let error = KnownServers::open(state).unwrap_err();
        assert!(error.message.contains("line 1"), "{error}");
    }
}
