//! Servers that lease an object to all of them, and clients that fetch it. Server 0 is the primary.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik::{
    Accepted, ClientConfig, Config, Identity, LeaseWriter, PathId, PathStatus, PrimarySession,
    QuicConfig, RecvStream, SecondarySession, SendStream, ServerConfig, Session, SessionStats,
    Uncovered,
};
use kwik_sim::{Host, Shape, Sim};

use crate::content::{check, content};
use crate::seeds::CONTROL;

const PORT: u16 = 4433;
/// There is one object.
const TAG: u64 = 1;
/// How long a client waits at most for its paths.
const JOIN_LIMIT: Duration = Duration::from_secs(60);

fn quic() -> QuicConfig {
    QuicConfig { congestion: *CONTROL, ..QuicConfig::default() }
}

/// A server's link. What leaves the server has its rate and its queue; each way has half of its
/// round trip, and its loss.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Bits a second.
    pub(crate) rate: u64,
    pub(crate) rtt: Duration,
    pub(crate) queue: Duration,
    /// Share of datagrams lost by chance.
    pub(crate) loss: f64,
}

impl Link {
    fn apply(self, host: &Host) {
        let way = Shape::default().delay(self.rtt / 2).loss(self.loss);
        host.link_down(way);
        host.link_up(way.rate(self.rate).queue(self.queue));
    }
}

/// How an object travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Leased to every server.
    Leased,
    /// Written by the primary to a stream without leases.
    Plain,
}

const REQUEST: usize = 9;

fn encode(kind: Kind, len: u64) -> Vec<u8> {
    [&[kind as u8], &len.to_be_bytes()[..]].concat()
}

fn decode(request: [u8; REQUEST]) -> (Kind, u64) {
    let kind = [Kind::Leased, Kind::Plain][usize::from(request[0])];
    (kind, u64::from_be_bytes(request[1..].try_into().unwrap()))
}

#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) sim: Sim,
    servers: Vec<Host>,
}

fn identity(server: usize) -> Arc<Identity> {
    Arc::new(Identity::from_seed([server as u8 + 100; 32]))
}

impl Network {
    pub(crate) fn new(seed: u64, links: &[Link]) -> Self {
        let sim = Sim::new(seed);
        let host = |server| sim.host(&format!("server {server}"));
        let servers: Vec<_> = (0..links.len()).map(host).collect();
        let network = Self { sim: sim.clone(), servers };
        for (server, link) in links.iter().enumerate() {
            link.apply(&network.servers[server]);
            network.clone().start(server);
        }
        network
    }

    fn address(&self, server: usize) -> SocketAddr {
        SocketAddr::new(self.servers[server].address(), PORT)
    }

    fn start(self, server: usize) {
        let trusted = BTreeSet::from([identity(0).fingerprint()]);
        let config = ServerConfig { trusted, ..ServerConfig::new(identity(server)) };
        let host = self.servers[server].clone();
        let endpoint = host.endpoint(PORT, Some(config), &quic()).unwrap();
        host.clone().spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (network, server) = (self.clone(), host.clone());
                host.spawn(async move {
                    match incoming.accept_any().await {
                        Ok(Accepted::Primary(session)) => network.serve(session).await,
                        Ok(Accepted::Secondary(session)) => fill_all(&server, &session).await,
                        Err(_) => {}
                    }
                });
            }
        });
    }

    /// Gives a client's session a path to an edge.
    async fn join(self, session: PrimarySession, edge: usize) {
        let key = identity(edge).fingerprint();
        while session.session().close_reason().is_none()
            && session.add_path(self.address(edge), key).await.is_err()
        {
            self.sim.sleep(Duration::from_secs(1)).await;
        }
    }

    async fn serve(self, session: PrimarySession) {
        let primary = &self.servers[0];
        for edge in 1..self.servers.len() {
            primary.spawn(self.clone().join(session.clone(), edge));
        }
        primary.spawn(cover(session.clone()));
        while let Ok((send, mut recv)) = session.session().accept_bi().await {
            let (session, host) = (session.clone(), primary.clone());
            primary.spawn(async move {
                let Some(request) = read_request(&mut recv).await else { return };
                drop(recv);
                match decode(request) {
                    (Kind::Plain, len) => write_all(send, len).await,
                    (Kind::Leased, len) => deliver(&host, &session, send, len).await,
                }
            });
        }
    }

    /// Dials from a host of its own.
    pub(crate) async fn client(&self) -> Client {
        let host = self.sim.host("client");
        let endpoint = host.endpoint(0, None, &quic()).unwrap();
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.settings = Config::default();
        let session = endpoint.connect_with(config, self.address(0), "").unwrap().await.unwrap();
        Client { network: self.clone(), host, session }
    }
}

/// Leases again what no server may bring any more.
async fn cover(session: PrimarySession) {
    let mut uncovered = session.uncovered();
    while let Ok(Uncovered { stream, ranges }) = uncovered.next().await {
        for path in session.active_paths().iter().filter(|path| path.id != PathId::PRIMARY) {
            for range in &ranges {
                session.lease(stream, range.clone(), path.id, Bytes::new()).ok();
            }
        }
    }
}

/// Leases an object to all servers, also to edges that come later.
async fn deliver(host: &Host, session: &PrimarySession, mut send: SendStream, len: u64) {
    let Ok(extent) = send.reserve(len) else { return };
    let stream = send.id();
    send.finish().ok();
    let Ok((_own, writer)) = session.lease_own(stream, extent.clone()) else { return };
    host.spawn(fill(writer));
    let mut leased = BTreeMap::new();
    let mut leases = Vec::new();
    let mut closed = std::pin::pin!(session.session().closed());
    loop {
        let changed = session.path_changed();
        for path in session.leasable_paths() {
            if path.id != PathId::PRIMARY
                && leased.insert(path.id, path.deaths) != Some(path.deaths)
            {
                leases.extend(session.lease(stream, extent.clone(), path.id, Bytes::new()));
            }
        }
        let mut changed = std::pin::pin!(changed);
        let over = std::future::poll_fn(|cx| {
            if closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            changed.as_mut().poll(cx).map(|()| false)
        });
        if over.await {
            return;
        }
    }
}

async fn read_request(recv: &mut RecvStream) -> Option<[u8; REQUEST]> {
    let mut request = [0; REQUEST];
    let mut read = 0;
    while read < REQUEST {
        read += recv.read(&mut request[read..]).await.ok()??;
    }
    Some(request)
}

async fn write_all(mut send: SendStream, len: u64) {
    let mut at = 0;
    while at < len {
        let part = content(TAG, at, (len - at).min(20_000));
        at += part.len() as u64;
        if send.write_chunk(part).await.is_err() {
            return;
        }
    }
    send.finish().ok();
}

async fn fill_all(host: &Host, session: &SecondarySession) {
    while let Ok(writer) = session.accept_lease().await {
        host.spawn(fill(writer));
    }
}

async fn fill(mut writer: LeaseWriter) {
    while let Ok(Some(piece)) = writer.activated().await {
        let part = content(TAG, piece.start, piece.end - piece.start);
        if writer.write_chunk(part).await.is_err() {
            return;
        }
    }
}

/// A client and its session.
#[derive(Clone)]
pub(crate) struct Client {
    network: Network,
    pub(crate) host: Host,
    session: Session,
}

impl Client {
    /// Waits until every server has an ACTIVE path.
    pub(crate) async fn joined(&self) {
        let sim = &self.network.sim;
        let limit = sim.elapsed() + JOIN_LIMIT;
        let active = |stats: SessionStats| {
            let active = |status| status == PathStatus::Active;
            stats.paths.iter().filter(|path| active(path.status)).count()
        };
        while active(self.session.stats()) < self.network.servers.len() {
            assert!(sim.elapsed() < limit, "edges do not join: {:#?}", self.session.stats());
            sim.sleep(Duration::from_millis(5)).await;
        }
    }

    /// Fetches the object's first `len` bytes and checks each of them.
    pub(crate) async fn fetch(&self, kind: Kind, len: u64) -> Reading {
        let now = || self.network.sim.now();
        let mut reading = Reading::new(now());
        let (mut send, mut recv) = self.session.open_bi().await.unwrap();
        send.write_all(&encode(kind, len)).await.unwrap();
        send.finish().unwrap();
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
            assert_eq!(chunk.offset, reading.bytes, "bytes in order, once");
            check(TAG, chunk.offset, &chunk.bytes);
            reading.note(now(), chunk.bytes.len() as u64, len);
            if reading.bytes == len {
                // Once its end is read, the session forgets the stream.
                reading.stats = self.session.stats();
            }
        }
        reading.last = now();
        assert_eq!(reading.bytes, len, "the whole object, and no more");
        reading
    }

    /// Moves kept to their budget, and what came twice was charged.
    pub(crate) fn close(&self) {
        let SessionStats { duplicates, pieces, resumptions, .. } = self.session.stats();
        let charged = duplicates.moved + duplicates.reclaimed + duplicates.unasked;
        // What a connection that broke had brought comes again on the next, charged to nobody.
        let exact = pieces == 0 && resumptions == 0;
        assert!(duplicates.moved <= duplicates.budget, "{duplicates:?}");
        assert!(!exact || duplicates.received <= charged, "{duplicates:?}");
        self.session.close(0, b"");
    }
}

/// How an object was read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) began: Instant,
    pub(crate) last: Instant,
    pub(crate) bytes: u64,
    /// When the first byte came.
    pub(crate) first: Option<Instant>,
    /// When half of it was there, and how many bytes that were.
    pub(crate) half: Option<(Instant, u64)>,
    /// The same of 95 %.
    pub(crate) tail: Option<(Instant, u64)>,
    /// The session when all bytes were there.
    pub(crate) stats: SessionStats,
}

impl Reading {
    fn new(now: Instant) -> Self {
        let stats = SessionStats::default();
        Self { began: now, last: now, bytes: 0, first: None, half: None, tail: None, stats }
    }

    fn note(&mut self, now: Instant, bytes: u64, len: u64) {
        self.bytes += bytes;
        self.first.get_or_insert(now);
        if self.bytes * 2 >= len {
            self.half.get_or_insert((now, self.bytes));
        }
        if self.bytes * 20 >= len * 19 {
            self.tail.get_or_insert((now, self.bytes));
        }
        self.last = now;
    }

    /// In seconds.
    pub(crate) fn took(&self) -> f64 {
        (self.last - self.began).as_secs_f64()
    }

    /// Seconds until the first byte.
    pub(crate) fn first_after(&self) -> f64 {
        (self.first.unwrap_or(self.last) - self.began).as_secs_f64()
    }

    /// Bytes a second since such a mark.
    pub(crate) fn rate_since(&self, mark: Option<(Instant, u64)>) -> f64 {
        let (at, bytes) = mark.unwrap_or((self.began, 0));
        (self.bytes - bytes) as f64 / (self.last - at).as_secs_f64().max(1e-6)
    }
}
