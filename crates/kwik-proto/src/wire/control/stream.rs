//! What is said of streams.

use crate::StreamId;
use crate::wire::WireError;
use crate::wire::convert::{Convert, number, stream_id};
use crate::wire::pb::control as pb;

type Result<T> = std::result::Result<T, WireError>;

/// Reader to writer: nothing more of this stream is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopSending {
    /// Which stream.
    pub stream_id: StreamId,
    /// Why: one of the application's codes, or of [`Code`](crate::Code).
    pub code: u64,
}

impl Convert for StopSending {
    type Proto = pb::StopSending;

    fn to_proto(&self) -> pb::StopSending {
        pb::StopSending { stream_id: self.stream_id.as_u64(), code: self.code }
    }

    fn from_proto(m: pb::StopSending) -> Result<Self> {
        Ok(Self { stream_id: stream_id(m.stream_id)?, code: number(m.code)? })
    }
}
