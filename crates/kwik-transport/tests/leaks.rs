//! A session that lives long holds no more than one that is young (4.4, 8.1).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{
    Servers, client, echo, fill, identity, object, serve_echo, serve_leases, server, within,
};
use kwik::{
    AcceptAny, Authenticator, ConnectionError, Introduction, PathId, PrimarySession, ServerConfig,
    Session,
};
use tokio::time::sleep;

const LIFETIMES: u64 = 20_000;

/// Memory of this process, in bytes; none where the system does not say.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = status.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// One stream, opened, used and closed, each time in another way.
async fn live(client: &Session, server: &Session, kind: u64) {
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"question").await.unwrap();
    let (mut answer, mut question) = server.accept_bi().await.unwrap();
    match kind % 5 {
        // In order.
        0 | 1 => {
            send.finish().unwrap();
            assert_eq!(question.read_to_end(100).await.unwrap(), b"question");
            answer.write_all(b"answer").await.unwrap();
            answer.finish().unwrap();
            assert_eq!(recv.read_to_end(100).await.unwrap(), b"answer");
        }
        // Dropped by one side, unread by the other.
        2 => drop((send, recv)),
        // Given up.
        3 => {
            send.reset(1).unwrap();
            answer.reset(2).unwrap();
        }
        // Stopped.
        _ => {
            question.stop(1).unwrap();
            recv.stop(2).unwrap();
        }
    }
}

async fn settle(client: &Session, server: &Session) {
    for _ in 0..200 {
        let (ours, theirs) = (client.stats(), server.stats());
        if ours.streams + theirs.streams + ours.leases + theirs.leases + ours.pieces == 0 {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("left: {:?}, {:?}", client.stats(), server.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_streams_leave_nothing() {
    let servers = Servers::new(0);
    let (session, primary) = servers.connect(&client()).await;
    let server = primary.session();
    let mut young = None;
    for kind in 0..LIFETIMES {
        if kind == LIFETIMES / 4 {
            settle(&session, server).await;
            young = resident();
        }
        live(&session, server, kind).await;
    }
    settle(&session, server).await;
    let window = session.stats();
    assert_eq!(window.granted, 0, "{window:?}");
    if let (Some(young), Some(old)) = (young, resident()) {
        // 100 bytes a stream would be 1.5 MB.
        let grown = old.saturating_sub(young);
        assert!(grown < 1_000_000, "{grown} bytes more after {LIFETIMES} streams");
    }
}

async fn leased(session: &Session, primary: &PrimarySession, path: PathId) {
    let mut stream = primary.session().open_uni().await.unwrap();
    let extent = stream.reserve(1000).unwrap();
    let id = stream.id();
    let leases = [
        primary.lease(id, extent.clone(), path, Bytes::new()).unwrap(),
        primary
            .lease_own(id, extent)
            .map(|(lease, writer)| {
                tokio::spawn(fill(writer));
                lease
            })
            .unwrap(),
    ];
    stream.finish().unwrap();
    let mut recv = session.accept_uni().await.unwrap();
    assert!(recv.read_to_end(2000).await.unwrap() == object(0..1000));
    for mut lease in leases {
        lease.outcome().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leased_streams_leave_nothing() {
    let servers = Servers::new(1);
    let (session, primary) = servers.connect(&client()).await;
    let (path, edge) = servers.add_edge(&primary, 0).await;
    serve_leases(edge);
    for _ in 0..1000 {
        leased(&session, &primary, path).await;
    }
    settle(&session, primary.session()).await;
}

/// A resource of a server that its sessions and tasks may hold.
#[derive(Debug)]
struct Resource;

impl Authenticator for Resource {
    fn authenticate(&self, client: &Introduction<'_>) -> Result<Bytes, String> {
        AcceptAny.authenticate(client)
    }
}

#[tokio::test]
async fn a_server_that_is_gone_leaves_no_resource_and_no_task() {
    within(async {
        let authenticator = Arc::new(Resource);
        let weak = Arc::downgrade(&authenticator);
        let own = client();
        {
            let config = ServerConfig { authenticator, ..ServerConfig::new(identity(0)) };
            let servers = Servers { primary: server(config), edges: Vec::new() };
            let (session, primary) = servers.connect(&own).await;
            serve_echo(primary.session().clone());
            echo(&session).await;
            servers.primary.close(0, b"");
            session.closed().await;
            servers.primary.wait_idle().await;
        }
        sleep(Duration::from_millis(200)).await;
        assert!(weak.upgrade().is_none());
        let metrics = tokio::runtime::Handle::current().metrics();
        drop(own);
        for _ in 0..100 {
            if metrics.num_alive_tasks() == 0 {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("{} tasks are left", metrics.num_alive_tasks());
    })
    .await;
}

#[tokio::test]
async fn closing_an_endpoint_ends_its_sessions_and_it_becomes_idle() {
    within(async {
        let servers = Servers::new(0);
        let own = client();
        let (session, primary) = servers.connect(&own).await;
        let accepting = tokio::spawn(async move { primary.session().accept_bi().await.err() });
        own.close(9, b"");
        assert_eq!(session.closed().await, ConnectionError::LocallyClosed);
        assert_eq!(
            accepting.await.unwrap(),
            Some(ConnectionError::ApplicationClosed { code: 9, reason: Bytes::new() })
        );
        own.wait_idle().await;
        servers.primary.wait_idle().await;
    })
    .await;
}
