//! The states of the model, and what follows them after a round.

use std::time::Duration;

use super::tuning::{CROWD_ROUNDS, DRAIN_ROUNDS, FLAT_ROUNDS, PROBE_SHARE};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// Slow start: the window grows by what is acknowledged. `flat` rounds brought no growth over
    /// the `best` rate.
    Startup { flat: u32, best: f64 },
    /// Its queue drains, for so many `rounds` more: what stands then is not ours.
    Drain { rounds: u32 },
    /// As much in flight as fills the path, for so many `rounds` more.
    Cruise { rounds: u32 },
    /// More by a `share`: does the rate follow? For `rounds` it did not grow over the `best`.
    Up { best: f64, rounds: u32, share: f64 },
    /// The probe's queue drains; the round trip is measured without it.
    Down,
    /// Others fill the queue: CUBIC among them, for so many `rounds` more.
    Crowd { rounds: u32 },
    /// Less, for a round: does the round trip, which was `before`, fall as if nobody else were
    /// there?
    Yield { before: Duration },
}

/// What a round told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Finding {
    /// Slow start goes on.
    Growing {
        flat: u32,
        best: f64,
    },
    /// The probe found a higher rate.
    Found {
        best: f64,
    },
    /// The path carries no more.
    Full,
    /// A queue overflowed; that was delivered.
    Overflow {
        delivered: u64,
    },
    /// The application sent less than it might.
    Idle,
    Nothing,
}

impl State {
    /// Slow start is over.
    pub(super) fn drain() -> Self {
        Self::Drain { rounds: DRAIN_ROUNDS }
    }

    /// Fresh in a crowd.
    pub(super) fn crowd() -> Self {
        Self::Crowd { rounds: CROWD_ROUNDS }
    }

    pub(super) fn is_same(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// The table. An [`Finding::Overflow`] is answered before; `Drain`, `Down` and `Yield` may
    /// end within a round.
    pub(super) fn after_round(self, finding: Finding) -> Self {
        match (self, finding) {
            (Self::Startup { .. }, Finding::Growing { flat, best }) if flat < FLAT_ROUNDS => {
                Self::Startup { flat, best }
            }
            (Self::Startup { .. }, Finding::Growing { .. } | Finding::Full) => Self::drain(),
            (Self::Drain { rounds: 0 }, _) => Self::Down,
            (Self::Drain { rounds }, _) => Self::Drain { rounds: rounds - 1 },
            (Self::Cruise { rounds: 0 }, Finding::Nothing) => {
                Self::Up { best: 0.0, rounds: 0, share: 0.0 }
            }
            (Self::Cruise { rounds }, Finding::Nothing) => Self::Cruise { rounds: rounds - 1 },
            (Self::Up { .. }, Finding::Found { best }) => {
                Self::Up { best, rounds: 0, share: PROBE_SHARE }
            }
            (Self::Up { best, rounds, share }, Finding::Nothing) => {
                Self::Up { best, rounds: rounds + 1, share }
            }
            (Self::Up { .. }, Finding::Full) => Self::Down,
            (Self::Crowd { rounds: 0 }, _) => Self::Yield { before: Duration::ZERO },
            (Self::Crowd { rounds }, _) => Self::Crowd { rounds: rounds - 1 },
            (state, _) => state,
        }
    }
}
