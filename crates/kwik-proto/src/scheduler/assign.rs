//! Which path is asked for what.

use std::ops::Range;
use std::time::Instant;

use crate::stream::StreamTable;
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage};
use crate::{LeaseId, PathId, PieceId, StreamId, limits};

use super::{Activation, Path, Scheduler, SchedulerEvent};

impl Path {
    /// It answers, and is to stay.
    pub(super) fn is_healthy(&self) -> bool {
        !self.draining && !self.suspect && !self.dead && self.schedule.rest_until().is_none()
    }

    /// It may be asked for more, as far as it is concerned.
    pub(super) fn has_room(&self) -> bool {
        let few = self.pieces.len() < limits::MAX_PIECES;
        few && self.is_healthy() && self.schedule.room() > 0
    }
}

impl Scheduler {
    /// Gives every path with room the lowest missing range that it may bring, the path that will have
    /// it first before the others.
    ///
    /// It runs for each batch of bytes: a path that had nothing to do is not looked at again before
    /// something changes ([`Scheduler::stir`]).
    pub(super) fn schedule(&mut self, streams: &mut StreamTable, now: Instant) {
        if self.fills.is_empty() {
            return;
        }
        if std::mem::take(&mut self.moves_due) {
            self.reassign_suspects(streams, now);
        }
        self.relieve(streams, now);
        self.activate_all(streams, now);
        while self.rescue(now) || self.steal(now) {
            self.activate_all(streams, now);
        }
    }

    fn activate_all(&mut self, streams: &mut StreamTable, now: Instant) {
        loop {
            let ready = self.paths.iter().filter(|(_, path)| !path.idle && path.has_room());
            let first = ready.min_by_key(|(_, path)| path.schedule.backlog(0));
            let Some(id) = first.map(|(id, _)| *id) else { break };
            if !self.activate_next(id, streams, now)
                && let Some(path) = self.paths.get_mut(&id)
            {
                path.idle = true;
            }
        }
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
            let len = path.schedule.piece_len().min(lease.budget);
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
        let due = now + path.schedule.backlog(len);
        path.schedule.on_activated(len, now);
        lock(&fill.recv).add_piece(id, piece, lease_id, range.clone());
        let activate = ControlMessage::Activate(control::Activate {
            lease_id,
            piece_id: piece,
            range: range.clone(),
        });
        path.pieces
            .insert(piece, Activation { stream, lease: lease_id, range, stolen: false, due });
        self.events.push(SchedulerEvent::Send(id, activate));
    }
}
