//! The client's scheduler: which path brings which piece (design §1 rule 3, §6).
//!
//! It keeps the leases that the primary gave, activates the lowest missing range on the path that will
//! have it first, takes pieces back from paths that fall silent, and reports how each lease ended.
//!
//! `taken` of a stream is what has arrived or is on its way under a live piece; what a lease covers and
//! `taken` does not is free to be activated. A piece that ends early gives back what it owed.

mod fill;
mod patience;
mod rate;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::stream::{Halves, StreamTable};
use crate::sync::lock;
use crate::wire::control::ControlMessage;
use crate::wire::pb::control as pb;
use crate::{Code, CodedError, LeaseId, PathId, PieceId, StreamId, limits};

use fill::Fill;
pub use rate::PathSchedule;

/// A lease as its client sees it.
#[derive(Debug)]
struct ClientLease {
    stream: StreamId,
    path: PathId,
    range: Range<u64>,
    /// What to relay with the first activation.
    unsent: Option<pb::Lease>,
    /// What its writer may still be asked for.
    budget: u64,
    delivered: u64,
    /// Its writer gave it up: over once its pieces are.
    closing: bool,
}

/// An activation under way.
#[derive(Debug)]
struct Activation {
    stream: StreamId,
    lease: LeaseId,
    start: u64,
}

#[derive(Debug)]
struct Path {
    schedule: PathSchedule,
    pieces: BTreeMap<PieceId, Activation>,
    next_piece: u64,
    suspect: bool,
    /// It takes no new pieces.
    draining: bool,
    /// The stream it served last: the next one is next.
    last_stream: StreamId,
}

/// Something that the session must act on.
#[derive(Debug, PartialEq)]
pub enum SchedulerEvent {
    /// Send this on a path's control stream.
    Send(PathId, ControlMessage),
    /// A path fell silent with something outstanding.
    Suspect(PathId),
    /// A suspect spoke again.
    Recovered(PathId),
    /// A path was silent for so long that it is given up.
    Dead(PathId),
    /// A draining path has nothing left to do.
    Drained(PathId),
    /// A stream failed: wake its reader.
    Failed(StreamId),
}

/// All leases, pieces and paths of one client session.
#[derive(Debug, Default)]
pub struct Scheduler {
    leases: BTreeMap<LeaseId, ClientLease>,
    fills: BTreeMap<StreamId, Fill>,
    paths: BTreeMap<PathId, Path>,
    events: Vec<SchedulerEvent>,
}

impl Scheduler {
    /// A path became active.
    pub fn add_path(&mut self, id: PathId, now: Instant) {
        self.paths.insert(
            id,
            Path {
                schedule: PathSchedule::new(now),
                pieces: BTreeMap::new(),
                next_piece: 0,
                suspect: false,
                draining: false,
                last_stream: StreamId::from_u64(0),
            },
        );
    }

    /// A path is gone: its pieces go elsewhere, its leases are lost.
    pub fn remove_path(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        let Some(path) = self.paths.remove(&id) else { return };
        for (piece, activation) in path.pieces {
            self.settle_cut_piece(id, piece, &activation);
        }
        for fill in self.fills.values_mut() {
            lock(&fill.recv).drop_path(id);
        }
        let lost: Vec<_> =
            self.leases.iter().filter(|(_, l)| l.path == id).map(|(id, _)| *id).collect();
        for lease in lost {
            self.end_lease(lease, pb::LeaseOutcome::LeaseLost, now);
        }
        self.schedule(streams, now);
    }

    /// Gives back what a piece of a vanished path still owed.
    fn settle_cut_piece(&mut self, path: PathId, piece: PieceId, activation: &Activation) {
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return };
        let Some(cut) = lock(&fill.recv).piece(path, piece).cloned() else { return };
        if let Some(lease) = self.leases.get_mut(&activation.lease) {
            lease.delivered += cut.cursor - activation.start;
        }
        if !cut.cancelled {
            fill.release(cut.cursor..cut.end);
        }
    }

    /// Lets a path finish what it was asked for, then reports [`SchedulerEvent::Drained`].
    pub fn drain_path(&mut self, id: PathId) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.draining = true;
            if path.pieces.is_empty() {
                self.events.push(SchedulerEvent::Drained(id));
            }
        }
    }

    /// Takes a lease of the primary. `halves` is its stream, none when that is over.
    ///
    /// # Errors
    /// The primary broke the protocol.
    pub fn handle_lease(
        &mut self,
        lease: pb::Lease,
        halves: Option<Halves>,
        streams: &mut StreamTable,
        now: Instant,
    ) -> Result<(), CodedError> {
        let (id, range) = (LeaseId(lease.lease_id), lease.start..lease.end);
        let stream = StreamId::from_u64(lease.stream_id);
        if self.leases.contains_key(&id) {
            let context = format!("lease {id} came twice");
            return Err(CodedError::new(Code::StreamMappingConflict, context));
        }
        if range.is_empty() || range.end > limits::MAX_OFFSET {
            let context = format!("lease {id} of {range:?} is no range of a stream");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        if self.leases.len() >= limits::MAX_LEASES {
            return Err(CodedError::new(Code::LimitExceeded, "too many leases"));
        }
        let Some(recv) = halves.and_then(|halves| halves.recv) else {
            // The stream is over, and the lease came late: nothing of it is missing.
            self.report(id, pb::LeaseOutcome::LeaseDone, Vec::new(), 0);
            return Ok(());
        };
        if lock(&recv).final_size().is_some_and(|size| range.end > size) {
            let context = format!("lease {id} of {range:?} lies beyond the end of {stream}");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        if lock(&recv).is_complete() || lock(&recv).missing(range.clone()).next().is_none() {
            self.report(id, pb::LeaseOutcome::LeaseDone, Vec::new(), 0);
            return Ok(());
        }
        lock(&recv).add_lease(range.clone());
        let fill = self.fills.entry(stream).or_insert_with(|| Fill::new(recv));
        let path = PathId(lease.path_id);
        let usable = self.paths.get(&path).is_some_and(|path| !path.draining);
        let budget = lease.max_bytes.min(limits::lease_budget(range.end - range.start));
        let unsent = (!path.is_primary()).then_some(lease);
        fill.leases.insert(id);
        self.leases.insert(
            id,
            ClientLease { stream, path, range, unsent, budget, delivered: 0, closing: false },
        );
        if usable {
            self.cover(stream, now);
            self.schedule(streams, now);
        } else {
            self.end_lease(id, pb::LeaseOutcome::LeaseLost, now);
        }
        Ok(())
    }

    /// The primary takes a lease back.
    pub fn handle_revoke(&mut self, id: LeaseId, streams: &mut StreamTable, now: Instant) {
        self.end_lease(id, pb::LeaseOutcome::LeaseStopped, now);
        self.schedule(streams, now);
    }

    /// A writer stopped a piece, or gave a lease up.
    ///
    /// # Errors
    /// The writer broke the protocol: its path is to be closed.
    pub fn handle_stopped(
        &mut self,
        path: PathId,
        m: &pb::Stopped,
        streams: &mut StreamTable,
        now: Instant,
    ) -> Result<(), CodedError> {
        self.on_alive(path, now);
        if m.abandoned {
            let id = LeaseId(m.lease_id);
            if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.path == path) {
                lease.closing = true;
                self.end_if_closed(id, now);
            }
        } else {
            self.stop_piece(path, PieceId(m.piece_id), m.sent_until, now)?;
        }
        self.schedule(streams, now);
        Ok(())
    }

    fn stop_piece(
        &mut self,
        path: PathId,
        piece: PieceId,
        sent_until: u64,
        now: Instant,
    ) -> Result<(), CodedError> {
        let Some(owner) = self.paths.get_mut(&path) else { return Ok(()) };
        let Some(activation) = owner.pieces.get(&piece) else { return Ok(()) };
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return Ok(()) };
        let (before, over) = {
            let mut recv = lock(&fill.recv);
            let Some(before) = recv.piece(path, piece).cloned() else { return Ok(()) };
            (before, recv.stop_piece(path, piece, sent_until)?)
        };
        if let Some(lease) = self.leases.get_mut(&activation.lease) {
            lease.budget += before.end - sent_until;
        }
        if !before.cancelled {
            owner.schedule.on_released(before.end - sent_until);
            fill.release(sent_until..before.end);
        }
        if over {
            let stream = activation.stream;
            self.on_piece_ended(path, piece, sent_until, now);
            self.end_done_leases(stream, now);
        }
        Ok(())
    }

    /// Bytes of a stream came over a path: `bytes` in all, `asked` of them outstanding until now.
    pub fn on_received(
        &mut self,
        path: PathId,
        stream: StreamId,
        (bytes, asked): (u64, u64),
        streams: &mut StreamTable,
        now: Instant,
    ) {
        self.on_alive(path, now);
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.on_received(bytes, asked, now);
        }
        if let Some(fill) = self.fills.get(&stream) {
            let ended = lock(&fill.recv).take_ended();
            for end in ended {
                self.on_piece_ended(end.path, end.piece, end.at, now);
            }
            // Only now: another path's lease may be done with this batch, and its pieces count first.
            self.end_done_leases(stream, now);
        }
        self.schedule(streams, now);
    }

    fn on_piece_ended(&mut self, path: PathId, piece: PieceId, at: u64, now: Instant) {
        let Some(owner) = self.paths.get_mut(&path) else { return };
        let Some(activation) = owner.pieces.remove(&piece) else { return };
        if owner.draining && owner.pieces.is_empty() {
            self.events.push(SchedulerEvent::Drained(path));
        }
        if let Some(lease) = self.leases.get_mut(&activation.lease) {
            lease.delivered += at - activation.start;
            self.end_if_closed(activation.lease, now);
        }
    }

    /// Ends the leases of a stream that have nothing left to bring.
    fn end_done_leases(&mut self, stream: StreamId, now: Instant) {
        let Some(fill) = self.fills.get(&stream) else { return };
        let done: Vec<_> = {
            let recv = lock(&fill.recv);
            let is_done = |id: &&LeaseId| {
                let lease = self.leases.get(id);
                lease.is_some_and(|lease| recv.missing(lease.range.clone()).next().is_none())
            };
            fill.leases.iter().filter(is_done).copied().collect()
        };
        for id in done {
            self.end_lease(id, pb::LeaseOutcome::LeaseDone, now);
        }
    }

    fn end_if_closed(&mut self, id: LeaseId, now: Instant) {
        let over = |lease: &&ClientLease| lease.closing || lease.budget == 0;
        let Some(lease) = self.leases.get(&id).filter(over) else { return };
        let owner = self.paths.get(&lease.path);
        if !owner.is_some_and(|path| path.pieces.values().any(|piece| piece.lease == id)) {
            self.end_lease(id, pb::LeaseOutcome::LeaseLost, now);
        }
    }

    /// Any sign of life from a path.
    pub fn on_alive(&mut self, path: PathId, now: Instant) {
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.on_alive(now);
            if std::mem::take(&mut owner.suspect) {
                self.events.push(SchedulerEvent::Recovered(path));
            }
        }
    }

    /// A path's smoothed round-trip time.
    pub fn on_rtt(&mut self, path: PathId, rtt: Duration) {
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.on_rtt(rtt);
        }
    }

    /// Nobody reads the stream any more, or it was reset: its leases end.
    pub fn on_stream_ended(&mut self, stream: StreamId, streams: &mut StreamTable, now: Instant) {
        let Some(fill) = self.fills.get(&stream) else { return };
        for id in fill.leases.iter().copied().collect::<Vec<_>>() {
            self.end_lease(id, pb::LeaseOutcome::LeaseStopped, now);
        }
        self.forget_if_idle(stream, streams);
    }

    /// Ends a lease: its pieces are cancelled, the primary and the writer are told.
    fn end_lease(&mut self, id: LeaseId, outcome: pb::LeaseOutcome, now: Instant) {
        let Some(mut lease) = self.leases.remove(&id) else { return };
        if let Some(owner) = self.paths.get_mut(&lease.path) {
            for (piece, activation) in owner.pieces.iter().filter(|(_, a)| a.lease == id) {
                if let Some(fill) = self.fills.get_mut(&activation.stream) {
                    let came = lock(&fill.recv).progress(lease.path, *piece);
                    lease.delivered += came.map_or(0, |cursor| cursor - activation.start);
                    fill.cancel(lease.path, *piece, &mut owner.schedule);
                }
            }
            if lease.unsent.is_none() && !lease.path.is_primary() {
                let revoke = ControlMessage::Revoke(pb::Revoke { lease_id: id.0 });
                self.events.push(SchedulerEvent::Send(lease.path, revoke));
            }
        }
        let mut missing = Vec::new();
        if let Some(fill) = self.fills.get_mut(&lease.stream) {
            fill.leases.remove(&id);
            if outcome == pb::LeaseOutcome::LeaseLost {
                missing = lock(&fill.recv).missing(lease.range).collect();
            }
        }
        self.report(id, outcome, missing, lease.delivered);
        self.cover(lease.stream, now);
    }

    fn report(
        &mut self,
        id: LeaseId,
        outcome: pb::LeaseOutcome,
        missing: Vec<Range<u64>>,
        delivered: u64,
    ) {
        let report = ControlMessage::LeaseReport(pb::LeaseReport {
            lease_id: id.0,
            outcome: outcome.into(),
            ranges: to_wire(missing),
            delivered,
        });
        self.events.push(SchedulerEvent::Send(PathId::PRIMARY, report));
    }

    /// Looks whether every missing byte that leases promised is still under a live lease; if not, tells
    /// the primary, and fails the reader when no lease comes in time.
    fn cover(&mut self, stream: StreamId, now: Instant) {
        let Some(fill) = self.fills.get_mut(&stream) else { return };
        let live = fill.leases.iter().filter_map(|id| self.leases.get(id));
        let uncovered = fill.uncovered(live.map(|lease| lease.range.clone()));
        if uncovered.is_empty() {
            fill.uncovered_since = None;
        } else if fill.uncovered_since.is_none() {
            fill.uncovered_since = Some(now);
            let message = pb::Uncovered { stream_id: stream.as_u64(), ranges: to_wire(uncovered) };
            let message = ControlMessage::Uncovered(message);
            self.events.push(SchedulerEvent::Send(PathId::PRIMARY, message));
        }
    }

    fn forget_if_idle(&mut self, stream: StreamId, streams: &mut StreamTable) {
        let idle = self.fills.get(&stream).is_some_and(|fill| {
            let recv = lock(&fill.recv);
            fill.leases.is_empty() && recv.is_quiet() && recv.is_complete()
        });
        if idle {
            self.fills.remove(&stream);
            streams.retire(stream);
        }
    }

    /// Gives every path with room the lowest missing range that it may bring, the path that will have
    /// it first before the others.
    pub fn schedule(&mut self, streams: &mut StreamTable, now: Instant) {
        self.reassign_suspects();
        let mut idle = Vec::new();
        loop {
            let candidates = self.paths.iter().filter(|(id, path)| {
                let full = path.pieces.len() >= limits::MAX_PIECES;
                let busy = path.draining || path.suspect || full || path.schedule.room() == 0;
                !busy && !idle.contains(*id)
            });
            let first = candidates.min_by_key(|(_, path)| path.schedule.backlog());
            let Some(id) = first.map(|(id, _)| *id) else { break };
            if !self.activate_next(id, streams, now) {
                idle.push(id);
            }
        }
        for stream in self.fills.keys().copied().collect::<Vec<_>>() {
            self.forget_if_idle(stream, streams);
        }
    }

    /// What the session must act on since the last call.
    pub fn take_events(&mut self) -> Vec<SchedulerEvent> {
        std::mem::take(&mut self.events)
    }

    /// A path's figures, as far as the scheduler knows them.
    #[must_use]
    pub fn path(&self, id: PathId) -> Option<&PathSchedule> {
        self.paths.get(&id).map(|path| &path.schedule)
    }

    /// Something is asked of the path.
    #[must_use]
    pub fn is_busy(&self, id: PathId) -> bool {
        self.paths.get(&id).is_some_and(|path| !path.pieces.is_empty())
    }

    /// Activates one piece on a path. False when it has nothing to bring.
    fn activate_next(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) -> bool {
        let Some(path) = self.paths.get_mut(&id) else { return false };
        let next = StreamId::from_u64(path.last_stream.as_u64() + 1);
        let (before, after): (Vec<_>, Vec<_>) =
            self.fills.keys().copied().partition(|stream| *stream < next);
        for stream in after.into_iter().chain(before) {
            let Some(fill) = self.fills.get_mut(&stream) else { continue };
            let len = path.schedule.piece_len();
            let leases = fill.leases.clone();
            let mut own: Vec<_> = leases
                .iter()
                .filter_map(|lease| Some((*lease, self.leases.get(lease)?)))
                .filter(|(_, lease)| lease.path == id && !lease.closing && lease.budget > 0)
                .map(|(lease, l)| (l.range.start, lease))
                .collect();
            own.sort_unstable();
            for (_, lease_id) in own {
                let Some(lease) = self.leases.get_mut(&lease_id) else { continue };
                let len = len.min(lease.budget);
                let Some(range) = fill.take_next(&lease.range, len, streams, stream) else {
                    continue;
                };
                lease.budget -= range.end - range.start;
                let piece = PieceId(path.next_piece);
                path.next_piece += 1;
                path.last_stream = stream;
                path.schedule.on_activated(range.end - range.start, now);
                lock(&fill.recv).add_piece(id, piece, lease_id, range.clone());
                let activation = Activation { stream, lease: lease_id, start: range.start };
                path.pieces.insert(piece, activation);
                if let Some(unsent) = lease.unsent.take() {
                    let relay = ControlMessage::Lease(unsent);
                    self.events.push(SchedulerEvent::Send(id, relay));
                }
                let activate = ControlMessage::Activate(pb::Activate {
                    lease_id: lease_id.0,
                    piece_id: piece.0,
                    start: range.start,
                    end: range.end,
                });
                self.events.push(SchedulerEvent::Send(id, activate));
                return true;
            }
        }
        false
    }
}

fn to_wire(ranges: Vec<Range<u64>>) -> Vec<pb::ByteRange> {
    let ranges = ranges.into_iter().take(limits::MAX_GAPS);
    ranges.map(|range| pb::ByteRange { start: range.start, end: range.end }).collect()
}
