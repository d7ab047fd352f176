//! The round trips of a path: what they are without a queue, and whether one met a full queue.

use std::time::{Duration, Instant};

use super::tuning::{FLOOR_LASTS, HIGH, LEAST_SPAN};

/// The least value of the last one or two spans of time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Least {
    lasts: Duration,
    began: Instant,
    values: [Option<Duration>; 2],
}

impl Least {
    pub(super) fn new(lasts: Duration, now: Instant) -> Self {
        Self { lasts, began: now, values: [None; 2] }
    }

    pub(super) fn note(&mut self, now: Instant, value: Duration) {
        if now.saturating_duration_since(self.began) >= self.lasts {
            self.began = now;
            self.values = [self.values[1], None];
        }
        let least = self.values[1].map_or(value, |least| least.min(value));
        self.values[1] = Some(least);
    }

    pub(super) fn value(&self) -> Option<Duration> {
        self.values.into_iter().flatten().min()
    }
}

/// Round trips that were seen of late.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoundTrips {
    floor: Least,
    /// The longest of the rounds' least round trips, of the cycle before and of this one.
    tops: [Duration; 2],
}

impl RoundTrips {
    pub(super) fn new(now: Instant) -> Self {
        Self { floor: Least::new(FLOOR_LASTS, now), tops: [Duration::ZERO; 2] }
    }

    /// The least one of the last minute or two.
    pub(super) fn floor(&self) -> Duration {
        self.floor.value().unwrap_or_default()
    }

    pub(super) fn on_rtt(&mut self, now: Instant, rtt: Duration) {
        self.floor.note(now, rtt);
    }

    /// The least one of a round that is over.
    pub(super) fn on_round(&mut self, rtt: Duration) {
        self.tops[1] = self.tops[1].max(rtt);
    }

    /// The queue was as long as it gets: what was seen before the cycle that ends counts no more.
    pub(super) fn on_cycle(&mut self) {
        self.tops = [self.tops[1], Duration::ZERO];
    }

    /// Whether packets with this round trip met a queue that is nearly full.
    pub(super) fn is_high(&self, rtt: Duration) -> bool {
        let floor = self.floor();
        let top = self.tops[0].max(self.tops[1]).max(rtt);
        let span = top.saturating_sub(floor);
        span > LEAST_SPAN && rtt.saturating_sub(floor) >= span.mul_f64(HIGH)
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
    fn a_queue_is_nearly_full_in_the_upper_half_of_what_was_seen() {
        let start = Instant::now();
        let mut seen = RoundTrips::new(start);
        seen.on_rtt(start, ms(50));
        assert!(!seen.is_high(ms(51)), "noise");
        seen.on_round(ms(90));
        assert!(!seen.is_high(ms(69)));
        assert!(seen.is_high(ms(70)));
        assert!(seen.is_high(ms(200)), "longer than ever");
    }
}
