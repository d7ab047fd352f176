//! An edge that contradicts its primary (7.4, 9.2): whose copy counts, and what becomes of the
//! edge.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use bytes::Bytes;
use common::hostile::{self, Peer, frame, packet};
use common::{Servers, client, fill, identity, object, only, until, within};
use kwik::{
    AggregationFallback, ClientConfig, Code, ConflictPolicy, Lease, LeaseOutcome, LeaseWriter,
    PathError, PathId, PrimarySession, ReadError, ReadToEndError, Recovery, RecvStream, Session,
};
use tokio::io::AsyncReadExt as _;

const EDGE: u8 = 71;
const SIZE: u64 = 200_000;
/// What the edge brings first.
const LIES: usize = 3_000;

/// A stream of which an edge has brought lies, and the primary is about to bring the truth.
struct Scene {
    session: Session,
    primary: PrimarySession,
    path: PathId,
    edge: Peer,
    recv: RecvStream,
    lease: Lease,
    own: Option<(Lease, LeaseWriter)>,
    _servers: Servers,
}

impl Scene {
    async fn new(policy: ConflictPolicy, fallback: AggregationFallback) -> Self {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let mut recovery = Recovery::default();
        recovery.set_aggregation(fallback).unwrap();
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.settings.set_conflict_policy(policy).unwrap().set_recovery(recovery);
        let (session, primary) = servers.connect_with(&client(), config).await;
        let add = primary.add_path(listener.local_addr().unwrap(), identity(EDGE).fingerprint());
        let (path, mut edge) = tokio::join!(add, Peer::welcome(&listener));
        let path = path.unwrap();
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.reserve(SIZE).unwrap();
        stream.finish().unwrap();
        let recv = session.accept_uni().await.unwrap();
        let lease = primary.lease(stream.id(), 0..SIZE, path, Bytes::new()).unwrap();
        let (_, piece) = edge.hear_activation().await;
        assert!(piece.range.start == 0 && piece.range.end > LIES as u64);
        edge.throw(packet(vec![frame(stream.id().as_u64(), 0, vec![0; LIES], false)])).await;
        until(|| only(&session).is_some_and(|recv| recv.buffer.held == LIES as u64)).await;
        let own = Some(primary.lease_own(stream.id(), 0..SIZE).unwrap());
        Self { session, primary, path, edge, recv, lease, own, _servers: servers }
    }

    /// The primary brings all of it, its first bytes unasked.
    async fn fill(&mut self) -> Lease {
        let (lease, writer) = self.own.take().unwrap();
        tokio::spawn(fill(writer));
        until(|| only(&self.session).is_some_and(|recv| recv.duplicates >= LIES as u64)).await;
        let recv = only(&self.session).unwrap();
        assert!(recv.conflicts > LIES as u64 / 2, "{recv:?}");
        let contradicted = [(PathId::PRIMARY, recv.conflicts), (self.path, recv.conflicts)];
        assert_eq!(recv.contradicted, contradicted);
        lease
    }

    async fn read(&mut self) -> Result<Vec<u8>, ReadToEndError> {
        self.recv.read_to_end(1 << 20).await
    }

    fn edge_lives(&self) -> bool {
        self.primary.active_paths().iter().any(|info| info.id == self.path)
    }
}

fn lied() -> Vec<u8> {
    [vec![0; LIES], object(LIES as u64..SIZE).to_vec()].concat()
}

#[tokio::test]
async fn the_first_the_last_or_the_primarys_copy_counts_as_is_set() {
    within(async {
        for (policy, truth) in [
            (ConflictPolicy::FirstWins, false),
            (ConflictPolicy::LastWins, true),
            (ConflictPolicy::PrimaryWins, true),
        ] {
            let mut scene = Scene::new(policy, AggregationFallback::default()).await;
            let _lease = scene.fill().await;
            let found = scene.read().await.unwrap();
            assert!(found == if truth { object(0..SIZE).to_vec() } else { lied() }, "{policy:?}");
            scene.edge.ping().await;
            assert!(scene.edge_lives());
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_read_stays_whatever_comes_later_and_settings_change_live() {
    within(async {
        let mut scene = Scene::new(ConflictPolicy::FirstWins, <_>::default()).await;
        let mut config = scene.session.config();
        config.set_conflict_policy(ConflictPolicy::LastWins).unwrap();
        scene.session.set_config(config).unwrap();
        let mut read = vec![0; 1_000];
        scene.recv.read_exact(&mut read).await.unwrap();
        let _lease = scene.fill_after_reading(1_000).await;
        read.extend(scene.read().await.unwrap());
        let truth = object(1_000..SIZE);
        assert!(read == [&vec![0; 1_000][..], &truth[..]].concat());
    })
    .await;
}

impl Scene {
    async fn fill_after_reading(&mut self, read: u64) -> Lease {
        let (lease, writer) = self.own.take().unwrap();
        tokio::spawn(fill(writer));
        until(|| only(&self.session).is_some_and(|recv| recv.duplicates >= LIES as u64)).await;
        assert!(only(&self.session).unwrap().conflicts <= LIES as u64 - read);
        lease
    }
}

#[tokio::test]
async fn a_dispute_is_ignored_when_that_is_set() {
    within(async {
        let mut scene =
            Scene::new(ConflictPolicy::Reject, AggregationFallback::IgnoreCorrupt).await;
        let _lease = scene.fill().await;
        assert!(scene.read().await.unwrap() == lied());
        assert!(scene.edge_lives());
    })
    .await;
}

#[tokio::test]
async fn a_dispute_ends_the_stream_when_that_is_set() {
    within(async {
        let mut scene = Scene::new(ConflictPolicy::Reject, AggregationFallback::CloseStream).await;
        let (_own, writer) = scene.own.take().unwrap();
        tokio::spawn(fill(writer));
        until(|| only(&scene.session).is_some_and(|recv| recv.conflicts > 0)).await;
        let error = scene.read().await.unwrap_err();
        let ReadToEndError::Read(ReadError::Failed(error)) = error else { panic!("{error:?}") };
        assert_eq!(error.code, Code::OffsetMismatch);
        assert!(scene.edge_lives());
        assert_eq!(scene.session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn disputed_bytes_are_asked_for_again_when_that_is_set() {
    within(async {
        let mut scene = Scene::new(ConflictPolicy::Reject, AggregationFallback::AskAgain).await;
        let mut own = scene.fill().await;
        assert!(scene.read().await.unwrap() == object(0..SIZE));
        // The edge has lost its lease and keeps its path.
        let outcome = scene.lease.outcome().await.unwrap().outcome;
        assert!(matches!(outcome, Some(LeaseOutcome::Lost(_))), "{outcome:?}");
        assert_eq!(own.outcome().await.unwrap().outcome, Some(LeaseOutcome::Done));
        scene.edge.ping().await;
        assert!(scene.edge_lives());
    })
    .await;
}

#[tokio::test]
async fn a_source_that_contradicts_the_primary_is_isolated_when_that_is_set() {
    within(async {
        let mut scene =
            Scene::new(ConflictPolicy::Reject, AggregationFallback::IsolateSource).await;
        let mut blamed = scene.primary.blamed();
        let _lease = scene.fill().await;
        let proof = blamed.next().await.unwrap();
        assert_eq!((proof.path, proof.server), (scene.path, identity(EDGE).fingerprint()));
        let (stream, range) = proof.place.unwrap();
        assert_eq!(stream, scene.recv.id());
        assert!(range.start < 10 && range.end <= LIES as u64, "{range:?}");
        assert!(proof.reason.contains("path 0 contradicts path 1"), "{}", proof.reason);
        assert!(scene.read().await.unwrap() == object(0..SIZE));
        scene.edge.expect(Code::SecondaryStreamIsolation, "lies").await;
        until(|| !scene.edge_lives()).await;
        assert_eq!(scene.session.close_reason(), None);
        // Its server is leased nothing again, on whatever path.
        let address = scene.edge.endpoint.local_addr().unwrap();
        let again = scene.primary.add_path(address, identity(EDGE).fingerprint()).await;
        let PathError::Refused(error) = again.unwrap_err() else { panic!("dialed again") };
        assert_eq!(error.code, Code::SecondaryStreamIsolation);
    })
    .await;
}
