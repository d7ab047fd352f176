//! Of clients, at an edge and at a primary: the edge's other clients, and the primary's, go on.

use std::ops::Range;

use bytes::Bytes;
use common::hostile::{self, Peer, raw_stream};
use common::{Servers, address, client, echo, fill, identity, serve_echo};
use kwik::{
    Accepted, Code, LeaseId, PathId, PrimarySession, SecondarySession, SessionId, StreamId,
};
use kwik_proto::auth::{LeaseFields, sign_lease, sign_raw};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Activate, Cancel, Lease, LeaseOutcome, LeaseReport, RawPacketTransmission, Revoke, Uncovered,
};
use kwik_proto::{PieceId, limits};

use super::{FLOOD, SMALL, begins, feats, saw};
use crate::clients::join_edge;
use crate::{PATH, SESSION, common};

const FORGED: Option<Code> = Some(Code::AuthFailed);
const BEYOND: Option<Code> = Some(Code::OffsetMismatch);
const TOO_MUCH: Option<Code> = Some(Code::LimitExceeded);

feats! {
    a_client_relays_a_lease_of_another_path: SMALL, FORGED, relays(lease_of(SESSION, PathId(2)));
    a_client_relays_a_lease_of_another_session: SMALL, FORGED, relays(lease_of(OTHER, PATH));
    a_client_relays_a_raw_packet_of_another_path: SMALL, FORGED, throws(raw_of(PathId(2)));
    a_client_relays_a_lease_twice: SMALL, FORGED, relays_twice();
    a_client_relays_a_raw_packet_twice: SMALL, FORGED, throws_twice();
    a_client_takes_a_lease_back_and_relays_it_again: SMALL, FORGED, relays_what_was_revoked();
    a_client_activates_beyond_its_lease: SMALL, BEYOND, activates_beyond();
    a_client_asks_for_the_same_bytes_for_ever: FLOOD, TOO_MUCH, asks_for_ever();
    a_client_relays_more_leases_than_may_be: FLOOD, TOO_MUCH, too_many_leases();
    a_client_cancels_in_a_loop: FLOOD, None, cancels_in_a_loop();
    a_client_activates_beyond_its_lease_at_a_primary: SMALL, BEYOND, activates_beyond_at_home();
    a_client_cancels_in_a_loop_at_a_primary: FLOOD, None, cancels_in_a_loop_at_home();
    a_client_reports_what_its_lease_has_not: SMALL, BEYOND, reports_beyond();
    a_client_reports_its_leases_lost_again_and_again: FLOOD, None, reports_in_a_loop();
    a_client_reports_gaps_where_there_are_none: FLOOD, None, gaps_in_a_loop();
}

const OTHER: SessionId = SessionId([6; 16]);
const LEN: u64 = 100_000;

/// An edge with an honest client, and a hostile one that the same primary has let in.
struct AtEdge {
    honest: kwik::Session,
    primary: PrimarySession,
    path: PathId,
    peer: Peer,
    edge: SecondarySession,
    _servers: Servers,
    _kept: (kwik::Endpoint, SecondarySession),
}

impl AtEdge {
    async fn new() -> Self {
        let (servers, own) = (Servers::new(1), client());
        let (honest, primary) = servers.connect(&own).await;
        serve_echo(primary.session().clone());
        let (path, at_edge) = servers.add_edge(&primary, 0).await;
        let (peer, edge) = join_edge(&servers, &hostile::dialer()).await;
        begins();
        Self { honest, primary, path, peer, edge, _servers: servers, _kept: (own, at_edge) }
    }

    /// The path has ended for `code`; those of others have not.
    async fn ended(self, code: Code) {
        self.peer.expect(code, "a hostile client").await;
        saw(code);
        self.edge.closed().await;
        self.unharmed().await;
    }

    async fn unharmed(self) {
        assert!(self.primary.active_paths().iter().any(|info| info.id == self.path));
        echo(&self.honest).await;
    }
}

/// A lease as the primary signs it.
fn signed(session: SessionId, path: PathId, id: u64, sequence: u64) -> M {
    let fields = LeaseFields {
        lease_id: LeaseId(id),
        stream_id: StreamId::from_u64(3),
        start: 0,
        end: LEN,
        max_bytes: limits::lease_budget(LEN),
        command: b"fill",
    };
    let signature = Some(sign_lease(&identity(0), session, path, sequence, &fields));
    M::Lease(Lease {
        lease_id: fields.lease_id,
        stream_id: fields.stream_id,
        range: 0..LEN,
        // What it says of its path is the client's word; the signature is not.
        path_id: PATH,
        command: Bytes::from_static(b"fill"),
        sequence,
        max_bytes: fields.max_bytes,
        signature,
        unasked: 0,
    })
}

fn lease_of(session: SessionId, path: PathId) -> M {
    signed(session, path, 1, 1)
}

fn lease(id: u64, sequence: u64) -> M {
    signed(SESSION, PATH, id, sequence)
}

fn raw_of(path: PathId) -> Vec<u8> {
    let data = Bytes::from_static(b"packet");
    let signature = Some(sign_raw(&identity(0), SESSION, path, 1, &data));
    raw_stream(&[RawPacketTransmission { data, target_path_id: PATH, sequence: 1, signature }])
}

fn activate(lease: u64, piece: u64, range: Range<u64>) -> M {
    let (lease_id, piece_id) = (LeaseId(lease), PieceId(piece));
    M::Activate(Activate { lease_id, piece_id, range })
}

fn cancel(lease: u64, piece: u64) -> M {
    M::Cancel(Cancel { lease_id: LeaseId(lease), piece_id: PieceId(piece) })
}

async fn relays(lease: M) {
    let mut scene = AtEdge::new().await;
    scene.peer.say(lease).await;
    scene.ended(Code::AuthFailed).await;
}

async fn throws(packets: Vec<u8>) {
    let scene = AtEdge::new().await;
    scene.peer.throw(packets).await;
    scene.ended(Code::AuthFailed).await;
}

async fn relays_twice() {
    let mut scene = AtEdge::new().await;
    scene.peer.say(lease(1, 1)).await;
    scene.edge.accept_lease().await.unwrap();
    scene.peer.say(lease(1, 1)).await;
    scene.ended(Code::AuthFailed).await;
}

async fn throws_twice() {
    let scene = AtEdge::new().await;
    scene.peer.throw(raw_of(PATH)).await;
    assert_eq!(scene.edge.recv_raw().await.unwrap(), &b"packet"[..]);
    scene.peer.throw(raw_of(PATH)).await;
    scene.ended(Code::AuthFailed).await;
}

async fn relays_what_was_revoked() {
    let mut scene = AtEdge::new().await;
    scene.peer.say(lease(1, 1)).await;
    scene.edge.accept_lease().await.unwrap();
    scene.peer.say(M::Revoke(Revoke { lease_id: LeaseId(1) })).await;
    scene.peer.ping().await;
    scene.peer.say(lease(1, 1)).await;
    scene.ended(Code::AuthFailed).await;
}

async fn activates_beyond() {
    let mut scene = AtEdge::new().await;
    scene.peer.say(lease(1, 1)).await;
    scene.peer.say(activate(1, 0, 0..LEN + 1)).await;
    scene.ended(Code::OffsetMismatch).await;
}

async fn asks_for_ever() {
    let mut scene = AtEdge::new().await;
    scene.peer.say(lease(1, 1)).await;
    let filling = tokio::spawn(fill(scene.edge.accept_lease().await.unwrap()));
    for piece in 0..100 {
        scene.peer.say(activate(1, piece, 0..LEN)).await;
    }
    scene.peer.expect(Code::LimitExceeded, "more than its budget").await;
    saw(Code::LimitExceeded);
    assert!(filling.await.unwrap() <= limits::lease_budget(LEN));
    scene.ended(Code::LimitExceeded).await;
}

async fn too_many_leases() {
    let mut scene = AtEdge::new().await;
    for id in 1..=limits::MAX_LEASES as u64 + 1 {
        scene.peer.say(lease(id, id)).await;
    }
    scene.ended(Code::LimitExceeded).await;
}

async fn cancels_in_a_loop() {
    let mut scene = AtEdge::new().await;
    scene.peer.say(lease(1, 1)).await;
    let _writer = scene.edge.accept_lease().await.unwrap();
    for piece in 0..10_000 {
        scene.peer.say(activate(1, piece, 0..10)).await;
        for of in [piece, piece, piece / 2, piece + 1] {
            scene.peer.say(cancel(1, of)).await;
        }
        let stopped = |m: &M| matches!(m, M::Stopped(m) if m.piece_id == PieceId(piece));
        scene.peer.hear_until(|m| stopped(m).then_some(())).await;
    }
    scene.peer.ping().await;
    scene.unharmed().await;
}

/// A primary with an honest client, and a hostile one that holds a lease of the primary's own.
struct AtHome {
    honest: kwik::Session,
    peer: Peer,
    lease: LeaseId,
    stream: StreamId,
    primary: PrimarySession,
    _kept: (Servers, kwik::Endpoint, kwik::SendStream, kwik::Lease, kwik::LeaseWriter),
}

impl AtHome {
    async fn new() -> Self {
        let (servers, own) = (Servers::new(0), client());
        let (honest, at_primary) = servers.connect(&own).await;
        serve_echo(at_primary.session().clone());
        let accept = async { servers.primary.accept().await.unwrap().accept_any().await };
        let dialer = hostile::dialer();
        let (mut peer, accepted) =
            tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
        let Accepted::Primary(primary) = accepted.unwrap() else { panic!("no client") };
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(LEN).unwrap();
        let (held, writer) = primary.lease_own(stream.id(), extent).unwrap();
        let told = |m: &M| match m {
            M::Lease(lease) => Some((lease.lease_id, lease.stream_id)),
            _ => None,
        };
        let (lease, id) = peer.hear_until(told).await;
        let _kept = (servers, own, stream, held, writer);
        begins();
        Self { honest, peer, lease, stream: id, primary, _kept }
    }

    async fn ended(self, code: Code) {
        self.peer.expect(code, "a hostile client").await;
        saw(code);
        self.primary.session().closed().await;
        echo(&self.honest).await;
    }

    async fn unharmed(mut self) {
        self.peer.ping().await;
        assert_eq!(self.primary.session().close_reason(), None);
        echo(&self.honest).await;
    }

    fn report(&self, range: Range<u64>) -> M {
        M::LeaseReport(LeaseReport {
            lease_id: self.lease,
            outcome: LeaseOutcome::Lost,
            ranges: vec![range],
            delivered: u64::MAX,
            reason: "none".into(),
        })
    }
}

async fn activates_beyond_at_home() {
    let mut scene = AtHome::new().await;
    scene.peer.say(activate(scene.lease.0, 0, 0..LEN + 1)).await;
    scene.ended(Code::OffsetMismatch).await;
}

async fn cancels_in_a_loop_at_home() {
    let mut scene = AtHome::new().await;
    let lease = scene.lease.0;
    for piece in 0..10_000 {
        scene.peer.say(activate(lease, piece, 0..10)).await;
        scene.peer.say(cancel(lease, piece)).await;
        scene.peer.say(cancel(lease, piece)).await;
        let stopped = |m: &M| matches!(m, M::Stopped(m) if m.piece_id == PieceId(piece));
        scene.peer.hear_until(|m| stopped(m).then_some(())).await;
    }
    scene.unharmed().await;
}

async fn reports_beyond() {
    let mut scene = AtHome::new().await;
    let report = scene.report(0..LEN + 1);
    scene.peer.say(report).await;
    scene.ended(Code::OffsetMismatch).await;
}

async fn reports_in_a_loop() {
    let mut scene = AtHome::new().await;
    for _ in 0..100 {
        for _ in 0..100 {
            let report = scene.report(0..10);
            scene.peer.say(report).await;
        }
        scene.peer.ping().await;
    }
    scene.unharmed().await;
}

async fn gaps_in_a_loop() {
    let mut scene = AtHome::new().await;
    for _ in 0..100 {
        for _ in 0..100 {
            let (stream_id, ranges) = (scene.stream, vec![0..10, 20..LEN]);
            scene.peer.say(M::Uncovered(Uncovered { stream_id, ranges })).await;
        }
        scene.peer.ping().await;
    }
    scene.unharmed().await;
}
