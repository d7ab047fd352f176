//! Which QUIC stream each writer writes on: what is shared, and who has one of its own (5.2, 5.4).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use crate::limits;

/// One that writes frames: a logical stream, or a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterKey(u64);

/// A pooled QUIC stream. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u64);

/// What a writer is like when it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterKind {
    /// Shares, until it has a backlog. Its frames may travel on several QUIC streams.
    Sharing,
    /// Has a QUIC stream to itself where there is one, and stays on it: its frames must keep their
    /// order.
    Fixed,
}

#[derive(Debug)]
struct Member {
    slot: Slot,
    priority: i32,
    kind: WriterKind,
    /// It has a backlog, or is fixed: nobody shares with it who need not.
    bulk: bool,
}

#[derive(Debug)]
struct SlotState {
    priority: i32,
    writers: BTreeSet<WriterKey>,
    /// How many of them are bulk.
    bulk: usize,
    empty_since: Option<Instant>,
}

/// The pool of one connection's QUIC streams for data, without I/O: who drives it opens a QUIC
/// stream for a slot with its first frame, and finishes those that [`StreamPool::poll_retired`]
/// names.
///
/// Up to `ratio` writers of equal priority share a slot; one with a backlog has its own. A slot is
/// added when those of its priority are full, and retired [`limits::POOLED_IDLE`] after its last
/// writer left, so that a burst does not open and close. When there may be no more slots, writers
/// crowd the slots that are nearest to them in priority, and spread again as soon as there is room.
#[derive(Debug)]
pub struct StreamPool {
    ratio: usize,
    max: usize,
    /// Boxed, as the map makes room for several at once.
    slots: BTreeMap<Slot, Box<SlotState>>,
    writers: BTreeMap<WriterKey, Member>,
    retired: VecDeque<Slot>,
    /// Some writer may have to share a slot which it should not.
    crowded: bool,
    next_slot: u64,
    next_writer: u64,
}

impl StreamPool {
    /// No writer yet; `ratio` as in [`Self::set_ratio`].
    #[must_use]
    pub fn new(ratio: usize) -> Self {
        Self {
            ratio: ratio.max(1),
            max: limits::MAX_POOLED,
            slots: BTreeMap::new(),
            writers: BTreeMap::new(),
            retired: VecDeque::new(),
            crowded: false,
            next_slot: 0,
            next_writer: 0,
        }
    }

    /// How many writers share a slot: at least 1, which is no sharing.
    pub fn set_ratio(&mut self, ratio: usize, now: Instant) {
        self.ratio = ratio.max(1);
        self.crowded = true;
        self.settle(now);
    }

    /// Slots that have a QUIC stream, or get one with their first frame.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Adds a writer.
    pub fn attach(&mut self, priority: i32, kind: WriterKind, now: Instant) -> WriterKey {
        if self.crowded {
            self.settle(now);
        } else {
            self.retire_idle(now);
        }
        let key = WriterKey(self.next_writer);
        self.next_writer += 1;
        let bulk = kind == WriterKind::Fixed;
        let slot = self.place(priority, bulk).unwrap_or_else(|| self.nearest(priority));
        self.writers.insert(key, Member { slot, priority, kind, bulk });
        self.enter(key, slot, bulk);
        key
    }

    /// Where a writer's next frame goes, and that slot's priority; none when it is not attached.
    #[must_use]
    pub fn slot(&self, key: WriterKey) -> Option<(Slot, i32)> {
        let slot = self.writers.get(&key)?.slot;
        self.slots.get(&slot).map(|state| (slot, state.priority))
    }

    /// A writer has more than [`limits::SHARED_BACKLOG`] on its way: it moves to a slot of its own.
    pub fn on_backlog(&mut self, key: WriterKey, now: Instant) {
        let Some(member) = self.writers.get_mut(&key).filter(|member| !member.bulk) else { return };
        let (slot, priority) = (member.slot, member.priority);
        member.bulk = true;
        let alone = self.slots.get(&slot).is_some_and(|state| state.writers.len() == 1);
        if let Some(state) = self.slots.get_mut(&slot) {
            state.bulk += 1;
        }
        if !alone {
            match self.own(priority) {
                Some(own) => self.relocate(key, own, now),
                None => self.crowded = true,
            }
        }
        self.settle(now);
    }

    /// Nothing of a writer is on its way any more: it shares again.
    pub fn on_drained(&mut self, key: WriterKey, now: Instant) {
        let member = self.writers.get_mut(&key);
        let Some(member) = member.filter(|m| m.bulk && m.kind == WriterKind::Sharing) else {
            return;
        };
        member.bulk = false;
        if let Some(state) = self.slots.get_mut(&member.slot) {
            state.bulk -= 1;
        }
        self.settle(now);
    }

    /// Higher goes first. What a writer has written already stays where it is.
    pub fn set_priority(&mut self, key: WriterKey, priority: i32, now: Instant) {
        let Some(member) = self.writers.get_mut(&key).filter(|m| m.priority != priority) else {
            return;
        };
        member.priority = priority;
        if member.kind == WriterKind::Sharing {
            let bulk = member.bulk;
            let slot = self.place(priority, bulk).unwrap_or_else(|| self.nearest(priority));
            self.relocate(key, slot, now);
            self.settle(now);
        }
    }

    /// A writer is gone.
    pub fn detach(&mut self, key: WriterKey, now: Instant) {
        let Some(member) = self.writers.remove(&key) else { return };
        self.leave(key, member.slot, member.bulk, now);
        self.settle(now);
    }

    /// The peer allows no QUIC stream for this slot now: its writers crowd others. Where what was
    /// queued for the slot goes; none when it has to wait, since there is no other.
    pub fn on_refused(&mut self, slot: Slot, now: Instant) -> Option<(Slot, i32)> {
        let state = self.slots.remove(&slot)?;
        if self.slots.is_empty() {
            self.slots.insert(slot, state);
            return None;
        }
        self.retired.push_back(slot);
        self.max = self.slots.len();
        for key in state.writers {
            if let Some(priority) = self.writers.get(&key).map(|member| member.priority) {
                let nearest = self.nearest(priority);
                self.move_to(key, nearest);
            }
        }
        let nearest = self.nearest(state.priority);
        self.retire_idle(now);
        self.slots.get(&nearest).map(|state| (nearest, state.priority))
    }

    /// When an empty slot is to be retired, if nobody comes: [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let empty = self.slots.values().filter_map(|state| state.empty_since).min();
        empty.map(|since| since + limits::POOLED_IDLE)
    }

    /// Retires the slots that nobody has written on for long.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle(now);
    }

    /// A slot that is used no more: finish its QUIC stream once what was queued on it is written.
    pub fn poll_retired(&mut self) -> Option<Slot> {
        self.retired.pop_front()
    }

    /// A shared slot with room: the fullest, so that others fall empty; else a new one.
    fn shared(&mut self, priority: i32) -> Option<Slot> {
        let ratio = self.ratio;
        let fits = |state: &SlotState| {
            state.priority == priority && state.bulk == 0 && state.writers.len() < ratio
        };
        let fitting = self.slots.iter().filter(|(_, state)| fits(state));
        let fullest =
            fitting.max_by_key(|(slot, state)| (state.writers.len(), std::cmp::Reverse(**slot)));
        fullest.map(|(slot, _)| *slot).or_else(|| self.add(priority))
    }

    /// A slot without a writer, or a new one.
    fn own(&mut self, priority: i32) -> Option<Slot> {
        let empty = self.slots.iter().find(|(_, s)| s.priority == priority && s.writers.is_empty());
        empty.map(|(slot, _)| *slot).or_else(|| self.add(priority))
    }

    /// A new slot, if there may be one; empty ones of other priorities make room. The last eighth
    /// is for priorities that have none yet, so that bulk never leaves an urgent writer without a
    /// slot.
    fn add(&mut self, priority: i32) -> Option<Slot> {
        let first = self.slots.values().all(|state| state.priority != priority);
        let max = if first { self.max } else { self.max - self.max / 8 };
        if self.slots.len() >= max {
            let empty = self.slots.iter().find(|(_, state)| state.writers.is_empty());
            let empty = empty.map(|(slot, _)| *slot)?;
            self.retire(empty);
        }
        if self.slots.len() >= max {
            return None;
        }
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        let state = SlotState { priority, writers: BTreeSet::new(), bulk: 0, empty_since: None };
        let state = Box::new(state);
        self.slots.insert(slot, state);
        Some(slot)
    }

    fn place(&mut self, priority: i32, bulk: bool) -> Option<Slot> {
        if bulk { self.own(priority) } else { self.shared(priority) }
    }

    /// Where to crowd when there may be no more slots: nearest in priority, then least loaded.
    fn nearest(&mut self, priority: i32) -> Slot {
        self.crowded = true;
        let slots = self.slots.iter();
        let nearest = slots.min_by_key(|(slot, state)| {
            (state.priority.abs_diff(priority), state.bulk, state.writers.len(), **slot)
        });
        *nearest.expect("invariant: a pool that adds no slot has one").0
    }

    fn enter(&mut self, key: WriterKey, slot: Slot, bulk: bool) {
        if let Some(state) = self.slots.get_mut(&slot) {
            state.writers.insert(key);
            state.bulk += usize::from(bulk);
            state.empty_since = None;
        }
    }

    /// A slot that only a bulk writer used may hold much that is not sent: it is retired and not
    /// used again.
    fn leave(&mut self, key: WriterKey, slot: Slot, bulk: bool, now: Instant) {
        let Some(state) = self.slots.get_mut(&slot) else { return };
        state.writers.remove(&key);
        state.bulk -= usize::from(bulk);
        if state.writers.is_empty() {
            state.empty_since = Some(now);
            if bulk {
                self.retire(slot);
            }
        }
    }

    fn move_to(&mut self, key: WriterKey, slot: Slot) {
        let Some(member) = self.writers.get_mut(&key) else { return };
        member.slot = slot;
        let bulk = member.bulk;
        self.enter(key, slot, bulk);
    }

    fn relocate(&mut self, key: WriterKey, slot: Slot, now: Instant) {
        let Some(member) = self.writers.get(&key) else { return };
        let (from, bulk) = (member.slot, member.bulk);
        if from != slot {
            self.move_to(key, slot);
            self.leave(key, from, bulk, now);
        }
    }

    /// What ends here gives a QUIC stream back to a pool that the peer refused some.
    fn retire(&mut self, slot: Slot) {
        self.max = (self.max + 1).min(limits::MAX_POOLED);
        self.slots.remove(&slot);
        self.retired.push_back(slot);
    }

    fn retire_idle(&mut self, now: Instant) {
        let idle = |state: &SlotState| {
            state.empty_since.is_some_and(|since| now >= since + limits::POOLED_IDLE)
        };
        while let Some(slot) = self.slots.iter().find(|(_, s)| idle(s)).map(|(slot, _)| *slot) {
            self.retire(slot);
        }
    }

    /// Spreads those who crowd a slot, and empties slots that are not needed. Ends, since each step
    /// of the first kind leaves one writer less where it should not be, of which the second makes
    /// none, and each of the second one slot less with writers.
    fn settle(&mut self, now: Instant) {
        self.retire_idle(now);
        loop {
            while self.crowded
                && let Some((key, slot)) = self.next_to_spread()
            {
                self.relocate(key, slot, now);
            }
            let Some(keys) = self.next_to_empty() else { return };
            for key in keys {
                let slot = self.packed(key).expect("invariant: the others have room for all");
                self.relocate(key, slot, now);
            }
        }
    }

    /// A writer that has to share a slot which it should not, and where there is room for it.
    fn next_to_spread(&mut self) -> Option<(WriterKey, Slot)> {
        // The later of them go: who is there already has written there.
        let crowding = self.writers.iter().rev().filter(|(key, member)| self.crowds(**key, member));
        let crowding: Vec<_> = crowding.map(|(key, m)| (*key, m.priority, m.bulk)).collect();
        self.crowded = !crowding.is_empty();
        let mut full = BTreeSet::new();
        for (key, priority, bulk) in crowding {
            if full.contains(&(priority, bulk)) {
                continue;
            }
            if let Some(slot) = self.place(priority, bulk) {
                return Some((key, slot));
            }
            full.insert((priority, bulk));
        }
        None
    }

    fn crowds(&self, key: WriterKey, member: &Member) -> bool {
        let Some(state) = self.slots.get(&member.slot) else { return false };
        let room = if state.bulk > 0 { 1 } else { self.ratio };
        let too_many = state.writers.len() > room && state.writers.first() != Some(&key);
        member.kind == WriterKind::Sharing && (too_many || member.priority != state.priority)
    }

    /// The writers of the least loaded shared slot of a priority that has more than twice as many
    /// as it needs.
    fn next_to_empty(&self) -> Option<Vec<WriterKey>> {
        let shared = || self.slots.values().filter(|s| s.bulk == 0 && !s.writers.is_empty());
        let excessive = |priority: i32| {
            let alike = shared().filter(|state| state.priority == priority);
            let (slots, writers) =
                alike.fold((0, 0), |(slots, writers), s| (slots + 1, writers + s.writers.len()));
            slots > 2 * usize::div_ceil(writers, self.ratio)
        };
        let least = shared().filter(|state| excessive(state.priority));
        let least = least.min_by_key(|state| state.writers.len())?;
        Some(least.writers.iter().copied().collect())
    }

    /// Another used slot of the same priority with room for a writer: the fullest.
    fn packed(&self, key: WriterKey) -> Option<Slot> {
        let from = self.writers.get(&key)?.slot;
        let priority = self.slots.get(&from)?.priority;
        let fits = |slot: &Slot, s: &SlotState| {
            let open = s.priority == priority && s.bulk == 0 && *slot != from;
            open && !s.writers.is_empty() && s.writers.len() < self.ratio
        };
        let fitting = self.slots.iter().filter(|(slot, state)| fits(slot, state));
        fitting.max_by_key(|(_, state)| state.writers.len()).map(|(slot, _)| *slot)
    }
}
