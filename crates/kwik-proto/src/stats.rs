//! Figures of a session, as snapshots.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::presentation::{BackpressureReason, BackpressureStats, BufferUsage};
use crate::wire::DataOptions;
use crate::wire::control::PathStatus;
use crate::{PathId, StreamId};

pub use crate::wire::control::PathFigures;

/// What one path has done for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStats {
    /// Which path.
    pub id: PathId,
    /// Where it leads; empty on the primary's own side.
    pub address: String,
    /// Its state.
    pub status: PathStatus,
    /// How it does: at the primary, as the client last said.
    pub figures: PathFigures,
    /// What its data is subject to: checksums, compression (4.7, 8.5). None until its server has
    /// answered, and at the primary for paths that lead to others.
    pub data: Option<DataOptions>,
    /// UDP payload that its connection has sent, in bytes; 0 where this side has none.
    pub udp_sent: u64,
    /// UDP payload that its connection has received, in bytes; 0 where this side has none.
    pub udp_received: u64,
    /// Its secondary streams, at the client.
    pub secondary: SecondaryStats,
    /// How much this side may send on it, and why; none where this side has no connection.
    pub congestion: Option<CongestionStats>,
}

/// What rules how much a path's connection has in flight of what this side sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CongestionStats {
    /// Bytes that may be in flight.
    pub window: u64,
    /// What it does now.
    pub state: CongestionState,
    /// The path's rate in bytes a second, for the congestion control that models it.
    pub rate: Option<u64>,
    /// The least round trip of the last minute or two; none with CUBIC, which needs none.
    pub least_rtt: Option<Duration>,
    /// QUIC packets since the connection began.
    pub packets: PacketCounts,
    /// How often loss was taken for a full queue, and the window was cut; none for congestion
    /// control that takes all for it, or that does not answer so.
    pub answered: Option<u64>,
    /// Bytes that were lost and taken for chance; none as before.
    pub by_chance: Option<u64>,
}

impl CongestionStats {
    /// Of a window in a state.
    #[must_use]
    pub fn new(window: u64, state: CongestionState) -> Self {
        let packets = PacketCounts::default();
        let (rate, least_rtt, answered, by_chance) = (None, None, None, None);
        Self { window, state, rate, least_rtt, packets, answered, by_chance }
    }
}

/// What a congestion control does (docs/congestion.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CongestionState {
    /// Slow start: the window doubles each round trip.
    SlowStart,
    /// The window grows as CUBIC says, until a queue overflows.
    Avoidance,
    /// The model lets a queue drain.
    Drain,
    /// The model has as much in flight as fills the path.
    Cruise,
    /// The model looks whether the path carries more.
    Probe,
    /// Others fill the queue: the model does as CUBIC does.
    Crowd,
}

impl CongestionState {
    /// In small letters, for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowStart => "slow_start",
            Self::Avoidance => "avoidance",
            Self::Drain => "drain",
            Self::Cruise => "cruise",
            Self::Probe => "probe",
            Self::Crowd => "crowd",
        }
    }
}

/// The explicitly mapped secondary streams of one path (7.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecondaryStats {
    /// Open under a live lease.
    pub active: usize,
    /// Opened under a lease so far.
    pub mapped: u64,
    /// Opened or moved to where no lease of the path was.
    pub unmapped: u64,
    /// Payload bytes that came on them.
    pub bytes: u64,
    /// Of those, bytes that went into the client's streams: not what was there already.
    pub transferred: u64,
    /// How often the session looked at what came
    /// ([`SecondaryStreamConfig::batch_size`](crate::SecondaryStreamConfig::batch_size)).
    pub batches: u64,
}

impl SecondaryStats {
    /// The share of what came on them that went into the client's streams, from 0 to 1; 1 before
    /// anything came.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for displays")]
    pub fn aggregation_ratio(&self) -> f64 {
        if self.bytes == 0 { 1.0 } else { self.transferred as f64 / self.bytes as f64 }
    }
}

/// What came twice of all streams of a session so far, and what may have: `received` is at most
/// `moved + reclaimed + unasked` once all that was taken back has come or was stopped, unless a
/// primary writes plainly what others are leased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DuplicateStats {
    /// Bytes that were here already when they came.
    pub received: u64,
    /// Bytes that a path brought of pieces after the scheduler moved them to a quicker one, or may
    /// still bring: at most `budget`.
    pub moved: u64,
    /// The most that `moved` was allowed to be, in bytes.
    pub budget: u64,
    /// The same as `moved` of pieces that were taken back as their path fell silent or their lease
    /// was over. They always are, but leave less of the budget for moves.
    pub reclaimed: u64,
    /// Bytes of leases that the primary sent unasked and others may have been asked for.
    pub unasked: u64,
}

/// What a client's scheduler decided of a path, or of a stream on it (docs/scheduling.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It was asked for a piece: of the paths with room it has that first.
    Asked,
    /// It sends the beginning of a lease unasked, as the primary does.
    Unasked,
    /// It was asked, though it is busy, for what a reader waits for: it has that first.
    Expedited,
    /// It was asked for a piece of another path, as it has that sooner.
    TookOver,
    /// It was not asked: others will have brought all that is free before it would.
    LeftToOthers,
    /// A piece of it went to a path that has it sooner.
    Moved,
    /// A piece of it stays: another path has it sooner, but too much would come twice.
    OverBudget,
    /// It was silent: its pieces are free for others.
    Silent,
    /// It returned a piece, and rests.
    Returned,
    /// Its leases are lost: it brought nothing for too long, or returned too much.
    Lost,
}

impl Decision {
    /// A word for it, as commands have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Unasked => "unasked",
            Self::Expedited => "expedited",
            Self::TookOver => "took_over",
            Self::LeftToOthers => "left_to_others",
            Self::Moved => "moved",
            Self::OverBudget => "over_budget",
            Self::Silent => "silent",
            Self::Returned => "returned",
            Self::Lost => "lost",
        }
    }
}

/// Why a path of a client's session has what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleStats {
    /// Which path.
    pub path: PathId,
    /// Its round trip without what waits in queues.
    pub rtt: Duration,
    /// Its delivery rate in bytes a second, once measured.
    pub rate: Option<u64>,
    /// Bytes that it was asked for and that have not come.
    pub outstanding: u64,
    /// How long they take from now on, with what was taken back and still comes.
    pub queue: Duration,
    /// Pieces that are not over, those that were taken back included.
    pub pieces: usize,
    /// Bytes of pieces that it took over from others.
    pub moved_in: u64,
    /// Bytes of pieces that others were asked for instead.
    pub moved_out: u64,
    /// Bytes that it brought and that were here already.
    pub twice: u64,
    /// The last decision on it.
    pub decision: Option<Decision>,
    /// The streams that it serves or has served, as far as they are not over.
    pub streams: Vec<StreamScheduleStats>,
}

/// Why a path has what it has of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamScheduleStats {
    /// Which stream.
    pub stream: StreamId,
    /// Pieces of it that are not over, those that were taken back included.
    pub pieces: usize,
    /// Bytes that the path was asked for and that have not come.
    pub outstanding: u64,
    /// The last decision.
    pub decision: Decision,
}

/// Figures of one live stream (10.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamStats {
    /// Which stream.
    pub id: StreamId,
    /// The half that this side reads, if it does.
    pub recv: Option<RecvStats>,
    /// The half that this side writes, if it does.
    pub send: Option<SendStats>,
}

/// Figures of a stream's receiving half, in bytes unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecvStats {
    /// What its buffer holds, with its gaps.
    pub buffer: BufferUsage,
    /// What it may have granted and not read now.
    pub allowance: u64,
    /// What `allowance` may grow to now: the current size of its buffer.
    pub max_allowance: u64,
    /// The offset up to which data is granted.
    pub granted: u64,
    /// The final size, once known.
    pub final_size: Option<u64>,
    /// Bytes that arrived twice.
    pub duplicates: u64,
    /// Those of `duplicates` whose two copies differed.
    pub conflicts: u64,
    /// The paths that took part in those, each with how many of its bytes another contradicted
    /// (7.4): at most [`limits::MAX_SOURCES`](crate::limits::MAX_SOURCES).
    pub contradicted: Vec<(PathId, u64)>,
    /// The paths that brought its bytes (1.2, 8.5), each with how many it brought first: at most
    /// [`limits::MAX_SOURCES`](crate::limits::MAX_SOURCES).
    pub sources: Vec<(PathId, u64)>,
    /// Why its producers are asked to slow down, and since when.
    pub backpressure: Option<(BackpressureReason, Instant)>,
    /// What its reader waits for while bytes behind it are here.
    pub gap: Option<GapNotice>,
    /// The path that was asked for the byte that its reader waits for, having nothing to read.
    pub awaited_from: Option<PathId>,
    /// When it was opened, and when it last received or was read; none once its reader is done.
    pub times: Option<(Instant, Instant)>,
}

/// Where each part of a stream is that this side reads. All before `read` was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamMap {
    /// Where ordered reading goes on.
    pub read: u64,
    /// The end of what came.
    pub end: u64,
    /// The offset up to which data is granted.
    pub granted: u64,
    /// The final size, once known.
    pub size: Option<u64>,
    /// What came and was not read, each with who brought it, where that is known.
    pub held: Vec<(Option<PathId>, Range<u64>)>,
    /// What is under way, each with who was asked for it.
    pub asked: Vec<(PathId, Range<u64>)>,
}

/// Figures of a stream's sending half, in bytes unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendStats {
    /// Written and reserved so far.
    pub written: u64,
    /// Granted by the peer and not yet written.
    pub credit: u64,
    /// Why the peer asks to slow down.
    pub backpressure: Option<BackpressureReason>,
}

/// What a session has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// How often another connection took the place of the primary's. What that repeats may come
    /// twice, and is charged to nobody.
    pub resumptions: u64,
    /// Its paths.
    pub paths: Vec<PathStats>,
    /// Live streams.
    pub streams: usize,
    /// Live leases.
    pub leases: usize,
    /// Pieces that are activated and not over.
    pub pieces: usize,
    /// Size of the receive window in bytes.
    pub window: u64,
    /// Of which granted to streams.
    pub granted: u64,
    /// What came twice, and what may, at the client.
    pub duplicates: DuplicateStats,
    /// Bytes sent here that the peer has not acknowledged.
    pub unacknowledged: u64,
    /// QUIC streams that carry what is sent here; the driver's.
    pub quic_streams: QuicStreams,
    /// Bytes received and not yet read.
    pub held: u64,
    /// Backpressure that this side applies (8.3).
    pub backpressure: BackpressureStats,
    /// Gaps that kept a reader waiting for the gap timeout (8.4).
    pub gaps: u64,
    /// How long bytes that came early waited for those before them (10.1).
    pub aggregation: Latencies,
    /// Payload that was sent here, in bytes; a secondary's servers send more.
    pub sent: u64,
}

/// The pooled QUIC streams of a session (5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuicStreams {
    /// Those that are open.
    pub open: usize,
    /// How many were ever opened.
    pub opened: u64,
}

/// How often something took how long: a histogram that is cheap to keep and to add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latencies {
    /// How often it took no longer than each of [`Self::BOUNDS`], and longer than the bound
    /// before; the last: longer than all.
    pub counts: [u64; 13],
    /// All of them together.
    pub total: Duration,
}

impl Latencies {
    /// Bounds of the counts: short ones are a local network's, long ones a failure's.
    pub const BOUNDS: [Duration; 12] = [
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_millis(2),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(1_000),
        Duration::from_millis(3_000),
        Duration::from_millis(10_000),
    ];

    /// It took so long once more.
    pub fn note(&mut self, time: Duration) {
        self.counts[Self::place(time)] += 1;
        self.total += time;
    }

    /// Which of the counts a time belongs to.
    #[must_use]
    pub fn place(time: Duration) -> usize {
        Self::BOUNDS.partition_point(|bound| *bound < time)
    }

    /// The same of others.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.total += other.total;
    }
}

/// A gap that has kept the reader of a stream waiting for
/// [`Config::gap_timeout`](crate::Config::gap_timeout) (8.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapNotice {
    /// Of which stream.
    pub stream: StreamId,
    /// What is missing; bytes behind it are here.
    pub range: Range<u64>,
    /// Since when the reader waits for it.
    pub since: Instant,
}

/// QUIC packets of a connection since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// Sent.
    pub sent: u64,
    /// Of those, declared lost.
    pub lost: u64,
}
