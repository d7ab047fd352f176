//! Control bytes on their way to QUIC.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::limits;
use kwik_proto::sync::lock;

use crate::quic::{SendStream, WriteError};

/// Control frames that wait for a path's writer.
#[derive(Debug)]
pub(super) struct ControlBuffer {
    /// Bytes that may wait without the application's doing.
    most: usize,
    queued: Mutex<Queued>,
}

#[derive(Debug, Default)]
struct Queued {
    /// One buffer, so that many small frames cost no more than their bytes.
    frames: BytesMut,
    /// Bytes of them that the application caused.
    own: usize,
    /// Others that the writer took last: all are held until QUIC has the last.
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
        let others = queued.frames.len().saturating_sub(queued.own) + queued.taken;
        if others + bytes.len() > self.most {
            return false;
        }
        queued.frames.extend_from_slice(bytes);
        if let Some(writer) = queued.writer.take() {
            writer.wake();
        }
        true
    }

    /// Bytes that wait; none when the application may cause no more.
    pub(super) fn room(&self) -> Option<usize> {
        let queued = lock(&self.queued);
        let room = queued.own + limits::MAX_CONTROL_FRAME <= limits::MAX_CONTROL_QUEUED;
        room.then_some(queued.frames.len())
    }

    /// What was pushed while `before` bytes waited is the application's; about, when others push
    /// as well.
    pub(super) fn note_own(&self, before: usize) {
        let mut queued = lock(&self.queued);
        queued.own += queued.frames.len().saturating_sub(before);
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
                queued.taken = self.pending.len().saturating_sub(queued.own);
                queued.own = 0;
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
