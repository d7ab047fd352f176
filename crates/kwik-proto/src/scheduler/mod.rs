//! The client's scheduler: which path brings which piece (docs/scheduling.md).
//!
//! It keeps the leases that the primary gave, activates the lowest missing range on the path
//! that will have it first, takes pieces back from paths that fall silent, and reports how each
//! lease ended.
//!
//! Three things know what it decides from: what is leased and asked of whom (`ledger`), how fast
//! each path delivers (`model`), and whether it lives (`liveness`).

mod assign;
mod charges;
mod control;
mod decisions;
mod disputes;
mod ending;
mod explain;
mod ledger;
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
use std::time::{Duration, Instant};

use crate::path::{PathInput, PathState};
use crate::stats::DuplicateStats;
use crate::stream::{ReceivedBytes, StreamTable};
use crate::wire::control::ControlMessage;
use crate::{LeaseId, PathId, StreamId};

use ledger::{Changed, Finished, Ledger, Uncovered};
use path::Path;
pub use path::PathSchedule;

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
    ledger: Ledger,
    /// Boxed, as the map makes room for several at once.
    paths: BTreeMap<PathId, Box<Path>>,
    events: Vec<SchedulerEvent>,
    /// What changed since pieces were given out last.
    changed: Changed,
    /// Bytes that came when they were asked for.
    delivered: u64,
    /// When readers are to be looked at next.
    look_at: Option<Instant>,
    /// The primary has not heard for long what it is told, although it may speak.
    deaf: bool,
}

impl Scheduler {
    /// Whether the primary hears what it is told.
    pub(crate) fn note_deaf(&mut self, deaf: bool) {
        self.deaf = deaf;
    }

    /// A path is dialed.
    pub fn add_path(&mut self, id: PathId, now: Instant) {
        self.paths.insert(id, Box::new(Path::new(id, PathState::Dialing, now)));
    }

    /// Something happened to a path that nothing else hangs on here.
    pub(crate) fn on_path(&mut self, id: PathId, input: PathInput) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.on(input);
        }
    }

    /// The server at the end of a path accepted the client. Nothing is known of the path then, but
    /// for the primary's round trip, which tells how long others may take.
    pub fn open_path(&mut self, id: PathId, now: Instant) {
        if let Some(path) = self.paths.get_mut(&id)
            && path.on(PathInput::Accepted).is_some()
            && !id.is_primary()
        {
            let early = std::mem::take(&mut path.early);
            **path = Path::new(id, path.state, now);
            // What ended meanwhile it never hears of.
            let live =
                early.into_iter().filter(|lease| self.ledger.lease(lease.lease_id).is_some());
            let relayed = live.map(|lease| SchedulerEvent::Send(id, ControlMessage::Lease(lease)));
            self.events.extend(relayed);
            self.note(Changed::Takers);
            self.on_return(now);
        }
    }

    /// A path is there, to which the primary may lease what is missing: its time to do so begins.
    fn on_return(&mut self, now: Instant) {
        for (_, uncovered) in self.ledger.uncovered_streams() {
            uncovered.on_expected(now);
        }
    }

    /// The connection of a path is gone: its pieces go elsewhere, its leases are lost. It is to be
    /// dialed again.
    pub fn lose_path(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        let lost = self.state(id).and_then(|state| state.on(PathInput::Lost));
        self.remove_path(id, streams, now);
        if let Some(state) = lost {
            self.paths.insert(id, Box::new(Path::new(id, state, now)));
        }
    }

    /// A path is gone: its pieces go elsewhere, its leases are lost.
    pub fn remove_path(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        let leased: Vec<_> = self.ledger.streams().collect();
        for stream in &leased {
            self.settle_ended(*stream, streams, now);
        }
        if self.paths.remove(&id).is_none() {
            return;
        }
        let cut = self.ledger.cut_path(id);
        self.note(cut);
        // What a cut piece brought may have been the last that another path's lease missed.
        for stream in &leased {
            self.end_done_leases(*stream, None, now);
        }
        self.lose_leases(id, streams, now);
    }

    /// Lets a path finish what it was asked for, then reports [`SchedulerEvent::Drained`].
    pub fn drain_path(&mut self, id: PathId) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.on(PathInput::Drained);
            if self.ledger.pieces(id) == 0 {
                self.events.push(SchedulerEvent::Drained(id));
            }
        }
    }

    /// Bytes of a stream came over a path.
    pub fn on_received(
        &mut self,
        path: PathId,
        stream: StreamId,
        bytes: ReceivedBytes,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        self.on_alive(path, now);
        self.ledger.charges.on_received(bytes.twice);
        let ReceivedBytes { total: bytes, asked, twice, .. } = bytes;
        let mut worth = false;
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.decisions.on_twice(twice);
            worth = owner.schedule.on_received(bytes, asked, now);
            self.delivered += asked;
        }
        if worth
            && asked > 0
            && let Some(fill) = self.ledger.fill_mut(stream)
        {
            fill.brought.insert(path, now);
        }
        self.settle_ended(stream, streams, now);
        self.end_unleased(stream, now);
        if bytes > asked && path.is_primary() && self.ledger.fill(stream).is_some() {
            // What came plainly may have been the last that a lease missed.
            self.end_done_leases(stream, None, now);
            self.forget_if_idle(stream, streams);
        }
        self.note(Changed::Room);
    }

    /// The reader took bytes, or saw the end.
    pub fn on_consumed(&mut self, stream: StreamId, streams: &mut StreamTable, now: Instant) {
        self.end_unleased(stream, now);
        self.forget_if_idle(stream, streams);
        self.note(Changed::Work);
    }

    /// Streams were granted credit other than by reading.
    pub fn on_credit(&mut self) {
        self.note(Changed::Work);
    }

    /// A gap keeps a stream's reader waiting (8.4): what no lease covers is told to the
    /// primary, and pieces of suspects are moved where another path may bring them, with the
    /// timeout that follows.
    pub fn on_gap(&mut self, stream: StreamId, now: Instant) {
        self.cover(stream, now);
        self.note(Changed::Takers);
    }

    /// Takes note of the pieces of a stream that its byte path saw end.
    pub(crate) fn settle_ended(
        &mut self,
        stream: StreamId,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        let (finished, changed) = self.ledger.settle(stream);
        self.note(changed);
        if !finished.is_empty() {
            self.on_finished(&finished, now);
            self.forget_if_idle(stream, streams);
        }
    }

    /// Pieces are over, and all are counted: their leases may end with them.
    fn on_finished(&mut self, finished: &[Finished], now: Instant) {
        for piece in finished {
            let Some(owner) = self.paths.get_mut(&piece.path) else { continue };
            if piece.whole {
                owner.schedule.live.on_piece(now);
            }
            if owner.state.is_leaving() && self.ledger.pieces(piece.path) == 0 {
                self.events.push(SchedulerEvent::Drained(piece.path));
            }
        }
        for piece in finished {
            self.end_done_leases(piece.stream, Some(&piece.range), now);
            self.end_if_spent(piece.lease, now);
        }
    }

    /// The primary may have leased what is missing, had it been heard: the time for which it was
    /// not does not count.
    fn hear_primary(&mut self, path: PathId, now: Instant) {
        let primary = self.paths.get(&path).filter(|_| path.is_primary());
        if primary.is_some_and(|primary| !primary.schedule.is_reachable(now)) {
            for (_, uncovered) in self.ledger.uncovered_streams() {
                *uncovered = Uncovered::new(now);
            }
        }
    }

    /// Any sign of life from a path.
    pub fn on_alive(&mut self, path: PathId, now: Instant) {
        self.hear_primary(path, now);
        let Some(owner) = self.paths.get_mut(&path) else { return };
        owner.schedule.live.on_alive(now);
        let Some(before) = owner.on(PathInput::Heard) else { return };
        if before == PathState::Silent {
            owner.schedule.on_revived(now);
            self.events.push(SchedulerEvent::Revived(path));
        }
        owner.schedule.live.on_recovered(now);
        if before == PathState::Silent {
            self.on_return(now);
        }
        self.events.push(SchedulerEvent::Recovered(path));
        self.note(Changed::Takers);
    }

    /// Something changed: [`Scheduler::schedule`] will look at it. Nothing else takes these.
    fn note(&mut self, changed: Changed) {
        if changed >= Changed::Work {
            self.paths.values_mut().for_each(|path| path.idle = false);
        }
        self.changed = std::mem::take(&mut self.changed).max(changed);
    }

    /// A path's smoothed round-trip time.
    pub fn on_rtt(&mut self, path: PathId, rtt: Duration) {
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.model.on_rtt(rtt);
        }
    }

    /// What a path's connection has received in all, in bytes.
    pub fn on_arrived(&mut self, path: PathId, total: u64, now: Instant) {
        self.hear_primary(path, now);
        if let Some(owner) = self.paths.get_mut(&path) {
            owner.schedule.on_arrived(total, now);
        }
    }

    /// What the session must act on since the last call.
    pub fn take_events(&mut self) -> Vec<SchedulerEvent> {
        std::mem::take(&mut self.events)
    }

    /// A path's state; none of a path that has ended.
    pub(crate) fn state(&self, id: PathId) -> Option<PathState> {
        self.paths.get(&id).map(|path| path.state)
    }

    /// A path's figures, as far as the scheduler knows them; none while it is not open.
    #[must_use]
    pub fn path(&self, id: PathId) -> Option<&PathSchedule> {
        self.paths.get(&id).filter(|path| path.state.is_open()).map(|path| &path.schedule)
    }

    /// What came twice, and what may.
    #[must_use]
    pub fn duplicates(&self) -> DuplicateStats {
        self.ledger.charges.stats(self.double_budget())
    }

    /// Live leases.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.ledger.leases()
    }

    /// Pieces that are activated and not over.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.ledger.all_pieces()
    }

    /// Something is asked of the path, or an answer of it is waited for.
    #[must_use]
    pub fn is_busy(&self, id: PathId) -> bool {
        let asked = self.ledger.pieces(id) > 0 || self.state(id) == Some(PathState::Silent);
        let mut fills = self.ledger.fills();
        asked || id.is_primary() && fills.any(|fill| fill.uncovered.is_some())
    }
}
