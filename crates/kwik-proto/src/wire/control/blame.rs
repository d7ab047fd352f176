//! What is said of sources that were isolated.

use std::ops::Range;

use crate::wire::WireError;
use crate::wire::convert::{Convert, range, stream_id, text};
use crate::wire::pb::control as pb;
use crate::{PathId, StreamId};

/// Client to primary: a secondary's path was closed for what it brought or said (9.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blamed {
    /// Which path.
    pub path_id: PathId,
    /// Into which stream it wrote; none where it was no byte of a stream.
    pub stream_id: Option<StreamId>,
    /// Where.
    pub range: Range<u64>,
    /// What it did, in the client's words.
    pub reason: String,
}

impl Convert for Blamed {
    type Proto = pb::Blamed;

    fn to_proto(&self) -> pb::Blamed {
        pb::Blamed {
            path_id: self.path_id.0,
            stream_id: self.stream_id.map(StreamId::as_u64),
            start: self.range.start,
            end: self.range.end,
            reason: self.reason.clone(),
        }
    }

    fn from_proto(m: pb::Blamed) -> Result<Self, WireError> {
        Ok(Self {
            path_id: PathId(m.path_id),
            stream_id: m.stream_id.map(stream_id).transpose()?,
            range: range(m.start, m.end)?,
            reason: text(m.reason)?,
        })
    }
}
