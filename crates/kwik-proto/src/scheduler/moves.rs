//! Which pieces change their path: what its owner will have later than another path would, and
//! later than what lies before it, so that the reader or the end of all waits for it. By how much
//! later grows with what the models do not know, and one budget bounds what may come twice by it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::stats::Decision;
use crate::sync::lock;
use crate::{LeaseId, PathId, PieceId, StreamId, limits};

use super::Scheduler;
use super::charges::Cause;
use super::tuning::{DOUBLED_TIME, LOOK_AT_LEAST, LOOK_AT_MOST, MAX_AWAITED, REPAIR};

/// What a path still owes of a live piece.
struct Owed {
    owner: PathId,
    piece: PieceId,
    range: Range<u64>,
    /// Bytes that its owner sends first.
    ahead: u64,
    /// When all of it will have come.
    arrival: Instant,
    /// It is later than was promised when it was asked for.
    late: bool,
    /// Nothing of it comes, though it is due, or nothing at all.
    stuck: bool,
    /// ... and it is due for longer than lost packets explain: as if its path were
    /// silent.
    silent: bool,
}

/// Who takes a piece over, and when it will have it.
struct Taker {
    path: PathId,
    lease: LeaseId,
    arrival: Instant,
    idle: bool,
}

impl Scheduler {
    /// When pieces are to be looked at next.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at.filter(|_| self.pieces() > 0)
    }

    /// Moves the pieces that others would have so much sooner. True when something moved.
    pub(super) fn rebalance(&mut self, now: Instant) -> bool {
        if self.look_at.is_some_and(|at| now < at) {
            return false;
        }
        let mut moved = false;
        for (stream, mut owed) in self.owed(now) {
            owed.sort_by_key(|owed| owed.range.start);
            // What lies before has come by then: only what comes after it holds anybody up.
            let mut reached = now;
            for owed in owed {
                let arrival =
                    if owed.arrival > reached && self.try_move(stream, &owed, reached, now) {
                        moved = true;
                        reached
                    } else {
                        owed.arrival
                    };
                reached = reached.max(arrival);
            }
        }
        self.look_at = Some(now + if moved { LOOK_AT_MOST } else { LOOK_AT_LEAST });
        moved
    }

    /// What all paths owe, by stream.
    fn owed(&self, now: Instant) -> BTreeMap<StreamId, Vec<Owed>> {
        let mut all: BTreeMap<StreamId, Vec<Owed>> = BTreeMap::new();
        for (owner, path) in &self.paths {
            let (model, mut ahead) = (&path.schedule.model, 0);
            let tolerance = path.schedule.tolerance();
            let margin = model.uncertainty();
            for (piece, activation, range) in self.ledger.owed_by(*owner) {
                let Some(fill) = self.ledger.fill(activation.stream) else { continue };
                let before = ahead;
                ahead += range.end - range.start;
                // What others brought meanwhile holds up nobody.
                if lock(&fill.recv).missing(range.clone()).next().is_none() {
                    continue;
                }
                // A server may be stuck with one stream, or a lost packet of it is being repeated.
                let brought = fill.brought.get(owner).copied().unwrap_or(activation.due);
                let since = activation.due.max(brought);
                let stuck = now >= since + tolerance + REPAIR;
                let lost = now >= since + model.loss_explains(MAX_AWAITED, now);
                let takes = model.delivery(ahead, now);
                let silent = stuck && lost;
                let stuck = stuck || path.state.is_suspect();
                let arrival = now + if stuck { limits::DEAD_AFTER } else { takes };
                let late = arrival > activation.due + margin;
                let owed = Owed {
                    owner: *owner,
                    piece,
                    range,
                    ahead: before,
                    arrival,
                    late,
                    stuck,
                    silent,
                };
                all.entry(activation.stream).or_default().push(owed);
            }
        }
        all
    }

    fn try_move(&mut self, stream: StreamId, owed: &Owed, reached: Instant, now: Instant) -> bool {
        let Some(taker) = self.taker(stream, owed, now) else { return false };
        let Some(owner) = self.paths.get(&owed.owner) else { return false };
        let Some(path) = self.paths.get(&taker.path) else { return false };
        // That both are off by most, and in opposite directions, is rare.
        let margin = owner.schedule.model.uncertainty().max(path.schedule.model.uncertainty());
        // A rate may be off by an eighth.
        let margin = margin + owed.arrival.saturating_duration_since(now) / 8;
        // Who has other things to bring takes over what a reader would wait for, for long.
        let margin = if taker.idle { margin } else { margin + limits::SUSPECT_AFTER };
        if !(owed.late || taker.idle) || owed.arrival <= taker.arrival.max(reached) + margin {
            return false;
        }
        let len = owed.range.end - owed.range.start;
        let twice = owner.schedule.model.committed(owed.ahead, len);
        let budget = self.double_budget();
        let awaited = self.ledger.fill(stream).is_some_and(|fill| fill.awaits(&owed.range));
        let cause = if self.ledger.charges.allow(twice, budget) {
            Cause::Moved(twice)
        } else if owed.silent && awaited {
            // It is spent by moves, or by what silent paths owe: no reader waits for that.
            Cause::Silent
        } else {
            self.decide(owed.owner, stream, Decision::OverBudget);
            return false;
        };
        if matches!(cause, Cause::Silent)
            && let Some(path) = self.paths.get_mut(&owed.owner)
        {
            path.schedule.live.on_suspect(now);
        }
        self.take_over(stream, owed, &taker, cause, now)
    }

    /// The path that would have a piece first, however much it was asked for.
    fn taker(&self, stream: StreamId, owed: &Owed, now: Instant) -> Option<Taker> {
        let len = owed.range.end - owed.range.start;
        let able = self.paths.iter().filter(|(id, path)| {
            let few = self.ledger.pieces(**id) < limits::MAX_PIECES;
            **id != owed.owner && path.is_healthy() && few
        });
        let takers = able.filter_map(|(id, path)| {
            let arrival = now + path.schedule.model.arrival(len, now);
            let lease = self.ledger.lease_for(*id, stream, &owed.range)?;
            let idle = path.schedule.model.has_room();
            let doubt = if owed.stuck { path.schedule.doubt() } else { Duration::ZERO };
            Some((arrival + doubt, Taker { path: *id, lease, arrival, idle }))
        });
        takers.min_by_key(|(at, taker)| (*at, taker.path)).map(|(_, taker)| taker)
    }

    /// Bytes that moved pieces may bring twice.
    pub(super) fn double_budget(&self) -> u64 {
        let rates = self.paths.values().map(|path| path.schedule.model.in_time(DOUBLED_TIME));
        limits::DOUBLED_BYTES + rates.sum::<u64>() + self.delivered / limits::DOUBLED_SHARE
    }

    /// What of that is not spent.
    pub(super) fn spare_budget(&self) -> u64 {
        self.ledger.charges.spare(self.double_budget())
    }

    /// Takes a piece back and asks another path for it.
    fn take_over(
        &mut self,
        stream: StreamId,
        owed: &Owed,
        taker: &Taker,
        cause: Cause,
        now: Instant,
    ) -> bool {
        if !self.take_back(owed.owner, owed.piece, cause, now) {
            return false;
        }
        self.decide(owed.owner, stream, Decision::Moved);
        // Parts of it may have come under an older piece; what lies behind them is free again.
        if let Some(taken) = self.ledger.take(taker.lease, owed.range.clone()) {
            if let Some(path) = self.paths.get_mut(&taker.path) {
                path.decisions.on_moved_in(taken.range.end - taken.range.start);
            }
            self.activate(taker.path, taken, Decision::TookOver, now);
        }
        true
    }

    /// Asks for what the reader of a stream waits for, if nobody was asked for it, on the path that
    /// has it first, be it busy or not.
    pub(super) fn expedite(
        &mut self,
        stream: StreamId,
        streams: &mut crate::stream::StreamTable,
        now: Instant,
    ) {
        let Some(fill) = self.ledger.fill(stream) else { return };
        let Some(at) = fill.awaited_free() else { return };
        let able = self.paths.iter().filter(|(id, path)| {
            path.is_healthy() && self.ledger.pieces(**id) < limits::MAX_PIECES
        });
        let takers = able.filter_map(|(id, path)| {
            self.ledger.lease_for(*id, stream, &(at..at + 1))?;
            let model = &path.schedule.model;
            Some((model.arrival(model.piece_len(), now) + path.schedule.doubt(), *id))
        });
        if let Some((_, path)) = takers.min() {
            self.activate_in(stream, path, Decision::Expedited, streams, now);
        }
    }
}

const _: () = assert!(LOOK_AT_MOST.as_nanos() < LOOK_AT_LEAST.as_nanos());
