//! Situations that once went wrong, one by one; the harness in `tests/` finds such at random.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::charges::Cause;
use super::{Scheduler, SchedulerEvent};
use crate::path::PathInput;
use crate::stream::{Read, ReadError, ReceivedBytes, SharedRecv, StreamTable};
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage as M, LeaseOutcome};
use crate::{Code, Config, Dir, LeaseId, PathId, PieceId, Side, StreamId, limits};

mod decisions;
mod disputes;
mod duplicates;
mod patience;
mod silence;

const A: PathId = PathId(1);
const B: PathId = PathId(2);
const KIB: u64 = 1024;
/// Longer than a path of which nothing is known may be silent.
const SILENT: Duration = Duration::from_millis(200);

/// A client's scheduler with two edges and one stream.
struct Fixture {
    scheduler: Scheduler,
    streams: StreamTable,
    id: StreamId,
    recv: SharedRecv,
    now: Instant,
    /// What a path's connection has received.
    total: u64,
}

impl Fixture {
    fn new() -> Self {
        let now = crate::test_now();
        let mut streams = StreamTable::new(Side::Client, &Config::default());
        let id = StreamId::new(Side::Server, Dir::Uni, 0);
        let recv = streams.touch(id, now).unwrap().unwrap().recv.unwrap();
        streams.accept(Dir::Uni).unwrap();
        let mut scheduler = Scheduler::default();
        for path in [PathId::PRIMARY, A, B] {
            scheduler.add_path(path, now);
            scheduler.on_path(path, PathInput::Connected);
            scheduler.open_path(path, now);
        }
        Self { scheduler, streams, id, recv, now, total: 0 }
    }

    /// What follows is about a second stream.
    fn turn_to_another_stream(&mut self) {
        self.id = StreamId::new(Side::Server, Dir::Uni, 1);
        let halves = self.streams.touch(self.id, self.now).unwrap();
        self.recv = halves.unwrap().recv.unwrap();
        self.streams.accept(Dir::Uni).unwrap();
    }

    fn lease(&mut self, lease_id: u64, path_id: PathId, range: Range<u64>) {
        let lease_id = LeaseId(lease_id);
        self.take(control::Lease { lease_id, path_id, ..self.own_lease(range, 0) });
        self.deal();
    }

    /// A lease of the primary's own path, of which so much leaves unasked.
    fn own_lease(&self, range: Range<u64>, unasked: u64) -> control::Lease {
        let max_bytes = u64::MAX;
        control::Lease { stream_id: self.id, range, max_bytes, unasked, ..<_>::default() }
    }

    /// A lease that is dealt together with what comes next.
    fn take(&mut self, lease: control::Lease) {
        let halves = self.streams.touch(self.id, self.now).unwrap();
        self.scheduler.handle_lease(lease, halves, self.now).unwrap();
    }

    /// Leases that are dealt together, of a near path A and a far one B.
    fn lease_near_and_far(&mut self, range: Range<u64>) {
        self.scheduler.on_rtt(A, Duration::from_millis(5));
        self.scheduler.on_rtt(B, Duration::from_millis(300));
        for (id, path_id) in [(1, A), (2, B)] {
            let lease_id = LeaseId(id);
            self.take(control::Lease { lease_id, path_id, ..self.own_lease(range.clone(), 0) });
        }
    }

    /// What a session does after each input.
    fn deal(&mut self) {
        self.scheduler.schedule(&mut self.streams, self.now);
    }

    /// Bytes come, and the session hears of it.
    fn receive(&mut self, path: PathId, range: Range<u64>) {
        let bytes = self.receive_untold(path, range);
        self.scheduler.on_received(path, self.id, bytes, &mut self.streams, self.now);
        self.deal();
    }

    fn receive_untold(&mut self, path: PathId, range: Range<u64>) -> ReceivedBytes {
        let data = vec![0; usize::try_from(range.end - range.start).unwrap()];
        let received = lock(&self.recv).receive(path, range.start, data.into()).unwrap();
        let mut bytes = ReceivedBytes::default();
        bytes.note(range.end - range.start, received);
        bytes
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.scheduler.handle_timeout(&mut self.streams, self.now);
        self.deal();
    }

    fn sent(&mut self) -> Vec<(PathId, M)> {
        self.deal();
        let events = self.scheduler.take_events().into_iter();
        events
            .filter_map(|event| match event {
                SchedulerEvent::Send(path, message) => Some((path, message)),
                _ => None,
            })
            .collect()
    }

    fn activated(&mut self) -> Vec<(PathId, Range<u64>)> {
        let sent = self.sent().into_iter();
        sent.filter_map(|(path, message)| match message {
            M::Activate(m) => Some((path, m.range)),
            _ => None,
        })
        .collect()
    }

    fn reports(&mut self) -> Vec<(u64, LeaseOutcome)> {
        let sent = self.sent().into_iter();
        sent.filter_map(|(_, message)| match message {
            M::LeaseReport(m) => Some((m.lease_id.0, m.outcome)),
            _ => None,
        })
        .collect()
    }

    fn stopped(&mut self, path: PathId, lease_id: u64, piece_id: u64, sent_until: u64) {
        let (lease_id, piece_id) = (LeaseId(lease_id), PieceId(piece_id));
        let m = control::Stopped { lease_id, piece_id, sent_until, ..control::Stopped::default() };
        self.scheduler.handle_stopped(path, &m, &mut self.streams, self.now).unwrap();
    }
}

#[test]
fn leases_are_relayed_in_the_order_of_their_signatures() {
    let mut f = Fixture::new();
    f.lease(1, A, 64 * KIB..128 * KIB);
    f.lease(2, A, 0..64 * KIB);
    let relayed: Vec<_> = f
        .sent()
        .into_iter()
        .filter_map(|(_, m)| if let M::Lease(m) = m { Some(m.lease_id.0) } else { None })
        .collect();
    assert_eq!(relayed, [1, 2]);
}

#[test]
fn a_lease_of_what_has_come_is_done_at_once() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.receive(A, 0..KIB);
    assert_eq!(f.reports(), [(1, LeaseOutcome::Done)]);
    f.lease(2, B, 0..KIB);
    assert_eq!(f.reports(), [(2, LeaseOutcome::Done)]);
    assert_eq!(f.scheduler.leases(), 0);
}

#[test]
fn a_lease_of_a_stopped_stream_is_not_reported_done() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.streams.stop(f.id, 1);
    f.lease(2, B, 0..KIB);
    assert!(f.reports().contains(&(2, LeaseOutcome::Stopped)));
}

#[test]
fn a_refused_write_is_asked_of_another_path() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.lease(2, B, 0..KIB);
    assert_eq!(f.activated(), [(A, 0..KIB)]);
    let bytes = Bytes::from(vec![0; 1023]);
    let error = lock(&f.recv).receive(A, 1, bytes).unwrap_err();
    assert_eq!(error.code, Code::SecondaryStreamIsolation);
    f.scheduler.remove_path(A, &mut f.streams, f.now);
    assert_eq!(f.activated(), [(B, 0..KIB)]);
}

#[test]
fn data_beyond_the_end_moves_no_cursor() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    let size = lock(&f.recv).receive_fin(PathId::PRIMARY, 512).unwrap_err();
    assert_eq!(size.code, Code::OffsetMismatch, "a lease promises more");
}

#[test]
fn a_path_is_not_asked_again_for_what_its_cancelled_piece_may_bring() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.lease(2, B, 0..KIB);
    assert_eq!(f.activated(), [(A, 0..KIB)]);
    f.pass(SILENT);
    assert_eq!(f.activated(), [(B, 0..KIB)]);
    f.scheduler.remove_path(B, &mut f.streams, f.now);
    f.scheduler.on_alive(A, f.now);
    f.pass(Duration::from_secs(1));
    assert_eq!(f.activated(), [], "its own piece has not stopped yet");
    f.stopped(A, 1, 0, 0);
    assert_eq!(f.activated(), [(A, 0..KIB)]);
}

#[test]
fn bytes_that_came_late_fail_no_stream() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.handle_revoke(LeaseId(1), f.now);
    f.pass(Duration::from_secs(1));
    f.receive(A, 0..KIB);
    f.pass(limits::AGGREGATION_TIMEOUT);
    assert!(matches!(lock(&f.recv).read(1 << 20), Ok(Read::Data(_))));
    assert_eq!(lock(&f.recv).read(1), Ok(Read::Blocked));
    // Nothing failed, and once it is whole the primary hears that it is.
    lock(&f.recv).receive_fin(PathId::PRIMARY, KIB).unwrap();
    f.sent();
    f.scheduler.on_consumed(f.id, &mut f.streams, f.now);
    let code = Code::NoError.as_u64();
    let stop = M::StopSending(control::StopSending { stream_id: f.id, code });
    assert_eq!(f.sent(), [(PathId::PRIMARY, stop)]);
}

#[test]
fn a_piece_that_ended_untold_is_not_forgotten_with_its_stream() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    let bytes = f.receive_untold(A, 0..KIB);
    f.streams.stop(f.id, 1);
    f.scheduler.on_stream_ended(f.id, &mut f.streams, f.now);
    f.scheduler.on_received(A, f.id, bytes, &mut f.streams, f.now);
    assert_eq!((f.scheduler.pieces(), f.streams.iter().count()), (0, 0));
}

#[test]
fn an_abandoned_lease_is_not_asked_again_for_what_it_gave_back() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.activated();
    let abandoned =
        control::Stopped { lease_id: LeaseId(1), abandoned: true, ..control::Stopped::default() };
    f.scheduler.handle_stopped(A, &abandoned, &mut f.streams, f.now).unwrap();
    f.stopped(A, 1, 0, 0);
    let sent = f.sent();
    assert!(!sent.iter().any(|(_, m)| matches!(m, M::Activate(_))), "{sent:?}");
    assert_eq!(f.scheduler.leases(), 0);
}

#[test]
fn a_lost_lease_names_all_that_is_missing_however_many_gaps() {
    let gaps = (0..2 * limits::MAX_GAPS as u64).map(|i| 2 * i..2 * i + 1).collect();
    let wire = super::ending::clip_ranges(gaps);
    let last = wire.last().unwrap();
    assert_eq!((wire.len(), last.end), (limits::MAX_GAPS, 4 * limits::MAX_GAPS as u64 - 1));
}

#[test]
fn a_mapped_lease_is_asked_for_what_lies_ahead_in_order() {
    let mut fixture = Fixture::new();
    fixture.lease(1, A, 0..256 * KIB);
    let before = fixture.activated();
    assert_eq!(before[0], (A, 0..4 * KIB));
    let now = fixture.now;
    let key = (A, fixture.id, LeaseId(1));
    assert!(!fixture.scheduler.map_lease((B, fixture.id, LeaseId(1)), 0, now));
    assert!(!fixture.scheduler.map_lease(key, 256 * KIB, now));
    assert!(fixture.scheduler.map_lease(key, 100 * KIB, now));
    let sent = fixture.sent();
    let cancelled = sent.iter().filter(|(_, m)| matches!(m, M::Cancel(_))).count();
    assert_eq!(cancelled, before.len());
    // Nobody may bring the beginning any more: the primary hears of it.
    let uncovered = |m: &M| matches!(m, M::Uncovered(m) if m.ranges[0].end == 100 * KIB);
    assert!(sent.iter().any(|(_, m)| uncovered(m)));
    // Nothing further ahead is asked for before the writer has answered for what is.
    for (piece_id, (_, range)) in before.iter().enumerate() {
        let sent_until = range.start;
        let stopped = control::Stopped {
            piece_id: PieceId(piece_id as u64),
            sent_until,
            ..Default::default()
        };
        fixture.scheduler.handle_stopped(A, &stopped, &mut fixture.streams, now).unwrap();
    }
    let asked = fixture.activated();
    assert_eq!(asked[0].1.start, 100 * KIB);
    assert!(asked.windows(2).all(|pair| pair[0].1.end == pair[1].1.start), "{asked:?}");
    // It passed over the rest: the lease is over, and the beginning is lost.
    fixture.scheduler.on_mapped(LeaseId(1), 256 * KIB, now);
    assert_eq!(fixture.reports(), [(1, LeaseOutcome::Lost)]);
}

/// Bytes that connections receive, but not those of the stream that is looked at.
fn flow(fixture: &mut Fixture, path: PathId, time: Duration) {
    let step = Duration::from_millis(20);
    let mut passed = Duration::ZERO;
    while passed < time {
        fixture.total += 100 * KIB;
        fixture.scheduler.on_arrived(path, fixture.total, fixture.now);
        fixture.pass(step);
        passed += step;
    }
}

#[test]
fn a_stream_that_stalls_at_a_path_that_flows_is_asked_of_another() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..16 * KIB);
    f.lease(2, B, 0..16 * KIB);
    assert_eq!(f.activated().len(), 4, "all of it is asked of the first");
    f.receive(A, 0..4 * KIB);
    flow(&mut f, A, limits::SUSPECT_AFTER);
    assert_eq!(f.activated(), [], "a lost packet's repetition takes so long");
    flow(&mut f, A, SILENT);
    assert_eq!(f.activated()[0], (B, 4 * KIB..8 * KIB));
}

#[test]
fn an_early_lease_of_what_has_come_is_done_at_once() {
    let mut f = Fixture::new();
    let dialed = PathId(3);
    f.scheduler.add_path(dialed, f.now);
    f.lease(1, A, 0..4 * KIB);
    f.receive(A, 0..KIB);
    f.lease(2, dialed, 0..KIB);
    assert_eq!(f.reports(), [(2, LeaseOutcome::Done)]);
}

#[test]
fn what_overtakes_its_lease_is_not_asked_for_again() {
    let mut f = Fixture::new();
    f.receive(PathId::PRIMARY, 0..KIB);
    f.take(f.own_lease(0..4 * KIB, 4 * KIB));
    assert_eq!((f.activated(), f.scheduler.pieces()), (vec![], 1));
    f.receive(PathId::PRIMARY, KIB..4 * KIB);
    assert_eq!((f.reports(), f.scheduler.pieces()), (vec![(0, LeaseOutcome::Done)], 0));
}

#[test]
fn a_lease_that_all_of_its_bytes_overtook_is_credited_with_them() {
    let mut f = Fixture::new();
    lock(&f.recv).receive_fin(PathId::PRIMARY, KIB).unwrap();
    f.receive(PathId::PRIMARY, 0..KIB);
    let lease = f.own_lease(0..KIB, KIB);
    // Before its reader has seen the end of the stream, and after.
    for halves in [f.streams.touch(f.id, f.now).unwrap(), None] {
        f.scheduler.handle_lease(lease.clone(), halves, f.now).unwrap();
        let events = f.scheduler.take_events();
        assert!(
            matches!(&events[..], [SchedulerEvent::Send(_, M::LeaseReport(m))]
                if (m.outcome, m.delivered) == (LeaseOutcome::Done, KIB)),
            "{events:?}"
        );
    }
}

#[test]
fn a_path_that_would_come_too_late_is_left_out() {
    let mut f = Fixture::new();
    f.lease_near_and_far(0..64 * KIB);
    let asked = f.activated();
    assert!(
        asked.iter().all(|(path, _)| *path == A),
        "A brings all in four round trips: {asked:?}"
    );
}

#[test]
fn what_slow_paths_may_bring_twice_is_bounded_by_the_budget() {
    let mut f = Fixture::new();
    let budget = f.scheduler.double_budget();
    f.scheduler.ledger.charges.charge(Cause::Silent, 0, budget, f.now);
    f.lease(1, A, 0..256 * KIB);
    f.lease(2, B, 0..256 * KIB);
    f.sent();
    flow(&mut f, A, Duration::from_secs(1));
    assert_eq!(f.activated(), []);
}
