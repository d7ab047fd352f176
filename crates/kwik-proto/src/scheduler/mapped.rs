//! Leases whose writer is a secondary stream (7.2): it goes on from one offset and never back
//! by itself.

use std::time::Instant;

use crate::path::PathState;
use crate::stream::SharedRecv;
use crate::sync::lock;
use crate::wire::control::LeaseOutcome;
use crate::{LeaseId, PathId, StreamId, limits};

use super::Scheduler;
use super::charges::Cause;
use super::ledger::{Changed, ClientLease};

impl Scheduler {
    /// From now on the writer of a lease goes on from `offset`: nothing before it is asked of
    /// this lease. False when no such lease of that path and stream is live, or it does not cover
    /// the offset.
    pub fn map_lease(
        &mut self,
        (path, stream, id): (PathId, StreamId, LeaseId),
        offset: u64,
        now: Instant,
    ) -> bool {
        let lease = self.ledger.lease(id).filter(|lease| {
            (lease.path, lease.stream) == (path, stream) && lease.range.contains(&offset)
        });
        let Some(lease) = lease else { return false };
        // Its writer was done before word of where it wrote was here: what was asked for comes.
        if lease.closing {
            return offset == lease.from;
        }
        let start = lease.range.start;
        let (again, changed) = self.ledger.set_mapped(id);
        self.note(changed);
        // What was asked for before does not go on from there in order: the writer would pass over
        // the rest.
        if again || offset != start {
            self.take_back_before(path, id, u64::MAX, now);
        }
        self.set_floor(id, offset, now);
        true
    }

    /// The secondary at the end of a path writes into a stream from `offset` on, without a lease;
    /// or moves there. False when it may not: the stream is over, or there are too many.
    pub fn map_unleased(
        &mut self,
        key: (PathId, StreamId, LeaseId),
        offset: u64,
        recv: SharedRecv,
        now: Instant,
    ) -> bool {
        let (path, stream, id) = key;
        if self.ledger.lease(id).is_some() {
            return self.map_lease(key, offset, now);
        }
        let usable = self.state(path).is_some_and(PathState::takes_leases);
        let over = lock(&recv).is_complete() || offset >= limits::MAX_OFFSET;
        if !usable || over || self.ledger.leases() >= limits::MAX_LEASES {
            return false;
        }
        let mut lease = ClientLease::new(stream, path, offset..limits::MAX_OFFSET, u64::MAX);
        lease.mapped = true;
        if !self.ledger.is_leased(path)
            && let Some(owner) = self.paths.get_mut(&path)
        {
            owner.schedule.live.on_leased(now);
        }
        let added = self.ledger.add_unleased(id, lease, recv);
        self.note(added);
        true
    }

    /// What is written without a lease into a stream that is whole ends with it.
    pub(super) fn end_unleased(&mut self, stream: StreamId, now: Instant) {
        if self.ledger.has_unleased(stream) {
            self.end_done_leases(stream, None, now);
        }
    }

    /// The secondary stream of a lease is given up: others bring what it owes.
    pub fn lose_mapped(&mut self, id: LeaseId, now: Instant) {
        self.end_lease(id, LeaseOutcome::Lost, now);
    }

    /// The lowest lease of a path that covers a place.
    #[must_use]
    pub fn lease_at(&self, path: PathId, stream: StreamId, offset: u64) -> Option<LeaseId> {
        self.ledger.lease_at(path, stream, offset)
    }

    /// Whether the writer of a lease was asked for something that has not come.
    #[must_use]
    pub fn owes(&self, path: PathId, id: LeaseId) -> bool {
        self.ledger.owes(path, id)
    }

    /// Where a path goes on in a stream (7.4): the lowest offset that it owes, or that is missing,
    /// that it may bring, and that no other was asked for.
    pub fn next_expected(&mut self, path: PathId, stream: StreamId) -> Option<u64> {
        self.ledger.next_of(path, stream)
    }

    /// The writer of a mapped lease came to `offset`, and may have passed over what others bring.
    pub fn on_mapped(&mut self, id: LeaseId, offset: u64, now: Instant) {
        if self.ledger.lease(id).is_some_and(|lease| lease.from < offset) {
            self.set_floor(id, offset, now);
            self.note(Changed::Room);
        }
    }

    fn set_floor(&mut self, id: LeaseId, offset: u64, now: Instant) {
        let (passed, changed) = self.ledger.set_floor(id, offset);
        self.note(changed);
        let Some(lease) = self.ledger.lease(id) else { return };
        let (path, stream, from) = (lease.path, lease.stream, lease.from);
        self.take_back_before(path, id, from, now);
        if passed {
            self.end_done_leases(stream, None, now);
            self.cover(stream, now);
        }
    }

    /// Takes back the live pieces of a lease that wait for something before `from`.
    fn take_back_before(&mut self, path: PathId, id: LeaseId, from: u64, now: Instant) {
        let owed = self.ledger.owed_by(path);
        let before = owed.filter(|(_, piece, rest)| piece.lease == id && rest.start < from);
        for piece in before.map(|(piece, ..)| piece).collect::<Vec<_>>() {
            self.take_back(path, piece, Cause::Ended, now);
        }
    }
}
