//! A primary, its edges and a client on loopback.
#![allow(dead_code, unreachable_pub, reason = "each test target uses a part")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]
#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kwik::{
    Accepted, ClientConfig, Endpoint, Identity, LeaseWriter, PathId, PrimarySession, RecvStats,
    SecondarySession, SendStream, ServerConfig, Session,
};

pub mod figures;
pub mod hostile;
pub mod proto;
pub mod secondary;

/// Whatever `test` does, it does not hang for ever.
pub async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs")
}

/// Waits until `done` holds; [`within`] bounds it.
pub async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the only receiving half of a session holds.
pub fn only(session: &Session) -> Option<RecvStats> {
    session.stream_stats().into_iter().find_map(|stats| stats.recv)
}

pub const LOOPBACK: &str = "127.0.0.1:0";

/// Byte `at` of the object that every server holds.
pub fn pattern(at: u64) -> u8 {
    let mixed = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (at >> 8);
    (mixed >> 32) as u8
}

/// A range of that object.
pub fn object(range: std::ops::Range<u64>) -> Bytes {
    range.map(pattern).collect::<Vec<_>>().into()
}

pub fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed([seed + 100; 32]))
}

pub fn server(config: ServerConfig) -> Endpoint {
    Endpoint::server(config, LOOPBACK.parse().unwrap()).unwrap()
}

pub fn client() -> Endpoint {
    Endpoint::client(LOOPBACK.parse().unwrap()).unwrap()
}

/// A primary and its secondaries, which trust it.
pub struct Servers {
    pub primary: Endpoint,
    pub edges: Vec<Endpoint>,
}

impl Servers {
    pub fn new(edges: u8) -> Self {
        let trusted = BTreeSet::from([identity(0).fingerprint()]);
        let edge = |seed| {
            server(ServerConfig { trusted: trusted.clone(), ..ServerConfig::new(identity(seed)) })
        };
        Self {
            primary: server(ServerConfig::new(identity(0))),
            edges: (1..=edges).map(edge).collect(),
        }
    }

    /// A session, as its client and as its primary have it.
    pub async fn connect(&self, client: &Endpoint) -> (Session, PrimarySession) {
        self.connect_with(client, ClientConfig::pinned(identity(0).fingerprint())).await
    }

    /// The same with a configuration of the client's own.
    pub async fn connect_with(
        &self,
        client: &Endpoint,
        config: ClientConfig,
    ) -> (Session, PrimarySession) {
        let address = self.primary.local_addr().unwrap();
        let dial = async { client.connect_with(config, address, "").unwrap().await.unwrap() };
        let accept = async {
            match self.primary.accept().await.unwrap().accept_any().await.unwrap() {
                Accepted::Primary(primary) => primary,
                Accepted::Secondary(_) => panic!("a client came as a secondary path"),
            }
        };
        tokio::join!(dial, accept)
    }

    /// Makes a path to an edge: its id, and the edge's session.
    pub async fn add_edge(
        &self,
        primary: &PrimarySession,
        edge: usize,
    ) -> (PathId, SecondarySession) {
        let endpoint = &self.edges[edge];
        let key = identity(u8::try_from(edge).unwrap() + 1).fingerprint();
        let add = primary.add_path(endpoint.local_addr().unwrap(), key);
        let (path, session) = tokio::join!(add, accept_secondary(endpoint));
        (path.unwrap(), session)
    }
}

pub async fn accept_secondary(endpoint: &Endpoint) -> SecondarySession {
    match endpoint.accept().await.unwrap().accept_any().await.unwrap() {
        Accepted::Secondary(session) => session,
        Accepted::Primary(_) => panic!("a secondary path came as a client"),
    }
}

/// Writes what is activated, until the lease is over.
pub async fn fill(mut writer: LeaseWriter) -> u64 {
    let mut written = 0;
    while let Ok(Some(piece)) = writer.activated().await {
        let part = piece.start..piece.end.min(piece.start + 100_000);
        written += part.end - part.start;
        if writer.write_chunk(object(part)).await.is_err() {
            break;
        }
    }
    written
}

/// Serves every lease of a secondary.
pub fn serve_leases(session: SecondarySession) {
    tokio::spawn(async move {
        while let Ok(writer) = session.accept_lease().await {
            tokio::spawn(fill(writer));
        }
    });
}

/// Opens a stream to a peer that answers with what it gets, and checks that it does.
pub async fn echo(session: &Session) {
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    send.write_all(b"still here?").await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"still here?");
}

/// Opens streams that each carry a byte, and stay open.
pub async fn open_with_a_byte(session: &Session, count: usize) -> Vec<SendStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = session.open_uni().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        streams.push(stream);
    }
    streams
}

/// Answers every bidirectional stream with what it carries.
pub fn serve_echo(session: Session) {
    tokio::spawn(async move {
        while let Ok((mut send, mut recv)) = session.accept_bi().await {
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
                    if send.write_chunk(chunk.bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Accepts every client of an endpoint, and answers its streams.
pub fn serve_clients(endpoint: Endpoint) {
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Ok(Accepted::Primary(primary)) = incoming.accept_any().await {
                    serve_echo(primary.session().clone());
                    primary.session().closed().await;
                }
            });
        }
    });
}

/// A session at both ends.
pub async fn pair() -> (Session, Session, (Servers, PrimarySession)) {
    let servers = Servers::new(0);
    let (session, primary) = servers.connect(&client()).await;
    (session, primary.session().clone(), (servers, primary))
}

/// Waits until neither end has a stream left.
pub async fn settled(one: &Session, two: &Session) {
    let all_gone = async {
        while one.stats().streams + two.stats().streams > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let left = || (one.stats().streams, two.stats().streams);
    assert!(
        tokio::time::timeout(Duration::from_secs(10), all_gone).await.is_ok(),
        "streams leak: {:?}",
        left()
    );
}

/// Numbers from a seed, for tests that want variety and no surprise.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 29)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub fn address(endpoint: &Endpoint) -> SocketAddr {
    endpoint.local_addr().unwrap()
}
