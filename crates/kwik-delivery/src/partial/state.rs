//! What a part file says of itself, behind its bytes.

use std::{fs::File, io, os::unix::fs::FileExt, process};

use kwik_proto::range::RangeSet;
use prost::Message;

use crate::{
    Manifest, ObjectName,
    limits::{HASH_SIZE, MAX_OBJECT, MAX_RANGES},
    request::{check_root, name_bytes, root_bytes},
    wire,
};

/// Bytes of one of the two places: a block of the usual file systems, which write it as one.
const SLOT: usize = 4096;
/// Bytes of a length.
const PREFIX: usize = 4;
/// Bytes of both places.
const SLOTS: u64 = 2 * SLOT as u64;

/// What is known of a part file's bytes.
#[derive(Debug, Clone)]
pub(super) struct PartState {
    pub(super) manifest: Manifest,
    pub(super) process: u32,
    pub(super) sequence: u64,
    /// What was verified when it was written.
    pub(super) verified: RangeSet,
}

/// The length of a part file of an object of `size` bytes.
pub(super) const fn length(size: u64) -> u64 {
    size.next_multiple_of(SLOT as u64) + SLOTS
}

impl PartState {
    pub(super) fn new(manifest: Manifest) -> Self {
        Self { manifest, process: process::id(), sequence: 0, verified: RangeSet::new() }
    }

    /// Writes it in the place of the older one.
    pub(super) fn write(&mut self, file: &File) -> io::Result<()> {
        self.sequence += 1;
        let place = length(self.manifest.size) - SLOTS + self.sequence % 2 * SLOT as u64;
        file.write_all_at(&self.encode(), place)
    }

    fn encode(&self) -> Vec<u8> {
        let ranges = self.verified.iter().take(MAX_RANGES);
        let message = wire::PartState {
            name: name_bytes(&self.manifest.name),
            size: self.manifest.size,
            root: root_bytes(&self.manifest.root),
            process: self.process,
            sequence: self.sequence,
            bounds: ranges.flat_map(|range| [range.start, range.end]).collect(),
        };
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(message);
        bytes.extend(*blake3::hash(&bytes).as_bytes());
        bytes
    }

    /// The later one of `file`'s two; none when neither is whole.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let end = file.metadata()?.len();
        let Some(start) = end.checked_sub(SLOTS) else { return Ok(None) };
        let mut slots = [[0; SLOT]; 2];
        for (slot, place) in slots.iter_mut().zip([start, start + SLOT as u64]) {
            file.read_exact_at(slot, place)?;
        }
        let states = slots.iter().filter_map(|slot| Self::decode(slot));
        let fitting = states.filter(|state| length(state.manifest.size) == end);
        Ok(fitting.max_by_key(|state| state.sequence))
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let (prefix, rest) = slot.split_first_chunk::<PREFIX>()?;
        let length = usize::try_from(u32::from_le_bytes(*prefix)).ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        let hash = rest.first_chunk::<HASH_SIZE>()?;
        if blake3::hash(slot.get(..PREFIX + length)?) != *hash {
            return None;
        }
        let message = wire::PartState::decode(message).ok()?;
        let wire::PartState { name, size, root, process, sequence, bounds } = message;
        let name = ObjectName::new(&name).ok()?;
        let root = check_root(&root).ok()?;
        let within = |range: &(u64, u64)| range.0 < range.1 && range.1 <= size;
        let ranges = bounds.chunks_exact(2).map(|bounds| (bounds[0], bounds[1])).filter(within);
        let verified = ranges.take(MAX_RANGES).map(|(start, end)| start..end).collect();
        (size <= MAX_OBJECT).then_some(())?;
        Some(Self { manifest: Manifest { name, size, root }, process, sequence, verified })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(size: u64) -> Manifest {
        let name = ObjectName::new("n".repeat(crate::limits::MAX_NAME)).unwrap();
        Manifest { name, size, root: blake3::hash(b"x") }
    }

    #[test]
    fn the_later_whole_state_counts() {
        let file = tempfile::tempfile().unwrap();
        assert!(PartState::read(&file).unwrap().is_none());
        let mut state = PartState::new(manifest(MAX_OBJECT));
        file.set_len(length(MAX_OBJECT)).unwrap();
        assert!(PartState::read(&file).unwrap().is_none());
        for end in 1..=3 {
            state.verified.insert(0..end);
            state.write(&file).unwrap();
            let read = PartState::read(&file).unwrap().unwrap();
            assert_eq!((read.manifest, read.verified.bytes()), (manifest(MAX_OBJECT), end));
        }
        // The later one is torn: the one before counts.
        let place = length(MAX_OBJECT) - SLOTS + state.sequence % 2 * SLOT as u64;
        file.write_all_at(b"torn", place + 70).unwrap();
        assert_eq!(PartState::read(&file).unwrap().unwrap().verified.bytes(), 2);
        // Of another length, it is none of ours.
        file.set_len(length(MAX_OBJECT) + 1).unwrap();
        assert!(PartState::read(&file).unwrap().is_none());
    }

    #[test]
    fn the_longest_state_has_its_place() {
        let mut state = PartState::new(manifest(MAX_OBJECT));
        state.sequence = u64::MAX - 1;
        for range in 0..2 * MAX_RANGES as u64 {
            let start = MAX_OBJECT - 2 * range - 1;
            state.verified.insert(start - 1..start);
        }
        assert!(state.encode().len() <= SLOT, "{}", state.encode().len());
        let read = PartState::decode(&state.encode()).unwrap();
        assert_eq!(read.verified.len(), MAX_RANGES);
    }
}
