//! How well a path does: when it counts as degraded, and when as well again (2.6).
//!
//! A path is degraded while it is suspect for [`limits::DEGRADED_AFTER`] or was
//! [`limits::DEGRADED_TIMES`] times within [`limits::DEGRADED_WITHIN`], brings less than a quarter
//! of what it used to, or loses a tenth of its packets. It is well again [`limits::HEALTH_HOLD`]
//! after the last such trouble, with half of its rate and a twentieth of losses as the bounds: a
//! path on the edge of one does not change its state all the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits;

/// How fast what a path brings becomes what it used to bring ...
const LEARN: Duration = Duration::from_secs(1);
/// ... and how fast that is forgotten when it brings less.
const FORGET: Duration = Duration::from_secs(20);
/// Packets over which loss is judged, at least.
const SAMPLE: u64 = 100;
/// Samples in a row that lose too much: slow start loses as much once, when it ends.
const LOSSY_SAMPLES: u8 = 2;

/// What is known of one path's health.
#[derive(Debug)]
pub struct Health {
    suspect_since: Option<Instant>,
    /// When it was suspect last, a few times.
    suspected: VecDeque<Instant>,
    /// What it used to bring, in bytes a second, and when that was looked at.
    usual: f64,
    usual_at: Instant,
    slow_since: Option<Instant>,
    /// Packets sent and lost at the last sample, and samples in a row that lost too much.
    sample: (u64, u64),
    lossy: u8,
    degraded: bool,
    troubled_at: Instant,
    due: Option<Instant>,
}

impl Health {
    /// Of a path that was just made.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            suspect_since: None,
            suspected: VecDeque::new(),
            usual: 0.0,
            usual_at: now,
            slow_since: None,
            sample: (0, 0),
            lossy: 0,
            degraded: false,
            troubled_at: now,
            due: None,
        }
    }

    /// It fell silent with bytes outstanding.
    pub fn on_suspect(&mut self, now: Instant) {
        self.suspect_since.get_or_insert(now);
        if self.suspected.len() == limits::DEGRADED_TIMES {
            self.suspected.pop_front();
        }
        self.suspected.push_back(now);
    }

    /// It speaks again.
    pub fn on_recovered(&mut self) {
        self.suspect_since = None;
    }

    /// What it brings, in bytes a second, while it is kept busy.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no exact digits")]
    pub fn on_goodput(&mut self, rate: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.usual_at).as_secs_f64();
        self.usual_at = now;
        let rate = rate as f64;
        let pace = if rate > self.usual { LEARN } else { FORGET };
        self.usual += (rate - self.usual) * (passed / pace.as_secs_f64()).min(1.0);
        if rate * 4.0 < self.usual {
            self.slow_since.get_or_insert(now);
        } else if rate * 2.0 >= self.usual {
            self.slow_since = None;
        }
    }

    /// Packets sent toward us since it began, and of those lost.
    pub fn on_packets(&mut self, sent: u64, lost: u64) {
        let (all, missing) =
            (sent.saturating_sub(self.sample.0), lost.saturating_sub(self.sample.1));
        if all < SAMPLE {
            return;
        }
        self.sample = (sent, lost);
        let bound = if self.lossy >= LOSSY_SAMPLES { all / 20 } else { all / 10 };
        self.lossy = if missing > bound { (self.lossy + 1).min(LOSSY_SAMPLES) } else { 0 };
    }

    /// Why it is degraded, if it is. To be asked after each input, and when
    /// [`Self::poll_timeout`] says.
    pub fn judge(&mut self, now: Instant) -> Option<&'static str> {
        let repeated = self.suspected.len() == limits::DEGRADED_TIMES;
        let first = self.suspected.front().filter(|_| repeated);
        let forgiven = first.map(|at| *at + limits::DEGRADED_WITHIN);
        let silent = self.suspect_since.map(|since| since + limits::DEGRADED_AFTER);
        let slow = self.slow_since.map(|since| since + limits::HEALTH_HOLD);
        let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let trouble = if is_past(silent) {
            Some("silent with bytes outstanding")
        } else if forgiven.is_some_and(|at| at > now) {
            Some("silent again and again")
        } else if is_past(slow) {
            Some("far slower than it was")
        } else if self.lossy >= LOSSY_SAMPLES {
            Some("loses packets")
        } else {
            None
        };
        if trouble.is_some() {
            (self.degraded, self.troubled_at) = (true, now);
        }
        let well = self.troubled_at + limits::HEALTH_HOLD;
        self.degraded &= well > now;
        let held = (self.degraded && trouble.is_none()).then_some(well);
        let coming = [silent, forgiven, slow, held].into_iter().flatten();
        self.due = coming.filter(|at| *at > now).min();
        trouble.or(self.degraded.then_some("not well for long enough"))
    }

    /// It was degraded when it was judged last.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// When [`Self::judge`] may say something else, though nothing happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_short_silence_is_no_news_and_a_long_one_is() {
        let now = crate::test_now();
        let mut health = Health::new(now);
        health.on_suspect(now);
        assert_eq!(health.judge(now), None);
        assert_eq!(health.poll_timeout(), Some(now + limits::DEGRADED_AFTER));
        health.on_recovered();
        assert_eq!(health.judge(now + limits::DEGRADED_AFTER), None);
        health.on_suspect(now + limits::DEGRADED_AFTER);
        let late = now + 2 * limits::DEGRADED_AFTER;
        assert!(health.judge(late).is_some());
        health.on_recovered();
        assert!(health.judge(late + limits::HEALTH_HOLD - MS).is_some());
        assert_eq!(health.judge(late + limits::HEALTH_HOLD), None);
        assert_eq!(health.poll_timeout(), None);
    }

    #[test]
    fn a_path_that_is_silent_again_and_again_stays_degraded() {
        let mut now = crate::test_now();
        let mut health = Health::new(now);
        for round in 1..=limits::DEGRADED_TIMES {
            health.on_suspect(now);
            health.on_recovered();
            assert_eq!(health.judge(now).is_some(), round == limits::DEGRADED_TIMES);
            now += limits::HEALTH_HOLD;
        }
        assert!(health.judge(now).is_some());
        assert_eq!(health.judge(now + limits::DEGRADED_WITHIN), None);
    }

    #[test]
    fn a_path_at_a_tenth_of_its_rate_is_degraded_until_that_is_usual() {
        let mut now = crate::test_now();
        let mut health = Health::new(now);
        let mut pass = |health: &mut Health, rate, rounds| {
            for _ in 0..rounds {
                now += 10 * MS;
                health.on_goodput(rate, now);
            }
            health.judge(now)
        };
        assert_eq!(pass(&mut health, 10_000_000, 300), None);
        assert_eq!(pass(&mut health, 4_000_000, 300), None, "less than half is not far less");
        assert_eq!(pass(&mut health, 1_000_000, 50), None, "not for long");
        assert_eq!(pass(&mut health, 1_000_000, 100), Some("far slower than it was"));
        assert!(pass(&mut health, 3_000_000, 200).is_some(), "on the edge nothing changes");
        assert_eq!(pass(&mut health, 9_000_000, 200), None);
        assert!(pass(&mut health, 1_000_000, 200).is_some());
        assert_eq!(pass(&mut health, 1_000_000, 10_000), None);
    }

    #[test]
    fn loss_counts_when_it_lasts() {
        let now = crate::test_now();
        let mut health = Health::new(now);
        health.on_packets(1000, 400);
        assert_eq!(health.judge(now), None, "the end of slow start");
        health.on_packets(1050, 450);
        assert_eq!(health.judge(now), None, "too few to judge by");
        health.on_packets(2000, 520);
        assert_eq!(health.judge(now), Some("loses packets"));
        health.on_packets(3000, 590);
        let late = now + limits::HEALTH_HOLD;
        assert!(health.judge(late).is_some(), "on the edge nothing changes");
        health.on_packets(4000, 600);
        assert_eq!(health.judge(late + limits::HEALTH_HOLD), None);
    }
}
