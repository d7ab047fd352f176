//! How fast an object is read.

use std::{num::NonZeroU64, time::Duration};

use tokio::time::{Instant, sleep_until};

/// What may come at once after a wait, as time: sockets and timers come in bursts.
const BURST: Duration = Duration::from_millis(100);

/// Keeps a reader to so many bytes a second.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: NonZeroU64,
    /// When what was read so far is due.
    due: Instant,
}

impl Pace {
    pub(crate) fn new(rate: NonZeroU64) -> Self {
        Self { rate, due: Instant::now() }
    }

    /// Waits until so many bytes more were due. Cancel safety: they count all the same.
    pub(crate) async fn spend(&mut self, bytes: usize) {
        let now = Instant::now();
        let least = now.checked_sub(BURST).unwrap_or(now);
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        self.due = self.due.max(least) + takes;
        sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn bytes_take_their_time() {
        let mut pace = Pace::new(NonZeroU64::new(1_000_000).unwrap());
        let began = Instant::now();
        for _ in 0..10 {
            pace.spend(50_000).await;
        }
        // Later on a busy machine, but never sooner.
        assert!(began.elapsed() >= Duration::from_millis(400));
    }
}
