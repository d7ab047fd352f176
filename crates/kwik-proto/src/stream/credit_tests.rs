//! The credit of all receiving streams against naive sums: each offset is charged once, whoever
//! it was granted to and in whatever order it is read, and all charges stay within the window and
//! the budget.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Read, SharedRecv, StreamTable};
use crate::limits::FIRST_STREAM_DATA;
use crate::presentation::MemoryBudget;
use crate::sync::lock;
use crate::wire::control::BackpressureReason;
use crate::wire::control::ControlMessage;
use crate::{Config, Dir, PathId, PieceId, Side, StreamId};

/// Everything is written in slots of this many bytes; blocks of copies end between two.
const SLOT: u64 = 128;
const STREAMS: u64 = 8;
/// The least window for so many.
const LEAST: u64 = 4 * FIRST_STREAM_DATA;

#[derive(Debug, Clone)]
enum Operation {
    Open,
    /// The primary writes so many of the missing slots that are granted, from the given one on.
    Write(u64, u64, u64),
    /// Two paths bring the same slots: one was cancelled when the other was asked.
    Steal(u64, u64),
    Read(u64, bool, u64),
    Widen(u64),
    End(u64, bool),
    Budget(u64),
    Bounds(u64, u64),
    Wait(u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    let stream = || 0..STREAMS;
    prop_oneof![
        3 => Just(Operation::Open),
        8 => (stream(), 0..100u64, 1..200u64).prop_map(|(s, at, n)| Operation::Write(s, at, n)),
        2 => (stream(), 0..100u64).prop_map(|(s, at)| Operation::Steal(s, at)),
        8 => (stream(), any::<bool>(), 1..200u64)
            .prop_map(|(s, any, n)| Operation::Read(s, any, n)),
        3 => stream().prop_map(Operation::Widen),
        1 => (stream(), any::<bool>()).prop_map(|(s, stop)| Operation::End(s, stop)),
        1 => (0..4 * LEAST).prop_map(Operation::Budget),
        1 => (LEAST..3 * LEAST, 0..2 * LEAST).prop_map(|(l, m)| Operation::Bounds(l, m)),
        1 => (0..50u64).prop_map(Operation::Wait),
    ]
}

struct Stream {
    recv: SharedRecv,
    /// The highest limit that the peer was told of.
    told: u64,
    received: BTreeSet<u64>,
    taken: BTreeSet<u64>,
    ordered: bool,
}

impl Stream {
    /// Slots that are granted whole and missing, from the `from`th on.
    fn missing(&self, from: u64) -> impl Iterator<Item = u64> + '_ {
        let granted = 0..self.told / SLOT;
        let all = granted.filter(|slot| !self.received.contains(slot));
        all.skip(usize::try_from(from).unwrap())
    }

    /// Held, and granted and not received.
    fn charge(&self) -> u64 {
        let held = self.received.difference(&self.taken).count() as u64 * SLOT;
        held + self.told - self.received.len() as u64 * SLOT
    }

    fn position(&self) -> u64 {
        (0..=self.told).find(|slot| !self.taken.contains(slot)).unwrap() * SLOT
    }
}

struct World {
    table: StreamTable,
    config: Config,
    budget: Arc<MemoryBudget>,
    /// So many of the first streams may carry more at once, as the peer was told.
    first: u64,
    streams: BTreeMap<u64, Stream>,
    now: Instant,
    pieces: u64,
}

impl World {
    fn new(window: u64, maximum: u64, buffer: u64) -> Self {
        let mut config = Config::default();
        config.set_max_streams_bidi(STREAMS).unwrap().set_max_streams_uni(STREAMS).unwrap();
        config.set_initial_window(window).unwrap().set_max_window(window + maximum).unwrap();
        config.set_stream_buffer(buffer).unwrap().set_slide_step(SLOT).unwrap();
        let budget = Arc::new(MemoryBudget::new(u64::MAX / 8));
        let mut table = StreamTable::new(Side::Client, &config);
        table.set_budget(budget.clone());
        let (now, first) = (crate::test_now(), config.stream_limits().first_streams);
        Self { table, config, budget, first, streams: BTreeMap::new(), now, pieces: 0 }
    }

    fn id(index: u64) -> StreamId {
        StreamId::new(Side::Server, Dir::Uni, index)
    }

    fn open(&mut self) {
        let index = self.streams.keys().next_back().map_or(0, |last| last + 1);
        let opened = self.table.receiving(PathId::PRIMARY, Self::id(index), self.now);
        if let Ok(Some(recv)) = opened {
            self.table.accept(Dir::Uni).unwrap();
            let floor = self.table.window().floor();
            let told = match index {
                0 => self.config.first_stream_data(),
                _ if index < self.first => floor.max(FIRST_STREAM_DATA),
                _ => floor,
            };
            let (received, taken) = (BTreeSet::new(), BTreeSet::new());
            self.streams.insert(index, Stream { recv, told, received, taken, ordered: true });
        }
    }

    /// One of the open streams.
    fn pick(&self, choice: u64) -> Option<u64> {
        let open: Vec<_> = self.streams.keys().copied().collect();
        (!open.is_empty()).then(|| open[usize::try_from(choice).unwrap() % open.len()])
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Open => self.open(),
            Operation::Wait(millis) => self.now += Duration::from_millis(millis),
            Operation::Budget(limit) => self.budget.set_limit(limit),
            Operation::Bounds(least, more) => {
                self.config.set_initial_window(least).unwrap();
                self.config.set_max_window(least + more).unwrap();
                self.table.set_config(self.config.clone(), self.now).unwrap();
            }
            Operation::Write(choice, ..)
            | Operation::Steal(choice, _)
            | Operation::Read(choice, ..)
            | Operation::Widen(choice)
            | Operation::End(choice, _) => {
                if let Some(index) = self.pick(choice) {
                    self.apply_to(index, operation);
                }
            }
        }
    }

    fn apply_to(&mut self, index: u64, operation: &Operation) {
        let (now, id) = (self.now, Self::id(index));
        let stream = self.streams.get_mut(&index).unwrap();
        match *operation {
            Operation::Write(_, from, count) => {
                let count = usize::try_from(count).unwrap();
                for slot in stream.missing(from).take(count).collect::<Vec<_>>() {
                    let data = Bytes::from(vec![7; usize::try_from(SLOT).unwrap()]);
                    lock(&stream.recv).receive(PathId::PRIMARY, slot * SLOT, data).unwrap();
                    stream.received.insert(slot);
                }
            }
            Operation::Steal(_, from) => {
                let Some(slot) = stream.missing(from).next() else { return };
                let mut recv = lock(&stream.recv);
                let (range, data) = (slot * SLOT..(slot + 1) * SLOT, vec![7; 128]);
                self.pieces += 1;
                for path in [PathId(1), PathId(2)] {
                    recv.add_piece(path, PieceId(self.pieces), range.clone());
                }
                recv.cancel_piece(PathId(1), PieceId(self.pieces));
                for path in [PathId(1), PathId(2)] {
                    recv.receive(path, range.start, data.clone().into()).unwrap();
                }
                recv.take_ended();
                stream.received.insert(slot);
            }
            Operation::Read(_, unordered, slots) => {
                let most = usize::try_from(SLOT * slots).unwrap();
                let mut recv = lock(&stream.recv);
                let read = if unordered {
                    stream.ordered = false;
                    recv.read_unordered(most).unwrap()
                } else {
                    (recv.read_position(), recv.read(most).unwrap())
                };
                if let (at, Read::Data(data)) = read {
                    let slots = at / SLOT..(at + data.len() as u64) / SLOT;
                    assert!(slots.clone().all(|slot| stream.received.contains(&slot)));
                    stream.taken.extend(slots);
                }
                let due = recv.is_update_due();
                drop(recv);
                if due {
                    self.table.on_consumed(id, now, Duration::from_millis(10));
                }
            }
            Operation::Widen(_) => drop(self.table.widen(id)),
            Operation::End(_, stop) => {
                if stop {
                    self.table.stop(id, 0);
                } else {
                    lock(&stream.recv).fail(super::ReadError::Reset(1));
                    assert!(lock(&stream.recv).read(1).is_err());
                    self.table.on_consumed(id, now, Duration::ZERO);
                }
                self.streams.remove(&index);
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        // What may wait is told now, too.
        let mut messages = self.table.take_messages(self.now);
        messages.extend(self.table.take_messages(self.now + crate::limits::NOTICE_DELAY));
        for message in messages {
            if let ControlMessage::MaxStreams(m) = &message {
                assert!(m.first_streams >= self.first, "limits only rise");
                self.first = m.first_streams;
            }
            if let ControlMessage::MaxStreamData(m) = message
                && let Some(stream) = self.streams.get_mut(&m.stream_id.index())
            {
                assert!(m.maximum >= stream.told, "limits only rise");
                stream.told = m.maximum;
            }
        }
        let window = self.table.window();
        let (mut charges, mut allowances) = (0, 0);
        for (index, stream) in &self.streams {
            let (charge, allowance) = (stream.charge(), window.allowance(Self::id(*index)));
            assert_eq!(lock(&stream.recv).max_data(), stream.told);
            assert!(charge <= allowance, "{charge} of {allowance}");
            assert!(allowance >= window.floor());
            if stream.ordered {
                assert_eq!(charge, stream.told - stream.position());
            }
            charges += charge;
            allowances += allowance;
        }
        assert!(charges <= allowances && allowances <= window.size());
        assert_eq!(self.budget.granted(), allowances);
    }
}

proptest! {
    #[test]
    fn each_offset_is_charged_once_and_all_within_the_window(
        (window, more) in (LEAST..2 * LEAST, 0..2 * LEAST),
        buffer in 1200..LEAST,
        operations in prop::collection::vec(operation(), 0..150),
    ) {
        let mut world = World::new(window, more, buffer);
        for operation in operations {
            world.apply(&operation);
            world.check();
        }
        // Whatever happened, every stream that is read goes on.
        for index in world.streams.keys().copied().collect::<Vec<_>>() {
            let told = world.streams[&index].told;
            world.apply_to(index, &Operation::Write(0, 0, u64::from(u32::MAX)));
            while !world.streams[&index].received.is_subset(&world.streams[&index].taken) {
                world.apply_to(index, &Operation::Read(0, true, 1000));
            }
            world.check();
            prop_assert!(world.streams[&index].told > told);
        }
        drop(world.table);
        prop_assert_eq!(world.budget.granted(), 0);
    }
}

#[test]
fn a_window_of_64_kib_serves_a_few_streams() {
    let mut config = Config::default();
    config.set_max_streams_bidi(8).unwrap().set_max_streams_uni(8).unwrap();
    config.set_initial_window(64 * 1024).unwrap().set_max_window(64 * 1024).unwrap();
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn memory_pressure_shrinks_streams_to_their_floors_and_is_lifted_by_itself() {
    let mut world = World::new(LEAST, 0, 20_000);
    world.open();
    world.apply_to(0, &Operation::Widen(0));
    world.check();
    let floor = world.table.window().floor();
    let granted = world.streams[&0].told;
    assert!(granted > 10 * floor);
    world.budget.set_limit(10 * floor);
    assert!(world.table.window().is_pressed());
    // What was granted stays so; what is read is not granted again.
    world.apply_to(0, &Operation::Write(0, 0, 1000));
    while world.table.window().is_pressed() {
        assert_eq!(world.streams[&0].told, granted);
        world.apply_to(0, &Operation::Read(0, false, 1));
        world.check();
    }
    for _ in 0..1000 {
        world.apply_to(0, &Operation::Read(0, false, 1));
        world.apply_to(0, &Operation::Write(0, 0, 1000));
        world.check();
    }
    assert!(world.streams[&0].told > granted + 10 * floor, "it goes on");
}

/// 8.3: nothing comes and nobody reads, as who was told to slow down waits to hear that it is over.
#[test]
fn memory_pressure_that_others_end_is_lifted_without_traffic() {
    let mut world = World::new(LEAST, 0, 20_000);
    world.open();
    world.apply_to(0, &Operation::Write(0, 0, 1));
    world.check();
    world.budget.set_limit(1);
    world.table.on_received(World::id(0), world.now);
    let told = |world: &mut World| {
        let messages = world.table.take_messages(world.now);
        messages.into_iter().find_map(|message| match message {
            ControlMessage::Backpressure(m) => Some(m.reason),
            _ => None,
        })
    };
    assert_eq!(told(&mut world), Some(Some(BackpressureReason::MemoryPressure)));
    let due = world.table.poll_timeout().unwrap();
    world.now = due;
    assert_eq!(told(&mut world), None, "it lasts");
    world.budget.set_limit(1 << 30);
    assert_eq!(told(&mut world), None, "nothing is looked at before it is due");
    world.now = world.table.poll_timeout().unwrap();
    assert!(world.now > due);
    assert_eq!(told(&mut world), Some(None));
    assert_eq!(world.table.poll_timeout(), None);
}

/// A reader that takes all at once, over a round trip of 100 ms, beside streams on which
/// nothing comes.
#[test]
fn the_window_grows_for_one_that_is_fast_beside_others_that_are_idle() {
    for idle in [0, 1, 3] {
        let (config, mut now) = (Config::default(), crate::test_now());
        let mut table = StreamTable::new(Side::Client, &config);
        let (bulk, rtt) = (World::id(idle), Duration::from_millis(100));
        let recv = table.receiving(PathId::PRIMARY, bulk, now).unwrap().unwrap();
        while table.accept(Dir::Uni).is_some() {}
        let mut end = 0;
        for _ in 0..200 {
            let most = lock(&recv).max_data();
            while end < most {
                let len = (most - end).min(60_000);
                let data = vec![1; usize::try_from(len).unwrap()];
                lock(&recv).receive(PathId::PRIMARY, end, data.into()).unwrap();
                end += len;
            }
            table.on_received(bulk, now);
            now += rtt;
            while lock(&recv).read(usize::MAX).unwrap() != Read::Blocked {}
            table.on_consumed(bulk, now, rtt);
            table.take_messages(now);
        }
        let (status, allowance) = (table.window().status(), table.window().allowance(bulk));
        assert_eq!(status.size, config.max_window(), "beside {idle}");
        assert!(allowance > config.max_window() / 4 * 3, "{allowance} beside {idle}");
    }
}
