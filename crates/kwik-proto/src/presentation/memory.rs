//! What the stream buffers of one session cost beyond their payload (8.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::limits::{MAX_PACKET_PAYLOAD, MAX_PINNED, MAX_RUNS};

/// A receive buffer, as large as a batch of datagrams gets: what one small slice pins at worst.
pub(super) const RECEIVE_BUFFER: usize = MAX_PACKET_PAYLOAD;
/// A receive buffer of one datagram.
const DATAGRAM_BUFFER: usize = 1500;

/// Runs and over-allocation of all stream buffers of a session.
///
/// Over-allocation: each receive buffer that a slice pins counts whole, at its largest, less the
/// payload held in it. A buffer keeps a slice as it is only while that leaves the sum within
/// [`MAX_PINNED`], and copies it else; when reading part of a receive buffer makes the sum larger,
/// the rest of it is copied. So the sum is bounded by construction.
#[derive(Debug)]
pub struct ReceiveMemory {
    runs: AtomicUsize,
    pinned: AtomicUsize,
    /// Bytes that a slice pins at worst.
    buffer: usize,
}

impl Default for ReceiveMemory {
    fn default() -> Self {
        Self { runs: AtomicUsize::new(0), pinned: AtomicUsize::new(0), buffer: RECEIVE_BUFFER }
    }
}

impl ReceiveMemory {
    /// For sockets that receive each datagram into a buffer of its own. Which slices share a buffer
    /// is not asked of their addresses then, so that the same input gives the same output.
    #[must_use]
    pub fn of_datagrams() -> Self {
        Self { buffer: DATAGRAM_BUFFER, ..Self::default() }
    }

    /// Runs, or gaps where there are more, of all buffers.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.load(Relaxed)
    }

    /// Bytes of receive buffers that are pinned without being payload, at worst.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.pinned.load(Relaxed)
    }
}

/// One buffer's part of it; what it reported falls free with it.
#[derive(Debug, Default)]
pub(super) struct Share {
    memory: Arc<ReceiveMemory>,
    runs: usize,
    pinned: usize,
}

impl Share {
    pub(super) fn new(memory: Arc<ReceiveMemory>) -> Self {
        Self { memory, runs: 0, pinned: 0 }
    }

    /// Whether the session may have one more run.
    pub(super) fn has_run(&self) -> bool {
        self.memory.runs() < MAX_RUNS
    }

    /// Counts a receive buffer whole; false when that would be too much.
    pub(super) fn pin(&mut self) -> bool {
        let buffer = self.memory.buffer;
        let within = |pinned| (pinned + buffer <= MAX_PINNED).then(|| pinned + buffer);
        let counted = self.memory.pinned.fetch_update(Relaxed, Relaxed, within).is_ok();
        if counted {
            self.pinned += buffer;
        }
        counted
    }

    pub(super) fn set_runs(&mut self, runs: usize) {
        replace(&self.memory.runs, &mut self.runs, runs);
    }

    /// States this buffer's over-allocation; true when the session's is too much.
    pub(super) fn set_pinned(&mut self, pinned: usize) -> bool {
        replace(&self.memory.pinned, &mut self.pinned, pinned);
        self.memory.pinned() > MAX_PINNED
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_runs(0);
        self.set_pinned(0);
    }
}

fn replace(sum: &AtomicUsize, old: &mut usize, new: usize) {
    if new > *old {
        sum.fetch_add(new - *old, Relaxed);
    } else if new < *old {
        sum.fetch_sub(*old - new, Relaxed);
    }
    *old = new;
}

/// The receive buffers that the slices of one stream pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pinned {
    /// How many.
    pub(super) batches: usize,
    /// Payload that is held in them.
    pub(super) bytes: usize,
    /// How large each is, at worst.
    buffer: usize,
}

impl Pinned {
    pub(super) fn new(memory: &ReceiveMemory) -> Self {
        Self { batches: 0, bytes: 0, buffer: memory.buffer }
    }

    pub(super) const fn excess(self) -> usize {
        self.batches * self.buffer - self.bytes
    }

    /// A slice's bytes as payload of its receive buffer; no slice is longer than that in practice.
    pub(super) fn counted(self, len: usize) -> usize {
        len.min(self.buffer)
    }

    /// Whether slices may share a receive buffer.
    pub(super) const fn are_batched(self) -> bool {
        self.buffer == RECEIVE_BUFFER
    }
}
