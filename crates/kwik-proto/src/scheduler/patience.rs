//! When a path is given up on, and what its pieces do then (design §6).

use std::time::Instant;

use crate::stream::{ReadError, StreamTable};
use crate::sync::lock;
use crate::wire::control::ControlMessage;
use crate::wire::pb::control as pb;
use crate::{Code, CodedError, PathId, PieceId, StreamId, limits};

use super::{Scheduler, SchedulerEvent};

impl Scheduler {
    /// When [`Scheduler::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let suspects = self.paths.values().filter(|path| !path.suspect);
        let suspects = suspects.filter_map(|path| path.schedule.suspect_at());
        let silent = self.paths.iter().filter(|(id, path)| is_mortal(**id, path));
        let silent = silent.map(|(_, path)| path.schedule.dead_at());
        let uncovered = self.fills.values().filter_map(|fill| fill.uncovered_since);
        let uncovered = uncovered.map(|since| since + limits::AGGREGATION_TIMEOUT);
        let resting = self.paths.values().filter_map(|path| path.schedule.rest_until());
        suspects.chain(silent).chain(uncovered).chain(resting).min()
    }

    /// Suspects silent paths, gives up the dead, fails streams that nobody can fill.
    pub fn handle_timeout(&mut self, streams: &mut StreamTable, now: Instant) {
        for (id, path) in &mut self.paths {
            if is_mortal(*id, path) && path.schedule.dead_at() <= now {
                self.events.push(SchedulerEvent::Dead(*id));
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
        self.stir();
        let overdue = |since: Instant| since + limits::AGGREGATION_TIMEOUT <= now;
        let fills = self.fills.iter();
        let failed = fills.filter(|(_, fill)| fill.uncovered_since.is_some_and(overdue));
        for stream in failed.map(|(id, _)| *id).collect::<Vec<_>>() {
            // What was missing may have come late, under a cancelled piece.
            if !self.cover(stream, now) {
                self.fail(stream, streams, now);
            }
        }
        self.schedule(streams, now);
    }

    fn fail(&mut self, stream: StreamId, streams: &mut StreamTable, now: Instant) {
        let Some(fill) = self.fills.get_mut(&stream) else { return };
        fill.uncovered_since = None;
        let live = fill.leases().filter_map(|id| self.leases.get(&id));
        let missing = fill.uncovered(live.map(super::ClientLease::open));
        let missing = missing.first().cloned().unwrap_or_default();
        let waited = limits::AGGREGATION_TIMEOUT;
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
    pub(super) fn reassign_suspects(&mut self) {
        let suspects: Vec<_> =
            self.paths.iter().filter(|(_, p)| p.suspect).map(|(id, _)| *id).collect();
        for id in suspects {
            let Some(path) = self.paths.get(&id) else { continue };
            let pieces = path.pieces.iter();
            let movable: Vec<_> = pieces
                .filter(|(piece, activation)| self.can_move(id, **piece, activation.stream))
                .map(|(piece, activation)| (*piece, activation.stream, activation.lease))
                .collect();
            for (piece, stream, lease) in movable {
                let Some(path) = self.paths.get_mut(&id) else { continue };
                let Some(fill) = self.fills.get_mut(&stream) else { continue };
                if fill.cancel(id, piece, &mut path.schedule) {
                    let cancel = pb::Cancel { lease_id: lease.0, piece_id: piece.0 };
                    let cancel = ControlMessage::Cancel(cancel);
                    self.events.push(SchedulerEvent::Send(id, cancel));
                }
            }
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
            let healthy = path.is_some_and(super::Path::is_healthy);
            let open = !lease.closing && lease.budget > 0;
            lease.path != owner && healthy && open && lease.open().contains(&cursor)
        })
    }
}

/// Whether silence can kill the path: the primary's lives as long as its connection.
fn is_mortal(id: PathId, path: &super::Path) -> bool {
    !id.is_primary() && !path.pieces.is_empty()
}
