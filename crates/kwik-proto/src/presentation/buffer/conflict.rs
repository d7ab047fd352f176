//! Copies of a byte that differ (7.4): where, and what becomes of the one that is held.

use std::ops::Range;

use bytes::Bytes;

use super::{BufferError, StreamBuffer, index};
use crate::limits::{MAX_CONFLICTS, MAX_GAPS};

/// A stretch whose later copy differs from the one that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where it begins.
    pub offset: u64,
    /// The later copy. Beyond [`MAX_CONFLICTS`] stretches in a chunk, what lies between the last
    /// ones is part of it though it does not differ.
    pub data: Bytes,
}

impl Conflict {
    /// Its place.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.data.len() as u64
    }
}

impl StreamBuffer {
    /// Notes where `data` differs from what is held at the same offsets: in how many bytes.
    pub(super) fn note_conflicts(
        &self,
        range: &Range<u64>,
        data: &Bytes,
        conflicts: &mut Vec<Conflict>,
    ) -> u64 {
        let (mut places, mut bytes) = (Vec::<Range<u64>>::new(), 0);
        let mut note = |place: Range<u64>| {
            bytes += place.end - place.start;
            let full = places.len() >= MAX_CONFLICTS;
            match places.last_mut() {
                Some(last) if full || last.end == place.start => last.end = place.end,
                _ => places.push(place),
            }
        };
        self.front.differences(range.start, data, &mut note);
        let first = self.runs.range(..=range.start).next_back().map_or(range.start, |(&s, _)| s);
        for (_, run) in self.runs.range(first..range.end.max(first)) {
            run.differences(range.start, data, &mut note);
        }
        conflicts.extend(places.into_iter().map(|place| Conflict {
            offset: place.start,
            data: data.slice(index(place.start - range.start)..index(place.end - range.start)),
        }));
        bytes
    }

    /// Puts `data` in place of what is held at its offsets. What was read, or has not come, stays
    /// as it is.
    pub fn replace(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        self.front.overwrite(offset, data, &mut self.pinned);
        let first = self.runs.range(..=offset).next_back().map_or(offset, |(&start, _)| start);
        for (_, run) in self.runs.range_mut(first..end.max(first)) {
            run.overwrite(offset, data, &mut self.pinned);
        }
        self.share.set_pinned(self.pinned.excess());
    }

    /// Drops what is held of `range`, as if it had never come: how many bytes. What was read stays
    /// received.
    ///
    /// # Errors
    /// It would leave too many gaps or runs; nothing is dropped then.
    pub fn discard(&mut self, range: Range<u64>) -> Result<u64, BufferError> {
        if self.is_closed() || range.is_empty() {
            return Ok(0);
        }
        // At each end of the range a run may be cut in two.
        if self.runs.len() + 2 > MAX_GAPS || self.ahead.len() + 2 > MAX_GAPS {
            return Err(BufferError::TooManyGaps);
        }
        if !self.share.has_run() {
            return Err(BufferError::TooManyRuns);
        }
        let mut dropped = Vec::new();
        let first = self.runs.range(..=range.start).next_back().map_or(range.start, |(&s, _)| s);
        let within = self.runs.range(first..range.end.max(first)).map(|(&start, _)| start);
        for start in within.collect::<Vec<_>>() {
            let Some(mut run) = self.runs.remove(&start) else { continue };
            let part = range.start.max(run.start())..range.end.min(run.end());
            if !part.is_empty() {
                let mut middle = run.split_off(part.start, &mut self.pinned);
                let right = middle.split_off(part.end, &mut self.pinned);
                middle.clear(&mut self.pinned);
                self.runs.extend((!right.is_empty()).then(|| (right.start(), right)));
                dropped.push(part);
            }
            self.runs.extend((!run.is_empty()).then_some((start, run)));
        }
        let part = range.start.max(self.front.start())..range.end.min(self.front.end());
        if !part.is_empty() {
            let mut middle = self.front.split_off(part.start, &mut self.pinned);
            let right = middle.split_off(part.end, &mut self.pinned);
            middle.clear(&mut self.pinned);
            self.runs.extend((!right.is_empty()).then(|| (right.start(), right)));
            self.slices.retain(|end| *end <= part.start);
            dropped.push(part);
        }
        let bytes = dropped.iter().map(|part| part.end - part.start).sum::<u64>();
        self.forget(&dropped);
        self.held -= bytes;
        self.count_runs();
        self.share.set_pinned(self.pinned.excess());
        Ok(bytes)
    }

    /// What was received is so no more.
    fn forget(&mut self, dropped: &[Range<u64>]) {
        let lowest = dropped.iter().map(|part| part.start).min().unwrap_or(u64::MAX);
        if lowest < self.contiguous {
            self.ahead.insert(lowest..self.contiguous);
            self.contiguous = lowest;
        }
        dropped.iter().for_each(|part| {
            self.ahead.remove(part.clone());
        });
    }
}
