//! How the command fails: one line on standard error, and an exit code.

use std::{fmt, io, process::ExitCode};

use kwik::{Code, ConnectionError, ReadError, WriteError, escape};
use kwik_delivery::{
    CatalogueError, FailureCode, FetchError, Output, PartError, PartFile, SourceError,
};

use crate::summary::Size;

/// What an exit code says; the README lists them. Wrong usage (2) is clap's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The transfer failed.
    Transfer,
    /// The arguments do not make sense together.
    Usage,
    /// There is no such object.
    NotFound,
    /// A key is wrong or changed, or authentication failed.
    Trust,
    /// No answer, or an address that cannot be used.
    Network,
    /// A file cannot be read or written.
    Disk,
    /// There is no room for it.
    Full,
    /// Ctrl-C, or another signal of this number.
    Signal(i32),
    /// Nobody reads standard output any more, as for a program that SIGPIPE ends.
    Unread,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Transfer => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Trust => 4,
            Self::Network => 5,
            Self::Disk | Self::Full => 6,
            // As shells say it.
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(u8::MAX),
            Self::Unread => 141,
        }
    }
}

/// Why the command failed, and what to do about it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// Whether it may be another time when it is tried again at once.
    pub(crate) passing: bool,
    /// The server said that it ends.
    pub(crate) ending: bool,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), passing: false, ending: false }
    }

    pub(crate) fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Without the advice to do what is done by itself, escaped.
    pub(crate) fn reason(&self) -> String {
        escape(self.message.trim_end_matches(": try again").trim_end_matches(": ask again"))
            .to_string()
    }

    /// Says what stays in `output` for the next get.
    pub(crate) fn with_kept(mut self, output: &Output) -> Self {
        let part = output.part().filter(|part| part.is_resumable());
        if let Some((manifest, bytes)) = part.and_then(PartFile::held) {
            self.message = format!(
                "{}; {} of {} are kept: the same command goes on from there",
                self.reason(),
                Size(bytes),
                Size(manifest.size)
            );
        }
        self
    }

    /// The session ended before the transfer did.
    pub(crate) fn lost(error: &ConnectionError) -> Self {
        let refused = Code::AuthFailed.as_u64();
        match error {
            ConnectionError::ApplicationClosed { code, reason } if *code == refused => {
                let reason = String::from_utf8_lossy(reason);
                // What kind of failure it is says the exit code.
                let reason = reason.trim_start_matches("KWIK_AUTH_FAILED: ");
                Self::new(Kind::Trust, format!("the server does not let this client in: {reason}"))
            }
            // It says itself what to do.
            ConnectionError::Busy => Self::new(Kind::Network, error.to_string()).passing(),
            _ => Self::new(Kind::Network, format!("the transfer broke off: {error}: try again"))
                .passing(),
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
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
        Self::new(kind_of(&error), error.to_string())
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
            FetchError::Refused(failure) if failure.code == FailureCode::Forbidden => {
                Self::new(Kind::Trust, message)
            }
            FetchError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Self::new(Kind::Unread, message)
            }
            FetchError::Refused(failure) if failure.code == FailureCode::Ending => {
                Self { ending: true, ..Self::new(Kind::Transfer, message).passing() }
            }
            FetchError::Refused(failure) if is_passing(failure.code) => {
                Self::new(Kind::Transfer, message).passing()
            }
            FetchError::Silent { .. } => Self::new(Kind::Network, message).passing(),
            FetchError::File(error) => Self::new(kind_of(&error), message),
            FetchError::Output(_) => Self::new(Kind::Disk, message),
            FetchError::Session(lost)
            | FetchError::Read(ReadError::ConnectionLost(lost))
            | FetchError::Write(WriteError::ConnectionLost(lost)) => Self::lost(&lost),
            FetchError::Read(_) | FetchError::Length { .. } => {
                Self::new(Kind::Transfer, message).passing()
            }
            _ => Self::new(Kind::Transfer, message),
        }
    }
}

fn kind_of(error: &PartError) -> Kind {
    match error {
        PartError::DiskFull { .. } => Kind::Full,
        _ => Kind::Disk,
    }
}

/// Whether what a server refuses it may do a moment later.
fn is_passing(code: FailureCode) -> bool {
    matches!(code, FailureCode::Busy | FailureCode::Changed | FailureCode::NoSource)
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
