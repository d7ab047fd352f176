//! Reads all numbers at once: what was counted, and what snapshots of the live sessions say.

use std::time::Duration;

use kwik_proto::bottleneck::Bottleneck;
use kwik_proto::path::PathStatus;
use kwik_proto::stats::{Latencies, SessionStats};
use kwik_proto::sync::lock;

use super::counters::{QuicTotals, SessionTotals};
use super::family::{Family, MetricKind, Sample, Value};
use super::live::LiveSession;
use super::observed::Observed;
use super::role::SessionRole;

use MetricKind::{Counter, Gauge, Histogram};

/// Every metric: its name, kind, labels, and what it means.
pub const FAMILIES: [(&str, MetricKind, &str, &str); 41] = [
    ("kwik_sessions", Gauge, "role", "Sessions that are not over."),
    ("kwik_sessions_begun", Counter, "role", "Sessions that began."),
    ("kwik_sessions_ended", Counter, "role, by, code", "Sessions that ended: by whom, and why."),
    (
        "kwik_sessions_resumed",
        Counter,
        "role",
        "How often a session went on over another connection to its primary.",
    ),
    (
        "kwik_handshake_seconds",
        Histogram,
        "side",
        "From the first packet to a session that stands.",
    ),
    ("kwik_handshake_failures", Counter, "side, reason", "Handshakes that failed."),
    ("kwik_refused_connections", Counter, "reason", "Attempts turned away before a handshake."),
    (
        "kwik_address_validations",
        Counter,
        "",
        "Clients told to show first that they receive at their address (QUIC's Retry).",
    ),
    ("kwik_paths", Gauge, "path, state", "Paths of the sessions of clients and primaries."),
    ("kwik_path_changes", Counter, "state", "Changes of a path's status, by the new one."),
    (
        "kwik_path_switch_seconds",
        Histogram,
        "",
        "How long a path brought nothing until others were asked; of clients.",
    ),
    ("kwik_streams", Gauge, "", "Streams that are not over."),
    ("kwik_leases", Gauge, "", "Leases that are not over."),
    ("kwik_leases_ended", Counter, "outcome", "Leases that ended."),
    ("kwik_pieces", Gauge, "", "Pieces that clients asked for and that are not over."),
    ("kwik_received_bytes", Counter, "path", "Payload that came, copies included."),
    ("kwik_sent_bytes", Counter, "", "Payload that clients and primaries sent."),
    (
        "kwik_duplicate_bytes",
        Counter,
        "",
        "Payload that was here already when it came; of clients.",
    ),
    (
        "kwik_moved_bytes",
        Counter,
        "",
        "Bytes of pieces moved to quicker paths that may come twice; of clients.",
    ),
    (
        "kwik_reclaimed_bytes",
        Counter,
        "",
        "The same of pieces of silent paths and lost leases; of clients.",
    ),
    (
        "kwik_unasked_bytes",
        Counter,
        "",
        "Bytes sent unasked that others were asked for too; of clients.",
    ),
    ("kwik_conflicting_bytes", Counter, "", "Payload that came twice and differed."),
    (
        "kwik_aggregation_seconds",
        Histogram,
        "",
        "How long bytes that came early waited for those before them.",
    ),
    ("kwik_control_seconds", Histogram, "", "From a heartbeat to its answer; of clients."),
    (
        "kwik_round_trip_seconds",
        Histogram,
        "",
        "QUIC's smoothed round trip, when a heartbeat came.",
    ),
    ("kwik_window_bytes", Gauge, "", "Receive windows."),
    ("kwik_window_granted_bytes", Gauge, "", "Of those, lent to streams beyond their floors."),
    ("kwik_unread_bytes", Gauge, "", "Payload that was received and not read."),
    ("kwik_unacknowledged_bytes", Gauge, "", "Payload that was sent and not acknowledged."),
    ("kwik_backpressure", Counter, "reason", "How often backpressure began."),
    ("kwik_backpressure_seconds", Counter, "reason", "How long backpressure lasted."),
    ("kwik_gaps", Counter, "", "Gaps that kept a reader waiting for the gap timeout."),
    ("kwik_memory_granted_bytes", Gauge, "", "Receive credit that all sessions have granted."),
    ("kwik_memory_limit_bytes", Gauge, "", "What they may grant at the most."),
    ("kwik_udp_datagrams", Counter, "direction", "UDP datagrams of all connections."),
    ("kwik_udp_bytes", Counter, "direction", "UDP payload of all connections."),
    ("kwik_quic_packets_sent", Counter, "", "QUIC packets sent."),
    ("kwik_quic_packets_lost", Counter, "", "QUIC packets sent and declared lost."),
    ("kwik_congestion_events", Counter, "", "Times that a congestion window was cut."),
    ("kwik_congestion_window_bytes", Gauge, "", "Congestion windows."),
    (
        "kwik_sessions_limited",
        Gauge,
        "cause",
        "Sessions of clients and primaries, by what limits them.",
    ),
];

/// Sums over what lives.
#[derive(Default)]
struct Sums {
    roles: [u64; 3],
    /// Of primaries' paths, and of others.
    paths: [[u64; STATES.len()]; 2],
    limited: [u64; Bottleneck::NAMES.len()],
    gauges: Gauges,
    totals: SessionTotals,
    quic: QuicTotals,
}

#[derive(Default)]
struct Gauges {
    streams: u64,
    leases: u64,
    pieces: u64,
    window: u64,
    granted: u64,
    held: u64,
    unacknowledged: u64,
}

const STATES: [PathStatus; 5] = [
    PathStatus::Connecting,
    PathStatus::Active,
    PathStatus::Degraded,
    PathStatus::Disconnecting,
    PathStatus::Dead,
];
const PATHS: [&str; 2] = ["primary", "secondary"];
const SIDES: [&str; 2] = ["client", "server"];
const DIRECTIONS: [&str; 2] = ["sent", "received"];

impl Sums {
    fn add(&mut self, session: &LiveSession) {
        self.roles[session.role() as usize] += 1;
        if let LiveSession::Secondary(secondary) = session {
            secondary.each_connection(|stats| self.add_connection(stats));
        }
        let Some(session) = session.session() else { return };
        session.each_connection(|stats| self.add_connection(stats));
        let (snapshot, bottleneck) = session.judged();
        let connected = snapshot.session.paths.iter().map(|path| (path.id, path.status));
        let is_connected = |id| snapshot.session.paths.iter().any(|path| path.id == id);
        let joining = snapshot.joining.iter().copied().filter(|(id, _)| !is_connected(*id));
        for (id, status) in connected.chain(joining) {
            if let Some(at) = STATES.iter().position(|state| *state == status) {
                self.paths[usize::from(!id.is_primary())][at] += 1;
            }
        }
        let cause = Bottleneck::NAMES.iter().position(|name| *name == bottleneck.name());
        self.limited[cause.unwrap_or(0)] += 1;
        self.totals.add(&snapshot.session);
        self.gauges.add(&snapshot.session);
    }

    fn add_connection(&mut self, stats: &crate::quic::QuicStats) {
        self.quic.add(stats);
        self.quic.cwnd += stats.cwnd;
    }
}

impl Gauges {
    fn add(&mut self, stats: &SessionStats) {
        self.streams += stats.streams as u64;
        self.leases += stats.leases as u64;
        self.pieces += stats.pieces as u64;
        self.window += stats.window;
        self.granted += stats.granted;
        self.held += stats.held;
        self.unacknowledged += stats.unacknowledged;
    }
}

/// Everything that an endpoint's metrics are, in the order of [`FAMILIES`].
pub(crate) fn read(observed: &Observed, memory: [u64; 2]) -> Vec<Family> {
    let counters = &observed.counters;
    // Before what lives: what ends in between is missed once, and not counted twice.
    let quic = counters.quic.value();
    let (totals, live) = {
        let mut live = lock(&observed.live);
        (counters.totals.value(), live.all())
    };
    let mut sums = Sums { quic, totals, ..Sums::default() };
    live.iter().for_each(|(_, session)| sums.add(session));
    drop(live);
    let Sums { roles, paths, limited, gauges, totals, quic } = sums;
    let pressed = |value: fn(&(u64, Duration)) -> Value| {
        let reasons = SessionTotals::REASONS.iter().zip(&totals.pressed);
        reasons.map(|(reason, pressed)| sample([("reason", *reason)], value(pressed))).collect()
    };
    let samples: [Vec<Sample>; FAMILIES.len()] = [
        by("role", SessionRole::ALL.map(SessionRole::name), roles),
        by(
            "role",
            SessionRole::ALL.map(SessionRole::name),
            counters.begun.each_ref().map(|c| c.value()),
        ),
        ends(observed),
        by(
            "role",
            SessionRole::ALL.map(SessionRole::name),
            counters.resumed.each_ref().map(|c| c.value()),
        ),
        times_by("side", SIDES, counters.handshakes.took.each_ref().map(|times| times.value())),
        failures(observed),
        labelled("reason", counters.handshakes.refused.values()),
        one(counters.handshakes.validations.value()),
        path_states(paths),
        labelled("state", counters.path_changes.values()),
        times(counters.switches.value()),
        one(gauges.streams),
        one(gauges.leases),
        labelled("outcome", counters.leases.values()),
        one(gauges.pieces),
        by("path", PATHS, counters.received.each_ref().map(|count| count.value())),
        one(totals.sent),
        one(totals.copies[0]),
        one(totals.copies[1]),
        one(totals.copies[2]),
        one(totals.copies[3]),
        one(counters.conflicting.value()),
        times(totals.aggregation),
        times(counters.control.value()),
        times(counters.rtt.value()),
        one(gauges.window),
        one(gauges.granted),
        one(gauges.held),
        one(gauges.unacknowledged),
        pressed(|(count, _)| Value::Number(*count)),
        pressed(|(_, time)| Value::Time(*time)),
        one(totals.gaps),
        one(memory[0]),
        one(memory[1]),
        by("direction", DIRECTIONS, quic.datagrams),
        by("direction", DIRECTIONS, quic.bytes),
        one(quic.packets),
        one(quic.lost),
        one(quic.congestion),
        one(quic.cwnd),
        by("cause", Bottleneck::NAMES, limited),
    ];
    let families = FAMILIES.iter().zip(samples);
    let family = |(&(name, kind, _, help), samples)| Family { name, kind, help, samples };
    let mut families: Vec<_> = families.map(family).collect();
    observed.last.rise(&mut families);
    families
}

fn sample<const N: usize>(labels: [(&'static str, &'static str); N], value: Value) -> Sample {
    Sample { labels: labels.to_vec(), value }
}

fn one(number: u64) -> Vec<Sample> {
    vec![sample([], Value::Number(number))]
}

fn times(latencies: Latencies) -> Vec<Sample> {
    vec![sample([], Value::Times(latencies))]
}

fn by<const N: usize>(
    label: &'static str,
    names: [&'static str; N],
    numbers: [u64; N],
) -> Vec<Sample> {
    let numbers = names.iter().zip(numbers);
    numbers.map(|(name, number)| sample([(label, *name)], Value::Number(number))).collect()
}

fn times_by<const N: usize>(
    label: &'static str,
    names: [&'static str; N],
    times: [Latencies; N],
) -> Vec<Sample> {
    let times = names.iter().zip(times);
    times.map(|(name, times)| sample([(label, *name)], Value::Times(times))).collect()
}

fn labelled(label: &'static str, values: Vec<(&'static str, u64)>) -> Vec<Sample> {
    let values = values.into_iter();
    values.map(|(name, number)| sample([(label, name)], Value::Number(number))).collect()
}

fn ends(observed: &Observed) -> Vec<Sample> {
    let ends = observed.counters.ended.values().into_iter();
    ends.map(|((role, by, code), number)| {
        sample([("role", role.name()), ("by", by), ("code", code)], Value::Number(number))
    })
    .collect()
}

fn failures(observed: &Observed) -> Vec<Sample> {
    let sides = SIDES.iter().zip(&observed.counters.handshakes.failures);
    sides
        .flat_map(|(side, failures)| {
            let failures = failures.values().into_iter();
            failures.map(|(reason, number)| {
                sample([("side", *side), ("reason", reason)], Value::Number(number))
            })
        })
        .collect()
}

fn path_states(paths: [[u64; STATES.len()]; 2]) -> Vec<Sample> {
    let kinds = PATHS.iter().zip(paths);
    kinds
        .flat_map(|(kind, counts)| {
            let counts = STATES.iter().zip(counts);
            counts.map(|(status, count)| {
                sample([("path", *kind), ("state", status.name())], Value::Number(count))
            })
        })
        .collect()
}
