//! The limits of secondary streams as settings (7.5), each while a session runs, and what they
//! count (7.6).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::hostile::{self, Peer};
use common::secondary::{data, encode, open};
use common::{Servers, client, fill, identity, object, only, until, within};
use kwik::{
    ClientConfig, Code, Lease, LeaseId, LeaseOutcome, OpenStreamError, PathId, PrimarySession,
    RecvStream, SecondaryStats, SecondaryStreamConfig, SecondaryWrites, SendStream, Session,
    WriteError,
};
use kwik_proto::limits;
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::Activate;

const EDGE: u8 = 73;
const SIZE: u64 = 1_000_000;

type Change = fn(&mut SecondaryStreamConfig);

fn with(change: Change) -> ClientConfig {
    let mut config = ClientConfig::pinned(identity(0).fingerprint());
    let mut secondary = config.session.settings.secondary();
    change(&mut secondary);
    config.session.settings.set_secondary(secondary);
    config
}

fn change(session: &Session, change: Change) {
    let mut config = session.config();
    let mut secondary = config.secondary();
    change(&mut secondary);
    config.set_secondary(secondary);
    session.set_config(config).unwrap();
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

fn figures(session: &Session, path: PathId) -> SecondaryStats {
    session.stats().paths.iter().find(|stats| stats.id == path).unwrap().secondary
}

/// A session with an edge by hand, and a stream of which nothing is leased.
struct ByHand {
    session: Session,
    primary: PrimarySession,
    peer: Peer,
    path: PathId,
    stream: SendStream,
    recv: RecvStream,
    _servers: Servers,
}

impl ByHand {
    async fn new(config: ClientConfig) -> Self {
        let _servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let (session, primary) = _servers.connect_with(&client(), config).await;
        let add = primary.add_path(listener.local_addr().unwrap(), identity(EDGE).fingerprint());
        let (path, peer) = tokio::join!(add, Peer::welcome(&listener));
        let (stream, recv) = extent((&session, &primary), SIZE).await;
        Self { session, primary, peer, path: path.unwrap(), stream, recv, _servers }
    }

    fn lease(&self) -> Lease {
        self.primary.lease(self.stream.id(), 0..SIZE, self.path, Bytes::new()).unwrap()
    }

    /// The primary brings all of it.
    fn fill(&self) -> Lease {
        let (lease, writer) = self.primary.lease_own(self.stream.id(), 0..SIZE).unwrap();
        tokio::spawn(fill(writer));
        lease
    }

    async fn read(&mut self) -> Vec<u8> {
        self.recv.read_to_end(1 << 30).await.unwrap()
    }

    /// The edge lives, and so does the session.
    async fn lives(&mut self) {
        self.peer.ping().await;
        assert!(self.primary.active_paths().iter().any(|info| info.id == self.path));
        assert_eq!(self.session.close_reason(), None);
    }
}

fn lost(missing: std::ops::Range<u64>) -> Option<LeaseOutcome> {
    Some(LeaseOutcome::Lost(std::iter::once(missing).collect()))
}

async fn stopped(stream: &mut quinn::SendStream) -> Option<Code> {
    let code = stream.stopped().await.unwrap().map(quinn::VarInt::into_inner);
    code.and_then(Code::from_u64)
}

#[tokio::test]
async fn more_streams_than_the_client_allows_are_stopped_alone() {
    within(async {
        let servers = Servers::new(1);
        let config = with(|secondary| {
            secondary.set_streams_per_path(2).unwrap();
        });
        let (session, primary) = servers.connect_with(&client(), config).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let (stream, mut recv) = extent((&session, &primary), 400_000).await;
        let id = stream.id();
        let lease =
            |at: u64| primary.lease(id, at * 100_000..(at + 1) * 100_000, path, Bytes::new());
        let mut leases: Vec<_> = (0..3).map(|at| lease(at).unwrap()).collect();
        let mut one = edge.open_stream(id, 0).await.unwrap();
        let mut two = edge.open_stream(id, 100_000).await.unwrap();
        until(|| figures(&session, path).active == 2).await;
        let mut three = edge.open_stream(id, 200_000).await.unwrap();
        let outcome = leases[2].outcome().await.unwrap().outcome;
        assert_eq!(outcome, lost(200_000..300_000));
        let error = three.write_chunk(object(200_000..300_000)).await.unwrap_err();
        let codes =
            [Code::LimitExceeded, Code::NoError].map(|code| WriteError::Stopped(code.as_u64()));
        assert!(codes.contains(&error), "{error}");
        drop(three);
        // With a third allowed it is taken.
        change(&session, |secondary| {
            secondary.set_streams_per_path(3).unwrap();
        });
        leases.extend([lease(2).unwrap(), lease(3).unwrap()]);
        let mut three = edge.open_stream(id, 200_000).await.unwrap();
        for (stream, at) in [(&mut one, 0), (&mut two, 1), (&mut three, 2)] {
            stream.write_chunk(object(at * 100_000..(at + 1) * 100_000)).await.unwrap();
        }
        one.finish();
        until(|| figures(&session, path).active == 0).await;
        let mut four = edge.open_stream(id, 300_000).await.unwrap();
        four.write_chunk(object(300_000..400_000)).await.unwrap();
        assert!(recv.read_to_end(1 << 20).await.unwrap() == object(0..400_000));
    })
    .await;
}

#[tokio::test]
async fn an_edge_opens_as_many_streams_as_it_is_set_to() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let mut config = edge.config();
        let mut secondary = config.secondary();
        secondary.set_streams_per_path(1).unwrap();
        config.set_secondary(secondary);
        edge.set_config(config).unwrap();
        let (stream, _recv) = extent((&session, &primary), 200_000).await;
        let id = stream.id();
        let _one = primary.lease(id, 0..100_000, path, Bytes::new()).unwrap();
        let _two = primary.lease(id, 100_000..200_000, path, Bytes::new()).unwrap();
        let first = edge.open_stream(id, 0).await.unwrap();
        let second = edge.open_stream(id, 100_000).await;
        assert_eq!(second.unwrap_err(), OpenStreamError::TooMany);
        first.finish();
        edge.open_stream(id, 100_000).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_owes_and_brings_nothing_is_stopped() {
    within(async {
        let mut scene = ByHand::new(with(|_| {})).await;
        change(&scene.session, |secondary| {
            secondary.set_stream_timeout(Duration::from_millis(50)).unwrap();
        });
        let mut lease = scene.lease();
        let (offered, _) = scene.peer.hear_activation().await;
        let mut quic = scene.peer.connection.open_uni().await.unwrap();
        quic.write_chunk(encode(&[open(&offered, 0), data(&offered, 0..100)])).await.unwrap();
        assert_eq!(stopped(&mut quic).await, Some(Code::AggregationTimeout));
        let outcome = lease.outcome().await.unwrap();
        assert_eq!(outcome.outcome, lost(100..SIZE));
        let _own = scene.fill();
        assert!(scene.read().await == object(0..SIZE));
        scene.lives().await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_does_not_say_where_it_writes_is_stopped() {
    within(async {
        let config = with(|secondary| {
            secondary.set_metadata_timeout(Duration::from_millis(50)).unwrap();
        });
        let mut scene = ByHand::new(config).await;
        let mut quic = scene.peer.connection.open_uni().await.unwrap();
        quic.write_chunk(encode(&[])).await.unwrap();
        assert_eq!(stopped(&mut quic).await, Some(Code::MetadataProtocolViolation));
        scene.lives().await;
    })
    .await;
}

#[tokio::test]
async fn a_stream_is_asked_for_no_more_than_its_buffer() {
    within(async {
        let config = with(|secondary| {
            secondary.set_writes(SecondaryWrites::Open).unwrap();
            secondary.set_buffer_size(8 * 1024).unwrap();
        });
        let mut scene = ByHand::new(config).await;
        let place = kwik_proto::wire::control::Lease {
            lease_id: LeaseId::unleased(scene.path, 0),
            stream_id: scene.stream.id(),
            ..<_>::default()
        };
        let mut quic = scene.peer.connection.open_uni().await.unwrap();
        quic.write_chunk(encode(&[open(&place, 0)])).await.unwrap();
        let mut asked = 0;
        while asked < 8 * 1024 {
            asked = activation(&mut scene.peer).await.range.end;
        }
        assert_eq!(asked, 8 * 1024);
        // Nothing more is asked for, for as long as nothing came.
        scene.peer.ping().await;
        assert_eq!(scene.session.stats().paths[1].figures.outstanding, 8 * 1024);
        change(&scene.session, |secondary| {
            secondary.set_buffer_size(12 * 1024).unwrap();
        });
        while asked < 12 * 1024 {
            asked = activation(&mut scene.peer).await.range.end;
        }
        assert_eq!(scene.session.stats().paths[1].figures.outstanding, 12 * 1024);
    })
    .await;
}

async fn activation(peer: &mut Peer) -> Activate {
    peer.hear_until(|m| match m {
        M::Activate(m) => Some(m.clone()),
        _ => None,
    })
    .await
}

/// So many frames of a byte each at once: how often the session looked.
async fn looks(batch: Change) -> u64 {
    const FRAMES: u64 = 200;
    let scene = ByHand::new(with(batch)).await;
    let _lease = scene.lease();
    let ByHand { session, mut peer, path, recv: _recv, .. } = scene;
    let (offered, _) = peer.hear_activation().await;
    let frames = (0..FRAMES).map(|at| data(&offered, at..at + 1));
    let events: Vec<_> = std::iter::once(open(&offered, 0)).chain(frames).collect();
    let mut quic = peer.connection.open_uni().await.unwrap();
    quic.write_chunk(encode(&events)).await.unwrap();
    until(|| figures(&session, path).bytes == FRAMES).await;
    figures(&session, path).batches
}

#[tokio::test]
async fn as_many_frames_are_put_together_as_is_set() {
    within(async {
        let each = |secondary: &mut SecondaryStreamConfig| {
            secondary.set_batch_size(1).unwrap();
        };
        assert_eq!(looks(each).await, 200);
        assert!(looks(|_| {}).await < 100);
    })
    .await;
}

#[tokio::test]
async fn what_was_there_already_counts_against_the_ratio() {
    within(async {
        let mut scene = ByHand::new(with(|_| {})).await;
        assert!((figures(&scene.session, scene.path).aggregation_ratio() - 1.0).abs() < 1e-9);
        let _lease = scene.lease();
        let (offered, piece) = scene.peer.hear_activation().await;
        // The primary brings the beginning unasked.
        let (_own, mut writer) = scene.primary.lease_own(scene.stream.id(), 0..SIZE).unwrap();
        let first = writer.activated().await.unwrap().unwrap();
        assert!(first.start == 0 && first.end >= 4_000 && piece.range.end >= 4_000);
        writer.write_chunk(object(0..1_000)).await.unwrap();
        until(|| only(&scene.session).is_some_and(|recv| recv.buffer.held == 1_000)).await;
        let mut quic = scene.peer.connection.open_uni().await.unwrap();
        quic.write_chunk(encode(&[open(&offered, 0), data(&offered, 0..4_000)])).await.unwrap();
        until(|| figures(&scene.session, scene.path).bytes == 4_000).await;
        let stats = figures(&scene.session, scene.path);
        assert_eq!(stats.transferred, 3_000);
        assert!((stats.aggregation_ratio() - 0.75).abs() < 1e-9);
        tokio::spawn(fill(writer));
        assert!(scene.read().await == object(0..SIZE));
    })
    .await;
}

#[test]
fn limits_beyond_their_bounds_are_refused() {
    let mut secondary = SecondaryStreamConfig::default();
    assert!(secondary.set_streams_per_path(0).is_err());
    let error = secondary.set_streams_per_path(101).unwrap_err();
    assert_eq!(error.to_string(), "streams_per_path cannot be 101: set it within 1..=100");
    assert!(secondary.set_buffer_size(limits::MIN_PIECE - 1).is_err());
    assert!(secondary.set_stream_timeout(Duration::ZERO).is_err());
    assert!(secondary.set_metadata_timeout(Duration::from_secs(4000)).is_err());
    assert!(secondary.set_batch_size(0).is_err());
    assert_eq!(secondary, SecondaryStreamConfig::default());
}
