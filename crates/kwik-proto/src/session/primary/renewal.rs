//! How often a path that its client lost is granted anew.

use std::time::{Duration, Instant};

use crate::limits;

/// Grants of one path, by time. A grant costs a signature and a kilobyte, and the client asks for
/// it with a notification of a few bytes: it gets them no faster than it may dial.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// Grants since the path was well for long.
    given: u32,
    /// Before it there is no further one.
    next: Option<Instant>,
    /// One is owed, and due then.
    due: Option<Instant>,
}

impl Renewal {
    /// The client lost the path: whether it gets a grant now. Else one is due later.
    pub(super) fn on_lost(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| now >= next + limits::REDIAL_CALM) {
            self.given = 0;
        }
        match self.next.filter(|next| now < *next) {
            Some(next) => self.due = Some(next),
            None => self.on_granted(now),
        }
        self.due.is_none()
    }

    /// Whether a grant has fallen due. It is owed no longer.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.on_granted(now);
        }
        due
    }

    /// When a grant falls due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn on_granted(&mut self, now: Instant) {
        self.next = Some(now + wait(self.given));
        self.given = self.given.saturating_add(1);
        self.due = None;
    }
}

/// As the client's dials: doubled with each grant, up to the largest.
fn wait(given: u32) -> Duration {
    (limits::REDIAL_FIRST * (1 << given.min(10))).min(limits::REDIAL_LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_flips_is_granted_no_faster_than_it_may_be_dialed() {
        let began = crate::test_now();
        let (mut renewal, mut grants) = (Renewal::default(), Vec::new());
        for at in (0..10_000).map(Duration::from_millis) {
            let now = began + at;
            // Dead, active, and dead again.
            if renewal.on_lost(now) | renewal.on_lost(now) | renewal.take_due(now) {
                grants.push(at.as_millis());
            }
        }
        assert_eq!(grants, [0, 250, 750, 1_750, 3_750, 7_750]);
        // The one that is owed comes, and later they are as far apart as dials.
        let due = renewal.due().unwrap();
        assert_eq!(due, began + limits::REDIAL_FIRST * 63);
        assert!(renewal.take_due(due) && !renewal.take_due(due + limits::REDIAL_LAST));
        assert!(renewal.on_lost(due + limits::REDIAL_LAST) && renewal.due().is_none());
    }

    #[test]
    fn a_path_that_was_well_for_long_is_granted_at_once_and_again_soon() {
        let mut now = crate::test_now();
        let mut renewal = Renewal::default();
        for _ in 0..100 {
            assert!(renewal.on_lost(now));
            assert!(!renewal.on_lost(now));
            assert!(renewal.take_due(now + limits::REDIAL_FIRST));
            now += limits::REDIAL_FIRST * 3 + limits::REDIAL_CALM;
        }
    }
}
