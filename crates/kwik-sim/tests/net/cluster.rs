//! The servers' and the client's applications. Server 0 is the primary.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik::{
    Accepted, ClientConfig, Config, ConnectionError, Identity, LeaseWriter, PathEvent, PathId,
    PathInfo, PathStatus, PrimarySession, QuicConfig, ReadError, RecvStream, SecondarySession,
    SendStream, ServerConfig, Session, SessionStats, StreamId, StreamStats, Uncovered, WriteError,
};
use kwik_sim::{Host, Sim};

use crate::content::{check, content};
use crate::hostile::{self, Crime, misuse};

const PORT: u16 = 4433;

/// How long a stream waits to be leased for the first time, where an edge is hostile: its paths may
/// wait for the primary's link, which is cut for 29 s at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the hostile edge is leased what is missing of a stream.
pub(crate) const MOST_LEASES: u32 = 3;

/// How the bytes of a fetch travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Leased to every server.
    Leased,
    /// Leased to the edges alone.
    LeasedToEdges,
    /// Written by the primary.
    Plain,
    /// From the client to the primary, which says what it got.
    Upload,
}

/// What the client asks for on a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) tag: u64,
    pub(crate) len: u64,
}

impl Request {
    const LEN: usize = 17;

    fn encode(self) -> Vec<u8> {
        let (tag, len) = (self.tag.to_be_bytes(), self.len.to_be_bytes());
        [&[self.kind as u8], &tag[..], &len[..]].concat()
    }

    fn decode(bytes: &[u8]) -> Self {
        let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let kinds = [Kind::Leased, Kind::LeasedToEdges, Kind::Plain, Kind::Upload];
        Self { kind: kinds[bytes[0] as usize], tag: number(1), len: number(9) }
    }
}

/// Why a fetch failed: always typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FetchError {
    Dial(String),
    Read(ReadError),
    Write(WriteError),
    Lost(ConnectionError),
}

macro_rules! from {
    ($($from:ident => $to:ident),*) => { $(
        impl From<$from> for FetchError {
            fn from(error: $from) -> Self {
                Self::$to(error)
            }
        }
    )* };
}
from!(ReadError => Read, WriteError => Write, ConnectionError => Lost);

#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) sim: Sim,
    pub(crate) servers: Vec<Host>,
    pub(crate) client: Host,
    /// The primary's side of the session, for those who change its paths.
    primary: Arc<Mutex<Option<PrimarySession>>>,
    /// The path that leads to each edge.
    paths: Arc<Mutex<BTreeMap<usize, PathId>>>,
    /// How often each edge was to join or to leave.
    turns: Arc<Mutex<BTreeMap<usize, u32>>>,
    /// What is on each stream.
    tags: Arc<Mutex<BTreeMap<StreamId, u64>>>,
    /// The edge that does not serve, and what it does instead.
    hostile: Option<(usize, Crime)>,
    /// After which silence QUIC ends a connection.
    idle: Duration,
    /// How often it was leased a stream.
    leased: Arc<Mutex<BTreeMap<StreamId, u32>>>,
    /// What happened to paths, as the primary heard of it.
    pub(crate) events: Arc<Mutex<Vec<PathEvent>>>,
}

pub(crate) fn identity(server: usize) -> Arc<Identity> {
    Arc::new(Identity::from_seed([server as u8 + 100; 32]))
}

impl Cluster {
    pub(crate) fn new(sim: &Sim, servers: usize) -> Self {
        let name = |server: usize| format!("server {server}");
        Self {
            sim: sim.clone(),
            client: sim.host("client"),
            servers: (0..servers).map(|server| sim.host(&name(server))).collect(),
            primary: Arc::default(),
            paths: Arc::default(),
            turns: Arc::default(),
            tags: Arc::default(),
            hostile: None,
            idle: QuicConfig::default().idle_timeout,
            leased: Arc::default(),
            events: Arc::default(),
        }
    }

    /// One of its edges is hostile.
    pub(crate) fn with_hostile(self, hostile: Option<(usize, Crime)>) -> Self {
        Self { hostile, ..self }
    }

    /// QUIC ends its connections after such a silence.
    pub(crate) fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    fn quic(&self) -> QuicConfig {
        QuicConfig { idle_timeout: self.idle, ..QuicConfig::default() }
    }

    pub(crate) fn address(&self, server: usize) -> SocketAddr {
        SocketAddr::new(self.servers[server].address(), PORT)
    }

    /// Starts a server, again if it has crashed.
    pub(crate) fn start(&self, server: usize) {
        let crime = self.hostile.filter(|(edge, _)| *edge == server).map(|(_, crime)| crime);
        if let Some(crime) = crime.filter(|crime| !crime.is_tame()) {
            hostile::serve(&self.sim, &self.servers[server], PORT, &identity(server), crime);
            return;
        }
        let trusted = BTreeSet::from([identity(0).fingerprint()]);
        let config = ServerConfig { trusted, ..ServerConfig::new(identity(server)) };
        let endpoint = self.servers[server].endpoint(PORT, Some(config), &self.quic());
        let (cluster, endpoint) = (self.clone(), endpoint.unwrap());
        let host = self.servers[server].clone();
        host.clone().spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let (cluster, server) = (cluster.clone(), host.clone());
                host.spawn(async move {
                    match incoming.accept_any().await {
                        Ok(Accepted::Primary(session)) => cluster.serve(&session).await,
                        Ok(Accepted::Secondary(session)) => match crime {
                            Some(crime) => misuse(&cluster.sim, &server, &session, crime).await,
                            None => fill_all(&server, &session).await,
                        },
                        Err(_) => {}
                    }
                });
            }
        });
    }

    /// The primary's side of the session.
    pub(crate) fn primary_stats(&self) -> Option<SessionStats> {
        self.primary.lock().unwrap().as_ref().map(|primary| primary.session().stats())
    }

    pub(crate) fn primary_session(&self) -> Option<PrimarySession> {
        self.primary.lock().unwrap().clone()
    }

    pub(crate) fn primary_streams(&self) -> Vec<StreamStats> {
        let primary = self.primary.lock().unwrap();
        primary.as_ref().map(|primary| primary.session().stream_stats()).unwrap_or_default()
    }

    /// Another word on an edge: what was to be before is not any more.
    fn turn(&self, edge: usize) -> u32 {
        let mut turns = self.turns.lock().unwrap();
        let turn = turns.entry(edge).or_default();
        *turn += 1;
        *turn
    }

    fn is_turn(&self, edge: usize, turn: u32) -> bool {
        self.turns.lock().unwrap().get(&edge) == Some(&turn)
    }

    /// Gives the client's session a path to an edge, unless it has one.
    pub(crate) fn join(&self, edge: usize) {
        let Some(session) = self.primary.lock().unwrap().clone() else { return };
        if self.paths.lock().unwrap().contains_key(&edge) {
            return;
        }
        let (cluster, turn) = (self.clone(), self.turn(edge));
        self.servers[0].spawn(async move {
            let key = identity(edge).fingerprint();
            while session.session().close_reason().is_none() && cluster.is_turn(edge, turn) {
                match session.add_path(cluster.address(edge), key).await {
                    Ok(path) if cluster.is_turn(edge, turn) => {
                        cluster.paths.lock().unwrap().insert(edge, path);
                        return;
                    }
                    Ok(path) => drop(session.remove_path(path).await),
                    Err(_) => cluster.sim.sleep(Duration::from_secs(1)).await,
                }
            }
        });
    }

    /// The states that a path has had.
    pub(crate) fn states(&self, path: PathId) -> Vec<PathStatus> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event.path == path).map(|event| event.status).collect()
    }

    /// Takes it away.
    pub(crate) fn leave(&self, edge: usize) {
        self.turn(edge);
        let path = self.paths.lock().unwrap().remove(&edge);
        let session = self.primary.lock().unwrap().clone();
        let (Some(path), Some(session)) = (path, session) else { return };
        self.servers[0].spawn(async move {
            session.remove_path(path).await.ok();
        });
    }

    async fn serve(&self, session: &PrimarySession) {
        let (mut events, log) = (session.path_events(), self.events.clone());
        self.servers[0].spawn(async move {
            while let Ok(event) = events.next().await {
                log.lock().unwrap().push(event);
            }
        });
        self.primary.lock().unwrap().replace(session.clone());
        (1..self.servers.len()).for_each(|edge| self.join(edge));
        self.servers[0].spawn(self.clone().cover(session.clone()));
        while let Ok((send, mut recv)) = session.session().accept_bi().await {
            let (session, cluster) = (session.clone(), self.clone());
            self.servers[0].spawn(async move {
                let mut request = [0; Request::LEN];
                if read_exact(&mut recv, &mut request).await.is_err() {
                    return;
                }
                // What fails here, the client's side tells.
                match Request::decode(&request) {
                    Request { kind: Kind::Plain, tag, len } => {
                        write_all(send, tag, len).await.ok();
                    }
                    Request { kind: Kind::Upload, tag, len } => {
                        receive(send, recv, tag, len).await.ok();
                    }
                    request => {
                        // Its end may come after what was read, and nobody looks any more.
                        drop(recv);
                        cluster.deliver(&session, send, request).await;
                    }
                }
            });
        }
    }

    /// The hostile edge gets few leases of a stream: it would keep those waiting that nobody else
    /// is leased to.
    fn may_lease(&self, stream: StreamId, path: &PathInfo) -> bool {
        let edge = self.hostile.map(|(edge, _)| self.address(edge).to_string());
        edge.is_none_or(|edge| edge != path.address) || {
            let mut leased = self.leased.lock().unwrap();
            let times = leased.entry(stream).or_default();
            *times += 1;
            *times <= MOST_LEASES
        }
    }

    /// Leases again what no server may bring any more.
    async fn cover(self, session: PrimarySession) {
        let mut uncovered = session.uncovered();
        while let Ok(Uncovered { stream, ranges }) = uncovered.next().await {
            let Some(tag) = self.tags.lock().unwrap().get(&stream).copied() else { continue };
            for path in session.active_paths().iter().filter(|path| path.id != PathId::PRIMARY) {
                if !self.may_lease(stream, path) {
                    continue;
                }
                for range in &ranges {
                    let command = Bytes::copy_from_slice(&tag.to_be_bytes());
                    session.lease(stream, range.clone(), path.id, command).ok();
                }
            }
        }
    }

    /// Leases an object, also to edges that come later.
    async fn deliver(&self, session: &PrimarySession, mut send: SendStream, request: Request) {
        let Ok(extent) = send.reserve(request.len) else { return };
        let stream = send.id();
        self.tags.lock().unwrap().insert(stream, request.tag);
        // Nothing but a reset ends a stream that was never leased.
        let alone =
            request.kind == Kind::LeasedToEdges && self.hostile.is_some() && request.len > 0;
        if !alone {
            send.finish().ok();
        }
        if request.kind == Kind::Leased {
            let Ok((_own, writer)) = session.lease_own(stream, extent.clone()) else { return };
            self.servers[0].spawn(fill(writer, request.tag));
        }
        let mut leased = BTreeMap::new();
        let mut leases = Vec::new();
        let mut closed = std::pin::pin!(session.session().closed());
        let mut patience = std::pin::pin!(self.sim.sleep(PATIENCE));
        let mut waited = !alone;
        loop {
            let changed = session.path_changed();
            for path in session.all_paths() {
                let carries = matches!(path.status, PathStatus::Active | PathStatus::Degraded);
                let usable = carries && path.id != PathId::PRIMARY;
                if usable
                    && leased.insert(path.id, path.deaths) != Some(path.deaths)
                    && self.may_lease(stream, &path)
                {
                    let command = Bytes::copy_from_slice(&request.tag.to_be_bytes());
                    leases.extend(session.lease(stream, extent.clone(), path.id, command));
                }
            }
            if alone && !leases.is_empty() {
                send.finish().ok();
            }
            let mut changed = std::pin::pin!(changed);
            let over = std::future::poll_fn(|cx| {
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(true);
                }
                if !waited && patience.as_mut().poll(cx).is_ready() {
                    waited = true;
                    if leases.is_empty() {
                        send.reset(1).ok();
                        return Poll::Ready(true);
                    }
                }
                changed.as_mut().poll(cx).map(|()| false)
            });
            if over.await {
                return;
            }
        }
    }

    /// Dials from the client's host.
    pub(crate) async fn connect(&self, settings: Config) -> Result<Session, FetchError> {
        let endpoint = self.client.endpoint(0, None, &self.quic()).unwrap();
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.settings = settings;
        let dialed = endpoint.connect_with(config, self.address(0), "").unwrap().await;
        dialed.map_err(|error| FetchError::Dial(error.to_string()))
    }

    /// Fetches an object and checks each byte. The reader pauses after each `pace` bytes.
    pub(crate) async fn fetch(
        &self,
        session: &Session,
        request: Request,
        pace: Option<(u64, Duration)>,
    ) -> Result<Reading, FetchError> {
        let (mut send, mut recv) = session.open_bi().await?;
        send.write_all(&request.encode()).await?;
        let mut reading = Reading::new(self.sim.now());
        if request.kind == Kind::Upload {
            write_all(send, request.tag, request.len).await?;
            let mut answer = [0; 8];
            read_exact(&mut recv, &mut answer).await?;
            reading.bytes = u64::from_be_bytes(answer);
        } else {
            send.finish().unwrap();
            let mut until_pause = pace.map_or(u64::MAX, |(bytes, _)| bytes);
            while let Some(chunk) = recv.read_chunk(until_pause as usize, true).await? {
                assert_eq!(chunk.offset, reading.bytes, "bytes in order, once");
                check(request.tag, chunk.offset, &chunk.bytes);
                reading.note(self.sim.now(), chunk.bytes.len() as u64);
                until_pause -= chunk.bytes.len() as u64;
                if let Some((bytes, pause)) = pace.filter(|_| until_pause == 0) {
                    until_pause = bytes;
                    self.sim.sleep(pause).await;
                    reading.last = self.sim.now();
                }
            }
        }
        reading.last = self.sim.now();
        assert_eq!(reading.bytes, request.len, "the whole object, and no more");
        Ok(reading)
    }
}

/// How a stream was read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) began: Instant,
    pub(crate) last: Instant,
    pub(crate) bytes: u64,
    /// Waits of more than 20 ms for a next byte: when they ended, and how long they were.
    pub(crate) waits: Vec<(Instant, Duration)>,
}

impl Reading {
    fn new(now: Instant) -> Self {
        Self { began: now, last: now, bytes: 0, waits: Vec::new() }
    }

    fn note(&mut self, now: Instant, bytes: u64) {
        let waited = now - self.last;
        if self.bytes > 0 && waited > Duration::from_millis(20) {
            self.waits.push((now, waited));
        }
        self.last = now;
        self.bytes += bytes;
    }

    pub(crate) fn took(&self) -> Duration {
        self.last - self.began
    }

    /// The longest wait, and when it ended since reading began.
    pub(crate) fn longest_wait(&self) -> (Duration, Duration) {
        let longest = self.waits.iter().max_by_key(|(_, wait)| *wait);
        longest.map_or_else(Default::default, |(at, wait)| (*wait, *at - self.began))
    }
}

async fn read_exact(recv: &mut RecvStream, mut out: &mut [u8]) -> Result<(), ReadError> {
    while !out.is_empty() {
        let Some(read) = recv.read(out).await? else { return Err(ReadError::ClosedStream) };
        out = &mut out[read..];
    }
    Ok(())
}

async fn write_all(mut send: SendStream, tag: u64, len: u64) -> Result<(), WriteError> {
    let mut at = 0;
    while at < len {
        let part = content(tag, at, (len - at).min(20_000));
        at += part.len() as u64;
        send.write_chunk(part).await?;
    }
    send.finish().ok();
    Ok(())
}

/// Takes an upload, and answers with its length.
async fn receive(
    mut send: SendStream,
    mut recv: RecvStream,
    tag: u64,
    len: u64,
) -> Result<(), FetchError> {
    let mut got = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        check(tag, got, &chunk.bytes);
        got += chunk.bytes.len() as u64;
    }
    assert_eq!(got, len);
    send.write_all(&got.to_be_bytes()).await?;
    Ok(())
}

async fn fill_all(host: &Host, session: &SecondarySession) {
    while let Ok(writer) = session.accept_lease().await {
        let tag = u64::from_be_bytes(writer.command()[..].try_into().unwrap());
        host.spawn(fill(writer, tag));
    }
}

async fn fill(mut writer: LeaseWriter, tag: u64) {
    while let Ok(Some(piece)) = writer.activated().await {
        let part = content(tag, piece.start, piece.end - piece.start);
        if writer.write_chunk(part).await.is_err() {
            return;
        }
    }
}
