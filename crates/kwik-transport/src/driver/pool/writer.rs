//! One writer of a pool: a logical stream, or a lease.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use kwik_proto::StreamId;
use kwik_proto::limits::SHARED_BACKLOG;
use kwik_proto::stream::{WriterKey, WriterKind};
use kwik_proto::sync::lock;
use kwik_proto::wire::PacketFrame;

use crate::quic::WriteError;

use super::DataPool;
use super::pooled::PooledStream;
use super::queued::{Keep, Queued, Waiting, WriterState};

/// Frames that one writer may have waiting; small ones that follow one another leave as one.
const MAX_WAITING: usize = 32;

/// A writer with a QUIC stream of its own, all of whose bytes have arrived, shares again once it
/// writes no more than this: bulk would only come back at once.
const SMALL_WRITE: u64 = SHARED_BACKLOG / 4;

/// What may be pushed now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    pub(crate) frames: usize,
}

/// Writes the frames of one logical stream or lease on the QUIC streams of a pool. When it is
/// dropped, what it has pushed still leaves.
pub(crate) struct FrameWriter {
    pool: Arc<DataPool>,
    kind: WriterKind,
    /// From the first frame on.
    key: Option<WriterKey>,
    priority: Mutex<i32>,
    /// It has a QUIC stream of its own, for as long as much of it is on its way.
    bulk: bool,
    /// Where its last frame went; while one waits there, others follow it.
    stream: Option<Arc<PooledStream>>,
    state: Arc<WriterState>,
}

impl FrameWriter {
    pub(crate) fn new(pool: &Arc<DataPool>, kind: WriterKind) -> Self {
        Self {
            pool: pool.clone(),
            kind,
            key: None,
            priority: Mutex::default(),
            bulk: false,
            stream: None,
            state: Arc::default(),
        }
    }

    /// Nothing was written yet.
    pub(crate) fn is_unopened(&self) -> bool {
        self.key.is_none()
    }

    pub(crate) fn priority(&self) -> i32 {
        *lock(&self.priority)
    }

    pub(crate) fn set_priority(&self, priority: i32) {
        let mut own = lock(&self.priority);
        *own = priority;
        if let Some(key) = self.key {
            self.pool.set_priority(key, priority);
        }
    }

    /// Waits until more may wait: how much.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<Room, WriteError>> {
        let most = self.pool.packet_payload();
        self.poll_waiting(cx, |waiting| {
            let bytes = most.saturating_sub(waiting.bytes);
            let frames = MAX_WAITING.saturating_sub(waiting.frames);
            (bytes > 0 && frames > 0).then_some(Room { bytes, frames })
        })
    }

    /// Waits until everything pushed is with QUIC.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        self.poll_waiting(cx, |waiting| (waiting.frames == 0).then_some(()))
    }

    fn poll_waiting<T>(
        &mut self,
        cx: &mut Context<'_>,
        ready: impl FnOnce(&Waiting) -> Option<T>,
    ) -> Poll<Result<T, WriteError>> {
        let mut waiting = self.state.waiting();
        if let Some(error) = &waiting.error {
            return Poll::Ready(Err(error.clone()));
        }
        match ready(&waiting) {
            Some(ready) => Poll::Ready(Ok(ready)),
            None => {
                waiting.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Says how many of the bytes that were pushed are not acknowledged, and how many more are
    /// about to be: what decides who shares.
    pub(crate) fn on_unacknowledged(&mut self, pushed: u64, more: u64) {
        let Some(key) = self.key else { return };
        if !self.bulk && pushed + more > SHARED_BACKLOG {
            self.bulk = true;
            self.pool.on_backlog(key);
        } else if self.bulk && pushed == 0 && more <= SMALL_WRITE {
            self.bulk = false;
            self.pool.on_drained(key);
        }
    }

    /// Appends frames that follow one another, which leave as one; the last with `fin`.
    pub(crate) fn push(
        &mut self,
        stream: StreamId,
        mut offset: u64,
        parts: impl IntoIterator<Item = Bytes>,
        fin: bool,
    ) -> Result<(), WriteError> {
        let waits = {
            let waiting = self.state.waiting();
            if let Some(error) = &waiting.error {
                return Err(error.clone());
            }
            waiting.frames > 0
        };
        let key = match self.key {
            Some(key) => key,
            None => *self.key.insert(self.pool.attach(self.priority(), self.kind)),
        };
        let kept = match self.kind {
            WriterKind::Sharing => Keep::Plain,
            WriterKind::Fixed if self.pool.keeps() => Keep::Leased,
            WriterKind::Fixed => Keep::No,
        };
        let mut frames = parts.into_iter().map(|payload| {
            self.state.on_queued(payload.len());
            let frame = PacketFrame { stream_id: stream.as_u64(), offset, payload, fin };
            offset = frame.end();
            Queued { frame, kept, writer: self.state.clone() }
        });
        let last = self.stream.take().filter(|_| waits);
        match self.pool.push(key, last, &mut frames) {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => self.state.fail(&error),
        }
        self.state.waiting().error.clone().map_or(Ok(()), Err)
    }

    /// Drops what waits to leave.
    pub(crate) fn discard(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.discard(&self.state);
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.pool.detach(key);
        }
    }
}
