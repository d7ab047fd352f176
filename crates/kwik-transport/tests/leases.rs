//! Leases and activations that are forged, replayed or outside what was given: who writes for them
//! closes the path, and nobody else is harmed (9.4).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::hostile::{self, Peer, raw_stream, visit};
use common::{Servers, accept_secondary, address, fill, identity, object, server, within};
use kwik::{
    Accepted, Code, CodedError, ConnectionError, Identity, LeaseId, PathId, QuicConfig,
    SecondarySession, ServerConfig, SessionId, StreamId,
};
use kwik_proto::PieceId;
use kwik_proto::auth::{Grant, GrantClaims, LeaseFields, sign_lease, sign_raw};
use kwik_proto::limits;
use kwik_proto::wire::control;
use kwik_proto::wire::{ControlMessage, StreamKind, data};
use tokio::time::timeout;

const SESSION: SessionId = SessionId([3; 16]);
const PATH: PathId = PathId(1);

/// An edge that trusts the primary, and a client with the primary's grant for it.
struct Scene {
    servers: Servers,
    dialer: quinn::Endpoint,
    key: Identity,
}

impl Scene {
    fn new() -> Self {
        Self {
            servers: Servers::new(1),
            dialer: hostile::dialer(),
            key: Identity::from_seed([4; 32]),
        }
    }

    fn grant(&self) -> Bytes {
        let claims = GrantClaims {
            session: SESSION,
            path: PATH,
            audience: self.servers.edges[0].fingerprint().unwrap(),
            client_key: self.key.fingerprint(),
        };
        Grant::issue(&identity(0), &claims, SystemTime::now())
    }

    /// A path to the edge, at both ends.
    async fn visit(&self) -> (Peer, SecondarySession) {
        let edge = &self.servers.edges[0];
        let dial = async {
            let mut peer = Peer::dial(&self.dialer, address(edge)).await;
            let exporter = peer.exporter();
            peer.say(visit(&self.key, &exporter, SESSION, PATH, self.grant())).await;
            let answer = peer.hear().await;
            let ok =
                matches!(&answer, ControlMessage::AuthenticationResponse(m) if m.result.is_ok());
            assert!(ok, "{answer:?}");
            peer
        };
        tokio::join!(dial, accept_secondary(edge))
    }
}

/// What the primary would sign.
fn lease(id: u64, sequence: u64) -> control::Lease {
    let (start, end) = (0, 1_000_000);
    let fields = LeaseFields {
        lease_id: LeaseId(id),
        stream_id: StreamId::from_u64(3),
        start,
        end,
        max_bytes: limits::lease_budget(end),
        command: b"fill",
    };
    let signature = sign_lease(&identity(0), SESSION, PATH, sequence, &fields);
    control::Lease {
        lease_id: fields.lease_id,
        stream_id: fields.stream_id,
        range: start..end,
        path_id: PATH,
        command: Bytes::from_static(b"fill"),
        sequence,
        max_bytes: fields.max_bytes,
        signature: Some(signature),
        unasked: 0,
    }
}

fn activate(lease_id: u64, piece_id: u64, range: std::ops::Range<u64>) -> ControlMessage {
    let (lease_id, piece_id) = (LeaseId(lease_id), PieceId(piece_id));
    ControlMessage::Activate(control::Activate { lease_id, piece_id, range })
}

#[tokio::test]
async fn a_lease_that_the_primary_signed_is_written_exactly_as_activated() {
    within(async {
        let scene = Scene::new();
        let (mut peer, edge) = scene.visit().await;
        peer.say(ControlMessage::Lease(lease(1, 1))).await;
        peer.say(activate(1, 0, 1000..3000)).await;
        let writer = edge.accept_lease().await.unwrap();
        assert_eq!((writer.range(), writer.command()), (0..1_000_000, Bytes::from_static(b"fill")));
        tokio::spawn(fill(writer));
        let mut stream = peer.connection.accept_uni().await.unwrap();
        let mut expected = bytes::BytesMut::new();
        StreamKind::Data.encode(&mut expected);
        let payload = object(1000..3000);
        let frame = data::PacketFrame { stream_id: 3, offset: 1000, payload, fin: true };
        let mut chunks = Vec::new();
        let options = data::DataOptions::default();
        data::PacketEncoder::new().encode(1, &[frame], options, &mut chunks);
        chunks.iter().for_each(|chunk| expected.extend_from_slice(chunk));
        let mut found = vec![0; expected.len()];
        stream.read_exact(&mut found).await.unwrap();
        assert!(found == expected);
        peer.ping().await;
        let more = stream.read_chunk(1, true);
        assert!(timeout(Duration::from_millis(50), more).await.is_err(), "unasked bytes");
    })
    .await;
}

#[tokio::test]
async fn what_an_edge_neither_sent_nor_takes_closes_its_path() {
    within(async {
        let scene = Scene::new();
        let (mut peer, _edge) = scene.visit().await;
        peer.say(ControlMessage::Ack(control::Ack {
            ranges: std::iter::once(1..=1).collect(),
            ..<_>::default()
        }))
        .await;
        peer.expect(Code::InvalidFrame, "an ack of what was never sent").await;

        let (peer, _edge) = scene.visit().await;
        peer.throw(hostile::packet(vec![])).await;
        peer.expect(Code::InvalidStreamRole, "a data packet").await;
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_was_tampered_with_closes_its_path_alone() {
    within(async {
        let scene = Scene::new();
        type Tamper = fn(&mut control::Lease);
        let cases: Vec<(&str, Tamper, Code)> = vec![
            ("another stream", |m| m.stream_id = StreamId::from_u64(7), Code::AuthFailed),
            ("a longer range", |m| m.range.end += 1, Code::AuthFailed),
            ("an earlier range", |m| m.range.start += 1, Code::AuthFailed),
            ("a larger budget", |m| m.max_bytes += 1, Code::AuthFailed),
            ("another command", |m| m.command = Bytes::from_static(b"rm"), Code::AuthFailed),
            ("another id", |m| m.lease_id.0 += 1, Code::AuthFailed),
            ("another sequence", |m| m.sequence += 1, Code::AuthFailed),
            ("no signature", |m| m.signature = None, Code::AuthFailed),
        ];
        for (what, tamper, code) in cases {
            let (mut peer, edge) = scene.visit().await;
            // Sequences go on over reconnections, so each case needs a higher one.
            let mut forged = lease(1, 1000);
            tamper(&mut forged);
            peer.say(ControlMessage::Lease(forged)).await;
            peer.expect(code, what).await;
            let closed = edge.closed().await;
            assert!(
                matches!(closed, ConnectionError::TransportError { code: found, .. }
                if found == code.as_u64()),
                "{what}: {closed:?}"
            );
        }
        let (mut peer, edge) = scene.visit().await;
        peer.say(ControlMessage::Lease(lease(1, 1))).await;
        peer.say(activate(1, 0, 0..10)).await;
        assert_eq!(edge.accept_lease().await.unwrap().stream(), StreamId::from_u64(3));
    })
    .await;
}

#[tokio::test]
async fn a_relay_is_honoured_once_even_over_a_new_connection() {
    within(async {
        let scene = Scene::new();
        let (mut peer, edge) = scene.visit().await;
        peer.say(ControlMessage::Lease(lease(1, 7))).await;
        edge.accept_lease().await.unwrap();
        peer.say(ControlMessage::Lease(lease(1, 7))).await;
        peer.expect(Code::AuthFailed, "the same lease again").await;
        // A reconnection does not make it new, whether the old connection has ended or not.
        let (mut second, _second_edge) = scene.visit().await;
        second.say(ControlMessage::Lease(lease(2, 7))).await;
        second.expect(Code::AuthFailed, "the same sequence on a second connection").await;
        let (mut third, third_edge) = scene.visit().await;
        third.say(ControlMessage::Lease(lease(3, 8))).await;
        third_edge.accept_lease().await.unwrap();
        let (mut fourth, fourth_edge) = scene.visit().await;
        third.expect(Code::PathDead, "replaced by a newer connection").await;
        fourth.say(ControlMessage::Lease(lease(4, 9))).await;
        fourth_edge.accept_lease().await.unwrap();
        fourth.say(ControlMessage::Lease(lease(5, 8))).await;
        fourth.expect(Code::AuthFailed, "a sequence of the connection before").await;
    })
    .await;
}

#[tokio::test]
async fn activations_outside_a_lease_close_the_path() {
    within(async {
        let scene = Scene::new();
        let cases = [
            (activate(1, 1, 0..1_000_001), Code::OffsetMismatch),
            (activate(1, 1, 5..5), Code::OffsetMismatch),
            (activate(1, 0, 0..10), Code::InvalidFrame),
        ];
        for (at, (message, code)) in cases.into_iter().enumerate() {
            let (mut peer, edge) = scene.visit().await;
            peer.say(ControlMessage::Lease(lease(1, 1 + at as u64))).await;
            peer.say(activate(1, 0, 0..10)).await;
            let mut writer = edge.accept_lease().await.unwrap();
            assert_eq!(writer.activated().await.unwrap(), Some(0..10));
            let what = format!("{message:?}");
            peer.say(message).await;
            peer.expect(code, &what).await;
            assert!(matches!(writer.activated().await, Ok(None) | Err(_)));
        }
        // A client that asks for the same bytes for ever.
        let (mut peer, edge) = scene.visit().await;
        peer.say(ControlMessage::Lease(lease(1, 50))).await;
        let writer = edge.accept_lease().await.unwrap();
        let filling = tokio::spawn(fill(writer));
        for piece in 0..5 {
            peer.say(activate(1, piece, 0..1_000_000)).await;
        }
        peer.expect(Code::LimitExceeded, "more than its budget").await;
        assert!(filling.await.unwrap() <= limits::lease_budget(1_000_000));
    })
    .await;
}

#[tokio::test]
async fn an_edge_takes_no_streams_and_no_frames_of_a_primary() {
    within(async {
        use ControlMessage as M;
        let scene = Scene::new();
        let stream_id = StreamId::from_u64(3);
        let credit = control::MaxStreamData { stream_id, maximum: 1 };
        let create = control::StreamCreateNotification {
            stream_id: StreamId::from_u64(4),
            ..<_>::default()
        };
        let report = control::LeaseReport::default();
        for message in [
            M::MaxStreamData(credit),
            M::StreamCreateNotification(create),
            M::LeaseReport(report),
            M::AddPathResponse(control::AddPathResponse { path_id: PATH, result: Ok(()) }),
            M::StopSending(control::StopSending { stream_id, code: 1 }),
        ] {
            let (mut peer, _edge) = scene.visit().await;
            let what = format!("{message:?}");
            peer.say(message).await;
            peer.expect(Code::InvalidStreamRole, &what).await;
        }
        let (peer, _edge) = scene.visit().await;
        peer.throw(hostile::packet(vec![hostile::frame(0, 0, &b"data"[..], false)])).await;
        peer.expect(Code::InvalidStreamRole, "stream data").await;
    })
    .await;
}

/// A raw packet as the primary would sign it.
fn raw(sequence: u64, data: &'static [u8]) -> control::RawPacketTransmission {
    let signature = sign_raw(&identity(0), SESSION, PATH, sequence, data);
    control::RawPacketTransmission {
        data: Bytes::from_static(data),
        target_path_id: PATH,
        sequence,
        signature: Some(signature),
    }
}

#[tokio::test]
async fn raw_packets_that_nobody_takes_do_not_hide_the_end() {
    within(async {
        let scene = Scene::new();
        let (peer, edge) = scene.visit().await;
        let packets: Vec<_> = (1..200).map(|sequence| raw(sequence, b"unread")).collect();
        peer.throw(raw_stream(&packets)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        peer.connection.close(7u32.into(), b"");
        let closed = edge.closed().await;
        assert!(matches!(closed, ConnectionError::ApplicationClosed { code: 7, .. }), "{closed:?}");
        assert_eq!(edge.recv_raw().await.unwrap(), &b"unread"[..]);
    })
    .await;
}

#[tokio::test]
async fn raw_packets_are_taken_from_the_primary_alone_and_once() {
    within(async {
        let scene = Scene::new();
        let (peer, edge) = scene.visit().await;
        peer.throw(raw_stream(&[raw(1, b"one"), raw(5, b"five")])).await;
        assert_eq!(edge.recv_raw().await.unwrap(), &b"one"[..]);
        assert_eq!(edge.recv_raw().await.unwrap(), &b"five"[..]);
        peer.throw(raw_stream(&[raw(5, b"five")])).await;
        peer.expect(Code::AuthFailed, "replayed").await;
        let (peer, _edge) = scene.visit().await;
        let forged =
            control::RawPacketTransmission { data: Bytes::from_static(b"x"), ..raw(9, b"y") };
        peer.throw(raw_stream(&[forged])).await;
        peer.expect(Code::AuthFailed, "forged").await;
        let (peer, _edge) = scene.visit().await;
        let whole = raw_stream(&[raw(10, b"ten")]);
        peer.throw(whole[..whole.len() - 1].to_vec()).await;
        peer.expect(Code::InvalidFrame, "truncated").await;
    })
    .await;
}

#[tokio::test]
async fn a_primary_leases_only_what_it_reserved() {
    within(async {
        let servers = Servers::new(1);
        let (_session, primary) = servers.connect(&common::client()).await;
        let (path, _edge) = servers.add_edge(&primary, 0).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.write_all(b"0123456789").await.unwrap();
        let extent = stream.reserve(100).unwrap();
        assert_eq!(extent, 10..110);
        assert_eq!(stream.reserve(0).unwrap(), 110..110);
        let id = stream.id();
        let code = |result: Result<kwik::Lease, CodedError>| result.unwrap_err().code;
        let lease = |range, path| primary.lease(id, range, path, Bytes::new());
        for range in [0..10, 9..20, 10..111, 110..120, 10..10, 5_000..5_001] {
            assert_eq!(code(lease(range, path)), Code::OffsetMismatch);
        }
        assert_eq!(code(lease(10..20, PathId(9))), Code::PathNotFound);
        let long = Bytes::from(vec![0; limits::MAX_COMMAND + 1]);
        assert_eq!(code(primary.lease(id, 10..20, path, long)), Code::PacketTooLarge);
        let (ours, _answers) = {
            let (send, recv) = _session.open_bi().await.unwrap();
            (send.id(), (send, recv))
        };
        assert!(primary.lease(ours, 0..1, path, Bytes::new()).is_err());
        assert!(matches!(stream.reserve(u64::MAX), Err(kwik::WriteError::TooLong)));
        primary.mark_dead(path).unwrap();
        assert_eq!(code(lease(10..20, path)), Code::PathDead);
    })
    .await;
}

#[tokio::test]
async fn activations_that_its_leases_do_not_allow_end_the_session() {
    within(async {
        let servers = Servers::new(0);
        let dialer = hostile::dialer();
        for (start, end, piece, code) in [
            (0u64, 101u64, 0u64, Code::OffsetMismatch),
            (50, 50, 0, Code::OffsetMismatch),
            (0, 100, 5, Code::InvalidFrame),
        ] {
            let accept = async { servers.primary.accept().await.unwrap().accept_any().await };
            let (mut peer, accepted) =
                tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
            let Accepted::Primary(primary) = accepted.unwrap() else { panic!("no client") };
            let mut stream = primary.session().open_uni().await.unwrap();
            let extent = stream.reserve(100).unwrap();
            let (_lease, _writer) = primary.lease_own(stream.id(), extent).unwrap();
            let lease_id = peer
                .hear_until(|m| match m {
                    ControlMessage::Lease(lease) => Some(lease.lease_id),
                    _ => None,
                })
                .await;
            let activate = |piece, start, end| activate(lease_id.0, piece, start..end);
            if piece > 0 {
                peer.say(activate(piece, 0, 10)).await;
            }
            peer.say(activate(piece, start, end)).await;
            peer.expect(code, &format!("{start}..{end}")).await;
            let closed = primary.session().closed().await;
            let ConnectionError::TransportError { code: found, reason } = closed else {
                panic!("{closed:?}")
            };
            assert_eq!(found, code.as_u64(), "{reason}");
        }
    })
    .await;
}

#[tokio::test]
async fn reports_outside_their_lease_end_the_session_and_unknown_ones_are_ignored() {
    within(async {
        let servers = Servers::new(0);
        let dialer = hostile::dialer();
        let accept = async { servers.primary.accept().await.unwrap().accept_any().await };
        let (mut peer, accepted) =
            tokio::join!(Peer::join(&dialer, address(&servers.primary)), accept);
        let Accepted::Primary(primary) = accepted.unwrap() else { panic!("no client") };
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(100).unwrap();
        let (_lease, _writer) = primary.lease_own(stream.id(), extent).unwrap();
        let report = |lease_id, start, end| {
            ControlMessage::LeaseReport(control::LeaseReport {
                lease_id: LeaseId(lease_id),
                outcome: control::LeaseOutcome::Lost,
                ranges: std::iter::once(start..end).collect(),
                delivered: u64::MAX,
                reason: "\u{1b}[31mno\n".into(),
            })
        };
        peer.say(report(99, 0, 1 << 40)).await;
        peer.say(ControlMessage::Cancel(control::Cancel {
            lease_id: LeaseId(99),
            piece_id: PieceId(1),
        }))
        .await;
        peer.say(activate(99, 1, 5..9)).await;
        let stopped = peer
            .hear_until(|m| match m {
                ControlMessage::Stopped(stopped) => Some(stopped.clone()),
                _ => None,
            })
            .await;
        assert_eq!((stopped.lease_id, stopped.sent_until), (LeaseId(99), 5));
        peer.say(report(0, 50, 101)).await;
        peer.expect(Code::OffsetMismatch, "a report outside").await;
    })
    .await;
}

#[tokio::test]
async fn a_pieces_last_bytes_leave_though_nothing_follows_them() {
    within(async {
        let trusted = [identity(0).fingerprint()].into();
        // QUIC takes less than a frame at once.
        let quic = QuicConfig { send_window: 5_000, ..QuicConfig::default() };
        let edge = server(ServerConfig { trusted, quic, ..ServerConfig::new(identity(1)) });
        let servers = Servers { edges: vec![edge], ..Servers::new(0) };
        let (session, primary) = servers.connect(&common::client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        common::serve_leases(edge);
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(400_000).unwrap();
        let _lease = primary.lease(stream.id(), extent, path, Bytes::new()).unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        // The stream goes on, so nothing ends that could push them out.
        let mut read = 0;
        while read < 400_000 {
            read += recv.read_chunk(usize::MAX, true).await.unwrap().unwrap().bytes.len();
        }
    })
    .await;
}
