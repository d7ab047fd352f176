//! Secondary streams at the client: only KWIK sees them (7.1).

use std::time::Instant;

use crate::mapping::{Mapping, MappingKey, Place};
use crate::sync::lock;
use crate::wire::SecondaryEvent;
use crate::wire::control::ControlMessage;
use crate::wire::secondary::{MappingOperation, StreamMappingUpdate};
use crate::{CodedError, LeaseId, PathId, StreamId};

use super::ClientSession;

impl ClientSession {
    /// Takes the open, an update or the close of a secondary stream, in the order of
    /// [`Inbound`](crate::mapping::Inbound). False when no lease of the path covers the place and
    /// nothing is due there: the QUIC stream is to be stopped once what came of it was admitted,
    /// which it will not be.
    ///
    /// # Errors
    /// The path is to be closed.
    pub fn handle_secondary(
        &mut self,
        path: PathId,
        event: &SecondaryEvent,
        now: Instant,
    ) -> Result<bool, CodedError> {
        self.paths.on_active(path, now);
        match event {
            SecondaryEvent::Open(m) => {
                let (key, lease) = ((path, m.secondary_stream_id), m.lease_id);
                let stream = m.target_kwik_stream_id;
                let place = Place { stream, lease, offset: m.initial_offset };
                let covered = self.map(path, place, now);
                self.mappings.open(key, place, covered, now)?;
                self.tell(key, place, MappingOperation::Create, now);
                Ok(covered || self.is_due(path, stream))
            }
            SecondaryEvent::Update(m) => {
                let (key, lease) = ((path, m.secondary_stream_id), m.lease_id);
                let stream = m.kwik_stream_id;
                let place = Place { stream, lease, offset: m.offset };
                let covered = self.map(path, place, now);
                self.mappings.update(key, place, covered, now);
                self.tell(key, place, MappingOperation::Update, now);
                // What was written under its former lease may be due yet, and it may move on.
                Ok(true)
            }
            SecondaryEvent::Close(m) => {
                self.mappings.close((path, m.secondary_stream_id), true);
                Ok(true)
            }
            SecondaryEvent::Data(_) | SecondaryEvent::Unknown(_) => Ok(true),
        }
    }

    fn map(&mut self, path: PathId, place: Place, now: Instant) -> bool {
        let Place { stream, lease, offset } = place;
        self.scheduler.map_lease((path, stream, lease), offset, now)
    }

    /// A lease that ended meanwhile may have left pieces whose bytes are on their way.
    fn is_due(&self, path: PathId, stream: StreamId) -> bool {
        let recv = self.streams.halves(stream).and_then(|halves| halves.recv.as_ref());
        recv.is_some_and(|recv| lock(recv).has_pieces_of(path))
    }

    /// A secondary stream brought `bytes`, all of it before `offset`, where it goes on.
    pub fn on_mapped(&mut self, key: MappingKey, bytes: u64, offset: u64, now: Instant) {
        if self.mappings.on_bytes(key, bytes, offset, now)
            && let Some(lease) = self.mappings.get(key).map(|mapping| mapping.place.lease)
        {
            self.scheduler.on_mapped(lease, offset, now);
        }
    }

    /// The QUIC stream of a mapping has ended, however.
    pub fn on_secondary_ended(&mut self, key: MappingKey) {
        self.mappings.close(key, false);
    }

    /// What writes into a stream now, of all paths (7.3).
    pub fn mappings_of(&self, stream: StreamId) -> impl Iterator<Item = &Mapping> {
        self.mappings.of_stream(stream)
    }

    pub(super) fn on_lease_ended(
        &mut self,
        path: PathId,
        stream: StreamId,
        lease: LeaseId,
        now: Instant,
    ) {
        for id in self.mappings.on_lease_ended(path, stream, lease) {
            let place = Place { stream, lease, offset: 0 };
            self.tell((path, id), place, MappingOperation::Delete, now);
        }
    }

    /// Tells the secondary what has become of a mapping, behind what was asked of it until now.
    fn tell(&mut self, key: MappingKey, place: Place, operation: MappingOperation, now: Instant) {
        if operation != MappingOperation::Delete {
            self.flush(now);
        }
        let update = ControlMessage::StreamMappingUpdate(StreamMappingUpdate {
            secondary_stream_id: key.1,
            kwik_stream_id: place.stream,
            operation,
            lease_id: place.lease,
            offset: place.offset,
        });
        self.send(key.0, &update, now);
    }
}
