//! What a session has yet to deliver, and how fast the primary does.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::Rate;
use crate::limits::LOOK_LEAST;

/// What the fetches of one session want.
#[derive(Debug)]
pub(in crate::server) struct Demand {
    wants: Mutex<Wants>,
    changed: Notify,
}

#[derive(Debug)]
struct Wants {
    /// By the order in which they came.
    live: BTreeMap<u64, Left>,
    next: u64,
    /// Bytes that the primary wrote in this session.
    written: u64,
    /// When the last of them ended.
    idle_since: Instant,
    /// Edges that might join and have not failed yet.
    untried: usize,
}

#[derive(Debug)]
struct Left {
    bytes: u64,
    /// The primary is not to bring them.
    foreign: bool,
}

/// What is left at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) left: u64,
    pub(super) foreign: u64,
    pub(super) written: u64,
    pub(super) idle: Duration,
}

impl Demand {
    pub(in crate::server) fn new() -> Self {
        let wants = Wants {
            live: BTreeMap::new(),
            next: 0,
            written: 0,
            idle_since: Instant::now(),
            untried: usize::MAX,
        };
        Self { wants: Mutex::new(wants), changed: Notify::new() }
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        // Sums are whole between statements, so a panic elsewhere leaves them usable.
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are to be delivered from now on; `foreign` ones not by the primary.
    pub(in crate::server) fn want(&self, bytes: u64, foreign: bool) -> Want<'_> {
        let mut wants = self.wants();
        let id = wants.next;
        wants.next += 1;
        wants.live.insert(id, Left { bytes, foreign });
        drop(wants);
        self.changed.notify_one();
        Want { demand: self, id }
    }

    /// Edges brought bytes. Of which fetch they were is not known: the oldest come first.
    pub(super) fn on_edges_brought(&self, mut bytes: u64) {
        for left in self.wants().live.values_mut() {
            let part = bytes.min(left.bytes);
            left.bytes -= part;
            bytes -= part;
        }
    }

    pub(super) fn rest(&self, now: Instant) -> Rest {
        let wants = self.wants();
        // A fetch whose bytes are all under way is not done before its end is known.
        let bytes = |left: &Left| left.bytes.max(1);
        let sum = |only: fn(&Left) -> bool| {
            let live = wants.live.values().filter(|left| only(left));
            live.map(bytes).fold(0, u64::saturating_add)
        };
        let (left, foreign) = (sum(|_| true), sum(|left| left.foreign));
        let idle = match left {
            0 => now.saturating_duration_since(wants.idle_since),
            _ => Duration::ZERO,
        };
        Rest { left, foreign, written: wants.written, idle }
    }

    pub(super) fn set_untried(&self, untried: usize) {
        self.wants().untried = untried;
    }

    /// Whether an edge may join that has not failed yet.
    pub(in crate::server) fn has_untried(&self) -> bool {
        self.wants().untried > 0
    }

    /// Waits until a fetch has begun, or the last one ended.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// One fetch's part of the demand, until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct Want<'a> {
    demand: &'a Demand,
    id: u64,
}

impl Want<'_> {
    /// The primary itself wrote some of it.
    pub(in crate::server) fn on_written(&self, bytes: u64) {
        let mut wants = self.demand.wants();
        wants.written = wants.written.saturating_add(bytes);
        if let Some(left) = wants.live.get_mut(&self.id) {
            left.bytes = left.bytes.saturating_sub(bytes);
        }
    }
}

impl Drop for Want<'_> {
    fn drop(&mut self) {
        let mut wants = self.demand.wants();
        wants.live.remove(&self.id);
        if wants.live.is_empty() {
            wants.idle_since = Instant::now();
            drop(wants);
            self.demand.changed.notify_one();
        }
    }
}

/// Measures what the primary itself delivers.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// When the window began that is measured now, and what had arrived by then.
    window: Option<(Instant, u64)>,
    rate: Option<Rate>,
}

impl Meter {
    /// `arrived` bytes were acknowledged so far, and `busy` says that more are under way. A window
    /// that ends without any says what the client asked for, not what its link can do: it does not
    /// count.
    pub(super) fn sample(&mut self, now: Instant, arrived: u64, busy: bool, rtt: Duration) {
        let Some((began, before)) = self.window else {
            self.window = busy.then_some((now, arrived));
            return;
        };
        let time = now.saturating_duration_since(began);
        if busy && time < rtt.max(LOOK_LEAST) {
            return;
        }
        self.window = busy.then_some((now, arrived));
        if busy {
            let bytes = u128::from(arrived.saturating_sub(before)) * 1_000_000;
            let bytes = u64::try_from(bytes / time.as_micros().max(1)).unwrap_or(u64::MAX);
            // Slow start doubles it each round trip, so half as much again is growth.
            let grew = |rate: Rate| rate.growing && bytes >= rate.bytes.saturating_mul(3) / 2;
            self.rate = Some(Rate { bytes, growing: self.rate.is_none_or(grew) });
        }
    }

    pub(super) fn rate(&self) -> Option<Rate> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_fetches_add_up_and_what_was_brought_goes_off() {
        let demand = Demand::new();
        let rest = || demand.rest(Instant::now());
        assert_eq!((rest().left, rest().foreign), (0, 0));
        let (one, two) = (demand.want(1000, false), demand.want(500, true));
        assert_eq!((rest().left, rest().foreign), (1500, 500));
        one.on_written(300);
        assert_eq!((rest().left, rest().written), (1200, 300));
        demand.on_edges_brought(900);
        // The first has all but its end.
        assert_eq!((rest().left, rest().foreign), (301, 300));
        drop(one);
        assert_eq!((rest().left, rest().idle), (300, Duration::ZERO));
        drop(two);
        assert_eq!((rest().left, rest().written), (0, 300));
    }

    #[test]
    fn a_rate_grows_in_slow_start_and_is_not_lowered_by_a_client_that_asks_for_nothing() {
        let (mut meter, mut now) = (Meter::default(), Instant::now());
        let rtt = Duration::from_millis(100);
        meter.sample(now, 0, true, rtt);
        assert_eq!(meter.rate(), None);
        for (arrived, busy, rate) in [
            (10_000, true, Some((100_000, true))),
            (30_000, true, Some((200_000, true))),
            (55_000, true, Some((250_000, false))),
            (95_000, true, Some((400_000, false))),
            (95_000, false, Some((400_000, false))),
            (95_000, true, Some((400_000, false))),
            (195_000, true, Some((1_000_000, false))),
        ] {
            now += rtt;
            meter.sample(now, arrived, busy, rtt);
            let rate = rate.map(|(bytes, growing)| Rate { bytes, growing });
            assert_eq!(meter.rate(), rate, "{arrived}");
        }
    }
}
