//! What the ledger is made of, and what it hands out.

use std::ops::Range;
use std::time::Instant;

use crate::range::RangeSet;
use crate::scheduler::charges::Charge;
use crate::{LeaseId, PathId, StreamId};

/// A lease as its client sees it.
#[derive(Debug)]
pub(in crate::scheduler) struct ClientLease {
    pub(in crate::scheduler) stream: StreamId,
    pub(in crate::scheduler) path: PathId,
    pub(in crate::scheduler) range: Range<u64>,
    /// Its writer brings nothing before this offset ([`set_floor`](super::Ledger::set_floor)).
    pub(in crate::scheduler) from: u64,
    /// Its writer is a secondary stream: what it is not asked for in order it passes over.
    pub(in crate::scheduler) mapped: bool,
    /// What its writer may still be asked for.
    pub(in crate::scheduler) budget: u64,
    /// What came of its pieces.
    pub(in crate::scheduler) delivered: u64,
    /// Its writer gave it up: over once its pieces are.
    pub(in crate::scheduler) closing: bool,
    /// What its writer was asked for, where the primary leased nothing.
    pub(super) asked: RangeSet,
}

impl ClientLease {
    pub(in crate::scheduler) fn new(
        stream: StreamId,
        path: PathId,
        range: Range<u64>,
        budget: u64,
    ) -> Self {
        let (from, asked) = (range.start, RangeSet::new());
        let (mapped, delivered, closing) = (false, 0, false);
        Self { stream, path, range, from, mapped, budget, delivered, closing, asked }
    }

    /// What its writer may be asked for.
    pub(in crate::scheduler) fn open(&self) -> Range<u64> {
        self.from..self.range.end
    }

    /// Its writer may be asked for so many bytes more.
    pub(in crate::scheduler) fn affords(&self, bytes: u64) -> bool {
        !self.closing && self.budget >= bytes
    }
}

/// A piece under way, but for its place in the stream, which its receiving half knows.
#[derive(Debug)]
pub(in crate::scheduler) struct Activation {
    pub(in crate::scheduler) stream: StreamId,
    pub(in crate::scheduler) lease: LeaseId,
    pub(super) start: u64,
    /// What may come twice of it, since it was cancelled.
    pub(super) charge: Option<Charge>,
    /// Its writer stopped it unbidden.
    pub(super) returned: bool,
    /// When all of it should have come.
    pub(in crate::scheduler) due: Instant,
}

/// A part of a lease that is free no more: a path is to be asked for it.
#[must_use = "nobody else is asked for it"]
#[derive(Debug)]
pub(in crate::scheduler) struct Taken {
    pub(in crate::scheduler) stream: StreamId,
    pub(in crate::scheduler) lease: LeaseId,
    pub(in crate::scheduler) range: Range<u64>,
}

/// A piece that is over.
#[derive(Debug)]
pub(in crate::scheduler) struct Finished {
    pub(in crate::scheduler) path: PathId,
    pub(in crate::scheduler) stream: StreamId,
    pub(in crate::scheduler) lease: LeaseId,
    /// What of it came.
    pub(in crate::scheduler) range: Range<u64>,
    /// All that was asked for came, and nobody cancelled it.
    pub(in crate::scheduler) whole: bool,
}

/// A piece that its writer stopped.
#[derive(Debug)]
pub(in crate::scheduler) struct Stopped {
    pub(in crate::scheduler) stream: StreamId,
    pub(in crate::scheduler) lease: LeaseId,
    /// Bytes of it that will not come.
    pub(in crate::scheduler) left: u64,
    /// Nobody had cancelled it.
    pub(in crate::scheduler) live: bool,
    /// What was sent of it has come: it is over.
    pub(in crate::scheduler) finished: Option<Finished>,
}

/// A lease that is over.
#[derive(Debug)]
pub(in crate::scheduler) struct EndedLease {
    pub(in crate::scheduler) lease: ClientLease,
    /// What of its range has not come.
    pub(in crate::scheduler) missing: Vec<Range<u64>>,
    /// Bytes that its live pieces owed.
    pub(in crate::scheduler) freed: u64,
}
