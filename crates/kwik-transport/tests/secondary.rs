//! Secondary streams: they write where their lease allows, and only KWIK in the client sees them
//! (7.1 to 7.3, 7.6, 7.7).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::hostile::{self, Peer};
use common::secondary::{close, data, encode, open, update};
use common::{Rng, Servers, client, fill, identity, object, serve_leases, within};
use kwik::{
    Code, LeaseId, LeaseOutcome, MappingState, OpenStreamError, PathId, PrimarySession, RecvStream,
    SecondarySession, SecondaryStats, SendStream, Session, StreamId, WriteError,
};
use kwik_proto::limits;
use kwik_proto::wire::SecondaryEvent;
use kwik_proto::wire::control::{Activate, Lease};
use tokio::time::timeout;

const EDGE: u8 = 70;

/// An object of `size` bytes as a stream whose bytes only leases bring; at both ends.
async fn extent(
    (session, primary): (&Session, &PrimarySession),
    size: u64,
) -> (SendStream, RecvStream) {
    let mut stream = primary.session().open_uni().await.unwrap();
    stream.reserve(size).unwrap();
    stream.finish().unwrap();
    let recv = session.accept_uni().await.unwrap();
    assert_eq!(stream.id(), recv.id());
    (stream, recv)
}

async fn read(mut recv: RecvStream) -> Vec<u8> {
    recv.read_to_end(1 << 30).await.unwrap()
}

fn figures(session: &Session, path: PathId) -> SecondaryStats {
    let stats = session.stats();
    stats.paths.iter().find(|stats| stats.id == path).unwrap().secondary
}

/// Waits until the client's figures of a path are as they should be.
async fn until(session: &Session, path: PathId, wanted: impl Fn(&SecondaryStats) -> bool) {
    while !wanted(&figures(session, path)) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn shows_nothing(session: &Session) {
    assert!(timeout(Duration::from_millis(30), session.accept_uni()).await.is_err());
    assert!(timeout(Duration::from_millis(30), session.accept_bi()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fills_a_leased_range_between_plain_bytes() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        let id = stream.id();
        stream.write_chunk(object(0..10_000)).await.unwrap();
        let extent = stream.reserve(3_000_000).unwrap();
        let mut lease = primary.lease(id, extent.clone(), path, Bytes::new()).unwrap();
        let plain = tokio::spawn(async move {
            stream.write_chunk(object(3_010_000..3_020_000)).await.unwrap();
            stream.finish().unwrap();
        });
        let range = extent.clone();
        let writing = tokio::spawn(async move {
            let mut mapped = edge.open_stream(id, range.start).await.unwrap();
            assert_eq!((mapped.kwik_stream_id(), mapped.offset()), (id, range.start));
            assert_eq!(edge.mappings()[0].state, MappingState::Opening);
            let half = range.start + 1_234_567;
            mapped.write_chunk(object(range.start..half)).await.unwrap();
            let mapping = edge.mappings().remove(0);
            assert_eq!((mapping.bytes, mapping.place.offset), (1_234_567, half));
            mapped.write_all(&object(half..range.end)).await.unwrap();
            assert_eq!(mapped.finish(), range.end);
            assert_eq!(edge.mappings(), []);
            edge
        });
        let recv = session.accept_uni().await.unwrap();
        assert!(read(recv).await == object(0..3_020_000));
        let _edge = writing.await.unwrap();
        plain.await.unwrap();
        let outcome = lease.outcome().await.unwrap();
        assert_eq!(outcome.outcome, Some(LeaseOutcome::Done));
        assert_eq!(outcome.delivered, 3_000_000);
        until(&session, path, |stats| stats.active == 0 && stats.bytes == 3_000_000).await;
        let stats = figures(&session, path);
        assert_eq!((stats.mapped, stats.unmapped), (1, 0));
        shows_nothing(&session).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_before_its_offset_is_lost_and_others_bring_it() {
    within(async {
        let servers = Servers::new(2);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (other, plain) = servers.add_edge(&primary, 1).await;
        serve_leases(plain);
        let (stream, recv) = extent((&session, &primary), 2_000_000).await;
        let mut lease = primary.lease(stream.id(), 0..2_000_000, path, Bytes::new()).unwrap();
        let mut mapped = edge.open_stream(stream.id(), 300_001).await.unwrap();
        let writing = tokio::spawn(async move {
            mapped.write_chunk(object(300_001..2_000_000)).await.unwrap();
            mapped.finish()
        });
        let reading = tokio::spawn(read(recv));
        // The client tells at once that nobody may bring the beginning: the primary leases it anew.
        let again = primary.lease(stream.id(), 0..300_001, other, Bytes::new());
        assert!(reading.await.unwrap() == object(0..2_000_000));
        assert_eq!(writing.await.unwrap(), 2_000_000);
        let delivered = lease.outcome().await.unwrap().delivered;
        assert_eq!(delivered, 1_699_999);
        assert_eq!(again.unwrap().outcome().await.unwrap().outcome, Some(LeaseOutcome::Done));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_mapped_in_part_is_reported_with_what_is_missing() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (stream, recv) = extent((&session, &primary), 500_000).await;
        let id = stream.id();
        let mut lease = primary.lease(id, 0..500_000, path, Bytes::new()).unwrap();
        let mut mapped = edge.open_stream(id, 100_000).await.unwrap();
        mapped.write_chunk(object(100_000..400_000)).await.unwrap();
        drop(mapped);
        let outcome = lease.outcome().await.unwrap().outcome.unwrap();
        let LeaseOutcome::Lost(missing) = outcome else { panic!("{outcome:?}") };
        assert_eq!(missing, [0..100_000, 400_000..500_000]);
        let (_own, writer) = primary.lease_own(id, 0..500_000).unwrap();
        tokio::spawn(fill(writer));
        assert!(read(recv).await == object(0..500_000));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_moves_within_its_lease_and_to_another_stream() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (first, first_recv) = extent((&session, &primary), 900_000).await;
        let (second, second_recv) = extent((&session, &primary), 400_000).await;
        let (first, second) = (first.id(), second.id());
        let mut left = primary.lease(first, 0..900_000, path, Bytes::new()).unwrap();
        let mut mapped = edge.open_stream(first, 500_000).await.unwrap();
        mapped.write_chunk(object(500_000..700_000)).await.unwrap();
        // Back, as far as its lease goes.
        mapped.set_mapping(first, 0).await.unwrap();
        assert_eq!((mapped.kwik_stream_id(), mapped.offset()), (first, 0));
        mapped.write_chunk(object(0..300_000)).await.unwrap();
        // On, over what came already: it is passed over.
        mapped.set_mapping(first, 400_000).await.unwrap();
        mapped.write_chunk(object(400_000..800_000)).await.unwrap();
        assert_eq!(mapped.offset(), 800_000);
        let next = primary.lease(second, 0..400_000, path, Bytes::new()).unwrap();
        mapped.set_mapping(second, 0).await.unwrap();
        assert_eq!((mapped.kwik_stream_id(), mapped.offset()), (second, 0));
        mapped.write_chunk(object(0..400_000)).await.unwrap();
        mapped.finish();
        assert!(read(second_recv).await == object(0..400_000));
        let outcome = left.outcome().await.unwrap().outcome.unwrap();
        let LeaseOutcome::Lost(missing) = outcome else { panic!("{outcome:?}") };
        assert_eq!(missing, [300_000..400_000, 800_000..900_000]);
        drop(next);
        let (_own, writer) = primary.lease_own(first, 0..900_000).unwrap();
        tokio::spawn(fill(writer));
        assert!(read(first_recv).await == object(0..900_000));
        assert_eq!(figures(&session, path).unmapped, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_one_leaves_the_others_and_the_stream_alone() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (stream, recv) = extent((&session, &primary), 600_000).await;
        let id = stream.id();
        let lease = |range| primary.lease(id, range, path, Bytes::new()).unwrap();
        let mut leases = [lease(0..200_000), lease(200_000..400_000), lease(400_000..600_000)];
        let mut one = edge.open_stream(id, 0).await.unwrap();
        let mut two = edge.open_stream(id, 200_000).await.unwrap();
        let writer = edge.accept_lease().await.unwrap();
        assert_eq!(writer.range(), 400_000..600_000);
        let writer = writer.into_stream(399_999).unwrap_err();
        let mut three = writer.into_stream(400_000).unwrap();
        assert_eq!(edge.mappings().len(), 3);
        until(&session, path, |stats| stats.active == 3).await;
        one.write_chunk(object(0..100_000)).await.unwrap();
        drop(one);
        let LeaseOutcome::Lost(missing) = leases[0].outcome().await.unwrap().outcome.unwrap()
        else {
            panic!("the lease of a dropped stream is lost")
        };
        assert_eq!(missing, vec![100_000..200_000]);
        three.write_chunk(object(400_000..600_000)).await.unwrap();
        assert_eq!(three.finish(), 600_000);
        let _again = primary.lease(id, 100_000..200_000, path, Bytes::new()).unwrap();
        let mut four = edge.open_stream(id, 100_000).await.unwrap();
        four.write_chunk(object(100_000..200_000)).await.unwrap();
        four.finish();
        two.write_chunk(object(200_000..400_000)).await.unwrap();
        two.finish();
        assert!(read(recv).await == object(0..600_000));
        until(&session, path, |stats| stats.active == 0 && stats.mapped == 4).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_stream_ends_what_writes_into_it() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (stopped, mut stopped_recv) = extent((&session, &primary), 500_000_000).await;
        let (kept, kept_recv) = extent((&session, &primary), 300_000).await;
        let _one = primary.lease(stopped.id(), 0..500_000_000, path, Bytes::new()).unwrap();
        let _two = primary.lease(kept.id(), 0..300_000, path, Bytes::new()).unwrap();
        let reading = tokio::spawn(read(kept_recv));
        let mut ends = edge.open_stream(stopped.id(), 0).await.unwrap();
        let mut lives = edge.open_stream(kept.id(), 0).await.unwrap();
        let writing = tokio::spawn(async move {
            let chunk = object(0..100_000);
            loop {
                if let Err(error) = ends.write_chunk(chunk.clone()).await {
                    return (ends, error);
                }
            }
        });
        lives.write_chunk(object(0..100_000)).await.unwrap();
        stopped_recv.stop(7).unwrap();
        let (ends, error) = writing.await.unwrap();
        assert_eq!(error, WriteError::Stopped(Code::NoError.as_u64()));
        while edge.mappings()[0].state != MappingState::Closing {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(edge.mappings()[1].state, MappingState::Active);
        lives.write_chunk(object(100_000..300_000)).await.unwrap();
        lives.finish();
        assert!(reading.await.unwrap() == object(0..300_000));
        drop(ends);
        until(&session, path, |stats| stats.active == 0).await;
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

/// Every edge and the primary write the same object, in streams that stop and move at random.
#[tokio::test(flavor = "multi_thread")]
async fn overlapping_writers_that_move_make_one_whole_stream() {
    within(async {
        for seed in 0..6 {
            let servers = Servers::new(2);
            let (session, primary) = servers.connect(&client()).await;
            let (one, first) = servers.add_edge(&primary, 0).await;
            let (two, second) = servers.add_edge(&primary, 1).await;
            let size = 6_000_000 + seed * 333_333;
            let (stream, recv) = extent((&session, &primary), size).await;
            let id = stream.id();
            let reading = tokio::spawn(read(recv));
            tokio::spawn(wander(first, id, Rng(seed)));
            tokio::spawn(wander(second, id, Rng(seed + 100)));
            let (_own, writer) = primary.lease_own(id, 0..size).unwrap();
            let own = tokio::spawn(fill(writer));
            let mut rng = Rng(seed + 200);
            let mut leases = Vec::new();
            while !reading.is_finished() {
                let start = rng.below(size - 1);
                let end = start + 1 + rng.below(size - start);
                for path in [one, two] {
                    leases.extend(primary.lease(id, start..end, path, Bytes::new()));
                }
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            assert!(reading.await.unwrap() == object(0..size), "seed {seed}");
            own.await.unwrap();
            assert_eq!(primary.dead_paths(), [], "seed {seed}");
        }
    })
    .await;
}

/// Takes leases as streams, writes parts of them, moves within them, closes or drops them.
async fn wander(edge: SecondarySession, id: StreamId, mut rng: Rng) {
    while let Ok(writer) = edge.accept_lease().await {
        let range = writer.range();
        let start = range.start + rng.below(range.end - range.start);
        // The lease may be over meanwhile.
        let Ok(mut stream) = writer.into_stream(start) else { continue };
        for _ in 0..rng.below(4) {
            let at = stream.offset();
            let end = at + rng.below(range.end - at + 1);
            let write = stream.write_chunk(object(at..end));
            // A stream whose lease is over, or of which nothing is wanted.
            if !matches!(timeout(Duration::from_millis(50), write).await, Ok(Ok(()))) {
                break;
            }
            let to = range.start + rng.below(range.end - range.start);
            let moving = stream.set_mapping(id, to);
            if !matches!(timeout(Duration::from_millis(20), moving).await, Ok(Ok(()))) {
                break;
            }
        }
        if rng.below(2) == 0 {
            stream.finish();
        }
    }
}

#[tokio::test]
async fn more_streams_than_a_path_may_have_are_refused() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let count = limits::MAX_SECONDARY_STREAMS as u64;
        let (stream, recv) = extent((&session, &primary), (count + 1) * 10).await;
        let id = stream.id();
        let mut streams = Vec::new();
        for at in 0..=count {
            primary.lease(id, at * 10..at * 10 + 10, path, Bytes::new()).unwrap();
        }
        for at in 0..count {
            streams.push(edge.open_stream(id, at * 10).await.unwrap());
        }
        let more = edge.open_stream(id, count * 10).await;
        assert!(matches!(more, Err(OpenStreamError::TooMany)));
        for mut stream in streams {
            let at = stream.offset();
            stream.write_chunk(object(at..at + 10)).await.unwrap();
            stream.finish();
        }
        let mut last = edge.open_stream(id, count * 10).await.unwrap();
        last.write_chunk(object(count * 10..count * 10 + 10)).await.unwrap();
        assert!(read(recv).await == object(0..(count + 1) * 10));
    })
    .await;
}

type Crime = fn(&Lease, &Activate) -> Vec<SecondaryEvent>;

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_breaks_the_rules_is_cut_off_alone() {
    within(async {
        let servers = Servers::new(0);
        let isolation = Code::SecondaryStreamIsolation;
        let metadata = Code::MetadataProtocolViolation;
        let cases: Vec<(&str, Code, Crime)> = vec![
            ("no such lease", isolation, |lease, piece| {
                let other = Lease {
                    lease_id: LeaseId(99),
                    stream_id: StreamId::from_u64(7),
                    ..lease.clone()
                };
                vec![
                    open(&other, piece.range.start),
                    data(&other, piece.range.start..piece.range.start + 9),
                ]
            }),
            ("before its lease", isolation, |lease, _| vec![open(lease, 5), data(lease, 5..9)]),
            ("beyond its activation", isolation, |lease, piece| {
                vec![
                    open(lease, piece.range.start),
                    data(lease, lease.range.end - 9..lease.range.end),
                ]
            }),
            ("into an unknown stream", isolation, |lease, _| {
                let other = Lease { stream_id: StreamId::from_u64(43), ..lease.clone() };
                vec![open(&other, 100), data(&other, 100..101)]
            }),
            ("moved outside", isolation, |lease, piece| {
                vec![open(lease, piece.range.start), update(lease, 5), data(lease, 5..9)]
            }),
            ("data before the open", metadata, |lease, _| vec![data(lease, 100..101)]),
            ("a second open", metadata, |lease, _| vec![open(lease, 100), open(lease, 100)]),
            ("data that goes back", metadata, |lease, _| {
                vec![open(lease, 101), data(lease, 100..101)]
            }),
            ("a close elsewhere", metadata, |lease, _| vec![open(lease, 100), close(lease, 101)]),
            ("an update before the open", metadata, |lease, _| vec![update(lease, 100)]),
        ];
        for batch in cases.chunks(3) {
            // Dials are limited, so each session sees a few crimes only.
            let (session, primary) = servers.connect(&client()).await;
            for (at, (what, code, crime)) in (EDGE..).zip(batch) {
                // Who was isolated does not come back to its session.
                let listener = hostile::listener(&identity(at));
                let key = identity(at).fingerprint();
                let add = primary.add_path(listener.local_addr().unwrap(), key);
                let (path, mut peer) = tokio::join!(add, Peer::welcome(&listener));
                let path = path.unwrap();
                let mut stream = primary.session().open_uni().await.unwrap();
                let id = stream.id();
                stream.write_chunk(object(0..100)).await.unwrap();
                stream.reserve(1_000_000).unwrap();
                stream.finish().unwrap();
                let recv = session.accept_uni().await.unwrap();
                let _lost = primary.lease(id, 100..1_000_100, path, Bytes::new()).unwrap();
                let (lease, piece) = peer.hear_activation().await;
                peer.throw(encode(&crime(&lease, &piece))).await;
                peer.expect(*code, what).await;
                let (_own, writer) = primary.lease_own(id, 100..1_000_100).unwrap();
                tokio::spawn(fill(writer));
                assert!(read(recv).await == object(0..1_000_100), "{what}");
            }
            shows_nothing(&session).await;
            assert_eq!(session.close_reason(), None);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_without_a_lease_is_stopped_and_counted() {
    within(async {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let (session, primary) = servers.connect(&client()).await;
        let add = primary.add_path(listener.local_addr().unwrap(), identity(EDGE).fingerprint());
        let (path, mut peer) = tokio::join!(add, Peer::welcome(&listener));
        let path = path.unwrap();
        let (lease_id, stream_id) = (LeaseId(4), StreamId::from_u64(3));
        let opened = open(&Lease { lease_id, stream_id, ..<_>::default() }, 0);
        let mut stream = peer.connection.open_uni().await.unwrap();
        stream.write_chunk(encode(&[opened])).await.unwrap();
        let code = stream.stopped().await.unwrap().map(quinn::VarInt::into_inner);
        assert_eq!(code, Some(Code::SecondaryStreamIsolation.as_u64()));
        peer.ping().await;
        assert!(primary.active_paths().iter().any(|info| info.id == path));
        let stats = figures(&session, path);
        assert_eq!((stats.active, stats.mapped, stats.unmapped), (0, 0, 1));
        shows_nothing(&session).await;
    })
    .await;
}
