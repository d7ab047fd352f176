//! Sessions over real QUIC on loopback: one primary, several servers in one stream.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]

mod common;

use bytes::Bytes;
use common::{Servers, client, fill, object, serve_leases};
use kwik::{LeaseOutcome, PathId};

#[tokio::test]
async fn streams_go_both_ways_with_one_server() {
    let servers = Servers::new(0);
    let (session, primary) = servers.connect(&client()).await;
    let server = primary.session().clone();
    let serve = tokio::spawn(async move {
        let (mut send, mut recv) = server.accept_bi().await.unwrap();
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
            send.write_chunk(chunk.bytes).await.unwrap();
        }
        send.finish().unwrap();
        let mut uni = server.open_uni().await.unwrap();
        uni.write_all(b"from the server").await.unwrap();
        uni.finish().unwrap();
        server.closed().await
    });
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    let data = object(0..3_000_000);
    let write = async {
        send.write_chunk(data.clone()).await.unwrap();
        send.finish().unwrap();
    };
    let ((), echo) = tokio::join!(write, recv.read_to_end(4_000_000));
    assert!(echo.unwrap() == data);
    let mut uni = session.accept_uni().await.unwrap();
    assert_eq!(uni.read_to_end(100).await.unwrap(), b"from the server");
    session.close(7, b"bye");
    let closed = serve.await.unwrap();
    assert!(
        matches!(closed, kwik::ConnectionError::ApplicationClosed { code: 7, .. }),
        "{closed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_write_one_stream() {
    let servers = Servers::new(2);
    let (session, primary) = servers.connect(&client()).await;
    let (one, first) = servers.add_edge(&primary, 0).await;
    let (two, second) = servers.add_edge(&primary, 1).await;
    serve_leases(first);
    serve_leases(second);
    for round in 0..20u64 {
        let size = round * round * 37_123 + 1;
        let mut stream = primary.session().open_uni().await.unwrap();
        let extent = stream.reserve(size).unwrap();
        let (id, command) = (stream.id(), Bytes::from_static(b"fill"));
        let mut leases = vec![
            primary.lease(id, extent.clone(), one, command.clone()).unwrap(),
            primary.lease(id, extent.clone(), two, command).unwrap(),
        ];
        let (own, writer) = primary.lease_own(id, extent).unwrap();
        leases.push(own);
        tokio::spawn(fill(writer));
        stream.finish().unwrap();
        let mut recv = session.accept_uni().await.unwrap();
        let read = recv.read_to_end(1 << 30).await.unwrap();
        assert!(read == object(0..size), "round {round}");
        let mut delivered = 0;
        for mut lease in leases {
            let ended = lease.outcome().await.unwrap();
            assert_eq!(ended.outcome, Some(LeaseOutcome::Done));
            delivered += ended.delivered;
        }
        assert!(delivered >= size, "{delivered} of {size}");
    }
    let paths = session.stats().paths;
    assert_eq!(paths.len(), 3);
    assert!(paths.iter().all(|path| path.received > 0), "{paths:?}");
    assert!(paths.iter().any(|path| path.id == PathId::PRIMARY));
}
