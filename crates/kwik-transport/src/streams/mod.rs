//! A session's streams, with the names and shapes of quinn's (1.1).

mod error;
mod recv;
mod send;

use std::sync::Arc;

use kwik_proto::StreamId;
use kwik_proto::stream::Halves;

use crate::driver::{Held, StreamRole, StreamWaiters};

pub use error::{ReadError, ReadTimeoutError, ReadToEndError, Stalled, WriteError};
pub use recv::{Chunk, RecvStream};
pub use send::{SendStream, Written};

pub(crate) type StreamSession = Held<dyn StreamRole>;

/// What both handles of a stream hold.
struct Handle {
    shared: StreamSession,
    id: StreamId,
    /// The peer opened it.
    accepted: bool,
    waiters: Arc<StreamWaiters>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.waiters.streams.release(self.id);
    }
}

/// The handles of a stream that was opened or accepted.
pub(crate) fn handles(
    shared: &StreamSession,
    halves: Halves,
    accepted: bool,
) -> (Option<SendStream>, Option<RecvStream>) {
    let handle = || Handle {
        shared: shared.clone(),
        id: halves.id,
        accepted,
        waiters: shared.waiters.streams.register(halves.id),
    };
    let send = halves.send.map(|half| SendStream::new(handle(), half));
    let recv = halves.recv.map(|half| RecvStream::new(handle(), half));
    (send, recv)
}
