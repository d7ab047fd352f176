//! CUBIC (RFC 9438) that answers full queues, and not what is lost by chance.
//!
//! A loss is answered
//!
//! - when round trips are long and more is lost than chance explains: the queue is full;
//! - when a round loses far more than chance: there may be no queue that shows. If the round after
//!   it loses as much with the smaller window, that was chance as well, for as long as it lasts;
//! - when no more is lost than CUBIC loses at this window by itself: to answer costs nothing, and
//!   among many who share a full queue it is what all do.
//!
//! What else is lost is chance. Its share is measured while round trips are short and the window is
//! below what overflowed. Slow start ends when a queue shows (RFC 9406), not when it overflows.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kwik_proto::stats::{CongestionState, CongestionStats};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::losses::{Losses, Sum};
use super::round_trips::RoundTrips;
use super::tuning::{
    BASE_LASTS, BETA, FIRST_WINDOW, LEAST_RISE, LOW, MOST_RISE, OWN, RISE_SAMPLES, SHARE_LOST,
    SIGMA, SLOWER, SLOWER_ROUNDS,
};

/// See [`Tolerant::after`].
const AFTER: u8 = 2;

/// One round trip: what is acknowledged until something is that was sent after it began.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    all: Sum,
    /// What of it measures chance.
    low: Sum,
    /// The least round trip, of so many acknowledgements.
    rtt: Option<Duration>,
    samples: u32,
}

impl Round {
    fn new(now: Instant) -> Self {
        let (all, low) = (Sum::default(), Sum::default());
        Self { began: now, all, low, rtt: None, samples: 0 }
    }
}

/// Slow start.
#[derive(Debug, Clone, Copy)]
struct Start {
    window: u64,
    /// It grows slower since the round trip was so long, for so many rounds.
    slower: Option<(Duration, u32)>,
}

impl Start {
    /// A queue begins to show, or went again.
    fn on_rtt(&mut self, floor: Duration, round: &Round) {
        let rise = (floor / 8).clamp(LEAST_RISE, MOST_RISE);
        let Some(least) = round.rtt.filter(|_| round.samples >= RISE_SAMPLES) else { return };
        if self.slower.is_none() && least >= floor + rise {
            self.slower = Some((least, 0));
        }
    }

    /// A round is over: whether slow start is, too.
    fn on_round(&mut self, rtt: Duration) -> bool {
        let Some((since, rounds)) = self.slower else { return false };
        self.slower = (rtt >= since).then_some((since, rounds + 1));
        self.slower.is_some_and(|(_, rounds)| rounds >= SLOWER_ROUNDS)
    }
}

/// What sets the window.
enum Rule {
    Start(Start),
    Cubic(Box<dyn Controller>),
}

/// See the module.
pub(super) struct Tolerant {
    mtu: u64,
    rule: Rule,
    round_trips: RoundTrips,
    losses: Losses,
    round: Round,
    /// The last round's [`Round::low`]: it measures chance once no overflow followed.
    before: Sum,
    /// The window that overflowed last.
    most: u64,
    /// Losses of what was sent before are answered.
    answered: Instant,
    /// So many rounds since one lost far more than chance are not over: one in which what was sent
    /// before is acknowledged, and one that shows what the answer to it changed.
    after: u8,
    /// Share that was lost in the latter, and at the least in each since.
    remains: f64,
    /// When what was seen of round trips was last looked at anew.
    cycle: Instant,
    /// The least round trip of the round before, and the last one of all.
    before_rtt: Duration,
    last_rtt: Duration,
    /// What is acknowledged now.
    acked: Acked,
    told: Told,
}

#[derive(Default, Clone, Copy)]
struct Acked {
    bytes: u64,
    /// When the newest of its packets was sent.
    newest: Option<Instant>,
}

/// For [`CongestionStats`].
#[derive(Default, Clone, Copy)]
struct Told {
    answers: u64,
    by_chance: u64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn part(window: u64, factor: f64) -> u64 {
    (window as f64 * factor) as u64
}

/// CUBIC that answers a loss at this window, or many that say that the link fell silent.
fn cubic(now: Instant, mtu: u64, window: u64, persistent: bool) -> Box<dyn Controller> {
    let mut config = CubicConfig::default();
    config.initial_window(window.max(2 * mtu));
    let mut cubic = Arc::new(config).build(now, u16::try_from(mtu).unwrap_or(u16::MAX));
    cubic.on_congestion_event(now, now, persistent, mtu);
    cubic
}

impl Tolerant {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            rule: Rule::Start(Start { window: FIRST_WINDOW * mtu, slower: None }),
            round_trips: RoundTrips::new(now),
            losses: Losses::default(),
            round: Round::new(now),
            before: Sum::default(),
            most: u64::MAX,
            answered: now,
            after: 0,
            remains: 0.0,
            cycle: now,
            before_rtt: Duration::ZERO,
            last_rtt: Duration::ZERO,
            acked: Acked::default(),
            told: Told::default(),
        }
    }

    pub(super) fn stats(&self) -> CongestionStats {
        let state = match self.rule {
            Rule::Start(_) => CongestionState::SlowStart,
            Rule::Cubic(_) => CongestionState::Avoidance,
        };
        let mut stats = CongestionStats::new(self.window(), state);
        stats.least_rtt = Some(self.round_trips.floor()).filter(|floor| !floor.is_zero());
        (stats.answered, stats.by_chance) = (Some(self.told.answers), Some(self.told.by_chance));
        stats
    }

    /// Slow start is over.
    fn is_started(&self) -> bool {
        matches!(self.rule, Rule::Cubic(_))
    }

    /// Whether what is seen now measures chance, where round trips are short.
    fn is_low(&self) -> bool {
        self.window() <= part(self.most, LOW)
    }

    /// Whether the queue is nearly full. One acknowledgement may be late for other reasons, as
    /// where a machine is busy. In slow start, which a mistake would end for good, several have to
    /// be.
    fn is_high(&self) -> bool {
        let several = self.round.rtt.filter(|_| self.round.samples >= RISE_SAMPLES);
        let several = several.unwrap_or(self.before_rtt);
        self.round_trips.is_high(if self.is_started() { self.last_rtt } else { several })
    }

    /// More was lost while the queue was nearly full than chance explains. When slow start has seen
    /// none for long, it was lost of a window.
    fn is_high_excess(&self) -> bool {
        let least = if self.is_started() { 0 } else { self.window() };
        self.losses.exceed_chance(least, self.mtu)
    }

    /// The round has lost far more than chance.
    fn is_excess(&self) -> bool {
        let mtu = self.mtu as f64;
        let sent = self.round.all.delivered.max(self.window() as f64) + self.round.all.lost;
        let chance = self.losses.share_with(Sum::default(), self.mtu).max(self.remains);
        let expected = sent / mtu * (chance + SHARE_LOST);
        let tolerated = expected + 1.0 + SIGMA * expected.sqrt();
        self.after == 0 && self.round.all.lost / mtu > tolerated
    }

    /// No more is lost than CUBIC loses at this window by itself. Slow start has no such measure.
    fn is_own(&self) -> bool {
        let window = self.window() as f64 / self.mtu as f64;
        let share = self.losses.share_with(self.round.low, self.mtu);
        self.is_started() && share * window.powi(2) <= OWN
    }

    /// What the round before this one lost is chance.
    fn on_chance(&mut self) {
        let before = std::mem::replace(&mut self.before, self.round.low);
        self.losses.on_low(before, self.mtu);
    }

    /// A queue overflowed, or the link fell silent.
    fn answer(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.most = self.window();
        self.told.answers += 1;
        match &mut self.rule {
            Rule::Start(_) => {
                self.rule = Rule::Cubic(cubic(now, self.mtu, self.most, persistent));
            }
            Rule::Cubic(cubic) => cubic.on_congestion_event(now, sent, persistent, lost),
        }
        self.losses.answered();
        self.answered = now;
        self.begin_cycle(now);
        self.round = Round::new(now);
    }

    fn begin_cycle(&mut self, now: Instant) {
        self.round_trips.on_cycle();
        self.cycle = now;
    }

    fn end_round(&mut self, now: Instant) {
        if let Some(rtt) = self.round.rtt {
            self.round_trips.on_round(rtt);
            self.before_rtt = rtt;
            if let Rule::Start(start) = &mut self.rule
                && start.on_round(rtt)
            {
                let before = part(start.window, 1.0 / BETA);
                self.rule = Rule::Cubic(cubic(now, self.mtu, before, false));
            }
        }
        let share = self.round.all.lost / self.round.all.all().max(1.0);
        self.remains = match self.after {
            0 => self.remains.min(share),
            1 => share,
            _ => 0.0,
        };
        self.after = self.after.saturating_sub(1);
        self.on_chance();
        self.losses.fade();
        if now >= self.cycle + BASE_LASTS {
            self.begin_cycle(now);
        }
        self.round = Round::new(now);
    }
}

impl Controller for Tolerant {
    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.acked.bytes += bytes;
        self.acked.newest = self.acked.newest.max(Some(sent));
        match &mut self.rule {
            Rule::Start(_) if app_limited => {}
            Rule::Start(start) => start.window += bytes / start.slower.map_or(1, |_| SLOWER),
            Rule::Cubic(cubic) => cubic.on_ack(now, sent, bytes, app_limited, rtt),
        }
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, _: Option<u64>) {
        let Acked { bytes: acked, newest } = std::mem::take(&mut self.acked);
        self.round.all.delivered += acked as f64;
        let Some(sent) = newest else { return };
        let rtt = now.saturating_duration_since(sent);
        self.last_rtt = rtt;
        self.round_trips.on_rtt(now, rtt);
        if self.is_high() {
            self.losses.on_delivered(acked, true, self.mtu);
        } else if self.is_low() {
            self.round.low.delivered += acked as f64;
        }
        self.round.rtt = Some(self.round.rtt.map_or(rtt, |least| least.min(rtt)));
        self.round.samples += 1;
        if let Rule::Start(start) = &mut self.rule {
            start.on_rtt(self.round_trips.floor(), &self.round);
        }
        if sent >= self.round.began {
            self.end_round(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        if sent < self.answered {
            return;
        }
        if persistent {
            return self.answer(now, sent, true, lost);
        }
        // A mark (RFC 3168) tells of a full queue as a loss does.
        let high = lost == 0 || self.is_high();
        let lost = if lost == 0 { self.mtu } else { lost };
        self.round.all.lost += lost as f64;
        if high {
            self.losses.on_lost(lost, true);
        } else if self.is_low() {
            self.round.low.lost += lost as f64;
        }
        let excess = self.is_excess();
        if excess || self.is_high_excess() || (!high && self.is_own()) {
            if excess || !self.is_started() {
                // This began before it was so much.
                self.before = Sum::default();
            } else {
                self.on_chance();
            }
            self.answer(now, sent, false, lost);
            self.after = if excess { AFTER } else { 0 };
        } else {
            self.told.by_chance += lost;
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        if let Rule::Cubic(cubic) = &mut self.rule {
            cubic.on_mtu_update(new_mtu);
        }
    }

    fn window(&self) -> u64 {
        match &self.rule {
            Rule::Start(start) => start.window,
            Rule::Cubic(cubic) => cubic.window(),
        }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let rule = match &self.rule {
            Rule::Start(start) => Rule::Start(*start),
            Rule::Cubic(cubic) => Rule::Cubic(cubic.clone_box()),
        };
        Box::new(Self { rule, ..*self })
    }

    fn initial_window(&self) -> u64 {
        FIRST_WINDOW * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests;
