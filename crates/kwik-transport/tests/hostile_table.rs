//! Every crime of a table, over real QUIC: what is sent, what must come of it, and that nobody else
//! is harmed. Crimes of clients and primaries that take more than a few messages are in
//! `hostile_client.rs` and `hostile_server.rs`.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use common::hostile::{
    self, Peer, delimited, frame, introduction, packet, raw_stream, visit, welcome,
};
use common::proto::{Field, message};
use common::{
    Servers, accept_secondary, address, client, echo, identity, serve_clients, serve_echo, within,
};
use kwik::{Code, Identity, PathId, PrimarySession, SendStream, Session, SessionId};
use kwik_proto::auth::{Grant, GrantClaims, Signature};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Ack, Activate, AddPathRequest, AddPathResponse, Cancel, Heartbeat, Lease, LeaseReport,
    MaxStreamData, MaxStreams, PathStatus, PathStatusNotification, RawPacketTransmission,
    RelayReport, RemovePathRequest, Resume, Revoke, StopSending, Stopped, StreamCreateNotification,
    StreamReset, Uncovered,
};
use kwik_proto::{Dir, LeaseId, PieceId, Side, StreamId, limits};

const HEARTBEAT: i32 = 29;
const OWN: u8 = 50;

/// What a hostile peer does.
enum Move {
    /// A control message.
    Say(M),
    /// Bytes on the control stream.
    Bytes(Vec<u8>),
    /// A unidirectional stream of these bytes.
    Throw(Vec<u8>),
    /// It ends the control stream, or resets it.
    Finish,
    Reset,
    /// It sends a datagram, although none are taken.
    Datagram,
}

use Move::{Bytes as Raw, Datagram, Finish, Reset, Say, Throw};

/// One crime: what it is, what its victim says of it (none: it is borne), and what is done.
type Row = (&'static str, Option<Code>, Vec<Move>);

async fn commit(peer: &mut Peer, moves: Vec<Move>) {
    for done in moves {
        match done {
            Say(message) => peer.say(message).await,
            Raw(bytes) => peer.say_bytes(&bytes).await,
            Throw(bytes) => drop(peer.throw(bytes).await),
            Finish => peer.send.finish().unwrap(),
            Reset => peer.send.reset(3u32.into()).unwrap(),
            Datagram => drop(peer.connection.send_datagram(Bytes::from_static(b"x"))),
        }
    }
}

/// Commits a crime, and checks what comes of it.
async fn suffer(peer: &mut Peer, (what, ends, moves): Row) {
    commit(peer, moves).await;
    match ends {
        Some(code) => peer.expect(code, what).await,
        None => {
            peer.say(M::Heartbeat(Heartbeat { sequence: 77, reply: false })).await;
            let answer = |m: &M| matches!(m, M::Heartbeat(m) if m.reply && m.sequence == 77);
            peer.hear_until(|m| answer(m).then_some(())).await;
        }
    }
}

fn uni(side: Side, index: u64) -> u64 {
    StreamId::new(side, Dir::Uni, index).as_u64()
}

fn frame_bytes(frame_id: u64, number: i32, payload: &[u8]) -> Vec<u8> {
    let number = u64::from_ne_bytes(i64::from(number).to_ne_bytes());
    let fields = [(1, Field::Number(frame_id)), (2, Field::Number(number))];
    delimited(&message(&[&fields[..], &[(3, Field::Bytes(payload))]].concat()))
}

fn oversized(limit: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    prost::encoding::encode_varint(limit as u64 + 1, &mut out);
    out.to_vec()
}

/// What no control stream carries, whoever reads it.
fn malformed(next: u64) -> Vec<Row> {
    let beat = message(&[(1, Field::Number(1))]);
    let invalid = Some(Code::InvalidFrame);
    vec![
        ("a frame that is too long", invalid, vec![Raw(oversized(limits::MAX_CONTROL_FRAME))]),
        ("a length that is no varint", invalid, vec![Raw(vec![0xff; 11])]),
        ("no protobuf", invalid, vec![Raw(vec![4, 0xff, 0xff, 0xff, 0xff])]),
        ("an empty frame", invalid, vec![Raw(vec![0])]),
        ("a frame id again", invalid, vec![Raw(frame_bytes(0, HEARTBEAT, &beat))]),
        ("a frame id ahead", invalid, vec![Raw(frame_bytes(next + 1, HEARTBEAT, &beat))]),
        ("no payload", invalid, vec![Raw(frame_bytes(next, HEARTBEAT, &[]))]),
        ("no message", invalid, vec![Raw(frame_bytes(next, HEARTBEAT, &[0xff, 0xff]))]),
        ("the control stream ends", invalid, vec![Finish]),
        ("the control stream is reset", invalid, vec![Reset]),
        ("a frame of a later version", None, vec![Say(M::Unknown(1000))]),
    ]
}

/// Messages that one role alone may send.
fn of_roles() -> Vec<(&'static str, M)> {
    let (path_id, lease_id, piece_id) = (PATH, LeaseId(1), PieceId(1));
    let stream_id = StreamId::new(Side::Server, Dir::Uni, 0);
    let path = AddPathRequest {
        path_id,
        session_id: None,
        target_address: String::new(),
        server_key_hash: identity(OWN).fingerprint(),
        grant: Bytes::new(),
    };
    let refused = AddPathResponse { path_id, result: Err(String::new()) };
    let streams = MaxStreams { dir: Dir::Bi, maximum: 9, first_streams: 0 };
    vec![
        ("an introduction", introduction(&Identity::from_seed([1; 32]))),
        ("an answer to none", M::AuthenticationResponse(welcome(SESSION))),
        ("a path", M::AddPathRequest(path)),
        ("a path's answer", M::AddPathResponse(refused)),
        ("a path's removal", M::RemovePathRequest(RemovePathRequest { path_id })),
        ("a path's state", state(path_id, PathStatus::Active)),
        ("a lease", M::Lease(Lease { lease_id, range: 0..9, ..<_>::default() })),
        ("a revocation", M::Revoke(Revoke { lease_id })),
        ("a lease's end", M::LeaseReport(LeaseReport { lease_id, ..<_>::default() })),
        ("an activation", M::Activate(Activate { lease_id, ..<_>::default() })),
        ("a cancellation", M::Cancel(Cancel { lease_id, piece_id })),
        ("a stop", M::Stopped(Stopped { lease_id, ..<_>::default() })),
        ("a gap", M::Uncovered(Uncovered { stream_id, ranges: Vec::new() })),
        ("a reset", M::StreamReset(StreamReset { stream_id, code: 1, final_size: 0 })),
        ("a request to stop", M::StopSending(StopSending { stream_id, code: 1 })),
        ("streams", M::MaxStreams(streams)),
        ("credit", M::MaxStreamData(MaxStreamData { stream_id, maximum: 9 })),
        ("a relay's report", M::RelayReport(RelayReport::default())),
        (
            "a stream",
            M::StreamCreateNotification(StreamCreateNotification { stream_id, ..<_>::default() }),
        ),
        ("a raw packet", M::RawPacketTransmission(unsigned_packet())),
        ("a resumption", M::Resume(Resume { frame_id: 1, streams: Vec::new() })),
    ]
}

fn state(path_id: PathId, status: PathStatus) -> M {
    let (reason, report, ended) = (String::new(), None, false);
    M::PathStatusNotification(PathStatusNotification { path_id, status, reason, report, ended })
}

fn unsigned_packet() -> RawPacketTransmission {
    RawPacketTransmission { sequence: 1, ..<_>::default() }
}

/// An honest client with an honest primary, which leases to a hostile edge.
struct EdgeScene {
    session: Session,
    primary: PrimarySession,
    listener: quinn::Endpoint,
    /// What it leases from.
    stream: SendStream,
    leases: Vec<kwik::Lease>,
    _servers: Servers,
}

impl EdgeScene {
    async fn new() -> Self {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        serve_echo(primary.session().clone());
        let stream = primary.session().open_uni().await.unwrap();
        let listener = hostile::listener(&identity(OWN));
        Self { session, primary, listener, stream, leases: Vec::new(), _servers: servers }
    }

    /// A path to the edge, which holds a lease of 1 MB and was asked for its first piece.
    async fn add(&mut self) -> (PathId, Peer, Activate) {
        let add =
            self.primary.add_path(self.listener.local_addr().unwrap(), identity(OWN).fingerprint());
        let (path, mut peer) = tokio::join!(add, Peer::welcome(&self.listener));
        let path = path.unwrap();
        let extent = self.stream.reserve(1_000_000).unwrap();
        let lease = self.primary.lease(self.stream.id(), extent, path, Bytes::from_static(b"go"));
        self.leases.push(lease.unwrap());
        let (_, activate) = peer.hear_activation().await;
        (path, peer, activate)
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
        ("bytes that nobody asked for", isolation, vec![data(stream, 900_000, 1)]),
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
fn rows_of_edges(stream: u64, piece: &Activate) -> Vec<Row> {
    let may = ["a stop"];
    let roles = of_roles().into_iter().filter(|(what, _)| !may.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    malformed(1).into_iter().chain(roles).chain(crimes_of_edges(stream, piece)).collect()
}

#[tokio::test]
async fn crimes_of_edges_end_their_path_alone() {
    within(async {
        let rows = rows_of_edges(0, &Activate { range: 0..1, ..<_>::default() }).len();
        println!("{rows} rows");
        for at in 0..rows {
            // A client dials so many edges of one session only.
            let mut scene = EdgeScene::new().await;
            let (path, mut peer, piece) = scene.add().await;
            let row = rows_of_edges(scene.stream.id().as_u64(), &piece).swap_remove(at);
            let (what, ends) = (row.0, row.1);
            suffer(&mut peer, row).await;
            if let Some(code) = ends {
                let told = || scene.primary.dead_paths().into_iter().find(|info| info.id == path);
                common::until(|| told().is_some()).await;
                let reason = told().unwrap().reason;
                assert!(reason.contains(code.name()), "{what}: the primary hears {reason:?}");
            }
            echo(&scene.session).await;
        }
    })
    .await;
}

const SESSION: SessionId = SessionId([5; 16]);
const PATH: PathId = PathId(1);

/// A path of a hostile client to an edge, as it should begin.
async fn join_edge(servers: &Servers, dialer: &quinn::Endpoint) -> (Peer, kwik::SecondarySession) {
    let (edge, key) = (&servers.edges[0], Identity::from_seed([9; 32]));
    let claims = GrantClaims {
        session: SESSION,
        path: PATH,
        audience: edge.fingerprint().unwrap(),
        client_key: key.fingerprint(),
    };
    let grant = Grant::issue(&identity(0), &claims, SystemTime::now());
    let dial = async {
        let mut peer = Peer::dial(dialer, address(edge)).await;
        let exporter = peer.exporter();
        peer.say(visit(&key, &exporter, SESSION, PATH, grant)).await;
        let answer = peer.hear().await;
        assert!(matches!(&answer, M::AuthenticationResponse(m) if m.result.is_ok()), "{answer:?}");
        peer
    };
    tokio::join!(dial, accept_secondary(edge))
}

/// All rows of clients at an edge.
fn rows_at_edges() -> Vec<Row> {
    let may = ["a lease", "a revocation", "an activation", "a cancellation"];
    let roles = of_roles().into_iter().filter(|(what, _)| !may.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    let invalid = Some(Code::InvalidFrame);
    let ack = Ack { ranges: vec![1..=1] };
    let forged =
        Lease { lease_id: LeaseId(1), range: 0..9, sequence: 1, max_bytes: 9, ..<_>::default() };
    let signed = Lease { signature: Some(Signature([7; 64])), ..forged.clone() };
    let raw = raw_stream(&[unsigned_packet()]);
    let lease_id = LeaseId(9);
    let crimes = vec![
        ("an ack of nothing", invalid, vec![Say(M::Ack(ack))]),
        ("a lease that nobody signed", Some(Code::AuthFailed), vec![Say(M::Lease(forged))]),
        ("a lease that another signed", Some(Code::AuthFailed), vec![Say(M::Lease(signed))]),
        ("a raw packet that nobody signed", Some(Code::AuthFailed), vec![Throw(raw)]),
        ("data", Some(Code::InvalidStreamRole), vec![Throw(packet(Vec::new()))]),
        (
            "an activation of no lease",
            None,
            vec![Say(M::Activate(Activate { lease_id, range: 0..1, ..<_>::default() }))],
        ),
        (
            "a cancellation of no lease",
            None,
            vec![Say(M::Cancel(Cancel { lease_id, piece_id: PieceId(1) }))],
        ),
        ("a revocation of no lease", None, vec![Say(M::Revoke(Revoke { lease_id }))]),
        ("a datagram", None, vec![Datagram]),
        ("a stream of an unknown kind", None, vec![Throw(vec![77, 1, 2, 3])]),
    ];
    malformed(1).into_iter().chain(roles).chain(crimes).collect()
}

#[tokio::test]
async fn crimes_of_clients_at_an_edge_end_their_path_alone() {
    within(async {
        let (servers, own, dialer) = (Servers::new(1), client(), hostile::dialer());
        let (session, primary) = servers.connect(&own).await;
        serve_echo(primary.session().clone());
        let (path, _honest) = servers.add_edge(&primary, 0).await;
        let rows = rows_at_edges();
        println!("{} rows", rows.len());
        for row in rows {
            let (mut peer, edge) = join_edge(&servers, &dialer).await;
            let ends = row.1.is_some();
            suffer(&mut peer, row).await;
            if ends {
                edge.closed().await;
            }
            assert!(primary.active_paths().iter().any(|info| info.id == path));
        }
        echo(&session).await;
    })
    .await;
}

/// All rows of clients at a primary.
fn rows_at_primaries() -> Vec<Row> {
    let alone = [
        "an introduction",
        "an answer to none",
        "a path",
        "a path's removal",
        "a lease",
        "a revocation",
        "a stop",
        "a reset",
        "credit",
        "a stream",
        "a raw packet",
        "a resumption",
    ];
    let roles = of_roles().into_iter().filter(|(what, _)| alone.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    let ack = Ack { ranges: vec![1..=1] };
    let crimes = vec![
        ("an ack of nothing", Some(Code::InvalidFrame), vec![Say(M::Ack(ack))]),
        ("a state of no path", None, vec![Say(state(PathId(7), PathStatus::Dead))]),
        ("a datagram", None, vec![Datagram]),
        ("a stream of an unknown kind", None, vec![Throw(vec![77, 1, 2, 3])]),
    ];
    malformed(1).into_iter().chain(roles).chain(crimes).collect()
}

#[tokio::test]
async fn crimes_of_clients_at_a_primary_end_their_session_alone() {
    within(async {
        let (servers, own, dialer) = (Servers::new(0), client(), hostile::dialer());
        serve_clients(servers.primary.clone());
        let config = kwik::ClientConfig::pinned(identity(0).fingerprint());
        let honest = own.connect_with(config, address(&servers.primary), "").unwrap();
        let honest = honest.await.unwrap();
        let rows = rows_at_primaries();
        println!("{} rows", rows.len());
        for row in rows {
            let mut peer = Peer::join(&dialer, address(&servers.primary)).await;
            suffer(&mut peer, row).await;
            echo(&honest).await;
        }
    })
    .await;
}

/// A client by hand with a path that its primary has asked for, and what the primary thinks of it.
async fn asked_for_a_path(
    servers: &Servers,
) -> (Peer, PrimarySession, tokio::task::JoinHandle<Result<PathId, kwik::PathError>>) {
    let accept = async {
        match servers.primary.accept().await.unwrap().accept_any().await.unwrap() {
            kwik::Accepted::Primary(primary) => primary,
            kwik::Accepted::Secondary(_) => panic!("a client came as a path"),
        }
    };
    let dialer = hostile::dialer();
    let (mut peer, primary) = tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
    let (asking, edge) = (primary.clone(), identity(OWN).fingerprint());
    let adding =
        tokio::spawn(async move { asking.add_path("127.0.0.1:9".parse().unwrap(), edge).await });
    peer.hear_until(|m| matches!(m, M::AddPathRequest(_)).then_some(())).await;
    (peer, primary, adding)
}

#[tokio::test]
async fn a_path_that_flips_brings_few_grants() {
    within(async {
        let servers = Servers::new(0);
        let (mut peer, _primary, adding) = asked_for_a_path(&servers).await;
        let joined = AddPathResponse { path_id: PATH, result: Ok(()) };
        peer.say(M::AddPathResponse(joined)).await;
        adding.await.unwrap().unwrap();
        for status in [PathStatus::Dead, PathStatus::Active].repeat(2_000) {
            peer.say(state(PATH, status)).await;
        }
        peer.say(M::Heartbeat(Heartbeat { sequence: 77, reply: false })).await;
        let mut grants = 0;
        loop {
            match peer.hear().await {
                M::AddPathRequest(_) => grants += 1,
                M::Heartbeat(beat) if beat.sequence == 77 => break,
                _ => {}
            }
        }
        // Each wait is twice as long as the one before, from a quarter of a second on.
        // Those that come at once cancel out.
        assert!(grants <= 8, "{grants} grants for 4,000 notifications");
    })
    .await;
}

#[tokio::test]
async fn words_of_a_client_are_shown_escaped() {
    within(async {
        let servers = Servers::new(0);
        let (mut peer, primary, adding) = asked_for_a_path(&servers).await;
        let words = "no\n2026 ERROR all is lost\u{1b}[2J\u{7}\u{9b}31m\u{202e}";
        let refusal = AddPathResponse { path_id: PATH, result: Err(words.to_owned()) };
        peer.say(M::AddPathResponse(refusal)).await;
        let error = adding.await.unwrap().unwrap_err().to_string();
        let shown = r"no\n2026 ERROR all is lost\u{1b}[2J\u{7}\u{9b}31m\u{202e}";
        assert!(error.ends_with(shown), "{error}");
        peer.connection.close(9u32.into(), words.as_bytes());
        let closed = primary.session().closed().await.to_string();
        assert!(closed.ends_with(shown), "{closed}");
    })
    .await;
}
