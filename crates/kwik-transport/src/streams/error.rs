//! Why reading and writing fail.

use std::fmt;
use std::io;
use std::ops::Range;
use std::time::Duration;

use kwik_proto::stream;
use kwik_proto::{Code, CodedError, StreamId};

use crate::quic::{self, ConnectionError};

/// Why a write failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer reads no more of the stream.
    #[error("the peer stopped the stream with code {0}")]
    Stopped(u64),
    /// The session is over.
    #[error("session lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was finished or reset already.
    #[error("the stream was finished or reset already")]
    ClosedStream,
    /// The stream would grow past 2^62 - 1 bytes.
    #[error("the stream would grow past the largest offset")]
    TooLong,
}

impl From<stream::WriteError> for WriteError {
    fn from(error: stream::WriteError) -> Self {
        match error {
            stream::WriteError::Stopped(code) => Self::Stopped(code),
            stream::WriteError::TooLong => Self::TooLong,
            _ => Self::ClosedStream,
        }
    }
}

impl WriteError {
    /// An error of a QUIC stream, in a session that ended for this reason, if it did.
    pub(crate) fn from_quic(error: quic::WriteError, closed: Option<ConnectionError>) -> Self {
        match error {
            quic::WriteError::Stopped(code) => Self::Stopped(code),
            quic::WriteError::ConnectionLost(lost) => Self::ConnectionLost(closed.unwrap_or(lost)),
            quic::WriteError::ClosedStream => Self::ClosedStream,
        }
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match error {
            WriteError::Stopped(_) => io::ErrorKind::ConnectionReset,
            WriteError::ConnectionLost(_) | WriteError::ClosedStream => io::ErrorKind::NotConnected,
            WriteError::TooLong => io::ErrorKind::FileTooLarge,
        };
        Self::new(kind, error)
    }
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer gave the stream up.
    #[error("the peer reset the stream with code {0}")]
    Reset(u64),
    /// The session is over.
    #[error("session lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was stopped here.
    #[error("the stream was stopped already")]
    ClosedStream,
    /// The stream cannot be completed, for instance since no server is left that could bring
    /// the rest.
    #[error("{0}")]
    Failed(CodedError),
}

impl From<stream::ReadError> for ReadError {
    fn from(error: stream::ReadError) -> Self {
        match error {
            stream::ReadError::Reset(code) => Self::Reset(code),
            stream::ReadError::Failed(error) => Self::Failed(error),
            _ => Self::ClosedStream,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
            ReadError::ConnectionLost(_) | ReadError::ClosedStream => io::ErrorKind::NotConnected,
            ReadError::Failed(error) if error.code == Code::OffsetMismatch => {
                io::ErrorKind::InvalidData
            }
            ReadError::Failed(_) => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

/// A reader that got nothing in time, and what it waits for (8.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled {
    /// The stream.
    pub stream: StreamId,
    /// Where the next bytes would begin.
    pub position: u64,
    /// What is missing while `held` bytes behind it are here; none when nothing is here.
    pub missing: Option<Range<u64>>,
    /// Bytes received and not read.
    pub held: u64,
    /// For how long it was waited.
    pub waited: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, position, missing, held, waited } = self;
        write!(f, "{stream}: nothing to read at offset {position} within {waited:?}")?;
        match missing {
            Some(missing) => write!(f, ": {missing:?} is missing, {held} bytes behind it are here"),
            None => write!(f, ": the peer has sent nothing further"),
        }
    }
}

/// Why a read with a timeout failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadTimeoutError {
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Nothing came in time; the stream can be read on.
    #[error("{0}")]
    TimedOut(Stalled),
}

impl From<ReadTimeoutError> for io::Error {
    fn from(error: ReadTimeoutError) -> Self {
        match error {
            ReadTimeoutError::Read(error) => error.into(),
            error @ ReadTimeoutError::TimedOut(_) => Self::new(io::ErrorKind::TimedOut, error),
        }
    }
}

/// Why [`RecvStream::read_to_end`](super::RecvStream::read_to_end) failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadToEndError {
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is more than the limit.
    #[error("the stream is longer than the limit")]
    TooLong,
}
