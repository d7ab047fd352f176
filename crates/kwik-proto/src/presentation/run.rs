//! A run: bytes of one stream without a gap, as the chunks in which they came.

use std::collections::VecDeque;
use std::iter;

use bytes::Bytes;

use crate::limits::{COPY_BLOCK, MIN_SLICE};

/// Spare room of a run's queue that an empty run keeps.
const SPARE_CHUNKS: usize = 64;

#[derive(Debug)]
struct Chunk {
    start: u64,
    data: Bytes,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// Contiguous bytes that end at `end`.
///
/// Two neighbouring chunks hold more than [`MIN_SLICE`] together, unless one of them was pushed
/// by [`Run::push`] while small, or the first was read in part: that run is never joined to
/// another on its left, as the byte there is gone.
#[derive(Debug)]
pub(super) struct Run {
    /// In order; the offsets make room for a binary search.
    chunks: VecDeque<Chunk>,
    /// The block that small writes are copied to, after all chunks; at most [`COPY_BLOCK`].
    tail: Vec<u8>,
    end: u64,
}

impl Run {
    /// An empty run at `offset`.
    pub(super) const fn new(offset: u64) -> Self {
        Self { chunks: VecDeque::new(), tail: Vec::new(), end: offset }
    }

    pub(super) fn start(&self) -> u64 {
        self.chunks.front().map_or(self.tail_start(), |chunk| chunk.start)
    }

    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn len(&self) -> u64 {
        self.end - self.start()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    fn tail_start(&self) -> u64 {
        self.end - self.tail.len() as u64
    }

    /// Moves an empty run.
    pub(super) fn restart(&mut self, offset: u64) {
        debug_assert!(self.is_empty());
        self.end = offset;
    }

    /// Appends `data` as it is when it is large, as a copy when it is small.
    pub(super) fn append(&mut self, data: Bytes) {
        if data.len() < MIN_SLICE {
            self.push_copy(&data);
        } else {
            self.push(data);
        }
    }

    /// Appends `data` without a copy.
    pub(super) fn push(&mut self, data: Bytes) {
        self.seal();
        let start = self.end;
        self.end += data.len() as u64;
        self.chunks.push_back(Chunk { start, data });
    }

    /// Copies `data`, at most [`COPY_BLOCK`], to the tail block, or to a new one if it is full.
    fn push_copy(&mut self, data: &[u8]) {
        if !self.has_room(data.len()) {
            self.seal();
        }
        self.tail.extend_from_slice(data);
        self.end += data.len() as u64;
    }

    /// Whether there is a tail block, and `len` more bytes fit.
    fn has_room(&self, len: usize) -> bool {
        !self.tail.is_empty() && self.tail.len() + len <= COPY_BLOCK
    }

    /// Makes the tail block a chunk.
    fn seal(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let start = self.tail_start();
        let mut block = std::mem::take(&mut self.tail);
        block.shrink_to_fit();
        self.chunks.push_back(Chunk { start, data: block.into() });
    }

    /// Appends `right`, which starts where this run ends. Moves the fewer chunks of the two, so
    /// that a chunk moves O(log chunks) times in all, and copies one block at most.
    pub(super) fn join(&mut self, mut right: Self) {
        debug_assert_eq!(self.end, right.start());
        if let Some(first) = right.chunks.front()
            && self.has_room(first.data.len())
        {
            self.push_copy(&first.data);
            right.chunks.pop_front();
        }
        if right.chunks.is_empty() && self.has_room(right.tail.len()) {
            self.push_copy(&right.tail);
            return;
        }
        self.seal();
        if self.chunks.len() >= right.chunks.len() {
            self.chunks.append(&mut right.chunks);
        } else {
            while let Some(chunk) = self.chunks.pop_back() {
                right.chunks.push_front(chunk);
            }
            self.chunks = right.chunks;
        }
        self.tail = right.tail;
        self.end = right.end;
    }

    /// Takes the first chunk, at most `max` > 0 bytes of it.
    pub(super) fn pop(&mut self, max: usize) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal();
        }
        let first = self.chunks.front_mut()?;
        if first.data.len() > max {
            first.start += max as u64;
            return Some(first.data.split_to(max));
        }
        let data = self.chunks.pop_front().map(|chunk| chunk.data);
        if self.chunks.is_empty() && self.chunks.capacity() > SPARE_CHUNKS {
            self.chunks.shrink_to(SPARE_CHUNKS);
        }
        data
    }

    /// Copies small chunks together, so that they pin no receive buffer.
    pub(super) fn compact(&mut self) {
        self.seal();
        let mut compacted = Self::new(self.start());
        for chunk in self.chunks.drain(..) {
            compacted.append(chunk.data);
        }
        *self = compacted;
    }

    /// How many bytes of `data` at `offset` differ from those held here at the same offsets.
    pub(super) fn mismatches(&self, offset: u64, data: &[u8]) -> u64 {
        let end = offset + data.len() as u64;
        let first = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        self.chunks
            .range(first..)
            .map(|chunk| (chunk.start, &chunk.data[..]))
            .chain(iter::once((self.tail_start(), &self.tail[..])))
            .take_while(|(start, _)| *start < end)
            .map(|(start, held)| differing(start, held, offset, data))
            .sum()
    }

    #[cfg(test)]
    pub(super) fn chunk_count(&self) -> usize {
        self.chunks.len() + usize::from(!self.tail.is_empty())
    }

    /// Heap of the run: queue, blocks and slices, without what the slices pin.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.iter().map(|chunk| chunk.data.len()).sum::<usize>()
            + self.tail.capacity()
    }
}

/// How many bytes differ where `a` at offset `a_start` and `b` at `b_start` overlap.
fn differing(a_start: u64, a: &[u8], b_start: u64, b: &[u8]) -> u64 {
    let skip = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let a = a.get(skip(b_start.saturating_sub(a_start))..).unwrap_or_default();
    let b = b.get(skip(a_start.saturating_sub(b_start))..).unwrap_or_default();
    let len = a.len().min(b.len());
    if a[..len] == b[..len] {
        return 0;
    }
    iter::zip(a, b).filter(|(a, b)| a != b).count() as u64
}
