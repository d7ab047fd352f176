//! Secondary streams without a lease (7.2, `SecondaryWrites::Open`), how they are tried again
//! (9.2), and where a source goes on (7.4).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::hostile::{self, Peer, visit};
use common::secondary::{data, encode, open};
use common::{
    Servers, accept_secondary, address, client, fill, identity, object, only, until, within,
};
use kwik::{
    Backoff, ClientConfig, Code, Dir, Identity, LeaseId, LeaseOutcome, OpenStreamError, PathId,
    PrimarySession, RecvStream, SecondarySession, SecondaryStats, SecondaryWrites, SendStream,
    Session, SessionId, Side, StreamId, WriteError,
};
use kwik_proto::auth::{Grant, GrantClaims};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{Activate, Lease, OffsetSyncResponse};

const EDGE: u8 = 72;

fn open_writes() -> ClientConfig {
    let mut config = ClientConfig::pinned(identity(0).fingerprint());
    let mut secondary = config.session.settings.secondary();
    secondary.set_writes(SecondaryWrites::Open).unwrap();
    config.session.settings.set_secondary(secondary);
    config
}

/// So many attempts after the first, at once.
fn retries(edge: &SecondarySession, retries: u32, timeout: Duration) {
    let mut config = edge.config();
    let mut recovery = config.recovery();
    let mut mapping = recovery.mapping();
    mapping.set_retries(retries).unwrap().set_timeout(timeout).unwrap();
    mapping.set_first_wait(Duration::from_millis(5)).unwrap();
    mapping.set_backoff(Backoff::Constant).unwrap();
    recovery.set_mapping(mapping);
    config.set_recovery(recovery);
    edge.set_config(config).unwrap();
}

async fn extent(
    (session, primary): (&Session, &PrimarySession),
    size: u64,
) -> (SendStream, RecvStream) {
    let mut stream = primary.session().open_uni().await.unwrap();
    stream.reserve(size).unwrap();
    stream.finish().unwrap();
    (stream, session.accept_uni().await.unwrap())
}

async fn read(mut recv: RecvStream) -> Vec<u8> {
    recv.read_to_end(1 << 30).await.unwrap()
}

fn figures(session: &Session, path: PathId) -> SecondaryStats {
    session.stats().paths.iter().find(|stats| stats.id == path).unwrap().secondary
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_fills_what_nobody_leased_where_the_client_allows_it() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect_with(&client(), open_writes()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        let id = stream.id();
        stream.write_chunk(object(0..10_000)).await.unwrap();
        stream.reserve(3_000_000).unwrap();
        let plain = tokio::spawn(async move {
            stream.write_chunk(object(3_010_000..3_020_000)).await.unwrap();
            stream.finish().unwrap();
            drop(stream);
        });
        let reading = tokio::spawn(read(session.accept_uni().await.unwrap()));
        let mut mapped = edge.open_unleased(id, 10_000).await.unwrap();
        assert!(edge.mappings()[0].place.lease.is_unleased());
        mapped.write_chunk(object(10_000..2_000_000)).await.unwrap();
        // Elsewhere in the same stream, over what it leaves to be filled later.
        mapped.set_mapping(id, 2_500_000).await.unwrap();
        mapped.write_chunk(object(2_500_000..3_000_000)).await.unwrap();
        mapped.set_mapping(id, 2_000_000).await.unwrap();
        mapped.write_chunk(object(2_000_000..3_010_000)).await.unwrap();
        mapped.finish();
        plain.await.unwrap();
        assert!(reading.await.unwrap() == object(0..3_020_000));
        until(|| figures(&session, path).active == 0).await;
        let stats = figures(&session, path);
        assert_eq!((stats.unmapped, stats.bytes), (0, 3_000_000));
        // The primary hears that all of it is there, although it leased nothing.
        until(|| primary.session().stats().streams + session.stats().streams == 0).await;
        assert_eq!((session.stats().leases, session.stats().pieces), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn without_a_lease_nothing_is_taken_by_default_and_it_is_tried_as_often_as_is_set() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (stream, recv) = extent((&session, &primary), 1_000).await;
        let mut tried = 0;
        for more in [0, 2] {
            retries(&edge, more, Duration::from_secs(20));
            let error = edge.open_unleased(stream.id(), 0).await.unwrap_err();
            assert_eq!(error, OpenStreamError::Refused(more + 1));
            tried += u64::from(more) + 1;
            until(|| figures(&session, path).unmapped == tried).await;
        }
        assert_eq!(edge.mappings(), []);
        let mut config = session.config();
        config.set_secondary(open_writes().session.settings.secondary());
        session.set_config(config).unwrap();
        let mut mapped = edge.open_unleased(stream.id(), 0).await.unwrap();
        mapped.write_chunk(object(0..1_000)).await.unwrap();
        assert!(read(recv).await == object(0..1_000));
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_its_primary_has_not_opened_yet_is_tried_again() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect_with(&client(), open_writes()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        retries(&edge, 100, Duration::from_secs(20));
        let id = StreamId::new(Side::Server, Dir::Uni, 0);
        let opening = tokio::spawn(async move { edge.open_unleased(id, 0).await });
        until(|| figures(&session, path).unmapped > 0).await;
        let (_stream, recv) = extent((&session, &primary), 5_000).await;
        let mut mapped = opening.await.unwrap().unwrap();
        assert_eq!(mapped.kwik_stream_id(), id);
        mapped.write_chunk(object(0..5_000)).await.unwrap();
        assert!(read(recv).await == object(0..5_000));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_without_a_lease_leaves_is_told_to_the_primary() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect_with(&client(), open_writes()).await;
        let (_path, edge) = servers.add_edge(&primary, 0).await;
        let (stream, recv) = extent((&session, &primary), 300_000).await;
        let mut uncovered = primary.uncovered();
        let mut mapped = edge.open_unleased(stream.id(), 0).await.unwrap();
        mapped.write_chunk(object(0..100_000)).await.unwrap();
        edge.close(0, b"gone");
        let missing = uncovered.next().await.unwrap();
        assert_eq!(missing.stream, stream.id());
        assert!(missing.ranges[0].start <= 100_000 && missing.ranges[0].end > 100_000);
        let (mut own, writer) = primary.lease_own(stream.id(), 0..300_000).unwrap();
        tokio::spawn(fill(writer));
        assert!(read(recv).await == object(0..300_000));
        assert_eq!(own.outcome().await.unwrap().outcome, Some(LeaseOutcome::Done));
    })
    .await;
}

/// An edge by hand in a session that needs no leases, and the stream that it may write into.
async fn by_hand() -> (Session, PrimarySession, Peer, PathId, SendStream, RecvStream, Servers) {
    let servers = Servers::new(0);
    let listener = hostile::listener(&identity(EDGE));
    let (session, primary) = servers.connect_with(&client(), open_writes()).await;
    let add = primary.add_path(listener.local_addr().unwrap(), identity(EDGE).fingerprint());
    let (path, peer) = tokio::join!(add, Peer::welcome(&listener));
    let (stream, recv) = extent((&session, &primary), 1_000_000).await;
    (session, primary, peer, path.unwrap(), stream, recv, servers)
}

async fn activation(peer: &mut Peer) -> Activate {
    peer.hear_until(|m| match m {
        M::Activate(m) => Some(m.clone()),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn who_needs_no_lease_needs_to_be_asked_all_the_same() {
    within(async {
        let (session, _primary, mut peer, path, stream, _recv, _servers) = by_hand().await;
        let place = Lease {
            lease_id: LeaseId::unleased(path, 3),
            stream_id: stream.id(),
            ..<_>::default()
        };
        let mut quic = peer.connection.open_uni().await.unwrap();
        quic.write_chunk(encode(&[open(&place, 0)])).await.unwrap();
        let asked = activation(&mut peer).await;
        assert_eq!((asked.lease_id, asked.range.start), (place.lease_id, 0));
        // The first byte behind all that was asked for.
        let beyond = 900_000;
        let mut frames = bytes::BytesMut::new();
        kwik_proto::wire::secondary::encode_secondary(
            &data(&place, beyond..beyond + 1),
            &mut frames,
        );
        quic.write_chunk(frames.freeze()).await.unwrap();
        peer.expect(Code::SecondaryStreamIsolation, "unasked").await;
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn places_of_other_paths_and_streams_that_are_not_open_are_refused() {
    within(async {
        let (session, _primary, mut peer, path, stream, _recv, _servers) = by_hand().await;
        let own = LeaseId::unleased(path, 0);
        let other = LeaseId::unleased(PathId(path.0 + 1), 0);
        let closed = StreamId::new(Side::Server, Dir::Uni, 9);
        let clients = StreamId::new(Side::Client, Dir::Uni, 0);
        for (count, (lease_id, stream_id)) in
            [(other, stream.id()), (own, closed), (own, clients)].into_iter().enumerate()
        {
            let place = Lease { lease_id, stream_id, ..<_>::default() };
            let mut quic = peer.connection.open_uni().await.unwrap();
            quic.write_chunk(encode(&[open(&place, 0)])).await.unwrap();
            let code = quic.stopped().await.unwrap().map(quinn::VarInt::into_inner);
            assert_eq!(code, Some(Code::SecondaryStreamIsolation.as_u64()));
            until(|| figures(&session, path).unmapped == count as u64 + 1).await;
        }
        peer.ping().await;
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn a_source_learns_where_it_goes_on() {
    within(async {
        let servers = Servers::new(2);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (_, other) = servers.add_edge(&primary, 1).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        let id = stream.id();
        stream.write_chunk(object(0..5_000)).await.unwrap();
        stream.reserve(95_000).unwrap();
        stream.finish().unwrap();
        let recv = session.accept_uni().await.unwrap();
        until(|| only(&session).is_some_and(|recv| recv.buffer.held == 5_000)).await;
        // Where it holds no lease there is nothing for it to bring.
        assert_eq!(edge.sync_offset(id, 77).await, Ok(77));
        let _lease = primary.lease(id, 5_000..100_000, path, Bytes::new()).unwrap();
        let mut writer = edge.accept_lease().await.unwrap();
        assert_eq!(edge.sync_offset(id, 0).await, Ok(5_000));
        let piece = writer.activated().await.unwrap().unwrap();
        writer.write_chunk(object(piece.start..piece.start + 1_000)).await.unwrap();
        until(|| only(&session).is_some_and(|recv| recv.buffer.held == 6_000)).await;
        assert_eq!(edge.sync_offset(id, 5_000).await, Ok(6_000));
        assert_eq!(edge.sync_offset(id, 6_000).await, Ok(6_000));
        assert_eq!(other.sync_offset(id, 6_000).await, Ok(6_000));
        tokio::spawn(fill(writer));
        assert!(read(recv).await == object(0..100_000));
    })
    .await;
}

/// A client by hand with a path to an edge.
async fn visit_edge(servers: &Servers) -> (Peer, SecondarySession) {
    const SESSION: SessionId = SessionId([5; 16]);
    let (edge, key, path) = (&servers.edges[0], Identity::from_seed([9; 32]), PathId(1));
    let claims = GrantClaims {
        session: SESSION,
        path,
        audience: edge.fingerprint().unwrap(),
        client_key: key.fingerprint(),
    };
    let grant = Grant::issue(&identity(0), &claims, SystemTime::now());
    let dial = async {
        let mut peer = Peer::dial(&hostile::dialer(), address(edge)).await;
        let exporter = peer.exporter();
        peer.say(visit(&key, &exporter, SESSION, path, grant)).await;
        assert!(matches!(peer.hear().await, M::AuthenticationResponse(m) if m.result.is_ok()));
        peer
    };
    tokio::join!(dial, accept_secondary(edge))
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_tried_for_the_time_that_is_set() {
    within(async {
        let servers = Servers::new(1);
        let (peer, edge) = visit_edge(&servers).await;
        retries(&edge, 1, Duration::from_millis(20));
        let error = edge.open_unleased(StreamId::from_u64(3), 0).await.unwrap_err();
        assert_eq!(error, OpenStreamError::Refused(2));
        for _ in 0..2 {
            peer.connection.accept_uni().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_offset_that_nobody_asked_for_ends_the_path() {
    within(async {
        let servers = Servers::new(1);
        let (mut peer, edge) = visit_edge(&servers).await;
        let answer = OffsetSyncResponse { kwik_stream_id: StreamId::from_u64(3), ..<_>::default() };
        peer.say(M::OffsetSyncResponse(answer)).await;
        peer.expect(Code::OffsetSyncFailure, "unasked").await;
        edge.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_stopped_ends_what_is_written_without_a_lease() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect_with(&client(), open_writes()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (stream, mut recv) = extent((&session, &primary), 100_000_000).await;
        let mut mapped = edge.open_unleased(stream.id(), 0).await.unwrap();
        mapped.write_chunk(object(0..1_000)).await.unwrap();
        recv.stop(7).unwrap();
        let error = loop {
            match mapped.write_chunk(Bytes::from(vec![0; 100_000])).await {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error, WriteError::Stopped(Code::NoError.as_u64()));
        drop(mapped);
        until(|| figures(&session, path).active == 0).await;
        until(|| session.stats().streams + primary.session().stats().streams == 0).await;
    })
    .await;
}
