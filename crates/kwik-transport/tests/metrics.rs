//! Metrics and events of a session that does what a script says (10.1, 10.2).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::collections::BTreeSet;

use bytes::Bytes;
use common::figures::{NONE, about, number, upload};
use common::{Servers, client, fill, serve_leases, settled, until, within};
use kwik::{Event, EventKind, LiveSession, METRICS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_number_is_what_the_script_did() {
    const UP: u64 = 3_000_000;
    const OWN: u64 = 2_000_000;
    const LEASED: u64 = 5_000_000;
    within(async {
        let servers = Servers::new(1);
        let client = client();
        for endpoint in [&servers.primary, &servers.edges[0], &client] {
            assert!(endpoint.metrics().is_empty() && endpoint.sessions().is_empty());
            endpoint.watch();
        }
        let (session, primary) = servers.connect(&client).await;
        let (path, edge) = servers.add_edge(&primary, 0).await;
        serve_leases(edge);
        upload(&session, primary.session(), UP).await;

        // A plain stream, and one that leases fill: of the primary, and of the edge.
        upload(primary.session(), &session, OWN).await;
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(OWN + LEASED).unwrap();
        stream.finish().unwrap();
        let (mut lease, writer) = primary.lease_own(stream.id(), 0..OWN).unwrap();
        tokio::spawn(fill(writer));
        let mut rest = primary.lease(stream.id(), OWN..extent.end, path, Bytes::new()).unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        let read = recv.read_to_end((OWN + LEASED) as usize).await.unwrap();
        assert_eq!(read.len() as u64, OWN + LEASED);
        drop((recv, stream));
        lease.outcome().await.unwrap();
        rest.outcome().await.unwrap();
        settled(&session, primary.session()).await;

        let (at, to) = (&client, &servers.primary);
        about(number(to, "kwik_received_bytes", &[("path", "primary")]), UP);
        about(number(at, "kwik_received_bytes", &[("path", "primary")]), 2 * OWN);
        about(number(at, "kwik_received_bytes", &[("path", "secondary")]), LEASED);
        about(number(at, "kwik_sent_bytes", NONE), UP);
        assert_eq!(number(to, "kwik_leases_ended", &[("outcome", "done")]), 2);
        assert_eq!(number(at, "kwik_leases_ended", &[("outcome", "done")]), 2);
        for (endpoint, role) in [(at, "client"), (to, "primary"), (&servers.edges[0], "secondary")]
        {
            assert_eq!(number(endpoint, "kwik_sessions", &[("role", role)]), 1, "{role}");
            assert_eq!(number(endpoint, "kwik_sessions_begun", &[("role", role)]), 1, "{role}");
        }
        assert_eq!(number(at, "kwik_handshake_seconds", &[("side", "client")]), 1);
        assert_eq!(number(to, "kwik_handshake_seconds", &[("side", "server")]), 1);
        let active = [("path", "secondary"), ("state", "active")];
        assert_eq!(number(at, "kwik_paths", &active), 1);
        assert_eq!(number(to, "kwik_paths", &active), 1);
        // Datagrams hold the payload and what is around it.
        let came = number(at, "kwik_udp_bytes", &[("direction", "received")]);
        assert!((2 * OWN + LEASED..2 * (2 * OWN + LEASED)).contains(&came), "{came}");
        let edge = &servers.edges[0];
        let sent = number(edge, "kwik_udp_bytes", &[("direction", "sent")]);
        assert!((LEASED..2 * LEASED).contains(&sent), "{sent}");
        assert_eq!(number(at, "kwik_sessions_limited", &[("cause", "nothing")]), 1);
        assert_eq!(number(at, "kwik_streams", NONE), 0);
        assert_eq!(number(at, "kwik_conflicting_bytes", NONE), 0);
        let window = session.stats().window;
        assert_eq!(number(at, "kwik_window_bytes", NONE), window);

        // What ended is still counted.
        session.close(7, b"done");
        until(|| primary.session().close_reason().is_some()).await;
        until(|| client.sessions().is_empty() && servers.primary.sessions().is_empty()).await;
        let peer = [("role", "primary"), ("by", "peer"), ("code", "application")];
        assert_eq!(number(to, "kwik_sessions_ended", &peer), 1);
        let own = [("role", "client"), ("by", "local"), ("code", "closed")];
        assert_eq!(number(at, "kwik_sessions_ended", &own), 1);
        drop((session, primary));
        about(number(at, "kwik_received_bytes", &[("path", "secondary")]), LEASED);
        about(number(at, "kwik_sent_bytes", NONE), UP);
        assert_eq!(number(at, "kwik_sessions", &[("role", "client")]), 0);
    })
    .await;
}

/// Figures never fall, so that they stand still until others make up for what was forgotten.
#[tokio::test]
async fn what_a_connection_brought_that_is_gone_is_neither_forgotten_nor_counted_twice() {
    const BYTES: u64 = 1_000_000;
    within(async {
        let (servers, client) = (Servers::new(0), client());
        client.watch();
        let came = || number(&client, "kwik_udp_bytes", &[("direction", "received")]);
        for turn in 1..=3 {
            let (session, primary) = servers.connect(&client).await;
            upload(primary.session(), &session, BYTES).await;
            session.close(0, b"");
            until(|| client.sessions().is_empty()).await;
            drop((session, primary));
            until(|| came() >= turn * BYTES).await;
            assert!(came() < turn * BYTES * 3 / 2, "{turn}: {}", came());
        }
    })
    .await;
}

/// Who is told to show that it receives at its address comes again, and is let in.
#[tokio::test]
async fn who_shows_its_address_first_is_not_refused() {
    within(async {
        let client = client();
        let config = kwik::ServerConfig::new(common::identity(0));
        let primary = common::server(kwik::ServerConfig { max_sessions: 2, ..config });
        primary.watch();
        let servers = Servers { primary, edges: Vec::new() };
        let _first = servers.connect(&client).await;
        let _second = servers.connect(&client).await;
        assert_eq!(number(&servers.primary, "kwik_address_validations", NONE), 1);
        assert_eq!(number(&servers.primary, "kwik_refused_connections", &[("reason", "busy")]), 0);
        let families = servers.primary.metrics();
        let refused = families.iter().find(|family| family.name == "kwik_refused_connections");
        assert!(refused.unwrap().samples.is_empty(), "{refused:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_path_that_may_come_back_is_counted_as_dead() {
    within(async {
        let (servers, client) = (Servers::new(1), client());
        servers.primary.watch();
        let (_session, primary) = servers.connect(&client).await;
        let (_path, edge) = servers.add_edge(&primary, 0).await;
        servers.edges[0].close(0, b"gone");
        drop(edge);
        let of = |state| {
            let labels = [("path", "secondary"), ("state", state)];
            number(&servers.primary, "kwik_paths", &labels)
        };
        until(|| of("dead") == 1 && of("connecting") == 0).await;
    })
    .await;
}

#[derive(Debug)]
struct Nobody;

impl kwik::Authenticator for Nobody {
    fn authenticate(&self, _: &kwik::Introduction<'_>) -> Result<Bytes, String> {
        Err("nobody comes in".to_owned())
    }
}

/// A client's handshake is over when its primary has accepted it.
#[tokio::test]
async fn a_client_that_is_not_let_in_has_failed_its_handshake() {
    within(async {
        let client = client();
        client.watch();
        let config = kwik::ServerConfig::new(common::identity(0));
        let nobody = kwik::ServerConfig { authenticator: std::sync::Arc::new(Nobody), ..config };
        let server = common::server(nobody);
        let pinned = kwik::ClientConfig::pinned(common::identity(0).fingerprint());
        let dial = client.connect_with(pinned, server.local_addr().unwrap(), "").unwrap();
        let accept = async { server.accept().await.unwrap().accept_any().await.unwrap_err() };
        let (session, _) = tokio::join!(dial, accept);
        if let Ok(session) = session {
            session.closed().await;
        }
        let families = client.metrics();
        let failures = families.iter().find(|family| family.name == "kwik_handshake_failures");
        assert_eq!(failures.unwrap().samples.len(), 1, "{failures:?}");
        assert_eq!(number(&client, "kwik_handshake_seconds", &[("side", "client")]), 0);
    })
    .await;
}

#[tokio::test]
async fn refusals_and_failures_have_their_reasons() {
    within(async {
        let (servers, client) = (Servers::new(0), client());
        client.watch();
        let wrong = kwik::ClientConfig::pinned(common::identity(9).fingerprint());
        let address = servers.primary.local_addr().unwrap();
        let accepting = servers.primary.clone();
        tokio::spawn(async move {
            accepting.accept().await.unwrap().accept_any().await.unwrap_err();
        });
        client.connect_with(wrong, address, "").unwrap().await.unwrap_err();
        let labels = [("side", "client"), ("reason", "pin")];
        assert_eq!(number(&client, "kwik_handshake_failures", &labels), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_of_sessions_paths_and_leases_and_a_slow_reader_of_what_it_missed() {
    within(async {
        let (servers, client) = (Servers::new(1), client());
        servers.primary.watch();
        let (mut events, mut slow) = (servers.primary.events(), servers.primary.events());
        let (session, primary) = servers.connect(&client).await;
        let (path, _edge) = servers.add_edge(&primary, 0).await;
        let mut until_told = async |found: fn(&EventKind) -> bool| loop {
            let Event { session, kind, .. } = events.next().await;
            assert!(session.is_none_or(|id| id == primary.id()));
            if found(&kind) {
                return kind;
            }
        };
        until_told(|kind| matches!(kind, EventKind::SessionBegun { .. })).await;
        let active = |kind: &EventKind| {
            matches!(kind, EventKind::Path { status: kwik::PathStatus::Active, .. })
        };
        let told = until_told(active).await;
        assert!(matches!(told, EventKind::Path { path: of, .. } if of == path), "{told:?}");
        primary.remove_path(path).await.unwrap();
        until_told(|kind| matches!(kind, EventKind::Path { ended: true, .. })).await;
        drop((primary, session));
        for _ in 0..1_200 {
            let (session, primary) = servers.connect(&client).await;
            drop((session, primary));
        }
        slow.next().await;
        assert!(slow.missed() > 1_000, "{}", slow.missed());
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_lists_its_sessions_and_keeps_none_alive() {
    within(async {
        let (servers, client) = (Servers::new(0), client());
        servers.primary.watch();
        let (session, primary) = servers.connect(&client).await;
        let listed = servers.primary.sessions();
        assert!(
            matches!(&listed[..], [(1, LiveSession::Primary(one))] if one.id() == primary.id())
        );
        // Handles of those who look count as any.
        drop((listed, primary));
        session.closed().await;
        until(|| servers.primary.sessions().is_empty()).await;
    })
    .await;
}

#[test]
fn metrics_have_names_by_convention_each_once() {
    let names: BTreeSet<_> = METRICS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names.len(), METRICS.len());
    for (name, kind, labels, help) in METRICS {
        let histogram = kind == kwik::MetricKind::Histogram;
        assert!(name.starts_with("kwik_") && !name.ends_with("_total"), "{name}");
        assert!(!histogram || name.ends_with("_seconds"), "{name}");
        assert!(help.ends_with('.') && labels.split(", ").all(|label| label != "id"), "{name}");
    }
}
