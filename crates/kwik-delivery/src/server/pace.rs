//! How fast a server sends, where its operator says so.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::limits::{MAX_SEND, MIN_SEND, SENDS_A_SECOND};

/// What may be made up for at once, as time: reading, writing and waking up take theirs, and a busy
/// machine's timers are late. Without it a rate of 12 MiB a second came to a fifth of that there.
const BURST: Duration = Duration::from_millis(250);

/// A rate that all leases of a server share.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes a second; none when as fast as it goes.
    rate: Option<u64>,
    /// When what was sent is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: Some(rate.max(1)), paid: Mutex::default() }
    }

    /// The largest block to write at once: short enough that others have their turn.
    pub(super) fn block(&self) -> u64 {
        self.rate.map_or(MAX_SEND, |rate| (rate / SENDS_A_SECOND).clamp(MIN_SEND, MAX_SEND))
    }

    /// Waits until `bytes` that were sent are paid for. Cancel safe: they stay owed.
    pub(super) async fn pay(&self, bytes: u64) {
        let now = Instant::now();
        let Some(until) = self.owe(bytes, now) else { return };
        tokio::time::sleep_until(until.into()).await;
    }

    fn owe(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        let takes = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        // The time is whole between statements, so a panic elsewhere leaves it usable.
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // A longer time in which nothing was sent is not saved up.
        let least = now.checked_sub(BURST).unwrap_or(now);
        let until = paid.map_or(now, |paid| paid.max(least)).checked_add(takes)?;
        *paid = Some(until);
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_sent_takes_its_time_and_a_pause_saves_little() {
        let (pace, began) = (Pace::new(1000), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(pace.owe(1000, began), Some(began + second));
        assert_eq!(pace.owe(500, began), Some(began + second * 3 / 2));
        let after = began + second * 10;
        assert_eq!(pace.owe(1000, after), Some(after + second - BURST));
        assert_eq!(Pace::default().owe(u64::MAX, began), None);
    }

    /// Each wait ends late, and each block takes its time to be written.
    #[test]
    fn what_is_late_is_made_up_for() {
        let (pace, began) = (Pace::new(1000), Instant::now());
        let mut now = began;
        for _ in 0..100 {
            let until = pace.owe(100, now).unwrap();
            now = until.max(now) + Duration::from_millis(80);
        }
        let elapsed = now - began;
        assert!(elapsed >= Duration::from_secs(10) && elapsed <= Duration::from_millis(10_200));
    }

    #[test]
    fn blocks_are_short_at_a_low_rate() {
        assert_eq!(Pace::default().block(), MAX_SEND);
        assert_eq!(Pace::new(1).block(), MIN_SEND);
        assert_eq!(Pace::new(2_000_000).block(), 100_000);
        assert_eq!(Pace::new(u64::MAX).block(), MAX_SEND);
    }
}
