//! Paths that die, misbehave, leave or never come: the stream is whole through the others, and the
//! primary is told why (2.2 to 2.5).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::hostile::{self, Peer, frame, packet};
use common::{Rng, Servers, client, fill, identity, object, serve_leases, within};
use kwik::{
    Code, LeaseOutcome, PathError, PathId, PathStatus, PrimarySession, RecvStream, SendStream,
    Session, SessionId, StreamId,
};
use kwik_proto::Dir;
use kwik_proto::wire::control::{
    Activate, AddPathRequest, Lease, MaxStreams, RawPacketTransmission, SessionClose,
    StreamCreateNotification, StreamReset,
};
use kwik_proto::wire::{ControlMessage, StreamKind};
use tokio::time::timeout;

const EDGE: u8 = 70;

/// An object of `size` bytes as a stream whose bytes only leases bring; at both ends.
async fn extent(
    (session, primary): (&Session, &PrimarySession),
    size: u64,
) -> (SendStream, RecvStream) {
    let mut stream = primary.session().open_uni().await.unwrap();
    stream.reserve(size).unwrap();
    let recv = session.accept_uni().await.unwrap();
    assert_eq!(stream.id(), recv.id());
    (stream, recv)
}

/// Adds a path to an edge that speaks QUIC by hand and has let the client in.
async fn add_hostile(primary: &PrimarySession, listener: &quinn::Endpoint) -> (PathId, Peer) {
    let key = identity(EDGE).fingerprint();
    let add = primary.add_path(listener.local_addr().unwrap(), key);
    let (path, peer) = tokio::join!(add, Peer::welcome(listener));
    (path.unwrap(), peer)
}

/// A path to one of several hostile edges: who was isolated does not come back to its session.
async fn add_other(primary: &PrimarySession, other: u8) -> (PathId, Peer) {
    let own = identity(EDGE + 1 + other);
    let listener = hostile::listener(&own);
    let add = primary.add_path(listener.local_addr().unwrap(), own.fingerprint());
    let (path, peer) = tokio::join!(add, Peer::welcome(&listener));
    (path.unwrap(), peer)
}

/// Waits until the primary knows that a path is gone: why.
async fn gone(primary: &PrimarySession, path: PathId) -> String {
    loop {
        let changed = primary.path_changed();
        if let Some(info) = primary.dead_paths().into_iter().find(|info| info.id == path) {
            return info.reason;
        }
        // A change while nobody waited is seen at the next look.
        timeout(Duration::from_millis(20), changed).await.ok();
    }
}

/// Whether a lease ended with just this missing.
fn is_lost(outcome: &Option<LeaseOutcome>, missing: std::ops::Range<u64>) -> bool {
    matches!(outcome, Some(LeaseOutcome::Lost(ranges)) if ranges[..] == [missing])
}

/// What a hostile edge does with its first lease: bytes of a data stream, or control frames.
type Crime = fn(&Lease, &Activate) -> Vec<u8>;

fn crimes() -> Vec<(&'static str, Code, Crime)> {
    vec![
        ("twice in it", Code::SecondaryStreamIsolation, |lease, piece| {
            let bytes = || object(piece.range.start..piece.range.start + 99);
            let once =
                || packet(vec![frame(lease.stream_id.as_u64(), piece.range.start, bytes(), false)]);
            [once(), once()[1..].to_vec()].concat()
        }),
        ("out of order in it", Code::SecondaryStreamIsolation, |lease, piece| {
            packet(vec![frame(lease.stream_id.as_u64(), piece.range.start + 1, vec![1; 5], false)])
        }),
        ("outside its lease", Code::SecondaryStreamIsolation, |lease, _| {
            packet(vec![frame(lease.stream_id.as_u64(), lease.range.end, vec![1; 5], false)])
        }),
        ("beyond the final size", Code::SecondaryStreamIsolation, |lease, _| {
            packet(vec![frame(lease.stream_id.as_u64(), 1 << 40, vec![1; 5], false)])
        }),
        ("into a stream without its lease", Code::SecondaryStreamIsolation, |_, _| {
            packet(vec![frame(StreamId::from_u64(3).as_u64(), 0, vec![1; 5], false)])
        }),
        ("into a new stream", Code::SecondaryStreamIsolation, |lease, _| {
            packet(vec![frame(lease.stream_id.as_u64() + 4, 0, vec![1; 5], false)])
        }),
        ("into a new bidirectional stream", Code::SecondaryStreamIsolation, |_, _| {
            packet(vec![frame(1, 0, vec![1; 5], true)])
        }),
        ("into what the client writes", Code::InvalidStreamRole, |_, _| {
            packet(vec![frame(2, 0, vec![1; 5], false)])
        }),
        ("a truncated frame", Code::InvalidFrame, |lease, piece| {
            packet(vec![frame(
                lease.stream_id.as_u64(),
                piece.range.start,
                object(piece.range.start..piece.range.start + 99),
                false,
            )])[..50]
                .to_vec()
        }),
        ("a packet without end", Code::InvalidFrame, |_, _| vec![0, 0xff, 0xff, 0xff, 0xff, 0xf]),
        ("a raw packet", Code::InvalidStreamRole, |_, _| {
            let raw = RawPacketTransmission { sequence: 1, ..<_>::default() };
            hostile::raw_stream(&[raw])
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_writes_where_it_may_not_is_cut_off_and_the_stream_is_whole() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (good, edge) = servers.add_edge(&primary, 0).await;
        serve_leases(edge);
        let cases = crimes();
        // So that stream 0 of the server is open and has no lease of the hostile edge.
        let (_plain, _reader) = extent((&session, &primary), 10).await;
        let mut rng = Rng(1);
        for batch in cases.chunks(3) {
            // Dials are limited, so each session sees a few crimes only.
            let (session, primary) = if batch[0].0 == "twice in it" {
                (session.clone(), primary.clone())
            } else {
                let (session, primary) = servers.connect(&client()).await;
                let (own, edge) = servers.add_edge(&primary, 0).await;
                assert_eq!(own, good);
                serve_leases(edge);
                let (plain, reader) = extent((&session, &primary), 10).await;
                std::mem::forget((plain, reader));
                (session, primary)
            };
            for (other, (what, code, crime)) in (0..).zip(batch) {
                let size = 1_000_000 + rng.below(1_000_000);
                let (bad, mut peer) = add_other(&primary, other).await;
                let (mut stream, mut recv) = extent((&session, &primary), size).await;
                let id = stream.id();
                let mut lost = primary.lease(id, 0..size, bad, Bytes::new()).unwrap();
                let (lease, piece) = peer.hear_activation().await;
                peer.throw(crime(&lease, &piece)).await;
                peer.expect(*code, what).await;
                let reason = gone(&primary, bad).await;
                assert!(reason.contains(code.name()), "{what}: {reason}");
                let LeaseOutcome::Lost(_) = lost.outcome().await.unwrap().outcome.unwrap() else {
                    panic!("{what}: the lease is lost")
                };
                let mut done = primary.lease(id, 0..size, good, Bytes::new()).unwrap();
                stream.finish().unwrap();
                let read = recv.read_to_end(1 << 30).await.unwrap();
                assert!(read == object(0..size), "{what}: {} of {size}", read.len());
                assert_eq!(done.outcome().await.unwrap().outcome, Some(LeaseOutcome::Done));
            }
            let bi = timeout(Duration::from_millis(30), session.accept_bi());
            assert!(bi.await.is_err(), "a stream that an edge opened");
            let uni = timeout(Duration::from_millis(30), session.accept_uni());
            assert!(uni.await.is_err(), "a stream that an edge opened");
            assert_eq!(session.close_reason(), None);
        }
    })
    .await;
}

/// What an edge may not say.
fn control_crimes() -> Vec<(Code, ControlMessage)> {
    use ControlMessage as M;
    let stream_id = StreamId::from_u64(3);
    let path = AddPathRequest {
        path_id: PathId(9),
        session_id: None,
        target_address: String::new(),
        server_key_hash: identity(EDGE).fingerprint(),
        grant: Bytes::new(),
    };
    let reset = StreamReset { stream_id, code: 1, final_size: 0 };
    let created = StreamCreateNotification { stream_id, ..<_>::default() };
    let answer = hostile::welcome(SessionId([5; 16]));
    let limit = MaxStreams { dir: Dir::Uni, maximum: 1000, first_streams: 0 };
    vec![
        (Code::InvalidStreamRole, M::Lease(Lease::default())),
        (Code::InvalidStreamRole, M::AddPathRequest(path)),
        (Code::InvalidStreamRole, M::StreamReset(reset)),
        (Code::InvalidStreamRole, M::StreamCreateNotification(created)),
        (Code::InvalidStreamRole, M::AuthenticationResponse(answer)),
        (Code::InvalidStreamRole, M::MaxStreams(limit)),
        (Code::PathDead, M::SessionClose(SessionClose { code: 5, reason: "bye".into() })),
    ]
}

#[tokio::test]
async fn an_edge_that_breaks_the_control_plane_is_cut_off() {
    within(async {
        let servers = Servers::new(0);
        let crimes = control_crimes();
        for batch in crimes.chunks(4) {
            let (session, primary) = servers.connect(&client()).await;
            for (other, (code, crime)) in (0..).zip(batch) {
                let (path, mut peer) = add_other(&primary, other).await;
                peer.say(crime.clone()).await;
                peer.expect(*code, &format!("{crime:?}")).await;
                let reason = gone(&primary, path).await;
                assert!(reason.contains(code.name()), "{reason}");
            }
            assert_eq!(session.close_reason(), None);
        }
        let (session, primary) = servers.connect(&client()).await;
        let (path, mut peer) = add_other(&primary, 0).await;
        peer.say_bytes(&[0xff; 12]).await;
        peer.expect(Code::InvalidFrame, "garbage").await;
        assert!(gone(&primary, path).await.contains("KWIK_INVALID_FRAME"));
        let (path, mut peer) = add_other(&primary, 1).await;
        peer.send.finish().unwrap();
        peer.expect(Code::InvalidFrame, "the end").await;
        gone(&primary, path).await;
        // A mapped stream of a later version is not wanted, and no crime.
        let (path, mut peer) = add_other(&primary, 2).await;
        let mut bytes = BytesMut::new();
        StreamKind::Secondary.encode(&mut bytes);
        let stream = peer.throw(bytes.freeze()).await;
        stream.stopped().await.unwrap();
        peer.ping().await;
        assert!(primary.active_paths().iter().any(|info| info.id == path));
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_whole_when_an_edge_is_killed_in_the_middle() {
    within(async {
        let mut rng = Rng(3);
        for round in 0..5 {
            let servers = Servers::new(2);
            let (session, primary) = servers.connect(&client()).await;
            let (one, first) = servers.add_edge(&primary, 0).await;
            let (two, second) = servers.add_edge(&primary, 1).await;
            serve_leases(first);
            serve_leases(second);
            let size = 8_000_000 + rng.below(2_000_000);
            let (mut stream, mut recv) = extent((&session, &primary), size).await;
            let id = stream.id();
            let mut lost = primary.lease(id, 0..size, one, Bytes::new()).unwrap();
            let _kept = primary.lease(id, 0..size, two, Bytes::new()).unwrap();
            stream.finish().unwrap();
            let kill_at = rng.below(size / 2) as usize;
            let mut read = Vec::new();
            let mut killed = false;
            while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
                read.extend_from_slice(&chunk.bytes);
                if !killed && read.len() >= kill_at {
                    killed = true;
                    servers.edges[0].close(1, b"killed");
                }
            }
            assert!(read == object(0..size), "round {round}: {} of {size}", read.len());
            let reason = gone(&primary, one).await;
            // Its last words may be lost, as any packet.
            assert!(reason.contains("KWIK_PATH_DEAD"), "{reason}");
            lost.outcome().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_whole_when_an_edge_falls_silent() {
    within(async {
        let servers = Servers::new(1);
        let listener = hostile::listener(&identity(EDGE));
        let (session, primary) = servers.connect(&client()).await;
        let (good, edge) = servers.add_edge(&primary, 0).await;
        serve_leases(edge);
        let (bad, mut peer) = add_hostile(&primary, &listener).await;
        let size = 4_000_000;
        let (mut stream, mut recv) = extent((&session, &primary), size).await;
        let id = stream.id();
        let _silent = primary.lease(id, 0..size, bad, Bytes::new()).unwrap();
        // It takes its piece and a part of it comes; then nothing more is heard of it.
        let (lease, piece) = peer.hear_activation().await;
        let start = object(piece.range.start..piece.range.start + 100);
        peer.throw(packet(vec![frame(lease.stream_id.as_u64(), piece.range.start, start, false)]))
            .await;
        let _kept = primary.lease(id, 0..size, good, Bytes::new()).unwrap();
        stream.finish().unwrap();
        let read = recv.read_to_end(1 << 30).await.unwrap();
        assert!(read == object(0..size), "{} of {size}", read.len());
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_path_under_load_loses_nothing() {
    within(async {
        let servers = Servers::new(2);
        let (session, primary) = servers.connect(&client()).await;
        let (one, first) = servers.add_edge(&primary, 0).await;
        let (two, second) = servers.add_edge(&primary, 1).await;
        serve_leases(first);
        serve_leases(second);
        let size = 20_000_000;
        let (mut stream, mut recv) = extent((&session, &primary), size).await;
        let id = stream.id();
        let mut removed = primary.lease(id, 0..size, one, Bytes::new()).unwrap();
        let _kept = primary.lease(id, 0..size, two, Bytes::new()).unwrap();
        stream.finish().unwrap();
        let reading = tokio::spawn(async move { recv.read_to_end(1 << 30).await });
        primary.remove_path(one).await.unwrap();
        assert!(reading.await.unwrap().unwrap() == object(0..size));
        assert!(removed.outcome().await.unwrap().outcome.is_some());
        let info = primary.all_paths().into_iter().find(|info| info.id == one).unwrap();
        assert_eq!((info.status, info.reason.as_str()), (PathStatus::Dead, "removed"));
        let again = primary.remove_path(one).await.unwrap_err();
        assert!(matches!(again, PathError::Refused(error) if error.code == Code::PathDead));
        let unknown = primary.remove_path(PathId(99)).await.unwrap_err();
        assert!(matches!(unknown, PathError::Refused(error) if error.code == Code::PathNotFound));
        let own = primary.remove_path(PathId::PRIMARY).await.unwrap_err();
        assert!(matches!(own, PathError::Refused(error) if error.code == Code::InvalidStreamRole));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_marked_dead_is_closed_and_its_lease_lost() {
    within(async {
        let servers = Servers::new(2);
        let (session, primary) = servers.connect(&client()).await;
        let (one, first) = servers.add_edge(&primary, 0).await;
        let (two, second) = servers.add_edge(&primary, 1).await;
        serve_leases(second);
        let (mut stream, mut recv) = extent((&session, &primary), 500_000).await;
        let id = stream.id();
        let mut lost = primary.lease(id, 0..500_000, one, Bytes::new()).unwrap();
        let _idle = first.accept_lease().await.unwrap();
        primary.mark_dead(one).unwrap();
        assert_eq!(primary.mark_dead(one).unwrap_err().code, Code::PathDead);
        assert!(is_lost(&lost.outcome().await.unwrap().outcome, 0..500_000));
        first.closed().await;
        let _done = primary.lease(id, 0..500_000, two, Bytes::new()).unwrap();
        stream.finish().unwrap();
        assert!(recv.read_to_end(1 << 20).await.unwrap() == object(0..500_000));
        assert_eq!(primary.dead_paths().len(), 1);
        assert_eq!(primary.active_paths().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_edge_that_gives_a_lease_up_is_asked_no_more() {
    within(async {
        let servers = Servers::new(2);
        let (session, primary) = servers.connect(&client()).await;
        let (one, first) = servers.add_edge(&primary, 0).await;
        let (two, second) = servers.add_edge(&primary, 1).await;
        let size = 300_000;
        let (mut stream, mut recv) = extent((&session, &primary), size).await;
        let id = stream.id();
        let mut lost = primary.lease(id, 0..size, one, Bytes::from_static(b"no")).unwrap();
        let writer = first.accept_lease().await.unwrap();
        assert_eq!(writer.command(), &b"no"[..]);
        writer.abandon("no such file");
        let ended = lost.outcome().await.unwrap();
        assert!(is_lost(&ended.outcome, 0..size));
        assert_eq!(ended.reason, "no such file");
        let mut taken_back = primary.lease(id, 0..size, one, Bytes::new()).unwrap();
        let mut writer = first.accept_lease().await.unwrap();
        taken_back.revoke();
        assert_eq!(taken_back.outcome().await.unwrap().outcome, Some(LeaseOutcome::Stopped));
        while writer.activated().await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut done = primary.lease(id, 0..size, two, Bytes::new()).unwrap();
        tokio::spawn(fill(second.accept_lease().await.unwrap()));
        stream.finish().unwrap();
        assert!(recv.read_to_end(1 << 20).await.unwrap() == object(0..size));
        assert_eq!(done.outcome().await.unwrap().outcome, Some(LeaseOutcome::Done));
        // Both ends forget what is over.
        drop((recv, stream, done, lost, taken_back));
        while primary.session().stats().streams + session.stats().streams > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((session.stats().leases, session.stats().pieces), (0, 0));
        assert_eq!(primary.session().stats().leases, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_whose_connection_breaks_is_dialed_again_and_the_primary_hears_of_it() {
    within(async {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let (_session, primary) = servers.connect(&client()).await;
        let mut events = primary.path_events();
        let mut next = async || events.next().await.unwrap();
        let (path, peer) = add_hostile(&primary, &listener).await;
        let made = next().await;
        assert_eq!((made.path, made.status), (path, PathStatus::Active));
        peer.connection.close(9u32.into(), b"out of power");
        let again = Peer::welcome(&listener);
        let mut again = again.await;
        let dead = next().await;
        assert_eq!((dead.status, dead.ended), (PathStatus::Dead, false));
        assert!(dead.reason.contains("out of power") && dead.figures.is_some(), "{dead:?}");
        let alive = next().await;
        assert_eq!((alive.status, alive.reason.as_str()), (PathStatus::Active, "connected again"));
        let info = primary.active_paths().into_iter().find(|info| info.id == path).unwrap();
        assert_eq!((info.deaths, info.ended), (1, false));
        // It serves again, under the same id.
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.reserve(1000).unwrap();
        primary.lease(stream.id(), 0..1000, path, Bytes::new()).unwrap();
        let (lease, _) = again.hear_activation().await;
        assert_eq!(lease.path_id, path);
        primary.mark_dead(path).unwrap();
        let gone = next().await;
        assert_eq!((gone.status, gone.ended), (PathStatus::Dead, true));
        again.expect(Code::PathDead, "given up").await;
        let dialed = timeout(Duration::from_secs(1), listener.accept()).await;
        assert!(dialed.is_err(), "a path that was given up is not dialed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_may_bring_is_told_and_comes_when_it_is_leased_anew() {
    within(async {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let (session, primary) = servers.connect(&client()).await;
        let mut uncovered = primary.uncovered();
        let (path, mut peer) = add_hostile(&primary, &listener).await;
        let (mut stream, mut recv) = extent((&session, &primary), 100_000).await;
        stream.finish().unwrap();
        let mut lease = primary.lease(stream.id(), 0..100_000, path, Bytes::new()).unwrap();
        peer.hear_activation().await;
        peer.connection.close(9u32.into(), b"out of power");
        let found = uncovered.next().await.unwrap();
        assert_eq!((found.stream, found.ranges.len()), (stream.id(), 1));
        assert_eq!(found.ranges[0], 0..100_000);
        assert!(is_lost(&lease.outcome().await.unwrap().outcome, 0..100_000));
        let (_own, writer) = primary.lease_own(stream.id(), 0..100_000).unwrap();
        tokio::spawn(fill(writer));
        assert!(recv.read_to_end(1 << 20).await.unwrap() == object(0..100_000));
        assert_eq!(uncovered.missed(), 0);
    })
    .await;
}
