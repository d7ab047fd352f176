//! Targets that are written in order: standard output, descriptors, pipes, sockets and devices.

use std::{
    fs::File,
    io::{self, ErrorKind, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Between two looks at whether somebody who takes no bytes takes some again: what is waited for
/// tells by itself, but for file systems that never do.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Whether a path stands for an open descriptor of this process, whatever that is.
pub(super) fn is_descriptor(path: &Path) -> bool {
    descriptor(path).is_some()
}

/// The number of the descriptor that a path stands for.
fn descriptor(path: &Path) -> Option<i32> {
    match path.to_str()? {
        "/dev/stdin" => Some(0),
        "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        path => {
            let folders = ["/dev/fd/", "/proc/self/fd/"];
            folders.iter().find_map(|folder| path.strip_prefix(folder)?.parse().ok())
        }
    }
}

/// Standard output without the line buffer.
pub(crate) fn stdout() -> io::Result<Patient> {
    Ok(Patient(io::stdout().as_fd().try_clone_to_owned()?.into()))
}

/// What is at `path`, opened with its first byte, or at the end when there is none: a pipe waits
/// for its reader then.
pub(super) fn open_later(path: &Path) -> impl Write + Send + use<> {
    Later { path: path.to_path_buf(), opened: None }
}

struct Later {
    path: PathBuf,
    opened: Option<Patient>,
}

impl Later {
    fn opened(&mut self) -> io::Result<&mut Patient> {
        match &mut self.opened {
            Some(opened) => Ok(opened),
            opened => Ok(opened.insert(Patient(open(&self.path)?))),
        }
    }
}

impl Write for Later {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.opened()?.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.opened()?.flush()
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(number) = descriptor(path) {
        return match number {
            1 => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            2 => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
            _ => inherited(number).or_else(|_| open_descriptor(path, number)),
        };
    }
    if path.metadata()?.file_type().is_socket() {
        let socket: OwnedFd = UnixStream::connect(path)?.into();
        return Ok(socket.into());
    }
    File::options().write(true).open(path)
}

/// A descriptor that this process was started with, with its place in the file.
#[cfg(target_os = "linux")]
fn inherited(number: i32) -> io::Result<File> {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(File::from(pidfd_getfd(this, number, PidfdGetfdFlags::empty())?))
}

#[cfg(not(target_os = "linux"))]
fn inherited(_: i32) -> io::Result<File> {
    Err(ErrorKind::Unsupported.into())
}

/// Opens what a descriptor leads to. Of a file, that begins at its beginning: what others wrote
/// there is stepped over.
fn open_descriptor(path: &Path, number: i32) -> io::Result<File> {
    let mut file = File::options().write(true).open(path)?;
    if file.metadata()?.is_file() {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
        let place = info
            .ok()
            .and_then(|info| info.lines().next()?.strip_prefix("pos:")?.trim().parse().ok());
        file.seek(place.map_or(SeekFrom::End(0), SeekFrom::Start))?;
    }
    Ok(file)
}

/// A file that may be one that does not block: it is waited for then.
#[derive(Debug)]
pub(crate) struct Patient(File);

impl Write for Patient {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(data) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut waited = [PollFd::new(&self.0, PollFlags::OUT)];
                    // Whatever it says, writing says more.
                    poll(&mut waited, Some(&LOOK)).ok();
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        // A disk that fails shows here; pipes and the like have nothing to make durable.
        match self.0.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device()) {
            true => self.0.sync_data(),
            false => Ok(()),
        }
    }
}
