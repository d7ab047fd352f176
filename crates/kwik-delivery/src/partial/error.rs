//! Why a file cannot be written.

use std::{
    io,
    path::{Path, PathBuf},
};

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
    /// It is longer than files may be.
    #[error(
        "cannot write {}: {source}: raise the limit (ulimit -f), or choose another file system",
        path.display()
    )]
    TooLong {
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
    /// Another process writes this target.
    #[error(
        "another kwik get{} is writing {} already: wait for it, or choose another file",
        of_process(*process), path.display()
    )]
    InUse {
        /// The target.
        path: PathBuf,
        /// The other process, where it says so.
        process: Option<u32>,
    },
    /// A file of that name appeared meanwhile.
    #[error(
        "{} has appeared meanwhile, and stays: name another file, or give --force to replace it",
        path.display()
    )]
    Exists {
        /// The target.
        path: PathBuf,
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

fn of_process(process: Option<u32>) -> String {
    process.map(|process| format!(" (process {process})")).unwrap_or_default()
}

impl PartError {
    pub(super) fn from_io(target: &Path, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let path = target.to_path_buf();
        match source.kind() {
            Kind::IsADirectory => Self::TargetIsFolder { path },
            Kind::NotFound | Kind::NotADirectory => Self::NoFolder { path },
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::Permission { path, source },
            Kind::FileTooLarge => Self::TooLong { path, source },
            Kind::AlreadyExists => Self::Exists { path },
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
        assert!(matches!(error(27), PartError::TooLong { .. }));
        assert!(matches!(error(5), PartError::Io { .. }));
        assert!(error(28).to_string().starts_with("no space for /x/y: "));
    }
}
