//! A primary, its edges and a client, over real sessions on loopback.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test target uses a part")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kwik::{ClientConfig, Endpoint, Identity, ServerConfig};
use kwik_delivery::{AtOnce, Catalogue, Client, Edge, ObjectName, Server, Source};
use tempfile::{TempDir, tempdir};
use tokio::{task::JoinHandle, time::sleep};

pub mod liar;

pub const MIB: usize = 1024 * 1024;

pub fn name(name: &str) -> ObjectName {
    ObjectName::new(name).unwrap()
}

pub fn content(size: usize) -> Bytes {
    let mut data = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data.into()
}

pub fn source(objects: &[(&str, Bytes)]) -> Source {
    let objects = objects.iter().map(|(text, data)| (name(text), data.clone()));
    Source::memory(objects)
}

/// A running server.
pub struct Running {
    pub edge: Edge,
    pub endpoint: Endpoint,
    pub server: Arc<Server>,
    task: JoinHandle<()>,
    state: Arc<TempDir>,
}

impl Running {
    pub fn state(&self) -> &std::path::Path {
        self.state.path()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed([100 + seed; 32]))
}

/// Number 0 is the primary, which the others trust. All its edges join all its sessions.
pub fn start(number: u8, source: Source, edges: Vec<Edge>) -> Running {
    start_with(number, source, edges, |server| server.with_join_policy(AtOnce))
}

/// The same, as `configure` makes it.
pub fn start_with(
    number: u8,
    source: Source,
    edges: Vec<Edge>,
    configure: impl FnOnce(Server) -> Server,
) -> Running {
    start_in(tempdir().unwrap().into(), number, source, edges, configure)
}

/// The same with the state of one before.
pub fn start_in(
    state: Arc<TempDir>,
    number: u8,
    source: Source,
    edges: Vec<Edge>,
    configure: impl FnOnce(Server) -> Server,
) -> Running {
    let mut config = ServerConfig::new(identity(number));
    let fingerprint = config.identity.fingerprint();
    config.trusted.insert(identity(0).fingerprint());
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let server = Server::new(source, Catalogue::open(&*state).unwrap(), edges);
    let server = Arc::new(configure(server));
    let (running, listening) = (Arc::clone(&server), endpoint.clone());
    let task = tokio::spawn(async move { running.run(&listening).await });
    let edge = Edge::new(endpoint.local_addr().unwrap(), fingerprint);
    Running { edge, endpoint, server, task, state }
}

/// A primary that holds `objects`, with an edge for each of `edges`.
pub fn start_all(objects: &[(&str, Bytes)], edges: Vec<Source>) -> Vec<Running> {
    let mut servers: Vec<_> =
        (1..).zip(edges).map(|(number, source)| start(number, source, Vec::new())).collect();
    let edges = servers.iter().map(|server| server.edge.clone()).collect();
    servers.insert(0, start(0, source(objects), edges));
    servers
}

/// A client whose session has all its paths.
pub async fn connect(servers: &[Running]) -> Client {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let Edge { addresses, fingerprint, .. } = &servers[0].edge;
    let config = ClientConfig::pinned(*fingerprint);
    let session = endpoint.connect_with(config, addresses[0], "").unwrap().await.unwrap();
    while session.stats().paths.len() < servers.len() {
        sleep(Duration::from_millis(1)).await;
    }
    Client::new(session)
}
