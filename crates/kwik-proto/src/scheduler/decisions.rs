//! What the rule decided of a path.

use std::collections::BTreeMap;

use crate::StreamId;
use crate::stats::Decision;

/// What was decided of one path, and what it came to.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    /// Bytes of pieces that it took over, and that it lost to others.
    pub(super) moved_in: u64,
    pub(super) moved_out: u64,
    /// Bytes that it brought and that were here already.
    pub(super) twice: u64,
    pub(super) last: Option<Decision>,
    /// The last of each stream that is not forgotten.
    pub(super) streams: BTreeMap<StreamId, Decision>,
}

impl Decisions {
    /// A decision on its pieces of one stream.
    pub(super) fn note(&mut self, stream: StreamId, decision: Decision) {
        self.last = Some(decision);
        self.streams.insert(stream, decision);
    }

    /// A decision on all that it could bring.
    pub(super) fn note_all(&mut self, decision: Decision) {
        self.last = Some(decision);
    }

    pub(super) fn on_moved_in(&mut self, bytes: u64) {
        self.moved_in += bytes;
    }

    pub(super) fn on_moved_out(&mut self, bytes: u64) {
        self.moved_out += bytes;
    }

    pub(super) fn on_twice(&mut self, bytes: u64) {
        self.twice += bytes;
    }

    pub(super) fn forget(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }
}
