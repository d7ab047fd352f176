//! A session's streams, with the names and shapes of quinn's (1.1).

mod error;
mod handle;
mod recv;
mod send;

use kwik_proto::stream::Halves;

use handle::Handle;

pub use error::{ReadError, ReadTimeoutError, ReadToEndError, Stalled, WriteError};
pub(crate) use handle::StreamSession;
pub use recv::{Chunk, RecvStream};
pub use send::{SendStream, Written};

/// The handles of a stream that was opened or accepted.
pub(crate) fn handles(
    shared: &StreamSession,
    halves: Halves,
    accepted: bool,
) -> (Option<SendStream>, Option<RecvStream>) {
    let handle = || Handle::new(shared, halves.id, accepted);
    let send = halves.send.map(|half| SendStream::new(handle(), half));
    let recv = halves.recv.map(|half| RecvStream::new(handle(), half));
    (send, recv)
}
