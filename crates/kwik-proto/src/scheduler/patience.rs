//! When a path is given up on, and what its pieces do then (docs/failover.md).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::path::{PathInput, PathState};
use crate::stats::Decision;
use crate::stream::{ReadError, StreamTable};
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage, LeaseOutcome};
use crate::{Code, CodedError, PathId, StreamId, limits};

use super::charges::Cause;
use super::ledger::{Changed, Uncovered};
use super::path::Path;
use super::tuning::MAX_AWAITED;
use super::{Scheduler, SchedulerEvent};

impl Scheduler {
    /// When [`Scheduler::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let suspects = self.paths.values().filter(|path| !path.state.is_suspect());
        let suspects = suspects.filter_map(|path| path.schedule.suspect_at());
        let silent =
            self.paths.iter().filter(|(id, path)| is_mortal(**id, path, self.ledger.pieces(**id)));
        let silent = silent.map(|(_, path)| path.schedule.dead_at());
        let stalled = self.paths.iter().filter_map(|(id, path)| self.stalled_at(*id, path));
        let uncovered = self.ledger.fills().filter_map(|fill| fill.uncovered);
        let uncovered = uncovered.map(|uncovered| uncovered.since + self.answer_time());
        let resting = self.paths.values().filter_map(|path| path.schedule.live.rest_until());
        let look = self.look_at();
        let paths = suspects.chain(silent).chain(stalled).chain(resting);
        paths.chain(uncovered).chain(look).min()
    }

    /// When a path loses its leases unless it brings something; none where it owes nothing. It owes
    /// also what it was asked for and left unanswered: it cannot be asked for that anew.
    fn stalled_at(&self, id: PathId, path: &Path) -> Option<Instant> {
        let asked = path.schedule.outstanding() > 0;
        let owes = asked || self.ledger.pieces(id) > 0 && self.ledger.is_leased(id);
        (owes && !id.is_primary()).then(|| path.schedule.stalled_at())
    }

    /// Suspects silent paths, gives up the dead, fails streams that nobody can fill.
    pub fn handle_timeout(&mut self, streams: &mut StreamTable, now: Instant) {
        let stalled = self
            .paths
            .iter()
            .filter(|(id, path)| self.stalled_at(**id, path).is_some_and(|at| at <= now));
        let mut lost: Vec<_> = stalled.map(|(id, _)| *id).collect();
        let mut changed = Changed::Work;
        for (id, path) in &mut self.paths {
            if is_mortal(*id, path, self.ledger.pieces(*id)) && path.schedule.dead_at() <= now {
                path.on(PathInput::Death);
                self.events.push(SchedulerEvent::Dead(*id));
                lost.push(*id);
            } else if path.schedule.suspect_at().is_some_and(|at| at <= now)
                && path.on(PathInput::Silence).is_some()
            {
                path.schedule.live.on_suspect(now);
                if !id.is_primary() && path.schedule.is_spent(now) {
                    lost.push(*id);
                }
                changed = Changed::Takers;
                self.events.push(SchedulerEvent::Suspect(*id));
            }
            if path.schedule.live.rest_until().is_some_and(|until| until <= now) {
                path.schedule.live.end_rest();
                changed = Changed::Takers;
            }
        }
        if self.paths.values().any(|path| path.state.is_suspect()) {
            // Readers may have come to what was left to it, or loss explains it no longer.
            changed = Changed::Takers;
        }
        for id in lost {
            self.lose_leases(id, streams, now);
        }
        self.forget_unanswered(streams, now);
        self.lose_neglected(streams, now);
        self.fail_overdue(streams, now);
        self.note(changed);
    }

    /// Forgets the pieces that were taken back and that their path has not answered in time, where
    /// nobody needs them: a stream that is whole does not wait for an edge that says nothing.
    fn forget_unanswered(&mut self, streams: &mut StreamTable, now: Instant) {
        let mut overdue = BTreeSet::new();
        for (id, path) in &self.paths {
            let cancelled = self.ledger.cancelled(*id);
            let late = cancelled.filter(|(_, at)| *at + path.schedule.answer_time(now) <= now);
            overdue.extend(late.map(|(stream, _)| (*id, stream)));
        }
        for (id, stream) in overdue {
            if let (Some(left), Some(path)) =
                (self.ledger.discard(stream, id), self.paths.get_mut(&id))
            {
                path.schedule.model.on_dropped(left);
                self.forget_if_idle(stream, streams);
            }
        }
    }

    /// Ends the leases of a stream at a path that lets it lie, though it may bring others: what is
    /// long overdue, or was taken back and is not answered, keeps it from being asked for anew.
    fn lose_neglected(&mut self, streams: &mut StreamTable, now: Instant) {
        let mut neglected = BTreeSet::new();
        for (id, path) in self.paths.iter().filter(|(id, _)| !id.is_primary()) {
            let patience = path.schedule.answer_time(now);
            let cancelled = self.ledger.cancelled(*id);
            let owed = self.ledger.owed_by(*id).map(|(_, piece, _)| (piece.stream, piece.due));
            let late = cancelled.chain(owed).filter(|(stream, since)| {
                let brought = self.ledger.fill(*stream).and_then(|fill| fill.brought.get(id));
                brought.map_or(*since, |at| *at.max(since)) + patience <= now
            });
            neglected.extend(late.map(|(stream, _)| (*id, stream)));
        }
        for (id, stream) in neglected {
            for lease in self.ledger.leases_between(id, stream) {
                self.decide(id, stream, Decision::Lost);
                self.end_lease(lease, LeaseOutcome::Lost, now);
            }
            self.forget_if_idle(stream, streams);
        }
    }

    /// Ends all leases of a path that brings nothing. What it sends nevertheless is taken where it
    /// is missing, since its pieces are cancelled and not forgotten.
    pub(super) fn lose_leases(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        let concerned: Vec<_> = self.ledger.streams().collect();
        for stream in &concerned {
            self.settle_ended(*stream, streams, now);
        }
        for lease in self.ledger.leases_of(id) {
            if let Some(stream) = self.ledger.lease(lease).map(|lease| lease.stream) {
                self.decide(id, stream, Decision::Lost);
            }
            self.end_lease(lease, LeaseOutcome::Lost, now);
        }
        for stream in concerned {
            self.forget_if_idle(stream, streams);
        }
    }

    /// How long the primary may take to lease what is missing: it is told, and tells, and each may
    /// be lost once, which QUIC finds out after up to three round trips (RFC 9002 section 6.2.1).
    fn answer_time(&self) -> Duration {
        let primary = self.paths.get(&PathId::PRIMARY);
        let rtt = primary.map_or(Duration::ZERO, |path| path.schedule.rtt());
        limits::AGGREGATION_TIMEOUT.max(rtt * 6)
    }

    /// Fails the streams whose missing ranges nobody may bring. The time that the primary is silent
    /// does not count: it may have leased them, had it been heard. Nor does the time that it does
    /// not hear, or that a path may come back, for a while.
    fn fail_overdue(&mut self, streams: &mut StreamTable, now: Instant) {
        let primary = self.paths.get(&PathId::PRIMARY);
        let heard = primary.is_none_or(|path| path.schedule.is_reachable(now));
        let waited = self.answer_time();
        let expected = self.deaf || self.paths.values().any(|path| path.state.is_expected());
        let mut failed = Vec::new();
        let uncovered = self.ledger.uncovered_streams();
        for (stream, uncovered) in uncovered.filter(|(_, u)| u.since + waited <= now) {
            if !heard {
                *uncovered = Uncovered::new(now);
            } else if !expected || !uncovered.on_expected(now) {
                failed.push(stream);
            }
        }
        for stream in failed {
            // What was missing may have come late, under a cancelled piece.
            if self.cover(stream, now) {
                self.forget_if_idle(stream, streams);
            } else if !self.restart(stream, streams, now) {
                self.fail(stream, waited, streams, now);
            }
        }
    }

    /// Tells the primary anew of what nobody may bring, as often as
    /// [`Recovery::restarts`](crate::Recovery::restarts) says; false when that is spent.
    fn restart(&mut self, stream: StreamId, streams: &StreamTable, now: Instant) -> bool {
        let most = streams.config().recovery().restarts();
        let fill = self.ledger.fill_mut(stream).filter(|fill| fill.restarts < most);
        let Some(fill) = fill else { return false };
        fill.restarts += 1;
        fill.uncovered = None;
        self.cover(stream, now);
        true
    }

    fn fail(
        &mut self,
        stream: StreamId,
        waited: Duration,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        let missing = self.ledger.uncovered(stream).first().cloned().unwrap_or_default();
        let Some(fill) = self.ledger.fill_mut(stream) else { return };
        fill.uncovered = None;
        let context = format!("{stream}: {missing:?} is missing, for {waited:?} under no lease");
        let error = CodedError::new(Code::AggregationTimeout, context);
        lock(&fill.recv).fail(ReadError::Failed(error));
        self.on_failed(stream, Code::AggregationTimeout, streams, now);
    }

    /// A stream has failed: its reader is woken, the primary and the writers are told.
    pub(super) fn on_failed(
        &mut self,
        stream: StreamId,
        code: Code,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        let stop = control::StopSending { stream_id: stream, code: code.as_u64() };
        let stop = ControlMessage::StopSending(stop);
        self.events.push(SchedulerEvent::Send(PathId::PRIMARY, stop));
        self.events.push(SchedulerEvent::Failed(stream));
        self.on_stream_ended(stream, streams, now);
    }

    /// Takes the pieces of suspects back where another path may bring them. What of them comes all
    /// the same is taken.
    pub(super) fn release_suspects(&mut self, streams: &mut StreamTable, now: Instant) {
        let suspects: Vec<_> =
            self.paths.iter().filter(|(_, p)| p.state.is_suspect()).map(|(id, _)| *id).collect();
        for id in suspects {
            self.release(id, streams, now);
        }
    }

    /// Cancels the pieces of a path that another may bring. What of them comes all the same counts
    /// against what may come twice. Where loss explains the silence, and that is spent, only what
    /// readers wait for is asked of another.
    fn release(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        let Some(path) = self.paths.get(&id) else { return };
        let lossy = path.schedule.may_have_lost_packets(now);
        let bearable = path.schedule.model.loss_explains(MAX_AWAITED, now);
        let owed = self.ledger.owed_by(id);
        let movable = owed.filter(|(_, piece, rest)| self.can_move(id, piece.stream, rest.start));
        let movable: Vec<_> = movable
            .map(|(piece, activation, rest)| (piece, activation.stream, activation.due, rest))
            .collect();
        let mut concerned = BTreeSet::new();
        for (piece, stream, due, rest) in movable {
            let affordable = rest.end - rest.start <= self.spare_budget();
            let awaited = || self.ledger.fill(stream).is_some_and(|fill| fill.awaits(&rest));
            if lossy && !affordable && (now < due + bearable || !awaited()) {
                continue;
            }
            if self.take_back(id, piece, Cause::Silent, now) {
                self.decide(id, stream, Decision::Silent);
                concerned.insert(stream);
            }
        }
        for stream in concerned {
            self.expedite(stream, streams, now);
        }
    }

    /// Whether a healthy path may bring what this one owes from `cursor` on.
    fn can_move(&self, owner: PathId, stream: StreamId, cursor: u64) -> bool {
        self.ledger.leases_in(stream).any(|lease| {
            let path = self.paths.get(&lease.path);
            let healthy = path.is_some_and(|path| path.is_healthy());
            let covers = lease.affords(1) && lease.open().contains(&cursor);
            lease.path != owner && healthy && covers
        })
    }
}

/// Whether silence can kill the path: the primary's lives as long as its connection.
fn is_mortal(id: PathId, path: &Path, pieces: usize) -> bool {
    !id.is_primary() && path.state != PathState::Silent && pieces > 0
}
