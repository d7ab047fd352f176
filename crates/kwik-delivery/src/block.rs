//! A part of an object on its way, and who brought which bytes of it.

use std::{collections::BTreeSet, ops::Range};

use kwik::PathId;

use crate::{Verifier, limits::GROUP_SIZE};

/// Bytes of the object from `offset` on: whole groups, but for the object's end.
#[derive(Debug, Default)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
    /// Where the bytes of each source end, in order; none for a source that is not known.
    sources: Vec<(usize, Option<PathId>)>,
}

impl Block {
    pub(crate) const fn new(offset: u64, data: Vec<u8>) -> Self {
        Self { offset, data, sources: Vec::new() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8], path: Option<PathId>) {
        self.data.extend_from_slice(bytes);
        match self.sources.last_mut() {
            Some((end, last)) if *last == path => *end = self.data.len(),
            _ => self.sources.push((self.data.len(), path)),
        }
    }

    /// Keeps the first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.data.truncate(length);
        let mut start = 0;
        self.sources.retain(|(end, _)| std::mem::replace(&mut start, *end) < length);
        if let Some((end, _)) = self.sources.last_mut() {
            *end = (*end).min(length);
        }
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.data.len() as u64
    }

    /// Where `range` of the object lies in the data.
    pub(crate) fn place(&self, range: &Range<u64>) -> Range<usize> {
        let at = |offset: u64| {
            usize::try_from(offset.saturating_sub(self.offset))
                .unwrap_or(usize::MAX)
                .min(self.data.len())
        };
        at(range.start)..at(range.end)
    }

    /// The parts of `range`, in order, each with its source.
    pub(crate) fn parts(
        &self,
        range: &Range<u64>,
    ) -> impl Iterator<Item = (Range<usize>, Option<PathId>)> + '_ {
        let place = self.place(range);
        let mut start = 0;
        self.sources.iter().filter_map(move |(end, path)| {
            let part = start.max(place.start)..(*end).min(place.end);
            start = *end;
            (!part.is_empty()).then_some((part, *path))
        })
    }

    /// Who brought bytes of `range`; none among them stands for one that is not known.
    pub(crate) fn sources(&self, range: &Range<u64>) -> BTreeSet<Option<PathId>> {
        self.parts(range).map(|(_, path)| path).collect()
    }

    /// The groups that do not verify, as ranges of the object.
    pub(crate) fn corrupt(&self, verifier: &Verifier) -> Vec<Range<u64>> {
        let group = usize::try_from(GROUP_SIZE).expect("invariant: 64 KiB");
        let groups = (verifier.group_of(self.offset)..).zip(self.data.chunks(group));
        let verified = groups.map(|(index, data)| verifier.verify_group(index, data));
        verified.filter_map(|group| group.err().map(|corrupt| corrupt.range)).collect()
    }
}

/// Neighbouring ranges made one.
pub(crate) fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => all.push(range.clone()),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_say_who_brought_them() {
        let mut block = Block::new(1000, Vec::new());
        let (one, two) = (Some(PathId(1)), Some(PathId(2)));
        for (bytes, path) in [(&b"abc"[..], one), (b"d", one), (b"ef", two), (b"g", None)] {
            block.push(bytes, path);
        }
        assert_eq!(block.range(), 1000..1007);
        let parts: Vec<_> = block.parts(&(1002..1007)).collect();
        assert_eq!(parts, [(2..4, one), (4..6, two), (6..7, None)]);
        assert_eq!(block.sources(&(1000..1004)), BTreeSet::from([one]));
        assert_eq!(block.sources(&(1003..1005)), BTreeSet::from([one, two]));
        block.truncate(5);
        let parts: Vec<_> = block.parts(&(1000..1007)).collect();
        assert_eq!((block.range(), parts), (1000..1005, vec![(0..4, one), (4..5, two)]));
        assert_eq!(joined(&[0..2, 2..3, 5..6]), [0..3, 5..6]);
    }
}
