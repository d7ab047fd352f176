//! How the command fails: one line on standard error, and an exit code.

use std::{fmt, io, process::ExitCode};

use kwik::{Code, ConnectionError, ReadError, WriteError, escape};
use kwik_delivery::{CatalogueError, FailureCode, FetchError, PartError, SourceError};

/// What an exit code says; the README lists them. Wrong usage (2) is clap's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The transfer failed.
    Transfer = 1,
    /// The arguments do not make sense together.
    Usage = 2,
    /// There is no such object.
    NotFound = 3,
    /// A key is wrong or changed, or authentication failed.
    Trust = 4,
    /// No answer, or an address that cannot be used.
    Network = 5,
    /// A file cannot be read or written.
    Disk = 6,
    /// Ctrl-C.
    Interrupted = 130,
    /// Nobody reads standard output any more, as for a program that SIGPIPE ends.
    Unread = 141,
}

/// Why the command failed, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The session ended before the transfer did.
    fn lost(error: &ConnectionError) -> Self {
        let refused = Code::AuthFailed.as_u64();
        match error {
            ConnectionError::ApplicationClosed { code, reason } if *code == refused => {
                let reason = String::from_utf8_lossy(reason);
                Self::new(Kind::Trust, format!("the server does not let this client in: {reason}"))
            }
            // It says itself what to do.
            ConnectionError::Busy => Self::new(Kind::Network, error.to_string()),
            _ => Self::new(Kind::Network, format!("the transfer broke off: {error}: try again")),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

/// One line, whatever a peer or the system put into it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(&self.message).fmt(f)
    }
}

impl From<PartError> for Failure {
    fn from(error: PartError) -> Self {
        Self::new(Kind::Disk, error.to_string())
    }
}

impl From<CatalogueError> for Failure {
    fn from(error: CatalogueError) -> Self {
        Self::new(Kind::Disk, error.to_string())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let kind = match error {
            SourceError::NotFound { .. } => Kind::NotFound,
            _ => Kind::Disk,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let message = error.to_string();
        match error {
            FetchError::Refused(failure) if failure.code == FailureCode::NotFound => {
                Self::new(Kind::NotFound, message)
            }
            FetchError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Self::new(Kind::Unread, message)
            }
            FetchError::Silent { .. } => Self::new(Kind::Network, message),
            FetchError::File(_) | FetchError::Output(_) => Self::new(Kind::Disk, message),
            FetchError::Session(lost)
            | FetchError::Read(ReadError::ConnectionLost(lost))
            | FetchError::Write(WriteError::ConnectionLost(lost)) => Self::lost(&lost),
            _ => Self::new(Kind::Transfer, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line_that_does_nothing_to_a_terminal() {
        let message = "gone\n\u{1b}]0;x\u{7}\u{9b}31m\u{202e}txt\u{2028}ERROR";
        let shown = Failure::new(Kind::Transfer, message).to_string();
        assert_eq!(shown, r"gone\n\u{1b}]0;x\u{7}\u{9b}31m\u{202e}txt\u{2028}ERROR");
    }

    #[test]
    fn a_busy_server_is_to_be_tried_again_once() {
        let failure = Failure::lost(&ConnectionError::Busy);
        assert_eq!(failure.kind, Kind::Network);
        assert_eq!(failure.to_string(), "the server is busy: try again");
    }
}
