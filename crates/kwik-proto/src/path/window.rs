//! How much QUIC may hold of one path before it is read (8.2).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::CONNECTION_WINDOW;

/// A round is this long at least: readers are not scheduled more finely under load.
const LEAST_ROUND: Duration = Duration::from_millis(10);
/// The best of this many rounds counts, so that a pause does not slow down what follows.
const ROUNDS: usize = 8;

/// Round trips of bytes that a sender may be ahead of our reading: one is under way; what was lost
/// in it takes two more, or three where the repetition is lost too, and what came behind it waits.
const ROUNDS_AHEAD: u64 = 4;

/// Sizes the receive window of a path's QUIC connection: four times what arrives in a round trip,
/// or will in the next if it goes on growing, at least [`CONNECTION_WINDOW`], and no more than
/// is configured.
#[derive(Debug)]
pub struct ConnectionWindow {
    maximum: u64,
    current: u64,
    /// When the round began, and what had arrived by then.
    began: Option<(Instant, u64)>,
    /// What arrived in each of the last rounds.
    rounds: VecDeque<u64>,
}

impl ConnectionWindow {
    /// A window of [`CONNECTION_WINDOW`] that may grow to `maximum` bytes.
    #[must_use]
    pub fn new(maximum: u64) -> Self {
        let current = CONNECTION_WINDOW.min(maximum);
        Self { maximum, current, began: None, rounds: VecDeque::with_capacity(ROUNDS) }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.current
    }

    /// The connection's smoothed round-trip time and what it has received in all, in bytes: its new
    /// window, when that is larger or a quarter smaller.
    pub fn on_figures(&mut self, rtt: Duration, arrived: u64, now: Instant) -> Option<u64> {
        let (at, before) = *self.began.get_or_insert((now, arrived));
        let (elapsed, round) = (now.saturating_duration_since(at), rtt.max(LEAST_ROUND));
        if elapsed < round {
            return None;
        }
        self.began = Some((now, arrived));
        let came = per_round(arrived.saturating_sub(before), round, elapsed);
        let growth = self.rounds.back().map_or(0, |last| came.saturating_sub(*last));
        if self.rounds.len() == ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(came);
        // A sender in slow start goes on growing while it waits for this.
        let best = self.rounds.iter().copied().max().unwrap_or_default().max(came + growth);
        let wanted = best.saturating_mul(ROUNDS_AHEAD).max(CONNECTION_WINDOW).min(self.maximum);
        if wanted <= self.current && wanted > self.current / 4 * 3 {
            return None;
        }
        self.current = wanted;
        Some(wanted)
    }
}

fn per_round(bytes: u64, round: Duration, elapsed: Duration) -> u64 {
    let scaled = u128::from(bytes) * round.as_nanos() / elapsed.as_nanos().max(1);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 16 * CONNECTION_WINDOW;

    /// Feeds `rate` bytes a second for `time`, looking every 10 ms; the last window.
    fn feed(
        window: &mut ConnectionWindow,
        state: &mut (Instant, u64),
        rate: u64,
        time: u64,
    ) -> u64 {
        let rtt = Duration::from_millis(50);
        for _ in 0..time / 10 {
            state.0 += Duration::from_millis(10);
            state.1 += rate / 100;
            window.on_figures(rtt, state.1, state.0);
        }
        window.size()
    }

    #[test]
    fn a_window_follows_the_rate_within_its_bounds() {
        let mut window = ConnectionWindow::new(MAX);
        let mut state = (crate::test_now(), 0);
        assert_eq!(feed(&mut window, &mut state, 1_000_000, 1000), CONNECTION_WINDOW);
        // 40 MB/s for 50 ms, four times.
        assert_eq!(feed(&mut window, &mut state, 40_000_000, 1000), 8_000_000);
        assert_eq!(feed(&mut window, &mut state, 4_000_000_000, 1000), MAX);
        // A pause of a few rounds changes nothing; a longer one does.
        assert_eq!(feed(&mut window, &mut state, 0, 200), MAX);
        assert_eq!(feed(&mut window, &mut state, 0, 1000), CONNECTION_WINDOW);
    }

    #[test]
    fn a_window_is_ahead_of_a_sender_whose_rate_doubles_with_each_round_trip() {
        let rtt = Duration::from_millis(50);
        let (mut window, mut now) = (ConnectionWindow::new(MAX), crate::test_now());
        let (mut arrived, mut round) = (0, CONNECTION_WINDOW / 16);
        window.on_figures(rtt, arrived, now);
        while round < MAX / 8 {
            now += rtt;
            arrived += round;
            window.on_figures(rtt, arrived, now);
            assert!(window.size() >= (3 * round).min(MAX), "{} after {round}", window.size());
            round *= 2;
        }
        // It does not stay so.
        for _ in 0..=ROUNDS {
            now += rtt;
            arrived += MAX / 8;
            window.on_figures(rtt, arrived, now);
        }
        assert_eq!(window.size(), MAX / 2);
    }

    #[test]
    fn a_configured_window_is_never_exceeded() {
        let mut window = ConnectionWindow::new(1000);
        assert_eq!(feed(&mut window, &mut (crate::test_now(), 0), 1_000_000_000, 1000), 1000);
    }
}
