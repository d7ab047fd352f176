//! How full a buffer is, and where.

use std::ops::Range;

use super::{BufferUsage, StreamBuffer};

impl StreamBuffer {
    /// Where ordered reading continues; everything before was read.
    #[must_use]
    pub fn read_position(&self) -> u64 {
        self.front.start()
    }

    /// The first offset that was not received.
    #[must_use]
    pub const fn contiguous_end(&self) -> u64 {
        self.contiguous
    }

    /// The highest end of what was received.
    #[must_use]
    pub fn write_end(&self) -> u64 {
        self.ahead.max().map_or(self.contiguous, |last| last + 1)
    }

    /// Bytes received and not yet read.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Bytes that were read, in order or not, or dropped on closing. Reading in order alone, it is
    /// the read position.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        match self.closed {
            Some(received) => received,
            None => self.contiguous + self.ahead.bytes() - self.held,
        }
    }

    /// Bytes that can be read in order now.
    #[must_use]
    pub fn contiguous(&self) -> u64 {
        let rest: u64 = self.runs.range(..self.contiguous).map(|(_, run)| run.len()).sum();
        self.front.len() + rest
    }

    /// Whether all of `range` was received, whether it is held or read.
    #[must_use]
    pub fn is_received(&self, range: Range<u64>) -> bool {
        self.missing(range).next().is_none()
    }

    /// The parts of `range` that were not received, in order.
    pub fn missing(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ahead.missing(range.start.max(self.contiguous)..range.end)
    }

    /// The gaps below [`StreamBuffer::write_end`], in order.
    pub fn gaps(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.missing(self.contiguous..self.write_end())
    }

    /// Whether something beyond a missing byte was received.
    #[must_use]
    pub fn has_gaps(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// The lowest gap, which is what ordered reading waits for.
    #[must_use]
    pub fn next_gap(&self) -> Option<Range<u64>> {
        self.gaps().next()
    }

    /// The largest gap. O(gaps).
    #[must_use]
    pub fn largest_gap(&self) -> Option<Range<u64>> {
        self.gaps().max_by_key(|gap| gap.end - gap.start)
    }

    /// Number of gaps.
    #[must_use]
    pub fn gap_count(&self) -> usize {
        self.ahead.len()
    }

    /// Number of separate runs that are held.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len() + usize::from(!self.front.is_empty())
    }

    /// Bytes of receive buffers that uncopied slices pin beyond themselves, at worst.
    #[must_use]
    pub const fn pinned(&self) -> usize {
        self.pinned.excess()
    }

    /// All figures at once. O(gaps).
    #[must_use]
    pub fn usage(&self) -> BufferUsage {
        BufferUsage {
            held: self.held,
            contiguous: self.contiguous(),
            gaps: self.gap_count(),
            largest_gap: self.largest_gap().map_or(0, |gap| gap.end - gap.start),
            read_position: self.read_position(),
            write_position: self.write_end(),
        }
    }
}
