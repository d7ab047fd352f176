//! A controller by a model of the path: how fast it delivers, how long a round trip takes without
//! a queue, and which losses are chance (after draft-ietf-ccwg-bbr; `docs/congestion.md` says where
//! it departs).
//!
//! ```text
//!  Startup --> Drain --> Cruise --> Up --> Down --> Cruise
//!     |          |         |                 ^ |
//!     |          +---------|-----------------+ |
//!     +------------------> Crowd <-------------+
//!                           | ^
//!                           v |
//!                          Yield --> Cruise
//! ```
//!
//! The transitions are a table in [`state`].

mod deliveries;
mod path;
mod state;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kwik_proto::stats::{CongestionState, CongestionStats};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;

use super::losses::Losses;
use super::tuning;
use super::tuning::{
    ALONE, BETA, CRUISE_LOSS, CRUISE_ROUNDS, CRUISE_SPREAD, DRAIN, FIRST_WINDOW, FOLLOWED, FOREIGN,
    FOREIGN_NOISE, GROWTH, HELD, LEAST_RISE, LEAST_WINDOW, MOST_RISE, PACKETS_LOST, PROBE_LOSS,
    PROBE_QUEUE, PROBE_ROUNDS, PROBE_SHARE, QUEUE_NOISE, QUEUED, RISE_SAMPLES, SHARE_LOST,
    START_GAIN, YIELD,
};
use deliveries::{Deliveries, Sample};
use path::Path;
use state::{Finding, State};

/// One round trip: from a packet's sending until it is acknowledged.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// It is over when a packet is acknowledged before which this had been delivered.
    end: u64,
    /// What had been delivered and lost when it began.
    delivered: u64,
    lost: u64,
    /// The least round trip, of so many acknowledgements.
    rtt: Option<Duration>,
    samples: u32,
    /// The highest rate, in bytes a second.
    rate: f64,
    app_limited: bool,
    /// Most bytes that were in flight.
    most: u64,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn bytes(value: f64) -> u64 {
    value as u64
}

/// Bytes that may be in flight after losses. It grows while there are none: by a packet a round,
/// while probing by twice as much each round. So whoever has little gains as much as who has a lot.
#[derive(Debug, Clone, Copy)]
struct Cap {
    bytes: f64,
    step: f64,
}

/// See the module.
pub(super) struct Model {
    mtu: u64,
    in_flight: u64,
    window: u64,
    deliveries: Deliveries,
    path: Path,
    losses: Losses,
    round: Round,
    state: State,
    /// When it began.
    since: Instant,
    /// What had been delivered when a queue was drained that this state drains.
    drained: Option<u64>,
    cap: Option<Cap>,
    /// Rules in a crowd: the library's CUBIC, which is told of overflows alone.
    crowd: Option<Box<dyn Controller>>,
    last_rtt: Duration,
    smoothed_rtt: Duration,
    /// Bytes that this acknowledgement tells of.
    acked: u64,
}

impl Model {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        let mtu = u64::from(mtu);
        Self {
            mtu,
            in_flight: 0,
            window: FIRST_WINDOW * mtu,
            deliveries: Deliveries::new(now),
            path: Path::new(now),
            losses: Losses::default(),
            round: Round::default(),
            state: State::Startup { flat: 0, best: 0.0 },
            since: now,
            drained: None,
            cap: None,
            crowd: None,
            last_rtt: Duration::ZERO,
            smoothed_rtt: Duration::ZERO,
            acked: 0,
        }
    }

    pub(super) fn stats(&self) -> CongestionStats {
        let state = match self.state {
            State::Startup { .. } => CongestionState::SlowStart,
            State::Drain { .. } | State::Down | State::Yield { .. } => CongestionState::Drain,
            State::Cruise { .. } => CongestionState::Cruise,
            State::Up { .. } => CongestionState::Probe,
            State::Crowd { .. } => CongestionState::Crowd,
        };
        let mut stats = CongestionStats::new(self.window, state);
        stats.rate = Some(bytes(self.path.rate())).filter(|rate| *rate > 0);
        stats.least_rtt = Some(self.path.floor()).filter(|floor| !floor.is_zero());
        stats
    }

    fn least(&self) -> u64 {
        LEAST_WINDOW * self.mtu
    }

    /// Bytes that may be in flight in this state.
    fn target(&self) -> u64 {
        let crowd = self.crowd.as_ref().map(|crowd| crowd.window());
        let slack = self.path.slack(self.mtu);
        let wanted = match self.state {
            State::Startup { .. } => return self.window,
            State::Crowd { .. } => return crowd.unwrap_or(self.window),
            State::Yield { .. } => {
                return bytes(crowd.unwrap_or(self.window) as f64 * YIELD).max(2 * self.mtu);
            }
            // QUIC paces by the window and the smoothed round trip, which remembers the queue.
            State::Drain { .. } => {
                let paced = self.path.rate() * self.smoothed_rtt.as_secs_f64();
                self.path.volume().max(paced * DRAIN)
            }
            State::Cruise { .. } => self.path.volume() + slack,
            State::Up { share, .. } => self.path.volume() * (1.0 + share) + slack,
            State::Down => self.path.volume(),
        };
        let wanted = self.cap.map_or(wanted, |cap| cap.bytes.min(wanted));
        bytes(wanted).max(self.least())
    }

    fn enter(&mut self, now: Instant, state: State) {
        (self.state, self.since, self.drained) = (state, now, None);
    }

    /// As many rounds for each connection, and each time, as the bytes that it delivered say.
    fn cruise(&mut self, now: Instant) {
        self.losses.answered();
        let mixed = self.deliveries.delivered.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let spread = u32::try_from(mixed % u64::from(CRUISE_SPREAD)).unwrap_or(0);
        self.enter(now, State::Cruise { rounds: CRUISE_ROUNDS + spread });
    }

    /// Others fill the queue: be as they are, from that window on.
    fn join_crowd(&mut self, now: Instant, window: f64) {
        let mut config = CubicConfig::default();
        // Its first loss puts it behind its slow start.
        config.initial_window(bytes(window.max(self.least() as f64) / BETA));
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        let mut crowd = Arc::new(config).build(now, mtu);
        crowd.on_congestion_event(now, now, false, self.mtu);
        self.crowd = Some(crowd);
        self.losses.answered();
        self.enter(now, State::crowd());
    }

    /// Nobody else is there.
    fn leave_crowd(&mut self, now: Instant, base: Duration) {
        (self.crowd, self.cap) = (None, None);
        self.path.restart(now, self.round.rate, base);
        self.cruise(now);
    }

    /// Slow start meets a queue, which is ours or that of others.
    fn queue_builds(&self) -> bool {
        let base = self.path.base();
        let rise = (base / 8).clamp(LEAST_RISE, MOST_RISE);
        let used = self.round.most >= self.window / 2;
        self.round.samples >= RISE_SAMPLES
            && used
            && self.round.rtt.is_some_and(|rtt| rtt >= base + rise)
    }

    /// More was lost in this round than a queue explains.
    fn loses_too_much(&self, delivered: u64, lost: u64) -> bool {
        let tolerated = (delivered + lost) as f64 * (self.losses.by_chance() + SHARE_LOST);
        lost as f64 > tolerated + (PACKETS_LOST * self.mtu) as f64
    }

    /// Whether a queue overflowed since that was last answered.
    fn overflowed(&self) -> bool {
        match self.state {
            State::Crowd { .. } if !self.losses.loses_by_chance() => self.losses.any_high(),
            State::Up { .. } => self.losses.overflowed(PROBE_LOSS, self.mtu),
            _ => self.losses.overflowed(CRUISE_LOSS, self.mtu),
        }
    }

    /// A probe was too much; that was delivered in its round.
    fn end_probe(&mut self, now: Instant, delivered: u64) {
        let window = self.window as f64;
        let bytes = (delivered as f64 * HELD).clamp(window / 2.0, window);
        self.cap = Some(Cap { bytes, step: self.mtu as f64 });
        self.losses.answered();
        self.enter(now, State::Down);
    }

    /// What a round that is over tells; the state's table says what follows.
    fn finding(&self, round: &Round) -> Finding {
        let delivered = self.deliveries.delivered - round.delivered;
        let lost = self.deliveries.lost - round.lost;
        match self.state {
            _ if self.overflowed() => Finding::Overflow { delivered },
            State::Startup { flat, best } => {
                let grew = round.rate >= best * GROWTH;
                let excess = self.loses_too_much(delivered, lost);
                if excess && (!grew || round.app_limited) {
                    return Finding::Full;
                }
                let flat = if grew || round.app_limited { 0 } else { flat + 1 };
                Finding::Growing { flat, best: best.max(round.rate) }
            }
            State::Up { best, rounds, share } => {
                if self.loses_too_much(delivered, lost) {
                    return Finding::Overflow { delivered };
                }
                let base = self.path.base().as_secs_f64();
                let queue = round.rtt.map_or(0.0, |rtt| rtt.as_secs_f64() - base);
                let found = self.path.rate() >= best * (1.0 + FOLLOWED * share)
                    && queue <= QUEUED * share * base + QUEUE_NOISE;
                let top = self.path.volume() * (1.0 + share) + self.path.slack(self.mtu);
                let capped = self.cap.is_some_and(|cap| cap.bytes < top);
                if found {
                    Finding::Found { best: self.path.rate() }
                } else if rounds >= PROBE_ROUNDS || (rounds >= 1 && !capped) {
                    Finding::Full
                } else {
                    Finding::Nothing
                }
            }
            State::Cruise { .. } if round.app_limited => Finding::Idle,
            _ => Finding::Nothing,
        }
    }

    fn on_round(&mut self, now: Instant, round: Round) {
        if let Some(rtt) = round.rtt {
            self.path.on_round(rtt);
        }
        let finding = self.finding(&round);
        if let (Some(cap), false) = (&mut self.cap, matches!(finding, Finding::Overflow { .. })) {
            match self.state {
                State::Up { rounds, .. } if rounds >= 1 => {
                    cap.bytes += cap.step;
                    cap.step *= 2.0;
                }
                State::Cruise { .. } => cap.bytes += self.mtu as f64,
                _ => {}
            }
            let most = 2.0 * (self.path.volume() + self.path.slack(self.mtu));
            self.cap = self.cap.filter(|cap| cap.bytes < most);
        }
        match (self.state, finding) {
            (State::Up { .. }, Finding::Overflow { delivered }) => self.end_probe(now, delivered),
            (State::Startup { .. } | State::Cruise { .. }, Finding::Overflow { .. }) => {
                self.join_crowd(now, self.window as f64 * BETA);
            }
            (state, finding) => {
                let next = state.after_round(finding);
                match next {
                    State::Up { .. } if !matches!(state, State::Up { .. }) => {
                        self.path.on_cycle(round.rate);
                        let base = self.path.base().as_secs_f64().max(1e-6);
                        let share = (PROBE_QUEUE / base).min(PROBE_SHARE);
                        self.enter(now, State::Up { best: self.path.rate(), rounds: 0, share });
                    }
                    State::Yield { .. } => {
                        self.path.on_cycle(round.rate);
                        self.enter(now, State::Yield { before: round.rtt.unwrap_or_default() });
                    }
                    next if next.is_same(state) => self.state = next,
                    next => self.enter(now, next),
                }
            }
        }
    }

    /// Where a queue is drained: whether it was for a whole round.
    fn is_drained(&mut self, sample: &Sample, in_flight: u64) -> bool {
        match self.drained {
            None if in_flight <= self.target() + 2 * self.mtu => {
                self.drained = Some(self.deliveries.delivered);
                self.round.rtt = None;
                false
            }
            None => false,
            Some(mark) => sample.delivered_before >= mark,
        }
    }

    fn on_drained(&mut self, now: Instant, before: Option<Duration>, rtt: Duration) {
        let Some(before) = before else {
            if rtt > self.path.base().mul_f64(FOREIGN) + FOREIGN_NOISE {
                return self.join_crowd(now, self.path.rate() * rtt.as_secs_f64());
            }
            self.path.on_drained(now, rtt);
            return self.cruise(now);
        };
        let floor = self.path.floor();
        let no_queue = before <= floor + floor / 16 + Duration::from_millis(1);
        let fell = before.saturating_sub(rtt).as_secs_f64();
        let alone = before.saturating_sub(floor).min(before.mul_f64(1.0 - YIELD)).as_secs_f64();
        if no_queue || fell >= ALONE * alone {
            self.leave_crowd(now, rtt);
        } else {
            self.enter(now, State::crowd());
        }
    }

    fn note_acked(&mut self, now: Instant, sent: Instant, bytes: u64, smoothed_rtt: Duration) {
        self.deliveries.on_acked(now, sent, bytes);
        self.acked += bytes;
        self.smoothed_rtt = smoothed_rtt;
    }

    fn on_sample(&mut self, now: Instant, sample: &Sample, in_flight: u64, idle: bool) {
        let acked = std::mem::take(&mut self.acked);
        self.last_rtt = sample.rtt;
        self.losses.on_delivered(acked, self.path.is_high(sample.rtt), self.mtu);
        self.path.on_rtt(now, sample.rtt);
        if !sample.app_limited || sample.rate > self.path.rate() {
            self.path.on_rate(sample.rate);
        }
        let round = &mut self.round;
        round.rtt = Some(round.rtt.map_or(sample.rtt, |rtt| rtt.min(sample.rtt)));
        round.samples += 1;
        round.rate = round.rate.max(sample.rate);
        round.app_limited |= sample.app_limited;
        round.most = round.most.max(in_flight + acked);
        let state = self.state;
        match state {
            State::Startup { .. } if self.queue_builds() => self.enter(now, State::drain()),
            State::Drain { .. }
                if in_flight as f64 <= self.path.volume() + self.path.slack(self.mtu) =>
            {
                self.cruise(now);
            }
            State::Down if self.is_drained(sample, in_flight) => {
                self.on_drained(now, None, self.round.rtt.unwrap_or(sample.rtt));
            }
            State::Yield { before } if self.is_drained(sample, in_flight) => {
                self.on_drained(now, Some(before), self.round.rtt.unwrap_or(sample.rtt));
            }
            _ => {}
        }
        if sample.delivered_before >= self.round.end {
            self.on_round(now, self.round);
            let Deliveries { delivered, lost, .. } = self.deliveries;
            self.round = Round { end: delivered, delivered, lost, ..Round::default() };
        }
        self.window = match self.state {
            State::Startup { .. } if idle => self.window,
            State::Startup { .. } => {
                let most = bytes(START_GAIN * self.path.volume());
                (self.window + acked).min(most.max(self.window))
            }
            _ => self.target(),
        };
    }
}

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, bytes: u64, _: u64) {
        self.deliveries.on_sent(now, self.in_flight, self.last_rtt);
        self.in_flight = self.in_flight.saturating_add(bytes);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.note_acked(now, sent, bytes, rtt.get());
        if let Some(crowd) = &mut self.crowd {
            crowd.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _: Option<u64>) {
        self.in_flight = in_flight;
        if app_limited {
            self.deliveries.on_app_limited(in_flight);
        }
        if let Some(sample) = self.deliveries.sample(now) {
            self.on_sample(now, &sample, in_flight, app_limited);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.in_flight = self.in_flight.saturating_sub(lost);
        self.deliveries.on_lost(lost);
        // A mark (RFC 3168) tells of a full queue as a loss does.
        let marked = lost == 0;
        // What was sent in the state before is answered already.
        let old = sent < self.since && matches!(self.state, State::Cruise { .. });
        if !old {
            let high = marked || self.path.is_high(self.last_rtt);
            self.losses.on_lost(lost.max(u64::from(marked) * self.mtu), high);
        }
        if persistent {
            (self.crowd, self.cap) = (None, None);
            self.path.forget();
            self.window = self.least();
            return self.enter(now, State::Startup { flat: 0, best: 0.0 });
        }
        let overflowed = self.overflowed();
        match (self.state, &mut self.crowd) {
            (State::Crowd { .. }, Some(crowd)) if overflowed => {
                crowd.on_congestion_event(now, sent, false, lost);
                self.losses.answered();
                self.window = self.target();
            }
            (State::Up { .. }, _) => {
                let lost = self.deliveries.lost - self.round.lost;
                if self.loses_too_much(self.window, lost) {
                    self.end_probe(now, self.window.saturating_sub(lost));
                    self.window = self.target();
                }
            }
            _ => {}
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.window = self.window.max(self.least());
        if let Some(crowd) = &mut self.crowd {
            crowd.on_mtu_update(new_mtu);
        }
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.pacing_rate = Some(bytes(self.path.rate() * 8.0));
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let crowd = self.crowd.as_ref().map(|crowd| crowd.clone_box());
        Box::new(Self { crowd, deliveries: self.deliveries.clone(), ..*self })
    }

    fn initial_window(&self) -> u64 {
        FIRST_WINDOW * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
