//! Writes a QUIC stream that is nobody else's: a secondary stream (7.2).

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::sync::lock;
use kwik_proto::wire::StreamKind;

use crate::quic::{Connection, Runtime, WriteError};

use super::pool::Outgoing;

/// Messages on one QUIC stream, which is opened with the first of them.
///
/// A message goes to QUIC at once as far as QUIC takes it. A task writes the rest, so that it
/// leaves even if nobody calls the writer again.
pub(crate) struct StreamWriter {
    runtime: Runtime,
    headers: BytesMut,
    /// The task runs.
    flushing: bool,
    shared: Arc<Mutex<Shared>>,
}

/// What the writer and its task share.
struct Shared {
    out: Outgoing,
    /// The QUIC stream ends after what is pending.
    finish: bool,
    /// The task, asleep until there is something for it.
    flusher: Option<Waker>,
    /// Who waits until nothing is pending.
    writer: Option<Waker>,
}

impl StreamWriter {
    pub(crate) fn new(connection: Connection, kind: StreamKind, runtime: &Runtime) -> Self {
        let shared = Shared {
            out: Outgoing::new(connection, kind, 0),
            finish: false,
            flusher: None,
            writer: None,
        };
        Self {
            runtime: runtime.clone(),
            headers: BytesMut::new(),
            flushing: false,
            shared: Arc::new(shared.into()),
        }
    }

    /// Appends what `header` encodes, and the payload behind it. What was pushed before should have
    /// been flushed, but for what ends the stream.
    pub(crate) fn push_with(
        &mut self,
        payload: Bytes,
        header: impl FnOnce(&mut BytesMut),
    ) -> Result<(), WriteError> {
        let mut shared = lock(&self.shared);
        header(&mut self.headers);
        let pending = shared.out.pending();
        pending.push(self.headers.split().freeze());
        pending.extend(Some(payload).filter(|payload| !payload.is_empty()));
        let mut nobody = Context::from_waker(Waker::noop());
        if shared.out.poll_flush(&mut nobody).is_pending() {
            if let Some(flusher) = &shared.flusher {
                flusher.wake_by_ref();
            }
            if !std::mem::replace(&mut self.flushing, true) {
                let shared = self.shared.clone();
                self.runtime.spawn(std::future::poll_fn(move |cx| lock(&shared).poll_task(cx)));
            }
        }
        shared.out.result()
    }

    /// Waits until everything pending is with QUIC.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut shared = lock(&self.shared);
        if !shared.out.pending().is_empty() {
            shared.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(shared.out.result())
    }
}

impl Drop for StreamWriter {
    /// Ends the QUIC stream once everything pending is written.
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.finish = true;
        if shared.out.pending().is_empty() {
            shared.end();
        }
    }
}

impl Shared {
    /// The task: flushes whatever comes, until no more can.
    fn poll_task(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flusher = Some(cx.waker().clone());
        ready!(self.out.poll_flush(cx));
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        if self.finish {
            self.end();
        }
        if self.out.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn end(&mut self) {
        self.out.end();
        if let Some(flusher) = self.flusher.take() {
            flusher.wake();
        }
    }
}
