//! Where a download goes, and how it is written there.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::FileTypeExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use kwik_delivery::ObjectName;

use crate::failure::{Failure, Kind};

/// Links that lead to one another, at most: as the system does.
const MAX_LINKS: usize = 40;
/// Between two tries to write where there is no room now.
const RETRY: Duration = Duration::from_millis(5);

/// Where a download goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    /// A regular file, there or to be: replaced only when all of it is verified.
    File(PathBuf),
    /// A pipe, a device, or an open descriptor: written in order, never replaced.
    InOrder(PathBuf),
}

impl Target {
    /// What `given` is, or the object's own name here. A name that nobody gave replaces nothing
    /// unless `force` says so.
    pub(crate) fn find(
        given: Option<&Path>,
        name: &ObjectName,
        force: bool,
    ) -> Result<Self, Failure> {
        if given == Some(Path::new("-")) {
            return Ok(Self::Stdout);
        }
        let path = given.map_or_else(|| PathBuf::from(name.file_name()), Path::to_path_buf);
        let shown = path.display();
        let refuse = |message: String| Err(Failure::new(Kind::Disk, message));
        // Whatever it is: the server chose the name, and not who runs this.
        let taken = path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir());
        if given.is_none() && taken && !force {
            return refuse(format!(
                "{shown} exists already: name it with -o to replace it, or give --force"
            ));
        }
        if is_descriptor(&path) {
            return Ok(Self::InOrder(path));
        }
        match path.metadata() {
            Ok(metadata) if is_in_order(&metadata) => Ok(Self::InOrder(path)),
            Ok(metadata) if metadata.is_file() && !force && metadata.permissions().readonly() => {
                refuse(format!(
                    "{shown} is write-protected: give --force to replace it all the same"
                ))
            }
            // A link stays, and the file that it leads to is the target.
            _ => Ok(Self::File(end_of_links(&path))),
        }
    }
}

/// As people gave it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) | Self::InOrder(path) => path.to_string_lossy().fmt(f),
        }
    }
}

fn is_in_order(metadata: &fs::Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
}

/// Whether a path stands for an open descriptor of this process, whatever that is.
fn is_descriptor(path: &Path) -> bool {
    let folders = ["/dev/fd", "/proc/self/fd"];
    folders.iter().any(|folder| path.starts_with(folder))
        || ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
}

/// Where `path` leads by symbolic links, also when nothing is there.
fn end_of_links(path: &Path) -> PathBuf {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    path
}

/// Standard output without the line buffer.
pub(crate) fn stdout() -> io::Result<impl Write + Send + use<>> {
    Ok(Patient(io::stdout().as_fd().try_clone_to_owned()?.into()))
}

/// Opens what is written in order; a pipe waits for its reader.
pub(crate) fn in_order(path: &Path) -> io::Result<impl Write + Send + use<>> {
    Ok(Patient(File::options().write(true).open(path)?))
}

/// A file that may be one that does not block: it is waited for then.
struct Patient(File);

impl Write for Patient {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command};

    use super::*;

    #[test]
    fn each_kind_of_target_is_told_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let name = ObjectName::new("x").unwrap();
        let find = |path: &Path, force| Target::find(Some(path), &name, force);
        assert_eq!(find(Path::new("-"), false).unwrap(), Target::Stdout);
        assert_eq!(find(&at("new"), false).unwrap(), Target::File(at("new")));
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        assert_eq!(find(&at("pipe"), false).unwrap(), Target::InOrder(at("pipe")));
        for path in ["/dev/null", "/dev/stdout", "/dev/fd/7"].map(PathBuf::from) {
            assert_eq!(find(&path, false).unwrap(), Target::InOrder(path));
        }
        symlink("real", at("link")).unwrap();
        assert_eq!(find(&at("link"), false).unwrap(), Target::File(at("real")));
        fs::write(at("real"), b"x").unwrap();
        assert_eq!(find(&at("link"), false).unwrap(), Target::File(at("real")));
        symlink("loop", at("loop")).unwrap();
        assert!(matches!(find(&at("loop"), false), Ok(Target::File(_))));

        let dash = ObjectName::new("-").unwrap();
        assert_eq!(Target::find(None, &dash, false).unwrap(), Target::File("-".into()));

        let mut permissions = fs::metadata(at("real")).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(at("real"), permissions).unwrap();
        assert!(find(&at("real"), false).unwrap_err().message.contains("--force"));
        assert_eq!(find(&at("real"), true).unwrap(), Target::File(at("real")));
    }
}
