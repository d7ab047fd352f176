//! Leases whose writer is a secondary stream (7.2): it goes on from one offset and never back
//! by itself.

use std::time::Instant;

use crate::sync::lock;
use crate::wire::control::{self, ControlMessage};
use crate::{LeaseId, PathId, PieceId, StreamId};

use super::{Scheduler, SchedulerEvent};

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
        let own = |lease: &super::ClientLease| lease.path == path && lease.stream == stream;
        let live = self.leases.get(&id).filter(|lease| own(lease));
        if !live.is_some_and(|lease| lease.range.contains(&offset)) {
            return false;
        }
        // Its writer was done before word of where it wrote was here: what was asked for comes.
        if live.is_some_and(|lease| lease.closing) {
            return offset == live.map_or(0, |lease| lease.from);
        }
        let Some(lease) = self.leases.get_mut(&id) else { return false };
        let moved = std::mem::replace(&mut lease.mapped, true) || offset != lease.range.start;
        // What was asked for before does not go on from there in order: the writer would pass over
        // the rest.
        if moved {
            for piece in self.pieces_before(path, id, u64::MAX) {
                self.take_back(path, piece);
            }
        }
        self.set_floor(id, offset, now);
        self.stir();
        true
    }

    /// The writer of a mapped lease came to `offset`, and may have passed over what others bring.
    pub fn on_mapped(&mut self, id: LeaseId, offset: u64, now: Instant) {
        if self.leases.get(&id).is_some_and(|lease| lease.from < offset) {
            self.set_floor(id, offset, now);
            self.dirty = true;
        }
    }

    fn set_floor(&mut self, id: LeaseId, offset: u64, now: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(fill) = self.fills.get(&lease.stream) else { return };
        let before = std::mem::replace(&mut lease.from, offset.min(lease.range.end));
        let (path, stream, from) = (lease.path, lease.stream, lease.from);
        let passed = lock(&fill.recv).missing(before.min(from)..before.max(from)).next().is_some();
        let over = lease.open().is_empty();
        for piece in self.pieces_before(path, id, from) {
            self.take_back(path, piece);
        }
        if passed || over {
            self.end_done_leases(stream, None, now);
            self.cover(stream, now);
            self.moves_due = true;
            self.stir();
        }
    }

    /// Live pieces of a lease that wait for something before `from`.
    fn pieces_before(&self, path: PathId, id: LeaseId, from: u64) -> Vec<PieceId> {
        let Some(owner) = self.paths.get(&path) else { return Vec::new() };
        let own = owner.pieces.iter().filter(|(_, activation)| activation.lease == id);
        let before = own.filter(|(piece, activation)| {
            let fill = self.fills.get(&activation.stream);
            let waits = |recv: &crate::stream::RecvHalf| {
                recv.piece(path, **piece).is_some_and(|p| !p.cancelled && p.cursor < from)
            };
            fill.is_some_and(|fill| waits(&lock(&fill.recv)))
        });
        before.map(|(piece, _)| *piece).collect()
    }

    /// Cancels a piece, so that what it owes is free for others.
    fn take_back(&mut self, path: PathId, piece: PieceId) {
        let Some(owner) = self.paths.get_mut(&path) else { return };
        let Some(activation) = owner.pieces.get(&piece) else { return };
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return };
        if fill.cancel(path, piece, &mut owner.schedule.model) {
            let (lease_id, piece_id) = (activation.lease, piece);
            let cancel = ControlMessage::Cancel(control::Cancel { lease_id, piece_id });
            self.events.push(SchedulerEvent::Send(path, cancel));
        }
        self.stir();
    }
}
