//! One stream that leases fill: what of it is taken, what is free, what nobody may bring.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::time::Instant;

use crate::range::RangeSet;
use crate::stream::{SharedRecv, StreamTable};
use crate::sync::lock;
use crate::{LeaseId, PathId, PieceId, StreamId, limits};

/// How long bytes of a stream have been missing under no live lease.
#[derive(Debug, Clone, Copy)]
pub(in crate::scheduler) struct Uncovered {
    began: Instant,
    /// What counts against the primary began then.
    pub(in crate::scheduler) since: Instant,
}

impl Uncovered {
    pub(in crate::scheduler) fn new(now: Instant) -> Self {
        Self { began: now, since: now }
    }

    /// A path may come to which the primary may lease them, or has come: that time does not count.
    /// False when too much of it has passed.
    pub(in crate::scheduler) fn on_expected(&mut self, now: Instant) -> bool {
        let spared = now < self.began + limits::RETURN_TIMEOUT;
        if spared {
            self.since = now;
        }
        spared
    }
}

#[derive(Debug)]
pub(in crate::scheduler) struct Fill {
    pub(in crate::scheduler) recv: SharedRecv,
    /// Its leases by path, the lowest first.
    leases: BTreeMap<PathId, BTreeSet<(u64, LeaseId)>>,
    /// What has come or is on its way under a live piece.
    pub(super) taken: RangeSet,
    /// What its leases promised, as far as it had not come when the last of them came.
    promised: RangeSet,
    /// How often the primary was told anew of what is missing, since it leased something.
    pub(in crate::scheduler) restarts: u32,
    /// How many of its leases are none of the primary.
    unleased: usize,
    /// Missing bytes are under no live lease.
    pub(in crate::scheduler) uncovered: Option<Uncovered>,
    /// Some lease ended before all of it had come.
    pub(in crate::scheduler) owed: bool,
    /// From where its leases began to where they end.
    span: Option<Range<u64>>,
    /// When each path brought something of it last, or was leased some of it.
    pub(in crate::scheduler) brought: BTreeMap<PathId, Instant>,
}

impl Fill {
    pub(super) fn new(recv: SharedRecv) -> Self {
        Self {
            recv,
            leases: BTreeMap::new(),
            taken: RangeSet::new(),
            promised: RangeSet::new(),
            restarts: 0,
            unleased: 0,
            uncovered: None,
            owed: false,
            span: None,
            brought: BTreeMap::new(),
        }
    }

    /// Adds a lease; false when those seen lie in too many separate places.
    pub(super) fn add_lease(&mut self, path: PathId, range: &Range<u64>, id: LeaseId) -> bool {
        // What has come is promised no more.
        self.promised.remove(0..lock(&self.recv).promise(range.end));
        self.promised.insert(range.clone());
        // An answer to what was uncovered: the time for the next one starts anew.
        (self.uncovered, self.restarts) = (None, 0);
        let span = self.span.clone().unwrap_or_else(|| range.clone());
        self.span = Some(span.start.min(range.start)..span.end.max(range.end));
        self.leases.entry(path).or_default().insert((range.start, id));
        self.promised.len() <= limits::MAX_LEASES
    }

    pub(super) fn remove_lease(&mut self, path: PathId, start: u64, id: LeaseId) {
        self.unleased -= usize::from(id.is_unleased());
        if let Some(own) = self.leases.get_mut(&path) {
            own.remove(&(start, id));
            if own.is_empty() {
                self.leases.remove(&path);
            }
        }
    }

    /// Whether anybody writes into it without a lease.
    pub(super) fn has_unleased(&self) -> bool {
        self.unleased > 0
    }

    /// Its live leases.
    pub(in crate::scheduler) fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leases.values().flatten().map(|(_, id)| *id)
    }

    /// Its live leases of one path.
    pub(super) fn leases_of(&self, path: PathId) -> impl Iterator<Item = LeaseId> + '_ {
        self.leases.get(&path).into_iter().flatten().map(|(_, id)| *id)
    }

    /// The lease of a path that follows `after`, in order of their starts.
    pub(super) fn next_lease(
        &self,
        path: PathId,
        after: Option<(u64, LeaseId)>,
    ) -> Option<(u64, LeaseId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.leases.get(&path)?.range((from, Bound::Unbounded)).next().copied()
    }

    /// Bytes that leases cover and nobody was asked for.
    pub(super) fn free(&self) -> u64 {
        let span = self.span.iter().cloned();
        span.flat_map(|span| self.taken.missing(span)).map(|part| part.end - part.start).sum()
    }

    /// Nothing of it is missing, and nobody may bring more.
    pub(super) fn is_filled(&self) -> bool {
        self.leases.is_empty() && lock(&self.recv).is_complete()
    }

    /// Nothing of it is left for the scheduler to do.
    pub(super) fn is_idle(&self) -> bool {
        self.is_filled() && lock(&self.recv).is_quiet()
    }

    /// What was to come will not: it is free again, as far as it is missing.
    pub(super) fn release(&mut self, range: Range<u64>) {
        for missing in lock(&self.recv).missing(range) {
            self.taken.remove(missing);
        }
    }

    /// What is missing of `range` had come before.
    pub(in crate::scheduler) fn dispute(&mut self, range: Range<u64>) {
        self.promised.insert(range.clone());
        self.release(range);
    }

    /// Somebody was to bring `range`.
    pub(super) fn promise(&mut self, range: Range<u64>) {
        self.promised.insert(range);
    }

    /// A path writes here without a lease, from `start` on.
    pub(super) fn add_unleased(&mut self, path: PathId, start: u64, id: LeaseId) {
        let span = self.span.clone().unwrap_or(start..start);
        self.span = Some(span.start.min(start)..limits::MAX_OFFSET);
        self.leases.entry(path).or_default().insert((start, id));
        self.unleased += 1;
        self.uncovered = None;
        // The primary hears of it at the end.
        self.owed = true;
    }

    /// Its reader waits for a byte of this range.
    pub(in crate::scheduler) fn awaits(&self, range: &Range<u64>) -> bool {
        lock(&self.recv).awaited().is_some_and(|at| range.contains(&at))
    }

    /// The byte that its reader waits for, if nobody was asked for it.
    pub(in crate::scheduler) fn awaited_free(&self) -> Option<u64> {
        let at = lock(&self.recv).awaited()?;
        self.taken.missing(at..at + 1).next().map(|_| at)
    }

    /// Takes the lowest missing part of `range`.
    pub(super) fn take(&mut self, range: Range<u64>) -> Option<Range<u64>> {
        let missing = lock(&self.recv).missing(range).next()?;
        self.taken.insert(missing.clone());
        Some(missing)
    }

    /// Takes what is missing of `range` if that is its end, and nobody was asked for any of it.
    pub(super) fn take_rest(
        &mut self,
        range: Range<u64>,
        path: PathId,
        piece: PieceId,
    ) -> Option<Range<u64>> {
        if range.is_empty() || self.taken.covered(&range) > 0 {
            return None;
        }
        // Under one lock: what comes in between would be ahead of the piece's cursor.
        let mut recv = lock(&self.recv);
        let rest = recv.missing(range.clone()).next().filter(|gap| gap.end == range.end)?;
        recv.add_piece(path, piece, rest.clone());
        drop(recv);
        self.taken.insert(range);
        Some(rest)
    }

    /// Cancels a piece; if it was live, how much it owed, which is free again at once.
    pub(super) fn cancel(&mut self, path: PathId, piece: PieceId) -> Option<Range<u64>> {
        let owed = lock(&self.recv).cancel_piece(path, piece)?;
        self.release(owed.clone());
        Some(owed)
    }

    /// Takes the lowest part of `range` that is free and that `path` may be asked for, about `len`
    /// long and within the stream's credit, which is widened when it is what stands in the way.
    pub(super) fn take_next(
        &mut self,
        path: PathId,
        range: &Range<u64>,
        len: u64,
        streams: &mut StreamTable,
        id: StreamId,
    ) -> Option<Range<u64>> {
        // What is written without a lease ends with the stream.
        let end = lock(&self.recv).final_size().unwrap_or(range.end).min(range.end);
        let range = &(range.start..end);
        let mut widened = false;
        loop {
            let missing = self.next_free(path, range)?;
            let (limit, moves) = {
                let recv = lock(&self.recv);
                (recv.max_data(), recv.unread() > 0 || recv.has_live_pieces())
            };
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
            let least = limits::MIN_PIECE.min(streams.window().allowance(id) / 4);
            let sliver = end.saturating_sub(missing.start) < least;
            if end <= missing.start || (cut && sliver && moves) {
                return None;
            }
            self.taken.insert(missing.start..end);
            return Some(missing.start..end);
        }
    }

    /// The lowest part of `range` that nobody was asked for and that `path` may be asked for.
    pub(super) fn next_free(&mut self, path: PathId, range: &Range<u64>) -> Option<Range<u64>> {
        let recv = lock(&self.recv);
        let mut from = range.start;
        loop {
            let free = self.taken.missing(from..range.end).next()?;
            let Some(missing) = recv.missing(free.clone()).next() else {
                self.taken.insert(free);
                continue;
            };
            self.taken.insert(free.start..missing.start);
            match recv.leftover(path, &missing) {
                None => return Some(missing),
                Some(rest) if rest.start > missing.start => {
                    return Some(missing.start..rest.start);
                }
                Some(rest) => from = rest.end,
            }
        }
    }

    /// What leases promised, has not come, and none of the `live` ones covers.
    pub(super) fn uncovered(&self, live: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let recv = lock(&self.recv);
        if recv.is_complete() {
            return Vec::new();
        }
        let mut promised = self.promised.clone();
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
