//! One stream's bytes: written at offsets in any order, read in order (8.1).

use std::collections::{BTreeMap, VecDeque};
use std::ops::{AddAssign, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::memory::{Pinned, ReceiveMemory, Share};
use super::run::Run;
use crate::limits::{MAX_GAPS, MAX_OFFSET, MAX_RUNS, MIN_SLICE};
use crate::range::RangeSet;

mod conflict;
mod usage;

pub use conflict::Conflict;

/// Small slices that a stream keeps uncopied: readers that keep up take them as they came.
const MAX_SLICES: usize = 32;

/// What a write brought, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Stored: they were missing.
    pub new: u64,
    /// Dropped: they were received before.
    pub duplicate: u64,
    /// Those of `duplicate` whose first copy is still held and differs. The first copy stays,
    /// unless it is replaced ([`StreamBuffer::replace`]).
    pub conflicting: u64,
}

impl AddAssign for Stored {
    fn add_assign(&mut self, other: Self) {
        self.new += other.new;
        self.duplicate += other.duplicate;
        self.conflicting += other.conflicting;
    }
}

/// Why a write was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BufferError {
    /// It would leave more than [`MAX_GAPS`] gaps, or as many separate runs. What the write
    /// brought before that is kept.
    #[error("more than {MAX_GAPS} gaps in a stream: fill gaps before writing further ahead")]
    TooManyGaps,
    /// It would leave more than [`MAX_RUNS`] separate runs in the session's streams.
    #[error("more than {MAX_RUNS} runs in a session: fill gaps before writing further ahead")]
    TooManyRuns,
    /// It ends beyond [`MAX_OFFSET`].
    #[error("a stream ends at offset {MAX_OFFSET} at the latest")]
    OffsetTooLarge,
    /// The buffer was closed; the data is of no use.
    #[error("the stream's buffer is closed: drop what still arrives")]
    Closed,
}

/// A buffer's figures (8.1), in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferUsage {
    /// Received and not yet read.
    pub held: u64,
    /// Those of `held` that can be read in order now.
    pub contiguous: u64,
    /// Number of gaps below `write_position`.
    pub gaps: usize,
    /// Length of the largest gap.
    pub largest_gap: u64,
    /// Where ordered reading continues.
    pub read_position: u64,
    /// Highest end of what was received.
    pub write_position: u64,
}

/// Reassembles one stream (8.1): writes at offsets in any order, the first copy of a byte wins;
/// reads in order, or whatever is held.
///
/// Cost: a write, a read and a question cost amortised O(log gaps) and no copy; writes shorter
/// than [`MIN_SLICE`] may be copied, and longer ones when receive buffers are pinned that hold
/// little else; once or, next to another short chunk, one block more.
///
/// Memory: with `held` bytes in `runs` runs there are at most `2 * held / MIN_SLICE + 2 * runs +
/// 64` chunks, however small the writes were, and copies take at most twice the bytes that they
/// hold. What uncopied slices pin beyond themselves is bounded for all buffers of a session
/// together ([`ReceiveMemory`]), and so are runs and gaps: [`MAX_RUNS`] of all, [`MAX_GAPS`] of
/// one. `held` is bounded by the credit that was granted.
///
/// Unordered reading takes the lowest chunk. It may be mixed with ordered reading, which steps
/// over what was taken: [`StreamBuffer::read_position`] says where the next read begins.
#[derive(Debug)]
pub struct StreamBuffer {
    /// What ordered reading returns next; empty only if nothing below `contiguous` is held.
    front: Run,
    /// Held runs beyond `front`, by start; none begins where another or `front` ends.
    runs: BTreeMap<u64, Run>,
    /// First missing offset.
    contiguous: u64,
    /// What was received beyond `contiguous`, held or taken already.
    ahead: RangeSet,
    held: u64,
    /// Ends of the short slices in `front` that were not copied.
    slices: VecDeque<u64>,
    pinned: Pinned,
    share: Share,
    /// It was closed: how much had been received by then, all of which counts as taken.
    closed: Option<u64>,
}

impl Default for StreamBuffer {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl StreamBuffer {
    /// An empty buffer at offset 0, one of those that share `memory`.
    #[must_use]
    pub fn new(memory: Arc<ReceiveMemory>) -> Self {
        Self {
            front: Run::new(0),
            runs: BTreeMap::new(),
            contiguous: 0,
            ahead: RangeSet::new(),
            held: 0,
            slices: VecDeque::new(),
            pinned: Pinned::new(&memory),
            share: Share::new(memory),
            closed: None,
        }
    }

    /// Takes `data` at `offset`. What was received before is dropped, and compared if still held.
    ///
    /// # Errors
    ///
    /// See [`BufferError`]; nothing is stored then, unless said there.
    pub fn write(&mut self, offset: u64, data: Bytes) -> Result<Stored, BufferError> {
        self.write_noting(offset, data, &mut Vec::new())
    }

    fn write_noting(
        &mut self,
        offset: u64,
        data: Bytes,
        conflicts: &mut Vec<Conflict>,
    ) -> Result<Stored, BufferError> {
        if self.is_closed() {
            return Err(BufferError::Closed);
        }
        let len = data.len() as u64;
        let end = offset.checked_add(len).filter(|end| *end <= MAX_OFFSET);
        let all = offset..end.ok_or(BufferError::OffsetTooLarge)?;
        let mut gap = self.missing(all.clone()).next();
        if gap.as_ref() == Some(&all) {
            self.store(offset, data)?;
            return Ok(Stored { new: len, ..Stored::default() });
        }

        let conflicting = self.note_conflicts(&all, &data, conflicts);
        let mut written = Stored { conflicting, ..Stored::default() };
        while let Some(Range { start, end }) = gap {
            self.store(start, data.slice(index(start - offset)..index(end - offset)))?;
            written.new += end - start;
            gap = self.missing(end..all.end).next();
        }
        written.duplicate = len - written.new;
        Ok(written)
    }

    /// Takes `chunks` that follow one another from `offset` on, and leaves them empty; the same as
    /// a [`write`](Self::write) of each.
    ///
    /// # Errors
    ///
    /// As of a write; those before the chunk that was refused are stored.
    pub fn write_chunks(
        &mut self,
        offset: u64,
        chunks: &mut [Bytes],
    ) -> Result<Stored, BufferError> {
        self.write_chunks_noting(offset, chunks, &mut Vec::new())
    }

    /// The same, and appends to `conflicts` where a copy differs from the one that is held.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn write_chunks_noting(
        &mut self,
        mut offset: u64,
        chunks: &mut [Bytes],
        conflicts: &mut Vec<Conflict>,
    ) -> Result<Stored, BufferError> {
        let len = total(chunks);
        // In order, with nothing ahead: nothing to look up.
        let next = offset == self.contiguous && offset == self.front.end() && !self.has_gaps();
        if next && !self.is_closed() && offset.checked_add(len).is_some_and(|e| e <= MAX_OFFSET) {
            for data in chunks.iter_mut().map(std::mem::take).filter(|data| !data.is_empty()) {
                self.append_to_front(data);
            }
            self.contiguous += len;
            self.held += len;
            return Ok(Stored { new: len, ..Stored::default() });
        }
        let mut all = Stored::default();
        for data in chunks {
            let len = data.len() as u64;
            all += self.write_noting(offset, std::mem::take(data), conflicts)?;
            offset += len;
        }
        Ok(all)
    }

    /// Takes `data`, all of which is missing.
    fn store(&mut self, start: u64, data: Bytes) -> Result<(), BufferError> {
        let range = start..start + data.len() as u64;
        if start == self.front.end() {
            self.append_to_front(data);
            if let Some(right) = self.runs.remove(&range.end) {
                self.front.join(right, &mut self.pinned);
            }
        } else {
            self.store_ahead(&range, data)?;
        }
        self.held += range.end - range.start;

        if start > self.contiguous {
            self.ahead.insert(range);
        } else {
            self.contiguous = range.end;
            if let Some(next) = self.ahead.first().filter(|next| next.start == range.end) {
                self.contiguous = next.end;
                self.ahead.remove(next);
            }
        }
        self.count_runs();
        Ok(())
    }

    fn append_to_front(&mut self, data: Bytes) {
        let short = data.len() < MIN_SLICE;
        if short && self.slices.len() >= MAX_SLICES {
            return self.front.push_copy(&data);
        }
        let end = self.front.end() + data.len() as u64;
        let kept = append(&mut self.front, data, &mut self.pinned, &mut self.share);
        if short && kept {
            self.slices.push_back(end);
        }
    }

    fn store_ahead(&mut self, range: &Range<u64>, data: Bytes) -> Result<(), BufferError> {
        let left =
            self.runs.range(..range.start).next_back().filter(|(_, r)| r.end() == range.start);
        let left = left.map(|(&start, _)| start);
        let new_run = left.is_none() && !self.runs.contains_key(&range.end);
        let new_gap = range.start > self.contiguous && !self.ahead.touches(range);
        if new_run && self.runs.len() >= MAX_GAPS || new_gap && self.ahead.len() >= MAX_GAPS {
            return Err(BufferError::TooManyGaps);
        }
        if (new_run || new_gap) && !self.share.has_run() {
            return Err(BufferError::TooManyRuns);
        }
        let right = self.runs.remove(&range.end);
        let start = left.unwrap_or(range.start);
        let run = self.runs.entry(start).or_insert_with(|| Run::new(start));
        if data.len() < MIN_SLICE {
            run.push_copy(&data);
        } else {
            append(run, data, &mut self.pinned, &mut self.share);
        }
        if let Some(right) = right {
            run.join(right, &mut self.pinned);
        }
        Ok(())
    }

    /// States how many runs, or gaps where there are more, this buffer has.
    fn count_runs(&mut self) {
        self.share.set_runs(self.runs.len().max(self.ahead.len()));
    }

    /// The next bytes in order: one chunk, at most `max` of it. `None` while they are missing.
    pub fn read(&mut self, max: usize) -> Option<Bytes> {
        if max == 0 {
            return None;
        }
        let data = self.front.pop(max, &mut self.pinned)?;
        self.held -= data.len() as u64;
        self.advance();
        let position = self.read_position();
        while self.slices.front().is_some_and(|end| *end <= position) {
            self.slices.pop_front();
        }
        Some(data)
    }

    /// Steps over what was taken unordered, once everything before it is read.
    fn advance(&mut self) {
        if !self.front.is_empty() || self.front.end() == self.contiguous {
            return;
        }
        match self.runs.first_entry().filter(|run| *run.key() < self.contiguous) {
            Some(run) => {
                self.front = run.remove();
                self.count_runs();
            }
            None => self.front.restart(self.contiguous),
        }
    }

    /// Fills `out` with the next chunks in order; returns how many it set.
    pub fn read_chunks(&mut self, out: &mut [Bytes]) -> usize {
        let mut count = 0;
        for slot in out {
            let Some(data) = self.read(usize::MAX) else {
                break;
            };
            *slot = data;
            count += 1;
        }
        count
    }

    /// Copies the next bytes in order to `out`; returns how many.
    pub fn read_into(&mut self, out: &mut [u8]) -> usize {
        let mut count = 0;
        while let Some(data) = self.read(out.len() - count) {
            out[count..count + data.len()].copy_from_slice(&data);
            count += data.len();
        }
        count
    }

    /// The lowest held bytes with their offset: one chunk, at most `max` of it. They count as
    /// received from then on, so a second copy is dropped.
    pub fn read_unordered(&mut self, max: usize) -> Option<(u64, Bytes)> {
        let position = self.read_position();
        if max == 0 || !self.front.is_empty() {
            return self.read(max).map(|data| (position, data));
        }
        let (start, mut run) = self.runs.pop_first()?;
        let data = run.pop(max, &mut self.pinned)?;
        self.held -= data.len() as u64;
        if !run.is_empty() {
            self.runs.insert(run.start(), run);
        }
        self.count_runs();
        Some((start, data))
    }

    /// To be called after a batch of reads: reading part of a receive buffer leaves the rest of it
    /// pinned, so that it is copied when the session's streams pin too much.
    pub fn settle(&mut self) {
        if self.share.set_pinned(self.pinned.excess()) {
            let first = self.runs.first_entry().map(|entry| entry.into_mut());
            let front = Some(&mut self.front).filter(|front| !front.is_empty());
            if let Some(run) = front.or(first) {
                run.copy_first_batch(&mut self.pinned);
            }
            self.share.set_pinned(self.pinned.excess());
        }
    }

    /// Drops everything that is held, with its gaps; later writes are refused. The read position
    /// stays.
    pub fn close(&mut self) {
        let position = self.read_position();
        let received = self.taken() + self.held;
        *self = Self {
            front: Run::new(position),
            contiguous: position,
            closed: Some(received),
            ..Self::default()
        };
    }

    /// Whether it was closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    #[cfg(test)]
    pub(super) fn all_runs(&self) -> impl Iterator<Item = &Run> {
        std::iter::once(&self.front).chain(self.runs.values())
    }
}

/// Appends `data` as it is while the session may pin its receive buffer, else as a copy; whether it
/// was kept.
fn append(run: &mut Run, data: Bytes, pinned: &mut Pinned, share: &mut Share) -> bool {
    let same_batch = pinned.are_batched() && run.is_same_batch(&data);
    let keep = same_batch || share.pin() || {
        // What came since this buffer last said so has made its receive buffers fuller.
        share.set_pinned(pinned.excess());
        share.pin()
    };
    if keep {
        run.push(data, same_batch, pinned);
    } else {
        run.push_copy(&data);
    }
    if !same_batch {
        share.set_pinned(pinned.excess());
    }
    keep
}

/// Bytes of all `chunks`.
pub(crate) fn total(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("invariant: an offset within a slice")
}
