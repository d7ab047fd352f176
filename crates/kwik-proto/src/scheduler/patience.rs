//! When a path is given up on, and what its pieces do then (docs/failover.md#the-rules).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::stream::{ReadError, StreamTable};
use crate::sync::lock;
use crate::wire::control::ControlMessage;
use crate::wire::pb::control as pb;
use crate::{Code, CodedError, PathId, PieceId, StreamId, limits};

use super::{Path, Scheduler, SchedulerEvent};

impl Scheduler {
    /// When [`Scheduler::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let suspects = self.paths.values().filter(|path| !path.suspect);
        let suspects = suspects.filter_map(|path| path.schedule.suspect_at());
        let silent = self.paths.iter().filter(|(id, path)| is_mortal(**id, path));
        let silent = silent.map(|(_, path)| path.schedule.dead_at());
        let stalled = self.paths.iter().filter(|(id, _)| !id.is_primary());
        let stalled = stalled.filter_map(|(_, path)| path.schedule.stalled_at());
        let uncovered = self.fills.values().filter_map(|fill| fill.uncovered_since);
        let uncovered = uncovered.map(|since| since + self.answer_time());
        let resting = self.paths.values().filter_map(|path| path.schedule.rest_until());
        let rescue = self.rescue_at();
        let paths = suspects.chain(silent).chain(stalled).chain(resting);
        paths.chain(uncovered).chain(rescue).min()
    }

    /// Suspects silent paths, gives up the dead, fails streams that nobody can fill.
    pub fn handle_timeout(&mut self, streams: &mut StreamTable, now: Instant) {
        let mut lost = Vec::new();
        for (id, path) in &mut self.paths {
            let stalled = path.schedule.stalled_at().is_some_and(|at| at <= now);
            if is_mortal(*id, path) && path.schedule.dead_at() <= now {
                (path.dead, path.suspect) = (true, true);
                self.events.push(SchedulerEvent::Dead(*id));
                lost.push(*id);
            } else if !id.is_primary() && stalled {
                lost.push(*id);
            } else if !path.suspect && path.schedule.suspect_at().is_some_and(|at| at <= now) {
                path.suspect = true;
                path.schedule.on_suspect(now);
                self.moves_due = true;
                self.events.push(SchedulerEvent::Suspect(*id));
            }
            if path.schedule.rest_until().is_some_and(|until| until <= now) {
                path.schedule.end_rest();
                self.moves_due = true;
            }
        }
        for id in lost {
            self.lose_leases(id, streams, now);
        }
        self.stir();
        self.fail_overdue(streams, now);
        self.schedule(streams, now);
    }

    /// Ends all leases of a path that brings nothing. What it sends nevertheless is taken where it is
    /// missing, since its pieces are cancelled and not forgotten.
    fn lose_leases(&mut self, id: PathId, streams: &mut StreamTable, now: Instant) {
        let concerned: Vec<_> = self.fills.keys().copied().collect();
        for stream in &concerned {
            self.settle_ended(*stream, streams, now);
        }
        let lost: Vec<_> =
            self.leases.iter().filter(|(_, l)| l.path == id).map(|(id, _)| *id).collect();
        for lease in lost {
            self.end_lease(lease, pb::LeaseOutcome::LeaseLost, now);
        }
        for stream in concerned {
            self.forget_if_idle(stream, streams);
        }
    }

    /// How long the primary may take to lease what is missing: it is told, and tells, and each may be lost
    /// once, which QUIC finds out after up to three round trips (RFC 9002 section 6.2.1).
    fn answer_time(&self) -> Duration {
        let primary = self.paths.get(&PathId::PRIMARY);
        let rtt = primary.map_or(Duration::ZERO, |path| path.schedule.rtt());
        limits::AGGREGATION_TIMEOUT.max(rtt * 6)
    }

    /// Fails the streams whose missing ranges nobody may bring. The time that the primary is silent does
    /// not count: it may have leased them, had it been heard.
    fn fail_overdue(&mut self, streams: &mut StreamTable, now: Instant) {
        let primary = self.paths.get(&PathId::PRIMARY);
        let heard = primary.is_none_or(|path| path.schedule.is_reachable(now));
        let waited = self.answer_time();
        let overdue = |since: Instant| since + waited <= now;
        let fills = self.fills.iter_mut();
        let overdue = fills.filter(|(_, fill)| fill.uncovered_since.is_some_and(overdue));
        let mut failed = Vec::new();
        for (stream, fill) in overdue {
            if heard {
                failed.push(*stream);
            } else {
                fill.uncovered_since = Some(now);
            }
        }
        for stream in failed {
            // What was missing may have come late, under a cancelled piece.
            if !self.cover(stream, now) {
                self.fail(stream, waited, streams, now);
            }
        }
    }

    fn fail(
        &mut self,
        stream: StreamId,
        waited: Duration,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        let Some(fill) = self.fills.get_mut(&stream) else { return };
        fill.uncovered_since = None;
        let live = fill.leases().filter_map(|id| self.leases.get(&id));
        let missing = fill.uncovered(live.map(super::ClientLease::open));
        let missing = missing.first().cloned().unwrap_or_default();
        let context = format!("{stream}: {missing:?} is missing, for {waited:?} under no lease");
        let error = CodedError::new(Code::AggregationTimeout, context);
        lock(&fill.recv).fail(ReadError::Failed(error));
        let code = Code::AggregationTimeout.as_u64();
        let stop = pb::StopSending { stream_id: stream.as_u64(), code };
        let stop = ControlMessage::StopSending(stop);
        self.events.push(SchedulerEvent::Send(PathId::PRIMARY, stop));
        self.events.push(SchedulerEvent::Failed(stream));
        self.on_stream_ended(stream, streams, now);
    }

    /// Takes the pieces of suspects back where another path may bring them.
    pub(super) fn reassign_suspects(&mut self, streams: &mut StreamTable, now: Instant) {
        let suspects: Vec<_> =
            self.paths.iter().filter(|(_, p)| p.suspect).map(|(id, _)| *id).collect();
        for id in suspects {
            self.reclaim(id, 0, streams, now);
        }
    }

    /// Takes back what a path that has become slow would hold up the reader with. That may come twice, once
    /// for each time that a path becomes slow.
    pub(super) fn relieve(&mut self, streams: &mut StreamTable, now: Instant) {
        let kept = self.paths.iter().map(|(id, path)| (*id, path.schedule.kept()));
        let slow: Vec<_> = kept.filter_map(|(id, kept)| Some((id, kept?))).collect();
        for (id, kept) in slow {
            self.reclaim(id, kept, streams, now);
        }
    }

    /// Cancels the pieces of a path that another may bring, all that do not lie within the next `kept` bytes
    /// that it sends. What was cancelled before is sent all the same, and in its turn.
    fn reclaim(&mut self, id: PathId, kept: u64, streams: &mut StreamTable, now: Instant) {
        let Some(path) = self.paths.get(&id) else { return };
        let mut ahead = 0;
        let behind = path.pieces.iter().filter(|(piece, activation)| {
            ahead += self.fills.get(&activation.stream).map_or(0, |fill| {
                lock(&fill.recv).piece(id, **piece).map_or(0, |piece| piece.end - piece.cursor)
            });
            ahead > kept && self.can_move(id, **piece, activation.stream)
        });
        let behind: Vec<_> = behind.map(|(id, a)| (*id, a.stream, a.lease)).collect();
        let mut freed = BTreeSet::new();
        for (piece, stream, lease) in behind {
            let Some(path) = self.paths.get_mut(&id) else { continue };
            let Some(fill) = self.fills.get_mut(&stream) else { continue };
            if fill.cancel(id, piece, &mut path.schedule) {
                let cancel = pb::Cancel { lease_id: lease.0, piece_id: piece.0 };
                let cancel = ControlMessage::Cancel(cancel);
                self.events.push(SchedulerEvent::Send(id, cancel));
                freed.insert(stream);
            }
        }
        if !freed.is_empty() {
            self.stir();
        }
        for stream in freed {
            self.hurry(stream, streams, now);
        }
    }

    /// Whether a healthy path may bring what this live piece still owes.
    fn can_move(&self, owner: PathId, piece: PieceId, stream: StreamId) -> bool {
        let Some(fill) = self.fills.get(&stream) else { return false };
        let recv = lock(&fill.recv);
        let live = recv.piece(owner, piece).filter(|piece| !piece.cancelled);
        let Some(cursor) = live.map(|piece| piece.cursor) else { return false };
        fill.leases().filter_map(|id| self.leases.get(&id)).any(|lease| {
            let path = self.paths.get(&lease.path);
            let healthy = path.is_some_and(|path| path.is_healthy());
            let open = !lease.closing && lease.budget > 0;
            lease.path != owner && healthy && open && lease.open().contains(&cursor)
        })
    }
}

/// Whether silence can kill the path: the primary's lives as long as its connection.
fn is_mortal(id: PathId, path: &Path) -> bool {
    !id.is_primary() && !path.dead && !path.pieces.is_empty()
}
