//! The roles against each other, message by message; the harness in `tests/` does so at random.

mod redial;
mod resume;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use super::{
    AcceptContext, Accepted, Action, ClientConfig, ClientSession, Machine, PrimarySession,
    SecondarySession, accept,
};
use crate::ack::{ArrivedPackets, KeptFrames, Lane};
use crate::auth::{AcceptAny, Identity};
use crate::path::PathStatus;
use crate::stream::{Halves, ReceivedBytes, StreamWake};
use crate::sync::lock;
use crate::wire::control::{self, Ack, ControlMessage as M, PathFigures};
use crate::wire::{ControlDecoder, PacketFrame};
use crate::{Code, CodedError, Config, Dir, LeaseId, PathId, SessionId, limits};

const EDGE: PathId = PathId(1);
const EXPORTER: [u8; 32] = [0; 32];

/// A client and its primary, joined by function calls.
struct Pair {
    client: ClientSession,
    primary: PrimarySession,
    to_primary: ControlDecoder,
    to_client: ControlDecoder,
    /// What the client sent on its edge's path, not delivered.
    to_edge: Vec<Bytes>,
    at_edge: ControlDecoder,
    now: Instant,
}

fn context<'a>(
    identity: &'a Arc<Identity>,
    trusted: &'a BTreeSet<crate::auth::Fingerprint>,
    settings: &'a Config,
    now: Instant,
) -> AcceptContext<'a> {
    AcceptContext {
        identity,
        trusted,
        authenticator: &AcceptAny,
        settings,
        exporter: &EXPORTER,
        session_id: SessionId([1; 16]),
        now,
        wall: SystemTime::UNIX_EPOCH,
    }
}

fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed([seed; 32]))
}

/// The primary ends a stream in a packet that arrives.
fn finish(pair: &mut Pair, halves: &Halves) {
    let size = lock(halves.send.as_ref().unwrap()).finish().unwrap();
    let stream_id = halves.id.as_u64();
    let fin = PacketFrame { stream_id, offset: size, payload: Bytes::new(), fin: true };
    let mut arrived = ArrivedPackets::default();
    arrived.note(
        lock(&pair.primary.sent()).on_sent(
            0,
            KeptFrames { plain: vec![fin], ..<_>::default() },
            Lane(0),
        ),
        0,
        true,
    );
    pair.client.on_packets(PathId::PRIMARY, &arrived, pair.now).unwrap();
}

fn poll(machine: &mut dyn Machine, now: Instant) -> Vec<(PathId, Bytes)> {
    std::iter::from_fn(|| machine.poll_transmit(now)).collect()
}

fn decode(decoder: &mut ControlDecoder, bytes: Bytes) -> Vec<M> {
    decoder.handle_input(bytes);
    std::iter::from_fn(|| decoder.poll_frame().unwrap()).collect()
}

impl Pair {
    fn new() -> Self {
        let now = crate::test_now();
        let config = ClientConfig::default();
        let address = ([127, 0, 0, 1], 1).into();
        let mut client = ClientSession::new(config, Identity::from_seed([9; 32]), address, now);
        let mut to_primary = ControlDecoder::new();
        let (_, first) = client.poll_transmit(now).unwrap();
        let first = decode(&mut to_primary, first);
        let (trusted, settings) = (BTreeSet::new(), Config::default());
        let accepted = accept(&first[0], &context(&identity(1), &trusted, &settings, now));
        let Ok(Accepted::Primary(primary)) = accepted else { panic!("{accepted:?}") };
        let to_client = ControlDecoder::new();
        let (to_edge, at_edge) = (Vec::new(), ControlDecoder::new());
        let primary = *primary;
        let mut pair = Self { client, primary, to_primary, to_client, to_edge, at_edge, now };
        pair.exchange();
        pair
    }

    /// Delivers between client and primary until both are silent.
    fn exchange(&mut self) {
        loop {
            let down = poll(&mut self.primary, self.now);
            let up = poll(&mut self.client, self.now);
            if down.is_empty() && up.is_empty() {
                return;
            }
            for (_, bytes) in down {
                for message in decode(&mut self.to_client, bytes) {
                    self.client.handle_control(PathId::PRIMARY, message, self.now);
                }
            }
            for (path, bytes) in up {
                if !path.is_primary() {
                    self.to_edge.push(bytes);
                    continue;
                }
                for message in decode(&mut self.to_primary, bytes) {
                    self.primary.handle_control(PathId::PRIMARY, message, self.now);
                }
            }
        }
    }

    /// Lets time pass, and what is due be done.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.primary.handle_timeout(self.now);
        self.exchange();
    }

    fn add_edge(&mut self) -> SecondarySession {
        self.ask_for_edge();
        self.join_edge()
    }

    /// Orders the client to dial an edge.
    fn ask_for_edge(&mut self) {
        let print = identity(2).fingerprint();
        let path =
            self.primary.add_path("127.0.0.1:2", print, self.now, SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(path, EDGE);
    }

    /// The client reaches that edge, which accepts it.
    fn join_edge(&mut self) -> SecondarySession {
        self.exchange();
        self.client.handle_connected(EDGE, &EXPORTER, self.now);
        self.exchange();
        let first = decode(&mut self.at_edge, self.to_edge.remove(0));
        let trusted = BTreeSet::from([identity(1).fingerprint()]);
        let settings = Config::default();
        let accepted = accept(&first[0], &context(&identity(2), &trusted, &settings, self.now));
        let Ok(Accepted::Secondary(mut edge)) = accepted else { panic!("{accepted:?}") };
        let (_, answer) = edge.poll_transmit(self.now).unwrap();
        for message in decode(&mut ControlDecoder::new(), answer) {
            self.client.handle_control(EDGE, message, self.now);
        }
        self.exchange();
        assert_eq!(self.primary.paths().status(EDGE), Ok(PathStatus::Active));
        *edge
    }
}

#[test]
fn a_path_that_is_removed_while_it_connects_ends_at_both_ends() {
    let mut pair = Pair::new();
    let print = identity(2).fingerprint();
    pair.primary.add_path("127.0.0.1:2", print, pair.now, SystemTime::UNIX_EPOCH).unwrap();
    pair.exchange();
    pair.primary.remove_path(EDGE, pair.now).unwrap();
    pair.exchange();
    assert_eq!(pair.primary.paths().status(EDGE).unwrap_err().code, Code::PathDead);
    let closed = std::iter::from_fn(|| pair.client.poll_action())
        .any(|action| matches!(action, Action::ClosePath(EDGE, _)));
    assert!(closed);
}

#[test]
fn a_path_that_is_leaving_does_not_come_back_by_a_late_notification() {
    let mut pair = Pair::new();
    let _edge = pair.add_edge();
    pair.primary.remove_path(EDGE, pair.now).unwrap();
    let late = control::PathStatusNotification {
        path_id: EDGE,
        status: PathStatus::Degraded,
        reason: String::new(),
        report: None,
        ended: false,
    };
    pair.primary.handle_control(PathId::PRIMARY, M::PathStatusNotification(late), pair.now);
    assert_eq!(pair.primary.paths().status(EDGE), Ok(PathStatus::Disconnecting));
}

#[test]
fn a_lost_lease_counts_for_what_it_brought() {
    let mut pair = Pair::new();
    let _edge = pair.add_edge();
    let halves = pair.primary.streams_mut().open(Dir::Uni, pair.now).unwrap();
    let extent = lock(halves.send.as_ref().unwrap()).reserve(100).unwrap();
    finish(&mut pair, &halves);
    pair.primary.lease(halves.id, extent, EDGE, Bytes::new(), pair.now).unwrap();
    pair.exchange();
    let recv = pair.client.streams_mut().receiving(EDGE, halves.id, pair.now).unwrap().unwrap();
    let received = lock(&recv).receive(EDGE, 0, vec![0; 60].into()).unwrap();
    pair.client.on_received(
        EDGE,
        halves.id,
        ReceivedBytes { total: 60, asked: received.asked, ..<_>::default() },
        pair.now,
    );
    pair.client.handle_path_lost(EDGE, "broken", pair.now);
    pair.exchange();
    let lost = pair.primary.issued(LeaseId(0)).unwrap();
    assert_eq!(
        lost.outcome,
        Some(crate::lease::LeaseOutcome::Lost(std::iter::once(60..100).collect()))
    );
    assert_eq!(lost.delivered, 60);
    pair.primary.lease(halves.id, 60..100, PathId::PRIMARY, Bytes::new(), pair.now).unwrap();
    pair.exchange();
    let received = lock(&recv).receive(PathId::PRIMARY, 60, vec![0; 40].into()).unwrap();
    pair.client.on_received(
        PathId::PRIMARY,
        halves.id,
        ReceivedBytes { total: 40, asked: received.asked, ..<_>::default() },
        pair.now,
    );
    pair.now += limits::ACK_END_DELAY;
    pair.exchange();
    assert_eq!(pair.primary.streams().iter().count(), 0, "all of it was delivered");
    assert_eq!(pair.primary.writers(), 0);
}

#[test]
fn a_stream_that_has_come_whole_leaves_no_lease_when_its_reader_stops() {
    let mut pair = Pair::new();
    let halves = pair.primary.streams_mut().open(Dir::Uni, pair.now).unwrap();
    let extent = lock(halves.send.as_ref().unwrap()).reserve(10).unwrap();
    finish(&mut pair, &halves);
    pair.primary.lease(halves.id, extent, PathId::PRIMARY, Bytes::new(), pair.now).unwrap();
    pair.exchange();
    let streams = pair.client.streams_mut();
    let recv = streams.receiving(PathId::PRIMARY, halves.id, pair.now).unwrap().unwrap();
    streams.accept(Dir::Uni).unwrap();
    lock(&recv).receive(PathId::PRIMARY, 0, vec![0; 10].into()).unwrap();
    lock(&recv).receive_fin(PathId::PRIMARY, 10).unwrap();
    pair.client.stop(halves.id, 1, pair.now);
    pair.now += limits::ACK_END_DELAY;
    pair.exchange();
    assert_eq!(pair.primary.streams().iter().count(), 0);
    assert_eq!(pair.client.stats(pair.now).streams, 0);
}

#[test]
fn a_second_introduction_ends_the_session() {
    let mut pair = Pair::new();
    let request = control::AuthenticationRequest::default();
    pair.primary.handle_control(PathId::PRIMARY, M::AuthenticationRequest(request), pair.now);
    let end = std::iter::from_fn(|| pair.primary.poll_action()).last();
    let code = Code::InvalidStreamRole.as_u64();
    assert!(matches!(end, Some(Action::Close(c, _)) if c == code), "{end:?}");
}

#[test]
fn reasons_of_any_length_fit_their_messages() {
    let mut pair = Pair::new();
    let mut edge = pair.add_edge();
    let long = "ä".repeat(limits::MAX_TEXT);
    edge.close(u64::MAX, long.clone().into(), pair.now);
    edge.close(u64::MAX, long.clone().into(), pair.now);
    assert_eq!(poll(&mut edge, pair.now).len(), 1);
    pair.primary.close(u64::MAX, long.clone().into(), pair.now);
    pair.client.close(u64::MAX, long.clone().into(), pair.now);
    let refused = Pair::new().primary.add_path(
        &long,
        identity(2).fingerprint(),
        pair.now,
        SystemTime::UNIX_EPOCH,
    );
    assert!(refused.is_err());
}

#[test]
fn nothing_is_leased_of_a_stream_that_was_reset() {
    let mut pair = Pair::new();
    let sent = pair.client.streams_mut().open(Dir::Bi, pair.now).unwrap();
    pair.exchange();
    assert!(pair.primary.streams_mut().accept(Dir::Bi).is_none(), "its first frame may follow");
    pair.now += limits::NOTICE_DELAY;
    pair.exchange();
    let halves = pair.primary.streams_mut().accept(Dir::Bi).unwrap();
    assert_eq!(halves.id, sent.id);
    let extent = lock(halves.send.as_ref().unwrap()).reserve(10).unwrap();
    pair.primary.streams_mut().reset(halves.id, 3);
    let result = pair.primary.lease(halves.id, extent, PathId::PRIMARY, Bytes::new(), pair.now);
    assert_eq!(result.unwrap_err().code, Code::OffsetMismatch);
    pair.exchange();
    let woken = std::iter::from_fn(|| pair.client.poll_action())
        .any(|a| a == Action::Wake(super::Wake::Stream(StreamWake::Readable(sent.id))));
    assert!(woken);
}

#[test]
fn the_primary_hears_how_a_path_does_and_what_nobody_may_bring() {
    let mut pair = Pair::new();
    let _edge = pair.add_edge();
    let mut uncovered = pair.primary.uncovered();
    let halves = pair.primary.streams_mut().open(Dir::Uni, pair.now).unwrap();
    let extent = lock(halves.send.as_ref().unwrap()).reserve(100).unwrap();
    pair.primary.lease(halves.id, extent, EDGE, Bytes::new(), pair.now).unwrap();
    pair.exchange();
    let recv = pair.client.streams_mut().receiving(EDGE, halves.id, pair.now).unwrap().unwrap();
    let received = lock(&recv).receive(EDGE, 0, vec![0; 60].into()).unwrap();
    pair.client.on_received(
        EDGE,
        halves.id,
        ReceivedBytes { total: 60, asked: received.asked, ..<_>::default() },
        pair.now,
    );
    let figures = PathFigures { sent_packets: 10, lost_packets: 1, ..<_>::default() };
    let sent = control::PathReport { path_id: EDGE, figures };
    pair.client.handle_control(EDGE, M::PathReport(sent), pair.now);
    pair.pass(limits::REPORT_INTERVAL);
    let stats = pair.primary.stats(pair.now);
    let figures = stats.paths.iter().find(|path| path.id == EDGE).unwrap().figures;
    assert_eq!((figures.received, figures.outstanding), (60, 40));
    assert_eq!((figures.sent_packets, figures.lost_packets), (10, 1));
    assert_eq!(figures.stalled, limits::REPORT_INTERVAL);
    pair.client.handle_path_lost(EDGE, "broken", pair.now);
    pair.exchange();
    let found = pair.primary.poll_uncovered(&mut uncovered).unwrap();
    assert_eq!((found.stream, found.ranges.len(), &found.ranges[0]), (halves.id, 1, &(60..100)));
    pair.primary.lease(halves.id, 60..100, PathId::PRIMARY, Bytes::new(), pair.now).unwrap();
    pair.exchange();
    assert_eq!(pair.primary.poll_uncovered(&mut uncovered), None);
}

#[test]
fn an_ack_of_a_packet_that_was_never_sent_ends_the_session() {
    let mut pair = Pair::new();
    lock(&pair.client.sent()).on_sent(5, KeptFrames::default(), Lane(0));
    let ack = |first, last| {
        let ranges = vec![first..=last];
        M::Ack(Ack { ranges, control_frames: 0 })
    };
    pair.client.handle_control(PathId::PRIMARY, ack(1, 1), pair.now);
    assert_eq!(lock(&pair.client.sent()).outstanding(), 0);
    for machine in [&mut pair.client as &mut dyn Machine, &mut pair.primary] {
        machine.handle_control(PathId::PRIMARY, ack(1, 2), pair.now);
        let invalid = Code::InvalidFrame.as_u64();
        let closed = std::iter::from_fn(|| machine.poll_action())
            .any(|action| matches!(action, Action::Close(code, _) if code == invalid));
        assert!(closed);
    }
}

#[test]
fn packets_are_acknowledged_in_time_although_nothing_else_is_sent() {
    let mut pair = Pair::new();
    for _ in 0..2 {
        let mut arrived = ArrivedPackets::default();
        arrived.note(
            lock(&pair.client.sent()).on_sent(5, KeptFrames::default(), Lane(0)),
            5,
            false,
        );
        pair.primary.on_packets(&arrived, pair.now).unwrap();
        pair.exchange();
        assert_eq!(lock(&pair.client.sent()).outstanding(), 5);
        let due = pair.primary.poll_timeout().unwrap();
        assert_eq!(due, pair.now + limits::ACK_DELAY);
        pair.now = due;
        pair.primary.handle_timeout(due);
        pair.exchange();
        assert_eq!(lock(&pair.client.sent()).outstanding(), 0);
        assert_eq!(pair.primary.poll_timeout(), None);
    }
}

#[test]
fn a_primary_that_never_answers_is_a_network_at_fault_and_no_trust_denied() {
    let now = crate::test_now();
    let (key, address) = (Identity::from_seed([9; 32]), ([127, 0, 0, 1], 1).into());
    let mut client = ClientSession::new(ClientConfig::default(), key, address, now);
    client.handle_timeout(now + limits::INTRODUCTION_TIMEOUT);
    let close = std::iter::from_fn(|| client.poll_action()).find_map(|action| match action {
        Action::Close(code, _) => Some(code),
        _ => None,
    });
    assert_eq!(close, Some(Code::PathDead.as_u64()));
}

/// Leases 100 bytes of a new stream to an edge that is still being dialed.
fn lease_early(pair: &mut Pair) -> LeaseId {
    let halves = pair.primary.streams_mut().open(Dir::Uni, pair.now).unwrap();
    let extent = lock(halves.send.as_ref().unwrap()).reserve(100).unwrap();
    pair.primary.lease(halves.id, extent, EDGE, Bytes::new(), pair.now).unwrap().0
}

#[test]
fn a_lease_travels_with_the_order_to_dial() {
    let mut pair = Pair::new();
    pair.ask_for_edge();
    let (taken_back, lease) = (lease_early(&mut pair), lease_early(&mut pair));
    pair.exchange();
    pair.primary.revoke(taken_back, pair.now);
    pair.join_edge();
    let told = pair.to_edge.drain(..).flat_map(|m| decode(&mut pair.at_edge, m));
    let told: Vec<_> = told.filter(|m| !matches!(m, M::Heartbeat(_))).collect();
    assert!(
        matches!(&told[..], [M::Lease(leased), M::Activate(asked)]
            if (leased.lease_id, asked.lease_id) == (lease, lease) && asked.range == (0..100)),
        "{told:?}"
    );
    let outcome = pair.primary.issued(taken_back).unwrap().outcome.clone();
    assert_eq!(outcome, Some(crate::lease::LeaseOutcome::Stopped));
}

#[test]
fn a_lease_is_lost_with_the_path_that_is_never_made() {
    let mut pair = Pair::new();
    pair.ask_for_edge();
    let lease = lease_early(&mut pair);
    pair.exchange();
    pair.client.handle_path_lost(EDGE, "refused", pair.now);
    pair.exchange();
    let outcome = pair.primary.issued(lease).unwrap().outcome.clone();
    assert_eq!(outcome, Some(crate::lease::LeaseOutcome::Lost(std::iter::once(0..100).collect())));
}

#[test]
fn what_waits_for_a_path_to_be_made_is_bounded_at_both_ends() {
    let mut pair = Pair::new();
    pair.ask_for_edge();
    for _ in 0..limits::MAX_EARLY_LEASES {
        lease_early(&mut pair);
    }
    pair.exchange();
    let halves = pair.primary.streams_mut().open(Dir::Uni, pair.now).unwrap();
    let extent = lock(halves.send.as_ref().unwrap()).reserve(100).unwrap();
    let refused = pair.primary.lease(halves.id, extent, EDGE, Bytes::new(), pair.now);
    assert_eq!(refused.unwrap_err().code, Code::LimitExceeded);
    let more = control::Lease {
        lease_id: LeaseId(1 << 20),
        stream_id: halves.id,
        range: 0..100,
        path_id: EDGE,
        ..control::Lease::default()
    };
    pair.client.handle_control(PathId::PRIMARY, M::Lease(more), pair.now);
    let close = std::iter::from_fn(|| pair.client.poll_action()).find_map(|action| match action {
        Action::Close(code, _) => Some(code),
        _ => None,
    });
    assert_eq!(close, Some(Code::LimitExceeded.as_u64()));
}
