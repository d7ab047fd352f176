//! Which path is asked for what.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::stream::StreamTable;
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage};
use crate::{LeaseId, PathId, PieceId, StreamId};

use super::path::Path;
use super::{Activation, Scheduler, SchedulerEvent};

impl Scheduler {
    /// Gives paths with room what they bring soonest, then moves what others would bring sooner.
    ///
    /// It runs once for all that came at once, before what it causes is taken
    /// ([`Scheduler::take_events`]): leases that come together are dealt together. A path that had
    /// nothing to do is not looked at again before something changes.
    pub fn schedule(&mut self, streams: &mut StreamTable, now: Instant) {
        if !std::mem::take(&mut self.dirty) || self.fills.is_empty() {
            return;
        }
        if std::mem::take(&mut self.moves_due) {
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
            let ready = self
                .paths
                .iter()
                .filter(|(id, path)| !path.idle && path.has_room() && !declined.contains(*id));
            let first = ready.min_by_key(|(_, path)| next_arrival(path, now));
            let Some(id) = first.map(|(id, _)| *id) else { break };
            let left = *free.get_or_insert_with(|| self.free_bytes());
            if !self.pays(id, left, now) {
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
            **other != id && !path.idle && path.is_delivering() && self.is_leased(**other)
        }) {
            is_first &= arrival <= piece_arrival(other, free, now);
            brought = brought.saturating_add(other.schedule.model.capacity(arrival, now));
        }
        is_first || brought < free
    }

    fn is_leased(&self, id: PathId) -> bool {
        self.fills.values().any(|fill| fill.leases_of(id).next().is_some())
    }

    /// Bytes under leases that nobody was asked for.
    fn free_bytes(&self) -> u64 {
        self.fills.values().map(super::Fill::free).sum()
    }

    /// Activates one piece on a path. False when it has nothing to bring.
    fn activate_next(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) -> bool {
        let Some(path) = self.paths.get(&id) else { return false };
        let next = StreamId::from_u64(path.last_stream.as_u64() + 1);
        let after = self.fills.range(next..).map(|(stream, _)| *stream);
        let turn: Vec<_> =
            after.chain(self.fills.range(..next).map(|(stream, _)| *stream)).collect();
        turn.into_iter().any(|stream| self.activate_in(stream, id, streams, now))
    }

    /// Activates one piece of a stream on a path. False when it has nothing to bring.
    pub(super) fn activate_in(
        &mut self,
        stream: StreamId,
        id: PathId,
        streams: &mut StreamTable,
        now: Instant,
    ) -> bool {
        let Some(path) = self.paths.get(&id) else { return false };
        let Some(fill) = self.fills.get_mut(&stream) else { return false };
        let mut last = None;
        loop {
            last = fill.next_lease(id, last);
            let Some((_, lease_id)) = last else { return false };
            let Some(lease) = self.leases.get(&lease_id) else { continue };
            if lease.closing || lease.budget == 0 {
                continue;
            }
            if lease.mapped && fill.is_settling(id, lease) {
                continue;
            }
            let len = path.schedule.model.piece_len().min(lease.budget);
            if let Some(range) = fill.take_next(id, &lease.open(), len, streams, stream) {
                self.activate(id, lease_id, range, now);
                return true;
            }
        }
    }

    /// Asks a path for a range that was taken for it, under a lease that covers it.
    pub(super) fn activate(
        &mut self,
        id: PathId,
        lease_id: LeaseId,
        range: Range<u64>,
        now: Instant,
    ) {
        let Some(path) = self.paths.get_mut(&id) else { return };
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let Some(fill) = self.fills.get(&lease.stream) else { return };
        let (stream, len) = (lease.stream, range.end - range.start);
        lease.budget -= len;
        let piece = PieceId(path.next_piece);
        path.next_piece += 1;
        path.last_stream = stream;
        let due = now + path.schedule.model.arrival(len, now);
        path.schedule.on_activated(len, now);
        lock(&fill.recv).add_piece(id, piece, lease_id, range.clone());
        let activate = ControlMessage::Activate(control::Activate {
            lease_id,
            piece_id: piece,
            range: range.clone(),
        });
        path.pieces.insert(
            piece,
            Activation { stream, lease: lease_id, range, charged: 0, returned: false, due },
        );
        self.events.push(SchedulerEvent::Send(id, activate));
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
