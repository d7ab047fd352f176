//! Every row of requirement 10.1 after sessions that do what a script says: bytes, streams, leases
//! and sessions right to 1 %, times and what depends on them there.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use bytes::Bytes;
use common::figures::{NONE, about, number, upload};
use common::hostile::{self, Peer, frame, packet};
use common::{
    Servers, client, fill, identity, object, only, pattern, serve_leases, settled, until, within,
};
use kwik::{ClientConfig, Endpoint, ServerConfig, Value};
use kwik_proto::wire::control::Resume;

const SESSIONS: u64 = 30;
const UP: u64 = 700_000;
const OWN: u64 = 400_000;
const LEASED: u64 = 900_000;

/// Sessions that say little, one with an edge, and one whose reader is slow: bytes, streams,
/// leases, handshakes, ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_streams_leases_and_sessions_are_those_of_the_script() {
    within(async {
        let (servers, client) = (Servers::new(2), client());
        for endpoint in [&servers.primary, &servers.edges[0], &servers.edges[1], &client] {
            endpoint.watch();
        }
        let (at, to) = (&client, &servers.primary);
        for _ in 0..SESSIONS {
            let (session, primary) = servers.connect(&client).await;
            upload(&session, primary.session(), UP / SESSIONS).await;
            session.close(0, b"");
            primary.session().closed().await;
        }
        let (session, primary) = servers.connect(&client).await;
        for edge in 0..2 {
            let (path, secondary) = servers.add_edge(&primary, edge).await;
            serve_leases(secondary);
            let mut stream = primary.session().open_uni().await.unwrap();
            let extent = stream.reserve(OWN + LEASED).unwrap();
            stream.finish().unwrap();
            let (mut own, writer) = primary.lease_own(stream.id(), 0..OWN).unwrap();
            let rest = OWN..extent.end;
            let mut rest = primary.lease(stream.id(), rest, path, Bytes::new()).unwrap();
            let mut recv = session.accept_uni().await.unwrap();
            // What the edge brings first waits for what is before it.
            until(|| only(&session).is_some_and(|recv| recv.buffer.held > 0)).await;
            tokio::spawn(fill(writer));
            let read = recv.read_to_end((OWN + LEASED) as usize).await.unwrap();
            assert!(read == object(0..OWN + LEASED));
            own.outcome().await.unwrap();
            rest.outcome().await.unwrap();
        }
        settled(&session, primary.session()).await;
        assert!(number(at, "kwik_aggregation_seconds", NONE) > 0);
        // A lease and a stream that go on.
        let mut open = primary.session().open_uni().await.unwrap();
        let extent = open.reserve(50_000).unwrap();
        let (_lease, _writer) = primary.lease_own(open.id(), extent).unwrap();
        until(|| number(at, "kwik_leases", NONE) == 1).await;

        let counted = number(at, "kwik_received_bytes", &[("path", "secondary")]);
        let own = number(at, "kwik_received_bytes", &[("path", "primary")]);
        about(counted + own, 2 * (OWN + LEASED));
        about(number(to, "kwik_received_bytes", &[("path", "primary")]), UP);
        about(number(at, "kwik_sent_bytes", NONE), UP);
        // What the primary sent of what came from it, and no more.
        about(number(to, "kwik_sent_bytes", NONE), own);
        assert_eq!(number(at, "kwik_duplicate_bytes", NONE), session.stats().duplicates.received);
        let begun = SESSIONS + 1;
        for (endpoint, role, side, by) in
            [(at, "client", "client", "local"), (to, "primary", "server", "peer")]
        {
            assert_eq!(number(endpoint, "kwik_sessions", &[("role", role)]), 1);
            assert_eq!(number(endpoint, "kwik_sessions_begun", &[("role", role)]), begun);
            let ended = [("role", role), ("by", by), ("code", "closed")];
            assert_eq!(number(endpoint, "kwik_sessions_ended", &ended), SESSIONS);
            assert_eq!(number(endpoint, "kwik_handshake_seconds", &[("side", side)]), begun);
            assert_eq!(number(endpoint, "kwik_leases_ended", &[("outcome", "done")]), 4);
            let active = [("path", "secondary"), ("state", "active")];
            assert_eq!(number(endpoint, "kwik_paths", &active), 2);
            assert_eq!(number(endpoint, "kwik_paths", &[("path", "primary"), active[1]]), 1);
        }
        assert_eq!(number(to, "kwik_streams", NONE), 1);
        assert_eq!(number(at, "kwik_window_bytes", NONE), session.stats().window);
        assert_eq!(number(at, "kwik_memory_granted_bytes", NONE), client.memory_granted());
        // UDP carries the payload and what is around it, at both ends of each path the same.
        let sent =
            |endpoint: &Endpoint| number(endpoint, "kwik_udp_bytes", &[("direction", "sent")]);
        let servers_sent = sent(to) + sent(&servers.edges[0]) + sent(&servers.edges[1]);
        about(number(at, "kwik_udp_bytes", &[("direction", "received")]), servers_sent);
    })
    .await;
}

/// A client's connection is lost, and it comes back on another.
async fn one_is_resumed() {
    let server = common::server(ServerConfig::new(identity(3)));
    common::serve_clients(server.clone());
    server.watch();
    let (dialer, address) = (hostile::dialer(), common::address(&server));
    let key = kwik::Identity::from_seed([1; 32]);
    let (mut peer, id) = Peer::join_as(&dialer, address, &key).await;
    peer.ping().await;
    let lost = u32::try_from(0x4b02).unwrap();
    peer.connection.close(lost.into(), b"gone");
    let mut peer = Peer::dial(&dialer, address).await;
    peer.ask_to_resume(&key, id, Resume { frame_id: 1, attempt: 1, packets: Vec::new() }).await;
    peer.hear_resumed(1).await;
    assert_eq!(number(&server, "kwik_sessions_resumed", &[("role", "primary")]), 1);
}

/// What 10.1 names, each by one of its metrics.
fn every_row_is_there(at: &Endpoint) {
    for (row, name, labels) in [
        ("throughput", "kwik_received_bytes", &[("path", "primary")][..]),
        ("latency", "kwik_round_trip_seconds", NONE),
        ("connection time", "kwik_handshake_seconds", &[("side", "client")]),
        ("control latency", "kwik_control_seconds", NONE),
        ("path switch time", "kwik_path_switch_seconds", NONE),
        ("aggregation overhead", "kwik_duplicate_bytes", NONE),
        ("window use", "kwik_window_bytes", NONE),
        ("backpressure", "kwik_backpressure", &[("reason", "slow_consumer")]),
        ("time of it", "kwik_backpressure_seconds", &[("reason", "slow_consumer")]),
        ("conflicts", "kwik_conflicting_bytes", NONE),
        ("its bound", "kwik_memory_limit_bytes", NONE),
        ("UDP", "kwik_udp_datagrams", &[("direction", "sent")]),
        ("QUIC", "kwik_quic_packets_sent", NONE),
        ("congestion", "kwik_congestion_window_bytes", NONE),
    ] {
        assert!(number(at, name, labels) > 0, "{row}: {name}");
    }
}

/// An edge that lies and falls silent, a reader that waits, a client that is lost: conflicts, bytes
/// for nothing, switches, gaps, backpressure, resumption.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn troubles_are_those_of_the_script_and_every_row_is_there() {
    const SIZE: u64 = 200_000;
    const LIES: usize = 3_000;
    within(async {
        let (servers, client) = (Servers::new(0), client());
        let (at, to) = (&client, &servers.primary);
        for endpoint in [at, to] {
            endpoint.watch();
        }
        let listener = hostile::listener(&identity(71));
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        let settings = &mut config.session.settings;
        settings.set_stream_buffer(100_000).unwrap().set_max_stream_buffer(100_000).unwrap();
        let (session, primary) = servers.connect_with(&client, config).await;
        let add = primary.add_path(listener.local_addr().unwrap(), identity(71).fingerprint());
        let (path, mut edge) = tokio::join!(add, Peer::welcome(&listener));
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.reserve(SIZE).unwrap();
        stream.finish().unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        let _lease = primary.lease(stream.id(), 0..SIZE, path.unwrap(), Bytes::new()).unwrap();
        edge.hear_activation().await;
        edge.throw(packet(vec![frame(stream.id().as_u64(), 0, vec![0; LIES], false)])).await;
        until(|| only(&session).is_some_and(|recv| recv.buffer.held == LIES as u64)).await;
        let (_own, writer) = primary.lease_own(stream.id(), 0..SIZE).unwrap();
        tokio::spawn(fill(writer));
        // Nothing is read for a while: the buffer fills up.
        until(|| number(at, "kwik_backpressure", &[("reason", "slow_consumer")]) == 1).await;
        let granted = number(at, "kwik_memory_granted_bytes", NONE);
        assert!(granted > 0 && granted == client.memory_granted(), "{granted}");
        let unread = number(at, "kwik_unread_bytes", NONE);
        assert!((50_000..=110_000).contains(&unread), "{unread}");
        assert_eq!(recv.read_to_end(SIZE as usize).await.unwrap().len() as u64, SIZE);

        settled(&session, primary.session()).await;
        about(number(at, "kwik_duplicate_bytes", NONE), LIES as u64);
        let differed = (0..LIES as u64).filter(|at| pattern(*at) != 0).count() as u64;
        about(number(at, "kwik_conflicting_bytes", NONE), differed);
        let came = [("primary", SIZE), ("secondary", LIES as u64)];
        for (path, bytes) in came {
            about(number(at, "kwik_received_bytes", &[("path", path)]), bytes);
        }
        assert_eq!(number(at, "kwik_path_switch_seconds", NONE), 1);
        assert!(number(at, "kwik_reclaimed_bytes", NONE) <= SIZE);
        until(|| number(at, "kwik_control_seconds", NONE) > 0).await;
        drop(recv);

        one_is_resumed().await;
        every_row_is_there(at);
        // Rises and falls: there, though nothing is in it now.
        for name in ["kwik_unread_bytes", "kwik_unacknowledged_bytes", "kwik_gaps", "kwik_pieces"] {
            let families = client.metrics();
            let family = families.iter().find(|family| family.name == name).unwrap();
            assert!(matches!(family.samples[0].value, Value::Number(_)), "{name}");
        }
    })
    .await;
}
