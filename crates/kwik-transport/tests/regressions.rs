//! Faults that were found by review, each named after what went wrong.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::hostile::{self, Peer, frame, packet};
use common::proto::DataFrame;
use common::{Servers, address, client, echo, identity, object, serve_echo, server, within};
use kwik::{
    ClientConfig, Code, ConnectionError, PathId, PrimarySession, QuicConfig, ServerConfig, Session,
    WriteError,
};
use kwik_proto::limits;
use kwik_proto::wire::secondary::{SecondaryStreamData, SecondaryStreamOpen, encode_secondary};
use kwik_proto::wire::{SecondaryEvent, StreamKind};
use tokio::time::{sleep, timeout};

const OWN: u8 = 60;
/// In which everything on loopback has long arrived.
const SETTLED: Duration = Duration::from_millis(200);

fn closed_by_peer(code: u64) -> ConnectionError {
    ConnectionError::ApplicationClosed { code, reason: Bytes::new() }
}

/// A primary that takes only so many QUIC streams at once.
fn narrow(max_uni_streams: u32) -> Servers {
    let quic = QuicConfig { max_uni_streams, ..QuicConfig::default() };
    let config = ServerConfig { quic, ..ServerConfig::new(identity(0)) };
    Servers { primary: server(config), edges: Vec::new() }
}

/// An edge without rules, and its path.
async fn hostile_edge(primary: &PrimarySession) -> (PathId, Peer) {
    let listener = hostile::listener(&identity(OWN));
    let key = identity(OWN).fingerprint();
    let add = primary.add_path(listener.local_addr().unwrap(), key);
    let (path, peer) = tokio::join!(add, Peer::welcome(&listener));
    (path.unwrap(), peer)
}

async fn nothing_is_left(session: &Session, what: &str) {
    for _ in 0..100 {
        if session.stats().streams == 0 {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: {:?}", session.stats());
}

#[tokio::test]
async fn a_written_frame_stayed_behind_when_its_writer_made_no_other_call() {
    within(async {
        let servers = narrow(2);
        let (session, primary) = servers.connect(&client()).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = session.open_uni().await.unwrap();
            stream.write_all(b"held").await.unwrap();
            held.push(stream);
        }
        let (mut send, mut recv) = session.open_bi().await.unwrap();
        serve_echo(primary.session().clone());
        send.write_all(b"question").await.unwrap();
        sleep(SETTLED).await;
        held.pop();
        let answer = recv.read_chunk(usize::MAX, true).await.unwrap().unwrap();
        assert_eq!(&answer.bytes[..], b"question");
    })
    .await;
}

#[tokio::test]
async fn streams_of_one_kind_kept_those_of_the_other_from_moving() {
    within(async {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        serve_echo(primary.session().clone());
        echo(&session).await;
        let mut held = Vec::new();
        for _ in 0..limits::MAX_STREAMS {
            let mut stream = session.open_uni().await.unwrap();
            stream.write_all(b"held").await.unwrap();
            held.push(stream);
        }
        let mut both = Vec::new();
        for _ in 0..limits::MAX_STREAMS {
            let (mut send, recv) = session.open_bi().await.unwrap();
            send.write_all(b"question").await.unwrap();
            both.push((send, recv));
        }
        for (_, recv) in &mut both {
            recv.read_chunk(usize::MAX, true).await.unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn dropping_a_stream_whose_session_was_lost_within_a_frame_panicked() {
    within(async {
        let servers = narrow(1);
        let (session, primary) = servers.connect(&client()).await;
        let mut first = session.open_uni().await.unwrap();
        first.write_all(b"takes the only QUIC stream").await.unwrap();
        let mut second = session.open_uni().await.unwrap();
        second.write_all(b"waits").await.unwrap();
        primary.session().close(3, b"");
        session.closed().await;
        assert!(second.write_all(b"more").await.is_err());
        drop(second);
    })
    .await;
}

#[test]
fn dropping_a_stream_within_a_frame_outside_the_runtime_panicked() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (session, primary, streams) = runtime.block_on(async {
        let servers = narrow(1);
        let (session, primary) = servers.connect(&client()).await;
        let mut first = session.open_uni().await.unwrap();
        first.write_all(b"takes the only QUIC stream").await.unwrap();
        let mut second = session.open_uni().await.unwrap();
        second.write_all(b"waits").await.unwrap();
        (session, primary, (second, first))
    });
    drop(streams);
    drop(session);
    let closed = runtime.block_on(within(async { primary.session().closed().await }));
    assert_eq!(closed, closed_by_peer(0));
}

/// A reader waits for 1,000 bytes, all there are, when a hostile edge brings them in a packet
/// with more.
async fn a_reader_gets_what_precedes_a_violation(frames: impl FnOnce(u64) -> Vec<DataFrame>) {
    within(async {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        let (path, mut peer) = hostile_edge(&primary).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(1000).unwrap();
        let mut lease = primary.lease(stream.id(), extent, path, Bytes::new()).unwrap();
        stream.finish().unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        let read = tokio::spawn(async move { recv.read_to_end(2000).await });
        let (_, activated) = peer.hear_activation().await;
        assert_eq!(activated.range, 0..1000);
        sleep(SETTLED).await;
        peer.throw(packet(frames(stream.id().as_u64()))).await;
        peer.expect(Code::SecondaryStreamIsolation, "unasked").await;
        let read = timeout(Duration::from_secs(3), read).await.expect("its reader sleeps");
        assert!(read.unwrap().unwrap() == object(0..1000));
        lease.outcome().await.unwrap();
        drop(stream);
        nothing_is_left(&session, "client").await;
        nothing_is_left(primary.session(), "primary").await;
    })
    .await;
}

#[tokio::test]
async fn bytes_in_one_batch_with_a_violation_did_not_wake_their_reader() {
    a_reader_gets_what_precedes_a_violation(|id| {
        vec![frame(id, 0, object(0..1000), false), frame(id, 5000, "unasked", false)]
    })
    .await;
}

#[tokio::test]
async fn bytes_in_one_frame_with_a_violation_did_not_wake_their_reader() {
    let frames = |id| vec![frame(id, 0, object(0..1001), false)];
    a_reader_gets_what_precedes_a_violation(frames).await;
}

#[tokio::test]
async fn a_secondary_stream_of_frames_that_bring_nothing_was_read_for_ever() {
    within(async {
        let servers = Servers::new(0);
        for empty in [true, false] {
            let (session, primary) = servers.connect(&client()).await;
            let (path, mut peer) = hostile_edge(&primary).await;
            let mut stream = primary.session().open_uni().await.unwrap();
            let extent = stream.reserve(1000).unwrap();
            let _lost = primary.lease(stream.id(), extent, path, Bytes::new()).unwrap();
            let (lease, _) = peer.hear_activation().await;
            let data = SecondaryStreamData {
                secondary_stream_id: 1,
                kwik_stream_id: lease.stream_id,
                ..Default::default()
            };
            let open = SecondaryStreamOpen {
                secondary_stream_id: 1,
                target_kwik_stream_id: lease.stream_id,
                lease_id: lease.lease_id,
                ..Default::default()
            };
            let nothing =
                if empty { SecondaryEvent::Data(data) } else { SecondaryEvent::Unknown(99) };
            let mut encoded = BytesMut::new();
            StreamKind::Secondary.encode(&mut encoded);
            encode_secondary(&SecondaryEvent::Open(open), &mut encoded);
            for _ in 0..limits::MAX_EMPTY_FRAMES {
                encode_secondary(&nothing, &mut encoded);
            }
            peer.throw(encoded.freeze()).await;
            peer.expect(Code::LimitExceeded, "frames that bring nothing").await;
            assert_eq!(session.close_reason(), None);
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_came_before_the_end_was_lost_with_it() {
    within(async {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.write_all(b"the last words").await.unwrap();
        stream.finish().unwrap();
        sleep(SETTLED).await;
        primary.session().close(5, b"");
        assert_eq!(session.closed().await, closed_by_peer(5));
        let mut recv = session.accept_uni().await.unwrap();
        assert_eq!(recv.read_to_end(100).await.unwrap(), b"the last words");
        assert_eq!(session.accept_uni().await.unwrap_err(), closed_by_peer(5));
    })
    .await;
}

#[tokio::test]
async fn a_session_outlived_its_last_handle() {
    within(async {
        let servers = Servers::new(1);
        let own = client();
        let (session, primary) = servers.connect(&own).await;
        let (_, edge) = servers.add_edge(&primary, 0).await;
        let mut stream = session.open_uni().await.unwrap();
        drop(session.clone());
        drop(session);
        stream.write_all(b"a stream is a handle").await.unwrap();
        let mut recv = primary.session().accept_uni().await.unwrap();
        recv.read_chunk(usize::MAX, true).await.unwrap().unwrap();
        drop(stream);
        assert_eq!(primary.session().closed().await, closed_by_peer(0));
        assert_eq!(edge.closed().await, closed_by_peer(0));
        own.wait_idle().await;

        let (session, primary) = servers.connect(&own).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        drop(edge);
        while primary.all_paths().iter().any(|info| info.id == path && info.status.is_usable()) {
            sleep(Duration::from_millis(10)).await;
        }
        drop(primary);
        assert_eq!(session.closed().await, closed_by_peer(0));
        drop(session);
        own.wait_idle().await;
        servers.primary.wait_idle().await;
        servers.edges[0].wait_idle().await;
    })
    .await;
}

#[tokio::test]
async fn writers_were_told_another_end_than_the_session() {
    within(async {
        let listener = hostile::listener(&identity(OWN));
        let config = ClientConfig::pinned(identity(OWN).fingerprint());
        let own = client();
        let dial = own.connect_with(config, listener.local_addr().unwrap(), "").unwrap();
        let (session, peer) = tokio::join!(dial, Peer::welcome(&listener));
        let session = session.unwrap();
        let mut stream = session.open_uni().await.unwrap();
        stream.write_all(b"before").await.unwrap();
        peer.throw(packet(vec![frame(stream.id().as_u64(), 0, "not its to write", false)])).await;
        let closed = session.closed().await;
        assert!(matches!(closed, ConnectionError::TransportError { .. }), "{closed:?}");
        let error = stream.write_all(b"after").await.unwrap_err();
        assert_eq!(error, WriteError::ConnectionLost(closed));
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_stopped_its_control_stream_was_kept() {
    within(async {
        let servers = Servers::new(0);
        let dialer = hostile::dialer();
        let join = Peer::join(&dialer, address(&servers.primary));
        let accept = async { servers.primary.accept().await.unwrap().accept_any().await.unwrap() };
        let (mut peer, _primary) = tokio::join!(join, accept);
        peer.recv.stop(0u32.into()).unwrap();
        // The server finds out when it has something to say.
        let beat = kwik_proto::wire::control::Heartbeat { sequence: 1, reply: false };
        peer.say(kwik_proto::wire::ControlMessage::Heartbeat(beat)).await;
        peer.expect(Code::InvalidFrame, "its control stream is stopped").await;
    })
    .await;
}

#[tokio::test]
async fn a_client_could_fill_streams_that_nobody_reads() {
    within(async {
        let servers = Servers::new(0);
        let dialer = hostile::dialer();
        let join = Peer::join(&dialer, address(&servers.primary));
        let accept = async { servers.primary.accept().await.unwrap().accept_any().await.unwrap() };
        let (peer, _primary) = tokio::join!(join, accept);
        let second = timeout(SETTLED, peer.connection.open_bi()).await;
        assert!(second.is_err(), "a second bidirectional stream was granted");
    })
    .await;
}

#[tokio::test]
async fn a_raw_packet_that_was_dropped_was_reported_as_relayed() {
    within(async {
        let servers = Servers::new(0);
        let (_session, primary) = servers.connect(&client()).await;
        // It takes no stream, so the client's queue fills.
        let (path, _peer) = hostile_edge(&primary).await;
        let packet = Bytes::from(vec![0; limits::MAX_RAW_PACKET]);
        let mut refused = 0;
        for _ in 0..200 {
            let sequence = primary.send_raw(path, packet.clone()).unwrap();
            let report = primary.relay_report().await.unwrap();
            assert_eq!((report.sequence, report.path), (sequence, path));
            refused += u32::from(report.error == Some(Code::LimitExceeded));
        }
        assert!(refused > 0, "all were taken");
    })
    .await;
}

#[tokio::test]
async fn the_room_of_a_raw_packet_was_freed_twice() {
    within(async {
        let servers = Servers::new(1);
        let (_session, primary) = servers.connect(&client()).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        let packet = Bytes::from(vec![7; limits::MAX_RAW_PACKET]);
        // More than may wait at once, so that a room never freed shows too.
        for _ in 0..3 * limits::MAX_RAW_QUEUED_BYTES / packet.len() {
            primary.send_raw(path, packet.clone()).unwrap();
            assert_eq!(primary.relay_report().await.unwrap().error, None);
            assert!(edge.recv_raw().await.unwrap() == packet);
        }
    })
    .await;
}

#[tokio::test]
async fn who_waited_for_a_path_to_change_slept_through_it() {
    within(async {
        let servers = Servers::new(1);
        let (_session, primary) = servers.connect(&client()).await;
        let changed = primary.path_changed();
        let _added = servers.add_edge(&primary, 0).await;
        timeout(SETTLED, changed).await.expect("the change came after the future was made");
    })
    .await;
}

#[tokio::test]
async fn bytes_of_a_secondary_stream_with_a_violation_behind_them_wake_their_reader() {
    within(async {
        let servers = Servers::new(0);
        let (session, primary) = servers.connect(&client()).await;
        let (path, mut peer) = hostile_edge(&primary).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(1000).unwrap();
        let _lost = primary.lease(stream.id(), extent, path, Bytes::new()).unwrap();
        stream.finish().unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        let read = tokio::spawn(async move { recv.read_to_end(2000).await });
        let (lease, _) = peer.hear_activation().await;
        sleep(SETTLED).await;
        let open = SecondaryStreamOpen {
            secondary_stream_id: 1,
            target_kwik_stream_id: lease.stream_id,
            lease_id: lease.lease_id,
            ..Default::default()
        };
        let data = SecondaryStreamData {
            secondary_stream_id: 1,
            kwik_stream_id: lease.stream_id,
            data: object(0..1000),
            ..Default::default()
        };
        let mut encoded = BytesMut::new();
        StreamKind::Secondary.encode(&mut encoded);
        encode_secondary(&SecondaryEvent::Open(open), &mut encoded);
        encode_secondary(&SecondaryEvent::Data(data), &mut encoded);
        for _ in 0..=limits::MAX_EMPTY_FRAMES {
            encode_secondary(&SecondaryEvent::Unknown(99), &mut encoded);
        }
        peer.throw(encoded.freeze()).await;
        peer.expect(Code::LimitExceeded, "frames that bring nothing").await;
        let read = timeout(Duration::from_secs(3), read).await.expect("its reader sleeps");
        assert!(read.unwrap().unwrap() == object(0..1000));
    })
    .await;
}
