//! Paths that never come: refused, unreachable, too many, or not wanted any more (2.2).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::time::Duration;

use common::hostile::{self, Peer};
use common::{Servers, accept_secondary, address, client, identity, within};
use kwik::{Code, PathError, PathId};
use kwik_proto::limits;
use tokio::time::timeout;

const EDGE: u8 = 70;

#[tokio::test]
async fn a_path_removed_while_it_is_dialed_leaves_nothing_behind() {
    within(async {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let (_session, primary) = servers.connect(&client()).await;
        let key = identity(EDGE).fingerprint();
        let path = PathId(1);
        let remove = async {
            while primary.all_paths().len() < 2 {
                tokio::task::yield_now().await;
            }
            // The handshake waits until the client has let the path go.
            let incoming = listener.accept().await.unwrap();
            primary.remove_path(path).await.unwrap();
            incoming.await.unwrap()
        };
        let (added, connection) =
            tokio::join!(primary.add_path(listener.local_addr().unwrap(), key), remove);
        assert!(matches!(added, Err(PathError::Failed(_))), "{added:?}");
        let closed = timeout(Duration::from_secs(5), connection.closed()).await;
        assert!(closed.is_ok(), "the client kept a connection that nobody uses");
    })
    .await;
}

#[tokio::test]
async fn paths_beyond_the_limits_are_refused() {
    within(async {
        let servers = Servers::new(1);
        let (session, primary) = servers.connect(&client()).await;
        let key = identity(1).fingerprint();
        let edge = address(&servers.edges[0]);
        let mut adding = Vec::new();
        for _ in 1..limits::MAX_PATHS {
            let primary = primary.clone();
            adding.push(tokio::spawn(async move { primary.add_path(edge, key).await }));
        }
        while primary.all_paths().len() < limits::MAX_PATHS {
            tokio::task::yield_now().await;
        }
        let Err(PathError::Refused(error)) = primary.add_path(edge, key).await else {
            panic!("one path too many")
        };
        assert_eq!(error.code, Code::LimitExceeded);
        let mut edges = Vec::new();
        for _ in 0..limits::MAX_DIALS {
            edges.push(accept_secondary(&servers.edges[0]).await);
        }
        let mut made = 0;
        for add in adding {
            match add.await.unwrap() {
                Ok(_) => made += 1,
                Err(PathError::Failed(reason)) => {
                    assert!(reason.contains("too many dials"), "{reason}");
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(made, limits::MAX_DIALS);
        assert_eq!(primary.active_paths().len(), 1 + limits::MAX_DIALS);
        assert_eq!(session.close_reason(), None);
    })
    .await;
}

#[tokio::test]
async fn paths_that_cannot_be_made_fail_with_a_reason() {
    within(async {
        let servers = Servers::new(0);
        let key = identity(1).fingerprint();
        let (_session, primary) = servers.connect(&client()).await;
        let reason = |result: Result<PathId, PathError>| match result {
            Err(PathError::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        };
        for (target, word) in [
            ("169.254.1.1:9", "link-local"),
            ("[fe80::1]:9", "link-local"),
            ("224.0.0.1:9", "multicast"),
            ("[ff02::1]:9", "multicast"),
            ("0.0.0.0:9", "names no host"),
            ("[::]:9", "names no host"),
            ("255.255.255.255:9", "broadcast"),
            ("127.0.0.1:0", "port 0"),
        ] {
            let failed = reason(primary.add_path(target.parse().unwrap(), key).await);
            assert!(failed.contains(word), "{target}: {failed}");
        }
        // Nobody listens there any more.
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let dead = socket.local_addr().unwrap();
        let began = std::time::Instant::now();
        let failed = reason(primary.add_path(dead, key).await);
        assert!(failed.contains("in time"), "{failed}");
        assert!(began.elapsed() < limits::HANDSHAKE_TIMEOUT * 3);
        // Somebody answers QUIC and nothing else.
        let listener = hostile::listener(&identity(EDGE));
        let silent = async { Peer::accept(&listener).await };
        let key = identity(EDGE).fingerprint();
        let add = primary.add_path(listener.local_addr().unwrap(), key);
        let (failed, _peer) = tokio::join!(add, silent);
        let failed = reason(failed);
        assert!(failed.contains("in time"), "{failed}");
        assert_eq!(primary.dead_paths().len(), 10);
    })
    .await;
}

#[tokio::test]
async fn a_session_closed_while_it_dials_leaves_no_connection() {
    within(async {
        let servers = Servers::new(0);
        let listener = hostile::listener(&identity(EDGE));
        let (session, primary) = servers.connect(&client()).await;
        let key = identity(EDGE).fingerprint();
        let close = async {
            let incoming = listener.accept().await.unwrap();
            session.close(1, b"enough");
            incoming.await
        };
        let (added, connection) =
            tokio::join!(primary.add_path(listener.local_addr().unwrap(), key), close);
        assert!(matches!(added, Err(PathError::ConnectionLost(_))), "{added:?}");
        if let Ok(connection) = connection {
            let closed = timeout(Duration::from_secs(5), connection.closed()).await;
            assert!(closed.is_ok(), "the client kept a connection that nobody uses");
        }
    })
    .await;
}
