//! What streams leave behind on the heap once they are over: nothing (8.6).

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]

use std::alloc::System;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::stream::{Halves, Read, StreamTable};
use kwik_proto::wire::PacketFrame;
use kwik_proto::{Config, Dir, PathId, Side, StreamId};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LIFETIMES: u64 = 100_000;

fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// The two tables of a session, whose messages reach one another at once.
struct Session {
    tables: [StreamTable; 2],
    now: Instant,
}

impl Session {
    fn new() -> Self {
        let config = Config::default();
        let tables = [Side::Client, Side::Server].map(|side| StreamTable::new(side, &config));
        let mut session = Self { tables, now: Instant::now() };
        session.tables.iter_mut().for_each(|table| table.handle_limits(&config.stream_limits()));
        session
    }

    fn exchange(&mut self) {
        for _ in 0..4 {
            self.now += kwik_proto::limits::NOTICE_DELAY;
            for (from, to) in [(0, 1), (1, 0)] {
                self.tables[from].take_wakes();
                for message in self.tables[from].take_messages(self.now) {
                    assert!(self.tables[to].handle_control(&message, self.now).unwrap());
                }
            }
        }
    }

    /// Carries `data` and the end of a stream to the other side, in two parts, the second first.
    fn write(&mut self, to: usize, id: StreamId, data: &'static [u8]) {
        let send = self.tables[1 - to].halves(id).unwrap().send.clone().unwrap();
        send.lock().unwrap().commit(data.len() as u64).unwrap();
        send.lock().unwrap().finish().unwrap();
        let recv = self.tables[to].receiving(PathId::PRIMARY, id, self.now).unwrap().unwrap();
        let mut recv = recv.lock().unwrap();
        let half = data.len() / 2;
        for (at, part) in [(half, &data[half..]), (0, &data[..half])] {
            recv.receive(PathId::PRIMARY, at as u64, Bytes::from_static(part)).unwrap();
        }
        recv.receive_fin(PathId::PRIMARY, data.len() as u64).unwrap();
        drop(recv);
        let (stream_id, payload) = (id.as_u64(), Bytes::from_static(data));
        let frame = PacketFrame { stream_id, offset: 0, payload, fin: true };
        self.tables[1 - to].on_acknowledged(&[frame]);
    }

    fn read(&mut self, at: usize, halves: &Halves, unordered: bool) {
        let recv = halves.recv.clone().unwrap();
        loop {
            let mut half = recv.lock().unwrap();
            let read =
                if unordered { half.read_unordered(9).map(|(_, r)| r) } else { half.read(9) };
            let due = half.is_update_due();
            drop(half);
            if due {
                self.tables[at].on_consumed(halves.id, self.now, Duration::ZERO);
            }
            match read {
                Ok(Read::Data(_)) => {}
                Ok(Read::Finished) | Err(_) => return,
                Ok(Read::Blocked) => panic!("all of it is here"),
            }
        }
    }

    /// One stream from its opening to its end, each time in another way.
    fn live(&mut self, kind: u64) {
        let ours = self.tables[0].open(Dir::Bi, self.now).unwrap();
        self.exchange();
        let theirs = self.tables[1].accept(Dir::Bi).unwrap();
        match kind % 4 {
            0 | 1 => {
                for (at, halves) in [(1, &theirs), (0, &ours)] {
                    self.write(at, halves.id, b"a question, or the answer");
                    self.read(at, halves, kind % 4 == 1);
                }
            }
            2 => {
                self.tables[0].reset(ours.id, 1);
                self.tables[1].reset(theirs.id, 2);
                self.exchange();
                self.read(0, &ours, false);
                self.read(1, &theirs, true);
            }
            _ => {
                self.tables[0].stop(ours.id, 1);
                self.tables[1].stop(theirs.id, 2);
                self.exchange();
                self.tables[0].retire(ours.id);
            }
        }
        drop((ours, theirs));
        self.exchange();
    }
}

#[test]
fn a_hundred_thousand_lifetimes_leave_the_heap_flat() {
    let mut session = Session::new();
    let mut young = 0;
    for kind in 0..LIFETIMES {
        if kind == LIFETIMES / 10 {
            young = live();
        }
        session.live(kind);
        let open: usize = session.tables.iter().map(|table| table.iter().count()).sum();
        assert_eq!(open, 0, "after stream {kind}");
    }
    let grown = live().saturating_sub(young);
    assert!(grown < 4096, "{grown} bytes more after {LIFETIMES} streams");
    for table in &session.tables {
        assert_eq!((table.memory().runs(), table.memory().pinned()), (0, 0));
        assert_eq!(table.window().available(), table.window().size());
    }
}
