//! One stream that leases fill: what of it is taken, what is free, what nobody may bring.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Instant;

use crate::range::RangeSet;
use crate::stream::{SharedRecv, StreamTable};
use crate::sync::lock;
use crate::{LeaseId, PathId, PieceId, StreamId, limits};

use super::PathSchedule;

#[derive(Debug)]
pub(super) struct Fill {
    pub(super) recv: SharedRecv,
    pub(super) leases: BTreeSet<LeaseId>,
    /// What has come or is on its way under a live piece.
    taken: RangeSet,
    /// Since when missing bytes are under no live lease.
    pub(super) uncovered_since: Option<Instant>,
}

impl Fill {
    pub(super) fn new(recv: SharedRecv) -> Self {
        let leases = BTreeSet::new();
        Self { recv, leases, taken: RangeSet::new(), uncovered_since: None }
    }

    /// What was to come will not: it is free again, as far as it is missing.
    pub(super) fn release(&mut self, range: Range<u64>) {
        for missing in lock(&self.recv).missing(range) {
            self.taken.remove(missing);
        }
    }

    /// Cancels a live piece: what it owes is free again at once. True when it was live.
    pub(super) fn cancel(
        &mut self,
        path: PathId,
        piece: PieceId,
        schedule: &mut PathSchedule,
    ) -> bool {
        let live = {
            let mut recv = lock(&self.recv);
            let live = recv.piece(path, piece).filter(|piece| !piece.cancelled).cloned();
            recv.cancel_piece(path, piece);
            live
        };
        let Some(live) = live else { return false };
        schedule.on_released(live.end - live.cursor);
        self.release(live.cursor..live.end);
        true
    }

    /// Takes the lowest free part of `range`, about `len` long and within the stream's credit, which is
    /// widened when it is what stands in the way.
    pub(super) fn take_next(
        &mut self,
        range: &Range<u64>,
        len: u64,
        streams: &mut StreamTable,
        id: StreamId,
    ) -> Option<Range<u64>> {
        let mut widened = false;
        loop {
            let free = self.taken.missing(range.clone()).next()?;
            let (missing, limit, moves) = {
                let recv = lock(&self.recv);
                let moves = recv.unread() > 0 || recv.has_live_pieces();
                (recv.missing(free.clone()).next(), recv.max_data(), moves)
            };
            let Some(missing) = missing else {
                self.taken.insert(free);
                continue;
            };
            self.taken.insert(free.start..missing.start);
            let wanted = piece_end(&missing, len);
            let end = wanted.min(limit);
            let cut = end < wanted;
            if cut && !widened {
                widened = true;
                if streams.widen(id) {
                    continue;
                }
            }
            // A sliver is not worth a piece while credit is about to come.
            let sliver = end.saturating_sub(missing.start) < limits::MIN_PIECE;
            if end <= missing.start || (cut && sliver && moves) {
                return None;
            }
            self.taken.insert(missing.start..end);
            return Some(missing.start..end);
        }
    }

    /// What leases promised, has not come, and none of the `live` ones covers.
    pub(super) fn uncovered(&self, live: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let recv = lock(&self.recv);
        if recv.is_complete() {
            return Vec::new();
        }
        let mut promised = recv.leased().clone();
        for range in live {
            promised.remove(range);
        }
        let mut uncovered = Vec::new();
        for range in promised.iter() {
            uncovered.extend(recv.missing(range));
            if uncovered.len() >= limits::MAX_GAPS {
                uncovered.truncate(limits::MAX_GAPS);
                break;
            }
        }
        uncovered
    }
}

/// The end of a piece that starts with `missing`: on a boundary of the least piece where it can be,
/// so that pieces of several paths meet there.
fn piece_end(missing: &Range<u64>, len: u64) -> u64 {
    let end = missing.start.saturating_add(len);
    let aligned = end / limits::MIN_PIECE * limits::MIN_PIECE;
    let end = if aligned > missing.start { aligned } else { end };
    end.min(missing.end)
}
