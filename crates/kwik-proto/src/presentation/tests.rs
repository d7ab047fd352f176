//! The stream buffer against a naive model, and its bounds on memory.

mod memory;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{BufferError, ReceiveMemory, Stored, StreamBuffer};
use crate::limits::{COPY_BLOCK, MAX_GAPS, MAX_OFFSET, MAX_PINNED, MAX_RUNS, MIN_SLICE};

const SPACE: usize = 48 * 1024;

/// One slot a byte: what its first copy was, and whether it was read.
struct Model {
    bytes: Vec<Option<u8>>,
    read: Vec<bool>,
}

impl Model {
    fn new() -> Self {
        Self { bytes: vec![None; SPACE], read: vec![false; SPACE] }
    }

    fn write(&mut self, offset: usize, data: &[u8]) -> Stored {
        let mut written = Stored::default();
        for (at, byte) in (offset..).zip(data) {
            match self.bytes[at] {
                None => {
                    self.bytes[at] = Some(*byte);
                    written.new += 1;
                }
                Some(first) => {
                    written.duplicate += 1;
                    written.conflicting += u64::from(!self.read[at] && first != *byte);
                }
            }
        }
        written
    }

    fn is_held(&self, at: usize) -> bool {
        self.bytes[at].is_some() && !self.read[at]
    }

    fn contiguous_end(&self) -> usize {
        self.bytes.iter().position(Option::is_none).unwrap_or(SPACE)
    }

    fn position(&self) -> usize {
        (0..SPACE).find(|at| !self.read[*at]).unwrap_or(SPACE)
    }

    /// Takes what a read returned, after checking it byte by byte.
    fn take(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            assert!(self.is_held(at));
            assert_eq!(self.bytes[at], Some(*byte));
            self.read[at] = true;
        }
    }

    fn ranges(&self, within: Range<usize>, test: impl Fn(usize) -> bool) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for at in within.filter(|at| test(*at)) {
            let at = at as u64;
            match ranges.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => ranges.push(at..at + 1),
            }
        }
        ranges
    }
}

/// The bound that the documentation states.
fn check_bounds(buffer: &StreamBuffer) {
    let held = usize::try_from(buffer.held()).unwrap();
    let chunks: usize = buffer.all_runs().map(super::run::Run::chunk_count).sum();
    assert!(chunks <= 2 * held / MIN_SLICE + 2 * buffer.runs() + 64, "{chunks} for {held}");
    assert!(buffer.pinned() <= MAX_PINNED);
}

fn check(buffer: &StreamBuffer, model: &Model, probe: Range<usize>) {
    check_bounds(buffer);
    let missing = |at: usize| model.bytes[at].is_none();
    let end = (0..SPACE).rev().find(|at| !missing(*at)).map_or(0, |last| last + 1);
    let contiguous = model.contiguous_end();
    let gaps = model.ranges(0..end, missing);
    let held = model.ranges(0..SPACE, |at| model.is_held(at));
    assert_eq!(buffer.write_end(), end as u64);
    assert_eq!(buffer.contiguous_end(), contiguous as u64);
    assert_eq!(buffer.read_position(), model.position() as u64);
    assert_eq!(buffer.gaps().collect::<Vec<_>>(), gaps);
    assert_eq!((buffer.gap_count(), buffer.has_gaps()), (gaps.len(), !gaps.is_empty()));
    assert_eq!(buffer.next_gap(), gaps.first().cloned());
    let largest = gaps.iter().map(|gap| gap.end - gap.start).max().unwrap_or(0);
    assert_eq!(buffer.usage().largest_gap, largest);
    assert_eq!(buffer.runs(), held.len());
    assert_eq!(buffer.held(), held.iter().map(|run| run.end - run.start).sum::<u64>());
    let readable = (0..contiguous).filter(|at| model.is_held(*at)).count();
    assert_eq!(buffer.usage().contiguous, readable as u64);

    let range = probe.start as u64..probe.end as u64;
    let missing = model.ranges(probe, missing);
    assert_eq!(buffer.is_received(range.clone()), missing.is_empty());
    assert_eq!(buffer.missing(range).collect::<Vec<_>>(), missing);
}

#[derive(Debug, Clone)]
enum Operation {
    Write {
        offset: usize,
        len: usize,
        version: u8,
    },
    /// Where the first missing byte is, as most writes in practice, in so many parts.
    Append {
        len: usize,
        parts: usize,
    },
    WriteChunks {
        offset: usize,
        len: usize,
        version: u8,
        parts: usize,
    },
    Read {
        max: usize,
    },
    ReadInto {
        len: usize,
    },
    ReadUnordered {
        max: usize,
    },
    /// Another copy of what is held, in place of it.
    Replace {
        offset: usize,
        len: usize,
    },
    /// What is held there was never received.
    Discard {
        offset: usize,
        len: usize,
    },
    Settle,
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0..24usize, 3 => 1000..3000usize, 2 => 4000..9000usize]
}

fn operation() -> impl Strategy<Value = Operation> {
    // Few distinct places, so that writes meet.
    let offset = prop_oneof![0..40usize, 0..6000usize, 0..SPACE];
    // Most copies agree; few conflict.
    let version = prop_oneof![9 => Just(0u8), 1 => 1..3u8];
    prop_oneof![
        2 => (offset.clone(), length(), version.clone(), 1..6usize).prop_map(
            |(offset, len, version, parts)| Operation::WriteChunks { offset, len, version, parts }
        ),
        2 => (offset.clone(), length())
            .prop_map(|(offset, len)| Operation::Replace { offset, len }),
        2 => (offset.clone(), length())
            .prop_map(|(offset, len)| Operation::Discard { offset, len }),
        12 => (offset, length(), version)
            .prop_map(|(offset, len, version)| Operation::Write { offset, len, version }),
        6 => (length(), 1..6usize).prop_map(|(len, parts)| Operation::Append { len, parts }),
        3 => length().prop_map(|max| Operation::Read { max }),
        1 => length().prop_map(|len| Operation::ReadInto { len }),
        2 => length().prop_map(|max| Operation::ReadUnordered { max }),
        1 => Just(Operation::Settle),
    ]
}

/// The byte that belongs at an offset.
fn pattern(offset: u64) -> u8 {
    u8::try_from(offset * 31 / 7 % 251).unwrap()
}

/// What belongs at `offset`; versions other than 0 differ from it in some places.
fn content(offset: usize, len: usize, version: u8) -> Bytes {
    let end = (offset + len).min(SPACE);
    (offset as u64..end as u64)
        .map(|at| pattern(at) ^ if at % 3 == 0 { version } else { 0 })
        .collect()
}

fn write_chunks(
    buffer: &mut StreamBuffer,
    model: &mut Model,
    offset: usize,
    mut data: Bytes,
    parts: usize,
) {
    let expected = model.write(offset, &data);
    let part = data.len().div_ceil(parts);
    let mut chunks: Vec<_> = (0..parts).map(|_| data.split_to(part.min(data.len()))).collect();
    assert_eq!(buffer.write_chunks(offset as u64, &mut chunks), Ok(expected));
    assert!(chunks.iter().all(Bytes::is_empty));
}

fn apply(buffer: &mut StreamBuffer, model: &mut Model, operation: &Operation) {
    match *operation {
        Operation::Write { offset, len, version } => {
            let data = content(offset, len, version);
            let expected = model.write(offset, &data);
            assert_eq!(buffer.write(offset as u64, data), Ok(expected));
        }
        Operation::Append { len, parts } => {
            let offset = model.contiguous_end();
            write_chunks(buffer, model, offset, content(offset, len, 0), parts);
        }
        Operation::WriteChunks { offset, len, version, parts } => {
            write_chunks(buffer, model, offset, content(offset, len, version), parts);
        }
        Operation::Read { max } => {
            let at = model.position();
            let readable = max > 0 && at < SPACE && model.is_held(at);
            let data = buffer.read(max);
            assert_eq!(data.is_some(), readable);
            if let Some(data) = data {
                assert!(!data.is_empty() && data.len() <= max);
                model.take(at, &data);
            }
        }
        Operation::ReadInto { len } => {
            let mut out = vec![0; len];
            let count = buffer.read_into(&mut out);
            let places: Vec<_> =
                (0..model.contiguous_end()).filter(|at| model.is_held(*at)).take(len).collect();
            assert_eq!(count, places.len());
            for (at, byte) in places.into_iter().zip(&out) {
                model.take(at, std::slice::from_ref(byte));
            }
        }
        Operation::ReadUnordered { max } => {
            let lowest = (0..SPACE).find(|at| model.is_held(*at)).filter(|_| max > 0);
            let taken = buffer.read_unordered(max);
            assert_eq!(taken.as_ref().map(|(offset, _)| *offset), lowest.map(|at| at as u64));
            if let (Some((_, data)), Some(at)) = (taken, lowest) {
                assert!(!data.is_empty() && data.len() <= max);
                model.take(at, &data);
            }
        }
        Operation::Replace { offset, len } => {
            let data = content(offset, len, 7);
            buffer.replace(offset as u64, &data);
            for (at, byte) in (offset..).zip(data) {
                if model.is_held(at) {
                    model.bytes[at] = Some(byte);
                }
            }
        }
        Operation::Discard { offset, len } => {
            let range = offset..(offset + len).min(SPACE);
            let held: Vec<_> = range.clone().filter(|at| model.is_held(*at)).collect();
            let dropped = buffer.discard(range.start as u64..range.end as u64);
            assert_eq!(dropped, Ok(held.len() as u64));
            held.iter().for_each(|at| model.bytes[*at] = None);
        }
        Operation::Settle => buffer.settle(),
    }
}

proptest! {
    #[test]
    fn agrees_with_a_slot_a_byte(
        operations in prop::collection::vec(operation(), 0..60),
        probes in prop::collection::vec((0..SPACE, 0..3000usize), 60),
    ) {
        let (mut buffer, mut model) = (StreamBuffer::default(), Model::new());
        for (operation, (start, len)) in operations.iter().zip(probes) {
            apply(&mut buffer, &mut model, operation);
            check(&buffer, &model, start..(start + len).min(SPACE));
        }
        // What is left comes out once, whatever the mixture before.
        while let Some((offset, data)) = buffer.read_unordered(usize::MAX) {
            model.take(usize::try_from(offset).unwrap(), &data);
        }
        check(&buffer, &model, 0..SPACE);
        prop_assert_eq!(buffer.held(), 0);
    }
}
