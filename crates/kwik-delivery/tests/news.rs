//! What a server says of itself, and of where to go on.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{connect, content, identity, name, source, start};
use kwik::{ClientConfig, Endpoint, ServerConfig};
use kwik_delivery::{
    Catalogue, Client, Door, FailureCode, FetchError, Link, Progress, Server, Source, Ticket,
    Visitor,
};
use tempfile::tempdir;
use tokio::time::timeout;

fn link(text: &str) -> Link {
    format!("kwik://{}{text}", "ab".repeat(32)).parse().unwrap()
}

/// A client hears at once of what changes, and of the end. Who asks again is told once.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_of_successors_and_of_the_end() {
    let servers = [start(0, source(&[("x", content(10))]), Vec::new())];
    let server = &servers[0].server;
    let client = connect(&servers).await;
    let mut news = client.news().await.unwrap();
    assert!(!news.about().ending && news.about().successors.is_empty());
    let apart = SystemTime::now().duration_since(news.about().time).unwrap_or_default();
    assert!(apart < Duration::from_secs(20), "{apart:?}");

    // A name is nothing to a server, and one without a key is no server's.
    let nobody: Link = "kwik://h:1".parse().unwrap();
    server.set_successors(vec![link("@one:1/x"), nobody, link("@[::1]:2")]);
    assert!(news.changed().await.unwrap());
    assert_eq!(news.about().successors, [link("@one:1"), link("@[::1]:2")]);
    let mut again = client.news().await.unwrap();
    assert_eq!(again.about().successors.len(), 2);
    assert!(!again.changed().await.unwrap());

    server.drain();
    assert!(news.changed().await.unwrap());
    assert!(news.about().ending);
    let refused = client.fetch_small(&name("x"), &Progress::default()).await.unwrap_err();
    assert!(
        matches!(&refused, FetchError::Refused(failure) if failure.code == FailureCode::Ending),
        "{refused}"
    );
    // Who only listens is nothing to wait for.
    timeout(Duration::from_secs(20), server.drained()).await.unwrap();
    // Who comes now is let in, and told.
    let late = connect(&servers).await;
    assert_eq!(late.news().await.unwrap().about().successors.len(), 2);
}

/// A link to a part alone does not get the secret that leads to all of another server.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_gets_no_secret_of_a_successor() {
    let door = Door::closed().unwrap().with_tickets(&identity(0));
    let door = Arc::new(door.with_secret(&"0123456789abcdef".parse().unwrap()));
    let mut config = ServerConfig::new(identity(0));
    config.authenticator = door.clone();
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, state) = (endpoint.local_addr().unwrap(), tempdir().unwrap());
    let catalogue = Catalogue::open(&state).unwrap();
    let source = Source::memory([(name("x"), content(10))]);
    let server = Server::new(source, catalogue, Vec::new()).with_door(door);
    server.set_successors(vec![link(":fedcba9876543210@h:1")]);
    let serving = tokio::spawn(async move { Arc::new(server).run(&endpoint).await });

    let client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let ticket = Ticket { expires, scope: Some(name("x")) }.sign(&identity(0));
    let secret = "0123456789abcdef".parse().unwrap();
    for (pass, told) in [(secret, ":fedcba9876543210@h:1"), (ticket, "@h:1")] {
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.credentials = Some(Arc::new(Visitor { pass: Some(pass), identity: None }));
        let session = client.connect_with(config, address, "").unwrap().await.unwrap();
        let news = Client::new(session).news().await.unwrap();
        assert_eq!(news.about().successors, [link(told)]);
    }
    serving.abort();
}
