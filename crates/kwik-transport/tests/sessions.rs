//! Sessions over real QUIC on loopback: one primary, several servers in one stream.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]

mod common;

use bytes::Bytes;
use common::{Rng, Servers, client, fill, object, serve_leases, within};
use kwik::{LeaseOutcome, PathId};

#[tokio::test]
async fn streams_go_both_ways_with_one_server() {
    within(async {
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
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_write_one_stream() {
    within(async {
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
            // Who is leased first may be fast enough to bring all before the others are asked.
            let mut leases = Vec::new();
            for turn in 0..3 {
                match (round + turn) % 3 {
                    0 => {
                        let (own, writer) = primary.lease_own(id, extent.clone()).unwrap();
                        leases.push(own);
                        tokio::spawn(fill(writer));
                    }
                    edge => {
                        let path = [one, two][usize::from(edge == 2)];
                        let lease = primary.lease(id, extent.clone(), path, command.clone());
                        leases.push(lease.unwrap());
                    }
                }
            }
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
        assert!(paths.iter().all(|path| path.figures.received > 0), "{paths:?}");
        assert!(paths.iter().any(|path| path.id == PathId::PRIMARY));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_fill_streams_whose_leases_are_split_anyhow() {
    within(async {
        let servers = Servers::new(2);
        let (session, primary) = servers.connect(&client()).await;
        let (one, first) = servers.add_edge(&primary, 0).await;
        let (two, second) = servers.add_edge(&primary, 1).await;
        serve_leases(first);
        serve_leases(second);
        let mut rng = Rng(2024);
        for round in 0..20 {
            let mut stream = primary.session().open_uni().await.unwrap();
            let (id, size) = (stream.id(), 1 + rng.below(3_000_000));
            let extent = stream.reserve(size).unwrap();
            let mut cuts: Vec<_> = (0..rng.below(12)).map(|_| rng.below(size)).collect();
            cuts.extend([0, size]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut leases = Vec::new();
            for part in cuts.windows(2) {
                // At least one server for each part; some parts reach over their neighbours.
                let wide = rng.below(3) == 0;
                let end = if wide { (part[1] + rng.below(size)).min(extent.end) } else { part[1] };
                let (range, who) = (part[0]..end, 1 + rng.below(7));
                for (bit, path) in [(1, one), (2, two)] {
                    if who & bit != 0 {
                        let lease = primary.lease(id, range.clone(), path, Bytes::new());
                        leases.push(lease.unwrap());
                    }
                }
                if who & 4 != 0 {
                    let (lease, writer) = primary.lease_own(id, range).unwrap();
                    tokio::spawn(fill(writer));
                    leases.push(lease);
                }
            }
            // Only now: wide leases may have brought all of it already.
            stream.finish().unwrap();
            let mut recv = session.accept_uni().await.unwrap();
            let read = recv.read_to_end(1 << 30).await.unwrap();
            assert!(read == object(0..size), "round {round}: {} of {size}", read.len());
            for mut lease in leases {
                let ended = lease.outcome().await.unwrap();
                assert_eq!(ended.outcome, Some(LeaseOutcome::Done), "round {round}: {ended:?}");
            }
        }
        while session.stats().streams + primary.session().stats().streams > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let stats = session.stats();
        assert_eq!((stats.leases, stats.pieces, stats.granted), (0, 0, 0), "{stats:?}");
        assert_eq!(primary.session().stats().leases, 0);
        // Whatever edges wrote, they opened nothing.
        let short = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(short, session.accept_bi()).await.is_err());
        assert!(tokio::time::timeout(short, session.accept_uni()).await.is_err());
    })
    .await;
}
