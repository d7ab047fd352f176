//! What is known of a path: its rate, and its round trip with and without queues.

use std::time::{Duration, Instant};

use crate::quic::congestion::round_trips::{Least, RoundTrips};

use super::tuning::{BASE_LASTS, SLACK};

#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// The highest delivery rates of the cycle before and of this one, in bytes a second.
    rates: [f64; 2],
    round_trips: RoundTrips,
    /// The round trip without our queue.
    base: Option<Duration>,
    /// Of the rounds in which our queue was drained.
    drained: Least,
}

impl Path {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rates: [0.0; 2],
            round_trips: RoundTrips::new(now),
            base: None,
            drained: Least::new(BASE_LASTS / 2, now),
        }
    }

    /// Bytes a second.
    pub(super) fn rate(&self) -> f64 {
        self.rates[0].max(self.rates[1])
    }

    /// The round trip without a queue of ours.
    pub(super) fn base(&self) -> Duration {
        self.base.unwrap_or_default()
    }

    /// The least round trip of the last minute or two.
    pub(super) fn floor(&self) -> Duration {
        self.round_trips.floor()
    }

    /// Bytes that fill it without a queue.
    pub(super) fn volume(&self) -> f64 {
        self.rate() * self.base().as_secs_f64()
    }

    /// Bytes that wait at its bottleneck when all goes well.
    pub(super) fn slack(&self, mtu: u64) -> f64 {
        let megabits = (self.rate() * 8e-6).max(1e-3);
        (self.rate() * SLACK / megabits.sqrt()).max(mtu as f64)
    }

    pub(super) fn on_rtt(&mut self, now: Instant, rtt: Duration) {
        self.base = Some(self.base.map_or(rtt, |base| base.min(rtt)));
        self.round_trips.on_rtt(now, rtt);
    }

    pub(super) fn on_rate(&mut self, rate: f64) {
        self.rates[1] = self.rates[1].max(rate);
    }

    /// The least round trip of a round that is over.
    pub(super) fn on_round(&mut self, rtt: Duration) {
        self.round_trips.on_round(rtt);
    }

    /// A cycle is over; the last round had this rate.
    pub(super) fn on_cycle(&mut self, rate: f64) {
        self.rates = [self.rates[1], rate];
        self.round_trips.on_cycle();
    }

    /// The least round trip of a round in which our queue was drained.
    pub(super) fn on_drained(&mut self, now: Instant, rtt: Duration) {
        let first = self.drained.value().is_none();
        self.drained.note(now, rtt);
        if let Some(least) = self.drained.value().filter(|_| !first) {
            self.base = Some(least.max(self.base()));
        }
    }

    /// Begins anew with what one round told.
    pub(super) fn restart(&mut self, now: Instant, rate: f64, base: Duration) {
        self.rates = [rate; 2];
        self.base = Some(base);
        self.drained = Least::new(BASE_LASTS / 2, now);
    }

    /// Forgets the rate.
    pub(super) fn forget(&mut self) {
        self.rates = [0.0; 2];
    }

    /// Whether packets with this round trip met a queue that is nearly full.
    pub(super) fn is_high(&self, rtt: Duration) -> bool {
        self.round_trips.is_high(rtt)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_round_trip_without_a_queue_follows_a_longer_path_in_time() {
        let start = Instant::now();
        let mut path = Path::new(start);
        path.on_rtt(start, ms(50));
        path.on_drained(start, ms(50));
        // A queue of others for a while.
        for second in 1..5 {
            path.on_drained(start + ms(second * 1000), ms(60));
            assert_eq!(path.base(), ms(50));
        }
        // It stays.
        for second in 5..16 {
            path.on_drained(start + ms(second * 1000), ms(60));
        }
        assert_eq!(path.base(), ms(60));
        path.on_rtt(start + ms(17_000), ms(50));
        assert_eq!(path.base(), ms(50));
    }

    #[test]
    fn the_highest_rate_of_two_cycles_counts() {
        let mut path = Path::new(Instant::now());
        path.on_rate(100.0);
        path.on_rate(80.0);
        path.on_cycle(80.0);
        assert!((path.rate() - 100.0).abs() < 1e-9);
        path.on_cycle(70.0);
        assert!((path.rate() - 80.0).abs() < 1e-9);
    }
}
