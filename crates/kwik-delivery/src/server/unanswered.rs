//! Why a request is not answered.

use bytes::Bytes;
use kwik::SendStream;

use crate::{CatalogueError, Failure, SourceError};

/// Why a request was not answered as it should be.
pub(super) enum Unanswered {
    /// The client is told.
    Refused {
        failure: Failure,
        /// What only the operator is told, in place of that.
        cause: Option<String>,
    },
    /// There is nobody to tell.
    Ended(String),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Refused { failure, cause: None }
    }
}

impl From<&SourceError> for Unanswered {
    fn from(error: &SourceError) -> Self {
        Self::Refused { failure: error.into(), cause: Some(error.cause()) }
    }
}

impl From<&CatalogueError> for Unanswered {
    fn from(error: &CatalogueError) -> Self {
        match error {
            CatalogueError::Source(error) => error.into(),
            _ => Self::Refused { failure: error.into(), cause: Some(error.to_string()) },
        }
    }
}

impl From<String> for Unanswered {
    fn from(error: String) -> Self {
        Self::Ended(error)
    }
}

/// Writes a part of an answer.
pub(super) async fn write(send: &mut SendStream, part: Bytes) -> Result<(), String> {
    send.write_chunk(part).await.map_err(|error| error.to_string()).map(drop)
}
