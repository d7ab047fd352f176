//! Bytes that sources dispute (9.2): they are asked for again.

use std::time::Instant;

use crate::range::RangeSet;
use crate::stream::StreamTable;
use crate::wire::control::LeaseOutcome;
use crate::{Code, LeaseId, PathId, StreamId};

use super::Scheduler;
use super::ledger::{Changed, Fill};

impl Scheduler {
    /// What was held of `ranges` was dropped: it is asked for again. Leases that `suspects` hold in
    /// the stream are lost, so that others are asked, or the primary leases it anew. False when
    /// the stream is none that leases fill, so that nobody can be asked.
    pub fn on_disputed(
        &mut self,
        stream: StreamId,
        ranges: &RangeSet,
        suspects: &[PathId],
        streams: &mut StreamTable,
        now: Instant,
    ) -> bool {
        self.settle_ended(stream, streams, now);
        let Some(fill) = self.ledger.fill_mut(stream) else { return false };
        ranges.iter().for_each(|range| fill.dispute(range));
        self.note(Changed::Takers);
        let leases = self.ledger.fill(stream).into_iter().flat_map(Fill::leases);
        let of_suspects =
            |id: &LeaseId| self.ledger.lease(*id).is_some_and(|l| suspects.contains(&l.path));
        for lease in leases.filter(of_suspects).collect::<Vec<_>>() {
            self.end_lease(lease, LeaseOutcome::Lost, now);
        }
        self.cover(stream, now);
        true
    }

    /// The reader of a stream was given an error: nothing more of it is wanted.
    pub fn on_broken(
        &mut self,
        stream: StreamId,
        code: Code,
        streams: &mut StreamTable,
        now: Instant,
    ) {
        self.on_failed(stream, code, streams, now);
    }
}
