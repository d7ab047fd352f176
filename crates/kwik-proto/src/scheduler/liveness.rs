//! Whether a path lives: apart from how fast it is ([`super::model`]).

use std::time::{Duration, Instant};

use crate::limits;

use super::tuning::{FORGET, MAX_RETURNS, MAX_STRIKES, MAX_WOBBLE, PROGRESS, WORTH};

/// When a path was heard of, and what it is granted before it is given up.
#[derive(Debug)]
pub(super) struct Liveness {
    /// When it last showed progress with what it was asked for.
    last_progress: Instant,
    /// When anything was heard of it.
    last_heard: Instant,
    /// When it last brought something, or was asked after a pause.
    last_brought: Instant,
    /// When its connection last received anything at all, be it an acknowledgement.
    last_arrived: Instant,
    /// What its connection has received, and had when it last showed progress.
    arrived: (u64, u64),
    /// What it brought since it last brought what is worth something.
    brought: u64,
    /// The longest silence since then.
    paused: Duration,
    /// The longest silence of late that ended by itself, and when: another may last as long.
    wobble: (Duration, Instant),
    /// How often in a row it fell silent, and until when it gets nothing new for that.
    strikes: u32,
    rest_until: Option<Instant>,
    /// When it did so first.
    struck_at: Instant,
    /// Pieces in a row that it returned.
    returns: u32,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_progress: now,
            last_heard: now,
            last_brought: now,
            last_arrived: now,
            arrived: (0, 0),
            brought: 0,
            paused: Duration::ZERO,
            wobble: (Duration::ZERO, now),
            strikes: 0,
            rest_until: None,
            struck_at: now,
            returns: 0,
        }
    }

    /// It is asked for something after a pause.
    pub(super) fn on_asked(&mut self, now: Instant) {
        (self.brought, self.paused) = (0, Duration::ZERO);
        self.last_progress = now;
        self.last_heard = now;
        self.last_brought = now;
    }

    /// A sign of life, which need not be progress.
    pub(super) fn on_alive(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// It brought so many bytes. True when that is worth something: a server that brings a byte now
    /// and then is silent.
    pub(super) fn on_received(&mut self, bytes: u64, now: Instant) -> bool {
        self.brought += bytes;
        let worth = self.brought >= WORTH;
        if worth {
            self.on_brought(now);
        }
        worth
    }

    /// Its connection has received `total` bytes: progress while a lost packet is repeated. But
    /// bytes that bring nothing for long are none.
    pub(super) fn on_arrived(&mut self, total: u64, now: Instant) {
        if total > self.arrived.0 {
            self.last_arrived = now;
            self.arrived.0 = total;
        }
        if total.saturating_sub(self.arrived.1) >= PROGRESS {
            self.arrived.1 = total;
            self.on_progress(now);
        }
    }

    fn on_progress(&mut self, now: Instant) {
        let silent = now.saturating_duration_since(self.last_progress).min(MAX_WOBBLE);
        self.paused = self.paused.max(silent);
        self.last_progress = now;
        self.last_heard = now;
    }

    /// It brought what it was asked for: its silences before were no more than that.
    fn on_brought(&mut self, now: Instant) {
        self.on_progress(now);
        if self.paused > self.wobble(now) {
            self.wobble = (self.paused, now);
        }
        self.arrived.1 = self.arrived.0;
        self.last_brought = now;
        (self.brought, self.paused) = (0, Duration::ZERO);
        (self.strikes, self.rest_until) = (0, None);
    }

    /// What is left of the longest silence that ended by itself.
    fn wobble(&self, now: Instant) -> Duration {
        let (longest, at) = self.wobble;
        let halves = now.saturating_duration_since(at).as_secs_f64() / FORGET.as_secs_f64();
        longest.div_f64(halves.exp2())
    }

    /// It fell silent, or returned what it was asked for: it rests, twice as long each time, lest a
    /// server that answers but sends nothing gets what the reader needs next over and over.
    pub(super) fn on_suspect(&mut self, now: Instant) {
        if self.strikes == 0 {
            self.struck_at = now;
        }
        self.strikes = (self.strikes + 1).min(MAX_STRIKES);
        self.rest_until = Some(now + limits::SUSPECT_AFTER * (1 << self.strikes));
    }

    /// It fell silent again and again, for so long that it counts as stalled: each time others were
    /// asked instead, and it brought nothing between.
    pub(super) fn is_spent(&self, rtt: Duration, now: Instant) -> bool {
        self.strikes == MAX_STRIKES && self.struck_at + limits::STALLED_AFTER.max(rtt * 3) <= now
    }

    /// It is leased something after a pause.
    pub(super) fn on_leased(&mut self, now: Instant) {
        self.last_brought = now;
    }

    /// It returned a piece. True when it did so too often in a row. What it returns while it rests
    /// is of what it was asked for before, and counts once.
    pub(super) fn on_returned(&mut self, now: Instant) -> bool {
        if self.rest_until.is_some() {
            return false;
        }
        self.returns += 1;
        self.on_suspect(now);
        self.returns >= MAX_RETURNS
    }

    /// It brought a whole piece, be it small.
    pub(super) fn on_piece(&mut self, now: Instant) {
        self.returns = 0;
        self.on_brought(now);
    }

    /// It spoke again: what is still outstanding gets another chance.
    pub(super) fn on_recovered(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// It was dead and speaks.
    pub(super) fn on_revived(&mut self) {
        (self.strikes, self.rest_until) = (0, None);
    }

    pub(super) fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    pub(super) fn end_rest(&mut self) {
        self.rest_until = None;
    }

    /// How long it may be silent, where its model allows `patience`.
    pub(super) fn tolerance(&self, patience: Duration) -> Duration {
        let wobble = self.wobble(self.last_progress) * 3 / 2;
        limits::SUSPECT_AFTER.max(patience).max(wobble)
    }

    /// When it becomes suspect unless it speaks.
    pub(super) fn suspect_at(&self, patience: Duration) -> Instant {
        self.last_progress + self.tolerance(patience)
    }

    /// When it counts as dead unless it speaks.
    pub(super) fn dead_at(&self, rtt: Duration) -> Instant {
        self.last_heard + limits::DEAD_AFTER.max(rtt * 3)
    }

    /// When it loses its leases unless it brings something, though it may live.
    pub(super) fn stalled_at(&self, rtt: Duration) -> Instant {
        self.last_brought + limits::STALLED_AFTER.max(rtt * 3)
    }

    /// Its connection receives something.
    pub(super) fn is_reachable(&self, rtt: Duration, now: Instant) -> bool {
        self.last_arrived.max(self.last_heard) + limits::DEAD_AFTER.max(rtt * 3) > now
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub(super) fn last_brought(&self) -> Instant {
        self.last_brought
    }
}
