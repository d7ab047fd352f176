//! Which losses are chance, and which are a queue that overflows.
//!
//! A queue overflows while it is full, and then round trips are as long as they get. What is lost
//! while they are short is lost by chance; as large a share is chance while they are long.

use super::tuning::{CHANCE_PACKETS, LEAST_PACKETS, MOST_CHANCE, NO_CHANCE, SIGMA};

/// Bytes of packets that were delivered, and of those that were lost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) delivered: f64,
    pub(super) lost: f64,
}

impl Sum {
    pub(super) fn all(self) -> f64 {
        self.delivered + self.lost
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Losses {
    /// While round trips were short.
    low: Sum,
    /// While they were long, since the last answer to it.
    high: Sum,
}

impl Losses {
    /// Bytes were delivered with a long round trip, or a short one.
    pub(super) fn on_delivered(&mut self, bytes: u64, high: bool, mtu: u64) {
        if high {
            self.high.delivered += bytes as f64;
            return;
        }
        self.on_low(Sum { delivered: bytes as f64, lost: 0.0 }, mtu);
    }

    pub(super) fn on_lost(&mut self, bytes: u64, high: bool) {
        let sum = if high { &mut self.high } else { &mut self.low };
        sum.lost += bytes as f64;
    }

    /// The share of packets that the path loses by chance.
    pub(super) fn by_chance(&self) -> f64 {
        (self.low.lost / self.low.all().max(1.0)).min(MOST_CHANCE)
    }

    /// Whether it loses any.
    pub(super) fn loses_by_chance(&self) -> bool {
        self.by_chance() >= NO_CHANCE
    }

    /// Whether a full queue was lost to while round trips were long: more than chance takes, and a
    /// `tolerance` on top.
    pub(super) fn overflowed(&self, tolerance: f64, mtu: u64) -> bool {
        let mtu = mtu as f64;
        let expected = self.high.all() * (self.by_chance() + tolerance) / mtu;
        self.high.lost / mtu > expected + 1.0 + SIGMA * expected.sqrt()
    }

    /// Share that is lost while round trips are short, these bytes among them, which counts once
    /// there were enough packets.
    pub(super) fn share_with(&self, more: Sum, mtu: u64) -> f64 {
        let (all, lost) = (self.low.all() + more.all(), self.low.lost + more.lost);
        lost / all.max(LEAST_PACKETS * mtu as f64)
    }

    /// Whether more was lost while round trips were long than chance explains, be it that what was
    /// never lost yet is lost now. It was lost of so many bytes at the `least`.
    pub(super) fn exceed_chance(&self, least: u64, mtu: u64) -> bool {
        let mtu = mtu as f64;
        let next = 0.5 * mtu / self.low.all().max(LEAST_PACKETS * mtu);
        let expected = self.high.all().max(least as f64) * (self.by_chance() + next) / mtu;
        self.high.lost / mtu > expected + SIGMA * expected.sqrt()
    }

    /// Whether anything was lost while round trips were long.
    pub(super) fn any_high(&self) -> bool {
        self.high.lost > 0.0
    }

    /// While round trips were short.
    pub(super) fn on_low(&mut self, sum: Sum, mtu: u64) {
        self.low.delivered += sum.delivered;
        self.low.lost += sum.lost;
        if self.low.all() > CHANCE_PACKETS * mtu as f64 {
            self.low = Sum { delivered: self.low.delivered / 2.0, lost: self.low.lost / 2.0 };
        }
    }

    /// A round is over: what was lost before counts less.
    pub(super) fn fade(&mut self) {
        self.high = Sum { delivered: self.high.delivered / 2.0, lost: self.high.lost / 2.0 };
    }

    /// What was lost is answered.
    pub(super) fn answered(&mut self) {
        self.high = Sum::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u64 = 1200;

    #[test]
    fn chance_is_what_is_lost_while_round_trips_are_short() {
        let mut losses = Losses::default();
        losses.on_delivered(98 * MTU, false, MTU);
        losses.on_lost(2 * MTU, false);
        assert!((losses.by_chance() - 0.02).abs() < 1e-9);
        // As much while they are long is chance too.
        losses.on_delivered(196 * MTU, true, MTU);
        losses.on_lost(4 * MTU, true);
        assert!(!losses.overflowed(0.002, MTU));
        losses.on_lost(8 * MTU, true);
        assert!(losses.overflowed(0.002, MTU));
        losses.answered();
        assert!(!losses.overflowed(0.0, MTU) && !losses.any_high());
    }

    #[test]
    fn chance_is_forgotten_by_halves_and_has_a_limit() {
        let mut losses = Losses::default();
        losses.on_lost(100 * MTU, false);
        assert!((losses.by_chance() - MOST_CHANCE).abs() < 1e-9);
        for _ in 0..10 {
            losses.on_delivered(3000 * MTU, false, MTU);
        }
        assert!(!losses.loses_by_chance());
    }
}
