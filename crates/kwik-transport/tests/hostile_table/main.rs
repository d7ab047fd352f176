//! Every crime of a table, over real QUIC: what is sent, what must come of it, what it may cost the
//! victim's heap, and that nobody else is harmed: the session of an edge, the edge's other clients,
//! the primary's other clients, the client's other sessions. What takes more than a few messages is
//! in `feats`. Crimes of clients and primaries that need scenes of their own are in
//! `hostile_client.rs`, `hostile_server.rs`, `leases.rs` and `resume.rs`.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod edges;
mod feats;
#[path = "../common/heap.rs"]
mod heap;
mod primaries;

use bytes::{Bytes, BytesMut};
use common::hostile::{Peer, delimited, introduction, welcome};
use common::identity;
use common::proto::{Field, message};
use kwik::{Code, Identity, PathId, SessionId};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Activate, AddPathRequest, AddPathResponse, Blamed, Cancel, Heartbeat, Lease, LeaseReport,
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

/// What a row may cost on the heap, both ends together, in bytes: a connection's buffers grow.
const MEMORY: usize = 1024 * 1024;

/// Commits a crime, and checks what comes of it. Whoever calls it has the turn at the heap.
async fn suffer(peer: &mut Peer, row: Row) {
    let (what, watch) = (row.0, heap::Watch::start());
    commit_and_expect(peer, row).await;
    let peak = watch.stop();
    println!("{what}: {peak} bytes of {MEMORY}");
    assert!(peak <= MEMORY, "{what}: {peak} bytes on the heap, more than {MEMORY}");
}

async fn commit_and_expect(peer: &mut Peer, (what, ends, moves): Row) {
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
        ("a blame", M::Blamed(Blamed { path_id, ..<_>::default() })),
        ("an offset asked for", M::OffsetSyncRequest(<_>::default())),
        ("an offset told", M::OffsetSyncResponse(<_>::default())),
        ("a resumption", M::Resume(Resume { frame_id: 1, ..<_>::default() })),
    ]
}

fn state(path_id: PathId, status: PathStatus) -> M {
    let (reason, report, ended) = (String::new(), None, false);
    M::PathStatusNotification(PathStatusNotification { path_id, status, reason, report, ended })
}

fn unsigned_packet() -> RawPacketTransmission {
    RawPacketTransmission { sequence: 1, ..<_>::default() }
}

const SESSION: SessionId = SessionId([5; 16]);
const PATH: PathId = PathId(1);

#[test]
fn the_table_has_rows_for_all() {
    let edges = edges::rows(0, &Activate { range: 0..1, ..<_>::default() }).len();
    let at = [edges, clients::rows_at_edges().len(), clients::rows_at_primaries().len()];
    let rows = [at[0], at[1], at[2], primaries::rows().len()];
    let feats = [feats::edges::FEATS, feats::clients::FEATS, feats::primaries::FEATS];
    let feats = feats.map(<[_]>::len);
    println!("rows of edges, clients at edges and at primaries, primaries: {rows:?}, {feats:?}");
    assert!(rows.iter().all(|rows| *rows >= 30) && rows.iter().sum::<usize>() >= 150, "{rows:?}");
    assert!(feats.iter().all(|feats| *feats >= 8), "{feats:?}");
}
