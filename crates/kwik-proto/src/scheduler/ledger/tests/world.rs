//! A ledger, a receiving half, and the naive account of both.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use super::super::{Changed, ClientLease, Ledger, Taken};
use super::{PATHS, SPACE};
use crate::scheduler::charges::Cause;
use crate::stream::{Read, SharedRecv, StreamTable};
use crate::sync::lock;
use crate::{Config, Dir, LeaseId, PathId, PieceId, Side, StreamId};

/// A piece of a path.
type Key = (PathId, PieceId);

/// A lease as each of its bytes tells it.
struct NaiveLease {
    path: PathId,
    open: Range<u64>,
    budget: u64,
    delivered: u64,
    mapped: bool,
    closing: bool,
}

struct NaivePiece {
    lease: LeaseId,
    start: u64,
    cursor: u64,
    end: u64,
    cancelled: bool,
    /// How far it had come when it was cancelled, and what is charged since.
    charged: Option<(u64, u64)>,
}

impl NaivePiece {
    /// Bytes that are waited for.
    fn owed(&self) -> Range<u64> {
        if self.cancelled { self.end..self.end } else { self.cursor..self.end }
    }
}

pub(super) struct World {
    ledger: Ledger,
    streams: StreamTable,
    id: StreamId,
    recv: SharedRecv,
    now: Instant,
    /// What was said to have changed since the last check, and what was free then.
    changed: Changed,
    was_free: BTreeSet<u64>,
    received: BTreeSet<u64>,
    /// Bytes of all leases that ever were.
    promised: BTreeSet<u64>,
    leases: BTreeMap<LeaseId, NaiveLease>,
    pieces: BTreeMap<Key, NaivePiece>,
    /// What the ledger said that each path owes, summed up.
    outstanding: BTreeMap<PathId, u64>,
    /// What may come twice of pieces that are over.
    charged: u64,
    next: u64,
    ended: bool,
}

impl World {
    pub(super) fn new() -> Self {
        let now = crate::test_now();
        let mut streams = StreamTable::new(Side::Client, &Config::default());
        let id = StreamId::new(Side::Server, Dir::Uni, 0);
        let recv = streams.touch(id, now).unwrap().unwrap().recv.unwrap();
        streams.accept(Dir::Uni).unwrap();
        Self {
            ledger: Ledger::default(),
            streams,
            id,
            recv,
            now,
            changed: Changed::Nothing,
            was_free: BTreeSet::new(),
            received: BTreeSet::new(),
            promised: BTreeSet::new(),
            leases: BTreeMap::new(),
            pieces: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            charged: 0,
            next: 0,
            ended: false,
        }
    }

    fn note(&mut self, changed: Changed) {
        self.changed = std::mem::take(&mut self.changed).max(changed);
    }

    fn owes(&mut self, path: PathId) -> &mut u64 {
        self.outstanding.entry(path).or_default()
    }

    fn missing(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        range.filter(|at| !self.received.contains(at))
    }

    /// Bytes that live leases cover, that are missing, and that nobody was asked for.
    fn free(&self) -> BTreeSet<u64> {
        let leased = self.leases.values().flat_map(|lease| self.missing(lease.open.clone()));
        let is_free = |at: &u64| !self.pieces.values().any(|piece| piece.owed().contains(at));
        leased.filter(is_free).collect()
    }

    /// Bytes that a path may still bring under cancelled pieces.
    fn leftover(&self, path: PathId) -> BTreeSet<u64> {
        let own = self.pieces.iter().filter(|((of, _), piece)| *of == path && piece.cancelled);
        own.flat_map(|(_, piece)| piece.cursor..piece.end).collect()
    }

    /// A piece that is under way.
    pub(super) fn piece(&self, choice: usize) -> Option<Key> {
        let open: Vec<_> = self.pieces.iter().filter(|(_, p)| p.cursor < p.end).collect();
        (!open.is_empty()).then(|| *open[choice % open.len()].0)
    }

    pub(super) fn lease(&self, choice: usize) -> Option<LeaseId> {
        let ids: Vec<_> = self.leases.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[choice % ids.len()])
    }

    pub(super) fn add_lease(&mut self, path: PathId, range: Range<u64>, budget: u64, unasked: u64) {
        let id = LeaseId(self.next);
        self.next += 1;
        let budget = budget.max(unasked);
        self.promised.extend(range.clone());
        let lease = ClientLease::new(self.id, path, range.clone(), budget);
        let changed = self.ledger.add_lease(id, lease, self.recv.clone()).unwrap();
        assert_eq!(changed, Changed::Takers);
        self.note(changed);
        let (budget, mut delivered) = (budget - unasked, 0);
        if unasked > 0 {
            // It is a piece if what is missing is its end, and nobody else brought or is to bring
            // any of it; else it is on its way as plain data, and counts as come.
            let (sent, end) = (range.start..range.start + unasked, range.start + unasked);
            let owed = |piece: &NaivePiece| sent.clone().any(|at| piece.owed().contains(&at));
            let first = self.missing(sent.clone()).next().unwrap_or(end);
            let is_end = self.missing(first..end).count() as u64 == end - first;
            let (len, _) = self.ledger.expect(id, unasked, |_| self.now);
            if self.pieces.values().any(owed) || !is_end {
                assert_eq!(len, 0);
            } else {
                assert!(len == end - first || len == 0 && first > sent.start, "{sent:?}: {len}");
            }
            delivered = unasked - len;
            *self.owes(path) += len;
            if len > 0 {
                self.add_piece((path, PieceId::unasked(id)), id, end - len..end);
            }
        }
        let (open, mapped, closing) = (range, false, false);
        let lease = NaiveLease { path, open, budget, delivered, mapped, closing };
        self.leases.insert(id, lease);
        self.end_done(None);
    }

    fn add_piece(&mut self, key: Key, lease: LeaseId, range: Range<u64>) {
        let Range { start, end } = range;
        let (cursor, cancelled, charged) = (start, false, None);
        let piece = NaivePiece { lease, start, cursor, end, cancelled, charged };
        assert!(self.pieces.insert(key, piece).is_none());
    }

    /// The lowest free byte that a path may be asked for, of its leases in their order.
    fn next_free(&self, path: PathId) -> Option<(LeaseId, u64)> {
        let (free, leftover) = (self.free(), self.leftover(path));
        let mut own: Vec<_> = self.leases.iter().filter(|(_, l)| l.path == path).collect();
        own.sort_by_key(|(id, _)| (self.ledger.lease(**id).unwrap().range.start, **id));
        own.into_iter().find_map(|(id, lease)| {
            let is_settling = lease.mapped && lease.open.clone().any(|at| leftover.contains(&at));
            if lease.closing || lease.budget == 0 || is_settling {
                return None;
            }
            let mut open = lease.open.clone();
            let first = open.find(|at| free.contains(at) && !leftover.contains(at))?;
            Some((*id, first))
        })
    }

    pub(super) fn ask_next(&mut self, path: PathId, len: u64) {
        let expected = self.next_free(path);
        let taken = self.ledger.take_next(self.id, path, len, &mut self.streams);
        let found = taken.as_ref().map(|taken| (taken.lease, taken.range.start));
        assert_eq!(found, expected);
        if let Some(taken) = taken {
            self.ask(path, taken);
        }
    }

    fn ask(&mut self, path: PathId, taken: Taken) {
        let (id, range) = (taken.lease, taken.range.clone());
        let len = range.end - range.start;
        assert!(!range.is_empty() && range.clone().all(|at| self.free().contains(&at)));
        assert!(self.leftover(path).is_disjoint(&range.clone().collect()));
        let lease = self.leases.get_mut(&id).unwrap();
        assert!(lease.path == path && range.clone().all(|at| lease.open.contains(&at)));
        lease.budget -= len;
        let piece = PieceId(PieceId::FIRST_ASKED.0 + self.next);
        self.next += 1;
        self.ledger.ask(path, piece, taken, self.now);
        *self.owes(path) += len;
        self.add_piece((path, piece), id, range);
    }

    pub(super) fn bring(&mut self, key: Key, len: u64) {
        let piece = &self.pieces[&key];
        self.receive(key.0, piece.cursor..piece.end.min(piece.cursor + len));
    }

    /// The primary writes plainly, and on into what it was asked for.
    pub(super) fn write(&mut self, range: Range<u64>) {
        self.receive(PathId::PRIMARY, range);
        self.settle();
        self.end_done(None);
    }

    pub(super) fn read(&mut self) {
        while matches!(lock(&self.recv).read(7), Ok(Read::Data(_))) {}
    }

    pub(super) fn close(&mut self, id: LeaseId) {
        let lease = self.leases.get_mut(&id).unwrap();
        lease.closing = true;
        let (own, changed) = self.ledger.close_lease(lease.path, id);
        assert!(own);
        self.note(changed);
        self.end_if_spent(id);
    }

    pub(super) fn end_stream(&mut self) {
        self.settle();
        self.streams.stop(self.id, 0);
        self.ended = true;
        for id in self.leases.keys().copied().collect::<Vec<_>>() {
            self.end_lease(id);
        }
    }

    fn receive(&mut self, path: PathId, range: Range<u64>) {
        let (mut current, mut asked) = (None, 0);
        for at in range.clone() {
            let mut next = self
                .pieces
                .iter()
                .filter(|((of, _), piece)| *of == path && piece.cursor == at && at < piece.end);
            if current.is_none_or(|key| self.pieces[&key].end <= at) {
                current = next.next().map(|(key, _)| *key);
            }
            if let Some(piece) = current.and_then(|key| self.pieces.get_mut(&key)) {
                asked += u64::from(!piece.cancelled);
                piece.cursor += 1;
                let lease = piece.lease;
                if let Some(lease) = self.leases.get_mut(&lease) {
                    lease.delivered += 1;
                }
            }
        }
        let data = vec![0; usize::try_from(range.end - range.start).unwrap()];
        let received = lock(&self.recv).receive(path, range.start, data.into()).unwrap();
        assert_eq!(received.asked, asked);
        *self.owes(path) -= asked;
        self.received.extend(range);
    }

    pub(super) fn settle(&mut self) {
        let (finished, changed) = self.ledger.settle(self.id);
        let over = self.pieces.iter().filter(|(_, piece)| piece.cursor == piece.end);
        let over: Vec<_> = over.map(|(key, _)| *key).collect();
        assert_eq!(finished.len(), over.len());
        assert_eq!(changed >= Changed::Work, !over.is_empty());
        self.note(changed);
        self.forget(|_, piece| piece.cursor == piece.end);
        for piece in finished {
            self.end_done(Some(&piece.range));
            self.end_if_spent(piece.lease);
        }
    }

    /// These pieces are over: what came of them since they were cancelled is charged for good.
    fn forget(&mut self, over: impl Fn(&Key, &NaivePiece) -> bool) {
        for (_, piece) in self.pieces.extract_if(.., |key, piece| over(key, piece)) {
            self.charged += piece.charged.map_or(0, |(from, _)| piece.cursor - from);
        }
    }

    fn end_done(&mut self, within: Option<&Range<u64>>) {
        for id in self.ledger.done(self.id, within) {
            let open = self.leases[&id].open.clone();
            assert_eq!(self.missing(open).next(), None, "{id} is not done");
            self.end_lease(id);
        }
    }

    fn end_if_spent(&mut self, id: LeaseId) {
        let pieces = self.pieces.values().any(|piece| piece.lease == id);
        let lease = self.leases.get(&id);
        let spent = lease.is_some_and(|l| (l.closing || l.budget == 0) && !pieces);
        assert_eq!(self.ledger.is_spent(id), spent);
        if spent {
            self.end_lease(id);
        }
    }

    pub(super) fn end_lease(&mut self, id: LeaseId) {
        let lease = self.leases.remove(&id).unwrap();
        let (ended, changed) = self.ledger.end_lease(id, self.now);
        self.note(changed);
        let ended = ended.unwrap();
        assert_eq!(ended.lease.delivered, lease.delivered, "what {id} is credited with");
        let mut freed = 0;
        for piece in self.pieces.values_mut().filter(|piece| piece.lease == id) {
            freed += piece.owed().count() as u64;
            if !piece.cancelled {
                piece.charged = Some((piece.cursor, piece.end - piece.cursor));
            }
            piece.cancelled = true;
        }
        assert_eq!(ended.freed, freed);
        *self.owes(lease.path) -= freed;
        if !self.ended {
            let missing: Vec<_> = ended.missing.into_iter().flatten().collect();
            assert_eq!(missing, self.missing(ended.lease.range).collect::<Vec<_>>());
        }
    }

    pub(super) fn stop(&mut self, key: Key, left: u64) {
        let piece = self.pieces.get_mut(&key).unwrap();
        let sent_until = piece.cursor.max(piece.end.saturating_sub(left));
        let left = piece.end - sent_until;
        let (id, live) = (piece.lease, !piece.cancelled);
        piece.end = sent_until;
        piece.charged = piece.charged.map(|(from, _)| (from, sent_until - from));
        let over = piece.cursor == piece.end;
        if over {
            self.forget(|of, _| *of == key);
        }
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.budget += left;
        }
        let (stopped, changed) = self.ledger.stop(key.0, key.1, sent_until).unwrap();
        self.note(changed);
        let stopped = stopped.unwrap();
        assert_eq!((stopped.left, stopped.live), (left, live));
        assert_eq!(stopped.finished.is_some(), over);
        *self.owes(key.0) -= if live { left } else { 0 };
        if let Some(piece) = stopped.finished {
            self.end_done(Some(&piece.range));
            self.end_if_spent(piece.lease);
        }
    }

    pub(super) fn cancel(&mut self, key: Key, twice: u64) {
        let piece = self.pieces.get_mut(&key).unwrap();
        let (owed, live) = (piece.owed().count() as u64, !piece.cancelled);
        if live {
            piece.charged = Some((piece.cursor, twice.min(owed)));
        }
        piece.cancelled = true;
        let expected = live.then_some((piece.lease, owed));
        let (cancelled, changed) = self.ledger.cancel(key.0, key.1, Cause::Moved(twice), self.now);
        assert_eq!(cancelled, expected);
        assert_eq!(changed >= Changed::Work, live);
        self.note(changed);
        *self.owes(key.0) -= owed;
    }

    pub(super) fn move_to(&mut self, key: Key, path: PathId) {
        let owed = self.pieces[&key].owed();
        if key.0 == path || owed.is_empty() {
            return;
        }
        let Some(lease) = self.ledger.lease_for(path, self.id, &owed) else { return };
        self.cancel(key, u64::MAX);
        let first = self.missing(owed.clone()).next();
        let taken = self.ledger.take(lease, owed);
        assert_eq!(taken.as_ref().map(|taken| taken.range.start), first);
        if let Some(taken) = taken {
            self.ask(path, taken);
        }
    }

    pub(super) fn map(&mut self, id: LeaseId, offset: u64) {
        let lease = self.leases.get_mut(&id).unwrap();
        if !lease.open.contains(&offset) {
            return;
        }
        let (again, changed) = self.ledger.set_mapped(id);
        assert_eq!(again, std::mem::replace(&mut lease.mapped, true));
        let passed = lease.open.start..offset;
        lease.open.start = offset;
        self.note(changed);
        let path = self.leases[&id].path;
        let (news, changed) = self.ledger.set_floor(id, offset);
        assert_eq!(news, self.missing(passed).next().is_some());
        self.note(changed);
        let behind = self.pieces.iter().filter(|(_, piece)| {
            piece.lease == id && !piece.owed().is_empty() && piece.cursor < offset
        });
        let behind: Vec<_> = behind.map(|(key, _)| *key).collect();
        let owed = self.ledger.owed_by(path);
        let before = owed.filter(|(_, piece, rest)| piece.lease == id && rest.start < offset);
        assert_eq!(before.map(|(piece, ..)| (path, piece)).collect::<Vec<_>>(), behind);
        behind.into_iter().for_each(|key| self.cancel(key, 0));
        self.end_done(None);
    }

    pub(super) fn lose_path(&mut self, path: PathId) {
        self.settle();
        let changed = self.ledger.cut_path(path);
        assert!(changed >= Changed::Work);
        self.note(changed);
        self.forget(|(of, _), _| *of == path);
        self.outstanding.remove(&path);
        self.end_done(None);
        for id in self.ledger.leases_of(path) {
            self.end_lease(id);
        }
        assert!(self.leases.values().all(|lease| lease.path != path));
    }

    pub(super) fn check(&mut self) {
        for (id, lease) in &self.leases {
            let known = self.ledger.lease(*id).unwrap();
            assert_eq!((known.open(), known.budget), (lease.open.clone(), lease.budget));
        }
        assert_eq!(self.ledger.leases(), self.leases.len());
        assert_eq!(self.ledger.all_pieces(), self.pieces.len());
        let charged = self.pieces.values().filter_map(|piece| piece.charged);
        let charged = self.charged + charged.map(|(_, bytes)| bytes).sum::<u64>();
        let stats = self.ledger.charges.stats(0);
        assert_eq!(stats.moved + stats.reclaimed, charged);
        for path in (0..PATHS).map(PathId) {
            let own = || self.pieces.iter().filter(move |((of, _), _)| *of == path);
            assert_eq!(self.ledger.pieces(path), own().count());
            let owed: u64 = own().map(|(_, piece)| piece.owed().count() as u64).sum();
            assert_eq!(self.outstanding.get(&path).copied().unwrap_or(0), owed, "path {path}");
        }
        if self.ended {
            assert!(self.leases.is_empty());
            return;
        }
        let Some(fill) = self.ledger.fill(self.id) else { return };
        for at in self.missing(0..SPACE) {
            let owners = self.pieces.values().filter(|piece| piece.owed().contains(&at)).count();
            assert!(owners <= 1, "{owners} paths owe {at}");
            assert_eq!(fill.taken.contains(at), owners == 1, "who owes {at}");
        }
        let free = self.free();
        let changed = std::mem::take(&mut self.changed);
        assert!(free.is_subset(&self.was_free) || changed >= Changed::Work, "{changed:?}");
        let covered: BTreeSet<_> = self.leases.values().flat_map(|l| l.open.clone()).collect();
        let uncovered = self.promised.iter().filter(|at| !covered.contains(at));
        let uncovered = uncovered.filter(|at| !self.received.contains(at)).copied();
        let told = self.ledger.uncovered(self.id).into_iter().flatten();
        assert_eq!(told.collect::<Vec<_>>(), uncovered.collect::<Vec<_>>());
        // A lease outlives its last missing byte by no more than the piece that brought it.
        for id in self.ledger.done(self.id, None) {
            let open = &self.leases[&id].open;
            let mut brought = self.pieces.values().map(|piece| piece.start..piece.cursor);
            assert!(brought.any(|came| came.start < open.end && open.start < came.end), "{id}");
        }
        self.was_free = free;
    }

    /// All that is under way comes, or is stopped.
    pub(super) fn drain(mut self) {
        let left: Vec<_> = self.pieces.keys().copied().collect();
        for (index, key) in left.into_iter().enumerate() {
            if self.pieces.get(&key).is_some_and(|piece| piece.cursor < piece.end) {
                assert!(self.ledger.forget_idle(self.id).is_none(), "a piece is under way");
                if index % 2 == 0 {
                    self.stop(key, SPACE);
                } else {
                    self.bring(key, SPACE);
                }
                self.settle();
                self.check();
            }
        }
        self.settle();
        self.check();
        let known = self.ledger.fill(self.id).is_some();
        assert_eq!(self.ledger.forget_idle(self.id).is_some(), self.ended && known);
    }
}
