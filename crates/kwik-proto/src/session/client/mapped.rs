//! Secondary streams at the client: only KWIK sees them (7.1).

use std::time::Instant;

use crate::mapping::{Mapping, MappingKey, Place, Verdict};
use crate::sync::lock;
use crate::wire::SecondaryEvent;
use crate::wire::control::ControlMessage;
use crate::wire::control::{OffsetSyncRequest, OffsetSyncResponse};
use crate::wire::secondary::{MappingOperation, StreamMappingUpdate};
use crate::{Code, CodedError, LeaseId, PathId, SecondaryWrites, Side, StreamId};

use super::super::Wake;
use super::ClientSession;

impl ClientSession {
    /// Takes the open, an update or the close of a secondary stream, in the order of
    /// [`Inbound`](crate::mapping::Inbound). It is to be stopped when no lease of the path covers
    /// the place, and nothing is due there, so that nothing of it will be admitted.
    ///
    /// # Errors
    /// The path is to be closed.
    pub fn handle_secondary(
        &mut self,
        path: PathId,
        event: &SecondaryEvent,
        now: Instant,
    ) -> Result<Verdict, CodedError> {
        self.paths.on_active(path, now);
        match event {
            SecondaryEvent::Open(m) => {
                let (key, lease) = ((path, m.secondary_stream_id), m.lease_id);
                let stream = m.target_kwik_stream_id;
                let place = Place { stream, lease, offset: m.initial_offset };
                let covered = self.map(path, place, now);
                let most = self.streams.config().secondary().streams_per_path();
                match self.mappings.open(key, place, covered, most, now) {
                    Err(error) if error.code == Code::LimitExceeded => {
                        if covered {
                            self.scheduler.lose_mapped(lease, now);
                        }
                        self.tell(key, place, MappingOperation::Delete, now);
                        return Ok(Verdict::Stop(error.code));
                    }
                    opened => opened?,
                }
                self.tell_mapped(key, place, covered, MappingOperation::Create, now);
                let wanted = covered || self.is_due(path, stream);
                let isolation = Verdict::Stop(Code::SecondaryStreamIsolation);
                Ok(if wanted { Verdict::Take } else { isolation })
            }
            SecondaryEvent::Update(m) => {
                let (key, lease) = ((path, m.secondary_stream_id), m.lease_id);
                let stream = m.kwik_stream_id;
                let place = Place { stream, lease, offset: m.offset };
                let covered = self.map(path, place, now);
                self.mappings.update(key, place, covered, now);
                self.tell_mapped(key, place, covered, MappingOperation::Update, now);
                // What was written under its former lease may be due yet, and it may move on.
                Ok(Verdict::Take)
            }
            SecondaryEvent::Close(m) => {
                self.mappings.close((path, m.secondary_stream_id), true);
                Ok(Verdict::Take)
            }
            SecondaryEvent::Data(_) | SecondaryEvent::Unknown(_) => Ok(Verdict::Take),
        }
    }

    fn map(&mut self, path: PathId, place: Place, now: Instant) -> bool {
        let Place { stream, lease, offset } = place;
        if !lease.is_unleased() {
            return self.scheduler.map_lease((path, stream, lease), offset, now);
        }
        let open = self.streams.config().secondary().writes() == SecondaryWrites::Open;
        let recv = self.streams.halves(stream).and_then(|halves| halves.recv.clone());
        let own = lease.is_unleased_of(path) && stream.is_sender(Side::Server);
        let Some(recv) = recv.filter(|_| open && own) else { return false };
        self.scheduler.map_unleased((path, stream, lease), offset, recv, now)
    }

    /// Tells the secondary of a mapping. Where it holds no lease it learns whether it may write.
    fn tell_mapped(
        &mut self,
        key: MappingKey,
        place: Place,
        covered: bool,
        operation: MappingOperation,
        now: Instant,
    ) {
        let refused = place.lease.is_unleased() && !covered;
        self.tell(key, place, if refused { MappingOperation::Delete } else { operation }, now);
    }

    /// When [`Self::check_mappings`] has something to do.
    pub(super) fn next_mapping_check(&self) -> Option<Instant> {
        (!self.mappings.is_empty()).then_some(self.mappings_at)
    }

    /// Stops the secondary streams that owe bytes and bring none (7.5).
    pub(super) fn check_mappings(&mut self, now: Instant) {
        if self.mappings.is_empty() || self.mappings_at > now {
            return;
        }
        let timeout = self.streams.config().secondary().stream_timeout();
        self.mappings_at = now + timeout / 4;
        let scheduler = &self.scheduler;
        let owes = |path, lease| scheduler.owes(path, lease);
        for mapping in self.mappings.overdue(owes, timeout, now) {
            let key = (mapping.path, mapping.id);
            self.scheduler.lose_mapped(mapping.place.lease, now);
            self.mappings.stop(key, Code::AggregationTimeout);
            self.outputs.wake(Wake::Secondary);
        }
    }

    /// With which code a secondary stream is to be stopped, if it is ([`Wake::Secondary`]).
    #[must_use]
    pub fn secondary_stopped(&self, key: MappingKey) -> Option<Code> {
        self.mappings.stopped(key)
    }

    /// A secondary stream broke its protocol, and is given up: `id` is what it is known by, and
    /// `place` where it wrote, if it said so. Its lease goes to others (9.2).
    pub fn on_metadata_violation(
        &mut self,
        path: PathId,
        id: Option<u64>,
        place: Option<(StreamId, u64)>,
        now: Instant,
    ) {
        let mapped = id.and_then(|id| self.mappings.get((path, id))).map(|m| m.place.lease);
        let lease = mapped.or_else(|| {
            let (stream, offset) = place?;
            self.scheduler.lease_at(path, stream, offset)
        });
        if let Some(lease) = lease {
            self.scheduler.lose_mapped(lease, now);
        }
        if let Some(id) = id {
            self.mappings.stop((path, id), Code::MetadataProtocolViolation);
        }
    }

    /// The lease under which a path may write at a place, if there is one (9.2).
    #[must_use]
    pub fn lease_at(&self, path: PathId, stream: StreamId, offset: u64) -> Option<LeaseId> {
        self.scheduler.lease_at(path, stream, offset)
    }

    /// Asks a secondary to say again, on the stream, where it writes (9.2).
    pub fn request_mapping(&mut self, key: MappingKey, now: Instant) {
        if let Some(place) = self.mappings.get(key).map(|mapping| mapping.place) {
            self.tell(key, place, MappingOperation::Resend, now);
        }
    }

    /// A secondary asks where it goes on (7.4).
    pub(super) fn on_offset_sync(&mut self, path: PathId, m: &OffsetSyncRequest, now: Instant) {
        let (stream, current) = (m.kwik_stream_id, m.current_offset);
        let mut expected = self.scheduler.next_expected(path, stream);
        if self.streams.config().secondary().writes() == SecondaryWrites::Open && expected.is_none()
        {
            let recv = self.streams.halves(stream).and_then(|halves| halves.recv.as_ref());
            expected = recv.map(|recv| lock(recv).contiguous_end());
        }
        let expected_offset = expected.unwrap_or(current);
        let response = ControlMessage::OffsetSyncResponse(OffsetSyncResponse {
            kwik_stream_id: stream,
            expected_offset,
            sync_required: expected_offset != current,
        });
        self.send(path, &response, now);
    }

    /// A lease that ended meanwhile may have left pieces whose bytes are on their way.
    fn is_due(&self, path: PathId, stream: StreamId) -> bool {
        let recv = self.streams.halves(stream).and_then(|halves| halves.recv.as_ref());
        recv.is_some_and(|recv| lock(recv).has_pieces_of(path))
    }

    /// A secondary stream brought so many bytes, of which so many were not here, all before
    /// `offset`, where it goes on.
    pub fn on_mapped(&mut self, key: MappingKey, bytes: (u64, u64), offset: u64, now: Instant) {
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
