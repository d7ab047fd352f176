//! How leases and streams end, and what the primary is told of it.

use std::ops::Range;
use std::time::Instant;

use crate::path::PathState;
use crate::stream::StreamTable;
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage, LeaseOutcome};
use crate::{Code, LeaseId, PathId, StreamId, limits};

use super::ledger::{EndedLease, Uncovered};
use super::{Scheduler, SchedulerEvent};

impl Scheduler {
    /// Ends the leases of a stream that have nothing left to bring, those that overlap
    /// `within` alone.
    pub(super) fn end_done_leases(
        &mut self,
        stream: StreamId,
        within: Option<&Range<u64>>,
        now: Instant,
    ) {
        for id in self.ledger.done(stream, within) {
            self.end_lease(id, LeaseOutcome::Done, now);
        }
    }

    pub(super) fn end_if_spent(&mut self, id: LeaseId, now: Instant) {
        if self.ledger.is_spent(id) {
            self.end_lease(id, LeaseOutcome::Lost, now);
        }
    }

    /// Nobody reads the stream any more, or it was reset: its leases end.
    pub fn on_stream_ended(&mut self, stream: StreamId, streams: &mut StreamTable, now: Instant) {
        let Some(fill) = self.ledger.fill(stream) else { return };
        for id in fill.leases().collect::<Vec<_>>() {
            self.end_lease(id, LeaseOutcome::Stopped, now);
        }
        self.forget_if_idle(stream, streams);
    }

    /// Ends a lease: its pieces are cancelled, the primary and the writer are told.
    pub(super) fn end_lease(&mut self, id: LeaseId, outcome: LeaseOutcome, now: Instant) {
        let (ended, changed) = self.ledger.end_lease(id, now);
        self.note(changed);
        let Some(EndedLease { lease, missing, freed }) = ended else { return };
        if let Some(owner) = self.paths.get_mut(&lease.path) {
            owner.schedule.model.on_cancelled(freed);
            if !lease.path.is_primary() && owner.state.is_open() {
                let revoke = ControlMessage::Revoke(control::Revoke { lease_id: id });
                self.events.push(SchedulerEvent::Send(lease.path, revoke));
            }
        }
        // A mapped lease is over when what lies behind its writer has come, whatever lies before.
        let outcome = match outcome {
            LeaseOutcome::Stopped => outcome,
            _ if missing.is_empty() => LeaseOutcome::Done,
            _ => LeaseOutcome::Lost,
        };
        // What was written without a lease the primary does not know by its id.
        if !id.is_unleased() {
            self.report(id, outcome, missing, lease.delivered);
        }
        self.events.push(SchedulerEvent::LeaseEnded(lease.path, lease.stream, id));
        self.cover(lease.stream, now);
    }

    pub(super) fn report(
        &mut self,
        id: LeaseId,
        outcome: LeaseOutcome,
        missing: Vec<Range<u64>>,
        delivered: u64,
    ) {
        let report = ControlMessage::LeaseReport(control::LeaseReport {
            lease_id: id,
            outcome,
            ranges: clip_ranges(missing),
            delivered,
            // The session knows what its writer said.
            reason: String::new(),
        });
        self.events.push(SchedulerEvent::Send(PathId::PRIMARY, report));
    }

    /// Looks whether every missing byte that leases promised is still under a live lease; if
    /// not, tells the primary, and fails the reader when no lease comes in time. True when all
    /// is covered.
    pub(super) fn cover(&mut self, stream: StreamId, now: Instant) -> bool {
        let uncovered = self.ledger.uncovered(stream);
        let Some(fill) = self.ledger.fill_mut(stream) else { return true };
        if uncovered.is_empty() {
            fill.uncovered = None;
            return true;
        }
        if fill.uncovered.is_none() {
            fill.uncovered = Some(Uncovered::new(now));
            let message = control::Uncovered { stream_id: stream, ranges: clip_ranges(uncovered) };
            let message = ControlMessage::Uncovered(message);
            self.events.push(SchedulerEvent::Send(PathId::PRIMARY, message));
        }
        false
    }

    /// A dead path keeps no stream: what it may still send of one that is complete is thrown away.
    fn drop_dead_pieces(&mut self, stream: StreamId) {
        for (id, path) in &mut self.paths {
            if path.state == PathState::Silent {
                let left = self.ledger.discard(stream, *id);
                path.schedule.model.on_dropped(left.unwrap_or(0));
            }
        }
    }

    pub(super) fn forget_if_idle(&mut self, stream: StreamId, streams: &mut StreamTable) {
        self.drop_dead_pieces(stream);
        let Some(fill) = self.ledger.forget_idle(stream) else { return };
        self.paths.values_mut().for_each(|path| path.decisions.forget(stream));
        // What a lease left missing came late, outside every lease: the primary has to hear of it.
        if fill.owed && !lock(&fill.recv).has_failed() {
            let (stream_id, code) = (stream, Code::NoError.as_u64());
            let stop = ControlMessage::StopSending(control::StopSending { stream_id, code });
            self.events.push(SchedulerEvent::Send(PathId::PRIMARY, stop));
        }
        streams.retire(stream);
    }
}

/// As many ranges as a message may have; the last one then reaches to the end of all.
pub(super) fn clip_ranges(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let end = ranges.last().map_or(0, |range| range.end);
    ranges.truncate(limits::MAX_GAPS);
    if let Some(last) = ranges.last_mut() {
        last.end = end;
    }
    ranges
}
