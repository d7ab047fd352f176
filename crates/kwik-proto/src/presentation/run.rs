//! A run: bytes of one stream without a gap, as the chunks in which they came.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::limits::COPY_BLOCK;

use super::memory::{Pinned, RECEIVE_BUFFER};

/// Spare room of a run's queue that an empty run keeps.
const SPARE_CHUNKS: usize = 64;
/// At most this lies between two slices of a receive buffer that follow one another: the end of a
/// datagram, and the headers of the next.
const BETWEEN_SLICES: usize = 256;

/// Whose memory a chunk is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// A copy: a block of its own.
    Block,
    /// A slice of a receive buffer, the first that is held of it.
    Batch,
    /// A slice of the same receive buffer as the chunk before.
    SameBatch,
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    data: Bytes,
    origin: Origin,
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
///
/// [`MIN_SLICE`]: crate::limits::MIN_SLICE
#[derive(Debug)]
pub(super) struct Run {
    /// In order; the offsets make room for a binary search.
    chunks: VecDeque<Chunk>,
    /// The block that writes are copied to, after all chunks; less than [`COPY_BLOCK`].
    tail: Vec<u8>,
    end: u64,
    /// The address where the last chunk's receive buffer begins, as far as it is known here.
    batch: usize,
}

impl Run {
    /// An empty run at `offset`.
    pub(super) const fn new(offset: u64) -> Self {
        Self { chunks: VecDeque::new(), tail: Vec::new(), end: offset, batch: 0 }
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

    /// Whether `data` goes on in the receive buffer that the last chunk is a slice of. Two buffers
    /// that lie side by side may pass for one.
    pub(super) fn is_same_batch(&self, data: &[u8]) -> bool {
        let Some(last) = self.chunks.back().filter(|_| self.tail.is_empty()) else { return false };
        let (start, last_end) = (address(data), address(&last.data) + last.data.len());
        last.origin != Origin::Block
            && start >= last_end
            && start - last_end <= BETWEEN_SLICES
            && start + data.len() - self.batch <= RECEIVE_BUFFER
    }

    /// Appends `data` without a copy; `same_batch` as [`Run::is_same_batch`] says.
    pub(super) fn push(&mut self, data: Bytes, same_batch: bool, pinned: &mut Pinned) {
        let origin = if same_batch { Origin::SameBatch } else { Origin::Batch };
        if !same_batch {
            self.batch = address(&data);
            pinned.batches += 1;
        }
        pinned.bytes += pinned.counted(data.len());
        self.seal();
        let start = self.end;
        self.end += data.len() as u64;
        self.chunks.push_back(Chunk { start, data, origin });
    }

    /// Copies `data` to the tail block, and to new ones when that is full.
    pub(super) fn push_copy(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let held = self.tail.len();
            let (now, rest) = data.split_at(data.len().min(COPY_BLOCK - held));
            if self.tail.capacity() - held < now.len() {
                // Whole blocks once the run has as much, so that half of the memory is payload.
                let size = if self.len() < COPY_BLOCK as u64 { 2 * held + 8 } else { COPY_BLOCK };
                let size = size.clamp(held + now.len(), COPY_BLOCK);
                self.tail.reserve_exact(size - held);
            }
            self.tail.extend_from_slice(now);
            self.end += now.len() as u64;
            if self.tail.len() == COPY_BLOCK {
                self.seal();
            }
            data = rest;
        }
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
        self.chunks.push_back(Chunk { start, data: block.into(), origin: Origin::Block });
    }

    /// Appends `right`, which starts where this run ends. Moves the fewer chunks of the two, so
    /// that a chunk moves O(log chunks) times in all, and copies one block at most.
    pub(super) fn join(&mut self, mut right: Self, pinned: &mut Pinned) {
        debug_assert_eq!(self.end, right.start());
        if let Some(first) = right.chunks.front()
            && self.has_room(first.data.len())
            && let Some(data) = right.pop(usize::MAX, pinned)
        {
            self.push_copy(&data);
        }
        if right.chunks.is_empty() && self.has_room(right.tail.len()) {
            self.push_copy(&right.tail);
            return;
        }
        self.seal();
        if !right.chunks.is_empty() {
            self.batch = right.batch;
        }
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
    pub(super) fn pop(&mut self, max: usize, pinned: &mut Pinned) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal();
        }
        let first = self.chunks.front_mut()?;
        let held = pinned.counted(first.data.len());
        if first.data.len() > max {
            first.start += max as u64;
            let data = first.data.split_to(max);
            if first.origin != Origin::Block {
                pinned.bytes -= held - pinned.counted(first.data.len());
            }
            return Some(data);
        }
        let first = self.chunks.pop_front()?;
        if first.origin != Origin::Block {
            pinned.bytes -= held;
            match self.chunks.front_mut().filter(|next| next.origin == Origin::SameBatch) {
                Some(next) => next.origin = Origin::Batch,
                None => pinned.batches -= 1,
            }
        }
        if self.chunks.is_empty() && self.chunks.capacity() > SPARE_CHUNKS {
            self.chunks.shrink_to(SPARE_CHUNKS);
        }
        Some(first.data)
    }

    /// Copies what is held of the first receive buffer, so that it is pinned no more.
    pub(super) fn copy_first_batch(&mut self, pinned: &mut Pinned) {
        if self.chunks.front().is_none_or(|first| first.origin != Origin::Batch) {
            return;
        }
        let same = self.chunks.iter().skip(1).take_while(|c| c.origin == Origin::SameBatch);
        let count = 1 + same.count();
        let mut copied = Self::new(self.start());
        for chunk in self.chunks.drain(..count) {
            pinned.bytes -= pinned.counted(chunk.data.len());
            copied.push_copy(&chunk.data);
        }
        pinned.batches -= 1;
        copied.seal();
        copied.chunks.into_iter().rev().for_each(|chunk| self.chunks.push_front(chunk));
    }

    /// Finds where `data` at `offset` differs from what is held here: tells `note` each stretch.
    pub(super) fn differences(&self, offset: u64, data: &[u8], note: &mut impl FnMut(Range<u64>)) {
        let end = offset + data.len() as u64;
        let first = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        self.chunks
            .range(first..)
            .map(|chunk| (chunk.start, &chunk.data[..]))
            .chain(iter::once((self.tail_start(), &self.tail[..])))
            .take_while(|(start, _)| *start < end)
            .for_each(|(start, held)| differing(start, held, offset, data, note));
    }

    /// Puts `data` at `offset` in place of what is held there. Slices of receive buffers become
    /// blocks first, so that there are no more chunks than of bytes that came in order.
    pub(super) fn overwrite(&mut self, offset: u64, data: &[u8], pinned: &mut Pinned) {
        let end = offset + data.len() as u64;
        let mut at = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        while let Some(chunk) = self.chunks.get_mut(at).filter(|chunk| chunk.start < end) {
            if chunk.origin != Origin::Block {
                self.copy_chunk(at, pinned);
                continue;
            }
            let block = std::mem::take(&mut chunk.data).try_into_mut();
            // A reader has a part of it.
            let mut block = block.unwrap_or_else(|held| BytesMut::from(&held[..]));
            overlay(chunk.start, &mut block, offset, data);
            chunk.data = block.freeze();
            at += 1;
        }
        overlay(self.tail_start(), &mut self.tail, offset, data);
    }

    /// Makes blocks of one slice. Those that follow it in its receive buffer pin that no less.
    fn copy_chunk(&mut self, at: usize, pinned: &mut Pinned) {
        let Some(chunk) = self.chunks.remove(at) else { return };
        pinned.bytes -= pinned.counted(chunk.data.len());
        if chunk.origin == Origin::Batch {
            pinned.batches -= 1;
        }
        if let Some(next) = self.chunks.get_mut(at).filter(|c| c.origin == Origin::SameBatch) {
            next.origin = Origin::Batch;
            pinned.batches += 1;
        }
        let mut copied = Self::new(chunk.start);
        copied.push_copy(&chunk.data);
        copied.seal();
        let blocks = (at..).zip(copied.chunks);
        blocks.for_each(|(at, block)| self.chunks.insert(at, block));
    }

    /// Cuts the run at `offset`, which lies within it; returns what follows.
    pub(super) fn split_off(&mut self, offset: u64, pinned: &mut Pinned) -> Self {
        self.seal();
        let at = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let mut right =
            Self { chunks: self.chunks.split_off(at), tail: Vec::new(), ..Self::new(self.end) };
        right.batch = self.batch;
        self.end = offset;
        if let Some(first) = right.chunks.front_mut() {
            if first.start < offset {
                let left = usize::try_from(offset - first.start).unwrap_or(usize::MAX);
                let counted = pinned.counted(first.data.len());
                let (start, data) = (first.start, first.data.split_to(left));
                if first.origin != Origin::Block {
                    pinned.bytes -= counted;
                    pinned.bytes += pinned.counted(data.len()) + pinned.counted(first.data.len());
                    pinned.batches += 1;
                }
                self.chunks.push_back(Chunk { start, data, origin: first.origin });
                first.start = offset;
            } else if first.origin == Origin::SameBatch {
                pinned.batches += 1;
            }
            if first.origin == Origin::SameBatch {
                first.origin = Origin::Batch;
            }
        }
        // What its last chunk is a slice of begins with the first of that buffer.
        let own = self.chunks.iter().rev().take_while(|chunk| chunk.origin != Origin::Block);
        let first = own.into_iter().find(|chunk| chunk.origin == Origin::Batch);
        self.batch = first.map_or(0, |chunk| address(&chunk.data));
        right
    }

    /// Drops all that is held.
    pub(super) fn clear(mut self, pinned: &mut Pinned) {
        while self.pop(usize::MAX, pinned).is_some() {}
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

fn address(data: &[u8]) -> usize {
    data.as_ptr().addr()
}

/// Where `held` at offset `start` and `data` at `offset` overlap: a place in `held`, and a part of
/// `data`.
fn overlap(start: u64, held: usize, offset: u64, data: &[u8]) -> (usize, &[u8]) {
    let skip = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let at = skip(offset.saturating_sub(start)).min(held);
    let data = data.get(skip(start.saturating_sub(offset))..).unwrap_or_default();
    (at, &data[..data.len().min(held - at)])
}

fn overlay(start: u64, held: &mut [u8], offset: u64, data: &[u8]) {
    let (at, data) = overlap(start, held.len(), offset, data);
    held[at..at + data.len()].copy_from_slice(data);
}

/// Tells `note` each stretch in which `held` at offset `start` and `data` at `offset` differ.
fn differing(start: u64, held: &[u8], offset: u64, data: &[u8], note: &mut impl FnMut(Range<u64>)) {
    let (at, data) = overlap(start, held.len(), offset, data);
    let held = &held[at..at + data.len()];
    if held == data {
        return;
    }
    let from = start + at as u64;
    let mut differs = (from..).zip(iter::zip(held, data).map(|(held, new)| held != new));
    while let Some((first, _)) = differs.find(|(_, differs)| *differs) {
        let end = differs.find(|(_, differs)| !differs);
        note(first..end.map_or(from + data.len() as u64, |(end, _)| end));
    }
}
