//! A path's control stream, and control bytes on their way to it.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::sync::lock;
use kwik_proto::wire::ControlDecoder;

use crate::quic::{Connection, ConnectionError, RecvStream, SendStream, WriteError};

/// The two halves of a path's control stream, with what was decoded of it already.
pub(crate) struct ControlStream {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    pub(crate) decoder: ControlDecoder,
}

/// Opens a path's control stream, as its client.
pub(crate) async fn open_control(
    connection: &Connection,
) -> Result<ControlStream, ConnectionError> {
    let (send, recv) = connection.open_bi().await?;
    // Nothing of the data plane may hold it up.
    send.set_priority(i32::MAX).ok();
    Ok(ControlStream { send, recv, decoder: ControlDecoder::new() })
}

/// Control frames that wait for a path's writer.
#[derive(Debug)]
pub(super) struct ControlBuffer {
    /// Bytes that may wait.
    most: usize,
    queued: Mutex<Queued>,
}

#[derive(Debug, Default)]
struct Queued {
    /// One buffer, so that many small frames cost no more than their bytes.
    frames: BytesMut,
    /// What the writer took last: all is held until QUIC has the last.
    taken: usize,
    /// The writer, asleep until there is something for it.
    writer: Option<Waker>,
}

impl ControlBuffer {
    pub(super) fn new(most: usize) -> Self {
        Self { most, queued: Mutex::default() }
    }

    /// Appends bytes; called under the machine's lock, so that they keep their order. False when
    /// the peer reads so slowly that more would wait than may.
    pub(super) fn push(&self, bytes: &[u8]) -> bool {
        let mut queued = lock(&self.queued);
        if queued.frames.len() + queued.taken + bytes.len() > self.most {
            return false;
        }
        queued.frames.extend_from_slice(bytes);
        if let Some(writer) = queued.writer.take() {
            writer.wake();
        }
        true
    }
}

/// Writes a path's control stream.
#[derive(Debug)]
pub(super) struct ControlWriter {
    queue: Arc<ControlBuffer>,
    stream: SendStream,
    /// Taken from the queue, and not yet by QUIC.
    pending: Bytes,
}

impl ControlWriter {
    pub(super) fn new(queue: Arc<ControlBuffer>, stream: SendStream) -> Self {
        Self { queue, stream, pending: Bytes::new() }
    }

    /// Writes whatever is queued, until QUIC takes no more: why.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<WriteError> {
        loop {
            if self.pending.is_empty() {
                let mut queued = lock(&self.queue.queued);
                // Not kept: an idle path has no buffer.
                self.pending = std::mem::take(&mut queued.frames).freeze();
                queued.taken = self.pending.len();
                if self.pending.is_empty() {
                    queued.writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
            let pending = std::slice::from_mut(&mut self.pending);
            if let Err(error) = ready!(self.stream.poll_write_chunks(cx, pending)) {
                return Poll::Ready(error);
            }
        }
    }
}
