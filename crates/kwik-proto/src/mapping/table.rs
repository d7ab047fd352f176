//! Which secondary stream writes where (7.3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::stats::SecondaryStats;
use crate::{Code, CodedError, LeaseId, PathId, StreamId};

/// A path, and the number that its secondary gave the stream.
pub type MappingKey = (PathId, u64);

/// How far a mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingState {
    /// Opened; nothing was written yet.
    Opening,
    /// Bytes flow.
    Active,
    /// Its lease is over: nothing more is asked of it.
    Closing,
    /// Closed in order.
    Closed,
    /// It has no lease there, or ended without a close.
    Error,
}

/// Where a mapping writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The stream of the client.
    pub stream: StreamId,
    /// The lease that covers it.
    pub lease: LeaseId,
    /// The next offset.
    pub offset: u64,
}

/// One secondary stream and what it maps to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The path that carries it.
    pub path: PathId,
    /// Its number there.
    pub id: u64,
    /// Where it writes now.
    pub place: Place,
    /// How far it is.
    pub state: MappingState,
    /// Payload bytes received, or sent at the secondary.
    pub bytes: u64,
    /// Of those, bytes that went into the stream: not what was there already. The same as `bytes`
    /// at the secondary.
    pub transferred: u64,
    /// When it opened.
    pub created_at: Instant,
    /// When it last wrote or moved.
    pub last_activity: Instant,
    /// Since when it owes bytes and brings none, as far as was looked.
    waiting: Option<Instant>,
    /// With which code its stream is to be stopped.
    stop: Option<Code>,
}

impl Mapping {
    fn writes(&self) -> bool {
        matches!(self.state, MappingState::Opening | MappingState::Active)
    }
}

/// The mappings of a session, found by secondary stream and by stream. It holds those that
/// are open.
#[derive(Debug, Default)]
pub struct MappingTable {
    open: BTreeMap<MappingKey, Mapping>,
    by_stream: BTreeSet<(StreamId, MappingKey)>,
    stats: BTreeMap<PathId, SecondaryStats>,
}

impl MappingTable {
    /// Adds a mapping; `covered` tells whether a lease allows it: if not, its state
    /// is [`MappingState::Error`].
    ///
    /// # Errors
    /// The id is in use, or the path has `most` already: [`Code::LimitExceeded`].
    pub fn open(
        &mut self,
        key: MappingKey,
        place: Place,
        covered: bool,
        most: usize,
        now: Instant,
    ) -> Result<(), CodedError> {
        if self.open.contains_key(&key) {
            let context = format!("secondary stream {} is open already", key.1);
            return Err(CodedError::new(Code::MetadataProtocolViolation, context));
        }
        if self.of_path(key.0).count() >= most {
            return Err(CodedError::new(Code::LimitExceeded, "too many secondary streams"));
        }
        let (path, id) = key;
        let state = if covered { MappingState::Opening } else { MappingState::Error };
        let mapping = Mapping {
            path,
            id,
            place,
            state,
            bytes: 0,
            transferred: 0,
            created_at: now,
            last_activity: now,
            waiting: None,
            stop: None,
        };
        self.count(path, covered);
        self.by_stream.insert((place.stream, key));
        self.open.insert(key, mapping);
        Ok(())
    }

    /// Moves a mapping (7.2).
    pub fn update(&mut self, key: MappingKey, place: Place, covered: bool, now: Instant) {
        let Some(mapping) = self.open.get_mut(&key) else { return };
        self.by_stream.remove(&(mapping.place.stream, key));
        self.by_stream.insert((place.stream, key));
        mapping.place = place;
        mapping.state = if covered { MappingState::Active } else { MappingState::Error };
        mapping.last_activity = now;
        if !covered {
            self.count(key.0, covered);
        }
    }

    fn count(&mut self, path: PathId, covered: bool) {
        let stats = self.stats.entry(path).or_default();
        stats.mapped += u64::from(covered);
        stats.unmapped += u64::from(!covered);
    }

    /// Payload came or went, up to `offset`: of `bytes` so many went into the stream. True when the
    /// mapping is under a live lease.
    pub fn on_bytes(
        &mut self,
        key: MappingKey,
        (bytes, transferred): (u64, u64),
        offset: u64,
        now: Instant,
    ) -> bool {
        let Some(mapping) = self.open.get_mut(&key) else { return false };
        if mapping.state == MappingState::Opening {
            mapping.state = MappingState::Active;
        }
        mapping.bytes += bytes;
        mapping.transferred += transferred;
        mapping.waiting = None;
        mapping.place.offset = offset;
        mapping.last_activity = now;
        let stats = self.stats.entry(key.0).or_default();
        stats.bytes += bytes;
        stats.transferred += transferred;
        stats.batches += 1;
        mapping.state == MappingState::Active
    }

    /// Takes note of who owes bytes at `now`: those that have brought none for `timeout`.
    pub fn overdue(
        &mut self,
        owes: impl Fn(PathId, LeaseId) -> bool,
        timeout: Duration,
        now: Instant,
    ) -> Vec<Mapping> {
        let mut overdue = Vec::new();
        for mapping in self.open.values_mut().filter(|mapping| mapping.writes()) {
            let owing = owes(mapping.path, mapping.place.lease);
            mapping.waiting = owing.then(|| mapping.waiting.unwrap_or(now));
            if mapping.waiting.is_some_and(|since| since + timeout <= now) {
                overdue.push(mapping.clone());
            }
        }
        overdue
    }

    /// A mapping's stream is to be stopped.
    pub fn stop(&mut self, key: MappingKey, code: Code) {
        if let Some(mapping) = self.open.get_mut(&key) {
            mapping.state = MappingState::Error;
            mapping.stop.get_or_insert(code);
        }
    }

    /// With which code a mapping's stream is to be stopped, if it is.
    #[must_use]
    pub fn stopped(&self, key: MappingKey) -> Option<Code> {
        self.open.get(&key).and_then(|mapping| mapping.stop)
    }

    /// No mapping is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A lease is over: the mappings under it, which are closing now.
    pub fn on_lease_ended(&mut self, path: PathId, stream: StreamId, lease: LeaseId) -> Vec<u64> {
        let all = (stream, (path, 0))..=(stream, (path, u64::MAX));
        let mut closing = Vec::new();
        for (_, key) in self.by_stream.range(all) {
            let mapping = self.open.get_mut(key).filter(|mapping| mapping.place.lease == lease);
            if let Some(mapping) = mapping {
                mapping.state = MappingState::Closing;
                closing.push(key.1);
            }
        }
        closing
    }

    /// Removes a mapping whose stream is over: as it was, its state [`MappingState::Closed`] or,
    /// when it did not close in order, [`MappingState::Error`].
    pub fn close(&mut self, key: MappingKey, in_order: bool) -> Option<Mapping> {
        let mut mapping = self.open.remove(&key)?;
        self.by_stream.remove(&(mapping.place.stream, key));
        mapping.state = if in_order { MappingState::Closed } else { MappingState::Error };
        Some(mapping)
    }

    /// The path is gone, and all its streams with it.
    pub fn end_path(&mut self, path: PathId) {
        let keys: Vec<_> = self.of_path(path).map(|mapping| (path, mapping.id)).collect();
        for key in keys {
            self.close(key, false);
        }
        self.stats.remove(&path);
    }

    /// One mapping.
    #[must_use]
    pub fn get(&self, key: MappingKey) -> Option<&Mapping> {
        self.open.get(&key)
    }

    /// Those of one path, in order of their ids.
    pub fn of_path(&self, path: PathId) -> impl Iterator<Item = &Mapping> {
        self.open.range((path, 0)..=(path, u64::MAX)).map(|(_, mapping)| mapping)
    }

    /// Those that write into one stream.
    pub fn of_stream(&self, stream: StreamId) -> impl Iterator<Item = &Mapping> {
        let first = (stream, (PathId::PRIMARY, 0));
        let keys = self.by_stream.range(first..).take_while(move |(of, _)| *of == stream);
        keys.filter_map(|(_, key)| self.open.get(key))
    }

    /// Figures of one path (7.6).
    #[must_use]
    pub fn stats(&self, path: PathId) -> SecondaryStats {
        let active = self.of_path(path).filter(|mapping| mapping.writes()).count();
        SecondaryStats { active, ..self.stats.get(&path).copied().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    const MOST: usize = limits::MAX_QUIC_STREAMS as usize;
    const A: PathId = PathId(1);
    const B: PathId = PathId(2);

    fn place(stream: u64, lease: u64, offset: u64) -> Place {
        Place { stream: StreamId::from_u64(stream), lease: LeaseId(lease), offset }
    }

    fn streams(table: &MappingTable, stream: u64) -> Vec<MappingKey> {
        table.of_stream(StreamId::from_u64(stream)).map(|m| (m.path, m.id)).collect()
    }

    #[test]
    fn a_mapping_is_found_both_ways_until_it_closes() {
        let now = crate::test_now();
        let mut table = MappingTable::default();
        table.open((A, 0), place(3, 1, 10), true, MOST, now).unwrap();
        table.open((B, 0), place(3, 2, 20), true, MOST, now).unwrap();
        table.open((A, 1), place(7, 3, 0), true, MOST, now).unwrap();
        assert_eq!(streams(&table, 3), [(A, 0), (B, 0)]);
        assert_eq!(table.get((A, 0)).unwrap().state, MappingState::Opening);
        assert!(table.on_bytes((A, 0), (5, 5), 15, now));
        let found = table.get((A, 0)).unwrap();
        assert_eq!((found.state, found.bytes), (MappingState::Active, 5));
        assert_eq!(found.place, place(3, 1, 15));
        table.update((A, 0), place(7, 3, 8), true, now);
        assert_eq!((streams(&table, 3), streams(&table, 7)), (vec![(B, 0)], vec![(A, 0), (A, 1)]));
        assert_eq!(table.close((A, 0), true).unwrap().state, MappingState::Closed);
        assert_eq!(table.close((A, 0), true), None);
        assert_eq!(streams(&table, 7), [(A, 1)]);
        let stats = table.stats(A);
        assert_eq!((stats.active, stats.mapped, stats.unmapped, stats.bytes), (1, 2, 0, 5));
        table.end_path(A);
        assert_eq!(table.stats(A), SecondaryStats::default());
        assert_eq!(streams(&table, 7), []);
        assert_eq!(table.of_path(B).count(), 1);
    }

    #[test]
    fn the_end_of_a_lease_closes_its_mappings_alone() {
        let now = crate::test_now();
        let mut table = MappingTable::default();
        for id in 0..3 {
            table.open((A, id), place(3, id / 2, 0), true, MOST, now).unwrap();
        }
        assert_eq!(table.on_lease_ended(A, StreamId::from_u64(3), LeaseId(0)), [0, 1]);
        assert!(!table.on_bytes((A, 0), (1, 1), 1, now) && table.on_bytes((A, 2), (1, 1), 1, now));
        assert_eq!(table.stats(A).active, 1);
    }

    #[test]
    fn ids_in_use_and_more_than_quic_allows_are_refused() {
        let now = crate::test_now();
        let mut table = MappingTable::default();
        for id in 0..u64::from(limits::MAX_QUIC_STREAMS) {
            table.open((A, id), place(3, 0, 0), id > 0, MOST, now).unwrap();
        }
        assert_eq!(table.stats(A).unmapped, 1);
        let code = |result: Result<(), CodedError>| result.unwrap_err().code;
        let again = table.open((A, 0), place(3, 0, 0), true, MOST, now);
        assert_eq!(code(again), Code::MetadataProtocolViolation);
        assert_eq!(
            code(table.open((A, 999), place(3, 0, 0), true, MOST, now)),
            Code::LimitExceeded
        );
        table.open((B, 0), place(3, 0, 0), true, MOST, now).unwrap();
    }
}
