//! Of primaries, at their client: its other sessions go on.

use bytes::Bytes;
use common::hostile::{self, Peer};
use common::{Servers, client, echo, identity, object, serve_echo};
use kwik::{ClientConfig, Code, ConnectionError, Fingerprint, LeaseId, PathId, Session, StreamId};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Activate, AddPathRequest, Lease, RawPacketTransmission, RemovePathRequest, Revoke,
};
use kwik_proto::{Side, limits};

use super::{FLOOD, SMALL, begins, feats, honest, saw};
use crate::{OWN, common, uni};

const TOO_MUCH: Option<Code> = Some(Code::LimitExceeded);
const NO_PATH: Option<Code> = Some(Code::PathNotFound);
const ENDED: Option<Code> = Some(Code::PathDead);
const FALLING: Option<Code> = Some(Code::InvalidFrame);

feats! {
    a_primary_leases_the_same_range_to_all: SMALL, None, leases_to_all();
    a_primary_leases_the_same_range_without_end: FLOOD, TOO_MUCH, leases_without_end();
    a_primary_revokes_what_is_done: SMALL, None, revokes_what_is_done();
    a_primary_leases_and_revokes_in_a_loop: FLOOD, None, leases_and_revokes();
    a_primary_adds_a_thousand_paths: FLOOD, None, adds_a_thousand_paths();
    a_primary_uses_the_id_of_an_ended_path_again: SMALL, None, uses_an_id_again();
    a_primary_uses_the_id_of_a_forgotten_path_again: FLOOD, FALLING, uses_a_forgotten_id();
    a_primary_adds_and_removes_in_a_loop: FLOOD, None, adds_and_removes();
    a_primary_orders_dials_to_where_nobody_is_to_go: SMALL, None, orders_dials();
    a_primary_removes_the_path_to_itself: SMALL, None, removes_path_0();
    a_primary_floods_raw_packets_for_no_path: FLOOD, NO_PATH, floods_raw_packets(9);
    a_primary_floods_raw_packets_for_a_path_that_has_ended: FLOOD, ENDED, floods_an_ended_path();
    a_primary_floods_raw_packets_for_an_edge_that_reads_none: FLOOD, None, floods_a_stuck_edge();
    a_primary_writes_what_it_was_asked_for_twice: SMALL, None, writes_twice();
}

/// A client with an honest session, and one of a primary by hand.
struct Scene {
    honest: Session,
    session: Session,
    peer: Peer,
    _kept: (Servers, kwik::Endpoint, kwik::PrimarySession),
}

impl Scene {
    async fn new() -> Self {
        let (servers, own) = (Servers::new(0), client());
        let (honest, primary) = servers.connect(&own).await;
        serve_echo(primary.session().clone());
        let listener = hostile::listener(&identity(OWN));
        let config = ClientConfig::pinned(identity(OWN).fingerprint());
        let dial = own.connect_with(config, listener.local_addr().unwrap(), "").unwrap();
        let (session, peer) = tokio::join!(dial, Peer::welcome(&listener));
        begins();
        Self { honest, session: session.unwrap(), peer, _kept: (servers, own, primary) }
    }

    async fn ended(self, code: Code) {
        self.peer.expect(code, "a hostile primary").await;
        saw(code);
        let closed = self.session.closed().await;
        let ConnectionError::TransportError { code: found, reason } = closed else {
            panic!("{closed:?}")
        };
        assert_eq!(found, code.as_u64(), "{reason}");
        echo(&self.honest).await;
    }

    async fn unharmed(mut self) {
        self.peer.ping().await;
        assert_eq!(self.session.close_reason(), None);
        echo(&self.honest).await;
    }

    /// What the client answers to an order to dial.
    async fn answer(&mut self, path: u32) -> Result<(), String> {
        let answer = |m: &M| match m {
            M::AddPathResponse(m) if m.path_id == PathId(path) => Some(m.result.clone()),
            _ => None,
        };
        self.peer.hear_until(answer).await
    }
}

fn server(index: u64) -> u64 {
    uni(Side::Server, index)
}

fn lease(id: u64, path: u32, range: std::ops::Range<u64>) -> M {
    M::Lease(Lease {
        lease_id: LeaseId(id),
        stream_id: StreamId::from_u64(server(0)),
        path_id: PathId(path),
        max_bytes: limits::lease_budget(range.end - range.start),
        range,
        sequence: id,
        ..<_>::default()
    })
}

fn add(path: u32, target: &str) -> M {
    M::AddPathRequest(AddPathRequest {
        path_id: PathId(path),
        session_id: None,
        target_address: target.into(),
        server_key_hash: Fingerprint([1; 32]),
        grant: Bytes::from_static(b"none"),
    })
}

fn remove(path: u32) -> M {
    M::RemovePathRequest(RemovePathRequest { path_id: PathId(path) })
}

fn revoke(id: u64) -> M {
    M::Revoke(Revoke { lease_id: LeaseId(id) })
}

fn asked(m: &M) -> Option<Activate> {
    match m {
        M::Activate(asked) => Some(asked.clone()),
        _ => None,
    }
}

/// Each byte is asked for once, however many leases allow it.
async fn leases_to_all() {
    let mut scene = Scene::new().await;
    for id in 1..=64 {
        scene.peer.say(lease(id, 0, 0..10_000)).await;
    }
    let mut brought = 0;
    while brought < 10_000 {
        let piece = scene.peer.hear_until(asked).await;
        assert_eq!(piece.range.start, brought, "{piece:?}");
        brought = piece.range.end;
        scene.peer.throw(honest(server(0), piece.range)).await;
    }
    let mut stream = scene.session.accept_uni().await.unwrap();
    let read = stream.read_chunk(20_000, true).await.unwrap().unwrap();
    assert!(read.bytes == object(0..read.bytes.len() as u64));
    scene.unharmed().await;
}

async fn leases_without_end() {
    let mut scene = Scene::new().await;
    for id in 1..=limits::MAX_LEASES as u64 + 1 {
        scene.peer.say(lease(id, 0, 0..10_000)).await;
    }
    scene.ended(Code::LimitExceeded).await;
}

async fn revokes_what_is_done() {
    let mut scene = Scene::new().await;
    scene.peer.say(lease(1, 0, 0..10)).await;
    scene.peer.hear_until(asked).await;
    scene.peer.throw(honest(server(0), 0..10)).await;
    let done = |m: &M| matches!(m, M::LeaseReport(m) if m.lease_id == LeaseId(1));
    scene.peer.hear_until(|m| done(m).then_some(())).await;
    for _ in 0..3 {
        scene.peer.say(revoke(1)).await;
    }
    let mut stream = scene.session.accept_uni().await.unwrap();
    assert_eq!(stream.read_chunk(10, true).await.unwrap().unwrap().bytes, object(0..10));
    scene.unharmed().await;
}

async fn leases_and_revokes() {
    let mut scene = Scene::new().await;
    for id in 1..=10_000 {
        scene.peer.say(lease(id, 0, 0..10)).await;
        scene.peer.say(revoke(id)).await;
        if id % 100 == 0 {
            scene.peer.ping().await;
        }
    }
    scene.unharmed().await;
}

async fn adds_a_thousand_paths() {
    let mut scene = Scene::new().await;
    // Nobody answers there.
    let silent = std::net::UdpSocket::bind(common::LOOPBACK).unwrap();
    let target = silent.local_addr().unwrap().to_string();
    for path in 1..=1_000 {
        scene.peer.say(add(path, &target)).await;
    }
    let mut refused = 0;
    while refused < 1_000 - limits::MAX_DIALS {
        let answer = |m: &M| match m {
            M::AddPathResponse(m) => Some(m.result.clone()),
            _ => None,
        };
        let words = scene.peer.hear_until(answer).await.unwrap_err();
        assert!(!words.is_empty());
        refused += 1;
    }
    let paths = scene.session.stats().paths.len();
    assert!(paths <= limits::MAX_PATHS + 1, "{paths} paths");
    scene.unharmed().await;
}

/// A grant may cross the notice of a path's end: nothing is dialed for it.
async fn uses_an_id_again() {
    let mut scene = Scene::new().await;
    scene.peer.say(add(1, "169.254.0.1:1")).await;
    scene.answer(1).await.unwrap_err();
    let listener = std::net::UdpSocket::bind(common::LOOPBACK).unwrap();
    scene.peer.say(add(1, &listener.local_addr().unwrap().to_string())).await;
    scene.peer.ping().await;
    listener.set_nonblocking(true).unwrap();
    let dialed = listener.recv(&mut [0; 2_000]);
    assert_eq!(dialed.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    scene.unharmed().await;
}

async fn uses_a_forgotten_id() {
    let mut scene = Scene::new().await;
    let more = u32::try_from(limits::MAX_PATH_HISTORY).unwrap() + 2;
    for path in 1..=more {
        scene.peer.say(add(path, "169.254.0.1:1")).await;
        scene.answer(path).await.unwrap_err();
    }
    scene.peer.say(add(1, "169.254.0.1:1")).await;
    scene.ended(Code::InvalidFrame).await;
}

async fn adds_and_removes() {
    let mut scene = Scene::new().await;
    for path in 1..=2_000 {
        scene.peer.say(add(path, "127.0.0.1:9")).await;
        scene.peer.say(remove(path)).await;
        if path % 100 == 0 {
            scene.peer.ping().await;
        }
    }
    scene.unharmed().await;
}

/// It is on loopback, which gives it more than any other.
async fn orders_dials() {
    let mut scene = Scene::new().await;
    let targets = [
        ("127.0.0.1:0", "port 0"),
        ("127.0.0.1:53", "port 53"),
        ("[::1]:53", "port 53"),
        ("1.1.1.1:123", "port 123"),
        ("169.254.169.254:80", "link-local"),
        ("[fe80::1]:443", "link-local"),
        ("[::ffff:169.254.169.254]:80", "link-local"),
        ("[64:ff9b::127.0.0.1]:443", "stands for"),
        ("[64:ff9b::169.254.169.254]:443", "stands for"),
        ("[2002:7f00:1::1]:443", "stands for"),
        ("[2002:a9fe:a9fe::1]:443", "stands for"),
        ("[::127.0.0.1]:443", "reserved"),
        ("0.0.0.0:443", "names no host"),
        ("224.0.0.1:443", "multicast"),
    ];
    for (path, (target, words)) in (1..).zip(targets) {
        scene.peer.say(add(path, target)).await;
        let refusal = scene.answer(path).await.expect_err(target);
        assert!(refusal.contains(words), "{target}: {refusal}");
    }
    scene.unharmed().await;
}

async fn removes_path_0() {
    let mut scene = Scene::new().await;
    scene.peer.say(remove(0)).await;
    let answer = |m: &M| match m {
        M::RemovePathResponse(m) => Some(m.result.clone()),
        _ => None,
    };
    scene.peer.hear_until(answer).await.unwrap_err();
    scene.unharmed().await;
}

fn raw(path: u32, sequence: u64) -> M {
    let data = Bytes::from(vec![7; 1_000]);
    let target_path_id = PathId(path);
    M::RawPacketTransmission(RawPacketTransmission {
        target_path_id,
        sequence,
        data,
        ..<_>::default()
    })
}

async fn floods_raw_packets(path: u32) {
    let scene = Scene::new().await;
    are_reported(scene, path, Code::PathNotFound).await;
}

async fn floods_an_ended_path() {
    let mut scene = Scene::new().await;
    scene.peer.say(add(1, "169.254.0.1:1")).await;
    scene.answer(1).await.unwrap_err();
    are_reported(scene, 1, Code::PathDead).await;
}

/// Each is answered with the code; nothing is kept of it.
async fn are_reported(mut scene: Scene, path: u32, code: Code) {
    for round in 0..100 {
        for at in 1..=100 {
            scene.peer.say(raw(path, round * 100 + at)).await;
        }
        let report = |m: &M| match m {
            M::RelayReport(m) => Some((m.sequence, m.code)),
            _ => None,
        };
        loop {
            let (sequence, reported) = scene.peer.hear_until(report).await;
            assert_eq!(reported, code.as_u64());
            if sequence == round * 100 + 100 {
                break;
            }
        }
    }
    saw(code);
    scene.unharmed().await;
}

/// 10 MB for an edge that takes no streams: the client keeps its bound, and says of the rest that
/// it did not go.
async fn floods_a_stuck_edge() {
    let mut scene = Scene::new().await;
    let listener = hostile::listener(&identity(OWN + 1));
    let target = listener.local_addr().unwrap().to_string();
    let order = AddPathRequest {
        path_id: PathId(1),
        session_id: None,
        target_address: target,
        server_key_hash: identity(OWN + 1).fingerprint(),
        grant: Bytes::from_static(b"taken by an edge by hand"),
    };
    scene.peer.say(M::AddPathRequest(order)).await;
    let (_edge, added) = tokio::join!(Peer::welcome(&listener), scene.answer(1));
    added.unwrap();
    begins();
    let mut refused = 0;
    for round in 0..100 {
        for at in 1..=100 {
            scene.peer.say(raw(1, round * 100 + at)).await;
        }
        let mut last = 0;
        while last < round * 100 + 100 {
            let report = |m: &M| match m {
                M::RelayReport(m) => Some((m.sequence, m.code)),
                _ => None,
            };
            let (sequence, code) = scene.peer.hear_until(report).await;
            refused += u32::from(code != 0);
            last = last.max(sequence);
        }
    }
    assert!(refused > 0, "all of 10 MB are kept");
    scene.unharmed().await;
}

async fn writes_twice() {
    let mut scene = Scene::new().await;
    scene.peer.say(lease(1, 0, 0..10_000)).await;
    scene.peer.hear_until(asked).await;
    scene.peer.throw(honest(server(0), 0..10_000)).await;
    scene.peer.throw(honest(server(0), 0..10_000)).await;
    let mut stream = scene.session.accept_uni().await.unwrap();
    let mut read = Vec::new();
    while read.len() < 10_000 {
        read.extend_from_slice(&stream.read_chunk(10_000, true).await.unwrap().unwrap().bytes);
    }
    assert!(read == object(0..10_000));
    scene.unharmed().await;
}
