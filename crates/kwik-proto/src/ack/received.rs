//! The receiver's part.

use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use super::violation;
use crate::CodedError;
use crate::limits::{
    ACK_BYTES, ACK_DELAY, ACK_END_DELAY, ACK_ENDS, MAX_ACK_RANGES, MAX_RESUME_RANGES,
    MAX_UNACKED_PACKETS,
};
use crate::range::RangeSet;
use crate::wire::control::Ack;

/// Packets that one reader has read whole since it told its session.
#[derive(Debug, Default)]
pub struct ArrivedPackets {
    ids: Vec<Range<u64>>,
    bytes: u64,
    /// How many of them end a stream.
    ends: u32,
}

impl ArrivedPackets {
    /// A packet with `bytes` of payload was read; `fin`: a stream ends with it.
    pub fn note(&mut self, id: u64, bytes: u64, fin: bool) {
        match self.ids.last_mut() {
            Some(last) if last.end == id => last.end = id.saturating_add(1),
            _ => self.ids.push(id..id.saturating_add(1)),
        }
        self.bytes += bytes;
        self.ends += u32::from(fin);
    }

    /// Whether nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Removes a range: how much of it was there.
fn take(set: &mut RangeSet, range: Range<u64>) -> u64 {
    if set.is_empty() {
        // It would have room for some from now on.
        return 0;
    }
    let missing = set.insert(range.clone());
    let all = range.end - range.start;
    set.remove(range);
    all - missing
}

/// Says which packets of one path to acknowledge, and when: every [`ACK_BYTES`], after
/// [`ACK_DELAY`], and when streams end soon, once a few have.
#[derive(Debug, Default)]
pub struct ReceivedPackets {
    /// All that arrived. At most [`MAX_UNACKED_PACKETS`] / 2 gaps, by where ids may lie.
    received: RangeSet,
    /// Those of them that come again on another connection, since a statement left them out.
    unstated: RangeSet,
    /// Those that the sender was not told of.
    unreported: RangeSet,
    bytes: u64,
    /// How many of them end a stream.
    ends: u32,
    due: Option<Instant>,
}

impl ReceivedPackets {
    /// Nothing arrived yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Packets arrived whole.
    ///
    /// # Errors
    /// An id is 0, came before, or is further ahead than a sender may go: the path is to be closed.
    pub fn on_arrived(&mut self, arrived: &ArrivedPackets, now: Instant) -> Result<(), CodedError> {
        for ids in &arrived.ids {
            let Range { start, end } = *ids;
            let missing = self.received.first_missing_from(1).start;
            if start == 0 || end > missing.saturating_add(MAX_UNACKED_PACKETS) {
                let last = end.saturating_sub(1);
                let context = format!("packet {last} where {missing} is due");
                return Err(violation(context));
            }
            let fresh = self.received.insert(start..end);
            if fresh + take(&mut self.unstated, start..end) < end - start {
                return Err(violation(format!("packet {start} or one behind it came twice")));
            }
            self.unreported.insert(start..end);
        }
        self.bytes += arrived.bytes;
        self.ends += arrived.ends;
        let delay = if self.bytes >= ACK_BYTES || self.ends >= ACK_ENDS {
            Duration::ZERO
        } else if arrived.ends > 0 {
            ACK_END_DELAY
        } else {
            ACK_DELAY
        };
        if !arrived.is_empty() {
            self.due = Some(self.due.map_or(now + delay, |due| due.min(now + delay)));
        }
        Ok(())
    }

    /// The next acknowledgement that is due.
    pub fn poll_ack(&mut self, now: Instant) -> Option<Ack> {
        self.due.filter(|due| *due <= now)?;
        let told: Vec<_> = self.unreported.iter().take(MAX_ACK_RANGES).collect();
        for range in &told {
            self.unreported.remove(range.clone());
        }
        if self.unreported.is_empty() {
            // An empty set would keep room for several.
            self.unreported = RangeSet::new();
            (self.bytes, self.ends, self.due) = (0, 0, None);
        }
        let ranges = told.into_iter().map(|ids| ids.start..=ids.end - 1);
        Some(Ack { ranges: ranges.collect(), control_frames: 0 })
    }

    /// All that arrived, for a peer that repeats the rest. What is too scattered to be told comes
    /// again, unless it was acknowledged before.
    pub fn statement(&mut self) -> Vec<RangeInclusive<u64>> {
        self.unstated = RangeSet::new();
        for ids in self.received.iter().skip(MAX_RESUME_RANGES) {
            self.unstated.insert(ids);
        }
        self.unreported = RangeSet::new();
        (self.bytes, self.ends, self.due) = (0, 0, None);
        let told = self.received.iter().take(MAX_RESUME_RANGES);
        told.map(|ids| ids.start..=ids.end - 1).collect()
    }

    /// When [`Self::poll_ack`] will have one.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}
