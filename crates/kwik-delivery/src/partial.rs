//! The destination of a download.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::limits::MAX_LOOKED_AT;

/// Hexadecimal digits of a part file's name that are random.
const RANDOM_DIGITS: usize = 16;
const SUFFIX: &str = ".kwik-part";
/// Longest file name of the usual file systems, in bytes.
const MAX_FILE_NAME: usize = 255;

/// Whether a file of this name is an unfinished download.
pub(crate) fn is_part_name(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(SUFFIX)
}

/// A file that takes its name only once it is complete: until [`finish`](Self::finish) it is
/// `.NAME.RANDOM.kwik-part` beside its target, and dropping it removes it. It is locked for as
/// long, so that what a process left behind that was killed is told apart, and goes when the target
/// is written next. Its methods block: call them where blocking is fine. Writes may come from
/// several threads.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    part: PathBuf,
    target: PathBuf,
    /// Of the file that it replaces: who may read that reads this, and nobody else.
    mode: Option<u32>,
    size: u64,
    finished: bool,
}

impl PartFile {
    /// Prepares to write `size` bytes that will become, or replace, `target`.
    ///
    /// # Errors
    /// When `target` is a folder, or a file of that size cannot be created beside it.
    pub fn create(target: impl AsRef<Path>, size: u64) -> Result<Self, PartError> {
        let target = target.as_ref().to_path_buf();
        let name = target.file_name().filter(|_| !target.is_dir());
        let Some(name) = name else {
            return Err(PartError::TargetIsFolder { path: target });
        };
        // Lossy and cut: only its uniqueness matters.
        let mut start = format!(".{}", name.to_string_lossy());
        while start.len() + 1 + RANDOM_DIGITS + SUFFIX.len() > MAX_FILE_NAME {
            start.pop();
        }
        start.push('.');
        remove_dead(&target, &start);
        let existing = target.symlink_metadata().ok().filter(fs::Metadata::is_file);
        let mode = existing.map(|metadata| metadata.permissions().mode() & 0o777);
        let (file, part) =
            open(&target, &start, mode).map_err(|e| PartError::from_io(&target, e))?;
        let this = Self { file, part, target, mode, size, finished: false };
        this.file.set_len(size).map_err(|source| this.error(source))?;
        Ok(this)
    }

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// When `data` ends beyond the size, or the disk is full or failing.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), PartError> {
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(PartError::OutOfRange { offset, length: data.len(), size: self.size });
        }
        self.file.write_all_at(data, offset).map_err(|source| self.error(source))
    }

    /// Makes it durable and gives it its name. The caller has written every byte.
    ///
    /// # Errors
    /// When the disk is full or failing, or the target became a folder; the file is removed then.
    pub fn finish(mut self) -> Result<(), PartError> {
        if let Some(mode) = self.mode {
            let permissions = fs::Permissions::from_mode(mode);
            self.file.set_permissions(permissions).map_err(|source| self.error(source))?;
        }
        self.file.sync_all().map_err(|source| self.error(source))?;
        fs::rename(&self.part, &self.target).map_err(|source| self.error(source))?;
        self.finished = true;
        // The name, too, shall survive a crash. An empty parent is the current folder.
        let folder = self.target.parent().filter(|path| !path.as_os_str().is_empty());
        match File::open(folder.unwrap_or(Path::new("."))).and_then(|file| file.sync_all()) {
            // One that may be written and not read: the file is there, and whole.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced.map_err(|source| self.error(source)),
        }
    }

    fn error(&self, source: io::Error) -> PartError {
        PartError::from_io(&self.target, source)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_file(&self.part)
        {
            tracing::warn!(path = %self.part.display(), %error, "cannot remove a partial file");
        }
    }
}

/// Makes and locks a part file beside `target`, with a name that nobody can foresee.
fn open(target: &Path, start: &str, mode: Option<u32>) -> io::Result<(File, PathBuf)> {
    loop {
        let mut random = [0; RANDOM_DIGITS / 2];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = target.with_file_name(format!("{start}{random}{SUFFIX}"));
        let mut options = File::options();
        options.write(true).create_new(true);
        if let Some(mode) = mode {
            options.mode(mode | 0o200);
        }
        let file = match options.open(&part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            opened => opened?,
        };
        // Where there are no locks, nothing is taken for dead either.
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok();
        // Another process may have taken it for dead before it was locked.
        if part.exists() {
            return Ok((file, part));
        }
    }
}

/// Removes the part files of `target` that no process has open any more.
fn remove_dead(target: &Path, start: &str) {
    let folder = target.parent().filter(|path| !path.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new(".")));
    for entry in entries.into_iter().flatten().flatten().take(MAX_LOOKED_AT) {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(SUFFIX));
        if random.is_none_or(|random| random.len() != RANDOM_DIGITS) {
            continue;
        }
        let opened = File::options().write(true).open(entry.path());
        if opened.is_ok_and(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Why a download could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartError {
    /// The target is a folder.
    #[error("{} is a folder: give the name of a file in it", path.display())]
    TargetIsFolder {
        /// The target.
        path: PathBuf,
    },
    /// The folder of the target does not exist.
    #[error("the folder of {} does not exist: create it first", path.display())]
    NoFolder {
        /// The target.
        path: PathBuf,
    },
    /// Writing beside the target is not permitted.
    #[error("cannot write {}: {source}: choose a folder you may write to", path.display())]
    Permission {
        /// The target.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk, or one's share of it, is full.
    #[error("no space for {}: {source}: free some, or choose another disk", path.display())]
    DiskFull {
        /// The target.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The target.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A write beyond the file's size.
    #[error("{length} bytes at {offset} end beyond the {size} of the file")]
    OutOfRange {
        /// Where.
        offset: u64,
        /// How many bytes.
        length: usize,
        /// The file's size.
        size: u64,
    },
}

impl PartError {
    fn from_io(target: &Path, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = target.to_path_buf();
        match source.kind() {
            Kind::IsADirectory => Self::TargetIsFolder { path },
            Kind::NotFound | Kind::NotADirectory => Self::NoFolder { path },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Permission { path, source },
            Kind::StorageFull | Kind::QuotaExceeded => Self::DiskFull { path, source },
            _ => Self::Io { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_have_their_kinds() {
        let target = Path::new("/x/y");
        let error = |number| PartError::from_io(target, io::Error::from_raw_os_error(number));
        assert!(matches!(error(28), PartError::DiskFull { .. }));
        assert!(matches!(error(122), PartError::DiskFull { .. }));
        assert!(matches!(error(13), PartError::Permission { .. }));
        assert!(matches!(error(30), PartError::Permission { .. }));
        assert!(matches!(error(21), PartError::TargetIsFolder { .. }));
        assert!(matches!(error(5), PartError::Io { .. }));
        assert!(error(28).to_string().starts_with("no space for /x/y: "));
    }
}
