//! Why an object could not be fetched.

use std::{io, ops::Range, time::Duration};

use kwik::{ClosedStream, ConnectionError, ReadError, WriteError, escape};

use crate::{Failure, InvalidListing, InvalidMessage, InvalidOutboard, PartError, Step};

/// Why an object could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The primary does not deliver it.
    #[error("{}", escape(&.0.message))]
    Refused(Failure),
    /// The primary's answer is malformed.
    #[error("the server's answer cannot be used: {0}")]
    Answer(#[from] InvalidMessage),
    /// What the primary says of a folder cannot be so.
    #[error("the server's list of files cannot be used: {0}")]
    Listing(#[from] InvalidListing),
    /// The primary's manifest is wrong.
    #[error(transparent)]
    Outboard(#[from] InvalidOutboard),
    /// Nobody is left who could bring a range but those who sent other bytes than the primary
    /// promised.
    #[error(
        "bytes {range:?} came wrong, and no other server can bring them: {} sent other bytes than \
         the object's: tell the servers' owner",
        escape(servers.join(", "))
    )]
    Liars {
        /// What is missing.
        range: Range<u64>,
        /// The addresses of those who lied.
        servers: Vec<String>,
    },
    /// Nothing came for too long.
    #[error("no progress for {} s while waiting for {step}: try again", waited.as_secs())]
    Silent {
        /// What was waited for.
        step: Step,
        /// For how long.
        waited: Duration,
    },
    /// The stream has another length than the primary promised.
    #[error("{received} bytes came of an object of {size}: ask again")]
    Length {
        /// What came, counted up to the first byte too many.
        received: u64,
        /// What was promised.
        size: u64,
    },
    /// The object has changed, and some of its former bytes are written already.
    #[error("the object has changed since its beginning was written: start again")]
    Changed,
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] PartError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The session ended.
    #[error(transparent)]
    Session(#[from] ConnectionError),
    /// The object, or the answer, cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The request cannot be sent.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<ClosedStream> for FetchError {
    fn from(_: ClosedStream) -> Self {
        Self::Write(WriteError::ClosedStream)
    }
}
