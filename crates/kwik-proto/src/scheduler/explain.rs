//! Why each path has what it has: what the rule decided of it last, and what that moved.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::stats::{Decision, ScheduleStats, StreamScheduleStats};
use crate::{PathId, StreamId};

use super::Scheduler;
use super::path::Path;

impl Scheduler {
    /// Notes a decision on a path's pieces of one stream.
    pub(super) fn decide(&mut self, id: PathId, stream: StreamId, decision: Decision) {
        if let Some(path) = self.paths.get_mut(&id) {
            path.decisions.note(stream, decision);
        }
    }

    /// Why each path has what it has.
    #[must_use]
    pub fn explain(&self, now: Instant) -> Vec<ScheduleStats> {
        let open = self.paths.iter().filter(|(_, path)| path.state.is_open());
        open.map(|(id, path)| self.explain_path(*id, path, now)).collect()
    }

    fn explain_path(&self, id: PathId, path: &Path, now: Instant) -> ScheduleStats {
        let (model, decisions) = (&path.schedule.model, &path.decisions);
        let mut outstanding: BTreeMap<StreamId, u64> = BTreeMap::new();
        for (_, activation, rest) in self.ledger.owed_by(id) {
            *outstanding.entry(activation.stream).or_default() += rest.end - rest.start;
        }
        let streams = decisions.streams.iter().map(|(stream, decision)| StreamScheduleStats {
            stream: *stream,
            pieces: self.ledger.pieces_in(id, *stream),
            outstanding: outstanding.get(stream).copied().unwrap_or(0),
            decision: *decision,
        });
        ScheduleStats {
            path: id,
            rtt: model.base_rtt(),
            rate: model.rate(),
            outstanding: model.outstanding(),
            queue: model.delivery(model.outstanding(), now),
            pieces: self.ledger.pieces(id),
            moved_in: decisions.moved_in,
            moved_out: decisions.moved_out,
            twice: decisions.twice,
            decision: decisions.last,
            streams: streams.collect(),
        }
    }
}
