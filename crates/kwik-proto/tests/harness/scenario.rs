//! What a world is made to do: streams, faults, and what may come of them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kwik_proto::{PathId, StreamId};

use crate::checks::Coverage;
use crate::rng::Rng;
use crate::world::{Event, World};

/// Rounds of one world: its handshakes serve several scenarios.
pub(crate) const ROUNDS: u64 = 4;

/// QUIC's, of connections on which nothing is heard.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// A part of what the primary writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Segment {
    Plain(u64),
    /// Reserved, for leases to fill.
    Extent(u64),
    Reset,
}

/// In which order the client's application reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Each stream from its start.
    Ordered,
    /// Any chunk that is here.
    Unordered,
    /// Not before all later streams of this kind have ended.
    LastFirst,
    /// Not at all: it is stopped once all others have ended.
    Never,
}

/// One stream's plan, and what may become of it.
#[derive(Debug, Clone)]
pub(crate) struct StreamPlan {
    /// The client opens it and sends `size` bytes first.
    pub(crate) bidi: bool,
    pub(crate) size: u64,
    pub(crate) client_reset_at: Option<u64>,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) stop_at: Option<u64>,
    pub(crate) sloth: u64,
    pub(crate) order: Order,
    /// The application does not lease again what was lost.
    pub(crate) may_starve: bool,
}

impl StreamPlan {
    fn random(rng: &mut Rng, hard: bool) -> Self {
        let total = rng.len(300_000);
        let mut segments = VecDeque::new();
        let mut left = total;
        while left > 0 && segments.len() < 5 {
            let len = if rng.chance(60) { left } else { 1 + rng.below(left) };
            left -= len;
            let plain = rng.chance(25);
            segments.push_back(if plain { Segment::Plain(len) } else { Segment::Extent(len) });
        }
        if rng.chance(8) {
            segments.truncate(rng.index(segments.len() + 1));
            segments.push_back(Segment::Reset);
        }
        let size = rng.len(60_000);
        Self {
            bidi: rng.chance(30),
            size,
            client_reset_at: rng.chance(5).then(|| rng.below(size + 1)),
            segments,
            stop_at: rng.chance(8).then(|| rng.below(total + 1)),
            sloth: rng.pick(&[0, 0, 5, 30]),
            order: match rng.below(10) {
                0..5 => Order::Ordered,
                5..7 => Order::Unordered,
                7..9 => Order::LastFirst,
                _ => Order::Never,
            },
            may_starve: hard && rng.chance(15),
        }
    }

    /// Bytes that reach a patient reader; the least when the stream is reset.
    pub(crate) fn total(&self) -> u64 {
        let len = |segment: &Segment| match segment {
            Segment::Plain(len) | Segment::Extent(len) => *len,
            Segment::Reset => 0,
        };
        self.segments.iter().map(len).sum()
    }

    pub(crate) fn may_reset(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Reset))
    }
}

/// Something goes wrong, or changes, at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// An edge dies silently.
    Cut,
    /// An edge's connection breaks.
    Lose,
    /// A path carries nothing for a while.
    Pause,
    Slow,
    Remove,
    MarkDead,
    AddEdge,
    Revoke,
    Stall,
    Abandon,
    Raw,
    /// The session ends.
    LosePrimary,
    /// The primary's connection breaks.
    BreakHome,
}

impl Fault {
    const ALL: [Self; 12] = [
        Self::Cut,
        Self::Lose,
        Self::Pause,
        Self::Slow,
        Self::Remove,
        Self::MarkDead,
        Self::AddEdge,
        Self::Revoke,
        Self::Stall,
        Self::Abandon,
        Self::Raw,
        Self::BreakHome,
    ];
}

/// One round.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) streams: Vec<StreamPlan>,
    pub(crate) expected: BTreeMap<StreamId, StreamPlan>,
    pub(crate) session_may_end: bool,
    /// Percent of edges that are hostile.
    pub(crate) hostility: u64,
    /// Every extent is leased whole to every edge.
    pub(crate) everyone: bool,
    /// Largest frame of a lease's writer; 0 for random ones.
    pub(crate) frame: u64,
}

impl Plan {
    pub(crate) fn open_client_stream(&mut self, index: usize, id: StreamId) -> &StreamPlan {
        let stream = self.streams[index].clone();
        self.expected.entry(id).or_insert(stream)
    }

    pub(crate) fn open_server_stream(&mut self, index: usize, id: StreamId) {
        let stream = self.streams[index].clone();
        self.expected.insert(id, stream);
    }
}

impl World {
    /// Plans a round and starts it.
    pub(crate) fn plan(&mut self) {
        let hard = self.rng.chance(60);
        // Never more at once than may be open: some are never read.
        let streams = if self.rng.chance(10) { 8 } else { 1 + self.rng.below(4) };
        let streams: Vec<_> =
            (0..streams).map(|_| StreamPlan::random(&mut self.rng, hard)).collect();
        for index in 0..streams.len() {
            let delay = self.rng.millis(0..=300);
            self.after(delay, Event::Open(index));
        }
        let mut session_may_end = false;
        if hard {
            for _ in 0..=self.rng.below(5) {
                let mut fault = self.rng.pick(&Fault::ALL);
                if self.rng.chance(1) {
                    fault = Fault::LosePrimary;
                    session_may_end = true;
                }
                let delay = self.rng.micros(0..=800_000);
                self.after(delay, Event::Fault(fault));
            }
        }
        let expected = BTreeMap::new();
        let hostility = if hard { 20 } else { 0 };
        self.plan =
            Plan { streams, expected, session_may_end, hostility, everyone: false, frame: 0 };
        self.client.readers.clear();
        self.client.writers.clear();
        self.client.pipes.clear();
        self.primary.writers.clear();
        self.log(|| format!("hard {hard}"));
    }

    pub(crate) fn open(&mut self, index: usize) {
        if self.closed {
            return;
        }
        if self.plan.streams[index].bidi {
            self.client_opens(index);
        } else {
            self.server_opens(index);
        }
    }

    pub(crate) fn on_fault(&mut self, fault: Fault) {
        let edges: Vec<_> =
            self.primary.usable.iter().copied().filter(|p| !p.is_primary()).collect();
        let edge = if edges.is_empty() { PathId::PRIMARY } else { self.rng.pick(&edges) };
        self.log(|| format!("{fault:?} of path {edge}"));
        let now = self.now;
        match fault {
            Fault::LosePrimary => {
                self.end_session();
            }
            Fault::BreakHome => self.break_home(),
            Fault::AddEdge => self.add_edge(),
            Fault::Revoke => self.revoke_one(),
            Fault::Pause => {
                let path = if self.rng.chance(20) { PathId::PRIMARY } else { edge };
                let long = self.rng.chance(20) && !path.is_primary();
                let pause = self.rng.millis(1..=if long { 10_000 } else { 1500 });
                if let Some(link) = self.net.links.get_mut(&path) {
                    link.paused_until = now + pause;
                }
            }
            Fault::Slow => {
                if let Some(link) = self.net.links.get_mut(&edge) {
                    link.rate = 30_000;
                }
            }
            _ if edge.is_primary() => {}
            Fault::Cut => {
                if let Some(link) = self.net.links.get_mut(&edge) {
                    link.cut = true;
                    self.after(IDLE_TIMEOUT, Event::Idle(edge));
                    self.go_down(edge, IDLE_TIMEOUT);
                }
            }
            Fault::Lose => {
                self.lose(edge);
                self.go_down(edge, Duration::ZERO);
            }
            Fault::Remove => drop(self.server().remove_path(edge, now)),
            Fault::MarkDead => drop(self.server().mark_dead(edge, now)),
            Fault::Stall => {
                let stall = self.rng.millis(1..=3000);
                if let Some(edge) = self.edges.get_mut(&edge) {
                    edge.stalled_until = Some(now + stall);
                }
            }
            Fault::Abandon => self.abandon_one(edge),
            Fault::Raw => {
                let packet = bytes::Bytes::from_static(b"raw");
                drop(self.server().send_raw(edge, packet, now));
            }
        }
    }

    /// An edge answers nobody for a while, or never again.
    fn go_down(&mut self, path: PathId, least: Duration) {
        let ever = self.rng.chance(80);
        let time = if ever { self.rng.millis(0..=5000) } else { Duration::from_secs(1 << 20) };
        let until = self.now + least + time;
        if let Some(edge) = self.edges.get_mut(&path) {
            edge.down_until = until;
        }
    }

    /// Runs the scenarios of a seed.
    pub(crate) fn run(seed: u64, trace: bool) -> Coverage {
        let mut world = Self::new(seed, trace);
        world.until(Duration::from_secs(2), |world| world.session().id().is_some());
        let edges = world.rng.below(4);
        for _ in 0..edges {
            world.add_edge();
        }
        world.settle();
        let wait = world.rng.millis(0..=400);
        let start = world.now + wait;
        while world.step(start) {}
        world.now = start;
        for round in 0..ROUNDS {
            world.log(|| format!("round {round}"));
            world.measure_rtt();
            world.plan();
            world.settle();
            world.until(Duration::from_secs(300), World::has_ended);
            if !world.closed {
                world.drain();
            }
            if world.closed {
                world.covered.count("session lost");
                break;
            }
            world.check_clean();
            if world.edges.len() < 2 && world.rng.chance(70) {
                world.add_edge();
            }
        }
        world.covered
    }

    pub(crate) fn until(&mut self, patience: Duration, done: impl Fn(&mut Self) -> bool) {
        let deadline = self.now + patience;
        while !done(self) && !self.closed {
            if !self.step(deadline) {
                self.fail_stuck();
            }
        }
    }

    /// Lets everything arrive that is under way.
    fn drain(&mut self) {
        let deadline = self.now + Duration::from_secs(60);
        while self.has_events() || self.is_home_broken() {
            if self.closed {
                return;
            }
            if !self.step(deadline) {
                self.fail_stuck();
            }
        }
        // Cut edges with pieces die now.
        let deadline = self.now + Duration::from_secs(5);
        while self.step(deadline) {}
        self.now = deadline;
    }
}
