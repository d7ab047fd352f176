//! Control bytes on their way to QUIC: whoever queues them writes them too.

use std::sync::Mutex;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::limits;
use kwik_proto::sync::lock;

use crate::quic::{SendStream, WriteError};

/// The sending half of a path's control stream, and what waits for it.
#[derive(Debug)]
pub(super) struct ControlOut {
    /// Filled under the machine's lock, so that frames keep their order. One buffer, so that many
    /// small ones cost no more than their bytes.
    queue: Mutex<BytesMut>,
    /// Locked before the queue, and without the machine.
    writing: Mutex<Writing>,
}

#[derive(Debug)]
struct Writing {
    /// None once it failed.
    stream: Option<SendStream>,
    /// Taken from the queue, and not by QUIC.
    pending: Bytes,
    /// A task goes on once QUIC takes more.
    blocked: bool,
}

impl ControlOut {
    pub(super) fn new(stream: SendStream) -> Self {
        let writing = Writing { stream: Some(stream), pending: Bytes::new(), blocked: false };
        Self { queue: Mutex::default(), writing: writing.into() }
    }

    /// Appends bytes. False when the peer reads so slowly that more would wait than may.
    pub(super) fn queue(&self, bytes: &[u8]) -> bool {
        let mut queue = lock(&self.queue);
        let fits = queue.len() + bytes.len() <= limits::MAX_CONTROL_QUEUED;
        if fits {
            queue.extend_from_slice(bytes);
        }
        fits
    }

    /// Writes what is queued as far as QUIC takes it. True when [`Self::poll_rest`] has to go on.
    ///
    /// # Errors
    /// Once, when QUIC takes no more; what is queued later is dropped.
    pub(super) fn write(&self) -> Result<bool, WriteError> {
        let mut writing = lock(&self.writing);
        if writing.blocked {
            return Ok(false);
        }
        let drained = writing.poll_drain(&self.queue, &mut Context::from_waker(Waker::noop()));
        writing.blocked = drained.is_pending();
        match drained {
            Poll::Ready(result) => result.map(|()| false),
            Poll::Pending => Ok(true),
        }
    }

    /// Writes what is queued, as one task at a time.
    pub(super) fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut writing = lock(&self.writing);
        let result = ready!(writing.poll_drain(&self.queue, cx));
        writing.blocked = false;
        Poll::Ready(result)
    }
}

impl Writing {
    fn poll_drain(
        &mut self,
        queue: &Mutex<BytesMut>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WriteError>> {
        loop {
            if self.pending.is_empty() {
                self.pending = std::mem::take(&mut *lock(queue)).freeze();
            }
            let Some(stream) = self.stream.as_mut().filter(|_| !self.pending.is_empty()) else {
                // Not a slice at the end of what QUIC keeps.
                self.pending = Bytes::new();
                return Poll::Ready(Ok(()));
            };
            let pending = std::slice::from_mut(&mut self.pending);
            if let Err(error) = ready!(stream.poll_write_chunks(cx, pending)) {
                self.stream = None;
                return Poll::Ready(Err(error));
            }
        }
    }
}
