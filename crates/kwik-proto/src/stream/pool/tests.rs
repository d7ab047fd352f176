//! The pool against a model that only knows who is attached, and what may never be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{Slot, StreamPool, WriterKey, WriterKind};
use crate::limits::{MAX_POOLED, POOLED_IDLE};

const NORMAL: i32 = 0;

fn pool(ratio: usize) -> (StreamPool, Instant) {
    (StreamPool::new(ratio), crate::test_now())
}

fn attach(pool: &mut StreamPool, count: usize, priority: i32, now: Instant) -> Vec<WriterKey> {
    (0..count).map(|_| pool.attach(priority, WriterKind::Sharing, now)).collect()
}

fn slot(pool: &StreamPool, key: WriterKey) -> Slot {
    pool.slot(key).unwrap().0
}

fn distinct(pool: &StreamPool, keys: &[WriterKey]) -> usize {
    keys.iter().map(|key| slot(pool, *key)).collect::<BTreeSet<_>>().len()
}

#[test]
fn as_many_share_as_the_ratio_says_and_only_with_their_equals() {
    for ratio in [1, 3, 4] {
        let (mut pool, now) = pool(ratio);
        let normal = attach(&mut pool, 9, NORMAL, now);
        let urgent = attach(&mut pool, 2, 1, now);
        assert_eq!(distinct(&pool, &normal), 9usize.div_ceil(ratio), "ratio {ratio}");
        assert_eq!(distinct(&pool, &urgent), 2usize.div_ceil(ratio));
        assert!(urgent.iter().all(|key| pool.slot(*key).unwrap().1 == 1));
    }
}

#[test]
fn a_backlog_gets_a_slot_of_its_own_and_shares_again_when_it_is_gone() {
    let (mut pool, now) = pool(4);
    let keys = attach(&mut pool, 4, NORMAL, now);
    pool.on_backlog(keys[1], now);
    assert_eq!((distinct(&pool, &keys), pool.slots()), (2, 2));
    let later = attach(&mut pool, 2, NORMAL, now);
    assert_ne!(slot(&pool, later[1]), slot(&pool, keys[1]), "nobody joins it");
    // Whoever is alone need not move.
    pool.on_backlog(later[1], now);
    let own = slot(&pool, later[1]);
    pool.on_drained(later[1], now);
    assert_eq!(slot(&pool, later[1]), own);
    let other = attach(&mut pool, 1, NORMAL, now)[0];
    assert!(slot(&pool, other) != slot(&pool, keys[1]));
    assert_eq!(pool.slots(), 3);
}

#[test]
fn a_burst_does_not_open_and_close_and_silence_retires() {
    let (mut pool, now) = pool(4);
    let mut named = BTreeSet::new();
    for _ in 0..5 {
        let keys = attach(&mut pool, 40, NORMAL, now);
        named.extend(keys.iter().map(|key| slot(&pool, *key)));
        keys.into_iter().for_each(|key| pool.detach(key, now));
    }
    assert_eq!((named.len(), pool.poll_retired()), (10, None));
    let key = attach(&mut pool, 1, NORMAL, now + POOLED_IDLE)[0];
    assert_eq!(pool.slots(), 1, "those that were idle that long are gone");
    assert_eq!(std::iter::from_fn(|| pool.poll_retired()).count(), 10);
    pool.detach(key, now + POOLED_IDLE);
    assert_eq!(pool.slots(), 1);
}

#[test]
fn silence_retires_all_without_another_writer() {
    let (mut pool, now) = pool(4);
    let keys = attach(&mut pool, 8, NORMAL, now);
    assert_eq!(pool.poll_timeout(), None);
    keys.into_iter().for_each(|key| pool.detach(key, now));
    assert_eq!(pool.poll_timeout(), Some(now + POOLED_IDLE));
    pool.handle_timeout(now + POOLED_IDLE);
    assert_eq!((pool.slots(), pool.poll_timeout()), (0, None));
}

#[test]
fn a_slot_that_bulk_leaves_is_not_used_again() {
    let (mut pool, now) = pool(4);
    let key = pool.attach(NORMAL, WriterKind::Fixed, now);
    let slot = slot(&pool, key);
    pool.detach(key, now);
    assert_eq!((pool.slots(), pool.poll_retired()), (0, Some(slot)));
}

#[test]
fn those_who_are_left_come_together() {
    let (mut pool, now) = pool(4);
    let keys = attach(&mut pool, 32, NORMAL, now);
    let (left, gone): (Vec<_>, Vec<_>) = keys.iter().enumerate().partition(|(at, _)| at % 4 == 0);
    gone.into_iter().for_each(|(_, key)| pool.detach(*key, now));
    let left: Vec<_> = left.into_iter().map(|(_, key)| *key).collect();
    assert!(distinct(&pool, &left) <= 4, "{}", distinct(&pool, &left));
}

#[test]
fn a_full_pool_shares_again_and_leaves_urgent_writers_a_slot() {
    let (mut pool, now) = pool(1);
    let keys = attach(&mut pool, 100, NORMAL, now);
    assert!(pool.slots() < MAX_POOLED);
    let mut loads = BTreeMap::<Slot, usize>::new();
    keys.iter().for_each(|key| *loads.entry(slot(&pool, *key)).or_default() += 1);
    let (least, most) = (loads.values().min().unwrap(), loads.values().max().unwrap());
    assert!(most - least <= 1, "{loads:?}");
    let urgent = pool.attach(2, WriterKind::Sharing, now);
    assert_eq!(pool.slot(urgent).unwrap().1, 2);
    // As soon as there is room they spread.
    keys[10..].iter().for_each(|key| pool.detach(*key, now));
    assert_eq!(distinct(&pool, &keys[..10]), 10);
}

#[test]
fn what_falls_empty_goes_to_bulk_that_had_to_share() {
    let (mut pool, now) = pool(1);
    let writers: Vec<_> = std::iter::repeat_with(|| pool.attach(NORMAL, WriterKind::Sharing, now))
        .take(MAX_POOLED + 2)
        .collect();
    let (last, others) = writers.split_last().unwrap();
    pool.on_backlog(*last, now);
    pool.set_ratio(4, now);
    let own = slot(&pool, *last);
    assert!(others.iter().all(|key| slot(&pool, *key) != own));
}

#[test]
fn what_the_peer_refuses_is_shared() {
    let (mut pool, now) = pool(1);
    let keys = attach(&mut pool, 3, NORMAL, now);
    let refused = slot(&pool, keys[1]);
    let other = pool.on_refused(refused, now).unwrap();
    assert_ne!(other.0, refused);
    assert_eq!((pool.slots(), pool.poll_retired()), (2, Some(refused)));
    assert_ne!(slot(&pool, keys[1]), refused);
    attach(&mut pool, 5, NORMAL, now);
    assert_eq!(pool.slots(), 2);
    let (mut pool, now) = self::pool(1);
    let only = attach(&mut pool, 1, NORMAL, now)[0];
    let slot = slot(&pool, only);
    assert_eq!(pool.on_refused(slot, now), None, "there is nobody to share with: it waits");
    assert_eq!(pool.slots(), 1);
}

#[derive(Debug, Clone)]
enum Operation {
    Attach(i32, WriterKind),
    Detach(usize),
    Backlog(usize),
    Drained(usize),
    Priority(usize, i32),
    Ratio(usize),
    Wait(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let priority = || -1..=2i32;
    let kind = prop_oneof![9 => Just(WriterKind::Sharing), 1 => Just(WriterKind::Fixed)];
    prop_oneof![
        6 => (priority(), kind).prop_map(|(priority, kind)| Operation::Attach(priority, kind)),
        4 => any::<usize>().prop_map(Operation::Detach),
        2 => any::<usize>().prop_map(Operation::Backlog),
        2 => any::<usize>().prop_map(Operation::Drained),
        1 => (any::<usize>(), priority()).prop_map(|(at, to)| Operation::Priority(at, to)),
        1 => (1..6usize).prop_map(Operation::Ratio),
        1 => (0..1500u64).prop_map(Operation::Wait),
    ]
}

/// Who is attached, and how.
struct Model {
    ratio: usize,
    now: Instant,
    writers: Vec<(WriterKey, i32, WriterKind, bool)>,
    retired: BTreeSet<Slot>,
    /// Where those are that may not move.
    fixed: BTreeMap<WriterKey, Slot>,
}

impl Model {
    fn apply(&mut self, pool: &mut StreamPool, operation: &Operation) {
        let len = self.writers.len().max(1);
        let writer = |at: &usize| self.writers.get(at % len).map(|writer| (at % len, writer.0));
        match operation {
            Operation::Attach(priority, kind) => {
                let key = pool.attach(*priority, *kind, self.now);
                let fixed = *kind == WriterKind::Fixed;
                self.writers.push((key, *priority, *kind, fixed));
                if fixed {
                    self.fixed.insert(key, slot(pool, key));
                }
            }
            Operation::Detach(at) => {
                if let Some((at, key)) = writer(at) {
                    pool.detach(key, self.now);
                    assert_eq!(pool.slot(key), None);
                    self.writers.remove(at);
                    self.fixed.remove(&key);
                }
            }
            Operation::Backlog(at) => {
                if let Some((at, key)) = writer(at) {
                    pool.on_backlog(key, self.now);
                    self.writers[at].3 = true;
                }
            }
            Operation::Drained(at) => {
                if let Some((at, key)) = writer(at) {
                    pool.on_drained(key, self.now);
                    self.writers[at].3 = self.writers[at].2 == WriterKind::Fixed;
                }
            }
            Operation::Priority(at, priority) => {
                if let Some((at, key)) = writer(at) {
                    pool.set_priority(key, *priority, self.now);
                    self.writers[at].1 = *priority;
                }
            }
            Operation::Ratio(ratio) => {
                pool.set_ratio(*ratio, self.now);
                self.ratio = *ratio;
            }
            Operation::Wait(millis) => self.now += Duration::from_millis(*millis),
        }
    }

    fn check(&mut self, pool: &mut StreamPool) {
        while let Some(slot) = pool.poll_retired() {
            assert!(self.retired.insert(slot), "retired twice");
        }
        let mut members = BTreeMap::<Slot, Vec<(i32, i32, WriterKind, bool)>>::new();
        for (key, priority, kind, bulk) in &self.writers {
            let (slot, of_slot) = pool.slot(*key).expect("attached");
            assert!(!self.retired.contains(&slot), "{key:?} is on a retired slot");
            members.entry(slot).or_default().push((of_slot, *priority, *kind, *bulk));
        }
        for (key, at) in &self.fixed {
            assert_eq!(slot(pool, *key), *at, "it may not move");
        }
        assert!(pool.slots() <= MAX_POOLED && members.len() <= pool.slots());
        let full = pool.slots() >= MAX_POOLED - MAX_POOLED / 8;
        let mut sharing = BTreeMap::<i32, (usize, usize)>::new();
        for on_slot in members.values() {
            let of_slot = on_slot[0].0;
            // Who may not move is out of anybody's hands.
            let movable = on_slot.iter().all(|(_, _, kind, _)| *kind == WriterKind::Sharing);
            if !full && movable {
                assert!(on_slot.iter().all(|(_, priority, _, _)| *priority == of_slot));
                assert!(on_slot.len() <= self.ratio, "{on_slot:?} of {}", self.ratio);
                let bulk = on_slot.iter().any(|(_, _, _, bulk)| *bulk);
                assert!(!bulk || on_slot.len() == 1, "bulk is shared");
                if !bulk {
                    let (slots, writers) = sharing.entry(of_slot).or_default();
                    *slots += 1;
                    *writers += on_slot.len();
                }
            }
        }
        for (slots, writers) in sharing.values().filter(|_| !full) {
            assert!(*slots <= 2 * usize::div_ceil(*writers, self.ratio).max(1));
        }
    }
}

proptest! {
    #[test]
    fn never_shares_what_it_need_not(operations in prop::collection::vec(operation(), 1..300)) {
        let (mut pool, now) = pool(4);
        let mut model = Model {
            ratio: 4,
            now,
            writers: Vec::new(),
            retired: BTreeSet::new(),
            fixed: BTreeMap::new(),
        };
        for operation in operations {
            model.apply(&mut pool, &operation);
            model.check(&mut pool);
        }
        // When all are gone nothing stays.
        for (key, ..) in std::mem::take(&mut model.writers) {
            pool.detach(key, model.now);
        }
        let key = pool.attach(NORMAL, WriterKind::Sharing, model.now + POOLED_IDLE);
        pool.detach(key, model.now + POOLED_IDLE);
        assert_eq!(pool.slots(), 1);
    }
}
