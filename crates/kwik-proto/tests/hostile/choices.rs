//! What a hostile peer decides: by a seed, or by the bytes that a fuzzer gives.

use std::time::Duration;

/// A source of decisions.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "tests take seeds, the fuzzer bytes")]
pub(crate) enum Choices<'a> {
    /// Without end.
    Seed(u64),
    /// Until they are used up; zeros from then on.
    Bytes(&'a [u8]),
}

impl Choices<'_> {
    /// Whether there are none left.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }

    fn next(&mut self, bytes: usize) -> u64 {
        match self {
            // SplitMix64, so that a seed replays anywhere.
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
            Self::Bytes(left) => {
                let (taken, rest) = left.split_at(bytes.min(left.len()));
                *left = rest;
                taken.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
        }
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let bytes = if bound <= 1 << 8 { 1 } else { 8 };
        self.next(bytes) % bound
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        let len = items.len() as u64;
        (len > 0).then(|| items[self.below(len) as usize].clone())
    }

    /// An offset or length: small, at a boundary, or anything that QUIC can say.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => self.below(16),
            2 | 3 => self.below(1 << 12),
            4 => (1 << 16) - 1 + self.below(3),
            5 => self.below(1 << 22),
            6 => (1 << 62) - 1 - self.below(3),
            _ => self.below(1 << 62),
        }
    }

    pub(crate) fn time(&mut self) -> Duration {
        match self.below(16) {
            0 => Duration::from_secs(self.below(40)),
            1 | 2 => Duration::from_millis(self.below(4_000)),
            3..8 => Duration::from_millis(self.below(200)),
            _ => Duration::from_micros(self.below(2_000)),
        }
    }
}
