//! Which path is asked for what.

use std::time::{Duration, Instant};

use crate::stats::Decision;
use crate::stream::StreamTable;
use crate::wire::control::{self, ControlMessage};
use crate::{PathId, PieceId, StreamId};

use super::charges::Cause;
use super::ledger::{Changed, Taken};
use super::path::Path;
use super::{Scheduler, SchedulerEvent};

impl Scheduler {
    /// Gives paths with room what they bring soonest, then moves what others would bring sooner.
    ///
    /// It runs once for all that came at once, before what it causes is taken
    /// ([`Scheduler::take_events`]): leases that come together are dealt together. A path that had
    /// nothing to do is not looked at again before something changes.
    pub fn schedule(&mut self, streams: &mut StreamTable, now: Instant) {
        let changed = std::mem::take(&mut self.changed);
        if changed == Changed::Nothing || self.ledger.fills().next().is_none() {
            return;
        }
        if changed == Changed::Takers {
            self.release_suspects(streams, now);
        }
        self.set_horizon(streams.window().status().maximum);
        self.deal(streams, now);
        if self.rebalance(now) {
            self.deal(streams, now);
        }
    }

    /// A reader that waits for one path has the others fill the window meanwhile. Half of the time
    /// that this takes is what a path may be busy with.
    fn set_horizon(&mut self, window: u64) {
        let rate: u64 = self.paths.values().filter_map(|path| path.schedule.rate()).sum();
        let horizon = Duration::from_micros(window.saturating_mul(500_000) / rate.max(1));
        for path in self.paths.values_mut() {
            path.schedule.model.set_horizon(horizon);
        }
    }

    /// Gives every path with room the lowest missing range that it may bring, the path that will
    /// have it first before the others; but leaves to others what they will have brought by then.
    fn deal(&mut self, streams: &mut StreamTable, now: Instant) {
        let mut free = None;
        let mut declined = Vec::new();
        loop {
            let ready = self.paths.iter().filter(|(id, path)| {
                !path.idle && path.has_room(self.ledger.pieces(**id)) && !declined.contains(*id)
            });
            let first = ready.min_by_key(|(_, path)| next_arrival(path, now));
            let Some(id) = first.map(|(id, _)| *id) else { break };
            let left = *free.get_or_insert_with(|| self.ledger.free());
            if !self.pays(id, left, now) {
                if let Some(path) = self.paths.get_mut(&id).filter(|_| left > 0) {
                    path.decisions.note_all(Decision::LeftToOthers);
                }
                declined.push(id);
            } else if self.activate_next(id, streams, now) {
                free = None;
            } else if let Some(path) = self.paths.get_mut(&id) {
                path.idle = true;
                // What was left to it is left to others after all.
                declined.clear();
            }
        }
    }

    /// Whether a piece on this path brings the end of all that is free nearer than leaving it to
    /// the others would: by the time it came, they would not have brought all of it.
    fn pays(&self, id: PathId, free: u64, now: Instant) -> bool {
        let Some(path) = self.paths.get(&id) else { return false };
        let arrival = piece_arrival(path, free, now);
        let mut brought = 0_u64;
        let mut is_first = true;
        for (_, other) in self.paths.iter().filter(|(other, path)| {
            let busy = path.is_delivering(self.ledger.pieces(**other), now);
            **other != id && !path.idle && busy && self.ledger.is_leased(**other)
        }) {
            is_first &= arrival <= piece_arrival(other, free, now);
            brought = brought.saturating_add(other.schedule.model.capacity(arrival, now));
        }
        is_first || brought < free
    }

    /// Activates one piece on a path. False when it has nothing to bring.
    fn activate_next(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) -> bool {
        let Some(path) = self.paths.get(&id) else { return false };
        let last = path.last_stream;
        let (before, after): (Vec<_>, Vec<_>) = self.ledger.streams().partition(|s| *s <= last);
        let mut turn = after.into_iter().chain(before);
        turn.any(|stream| self.activate_in(stream, id, Decision::Asked, streams, now))
    }

    /// Activates one piece of a stream on a path. False when it has nothing to bring.
    pub(super) fn activate_in(
        &mut self,
        stream: StreamId,
        id: PathId,
        decision: Decision,
        streams: &mut StreamTable,
        now: Instant,
    ) -> bool {
        let Some(path) = self.paths.get(&id) else { return false };
        let len = path.schedule.model.piece_len();
        let Some(taken) = self.ledger.take_next(stream, id, len, streams) else { return false };
        self.activate(id, taken, decision, now);
        true
    }

    /// Asks a path for what was taken for it, and why.
    pub(super) fn activate(&mut self, id: PathId, taken: Taken, why: Decision, now: Instant) {
        let Some(path) = self.paths.get_mut(&id) else { return };
        let (lease_id, range) = (taken.lease, taken.range.clone());
        let len = range.end - range.start;
        let piece_id = PieceId(path.next_piece);
        path.next_piece += 1;
        path.last_stream = taken.stream;
        path.decisions.note(taken.stream, why);
        let due = now + path.schedule.model.arrival(len, now);
        path.schedule.on_activated(len, now);
        self.ledger.ask(id, piece_id, taken, due);
        let activate = ControlMessage::Activate(control::Activate { lease_id, piece_id, range });
        self.events.push(SchedulerEvent::Send(id, activate));
    }

    /// Takes a live piece back: what it owes is free for others. Its writer may have sent some of
    /// it when it hears of that. False when nothing of the piece is waited for.
    pub(super) fn take_back(
        &mut self,
        path: PathId,
        piece_id: PieceId,
        cause: Cause,
        now: Instant,
    ) -> bool {
        let (cancelled, changed) = self.ledger.cancel(path, piece_id, cause, now);
        self.note(changed);
        let Some((lease_id, freed)) = cancelled else { return false };
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.decisions.on_moved_out(freed);
            owner.schedule.model.on_cancelled(freed);
        }
        let cancel = ControlMessage::Cancel(control::Cancel { lease_id, piece_id });
        self.events.push(SchedulerEvent::Send(path, cancel));
        true
    }
}

/// When a path's next piece would have come.
fn next_arrival(path: &Path, now: Instant) -> Duration {
    piece_arrival(path, u64::MAX, now)
}

/// The same, where no more than `free` bytes are left.
fn piece_arrival(path: &Path, free: u64, now: Instant) -> Duration {
    let model = &path.schedule.model;
    model.arrival(model.piece_len().min(free), now)
}
