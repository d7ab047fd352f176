//! What a client that breaks the rules gets from a primary: its session closed with the right code,
//! and nobody else harmed (3.3).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use bytes::{Bytes, BytesMut};
use common::hostile::{self, Peer, frame, introduction, numbered, packet};
use common::proto::{DataFrame, Field, message};
use common::{Rng, Servers, address, client, echo, serve_clients, within};
use kwik::{Code, ConnectionError, Identity, PathId, SessionId};
use kwik_proto::wire::control::{self, AuthenticationRequest, Heartbeat};
use kwik_proto::wire::{ControlMessage, StreamKind};
use kwik_proto::{Dir, Side, StreamId, limits};
use prost::Message as _;

const HEARTBEAT: i32 = 29;

fn client_bi(index: u64) -> u64 {
    StreamId::new(Side::Client, Dir::Bi, index).as_u64()
}

fn client_uni(index: u64) -> u64 {
    StreamId::new(Side::Client, Dir::Uni, index).as_u64()
}

fn server_uni(index: u64) -> u64 {
    StreamId::new(Side::Server, Dir::Uni, index).as_u64()
}

/// A server that answers, and an honest session with it.
struct Scene {
    servers: Servers,
    honest: kwik::Session,
    dialer: quinn::Endpoint,
}

impl Scene {
    async fn new() -> Self {
        let servers = Servers::new(0);
        let config = kwik::ClientConfig::pinned(servers.primary.fingerprint().unwrap());
        serve_clients(servers.primary.clone());
        let dialing = client().connect_with(config, address(&servers.primary), "").unwrap();
        let honest = dialing.await.unwrap();
        echo(&honest).await;
        Self { servers, honest, dialer: hostile::dialer() }
    }

    async fn join(&self) -> Peer {
        Peer::join(&self.dialer, address(&self.servers.primary)).await
    }

    async fn dial(&self) -> Peer {
        Peer::dial(&self.dialer, address(&self.servers.primary)).await
    }
}

#[tokio::test]
async fn malformed_control_bytes_end_the_session_as_invalid_frames() {
    within(async {
        let scene = Scene::new().await;
        let beat = message(&[(1, Field::Number(1))]);
        let oversized = {
            let mut out = BytesMut::new();
            prost::encoding::encode_varint(limits::MAX_CONTROL_FRAME as u64 + 1, &mut out);
            out.to_vec()
        };
        let some = scene.dial().await;
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("oversized", oversized),
            ("no varint", vec![0xff; 11]),
            ("no protobuf", vec![4, 0xff, 0xff, 0xff, 0xff]),
            ("an empty frame", vec![0]),
            ("a frame id ahead", some.frame(2, HEARTBEAT, &beat)),
            ("a frame id again", some.frame(0, HEARTBEAT, &beat)),
            ("no payload", some.frame(1, HEARTBEAT, &[])),
            ("a payload that is no message", some.frame(1, HEARTBEAT, &[0xff, 0xff])),
        ];
        for (what, bytes) in cases {
            let mut peer = scene.join().await;
            assert_eq!(peer.due(), 1);
            peer.say_bytes(&bytes).await;
            peer.expect(Code::InvalidFrame, what).await;
        }
        for truncated in [false, true] {
            let mut peer = scene.join().await;
            let part = peer.frame(1, HEARTBEAT, &beat);
            if truncated {
                peer.say_bytes(&part[..part.len() - 1]).await;
            }
            peer.send.finish().unwrap();
            peer.expect(Code::InvalidFrame, "the control stream ends").await;
        }
        let mut peer = scene.join().await;
        peer.send.reset(3u32.into()).unwrap();
        peer.expect(Code::InvalidFrame, "the control stream is reset").await;
        echo(&scene.honest).await;
    })
    .await;
}

/// Signs of life that want an answer, `count` of them.
async fn flood(peer: &mut Peer, count: u64) {
    let first = peer.due();
    for sequence in first..first + count {
        peer.say(ControlMessage::Heartbeat(Heartbeat { sequence, reply: false })).await;
    }
}

#[tokio::test]
async fn answers_that_have_to_wait_come_all_and_in_order() {
    within(async {
        let scene = Scene::new().await;
        let mut peer = scene.join().await;
        let count = 40_000;
        let first = peer.due();
        // More than is sent while nobody reads.
        flood(&mut peer, count).await;
        for expected in first..first + count {
            let reply = |m: &ControlMessage| match m {
                ControlMessage::Heartbeat(beat) if beat.reply => Some(beat.sequence),
                _ => None,
            };
            assert_eq!(peer.hear_until(reply).await, expected);
        }
    })
    .await;
}

fn wrong_roles() -> Vec<(Code, ControlMessage)> {
    use ControlMessage as M;
    let id = StreamId::from_u64;
    let reset = |stream, final_size| {
        M::StreamReset(control::StreamReset { stream_id: id(stream), code: 1, final_size })
    };
    let credit =
        |stream| M::MaxStreamData(control::MaxStreamData { stream_id: id(stream), maximum: 10 });
    let create = |stream| {
        let (stream_id, metadata) = (id(stream), <_>::default());
        M::StreamCreateNotification(control::StreamCreateNotification { stream_id, metadata })
    };
    let add = control::AddPathRequest {
        path_id: PathId(1),
        session_id: None,
        target_address: String::new(),
        server_key_hash: Identity::from_seed([1; 32]).fingerprint(),
        grant: Bytes::new(),
    };
    vec![
        (Code::InvalidStreamRole, introduction(&Identity::from_seed([1; 32]))),
        (Code::InvalidStreamRole, M::AuthenticationResponse(hostile::welcome(SessionId([5; 16])))),
        (Code::InvalidStreamRole, M::AddPathRequest(add)),
        (Code::InvalidStreamRole, M::RemovePathRequest(<_>::default())),
        (Code::InvalidStreamRole, M::Lease(<_>::default())),
        (Code::InvalidStreamRole, M::Revoke(<_>::default())),
        (Code::InvalidStreamRole, M::Stopped(<_>::default())),
        (Code::InvalidStreamRole, M::RawPacketTransmission(<_>::default())),
        (Code::InvalidStreamRole, M::Resume(<_>::default())),
        (Code::InvalidStreamRole, reset(server_uni(0), 0)),
        (Code::InvalidStreamRole, credit(client_uni(0))),
        (Code::InvalidStreamRole, credit(server_uni(0))),
        (Code::InvalidStreamRole, create(server_uni(7))),
        (Code::StreamCreateFailed, create(client_bi(limits::MAX_STREAMS))),
        (Code::StreamCreateFailed, create(client_uni(1 << 50))),
        (Code::OffsetMismatch, reset(client_bi(0), 0)),
    ]
}

fn impossible_values() -> Vec<(&'static str, i32, Vec<u8>)> {
    use Field::{Bytes, Number};
    let many = vec![(3, Bytes(&[16, 1])); 1025];
    let long = "x".repeat(513);
    vec![
        ("a code over 62 bits", 24, message(&[(2, Number(1 << 62))])),
        ("a stream over 62 bits", 26, message(&[(1, Number(1 << 63)), (2, Number(1))])),
        ("a reversed range", 19, message(&[(3, Number(2)), (4, Number(1))])),
        ("an unknown outcome", 18, message(&[(2, Number(9))])),
        ("too many ranges", 18, message(&many)),
        ("a path that is no number", 1, message(&[(2, Bytes(b"one"))])),
        ("a removed path that is no number", 3, message(&[(1, Number(1)), (2, Bytes(b"one"))])),
        ("a changed path that is no number", 4, message(&[(1, Bytes(b"one"))])),
        ("no path", 4, message(&[(2, Number(1))])),
        ("a long text", 4, message(&[(1, Bytes(b"1")), (3, Bytes(long.as_bytes()))])),
        ("a session that is none", 5, message(&[(1, Bytes(b"zz"))])),
    ]
}

#[tokio::test]
async fn frames_of_another_role_and_impossible_values_end_the_session() {
    within(async {
        let scene = Scene::new().await;
        for (code, message) in wrong_roles() {
            let what = format!("{message:?}");
            let mut peer = scene.join().await;
            if code == Code::OffsetMismatch {
                // Once the bytes were echoed, the final size lies before them.
                peer.throw(packet(vec![frame(client_bi(0), 0, &b"ten bytes!"[..], false)])).await;
                peer.connection.accept_uni().await.unwrap();
            }
            peer.say(message).await;
            peer.expect(code, &what).await;
        }
        for (what, number, payload) in impossible_values() {
            let mut peer = scene.join().await;
            let bytes = peer.frame(peer.due(), number, &payload);
            peer.say_bytes(&bytes).await;
            peer.expect(Code::InvalidFrame, what).await;
        }
        echo(&scene.honest).await;
    })
    .await;
}

#[tokio::test]
async fn frames_and_streams_of_a_later_version_are_skipped() {
    within(async {
        let scene = Scene::new().await;
        let mut peer = scene.join().await;
        let unknown = peer.frame(1, 1000, b"whatever");
        peer.say_bytes(&unknown).await;
        let mut bytes = BytesMut::new();
        StreamKind::Unknown(77).encode(&mut bytes);
        let stream = peer.throw(bytes.freeze()).await;
        assert!(stream.stopped().await.is_ok());
        // The frame id that was used up by the unknown one.
        let beat = message(&[(1, Field::Number(1))]);
        let beat = peer.frame(2, HEARTBEAT, &beat);
        peer.say_bytes(&beat).await;
        peer.hear_until(|m| matches!(m, ControlMessage::Heartbeat(m) if m.reply).then_some(()))
            .await;
    })
    .await;
}

#[tokio::test]
async fn an_introduction_that_is_none_is_refused() {
    within(async {
        let scene = Scene::new().await;
        let key = Identity::from_seed([1; 32]);
        let mut peer = scene.dial().await;
        peer.say(ControlMessage::Heartbeat(Heartbeat { sequence: 1, reply: false })).await;
        peer.expect(Code::InvalidFrame, "a heartbeat first").await;
        let mut peer = scene.dial().await;
        peer.say_bytes(&[0xff; 12]).await;
        peer.expect(Code::InvalidFrame, "garbage first").await;
        let mut peer = scene.dial().await;
        peer.send.finish().unwrap();
        peer.expect(Code::InvalidFrame, "nothing at all").await;
        let ControlMessage::AuthenticationRequest(good) = introduction(&key) else {
            unreachable!()
        };
        let other = AuthenticationRequest { protocol_version: 2, ..good.clone() };
        let nameless = AuthenticationRequest { client_key: None, ..good };
        for (request, words) in [(other, "version 2"), (nameless, "key")] {
            let mut peer = scene.dial().await;
            peer.say(ControlMessage::AuthenticationRequest(request)).await;
            let (code, reason) = peer.closed().await;
            assert_eq!(code, Some(Code::AuthFailed), "{reason}");
            assert!(reason.contains(words), "{reason}");
        }
        let mut peer = scene.dial().await;
        peer.say_frame(5, message(&[(1, Field::Bytes(b"zz")), (16, Field::Number(1))])).await;
        peer.expect(Code::InvalidFrame, "a session id that is none").await;
        echo(&scene.honest).await;
    })
    .await;
}

fn malformed_data() -> Vec<(&'static str, Code, Vec<u8>)> {
    let bytes = |n: usize| Bytes::from(vec![7; n]);
    let kind = |rest: &[u8]| [&[0u8], rest].concat();
    let delimited = |frames: Vec<u8>| {
        let mut message = vec![0x1a, u8::try_from(frames.len()).unwrap()];
        message.extend(frames);
        kind(&[&[u8::try_from(message.len()).unwrap()], &message[..]].concat())
    };
    let huge = {
        let mut out = BytesMut::new();
        StreamKind::Data.encode(&mut out);
        prost::encoding::encode_varint(1 << 40, &mut out);
        out.to_vec()
    };
    let oversized =
        packet(vec![frame(client_uni(0), 0, bytes(limits::MAX_PACKET_PAYLOAD + 1), false)]);
    let crowded = packet((0..300).map(|at| frame(client_uni(0), at, bytes(1), false)).collect());
    let far = frame(client_uni(0), (1 << 62) - 1, bytes(2), false);
    let whole = packet(vec![frame(client_uni(0), 0, bytes(1000), false)]);
    let path_id = "x".repeat(300);
    let wordy = DataFrame { path_id, ..frame(client_uni(0), 0, bytes(1), false) };
    let wordy = numbered(vec![wordy]);
    let wordy = kind(&wordy.encode_length_delimited_to_vec());
    vec![
        ("no kind", Code::InvalidFrame, vec![0xff; 11]),
        ("no varint", Code::InvalidFrame, kind(&[0xff; 11])),
        ("a huge packet", Code::InvalidFrame, huge),
        ("an oversized payload", Code::InvalidFrame, oversized),
        ("too many frames", Code::InvalidFrame, crowded),
        ("a long path id", Code::InvalidFrame, wordy),
        ("garbage", Code::InvalidFrame, kind(&[3, 0xff, 0xff, 0xff])),
        ("data before its offset", Code::InvalidFrame, delimited(vec![0x22, 1, 7, 0x18, 5])),
        ("data twice", Code::InvalidFrame, delimited(vec![0x22, 1, 7, 0x22, 1, 7])),
        ("an offset over 62 bits", Code::InvalidFrame, packet(vec![far])),
        ("a truncated packet", Code::InvalidFrame, whole[..whole.len() - 1].to_vec()),
        ("a truncated header", Code::InvalidFrame, whole[..4].to_vec()),
    ]
}

fn misplaced_data() -> Vec<(&'static str, Code, Vec<u8>)> {
    let bytes = |n: usize| Bytes::from(vec![7; n]);
    vec![
        (
            "beyond credit",
            Code::OffsetMismatch,
            packet(vec![frame(client_uni(0), 100 << 20, bytes(1), false)]),
        ),
        (
            "beyond the final size",
            Code::OffsetMismatch,
            packet(vec![
                frame(client_uni(0), 0, bytes(3), true),
                frame(client_uni(0), 3, bytes(1), false),
            ]),
        ),
        (
            "a final size that moves",
            Code::OffsetMismatch,
            packet(vec![
                frame(client_uni(0), 0, bytes(3), true),
                frame(client_uni(0), 2, Bytes::new(), true),
            ]),
        ),
        (
            "into a stream that only the server writes",
            Code::InvalidStreamRole,
            packet(vec![frame(server_uni(0), 0, bytes(1), false)]),
        ),
        (
            "into a stream that the server did not open",
            Code::InvalidStreamRole,
            packet(vec![frame(
                StreamId::new(Side::Server, Dir::Bi, 3).as_u64(),
                0,
                bytes(1),
                false,
            )]),
        ),
        (
            "beyond the limit of streams",
            Code::StreamCreateFailed,
            packet(vec![frame(client_uni(limits::MAX_STREAMS), 0, bytes(1), false)]),
        ),
        ("a raw packet", Code::InvalidStreamRole, { hostile::raw_stream(&[<_>::default()]) }),
        ("a raw packet that is too large", Code::InvalidFrame, vec![1, 0xff, 0xff, 0x7f]),
    ]
}

#[tokio::test]
async fn data_frames_that_break_the_rules_end_the_session() {
    within(async {
        let scene = Scene::new().await;
        for (what, code, bytes) in malformed_data().into_iter().chain(misplaced_data()) {
            let peer = scene.join().await;
            peer.throw(bytes).await;
            peer.expect(code, what).await;
        }
        echo(&scene.honest).await;
    })
    .await;
}

#[tokio::test]
async fn frames_that_bring_nothing_are_borne_up_to_the_limit_in_a_row() {
    let scene = Scene::new().await;
    let peer = &mut scene.join().await;
    // A packet without payload counts with its frames, and a frame until its payload comes.
    let empty = |frames| numbered(vec![frame(client_uni(0), 0, Bytes::new(), false); frames]);
    let full = |at| numbered(vec![frame(client_uni(0), at, &b"x"[..], false)]);
    let mut bytes = BytesMut::new();
    StreamKind::Data.encode(&mut bytes);
    for at in 0..10 {
        empty(limits::MAX_EMPTY_FRAMES - 2).encode_length_delimited(&mut bytes).unwrap();
        full(at).encode_length_delimited(&mut bytes).unwrap();
    }
    let stream = peer.throw(bytes).await;
    within(stream.stopped()).await.unwrap();
    within(peer.ping()).await;
    peer.throw(packet(vec![
        frame(client_uni(0), 0, Bytes::new(), false);
        limits::MAX_EMPTY_FRAMES
    ]))
    .await;
    peer.expect(Code::LimitExceeded, "empty frames").await;
    echo(&scene.honest).await;
}

#[tokio::test]
async fn too_many_gaps_end_the_session() {
    within(async {
        let scene = Scene::new().await;
        let peer = scene.join().await;
        let mut stream = peer.connection.open_uni().await.unwrap();
        stream.write_all(&[0]).await.unwrap();
        for at in 0..3000u64 {
            let one = frame(client_uni(0), 1 + 2 * at, &b"x"[..], false);
            let one = numbered(vec![one]);
            if stream.write_all(&one.encode_length_delimited_to_vec()).await.is_err() {
                break;
            }
        }
        peer.expect(Code::SecondaryStreamOverflow, "gaps").await;
        echo(&scene.honest).await;
    })
    .await;
}

#[tokio::test]
async fn random_bytes_never_hang_nor_kill_a_server() {
    within(async {
        let scene = Scene::new().await;
        let mut rng = Rng(42);
        for round in 0..60 {
            let mut peer = scene.join().await;
            for _ in 0..1 + rng.below(4) {
                let len = rng.below(200);
                let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                if rng.below(2) == 0 {
                    bytes.insert(0, rng.below(2) as u8);
                }
                match rng.below(3) {
                    0 => peer.say_bytes(&bytes).await,
                    1 => {
                        let number = rng.below(37) as i32;
                        let frame = peer.frame(peer.due(), number, &bytes);
                        peer.say_bytes(&frame).await;
                    }
                    _ => {
                        peer.throw(bytes).await;
                    }
                }
            }
            drop(peer);
            if round % 10 == 9 {
                echo(&scene.honest).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_no_control_frames_loses_its_session() {
    within(async {
        let servers = Servers::new(0);
        let dialer = hostile::dialer();
        let accept = async { servers.primary.accept().await.unwrap().await.unwrap() };
        let (mut peer, session) =
            tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
        // Each beat asks for an answer that nobody takes.
        let mut beats = Vec::new();
        for id in 1..=400_000u64 {
            let beat = message(&[(1, Field::Number(id))]);
            beats.extend(peer.frame(id, HEARTBEAT, &beat));
            if beats.len() > 60_000 {
                if peer.send.write_all(&beats).await.is_err() {
                    break;
                }
                beats.clear();
            }
        }
        peer.expect(Code::LimitExceeded, "answers pile up").await;
        let closed = session.closed().await;
        assert!(!matches!(closed, ConnectionError::TimedOut), "{closed:?}");
    })
    .await;
}
