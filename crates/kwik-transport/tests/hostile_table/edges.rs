//! What an edge may not do.

use bytes::Bytes;
use common::hostile::{self, Peer, frame, packet};
use common::{Servers, client, echo, identity, serve_echo, within};
use kwik::{Code, PathId, PrimarySession, SendStream, Session};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{Activate, Stopped};
use kwik_proto::{LeaseId, Side};

use crate::Move::{Datagram, Say, Throw};
use crate::{OWN, Row, common, malformed, of_roles, oversized, suffer, uni};

/// An honest client with an honest primary, which leases to a hostile edge.
pub(crate) struct EdgeScene {
    pub(crate) session: Session,
    pub(crate) primary: PrimarySession,
    pub(crate) listener: quinn::Endpoint,
    /// What it leases from.
    pub(crate) stream: SendStream,
    pub(crate) leases: Vec<kwik::Lease>,
    _servers: Servers,
}

impl EdgeScene {
    pub(crate) async fn new() -> Self {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        serve_echo(primary.session().clone());
        let stream = primary.session().open_uni().await.unwrap();
        let listener = hostile::listener(&identity(OWN));
        Self { session, primary, listener, stream, leases: Vec::new(), _servers: servers }
    }

    /// A path to the edge.
    pub(crate) async fn join(&self) -> (PathId, Peer) {
        let add =
            self.primary.add_path(self.listener.local_addr().unwrap(), identity(OWN).fingerprint());
        let (path, peer) = tokio::join!(add, Peer::welcome(&self.listener));
        (path.unwrap(), peer)
    }

    /// A path to the edge, which holds a lease of so many bytes and was asked for its first piece.
    pub(crate) async fn add(&mut self, len: u64) -> (PathId, Peer, Activate) {
        let (path, mut peer) = self.join().await;
        let extent = self.stream.reserve(len).unwrap();
        let lease = self.primary.lease(self.stream.id(), extent, path, Bytes::from_static(b"go"));
        self.leases.push(lease.unwrap());
        let (_, activate) = peer.hear_activation().await;
        (path, peer, activate)
    }

    /// The primary is told that a path has ended for this reason.
    pub(crate) async fn hears(&self, path: PathId, code: Code, what: &str) {
        let told = || self.primary.dead_paths().into_iter().find(|info| info.id == path);
        common::until(|| told().is_some()).await;
        let reason = told().unwrap().reason;
        assert!(reason.contains(code.name()), "{what}: the primary hears {reason:?}");
    }
}

/// What an edge may not do, once it was asked for `piece` of `stream`.
fn crimes_of_edges(stream: u64, piece: &Activate) -> Vec<Row> {
    let stopped = |sent_until| {
        let (lease_id, piece_id) = (piece.lease_id, piece.piece_id);
        Say(M::Stopped(Stopped { lease_id, piece_id, sent_until, ..<_>::default() }))
    };
    let data = |stream, offset, len: usize| {
        Throw(packet(vec![frame(stream, offset, vec![7; len], false)]))
    };
    let isolation = Some(Code::SecondaryStreamIsolation);
    let whole = packet(vec![frame(stream, piece.range.start, vec![7; 100], false)]);
    vec![
        (
            "a stop beyond its piece",
            Some(Code::OffsetSyncFailure),
            vec![stopped(piece.range.end + 1)],
        ),
        (
            "a stop of no piece",
            None,
            vec![Say(M::Stopped(Stopped { lease_id: LeaseId(99), ..<_>::default() }))],
        ),
        (
            "a question of a stream that is not there",
            None,
            vec![Say(M::OffsetSyncRequest(<_>::default()))],
        ),
        ("bytes that are leased and not asked for yet", isolation, vec![data(stream, 900_000, 1)]),
        ("bytes beyond its cursor", isolation, vec![data(stream, piece.range.start + 1, 2)]),
        ("bytes of another stream", isolation, vec![data(uni(Side::Server, 5), 0, 1)]),
        (
            "bytes of a client's stream",
            Some(Code::InvalidStreamRole),
            vec![data(uni(Side::Client, 0), 0, 1)],
        ),
        (
            "a truncated packet",
            Some(Code::InvalidFrame),
            vec![Throw(whole[..whole.len() - 1].to_vec())],
        ),
        (
            "a packet without end",
            Some(Code::InvalidFrame),
            vec![Throw([&[0][..], &oversized(1 << 40)].concat())],
        ),
        ("garbage as data", Some(Code::InvalidFrame), vec![Throw(vec![0, 3, 0xff, 0xff, 0xff])]),
        ("a datagram", None, vec![Datagram]),
        ("a stream of an unknown kind", None, vec![Throw(vec![77, 1, 2, 3])]),
    ]
}

/// All rows of edges.
pub(crate) fn rows(stream: u64, piece: &Activate) -> Vec<Row> {
    let may = ["a stop", "an offset asked for"];
    let roles = of_roles().into_iter().filter(|(what, _)| !may.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    malformed(1).into_iter().chain(roles).chain(crimes_of_edges(stream, piece)).collect()
}

#[tokio::test]
async fn crimes_of_edges_end_their_path_alone() {
    let _turn = crate::heap::TURN.lock().await;
    within(async {
        let count = rows(0, &Activate { range: 0..1, ..<_>::default() }).len();
        println!("{count} rows");
        for at in 0..count {
            // A client dials so many edges of one session only.
            let mut scene = EdgeScene::new().await;
            let (path, mut peer, piece) = scene.add(1_000_000).await;
            let row = rows(scene.stream.id().as_u64(), &piece).swap_remove(at);
            let (what, ends) = (row.0, row.1);
            suffer(&mut peer, row).await;
            if let Some(code) = ends {
                scene.hears(path, code, what).await;
            }
            echo(&scene.session).await;
        }
    })
    .await;
}
