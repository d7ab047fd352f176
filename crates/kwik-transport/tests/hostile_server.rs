//! What a primary that breaks the rules gets from a client: its session closed with the right code,
//! and other sessions of the same endpoint unharmed (3.3). What takes one message or two is in the
//! table of `hostile_table`.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::hostile::{self, Peer, frame, packet};
use common::proto::{Field, message};
use common::{Rng, Servers, client, echo, identity, serve_echo, until, within};
use kwik::{
    ClientConfig, Code, ConnectionError, Dir, Endpoint, Fingerprint, LeaseId, PathId, PathStatus,
    ReadError, Session, SessionId, Side, StreamId,
};
use kwik_proto::wire::control::{self, ControlMessage};
use kwik_proto::{PieceId, limits};

const OWN: u8 = 50;

fn server_uni(index: u64) -> u64 {
    StreamId::new(Side::Server, Dir::Uni, index).as_u64()
}

/// A client with an honest session, and a hostile server for its others.
struct Scene {
    client: Endpoint,
    honest: Session,
    listener: quinn::Endpoint,
    _servers: Servers,
}

impl Scene {
    async fn new() -> Self {
        let (servers, client) = (Servers::new(0), client());
        let (honest, primary) = servers.connect(&client).await;
        serve_echo(primary.session().clone());
        echo(&honest).await;
        Self { client, honest, listener: hostile::listener(&identity(OWN)), _servers: servers }
    }

    async fn dial(&self) -> Session {
        let config = ClientConfig::pinned(identity(OWN).fingerprint());
        let address = self.listener.local_addr().unwrap();
        self.client.connect_with(config, address, "").unwrap().await.unwrap()
    }

    /// A session, at both ends; the client was let in.
    async fn session(&self) -> (Session, Peer) {
        tokio::join!(self.dial(), Peer::welcome(&self.listener))
    }

    /// The same before the server has said anything.
    async fn fresh(&self) -> (Session, Peer) {
        let (session, mut peer) = tokio::join!(self.dial(), Peer::accept(&self.listener));
        let first = peer.hear().await;
        assert!(matches!(first, ControlMessage::AuthenticationRequest(_)), "{first:?}");
        (session, peer)
    }
}

async fn expect(session: &Session, peer: &Peer, code: Code, what: &str) {
    peer.expect(code, what).await;
    let closed = session.closed().await;
    let ConnectionError::TransportError { code: found, reason } = closed else {
        panic!("{what}: {closed:?}")
    };
    assert_eq!(found, code.as_u64(), "{what}: {reason}");
    assert_eq!(session.open_bi().await.err(), session.close_reason(), "{what}");
}

fn lease(id: u64, stream: u64, path: u32, range: std::ops::Range<u64>) -> control::Lease {
    control::Lease {
        lease_id: LeaseId(id),
        stream_id: StreamId::from_u64(stream),
        path_id: PathId(path),
        max_bytes: limits::lease_budget(range.end - range.start),
        range,
        sequence: 1,
        ..<_>::default()
    }
}

#[tokio::test]
async fn an_answer_that_is_none_ends_the_session() {
    within(async {
        let scene = Scene::new().await;
        let (session, mut peer) = scene.fresh().await;
        peer.say(ControlMessage::Heartbeat(<_>::default())).await;
        expect(&session, &peer, Code::InvalidFrame, "a heartbeat first").await;
        let (session, mut peer) = scene.fresh().await;
        peer.say_frame(6, message(&[(1, Field::Number(1))])).await;
        expect(&session, &peer, Code::InvalidFrame, "no session id").await;
        let (session, mut peer) = scene.fresh().await;
        let refusal = control::AuthenticationResponse {
            result: Err("not you".to_owned()),
            limits: None,
            data: <_>::default(),
        };
        peer.say(ControlMessage::AuthenticationResponse(refusal)).await;
        expect(&session, &peer, Code::AuthFailed, "refused").await;
        assert!(session.close_reason().unwrap().to_string().contains("not you"));
        let (session, mut peer) = scene.fresh().await;
        peer.say_bytes(&[0xff; 12]).await;
        expect(&session, &peer, Code::InvalidFrame, "garbage").await;
        let (session, mut peer) = scene.fresh().await;
        peer.send.finish().unwrap();
        expect(&session, &peer, Code::InvalidFrame, "the end").await;
        echo(&scene.honest).await;
    })
    .await;
}

#[tokio::test]
async fn limits_beyond_all_measure_are_borne() {
    within(async {
        let scene = Scene::new().await;
        let (session, mut peer) = scene.fresh().await;
        let (most, count) = (limits::MAX_OFFSET, 1 << 60);
        let answer = control::AuthenticationResponse {
            result: Ok(SessionId([5; 16])),
            limits: Some(control::StreamLimits {
                max_streams_bidi: count,
                max_streams_uni: count,
                initial_max_stream_data: most,
                first_streams: u64::MAX,
                initial_max_first_stream_data: most,
            }),
            data: <_>::default(),
        };
        peer.say(ControlMessage::AuthenticationResponse(answer)).await;
        peer.ping().await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = session.open_uni().await.unwrap();
            stream.write_all(&[7; 20_000]).await.unwrap();
            streams.push(stream);
        }
        for (dir, maximum) in [(Dir::Bi, count), (Dir::Uni, count)] {
            let more = control::MaxStreams { dir, maximum, first_streams: u64::MAX };
            peer.say(ControlMessage::MaxStreams(more)).await;
        }
        let stream_id = streams[0].id();
        let credit = control::MaxStreamData { stream_id, maximum: most };
        peer.say(ControlMessage::MaxStreamData(credit)).await;
        peer.ping().await;
        assert!(session.stats().unacknowledged >= 60_000);
        assert_eq!(session.close_reason(), None);
        echo(&scene.honest).await;
    })
    .await;
}

#[tokio::test]
async fn a_lease_beyond_the_end_is_refused_and_what_was_read_stays() {
    within(async {
        let scene = Scene::new().await;
        let (session, mut peer) = scene.session().await;
        peer.throw(packet(vec![frame(server_uni(0), 0, &b"whole"[..], true)])).await;
        let mut stream = session.accept_uni().await.unwrap();
        peer.say(ControlMessage::Lease(lease(1, server_uni(0), 0, 5..6))).await;
        expect(&session, &peer, Code::OffsetMismatch, "a lease beyond the end").await;
        // What came before may be read or be lost with the session, but is never something else.
        match stream.read_to_end(10).await {
            Ok(bytes) => assert_eq!(bytes, b"whole"),
            Err(error) => {
                assert!(matches!(error, kwik::ReadToEndError::Read(ReadError::ConnectionLost(_))));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_writer_that_stops_where_it_cannot_have_is_cut_off() {
    within(async {
        let scene = Scene::new().await;
        // A primary may stop before what has come: some of it may have come unasked.
        for (sent_until, code) in [(11, Code::OffsetSyncFailure), (12, Code::OffsetSyncFailure)] {
            let (session, mut peer) = scene.session().await;
            peer.say(ControlMessage::Lease(lease(1, server_uni(0), 0, 0..10))).await;
            let activate = |m: &ControlMessage| match m {
                ControlMessage::Activate(m) => Some(m.clone()),
                _ => None,
            };
            let piece = peer.hear_until(activate).await;
            assert_eq!(piece.range, 0..10);
            peer.throw(packet(vec![frame(server_uni(0), 0, &b"12345"[..], false)])).await;
            let mut stream = session.accept_uni().await.unwrap();
            assert_eq!(stream.read_chunk(10, true).await.unwrap().unwrap().bytes.len(), 5);
            let (lease_id, piece_id) = (LeaseId(1), piece.piece_id);
            let stopped = control::Stopped { lease_id, piece_id, sent_until, ..<_>::default() };
            peer.say(ControlMessage::Stopped(stopped)).await;
            expect(&session, &peer, code, "a piece that stopped elsewhere").await;
        }
    })
    .await;
}

#[tokio::test]
async fn unknown_frames_and_paths_are_no_harm_to_a_client() {
    within(async {
        let scene = Scene::new().await;
        let (session, mut peer) = scene.session().await;
        let revoke = control::Revoke { lease_id: LeaseId(99) };
        peer.say(ControlMessage::Revoke(revoke)).await;
        let (lease_id, piece_id) = (LeaseId(9), PieceId(9));
        let stopped = control::Stopped { lease_id, piece_id, sent_until: 9, ..<_>::default() };
        peer.say(ControlMessage::Stopped(stopped)).await;
        for path_id in [7, 0, u32::MAX].map(PathId) {
            let remove = control::RemovePathRequest { path_id };
            peer.say(ControlMessage::RemovePathRequest(remove)).await;
            let answer = |m: &ControlMessage| match m {
                ControlMessage::RemovePathResponse(m) => Some(m.result.is_ok()),
                _ => None,
            };
            assert!(!peer.hear_until(answer).await);
        }
        let notice = |path| control::PathStatusNotification {
            path_id: PathId(path),
            status: PathStatus::Dead,
            reason: String::new(),
            report: None,
            ended: false,
        };
        peer.say(ControlMessage::PathStatusNotification(notice(0))).await;
        peer.say(ControlMessage::PathStatusNotification(notice(9))).await;
        for (target, code) in [(9, Code::PathNotFound), (0, Code::InvalidStreamRole)] {
            let target_path_id = PathId(target);
            let raw =
                control::RawPacketTransmission { target_path_id, sequence: 3, ..<_>::default() };
            peer.say(ControlMessage::RawPacketTransmission(raw)).await;
            let report = |m: &ControlMessage| match m {
                ControlMessage::RelayReport(m) => Some(m.code),
                _ => None,
            };
            assert_eq!(peer.hear_until(report).await, code.as_u64());
        }
        peer.ping().await;
        assert_eq!(session.close_reason(), None);
        // A lease for a path that is not there is lost at once, and told to be uncovered.
        peer.say(ControlMessage::Lease(lease(1, server_uni(0), 5, 0..10))).await;
        let report = |m: &ControlMessage| match m {
            ControlMessage::LeaseReport(m) => Some(m.clone()),
            _ => None,
        };
        let report = peer.hear_until(report).await;
        assert_eq!(report.outcome, control::LeaseOutcome::Lost);
        assert_eq!(report.ranges, std::iter::once(0..10).collect::<Vec<_>>());
        let uncovered = |m: &ControlMessage| matches!(m, ControlMessage::Uncovered(_));
        peer.hear_until(|m| uncovered(m).then_some(())).await;
        // No lease follows: the reader is told instead of waiting for ever. It waits for longer
        // where the primary has not heard what is missing.
        let mut stream = session.accept_uni().await.unwrap();
        let hears = async {
            loop {
                let control_frames = peer.heard();
                peer.say(ControlMessage::Ack(control::Ack { control_frames, ..<_>::default() }))
                    .await;
                peer.hear().await;
            }
        };
        let read = tokio::select! {
            read = stream.read_chunk(10, true) => read,
            () = hears => unreachable!(),
        };
        let Err(ReadError::Failed(error)) = read else { panic!("nobody could have brought it") };
        assert_eq!(error.code, Code::AggregationTimeout);
    })
    .await;
}

#[tokio::test]
async fn a_primary_sends_its_client_nowhere_it_may_not() {
    within(async {
        let scene = Scene::new().await;
        let (session, mut peer) = scene.session().await;
        // The primary is on loopback, which gives it more than any other.
        let targets = [
            "127.0.0.1:0",
            "0.0.0.0:9",
            "[::]:9",
            "224.0.0.1:9",
            "[ff02::1]:9",
            "255.255.255.255:9",
            "169.254.169.254:80",
            "[fe80::1]:9",
            "240.0.0.1:9",
            "192.0.0.8:9",
            "[100::1]:9",
            "[::127.0.0.1]:9",
            "[::ffff:0:127.0.0.1]:9",
            "[64:ff9b::127.0.0.1]:9",
            "[64:ff9b::10.0.0.1]:9",
            "[64:ff9b:1::10.0.0.1]:9",
            "[2002:7f00:1::1]:9",
            "[2002:a9fe:a9fe::1]:9",
            "[2001::1]:9",
            "[2001:db8::5efe:127.0.0.1]:9",
            "localhost:9",
            "\u{1b}[2J",
        ];
        for (path_id, target) in (1..).zip(targets) {
            let path_id = PathId(path_id);
            let request = control::AddPathRequest {
                path_id,
                session_id: None,
                target_address: target.into(),
                server_key_hash: Fingerprint([1; 32]),
                grant: <_>::default(),
            };
            peer.say(ControlMessage::AddPathRequest(request)).await;
            let answer = |m: &ControlMessage| match m {
                ControlMessage::AddPathResponse(m) => Some(m.clone()),
                _ => None,
            };
            let answer = peer.hear_until(answer).await;
            assert_eq!(answer.path_id, path_id);
            let words = answer.result.expect_err(target);
            assert!(!words.is_empty() && !words.contains(char::is_control), "{target}: {words:?}");
        }
        assert_eq!(session.close_reason(), None);
        echo(&scene.honest).await;
    })
    .await;
}

#[tokio::test]
async fn random_bytes_never_hang_nor_kill_a_client() {
    within(async {
        let scene = Scene::new().await;
        let mut rng = Rng(7);
        for round in 0..60 {
            let (session, mut peer) = scene.session().await;
            for _ in 0..1 + rng.below(4) {
                let len = rng.below(200);
                let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                if rng.below(2) == 0 {
                    bytes.insert(0, rng.below(2) as u8);
                }
                match rng.below(3) {
                    0 => peer.say_bytes(&bytes).await,
                    1 => {
                        let frame = peer.frame(peer.due(), rng.below(37) as i32, &bytes);
                        peer.say_bytes(&frame).await;
                    }
                    _ => {
                        peer.throw(bytes).await;
                    }
                }
            }
            if rng.below(2) == 0 {
                peer.connection.close(9u32.into(), b"gone");
            }
            session.close(0, b"");
            if round % 10 == 9 {
                echo(&scene.honest).await;
            }
        }
    })
    .await;
}

/// A primary that lets nobody take the session up, and nobody say that it is over: each connection
/// ends at once. It was dialed as fast as it answered, and waits doubled until they overflowed.
#[tokio::test]
async fn a_primary_that_ends_each_connection_is_said_goodbye_to_with_patience() {
    within(async {
        let scene = Scene::new().await;
        let (session, mut peer) = scene.session().await;
        peer.ping().await;
        // Without a stream it waits until somebody wants something.
        let (mut send, _recv) = session.open_bi().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        let end = Code::PathDead.as_u64().try_into().unwrap();
        peer.connection.close(end, b"no");
        let listener = scene.listener.clone();
        let dials = Arc::new(AtomicU32::new(0));
        let counted = dials.clone();
        let counting = tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                if let Ok(connection) = incoming.await {
                    connection.close(end, b"no");
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        until(|| dials.load(Ordering::Relaxed) > 0).await;
        let before = dials.load(Ordering::Relaxed);
        session.close(7, b"enough");
        drop(session);
        tokio::time::sleep(limits::FAREWELL_TIME + Duration::from_secs(1)).await;
        counting.abort();
        let dials = dials.load(Ordering::Relaxed) - before;
        println!("{before} dials before, {dials} to say goodbye");
        assert!((1..20).contains(&dials), "{dials} dials");
        echo(&scene.honest).await;
    })
    .await;
}
