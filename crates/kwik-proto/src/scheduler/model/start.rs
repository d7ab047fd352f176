//! How far the slow start of a server is.

use super::super::tuning::FLAT_ROUNDS;

/// It is over once the rate has not grown by a quarter over the most that it ever was in some
/// rounds, as BBR has it. Rates that go up and down among competitors do not count as growth.
#[derive(Debug, Default)]
pub(super) struct Start {
    peak: u64,
    flat_rounds: u8,
}

impl Start {
    /// A round brought `sample` bytes a second. True when that is growth.
    pub(super) fn on_round(&mut self, sample: u64) -> bool {
        let grew = sample > self.peak + self.peak / 4;
        if grew {
            self.peak = sample;
        }
        if !self.is_over() {
            self.flat_rounds = if grew { 0 } else { self.flat_rounds + 1 };
        }
        grew
    }

    pub(super) fn is_over(&self) -> bool {
        self.flat_rounds >= FLAT_ROUNDS
    }
}
