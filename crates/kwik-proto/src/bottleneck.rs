//! What keeps a session from being faster, as its figures say (8.8).
//!
//! [`Bottleneck::of`] looks at one [`Snapshot`] and decides; it keeps no state. With the [`Marks`]
//! of an earlier one it judges the time in between, else the session so far. What is near is asked
//! first: this side's reader and memory, then what is under way, then what nobody has sent yet.

use std::fmt;
use std::time::{Duration, Instant};

use crate::presentation::BackpressureReason;
use crate::stats::{PathStats, RecvStats, ScheduleStats, SessionStats, StreamStats};
use crate::wire::control::PathStatus;
use crate::{PathId, limits};

#[cfg(test)]
mod tests;

/// Of what a path's server sent so much has to be lost before that is what limits.
const LOSSY: f64 = 0.02;
/// Packets that wait for so long, or for a quarter of a round trip, wait in a queue.
const LEAST_QUEUE: Duration = Duration::from_millis(5);
/// Fewer packets are no measure of loss.
const LEAST_PACKETS: u64 = 100;
/// A path that owes bytes is stalled after so many round trips without any, and never before
/// [`LEAST_STALL`].
const STALLED_ROUNDS: u32 = 4;
const LEAST_STALL: Duration = Duration::from_millis(250);
/// A path that brought nothing for so long has nothing under way that nobody asked it for.
const QUIET: Duration = Duration::from_millis(500);

/// Figures of a session at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// When.
    pub at: Instant,
    /// The primary has accepted the client.
    pub established: bool,
    /// The session and its paths.
    pub session: SessionStats,
    /// Its live streams.
    pub streams: Vec<StreamStats>,
    /// What each path has, at a client.
    pub schedule: Vec<ScheduleStats>,
    /// Paths that are being made, or are dead and expected back.
    pub joining: Vec<(PathId, PathStatus)>,
}

/// What counts rise from, of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// When.
    pub at: Instant,
    /// Payload that this side sent.
    sent: u64,
    paths: Vec<PathMarks>,
}

/// ... of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PathMarks {
    id: PathId,
    /// Payload bytes that came.
    received: u64,
    /// Packets that its server had sent and lost by the last time that there were enough of them
    /// for a share, as it tells of them once a second.
    packets: [u64; 2],
    /// What they rose by until then.
    rise: [u64; 2],
    /// The least round trip so far.
    least_rtt: Duration,
}

/// What limits a session. Its text is one sentence for people; [`Self::name`] is for machines.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Bottleneck {
    /// The primary has not answered the client yet.
    Handshake,
    /// Nothing is to be moved.
    Nothing,
    /// The application reads more slowly than bytes come.
    Reader {
        /// Bytes that could be read.
        unread: u64,
    },
    /// The memory for all sessions of the endpoint is granted.
    Memory,
    /// The receive credit is less than what the paths hold in a round trip.
    Window {
        /// What the streams have of it, in bytes.
        size: u64,
    },
    /// Nothing of the path comes, no answers either.
    SilentPath {
        /// Which.
        path: PathId,
        /// For how long.
        lasted: Duration,
    },
    /// The server of the path answers, and brings nothing of what it was asked for.
    Server {
        /// Which.
        path: PathId,
        /// For how long.
        lasted: Duration,
    },
    /// Much of what the path's server sends is lost.
    Loss {
        /// Which.
        path: PathId,
        /// The share of its packets that was lost, from 0 to 1.
        share: f64,
    },
    /// Only the primary sends, as fast as its link goes.
    PrimaryLink {
        /// Bytes a second.
        rate: u64,
    },
    /// Several paths, or one that is not the primary's, send as fast as their links go.
    Links {
        /// How many.
        paths: usize,
        /// Bytes a second, of all together.
        rate: u64,
    },
    /// A path is being made, and no other has anything to bring.
    Joining {
        /// Which.
        path: PathId,
    },
    /// The primary neither leases nor writes what streams wait for.
    Lease,
    /// The peer takes no more: its reader is slow, or its window full.
    Peer {
        /// What it said, if it said so.
        reason: Option<BackpressureReason>,
    },
    /// What was written here waits for the link to the peer.
    Uplink,
}

impl Snapshot {
    /// What a later snapshot is compared with; `before` is what this one was compared with.
    #[must_use]
    pub fn marks(&self, before: Option<&Marks>) -> Marks {
        let paths = self.session.paths.iter().map(|path| {
            let (id, figures) = (path.id, path.figures);
            let packets = [figures.sent_packets, figures.lost_packets];
            let received = figures.received;
            let Some(marks) = before.and_then(|before| before.path(id)) else {
                let least_rtt = figures.rtt;
                return PathMarks { id, received, packets, rise: packets, least_rtt };
            };
            let (rise, least_rtt) = (marks.rise_to(packets), marks.least_of(figures.rtt));
            match rise[0] < LEAST_PACKETS {
                true => PathMarks { received, least_rtt, ..*marks },
                false => PathMarks { id, received, packets, rise, least_rtt },
            }
        });
        Marks { at: self.at, sent: self.session.sent, paths: paths.collect() }
    }

    /// Bytes a second that this side sent since the marks; none without time in between.
    #[must_use]
    pub fn send_rate(&self, before: Option<&Marks>) -> Option<u64> {
        let before = before.filter(|before| before.at < self.at)?;
        let sent = u128::from(self.session.sent.saturating_sub(before.sent));
        let micros = self.at.saturating_duration_since(before.at).as_micros();
        u64::try_from(sent * 1_000_000 / micros.max(1)).ok()
    }

    /// The primary's own path, seen from its side.
    #[must_use]
    pub fn own_path(&mut self) -> Option<&mut PathStats> {
        let mut paths = self.session.paths.iter_mut();
        paths.find(|path| path.id.is_primary() && path.address.is_empty())
    }

    /// Receiving halves that wait for bytes.
    fn waiting(&self) -> impl Iterator<Item = &RecvStats> {
        self.streams.iter().filter_map(|stream| stream.recv.as_ref()).filter(|recv| {
            recv.times.is_some()
                && recv.final_size.is_none_or(|size| recv.buffer.read_position < size)
        })
    }

    /// What bytes take to come and go without queues.
    fn round_trip(&self, flow: &Flow<'_>) -> Duration {
        let known = self.schedule.iter().find(|schedule| schedule.path == flow.path.id);
        known.map_or(flow.least_rtt, |schedule| schedule.rtt)
    }

    /// How long a path has owed bytes without bringing any, if that is too long.
    fn stall(&self, path: &PathStats) -> Option<Bottleneck> {
        let (id, figures) = (path.id, path.figures);
        let patience = (figures.rtt * STALLED_ROUNDS).max(LEAST_STALL);
        if figures.outstanding == 0 || figures.stalled < patience {
            return None;
        }
        // It has answered a heartbeat since, and not too long ago: while it owes something it is
        // sent one each second.
        let answers = figures.stalled > figures.idle + LEAST_STALL / 2
            && figures.idle < limits::HEARTBEAT_BUSY + patience;
        Some(match answers {
            true => Bottleneck::Server { path: id, lasted: figures.stalled },
            false => Bottleneck::SilentPath { path: id, lasted: figures.idle },
        })
    }
}

impl Marks {
    fn path(&self, id: PathId) -> Option<&PathMarks> {
        self.paths.iter().find(|path| path.id == id)
    }
}

impl PathMarks {
    /// None is 0 until it is measured.
    fn least_of(&self, rtt: Duration) -> Duration {
        if self.least_rtt.is_zero() { rtt } else { self.least_rtt.min(rtt) }
    }

    fn rise_to(&self, packets: [u64; 2]) -> [u64; 2] {
        std::array::from_fn(|at| packets[at].saturating_sub(self.packets[at]))
    }
}

/// What a path did in the time that is judged.
struct Flow<'a> {
    path: &'a PathStats,
    /// Bytes a second.
    rate: u64,
    /// Packets that its server sent and lost.
    packets: [u64; 2],
    /// The least round trip that is known here.
    least_rtt: Duration,
}

impl<'a> Flow<'a> {
    fn of(path: &'a PathStats, now: Instant, before: Option<&Marks>) -> Self {
        let figures = path.figures;
        let marked = before
            .and_then(|marks| {
                let time = now.saturating_duration_since(marks.at);
                Some((time, marks.path(path.id)?))
            })
            .filter(|(time, _)| !time.is_zero());
        let packets = [figures.sent_packets, figures.lost_packets];
        // Of a path that is asked, the model knows its rate; what a primary knows of one that leads
        // to others comes once a second, and nothing may come in between.
        let known = figures.goodput.filter(|_| figures.outstanding > 0);
        match marked {
            Some((time, marks)) => {
                let bytes = u128::from(figures.received.saturating_sub(marks.received));
                let came = bytes * 1_000_000 / time.as_micros().max(1);
                let rate = known.unwrap_or(u64::try_from(came).unwrap_or(u64::MAX));
                let rise = marks.rise_to(packets);
                let packets = if rise[0] < LEAST_PACKETS { marks.rise } else { rise };
                Self { path, rate, packets, least_rtt: marks.least_of(figures.rtt) }
            }
            None => {
                let (rate, least_rtt) = (figures.goodput.unwrap_or(0), figures.rtt);
                Self { path, rate, packets, least_rtt }
            }
        }
    }

    /// It owes something, or brings what nobody asked it for and a stream waits for.
    fn is_busy(&self, wanted: bool) -> bool {
        let figures = &self.path.figures;
        figures.outstanding > 0 || (wanted && self.rate > 0 && figures.stalled < QUIET)
    }

    /// The share of packets that was lost, where there are enough for one.
    fn loss(&self) -> f64 {
        let [sent, lost] = self.packets;
        if sent < LEAST_PACKETS { 0.0 } else { lost as f64 / sent as f64 }
    }
}

impl Bottleneck {
    /// What limits the session that had these figures, and earlier those that `before` marks.
    #[must_use]
    pub fn of(now: &Snapshot, before: Option<&Marks>) -> Self {
        if !now.established {
            return Self::Handshake;
        }
        let near = Self::reader(now).or_else(|| Self::pressed(now));
        let far = || Self::flowing(now, before).or_else(|| Self::sending(now));
        near.or_else(far).unwrap_or_else(|| Self::unsent(now))
    }

    /// A short word for it, the same for all sessions: a label for metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Nothing => "nothing",
            Self::Reader { .. } => "reader",
            Self::Memory => "memory",
            Self::Window { .. } => "window",
            Self::SilentPath { .. } => "silent_path",
            Self::Server { .. } => "server",
            Self::Loss { .. } => "loss",
            Self::PrimaryLink { .. } => "primary_link",
            Self::Links { .. } => "links",
            Self::Joining { .. } => "joining",
            Self::Lease => "lease",
            Self::Peer { .. } => "peer",
            Self::Uplink => "uplink",
        }
    }

    /// All names, for tables.
    pub const NAMES: [&'static str; 14] = [
        "handshake",
        "nothing",
        "reader",
        "memory",
        "window",
        "silent_path",
        "server",
        "loss",
        "primary_link",
        "links",
        "joining",
        "lease",
        "peer",
        "uplink",
    ];

    /// A quarter of what a stream may hold can be read, and was not.
    fn reader(now: &Snapshot) -> Option<Self> {
        let behind = |recv: &&RecvStats| {
            let granted = recv.granted.saturating_sub(recv.buffer.read_position);
            recv.buffer.contiguous > 0 && recv.buffer.contiguous >= granted / 4
        };
        let unread: u64 = now.waiting().filter(behind).map(|recv| recv.buffer.contiguous).sum();
        (unread > 0).then_some(Self::Reader { unread })
    }

    fn pressed(now: &Snapshot) -> Option<Self> {
        let memory = now.session.backpressure.session == Some(BackpressureReason::MemoryPressure);
        if memory && now.waiting().next().is_some() {
            return Some(Self::Memory);
        }
        let said = now.streams.iter().find_map(|stream| stream.send.as_ref()?.backpressure);
        said.map(|reason| Self::Peer { reason: Some(reason) })
    }

    /// Something is under way.
    fn flowing(now: &Snapshot, before: Option<&Marks>) -> Option<Self> {
        let flows = now.session.paths.iter().map(|path| Flow::of(path, now.at, before));
        let wanted = now.waiting().next().is_some();
        let busy: Vec<_> = flows.filter(|flow| flow.is_busy(wanted)).collect();
        let first = busy.first()?;
        let awaited = now.waiting().find_map(|recv| recv.awaited_from);
        let stalled = |flow: &Flow<'_>| now.stall(flow.path);
        let held_up = busy.iter().filter(|flow| awaited == Some(flow.path.id)).find_map(stalled);
        if let Some(held_up) = held_up {
            return Some(held_up);
        }
        if busy.iter().all(|flow| stalled(flow).is_some()) {
            return stalled(first);
        }
        let size: u64 = now.waiting().map(|recv| recv.allowance).sum();
        let under_way: u64 = busy.iter().map(|flow| flow.in_round_trip(now)).sum();
        // A window that is not at its bound grows to four times as much.
        if size > 0 && under_way >= size / 2 {
            return Some(Self::Window { size });
        }
        // Beside a full queue loss is what a link does that is used to the full.
        let by_chance = busy.iter().filter(|flow| !flow.is_queued(now));
        let worst = by_chance.max_by(|a, b| a.loss().total_cmp(&b.loss()));
        if let Some(worst) = worst.filter(|worst| worst.loss() >= LOSSY) {
            return Some(Self::Loss { path: worst.path.id, share: worst.loss() });
        }
        let rate: u64 = busy.iter().map(|flow| flow.rate).sum();
        // What a primary sends itself, beside others.
        let own = now.session.unacknowledged > 0
            && now.session.paths.iter().any(|path| path.address.is_empty())
            && busy.iter().all(|flow| !flow.path.id.is_primary());
        let sent = now.send_rate(before).filter(|_| own);
        let (paths, rate) = (busy.len() + usize::from(own), rate + sent.unwrap_or(0));
        let alone = paths == 1 && first.path.id.is_primary();
        Some(if alone { Self::PrimaryLink { rate } } else { Self::Links { paths, rate } })
    }

    /// What was written here is under way, or may not be sent.
    fn sending(now: &Snapshot) -> Option<Self> {
        if now.session.unacknowledged > 0 {
            let halves = now.streams.iter().filter_map(|stream| stream.send.as_ref());
            let mut written = halves.filter(|send| send.written > 0).peekable();
            let blocked = written.peek().is_some() && written.all(|send| send.credit == 0);
            return Some(if blocked { Self::Peer { reason: None } } else { Self::Uplink });
        }
        None
    }

    /// Nothing is under way: whose turn it is.
    fn unsent(now: &Snapshot) -> Self {
        match (now.waiting().next(), now.joining.first()) {
            (None, _) if now.session.leases == 0 => Self::Nothing,
            (_, Some((path, _))) => Self::Joining { path: *path },
            _ => Self::Lease,
        }
    }
}

impl Flow<'_> {
    /// Its packets wait in a queue of its link.
    fn is_queued(&self, now: &Snapshot) -> bool {
        let base = now.round_trip(self);
        self.path.figures.rtt > base + (base / 4).max(LEAST_QUEUE)
    }

    /// What comes in a round trip.
    fn in_round_trip(&self, now: &Snapshot) -> u64 {
        let round_trip = now.round_trip(self).as_micros();
        let bytes = u128::from(self.rate) * round_trip / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbit = |rate: &u64| *rate as f64 * 8e-6;
        let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
        match self {
            Self::Handshake => write!(f, "waiting for the handshake with the primary"),
            Self::Nothing => write!(f, "nothing is asked for"),
            Self::Reader { unread } => {
                write!(f, "the reader is slow: {:.1} MiB wait to be read", mib(unread))
            }
            Self::Memory => write!(f, "the memory for all sessions is granted"),
            Self::Window { size } => write!(f, "the window of {:.1} MiB is full", mib(size)),
            Self::SilentPath { path, lasted } => {
                write!(f, "path {path} has been silent for {:.1} s", lasted.as_secs_f64())
            }
            Self::Server { path, lasted } => {
                let lasted = lasted.as_secs_f64();
                write!(f, "the server of path {path} has brought nothing for {lasted:.1} s")
            }
            Self::Loss { path, share } => write!(f, "path {path} lost {:.1} %", share * 100.0),
            Self::PrimaryLink { rate } => {
                write!(f, "the primary's link: {:.1} Mbit/s", mbit(rate))
            }
            Self::Links { paths: 1, rate } => {
                write!(f, "the link of one secondary: {:.1} Mbit/s", mbit(rate))
            }
            Self::Links { paths, rate } => {
                write!(f, "the links of {paths} paths: {:.1} Mbit/s together", mbit(rate))
            }
            Self::Joining { path } => write!(f, "waiting for path {path} to be made or to answer"),
            Self::Lease => write!(f, "waiting for a lease: the primary gives nothing to fetch"),
            Self::Peer { reason: Some(reason) } => {
                write!(f, "the peer asks to slow down: {}", asked_for(*reason))
            }
            Self::Peer { reason: None } => write!(f, "the peer takes no more: its window is full"),
            Self::Uplink => write!(f, "the link to the peer: what was written waits for it"),
        }
    }
}

fn asked_for(reason: BackpressureReason) -> &'static str {
    match reason {
        BackpressureReason::BufferFull => "it waits for bytes that come before what it holds",
        BackpressureReason::SlowConsumer => "its reader is slow",
        BackpressureReason::WindowFull => "its window is full",
        BackpressureReason::MemoryPressure => "its memory is granted",
    }
}
