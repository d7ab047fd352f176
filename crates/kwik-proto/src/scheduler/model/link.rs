//! What a path's link carries: the rate of the fastest train of packets.

use std::time::Instant;

use super::super::tuning::{TRAIN, TRAIN_GAP, UNKNOWN_SPACING};
use super::rate_of;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    /// In bytes a second, once measured.
    rate: Option<u64>,
    /// Bytes of the current train, without its first packets.
    bytes: u64,
    began: Instant,
    last: Instant,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: None, bytes: 0, began: now, last: now }
    }

    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// A train begins.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.bytes, self.began, self.last) = (0, now, now);
    }

    /// Packets came.
    pub(super) fn on_received(&mut self, bytes: u64, now: Instant) {
        // A train goes on as long as its packets follow as closely as those before did.
        let spacing = if self.bytes > 0 { (self.last - self.began) * 2 } else { UNKNOWN_SPACING };
        if now.saturating_duration_since(self.last) > spacing.max(TRAIN_GAP) {
            return self.begin(now);
        }
        (self.bytes, self.last) = (self.bytes + bytes, now);
        if self.bytes >= TRAIN || self.rate.is_none() && now > self.began {
            let sample = rate_of(self.bytes, now.saturating_duration_since(self.began));
            self.rate = Some(self.rate.map_or(sample, |rate| rate.max(sample)));
            self.begin(now);
        }
    }
}
