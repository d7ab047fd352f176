//! Counters that rise with events: relaxed atomics, so that nobody waits for another.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use kwik_proto::presentation::BackpressureStats;
use kwik_proto::stats::{Latencies, SessionStats};
use kwik_proto::sync::lock;

use crate::quic::QuicStats;

use super::role::SessionRole;

/// A number that rises.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Numbers by a label, of which there are few: rare events, so a lock is no matter.
#[derive(Debug, Default)]
pub(super) struct Labelled(Mutex<Vec<(&'static str, u64)>>);

impl Labelled {
    pub(super) fn add(&self, label: &'static str) {
        let mut counts = lock(&self.0);
        match counts.iter_mut().find(|(known, _)| *known == label) {
            Some((_, count)) => *count += 1,
            None => counts.push((label, 1)),
        }
    }

    pub(super) fn values(&self) -> Vec<(&'static str, u64)> {
        lock(&self.0).clone()
    }
}

/// How sessions ended: role, by whom, code.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<Vec<End>>);

/// One way to end, and how often.
pub(super) type End = ((SessionRole, &'static str, &'static str), u64);

impl Ends {
    pub(super) fn add(&self, role: SessionRole, by: &'static str, code: &'static str) {
        let mut ends = lock(&self.0);
        let key = (role, by, code);
        match ends.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += 1,
            None => ends.push((key, 1)),
        }
    }

    pub(super) fn values(&self) -> Vec<End> {
        lock(&self.0).clone()
    }
}

/// A histogram of times.
#[derive(Debug, Default)]
pub(super) struct Times {
    counts: [AtomicU64; 13],
    micros: AtomicU64,
}

impl Times {
    pub(super) fn note(&self, time: Duration) {
        self.counts[Latencies::place(time)].fetch_add(1, Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn value(&self) -> Latencies {
        let counts = self.counts.each_ref().map(|count| count.load(Relaxed));
        Latencies { counts, total: Duration::from_micros(self.micros.load(Relaxed)) }
    }
}

/// What connections have counted that are gone.
#[derive(Debug, Default)]
pub(super) struct Connections(Mutex<QuicTotals>);

/// Sums over connections.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct QuicTotals {
    pub(super) datagrams: [u64; 2],
    pub(super) bytes: [u64; 2],
    pub(super) packets: u64,
    pub(super) lost: u64,
    pub(super) congestion: u64,
    /// Of those that live alone.
    pub(super) cwnd: u64,
}

impl QuicTotals {
    pub(super) fn add(&mut self, stats: &QuicStats) {
        self.datagrams[0] += stats.sent_datagrams;
        self.datagrams[1] += stats.received_datagrams;
        self.bytes[0] += stats.sent_bytes;
        self.bytes[1] += stats.received_bytes;
        self.packets += stats.sent_packets;
        self.lost += stats.lost_packets;
        self.congestion += stats.congestion_events;
    }
}

impl Connections {
    pub(super) fn add(&self, stats: &QuicStats) {
        lock(&self.0).add(stats);
    }

    pub(super) fn value(&self) -> QuicTotals {
        *lock(&self.0)
    }
}

/// What sessions have counted that are over.
#[derive(Debug, Default)]
pub(super) struct Totals(Mutex<SessionTotals>);

/// Sums over sessions.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct SessionTotals {
    pub(super) sent: u64,
    pub(super) gaps: u64,
    /// Received twice, moved, reclaimed, unasked, in bytes.
    pub(super) copies: [u64; 4],
    /// How often and for how long, by reason: see [`SessionTotals::REASONS`].
    pub(super) pressed: [(u64, Duration); 4],
    pub(super) aggregation: Latencies,
}

impl SessionTotals {
    /// Labels of backpressure.
    pub(super) const REASONS: [&'static str; 4] =
        ["buffer_full", "slow_consumer", "window_full", "memory_pressure"];

    pub(super) fn add(&mut self, stats: &SessionStats) {
        self.sent += stats.sent;
        self.gaps += stats.gaps;
        let copies = &stats.duplicates;
        let copies = [copies.received, copies.moved, copies.reclaimed, copies.unasked];
        for (sum, more) in self.copies.iter_mut().zip(copies) {
            *sum += more;
        }
        let BackpressureStats { buffer_full, slow_consumer, window_full, memory_pressure, .. } =
            stats.backpressure;
        let reasons = [buffer_full, slow_consumer, window_full, memory_pressure];
        for ((count, time), more) in self.pressed.iter_mut().zip(reasons) {
            *count += more.count;
            *time += more.total;
        }
        self.aggregation.add(&stats.aggregation);
    }
}

impl Totals {
    pub(super) fn add(&self, stats: Option<&SessionStats>) {
        if let Some(stats) = stats {
            lock(&self.0).add(stats);
        }
    }

    pub(super) fn value(&self) -> SessionTotals {
        *lock(&self.0)
    }
}

/// What became of attempts to connect.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// How long they took, at clients, and at servers.
    pub(super) took: [Times; 2],
    /// Why they failed; the same.
    pub(super) failures: [Labelled; 2],
    /// Those that were turned away before.
    pub(super) refused: Labelled,
    pub(super) validations: Counter,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// By [`SessionRole`].
    pub(super) begun: [Counter; 3],
    pub(super) ended: Ends,
    /// By [`SessionRole`]; a secondary's are never.
    pub(super) resumed: [Counter; 3],
    pub(super) handshakes: Handshakes,
    /// Payload over the primary's path, and over others.
    pub(super) received: [Counter; 2],
    pub(super) conflicting: Counter,
    pub(super) rtt: Times,
    pub(super) control: Times,
    pub(super) switches: Times,
    pub(super) path_changes: Labelled,
    pub(super) leases: Labelled,
    pub(super) events: Labelled,
    pub(super) quic: Connections,
    pub(super) totals: Totals,
}
