//! The three roles joined by pipes, in virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use kwik_proto::ack::{KeptFrames, Lane, SharedSent};
use kwik_proto::session::{Action, ClientSession, Machine, Wake};
use kwik_proto::stream::{ReceivedBytes, StreamWake};
use kwik_proto::wire::{PacketEncoder, PacketFrame};
use kwik_proto::{Config, Dir, PathId, Side, StreamId};

use crate::checks::Coverage;
use crate::client::{ClientApp, session_config};
use crate::edge::Edge;
use crate::pipe::{Chunk, Link, Pipe, Sink, Toward};
use crate::resume::Home;
use crate::rng::Rng;
use crate::scenario::{Fault, Plan};
use crate::server::Primary;

/// What happens at a time.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// The next chunk of a pipe arrives.
    Deliver(u32),
    /// The writer of a pipe may go on.
    Pump(u32),
    /// A dialed connection stands.
    Connected(PathId),
    /// A connection's end reaches the edge.
    Hangup(PathId),
    /// A connection that is cut times out.
    Idle(PathId),
    /// The client's byte path tells its session what came.
    Heard(PathId, StreamId, ReceivedBytes),
    /// A reader looks.
    Read(Side, StreamId),
    /// The application opens the n-th stream of the plan.
    Open(usize),
    /// The primary's application leases a range.
    Lease(StreamId, std::ops::Range<u64>),
    /// Another connection to the primary stands.
    Redialed,
    /// What the client says on it first reaches the primary.
    Resuming(u8, Bytes),
    /// Something goes wrong.
    Fault(Fault),
}

/// What joins the roles.
#[derive(Default)]
pub(crate) struct Net {
    pub(crate) links: BTreeMap<PathId, Link>,
    pub(crate) pipes: BTreeMap<u32, Pipe>,
    next_pipe: u32,
    control: BTreeMap<(PathId, Toward), u32>,
    raw: BTreeMap<PathId, u32>,
    pumping: BTreeSet<u32>,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) trace: bool,
    pub(crate) started: Instant,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    pub(crate) client: ClientApp,
    pub(crate) primary: Primary,
    pub(crate) edges: BTreeMap<PathId, Edge>,
    pub(crate) net: Net,
    pub(crate) home: Home,
    pub(crate) plan: Plan,
    /// The session is over.
    pub(crate) closed: bool,
    pub(crate) covered: Coverage,
}

/// One instant to count from: time itself never passes here.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "an instant to count from")]
    let now = || Instant::now() + Duration::from_secs(1);
    *EPOCH.get_or_init(now)
}

/// What a stream carries from `side` at `range`.
pub(crate) fn content(id: StreamId, side: Side, range: std::ops::Range<u64>) -> Bytes {
    static PATTERN: OnceLock<Bytes> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        let mut rng = Rng::new(1);
        (0..1 << 19).flat_map(|_| rng.next().to_le_bytes()).collect::<Vec<_>>().into()
    });
    let salt = (id.as_u64() * 7919 + side as u64 * 104_729) % 65_536;
    let at = |offset| usize::try_from(salt + offset).unwrap();
    pattern.slice(at(range.start)..at(range.end))
}

impl World {
    /// Random windows and links.
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let configs = [session_config(&mut rng), session_config(&mut rng)];
        let link = Link::random(&mut rng, epoch());
        Self::with(seed, trace, rng, configs, link)
    }

    /// A primary at hand, and a client with this window.
    pub(crate) fn steady(settings: Config) -> Self {
        let link = Link::steady(Duration::from_millis(10), 10_000_000, epoch());
        Self::with(0, false, Rng::new(0), [settings, Config::default()], link)
    }

    fn with(seed: u64, trace: bool, rng: Rng, configs: [Config; 2], link: Link) -> Self {
        let now = epoch();
        let [ours, theirs] = configs;
        let client = ClientApp::new(ours, now);
        let primary = Primary::new(theirs);
        let mut world = Self {
            seed,
            trace,
            started: now,
            now,
            rng,
            events: BTreeMap::new(),
            sequence: 0,
            client,
            primary,
            edges: BTreeMap::new(),
            net: Net::default(),
            home: Home::default(),
            plan: Plan::default(),
            closed: false,
            covered: Coverage::default(),
        };
        world.add_link(PathId::PRIMARY, link);
        world.settle();
        world
    }

    pub(crate) fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + (self.now - self.started)
    }

    pub(crate) fn log(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {}", (self.now - self.started).as_secs_f64(), what());
        }
    }

    pub(crate) fn fail(&self, why: &str) -> ! {
        panic!("seed {} at {:?}: {why}", self.seed, self.now - self.started);
    }

    pub(crate) fn schedule(&mut self, due: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert((due.max(self.now), self.sequence), event);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.schedule(self.now + delay, event);
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn add_link(&mut self, path: PathId, link: Link) {
        self.net.links.insert(path, link);
        for toward in [Toward::Client, Toward::Server] {
            let pipe = self.add_pipe(path, toward, Sink::control());
            self.net.control.insert((path, toward), pipe);
        }
        let raw = self.add_pipe(path, Toward::Server, Sink::Raw(VecDeque::new()));
        self.net.raw.insert(path, raw);
    }

    pub(crate) fn add_pipe(&mut self, path: PathId, toward: Toward, sink: Sink) -> u32 {
        self.net.next_pipe += 1;
        self.net.pipes.insert(self.net.next_pipe, Pipe::new(path, toward, sink, self.now));
        self.net.next_pipe
    }

    pub(crate) fn remove_link(&mut self, path: PathId) {
        self.net.links.remove(&path);
        self.net.pipes.retain(|_, pipe| pipe.path != path);
        self.net.control.retain(|(owner, _), _| *owner != path);
    }

    /// Writes to a pipe; nothing happens when its connection is gone.
    pub(crate) fn send(&mut self, id: u32, head: Bytes, body: Bytes) {
        let Some(pipe) = self.net.pipes.get_mut(&id) else { return };
        let Some(link) = self.net.links.get_mut(&pipe.path) else { return };
        if pipe.path.is_primary() && self.home.is_closed(pipe.toward) {
            return;
        }
        let len = head.len() + body.len();
        let due = link.send(len, pipe.toward, &mut self.rng, self.now).max(pipe.last_due);
        pipe.last_due = due;
        pipe.chunks.push_back(Chunk { head, body });
        self.schedule(due, Event::Deliver(id));
    }

    pub(crate) fn send_control(&mut self, path: PathId, toward: Toward, bytes: Bytes) {
        if let Some(pipe) = self.net.control.get(&(path, toward)) {
            self.send(*pipe, bytes, Bytes::new());
        }
    }

    /// The packets that one end of a path has sent.
    pub(crate) fn sent(&self, path: PathId, toward: Toward) -> Option<SharedSent> {
        match (toward, path.is_primary()) {
            (Toward::Server, _) => Some(self.client.session.sent()),
            (Toward::Client, true) => self.primary.session.as_ref().map(|session| session.sent()),
            (Toward::Client, false) => {
                self.edges.get(&path)?.session.as_ref().map(|session| session.sent())
            }
        }
    }

    /// Writes one frame of a stream.
    pub(crate) fn send_frame(
        &mut self,
        id: u32,
        stream: StreamId,
        at: u64,
        body: Bytes,
        fin: bool,
    ) {
        self.log(|| format!("frame {stream} {at}+{} fin {fin} on pipe {id}", body.len()));
        let Some(pipe) = self.net.pipes.get(&id) else { return };
        let (path, toward) = (pipe.path, pipe.toward);
        let Some(sent) = self.sent(path, toward) else { return };
        let leased = toward == Toward::Client
            && (!path.is_primary() || self.primary.leases.contains_key(&id));
        let frame = PacketFrame { stream_id: stream.as_u64(), offset: at, payload: body, fin };
        let mut kept = KeptFrames::default();
        if !leased {
            kept.plain.push(frame.clone());
        } else if path.is_primary() {
            kept.leased.push(frame.clone());
        }
        let lane = Lane(id.into());
        let packet = sent.lock().unwrap().on_sent(frame.payload.len() as u64, kept, lane);
        let options = sent.lock().unwrap().options();
        let mut chunks = Vec::new();
        PacketEncoder::new().encode(packet, &[frame], options, &mut chunks);
        let mut chunks = chunks.into_iter();
        let head = chunks.next().unwrap_or_default();
        let body = chunks.next().unwrap_or_default();
        assert_eq!(chunks.next(), None, "one frame without a checksum");
        self.send(id, head, body);
    }

    pub(crate) fn pump(&mut self, pipe: u32, delay: Duration) {
        if self.net.pumping.insert(pipe) {
            self.after(delay, Event::Pump(pipe));
        }
    }

    /// Does the next thing that is due before `deadline`. False when there is none.
    pub(crate) fn step(&mut self, deadline: Instant) -> bool {
        let event = self.events.first_key_value().map(|((due, _), _)| *due);
        let primary = self.primary.session.as_ref().and_then(|session| session.poll_timeout());
        let timeout = self.client.session.poll_timeout().into_iter().chain(primary).min();
        let next = event.into_iter().chain(timeout).min();
        let Some(next) = next.filter(|next| *next <= deadline) else { return false };
        self.now = self.now.max(next);
        if event.is_some_and(|due| due <= self.now) {
            let (_, event) = self.events.pop_first().unwrap();
            self.handle(event);
        } else {
            self.client.session.handle_timeout(self.now);
            if let Some(session) = &mut self.primary.session {
                session.handle_timeout(self.now);
            }
        }
        self.settle();
        self.check_credit();
        true
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver(pipe) => self.deliver(pipe),
            Event::Pump(pipe) => {
                self.net.pumping.remove(&pipe);
                self.on_pump(pipe);
            }
            Event::Connected(path) => self.on_connected(path),
            Event::Hangup(path) => self.hang_up(path),
            Event::Idle(path) => {
                if self.net.links.get(&path).is_some_and(|link| link.cut) {
                    self.lose(path);
                }
            }
            Event::Heard(path, stream, bytes) => {
                self.client.session.on_received(path, stream, bytes, self.now);
            }
            Event::Read(Side::Client, stream) => self.client_reads(stream),
            Event::Read(Side::Server, stream) => self.server_reads(stream),
            Event::Redialed => self.on_redialed(),
            Event::Resuming(made, first) => self.on_resuming(made, first),
            Event::Open(index) => self.open(index),
            Event::Lease(stream, range) => self.lease_somewhere(stream, range),
            Event::Fault(fault) => self.on_fault(fault),
        }
    }

    /// A connection has ended for its edge, which is forgotten when its path has ended too.
    fn hang_up(&mut self, path: PathId) {
        let now = self.now;
        if let Some(edge) = self.edges.get_mut(&path) {
            edge.hang_up(now);
        }
        if self.session().paths().iter().any(|info| info.id == path && info.ended) {
            self.edges.remove(&path);
        }
    }

    /// A connection breaks, and both ends know.
    pub(crate) fn lose(&mut self, path: PathId) {
        let now = self.now;
        self.remove_link(path);
        self.session().handle_path_lost(path, "broken", now);
        self.hang_up(path);
    }

    fn on_pump(&mut self, id: u32) {
        let Some(pipe) = self.net.pipes.get(&id) else { return };
        let (path, toward) = (pipe.path, pipe.toward);
        let Some(link) = self.net.links.get(&path) else { return };
        let ready = link.ready(toward);
        let sent = self.sent(path, toward);
        if sent.is_some_and(|sent| !sent.lock().unwrap().has_room()) {
            self.covered.count("too much unacknowledged");
            self.pump(id, Duration::from_millis(5));
        } else if ready > self.now {
            self.pump(id, ready - self.now);
        } else if toward == Toward::Server {
            self.client_writes(id);
        } else if path.is_primary() {
            self.server_writes(id);
        } else {
            self.edge_writes(path, id);
        }
    }

    /// Takes all outputs of all machines.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            while let Some((path, bytes)) = self.client.session.poll_transmit(self.now) {
                quiet = false;
                self.send_control(path, Toward::Server, bytes);
            }
            while let Some(action) = self.client.session.poll_action() {
                quiet = false;
                self.on_client_action(action);
            }
            quiet &= !self.settle_primary();
            quiet &= !self.settle_edges();
            if quiet {
                return;
            }
        }
    }

    fn on_client_action(&mut self, action: Action) {
        match action {
            Action::Dial(dial) => self.dial(&dial),
            Action::Redial(within) => self.redial(within),
            Action::ForwardRaw(path, packet) => {
                self.client.session.on_raw_forwarded(path, packet.sequence, Ok(()), self.now);
                let Some(id) = self.net.raw.get(&path).copied() else { return };
                if let Some(Pipe { sink: Sink::Raw(packets), .. }) = self.net.pipes.get_mut(&id) {
                    packets.push_back(*packet);
                }
                self.send(id, Bytes::new(), Bytes::new());
            }
            Action::ClosePath(path, error) => {
                self.log(|| format!("the client closes path {path}: {error}"));
                self.check_path_close(path, &error);
                if self.net.links.contains_key(&path) {
                    self.remove_link(path);
                    let delay = self.rng.millis(0..=50);
                    self.after(delay, Event::Hangup(path));
                }
            }
            Action::Close(code, reason) | Action::ClosedByPeer(code, reason) => {
                self.closed = true;
                if !self.plan.session_may_end {
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    self.fail(&format!("the client ended the session: {code:#x} {reason}"));
                }
            }
            Action::Wake(Wake::Stream(wake)) => self.wake_client(wake),
            Action::Gap(gap) => self.log(|| format!("gap {gap:?}")),
            Action::Wake(_) | Action::Event(_) => {}
            Action::RenewGrant(_) => self.fail("a client grants nothing"),
        }
    }

    fn wake_client(&mut self, wake: StreamWake) {
        match wake {
            StreamWake::Readable(id) => self.after(Duration::ZERO, Event::Read(Side::Client, id)),
            StreamWake::Writable(id) => {
                if let Some(pipe) = self.client.pipes.get(&id) {
                    self.pump(*pipe, Duration::ZERO);
                }
            }
            StreamWake::Acceptable(dir) => self.client_accepts(dir),
            StreamWake::Openable(_) => {}
        }
    }

    fn client_accepts(&mut self, dir: Dir) {
        while let Some(halves) = self.client.session.streams_mut().accept(dir) {
            self.start_client_reader(&halves);
        }
    }

    pub(crate) fn session(&mut self) -> &mut ClientSession {
        &mut self.client.session
    }
}
