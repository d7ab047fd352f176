//! Lines in the log that clients cause.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Lines that clients cause, at the most ...
const MOST: u32 = 60;
/// ... within this time: no client fills the disk with them.
const WITHIN: Duration = Duration::from_secs(60);

/// Lets so many lines through, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    since: Option<Instant>,
    said: u32,
    left_out: u64,
}

impl Throttle {
    /// Whether one more line may be said, and how many were left out before it.
    pub(super) fn admit(&self, now: Instant) -> Option<u64> {
        // The count is whole between statements, so a panic elsewhere leaves it usable.
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if count.since.is_none_or(|since| now.saturating_duration_since(since) >= WITHIN) {
            (count.since, count.said) = (Some(now), 0);
        }
        if count.said >= MOST {
            count.left_out += 1;
            return None;
        }
        count.said += 1;
        Some(std::mem::take(&mut count.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_a_bound_are_counted_and_come_again_later() {
        let (throttle, began) = (Throttle::default(), Instant::now());
        let said = (0..100).filter(|_| throttle.admit(began).is_some()).count();
        assert_eq!(said, 60);
        assert_eq!(throttle.admit(began + WITHIN), Some(40));
        assert_eq!(throttle.admit(began + WITHIN), Some(0));
    }
}
