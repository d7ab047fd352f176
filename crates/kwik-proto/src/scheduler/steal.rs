//! Stolen pieces: what a slow path owes goes to one that would have it sooner (docs/scheduling.md).

use std::ops::Range;
use std::time::Instant;

use crate::sync::lock;
use crate::wire::control::ControlMessage;
use crate::wire::pb::control as pb;
use crate::{LeaseId, PathId, PieceId, StreamId, limits};

use super::{Path, PathSchedule, Scheduler, SchedulerEvent};

/// A piece that is to change its path.
#[derive(Clone, Copy)]
pub(super) struct Theft {
    pub(super) thief: PathId,
    pub(super) owner: PathId,
    pub(super) piece: PieceId,
    /// The thief's lease of it.
    pub(super) lease: LeaseId,
}

/// What a path still owes of a piece.
struct Owed {
    piece: PieceId,
    stream: StreamId,
    range: Range<u64>,
    /// Some of it has come: it is on its way.
    begun: bool,
}

impl Scheduler {
    /// Moves one piece to a path that has nothing else to bring. False when none is worth it.
    ///
    /// The writer may have sent some of the piece when it hears of it: what may come twice is charged,
    /// and given back as far as it stopped before.
    pub(super) fn steal(&mut self, now: Instant) -> bool {
        self.find_theft().is_some_and(|theft| self.take_over(theft, now))
    }

    /// Takes a piece back and asks another path for it.
    pub(super) fn take_over(&mut self, theft: Theft, now: Instant) -> bool {
        let Theft { thief, owner, piece, lease } = theft;
        let Some(path) = self.paths.get_mut(&owner) else { return false };
        let Some(activation) = path.pieces.get_mut(&piece) else { return false };
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return false };
        let Some(live) = lock(&fill.recv).piece(owner, piece).cloned() else { return false };
        let range = live.cursor..live.end;
        fill.cancel(owner, piece, &mut path.schedule);
        if !path.schedule.is_slow() {
            activation.stolen = true;
            self.doubled += range.end - range.start;
        }
        let (lease_id, piece_id) = (activation.lease.0, piece.0);
        let cancel = ControlMessage::Cancel(pb::Cancel { lease_id, piece_id });
        self.events.push(SchedulerEvent::Send(owner, cancel));
        // Parts of it may have come under an older piece; what lies behind them is free again.
        if let Some(range) = fill.take(range) {
            self.activate(thief, lease, range, now);
        }
        self.stir();
        true
    }

    fn find_theft(&self) -> Option<Theft> {
        let measured = |path: &Path| path.schedule.rate().is_some();
        let thieves = self.paths.iter().filter(|(_, p)| p.idle && p.has_room() && measured(p));
        for (thief, path) in thieves {
            let owners = self.paths.iter().filter(|(id, owner)| *id != thief && measured(owner));
            for (owner, from) in owners {
                let Some(owed) = self.last_live(*owner, from) else { continue };
                if let Some(lease) = self.worth_it((*thief, path), from, &owed) {
                    let piece = owed.piece;
                    return Some(Theft { thief: *thief, owner: *owner, piece, lease });
                }
            }
        }
        None
    }

    /// The last piece of a path that was not taken back.
    fn last_live(&self, id: PathId, path: &Path) -> Option<Owed> {
        path.pieces.iter().rev().find_map(|(piece, activation)| {
            let recv = lock(&self.fills.get(&activation.stream)?.recv);
            let live = recv.piece(id, *piece).filter(|live| !live.cancelled)?;
            Some(Owed {
                piece: *piece,
                stream: activation.stream,
                range: live.cursor..live.end,
                begun: live.cursor > activation.range.start,
            })
        })
    }

    /// The thief's lease of a piece, if the thief has the piece so much sooner that it pays, and the
    /// budget allows that it comes twice.
    fn worth_it(&self, (id, thief): (PathId, &Path), owner: &Path, owed: &Owed) -> Option<LeaseId> {
        let range = &owed.range;
        let len = range.end - range.start;
        let owner = &owner.schedule;
        let takes = thief.schedule.backlog(len) * 3 / 2;
        // What is on its way is nearly here, unless the path is very slow.
        let sooner = match owed.begun {
            true => owner.drain_time() > takes + limits::SUSPECT_AFTER,
            false => owner.backlog(0) > takes,
        };
        let pays = sooner && self.may_double(owner, len);
        pays.then(|| self.lease_for(id, owed.stream, range)).flatten()
    }

    /// Whether so many bytes that a path was asked for may come twice: within the budget, or because it failed.
    pub(super) fn may_double(&self, owner: &PathSchedule, bytes: u64) -> bool {
        let budget = limits::DOUBLED_BYTES + self.delivered / limits::DOUBLED_SHARE;
        owner.is_slow() || self.doubled + bytes <= budget
    }

    /// A path's lease under which it may be asked for a range.
    pub(super) fn lease_for(
        &self,
        id: PathId,
        stream: StreamId,
        range: &Range<u64>,
    ) -> Option<LeaseId> {
        let fill = self.fills.get(&stream)?;
        if lock(&fill.recv).leftover(id, range).is_some() {
            return None;
        }
        fill.leases_of(id).find(|id| {
            self.leases.get(id).is_some_and(|lease| {
                let open = lease.open();
                let covers = open.start <= range.start && range.end <= open.end;
                covers && !lease.closing && lease.budget >= range.end - range.start
            })
        })
    }
}
