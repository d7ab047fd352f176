//! Why a source could not give an object: what the operator is told, and what a client.

use std::{io, ops::Range};

use crate::{Failure, FailureCode, ObjectName};

/// Why a folder is no object. A client is told how to get what is in it.
pub(super) const IS_FOLDER: &str = "it is a folder";

/// Why a source could not give an object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No such object here; links that lead out of the folder count as none.
    #[error("no object {name} here: check its name")]
    NotFound {
        /// Which.
        name: ObjectName,
        /// Why it is not, where there is more to say than that: for the operator.
        why: Option<&'static str>,
    },
    /// No such object here, but one whose name has the same letters in other code points.
    #[error("no object {name} here, but one of the same letters in other code points: {other}")]
    OtherSpelling {
        /// Which.
        name: ObjectName,
        /// The one that is here, percent-encoded as in a link.
        other: String,
    },
    /// It is there and cannot be read.
    #[error("cannot read {place}: {source}")]
    Unreadable {
        /// Which object or path.
        place: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It changed since it was opened.
    #[error("object {name} changed while it was read: fetch it again")]
    Changed {
        /// Which.
        name: ObjectName,
    },
    /// It is a store that this server does not list.
    #[error("this server's objects cannot be listed: name one of them")]
    CannotList,
    /// Larger than [`MAX_OBJECT`](crate::limits::MAX_OBJECT).
    #[error("object {name} has {size} bytes, more than 1 TiB: split it")]
    TooLarge {
        /// Which.
        name: ObjectName,
        /// Its bytes.
        size: u64,
    },
    /// A read of more than [`MAX_READ`](crate::limits::MAX_READ) bytes or beyond the object's end.
    #[error("bytes {} to {} of object {name} are not one read", range.start, range.end)]
    OutOfRange {
        /// Which.
        name: ObjectName,
        /// What was asked for.
        range: Range<u64>,
    },
}

impl SourceError {
    /// All that is known of it, for the operator.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::NotFound { why: Some(why), .. } => format!("{self} ({why})"),
            _ => self.to_string(),
        }
    }

    /// The same of an object that goes by another name outside: `folder/` stands before it.
    pub(super) fn below(self, folder: &ObjectName, name: &ObjectName) -> Self {
        let name = name.clone();
        match self {
            Self::NotFound { why, .. } => Self::NotFound { name, why },
            Self::OtherSpelling { other, .. } => {
                Self::OtherSpelling { name, other: format!("{}/{other}", folder.in_link()) }
            }
            Self::Changed { .. } => Self::Changed { name },
            Self::TooLarge { size, .. } => Self::TooLarge { name, size },
            Self::OutOfRange { range, .. } => Self::OutOfRange { name, range },
            Self::Unreadable { .. } | Self::CannotList => self,
        }
    }

    /// What the system said.
    fn system(&self) -> Option<&io::Error> {
        match self {
            Self::Unreadable { source, .. } => source.downcast_ref(),
            _ => None,
        }
    }
}

/// What a client is told: nothing of the server's own paths.
impl From<&SourceError> for Failure {
    fn from(error: &SourceError) -> Self {
        use io::ErrorKind as Kind;
        let unreadable = |text: &str| (FailureCode::Unreadable, text.to_owned());
        let (code, message) = match error {
            SourceError::NotFound { name, why: Some(IS_FOLDER) } => {
                let advice = "end the link in / to get what is in it";
                (FailureCode::NotFound, format!("{name} is a folder: {advice}"))
            }
            SourceError::NotFound { .. } | SourceError::OtherSpelling { .. } => {
                (FailureCode::NotFound, error.to_string())
            }
            SourceError::CannotList => (FailureCode::CannotList, error.to_string()),
            SourceError::Changed { .. } => (FailureCode::Changed, error.to_string()),
            SourceError::TooLarge { .. } => (FailureCode::Unreadable, error.to_string()),
            SourceError::Unreadable { .. } => match error.system() {
                Some(system) if is_out_of_files(system) => {
                    let text = "the server has too many files open: try again later";
                    (FailureCode::Busy, text.to_owned())
                }
                Some(system) if system.kind() == Kind::PermissionDenied => {
                    unreadable("the server may not read the object: tell its owner")
                }
                // The system's own words name no path.
                Some(system) if system.raw_os_error().is_some() => {
                    unreadable(&format!("the server cannot read the object: {system}"))
                }
                _ => unreadable("the server cannot read the object: its log says why"),
            },
            SourceError::OutOfRange { .. } => {
                (FailureCode::Other, "the server failed to read the object".into())
            }
        };
        Self { code, message }
    }
}

/// Of the process, or of the whole system.
fn is_out_of_files(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}

pub(super) fn unreadable(
    place: String,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> SourceError {
    SourceError::Unreadable { place, source: source.into() }
}

pub(super) fn file_error(name: &ObjectName, error: io::Error) -> SourceError {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    match error.kind() {
        NotFound | NotADirectory | InvalidFilename => {
            SourceError::NotFound { name: name.clone(), why: None }
        }
        _ => unreadable(name.to_string(), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_the_true_reason_and_no_path() {
        let failed = |code| unreadable("/srv/secret/x".into(), io::Error::from_raw_os_error(code));
        for (error, code, told) in [
            (failed(13), FailureCode::Unreadable, "may not read the object: tell its owner"),
            (failed(24), FailureCode::Busy, "too many files open: try again later"),
            (failed(23), FailureCode::Busy, "too many files open: try again later"),
            (failed(5), FailureCode::Unreadable, "Input/output error"),
            (unreadable("/srv/secret".into(), "/etc/key"), FailureCode::Unreadable, "its log says"),
        ] {
            let failure = Failure::from(&error);
            assert_eq!(failure.code, code, "{error}");
            assert!(failure.message.contains(told), "{}", failure.message);
            assert!(!failure.message.contains('/') || told.contains('/'), "{}", failure.message);
            assert!(error.cause().contains("/srv/secret"));
        }
    }
}
