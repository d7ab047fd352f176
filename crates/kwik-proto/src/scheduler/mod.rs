//! The client's scheduler: which path brings which piece (docs/scheduling.md).
//!
//! It keeps the leases that the primary gave, activates the lowest missing range on the path
//! that will have it first, takes pieces back from paths that fall silent, and reports how each
//! lease ended.
//!
//! `taken` of a stream is what has arrived or is on its way under a live piece; what a lease covers
//! and `taken` does not is free to be activated. A piece that ends early gives back what it owed.

mod assign;
mod ending;
mod fill;
mod liveness;
mod mapped;
mod model;
mod moves;
mod path;
mod patience;
#[cfg(test)]
mod tests;
mod tuning;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::stream::{Halves, PieceEnd, StreamTable};
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage, LeaseOutcome};
use crate::{Code, CodedError, LeaseId, PathId, PieceId, StreamId, limits};

use fill::Fill;
use path::Path;
pub use path::PathSchedule;

/// A lease as its client sees it.
#[derive(Debug)]
struct ClientLease {
    stream: StreamId,
    path: PathId,
    range: Range<u64>,
    /// Its writer brings nothing before this offset ([`Scheduler::map_lease`]).
    from: u64,
    /// Its writer is a secondary stream: what it is not asked for in order it passes over.
    mapped: bool,
    /// What its writer may still be asked for.
    budget: u64,
    delivered: u64,
    /// Its writer gave it up: over once its pieces are.
    closing: bool,
}

impl ClientLease {
    /// What its writer may be asked for.
    fn open(&self) -> Range<u64> {
        self.from..self.range.end
    }
}

/// An activation under way.
#[derive(Debug)]
struct Activation {
    stream: StreamId,
    lease: LeaseId,
    /// What was asked for, less what its writer left.
    range: Range<u64>,
    /// Bytes of it that may come twice, as it was given to another path.
    charged: u64,
    /// Its writer stopped it unbidden.
    returned: bool,
    /// When all of it should have come.
    due: Instant,
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
    /// A path was silent for so long that its leases are lost.
    Dead(PathId),
    /// A dead path spoke again.
    Revived(PathId),
    /// A draining path has nothing left to do.
    Drained(PathId),
    /// A stream failed: wake its reader.
    Failed(StreamId),
    /// A lease of a stream is over.
    LeaseEnded(PathId, StreamId, LeaseId),
}

/// All leases, pieces and paths of one client session.
#[derive(Debug, Default)]
pub struct Scheduler {
    leases: BTreeMap<LeaseId, ClientLease>,
    fills: BTreeMap<StreamId, Fill>,
    /// Boxed, as the map makes room for several at once.
    paths: BTreeMap<PathId, Box<Path>>,
    events: Vec<SchedulerEvent>,
    /// Something changed since pieces were given out last.
    dirty: bool,
    /// Pieces of suspects may have found another path.
    moves_due: bool,
    /// Bytes that came when they were asked for.
    delivered: u64,
    /// Bytes of stolen pieces that may come twice.
    doubled: u64,
    /// When readers are to be looked at next.
    look_at: Option<Instant>,
}

impl Scheduler {
    /// A path became active.
    pub fn add_path(&mut self, id: PathId, now: Instant) {
        self.paths.insert(id, Box::new(Path::new(id, now)));
    }

    /// A path is gone: its pieces go elsewhere, its leases are lost.
    pub fn remove_path(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        for stream in self.fills.keys().copied().collect::<Vec<_>>() {
            self.settle_ended(stream, streams, now);
        }
        let Some(path) = self.paths.remove(&id) else { return };
        for (piece, activation) in path.pieces {
            self.settle_cut_piece(id, piece, &activation);
        }
        for fill in self.fills.values_mut() {
            fill.brought.remove(&id);
            lock(&fill.recv).drop_path(id);
        }
        // What a cut piece brought may have been the last that another path's lease missed.
        for stream in self.fills.keys().copied().collect::<Vec<_>>() {
            self.end_done_leases(stream, None, now);
        }
        let lost: Vec<_> =
            self.leases.iter().filter(|(_, l)| l.path == id).map(|(id, _)| *id).collect();
        for lease in lost {
            self.end_lease(lease, LeaseOutcome::Lost, now);
        }
        for stream in self.fills.keys().copied().collect::<Vec<_>>() {
            self.forget_if_idle(stream, streams);
        }
        self.stir();
    }

    /// Gives back what a piece of a vanished path still owed.
    fn settle_cut_piece(&mut self, path: PathId, piece: PieceId, activation: &Activation) {
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return };
        let Some(cut) = lock(&fill.recv).piece(path, piece).cloned() else { return };
        if let Some(lease) = self.leases.get_mut(&activation.lease) {
            lease.delivered += cut.cursor - activation.range.start;
        }
        if !cut.cancelled {
            fill.release(activation.range.clone());
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
        lease: control::Lease,
        halves: Option<Halves>,
        now: Instant,
    ) -> Result<(), CodedError> {
        let (id, range) = (lease.lease_id, lease.range.clone());
        let lease_unasked = lease.unasked;
        let stream = lease.stream_id;
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
            // The stream is over, and the lease came late: nothing of it is missing, and what its
            // writer sent unasked overtook it.
            self.report(id, LeaseOutcome::Done, Vec::new(), lease_unasked);
            return Ok(());
        };
        if lock(&recv).final_size().is_some_and(|size| range.end > size) {
            let context = format!("lease {id} of {range:?} lies beyond the end of {stream}");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        let (failed, complete) = {
            let recv = lock(&recv);
            (recv.has_failed(), recv.is_complete())
        };
        if complete {
            let outcome = if failed { LeaseOutcome::Stopped } else { LeaseOutcome::Done };
            self.report(id, outcome, Vec::new(), lease_unasked);
            return Ok(());
        }
        if !lock(&recv).add_lease(range.clone()) {
            let context = format!("leases of {stream} lie in too many places");
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        let fill = self.fills.entry(stream).or_insert_with(|| Fill::new(recv));
        // An answer to what was uncovered: the time for the next one starts anew.
        fill.uncovered_since = None;
        let path = lease.path_id;
        let usable = self.paths.get(&path).is_some_and(|path| !path.draining && !path.dead);
        let budget = lease.max_bytes.min(limits::lease_budget(range.end - range.start));
        fill.add_lease(path, &range, id);
        // Relayed at once: relays of one path keep the order in which the primary numbered them.
        if usable && !path.is_primary() {
            self.events.push(SchedulerEvent::Send(path, ControlMessage::Lease(lease)));
        }
        let (from, unasked) = (range.start, range.start..range.start + lease_unasked);
        let (mapped, delivered, closing) = (false, 0, false);
        let lease = ClientLease { stream, path, range, from, mapped, budget, delivered, closing };
        self.leases.insert(id, lease);
        if usable {
            self.expect(id, unasked, now);
            self.end_done_leases(stream, None, now);
            self.cover(stream, now);
        } else {
            self.end_lease(id, LeaseOutcome::Lost, now);
        }
        self.stir();
        self.moves_due = true;
        Ok(())
    }

    /// What the primary sends of its own lease without being asked is a piece like any other. What
    /// of it overtook the lease was taken as plain data.
    fn expect(&mut self, id: LeaseId, range: Range<u64>, now: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(fill) = self.fills.get_mut(&lease.stream) else { return };
        let Some(path) = self.paths.get_mut(&lease.path) else { return };
        lease.budget = lease.budget.saturating_sub(range.end - range.start);
        // It waits for credit behind that, and others may be quicker.
        let end = range.end.min(lock(&fill.recv).max_data());
        let range = range.start..end.max(range.start);
        let len = range.end - range.start;
        // Where others bring parts of it, nobody could tell by which piece bytes come: all of it
        // is on its way as plain data, and credited now.
        let piece = PieceId::unasked(id);
        let Some(range) = fill.take_rest(range, (lease.path, piece, id)) else {
            lease.delivered += len;
            return;
        };
        lease.delivered += len - (range.end - range.start);
        let due = now + path.schedule.model.arrival(range.end - range.start, now);
        path.schedule.on_activated(range.end - range.start, now);
        let activation =
            Activation { stream: lease.stream, lease: id, range, charged: 0, returned: false, due };
        path.pieces.insert(piece, activation);
    }

    /// The primary takes a lease back.
    pub fn handle_revoke(&mut self, id: LeaseId, now: Instant) {
        self.end_lease(id, LeaseOutcome::Stopped, now);
        self.stir();
    }

    /// A writer stopped a piece, or gave a lease up.
    ///
    /// # Errors
    /// The writer broke the protocol: its path is to be closed.
    pub fn handle_stopped(
        &mut self,
        path: PathId,
        m: &control::Stopped,
        streams: &mut StreamTable,
        now: Instant,
    ) -> Result<(), CodedError> {
        self.hear(path, now);
        if m.abandoned {
            let id = m.lease_id;
            if let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.path == path) {
                lease.closing = true;
                self.end_if_closed(id, now);
            }
        } else {
            self.stop_piece(path, m.piece_id, m.sent_until, streams, now)?;
        }
        self.stir();
        Ok(())
    }

    fn stop_piece(
        &mut self,
        path: PathId,
        piece: PieceId,
        mut sent_until: u64,
        streams: &mut StreamTable,
        now: Instant,
    ) -> Result<(), CodedError> {
        let Some(owner) = self.paths.get_mut(&path) else { return Ok(()) };
        let Some(activation) = owner.pieces.get_mut(&piece) else { return Ok(()) };
        let stream = activation.stream;
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return Ok(()) };
        let (before, over) = {
            let mut recv = lock(&fill.recv);
            let Some(before) = recv.piece(path, piece).cloned() else { return Ok(()) };
            // What the primary sends unasked goes as far as its writer was granted: beyond what was
            // known here, and into what it was asked for since.
            if path.is_primary() && piece == PieceId::unasked(before.lease) {
                sent_until = sent_until.min(before.end);
            }
            if path.is_primary() {
                sent_until = sent_until.max(before.cursor);
            }
            (before, recv.stop_piece(path, piece, sent_until)?)
        };
        if let Some(lease) = self.leases.get_mut(&activation.lease) {
            lease.budget += before.end - sent_until;
        }
        activation.range.end = sent_until;
        let left = before.end - sent_until;
        let refund = activation.charged.min(left);
        activation.charged -= refund;
        self.doubled -= refund;
        let mut returned = false;
        if before.cancelled {
            owner.schedule.model.on_dropped(left);
        } else {
            owner.schedule.model.on_released(left);
            fill.release(sent_until..before.end);
            activation.returned = true;
            // Who gives a lease up, or goes on elsewhere with a secondary stream, may.
            let lease = self.leases.get(&activation.lease);
            if lease.is_some_and(|lease| !lease.closing && !lease.mapped) {
                returned = owner.schedule.live.on_returned(now);
            }
        }
        let lease = activation.lease;
        if over {
            if let Some(activation) = self.count_piece(path, piece, sent_until) {
                self.on_piece_ended(&activation, now);
            }
            self.forget_if_idle(stream, streams);
        }
        if returned {
            self.end_lease(lease, LeaseOutcome::Lost, now);
            self.forget_if_idle(stream, streams);
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
        self.hear(path, now);
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.on_received(bytes, asked, now);
            self.delivered += asked;
        }
        if asked > 0
            && let Some(fill) = self.fills.get_mut(&stream)
        {
            fill.brought.insert(path, now);
        }
        self.settle_ended(stream, streams, now);
        if bytes > asked && path.is_primary() && self.fills.contains_key(&stream) {
            // What came plainly may have been the last that a lease missed.
            self.end_done_leases(stream, None, now);
            self.forget_if_idle(stream, streams);
        }
        self.dirty = true;
    }

    /// The reader took bytes, or saw the end.
    pub fn on_consumed(&mut self, stream: StreamId, streams: &mut StreamTable) {
        self.forget_if_idle(stream, streams);
        self.stir();
    }

    /// Streams were granted credit other than by reading.
    pub fn on_credit(&mut self) {
        self.stir();
    }

    /// A gap keeps a stream's reader waiting (8.4): what no lease covers is told to the
    /// primary, and pieces of suspects are moved where another path may bring them, with the
    /// timeout that follows.
    pub fn on_gap(&mut self, stream: StreamId, now: Instant) {
        self.cover(stream, now);
        self.moves_due = true;
    }

    /// Takes note of the pieces of a stream that its byte path saw end.
    pub(crate) fn settle_ended(
        &mut self,
        stream: StreamId,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        let Some(fill) = self.fills.get(&stream) else { return };
        let ended = lock(&fill.recv).take_ended();
        if ended.is_empty() {
            return;
        }
        // Count them all before any lease ends with one of them.
        let count = |end: PieceEnd| self.count_piece(end.path, end.piece, end.at);
        let counted: Vec<_> = ended.into_iter().filter_map(count).collect();
        for activation in counted {
            self.on_piece_ended(&activation, now);
        }
        self.forget_if_idle(stream, streams);
        self.stir();
    }

    /// Takes a piece off its path, and credits its lease with what came up to `at`.
    fn count_piece(&mut self, path: PathId, piece: PieceId, at: u64) -> Option<Activation> {
        let owner = self.paths.get_mut(&path)?;
        let activation = owner.pieces.remove(&piece)?;
        if at == activation.range.end && !activation.returned {
            owner.schedule.live.on_piece();
        }
        if owner.draining && owner.pieces.is_empty() {
            self.events.push(SchedulerEvent::Drained(path));
        }
        if let Some(lease) = self.leases.get_mut(&activation.lease) {
            lease.delivered += at - activation.range.start;
        }
        Some(activation)
    }

    fn on_piece_ended(&mut self, activation: &Activation, now: Instant) {
        self.end_done_leases(activation.stream, Some(&activation.range), now);
        self.end_if_closed(activation.lease, now);
    }

    /// Any sign of life from a path.
    pub fn on_alive(&mut self, path: PathId, now: Instant) {
        if self.hear(path, now) {
            self.dirty = true;
        }
    }

    /// Notes a sign of life; true when it was missed.
    fn hear(&mut self, path: PathId, now: Instant) -> bool {
        let Some(owner) = self.paths.get_mut(&path) else { return false };
        owner.schedule.live.on_alive(now);
        let recovered = std::mem::take(&mut owner.suspect);
        if std::mem::take(&mut owner.dead) {
            owner.schedule.on_revived(now);
            self.events.push(SchedulerEvent::Revived(path));
        }
        if recovered {
            owner.schedule.live.on_recovered(now);
            self.events.push(SchedulerEvent::Recovered(path));
            self.moves_due = true;
            self.stir();
        }
        recovered
    }

    /// Something changed that may give paths more to do.
    fn stir(&mut self) {
        self.dirty = true;
        self.paths.values_mut().for_each(|path| path.idle = false);
    }

    /// A path's smoothed round-trip time.
    pub fn on_rtt(&mut self, path: PathId, rtt: Duration) {
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.model.on_rtt(rtt);
        }
    }

    /// What a path's connection has received in all, in bytes.
    pub fn on_arrived(&mut self, path: PathId, total: u64, now: Instant) {
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.on_arrived(total, now);
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

    /// Live leases.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Pieces that are activated and not over.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.paths.values().map(|path| path.pieces.len()).sum()
    }

    /// Something is asked of the path, or an answer of it is waited for.
    #[must_use]
    pub fn is_busy(&self, id: PathId) -> bool {
        let asked = self.paths.get(&id).is_some_and(|path| path.dead || !path.pieces.is_empty());
        asked || id.is_primary() && self.fills.values().any(|fill| fill.uncovered_since.is_some())
    }
}
