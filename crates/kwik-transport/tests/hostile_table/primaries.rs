//! What a primary may not do to its client.

use common::hostile::{self, Peer, frame, packet};
use common::proto::{Field, message};
use common::{Servers, client, echo, identity, serve_echo, within};
use kwik::{ClientConfig, Code, ConnectionError, Fingerprint, LeaseId, PathId};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Ack, AddPathRequest, Backpressure, BackpressureReason, Lease, MaxStreams, PathFigures,
    PathReport, PathStatus, StopSending, StreamReset,
};
use kwik_proto::{Dir, Side, StreamId, limits};

use crate::Move::{Bytes as Raw, Datagram, Say, Throw};
use crate::{OWN, Row, common, frame_bytes, malformed, of_roles, state, suffer, uni};

fn server(index: u64) -> u64 {
    uni(Side::Server, index)
}

fn add(path: u32) -> M {
    M::AddPathRequest(AddPathRequest {
        path_id: PathId(path),
        session_id: None,
        target_address: "169.254.0.1:1".into(),
        server_key_hash: Fingerprint([1; 32]),
        grant: <_>::default(),
    })
}

fn lease(stream: u64, range: std::ops::Range<u64>) -> M {
    M::Lease(Lease {
        lease_id: LeaseId(1),
        stream_id: StreamId::from_u64(stream),
        path_id: PathId::PRIMARY,
        max_bytes: limits::lease_budget(range.end - range.start),
        range,
        sequence: 1,
        ..<_>::default()
    })
}

/// Paths and leases that cannot be.
fn of_leases() -> Vec<Row> {
    let (role, invalid) = (Some(Code::InvalidStreamRole), Some(Code::InvalidFrame));
    let own = StreamId::new(Side::Client, Dir::Bi, 0).as_u64();
    let stop = StreamId::from_u64(uni(Side::Client, 9));
    let reset = StreamReset { stream_id: StreamId::from_u64(server(0)), code: 1, final_size: 5 };
    let twice = vec![Say(lease(server(0), 0..10)), Say(lease(server(0), 10..20))];
    vec![
        ("its own path once more", invalid, vec![Say(add(0))]),
        ("a path's id that falls", invalid, vec![Say(add(3)), Say(add(2))]),
        ("a path twice", invalid, vec![Say(add(u32::MAX)), Say(add(u32::MAX))]),
        ("a lease of a client's stream", role, vec![Say(lease(uni(Side::Client, 0), 0..10))]),
        ("a lease of a client's own stream of two ways", role, vec![Say(lease(own, 0..10))]),
        (
            "a lease of a stream beyond the limit",
            Some(Code::StreamCreateFailed),
            vec![Say(lease(server(limits::MAX_STREAMS), 0..10))],
        ),
        ("a lease of nothing", Some(Code::OffsetMismatch), vec![Say(lease(server(0), 9..9))]),
        ("a lease twice", Some(Code::StreamMappingConflict), twice),
        (
            "an end before what is leased",
            Some(Code::OffsetMismatch),
            vec![Say(lease(server(0), 0..10)), Say(M::StreamReset(reset))],
        ),
        (
            "a stop of a stream that is not there",
            role,
            vec![Say(M::StopSending(StopSending { stream_id: stop, code: 1 }))],
        ),
    ]
}

/// Ids that cannot be read: they were taken for the primary's own path, or for one that is not
/// there.
fn of_ids() -> Vec<Row> {
    use Field::{Bytes, Number};
    let rows = [
        ("a path to add without a pin", 0, message(&[(1, Bytes(b"1.2.3.4:5")), (16, Number(1))])),
        ("a path to remove that is none", 2, message(&[(1, Bytes(b"seven"))])),
        ("no path to remove", 2, message(&[(1000, Number(0))])),
        ("a path that is dead and none", 4, message(&[(1, Bytes(b"seven")), (2, Number(1))])),
        ("a raw packet for no path", 8, message(&[(2, Bytes(b"seven")), (16, Number(3))])),
        ("a stream of no path", 7, message(&[(1, Number(3)), (2, Bytes(b"seven"))])),
        ("an answer for no session", 6, message(&[(1, Number(1)), (2, Bytes(b"zz"))])),
    ];
    // After the answer to the introduction.
    let raw = |number, payload: Vec<u8>| Raw(frame_bytes(1, number, &payload));
    let row =
        |(what, number, payload)| (what, Some(Code::InvalidFrame), vec![raw(number, payload)]);
    rows.into_iter().map(row).collect()
}

/// Bytes that it may not write.
fn of_data() -> Vec<Row> {
    let one = |stream, offset| packet(vec![frame(stream, offset, &b"x"[..], false)]);
    let ended = vec![frame(server(0), 0, &b"abc"[..], true), frame(server(0), 3, &b"d"[..], false)];
    let cut = packet(vec![frame(server(0), 0, vec![1; 50], false)])[..30].to_vec();
    vec![
        (
            "bytes beyond its credit",
            Some(Code::OffsetMismatch),
            vec![Throw(one(server(0), 64 << 20))],
        ),
        ("bytes beyond an end", Some(Code::OffsetMismatch), vec![Throw(packet(ended))]),
        (
            "bytes of a client's stream",
            Some(Code::InvalidStreamRole),
            vec![Throw(one(uni(Side::Client, 0), 0))],
        ),
        (
            "bytes of a stream beyond the limit",
            Some(Code::StreamCreateFailed),
            vec![Throw(one(server(limits::MAX_STREAMS), 0))],
        ),
        ("a truncated packet", Some(Code::InvalidFrame), vec![Throw(cut)]),
        (
            "a stream of raw packets",
            Some(Code::InvalidStreamRole),
            vec![Throw(hostile::raw_stream(&[<_>::default()]))],
        ),
        ("a datagram", None, vec![Datagram]),
        ("a stream of an unknown kind", None, vec![Throw(vec![77, 1, 2, 3])]),
    ]
}

/// What has no sense, and is borne.
fn of_words() -> Vec<Row> {
    let beyond = PathFigures {
        rtt: std::time::Duration::MAX,
        sent_packets: u64::MAX,
        lost_packets: u64::MAX,
        goodput: Some(u64::MAX),
        received: u64::MAX,
        outstanding: u64::MAX,
        idle: std::time::Duration::MAX,
        stalled: std::time::Duration::MAX,
    };
    let report = |path_id| Say(M::PathReport(PathReport { path_id, figures: beyond }));
    let slow = |stream_id| {
        let reason = Some(BackpressureReason::SlowConsumer);
        Say(M::Backpressure(Backpressure { stream_id, reason }))
    };
    let far = Some(StreamId::from_u64(uni(Side::Client, 1 << 40)));
    let none = MaxStreams { dir: Dir::Bi, maximum: 0, first_streams: u64::MAX };
    let ack = Ack { ranges: vec![1..=1], ..<_>::default() };
    vec![
        ("figures beyond all measure", None, vec![report(PathId::PRIMARY), report(PathId(7))]),
        ("a wish to slow down for all", None, vec![slow(None)]),
        ("a wish to slow down for no stream", Some(Code::InvalidStreamRole), vec![slow(far)]),
        ("fewer streams than before", None, vec![Say(M::MaxStreams(none))]),
        ("a state of no path", None, vec![Say(state(PathId(7), PathStatus::Dead))]),
        ("an ack of nothing", Some(Code::InvalidFrame), vec![Say(M::Ack(ack))]),
    ]
}

/// All rows of primaries.
pub(crate) fn rows() -> Vec<Row> {
    let alone = [
        "an introduction",
        "an answer to none",
        "a path's answer",
        "a lease's end",
        "an activation",
        "a cancellation",
        "a gap",
        "a relay's report",
        "a blame",
        "an offset asked for",
        "an offset told",
        "a resumption",
    ];
    let roles = of_roles().into_iter().filter(|(what, _)| alone.contains(what));
    let roles = roles.map(|(what, said)| (what, Some(Code::InvalidStreamRole), vec![Say(said)]));
    let rows = malformed(1).into_iter().chain(roles);
    rows.chain(of_leases()).chain(of_ids()).chain(of_data()).chain(of_words()).collect()
}

#[tokio::test]
async fn crimes_of_primaries_end_their_session_alone() {
    let _turn = crate::heap::TURN.lock().await;
    within(async {
        let (servers, client) = (Servers::new(0), client());
        let (honest, primary) = servers.connect(&client).await;
        serve_echo(primary.session().clone());
        let listener = hostile::listener(&identity(OWN));
        let rows = rows();
        println!("{} rows", rows.len());
        for row in rows {
            let config = ClientConfig::pinned(identity(OWN).fingerprint());
            let dial = client.connect_with(config, listener.local_addr().unwrap(), "").unwrap();
            let (session, mut peer) = tokio::join!(dial, Peer::welcome(&listener));
            let (session, what, ends) = (session.unwrap(), row.0, row.1);
            suffer(&mut peer, row).await;
            match ends {
                Some(code) => {
                    let closed = session.closed().await;
                    let ConnectionError::TransportError { code: found, reason } = closed else {
                        panic!("{what}: {closed:?}")
                    };
                    assert_eq!(found, code.as_u64(), "{what}: {reason}");
                    assert_eq!(session.open_bi().await.err(), session.close_reason(), "{what}");
                }
                None => assert_eq!(session.close_reason(), None, "{what}"),
            }
            echo(&honest).await;
        }
    })
    .await;
}
