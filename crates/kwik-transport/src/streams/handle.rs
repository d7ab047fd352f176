//! What the reading and the writing handle of a stream have in common.

use std::sync::Arc;

use kwik_proto::StreamId;

use crate::driver::{Held, StreamRole, StreamWaiters};

pub(crate) type StreamSession = Held<dyn StreamRole>;

/// What both handles of a stream hold.
pub(super) struct Handle {
    pub(super) shared: StreamSession,
    pub(super) id: StreamId,
    /// The peer opened it.
    pub(super) accepted: bool,
    pub(super) waiters: Arc<StreamWaiters>,
}

impl Handle {
    pub(super) fn new(shared: &StreamSession, id: StreamId, accepted: bool) -> Self {
        let waiters = shared.waiters.streams.register(id);
        Self { shared: shared.clone(), id, accepted, waiters }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.waiters.streams.release(self.id);
    }
}
