//! Trust on first use: the servers whose keys were accepted once.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use kwik_delivery::{Fingerprint, PartError, PartFile};

use crate::{
    failure::{Failure, Kind},
    state,
};

/// More than anyone trusts by hand.
const MAX_FILE: u64 = 1024 * 1024;

/// The file `known_servers`: a line `HOST:PORT FINGERPRINT` each. Blank lines, and those that begin
/// with `#`, stay as they are.
#[derive(Debug)]
pub(crate) struct KnownServers {
    folder: PathBuf,
    text: String,
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
            Ok(metadata) if is_foreign(metadata.uid()) => {
                let message = format!(
                    "{shown} belongs to the user {}, who could have put any server there: remove \
                     it, or give another folder with --state DIR",
                    metadata.uid()
                );
                return Err(Failure::new(Kind::Trust, message));
            }
            Ok(_) => fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        let parse = |line: &str| {
            let (server, fingerprint) = line.split_once(' ')?;
            Some((server.to_owned(), fingerprint.trim().parse().ok()?))
        };
        let lines = (1..).zip(text.lines().map(str::trim));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let lines = lines.map(|(number, line)| {
            parse(line).ok_or_else(|| failed(format!("line {number} is not HOST:PORT FINGERPRINT")))
        });
        let lines = lines.collect::<Result<_, _>>()?;
        Ok(Self { folder, lines, text })
    }

    /// The file.
    pub(crate) fn path(&self) -> PathBuf {
        path(&self.folder)
    }

    pub(crate) fn find(&self, server: &str) -> Option<Fingerprint> {
        let line = self.lines.iter().find(|(known, _)| known.eq_ignore_ascii_case(server));
        line.map(|(_, fingerprint)| *fingerprint)
    }

    /// Adds a server to the file as it is now: others may have added theirs since it was read.
    pub(crate) fn remember(&self, server: &str, fingerprint: Fingerprint) -> Result<(), Failure> {
        state::create(&self.folder)?;
        let locked = lock(&self.folder.join("known_servers.lock")).map_err(|error| {
            let path = self.path();
            Failure::new(Kind::Disk, format!("cannot lock {}: {error}", path.display()))
        })?;
        let now = Self::open(self.folder.clone())?;
        match now.find(server) {
            Some(known) if known == fingerprint => {}
            Some(known) => {
                let message = format!(
                    "another key of {server} was remembered meanwhile, {known}: if its owner \
                     confirms {fingerprint}, remove that line from {}",
                    self.path().display()
                );
                return Err(Failure::new(Kind::Trust, message));
            }
            None => now.save(server, fingerprint)?,
        }
        drop(locked);
        Ok(())
    }

    fn save(mut self, server: &str, fingerprint: Fingerprint) -> Result<(), PartError> {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        let text = format!("{}{server} {fingerprint}\n", self.text);
        let file = PartFile::create(self.path(), text.len() as u64)?;
        file.write_at(0, text.as_bytes())?;
        file.finish()
    }
}

/// Keeps other processes out until it is dropped. The file itself is replaced, so it cannot be the
/// lock.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).mode(0o600).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// Whether a user is neither this one nor the system's own.
fn is_foreign(user: u32) -> bool {
    user != 0 && user != rustix::process::geteuid().as_raw()
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
        let known = KnownServers::open(state.clone()).unwrap();
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

    #[test]
    fn a_file_of_another_user_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_path_buf();
        fs::write(path(&state), format!("h:1 {}\n", Fingerprint([1; 32]))).unwrap();
        assert!(KnownServers::open(state.clone()).is_ok());
        // Only root can give a file away.
        if std::os::unix::fs::chown(path(&state), Some(12345), None).is_ok() {
            let refused = KnownServers::open(state).unwrap_err();
            assert_eq!(refused.kind, Kind::Trust);
            assert!(refused.message.contains("belongs to the user 12345"), "{refused}");
        }
    }

    #[test]
    fn blank_lines_and_comments_stay() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_path_buf();
        let pin = Fingerprint([1; 32]);
        let text = format!("# mine\n\n  \nh:1 {pin}\n\n# end");
        fs::write(path(&state), &text).unwrap();
        let known = KnownServers::open(state.clone()).unwrap();
        assert_eq!(known.find("h:1"), Some(pin));
        known.remember("h:2", pin).unwrap();
        assert_eq!(fs::read_to_string(path(&state)).unwrap(), format!("{text}\nh:2 {pin}\n"));
    }

    #[test]
    fn several_that_remember_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_path_buf();
        std::thread::scope(|scope| {
            for number in 0..16_u8 {
                let known = KnownServers::open(state.clone()).unwrap();
                scope.spawn(move || {
                    known.remember(&format!("h:{number}"), Fingerprint([number; 32])).unwrap();
                });
            }
        });
        let known = KnownServers::open(state).unwrap();
        for number in 0..16_u8 {
            assert_eq!(known.find(&format!("h:{number}")), Some(Fingerprint([number; 32])));
        }
        let error = known.remember("h:3", Fingerprint([77; 32])).unwrap_err();
        assert_eq!(error.kind, Kind::Trust);
    }
}
