//! When edges join a session, over real sessions on loopback.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{io, time::Duration};

use common::{MIB, content, identity, name, source, start, start_with};
use kwik::{ClientConfig, Endpoint, ServerConfig};
use kwik_delivery::{Catalogue, Client, Edge, Progress, Server, WhenItPays};
use tempfile::tempdir;
use tokio::time::{sleep, timeout};

async fn connect(to: Edge) -> Client {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(to.fingerprint);
    Client::new(endpoint.connect_with(config, to.addresses[0], "").unwrap().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_page_dials_nobody() {
    let objects = [("index", content(20_000))];
    let edge = start(1, source(&objects), Vec::new());
    let primary = start_with(0, source(&objects), vec![edge.edge.clone()], |server| {
        server.with_join_policy(WhenItPays)
    });
    let client = connect(primary.edge.clone()).await;
    let fetch = client.fetch(&name("index")).await.unwrap();
    fetch.write_to(Box::new(io::sink()), &Progress::default()).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    assert_eq!(client.session().stats().paths.len(), 1);
}

/// The fetch lasts for as long as its reader waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_down_at_first_joins_once_it_is_up() {
    let objects = [("x", content(100 * MIB))];
    let held = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let edge = Edge::new(address, identity(1).fingerprint());
    let primary =
        start_with(0, source(&objects), vec![edge], |server| server.with_join_policy(WhenItPays));
    let client = connect(primary.edge.clone()).await;
    let fetch = client.fetch(&name("x")).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.session().stats().paths.iter().filter(|p| p.status.is_usable()).count(), 1);
    drop(held);
    let mut config = ServerConfig::new(identity(1));
    config.trusted.insert(identity(0).fingerprint());
    let endpoint = Endpoint::server(config, address).unwrap();
    let state = tempdir().unwrap();
    let catalogue = Catalogue::open(&state).unwrap();
    let server = std::sync::Arc::new(Server::new(source(&objects), catalogue, Vec::new()));
    let serving = tokio::spawn(async move { server.run(&endpoint).await });
    let joined = async {
        let usable = || {
            let paths = client.session().stats().paths;
            paths.iter().filter(|path| path.status.is_usable()).count()
        };
        while usable() < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(40), joined).await.unwrap();
    drop(fetch);
    serving.abort();
}

/// Nobody answers at the first of its addresses.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_joins_by_its_second_address() {
    let objects = [("x", content(100 * MIB))];
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let edge = start(1, source(&objects), Vec::new());
    let Edge { addresses, fingerprint, .. } = &edge.edge;
    let both = vec![silent.local_addr().unwrap(), addresses[0]];
    let primary = start(0, source(&objects), vec![Edge::at(both, *fingerprint)]);
    let client = connect(primary.edge.clone()).await;
    let fetch = client.fetch(&name("x")).await.unwrap();
    let joined = async {
        let is_there = || {
            let paths = client.session().stats().paths;
            let there = addresses[0].to_string();
            paths.iter().any(|path| path.status.is_usable() && path.address == there)
        };
        while !is_there() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), joined).await.unwrap();
    drop(fetch);
}
