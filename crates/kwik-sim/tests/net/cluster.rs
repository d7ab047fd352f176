//! A primary, its edges and a client, each on a host of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik::{
    Accepted, ClientConfig, Endpoint, Identity, LeaseWriter, PathEvent, PathId, PathStatus,
    PrimarySession, QuicConfig, ReadError, RecvStream, SecondarySession, ServerConfig, Session,
};
use kwik_sim::{Host, Sim};

pub(crate) const PORT: u16 = 4433;

/// Byte `at` of the object that every server holds.
pub(crate) fn pattern(at: u64) -> u8 {
    let mixed = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (at >> 8);
    (mixed >> 32) as u8
}

fn identity(server: usize) -> Arc<Identity> {
    Arc::new(Identity::from_seed([server as u8 + 100; 32]))
}

/// Server 0 is the primary.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) sim: Sim,
    pub(crate) servers: Vec<Host>,
    pub(crate) client: Host,
    object: Bytes,
    /// Edges beyond these are added by the scenario.
    pub(crate) edges: usize,
    /// The session at its primary, and what happened to its paths.
    pub(crate) primary: Slot<PrimarySession>,
    pub(crate) events: Arc<Mutex<Vec<PathEvent>>>,
}

impl Cluster {
    /// `servers` of them, on ideal links, that hold an object of `len` bytes.
    pub(crate) fn new(sim: &Sim, servers: usize, len: u64) -> Self {
        Self {
            sim: sim.clone(),
            client: sim.host("client"),
            servers: (0..servers).map(|server| sim.host(&format!("server {server}"))).collect(),
            object: (0..len).map(pattern).collect::<Vec<_>>().into(),
            edges: servers - 1,
            primary: Slot::default(),
            events: Arc::default(),
        }
    }

    fn address(&self, server: usize) -> SocketAddr {
        SocketAddr::new(self.servers[server].address(), PORT)
    }

    /// Starts a server, again if it has crashed.
    pub(crate) fn start(&self, server: usize) {
        let trusted = BTreeSet::from([identity(0).fingerprint()]);
        let config = ServerConfig { trusted, ..ServerConfig::new(identity(server)) };
        let endpoint = self.servers[server].endpoint(PORT, Some(config), &QuicConfig::default());
        let (cluster, endpoint) = (self.clone(), endpoint.unwrap());
        self.servers[server].spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (cluster, host) = (cluster.clone(), cluster.servers[server].clone());
                host.clone().spawn(async move {
                    match incoming.accept_any().await {
                        Ok(Accepted::Primary(session)) => cluster.serve(&session).await,
                        Ok(Accepted::Secondary(session)) => cluster.fill_all(&host, &session).await,
                        Err(_) => {}
                    }
                });
            }
        });
    }

    pub(crate) fn start_all(&self) {
        (0..self.servers.len()).for_each(|server| self.start(server));
    }

    /// A primary's session: each edge gets a path; each request (a stream's first byte) gets the object.
    async fn serve(&self, session: &PrimarySession) {
        let host = &self.servers[0];
        let (mut events, log) = (session.path_events(), self.events.clone());
        host.spawn(async move {
            while let Ok(event) = events.next().await {
                log.lock().unwrap().push(event);
            }
        });
        self.primary.lock().unwrap().replace(session.clone());
        (1..=self.edges).for_each(|edge| self.add_path(edge));
        while let Ok((send, mut recv)) = session.session().accept_bi().await {
            recv.read_to_end(1).await.ok();
            let (session, cluster) = (session.clone(), self.clone());
            host.spawn(async move { cluster.deliver(&session, send).await });
        }
    }

    /// Has the primary add a path to an edge.
    pub(crate) fn add_path(&self, edge: usize) {
        let session = self.primary.lock().unwrap().clone().unwrap();
        let (address, key) = (self.address(edge), identity(edge).fingerprint());
        self.servers[0].spawn(async move {
            session.add_path(address, key).await.ok();
        });
    }

    /// Has the primary remove a path.
    pub(crate) fn remove_path(&self, path: PathId) {
        let session = self.primary.lock().unwrap().clone().unwrap();
        self.servers[0].spawn(async move {
            session.remove_path(path).await.unwrap();
        });
    }

    /// The states that a path has had.
    pub(crate) fn states(&self, path: PathId) -> Vec<PathStatus> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event.path == path).map(|event| event.status).collect()
    }

    /// Leases the object to every server, also to those that come later.
    async fn deliver(&self, session: &PrimarySession, mut send: kwik::SendStream) {
        let Ok(extent) = send.reserve(self.object.len() as u64) else { return };
        let stream = send.id();
        let Ok((_own, writer)) = session.lease_own(stream, extent.clone()) else { return };
        let object = self.object.clone();
        self.servers[0].spawn(fill(writer, object));
        send.finish().ok();
        let mut leased = BTreeMap::new();
        let mut leases = Vec::new();
        loop {
            let changed = session.path_changed();
            for path in session.all_paths() {
                let usable = path.status == PathStatus::Active && path.id != PathId::PRIMARY;
                if usable && leased.insert(path.id, path.deaths) != Some(path.deaths) {
                    leases.extend(session.lease(stream, extent.clone(), path.id, Bytes::new()));
                }
            }
            let closed = session.session().closed();
            if either(closed, changed).await {
                return;
            }
        }
    }

    async fn fill_all(&self, host: &Host, session: &SecondarySession) {
        while let Ok(writer) = session.accept_lease().await {
            host.spawn(fill(writer, self.object.clone()));
        }
    }

    /// Dials from the client's host.
    pub(crate) async fn connect(&self) -> Session {
        let endpoint = self.client_endpoint();
        let config = ClientConfig::pinned(identity(0).fingerprint());
        endpoint.connect_with(config, self.address(0), "").unwrap().await.unwrap()
    }

    pub(crate) fn client_endpoint(&self) -> Endpoint {
        self.client.endpoint(0, None, &QuicConfig::default()).unwrap()
    }

    /// Fetches the object, and checks each byte.
    pub(crate) async fn fetch(&self, session: &Session) -> Result<Reading, ReadError> {
        let (mut send, recv) = session.open_bi().await?;
        send.finish().unwrap();
        self.read(recv).await
    }

    async fn read(&self, mut recv: RecvStream) -> Result<Reading, ReadError> {
        let mut reading = Reading { began: self.sim.now(), ..Reading::new(self.sim.now()) };
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            let at = chunk.offset as usize;
            assert!(chunk.bytes == self.object[at..at + chunk.bytes.len()], "wrong bytes at {at}");
            reading.note(self.sim.now(), chunk.bytes.len() as u64);
        }
        assert_eq!(reading.bytes, self.object.len() as u64);
        Ok(reading)
    }
}

/// How a stream was read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) began: Instant,
    pub(crate) last: Instant,
    pub(crate) bytes: u64,
    /// The longest wait for a next byte after the first.
    pub(crate) longest_wait: Duration,
    /// When that ended.
    pub(crate) longest_at: Instant,
}

impl Reading {
    fn new(now: Instant) -> Self {
        let longest_wait = Duration::ZERO;
        Self { began: now, last: now, bytes: 0, longest_wait, longest_at: now }
    }

    fn note(&mut self, now: Instant, bytes: u64) {
        if self.bytes > 0 && now - self.last > self.longest_wait {
            self.longest_wait = now - self.last;
            self.longest_at = now;
        }
        self.last = now;
        self.bytes += bytes;
    }

    pub(crate) fn took(&self) -> Duration {
        self.last - self.began
    }
}

async fn fill(mut writer: LeaseWriter, object: Bytes) {
    while let Ok(Some(piece)) = writer.activated().await {
        let end = piece.end.min(piece.start + 65_536);
        let part = object.slice(piece.start as usize..end as usize);
        if writer.write_chunk(part).await.is_err() {
            return;
        }
    }
}

/// Waits for either; whether it was the first.
async fn either(one: impl Future, other: impl Future) -> bool {
    let mut one = std::pin::pin!(one);
    let mut other = std::pin::pin!(other);
    std::future::poll_fn(|cx| {
        if one.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(true);
        }
        other.as_mut().poll(cx).map(|_| false)
    })
    .await
}

/// What a task of a scenario leaves behind.
pub(crate) type Slot<T> = Arc<Mutex<Option<T>>>;
