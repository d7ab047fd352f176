//! Frames on their way from a writer to its QUIC stream, and what both know of them.

use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use kwik_proto::sync::lock;
use kwik_proto::wire::PacketFrame;

use crate::quic::WriteError;

/// A frame that waits to leave.
pub(super) struct Queued {
    pub(super) frame: PacketFrame,
    pub(super) kept: Keep,
    pub(super) writer: Arc<WriterState>,
}

/// How a frame is kept until it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Not at all: what of a lease is lost its report says.
    No,
    /// For its writer to hear of it, and to be repeated.
    Plain,
    /// To be repeated.
    Leased,
}

/// What a writer and the QUIC stream that it writes on share.
#[derive(Default)]
pub(super) struct WriterState(Mutex<Waiting>);

/// What of a writer waits to leave, and who waits for that.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) frames: usize,
    pub(super) bytes: usize,
    pub(super) error: Option<WriteError>,
    pub(super) waker: Option<Waker>,
}

impl WriterState {
    pub(super) fn waiting(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.0)
    }

    pub(super) fn on_queued(&self, len: usize) {
        let mut waiting = lock(&self.0);
        waiting.frames += 1;
        waiting.bytes += len;
    }

    /// A frame is with QUIC now, or was dropped.
    pub(super) fn on_left(&self, len: usize) {
        let mut waiting = lock(&self.0);
        waiting.frames -= 1;
        waiting.bytes -= len;
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn fail(&self, error: &WriteError) {
        let mut waiting = lock(&self.0);
        waiting.error = Some(error.clone());
        if let Some(waker) = waiting.waker.take() {
            waker.wake();
        }
    }
}
