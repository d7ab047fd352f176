//! Secondary streams at their writer.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::lease::{SharedWriter, Writer};
use crate::mapping::{Mapping, MappingTable, Place};
use crate::sync::lock;
use crate::wire::control::{ControlMessage, OffsetSyncRequest, OffsetSyncResponse};
use crate::wire::secondary::{MappingOperation, StreamMappingUpdate};
use crate::{Code, CodedError, LeaseId, StreamId, limits};

use super::{SecondarySession, Wake};

/// A secondary stream that was opened, or moved.
#[derive(Debug)]
pub struct Mapped {
    /// Its number on this path.
    pub id: u64,
    /// The lease's writer, which is the stream's from now on.
    pub writer: SharedWriter,
}

/// The secondary streams of this side, and what it asked about them.
#[derive(Debug, Default)]
pub(super) struct OwnStreams {
    mappings: MappingTable,
    /// The id of the next one.
    next: u64,
    /// Counts those without a lease.
    next_unleased: u32,
    /// Where the client was asked to say where this side goes on, and what it said.
    syncs: BTreeMap<StreamId, Option<u64>>,
}

impl SecondarySession {
    /// Opens a secondary stream under an offered lease that covers `offset` of
    /// `stream` and that nobody took. None while there is none: look again at
    /// [`Wake::LeaseOffered`](crate::session::Wake::LeaseOffered).
    ///
    /// # Errors
    /// The path has [`limits::MAX_SECONDARY_STREAMS`] open.
    pub fn open_stream(
        &mut self,
        stream: StreamId,
        offset: u64,
        now: Instant,
    ) -> Result<Option<Mapped>, CodedError> {
        self.check_room()?;
        let Some(writer) = self.take_offered(stream, offset) else { return Ok(None) };
        let id = self.map_writer(&writer, offset, now)?;
        Ok(Some(Mapped { id, writer }))
    }

    /// Makes a lease's writer, of which nothing was written, a secondary stream from `offset` on:
    /// its number.
    ///
    /// # Errors
    /// The lease does not cover the offset, or there are too many.
    pub fn map_writer(
        &mut self,
        writer: &SharedWriter,
        offset: u64,
        now: Instant,
    ) -> Result<u64, CodedError> {
        self.check_room()?;
        self.open_mapping(writer, offset, now)
    }

    /// Opens a secondary stream without a lease (7.2), which the client takes where
    /// [`SecondaryWrites::Open`](crate::SecondaryWrites::Open) is set. The writer is settled once
    /// it has, or ended when it does not.
    ///
    /// # Errors
    /// The path has too many open.
    pub fn open_unleased(
        &mut self,
        stream: StreamId,
        offset: u64,
        now: Instant,
    ) -> Result<Mapped, CodedError> {
        self.check_room()?;
        let writer = self.insert_unleased(stream, offset)?;
        let id = self.open_mapping(&writer, offset, now)?;
        // What is asked of it is what it goes on with; but it is to know whether it may.
        lock(&writer).set_settled(false);
        Ok(Mapped { id, writer })
    }

    fn insert_unleased(
        &mut self,
        stream: StreamId,
        offset: u64,
    ) -> Result<SharedWriter, CodedError> {
        let id = LeaseId::unleased(self.path, self.own.next_unleased);
        self.own.next_unleased = self.own.next_unleased.wrapping_add(1);
        self.writers.insert_unleased(id, stream, offset)
    }

    fn open_mapping(
        &mut self,
        writer: &SharedWriter,
        offset: u64,
        now: Instant,
    ) -> Result<u64, CodedError> {
        let (stream, lease, covers) = {
            let writer = lock(writer);
            (writer.stream(), writer.lease(), covers(&writer, writer.stream(), offset))
        };
        if !covers {
            let context = format!("lease {lease} does not cover {offset} of {stream}");
            return Err(CodedError::new(Code::SecondaryStreamIsolation, context));
        }
        let id = self.own.next;
        self.own.next += 1;
        settle(writer, offset);
        let place = Place { stream, lease, offset };
        self.own.mappings.open((self.path, id), place, true, limits::MAX_SECONDARY_STREAMS, now)?;
        Ok(id)
    }

    /// Moves a secondary stream to another place: within its lease, or under an offered one, in
    /// which case its former lease is given up. None while no lease covers the place.
    pub fn move_stream(
        &mut self,
        id: u64,
        stream: StreamId,
        offset: u64,
        now: Instant,
    ) -> Option<SharedWriter> {
        let former = self.own.mappings.get((self.path, id))?.place.lease;
        let own = self.writers.writer(former).filter(|w| covers(&lock(w), stream, offset)).cloned();
        let writer = match own {
            Some(writer) => {
                lock(&writer).set_settled(false);
                writer
            }
            None => {
                let writer = match self.take_offered(stream, offset) {
                    Some(writer) => writer,
                    // Who needs no lease waits for none.
                    None if former.is_unleased() => self.insert_unleased(stream, offset).ok()?,
                    None => return None,
                };
                settle(&writer, offset);
                self.abandon(former, "its secondary stream moved", now);
                writer
            }
        };
        let lease = lock(&writer).lease();
        self.own.mappings.update((self.path, id), Place { stream, lease, offset }, true, now);
        Some(writer)
    }

    /// A secondary stream wrote `bytes` and goes on at `offset`.
    pub fn on_stream_written(&mut self, id: u64, bytes: u64, offset: u64, now: Instant) {
        self.own.mappings.on_bytes((self.path, id), (bytes, bytes), offset, now);
    }

    /// A secondary stream is closed: others will be asked for what its lease leaves.
    pub fn close_stream(&mut self, id: u64, reason: &str, now: Instant) {
        if let Some(mapping) = self.own.mappings.close((self.path, id), true) {
            self.abandon(mapping.place.lease, reason, now);
        }
    }

    /// The open secondary streams, in order of their numbers (7.3).
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.own.mappings.of_path(self.path)
    }

    /// The client has taken note of a mapping, or says that it is over with its lease; the stream
    /// may have moved on meanwhile.
    pub(super) fn on_mapping_update(&mut self, m: &StreamMappingUpdate, now: Instant) {
        let (stream, lease) = (m.kwik_stream_id, m.lease_id);
        if m.operation == MappingOperation::Resend {
            let mapping = self.own.mappings.get((self.path, m.secondary_stream_id));
            let Some(lease) = mapping.map(|mapping| mapping.place.lease) else { return };
            if let Some(writer) = self.writers.writer(lease) {
                lock(writer).ask_again();
            }
            return self.outputs.wake(Wake::Writer(lease));
        }
        if m.operation == MappingOperation::Delete {
            self.own.mappings.on_lease_ended(self.path, stream, lease);
            if lease.is_unleased() {
                self.abandon(lease, "the client does not take it", now);
            }
        } else if let Some(writer) = self.writers.writer(lease) {
            lock(writer).set_settled(true);
        }
        self.outputs.wake(Wake::Writer(lease));
    }

    /// Asks the client where this side goes on in a stream, of which it has written all before
    /// `offset` (7.4): look for the answer with [`Self::take_sync`].
    ///
    /// # Errors
    /// Too many questions are open.
    pub fn request_sync(
        &mut self,
        stream: StreamId,
        offset: u64,
        now: Instant,
    ) -> Result<(), CodedError> {
        match self.own.syncs.get(&stream) {
            // The answer to an earlier question is on its way.
            Some(None) => return Ok(()),
            None if self.own.syncs.len() >= limits::MAX_SECONDARY_STREAMS => {
                return Err(CodedError::new(Code::LimitExceeded, "too many offsets are asked for"));
            }
            _ => self.own.syncs.insert(stream, None),
        };
        let request = OffsetSyncRequest { kwik_stream_id: stream, current_offset: offset };
        self.control.push(&ControlMessage::OffsetSyncRequest(request), now);
        Ok(())
    }

    /// Where the client says that this side goes on in a stream
    /// ([`Wake::Secondary`](crate::session::Wake::Secondary)); once.
    pub fn take_sync(&mut self, stream: StreamId) -> Option<u64> {
        let answer = (*self.own.syncs.get(&stream)?)?;
        self.own.syncs.remove(&stream);
        Some(answer)
    }

    pub(super) fn on_offset_sync(&mut self, m: &OffsetSyncResponse) -> Result<(), CodedError> {
        let stream = m.kwik_stream_id;
        let Some(answer) = self.own.syncs.get_mut(&stream).filter(|answer| answer.is_none()) else {
            let context = format!("{stream}: an offset that nobody asked for");
            return Err(CodedError::new(Code::OffsetSyncFailure, context));
        };
        *answer = Some(m.expected_offset);
        self.outputs.wake(Wake::Secondary);
        Ok(())
    }

    fn check_room(&self) -> Result<(), CodedError> {
        let most = self.config.secondary().streams_per_path().min(limits::MAX_SECONDARY_STREAMS);
        if self.mappings().count() < most {
            return Ok(());
        }
        let context = format!("{most} secondary streams are open");
        Err(CodedError::new(Code::LimitExceeded, context))
    }

    fn take_offered(&mut self, stream: StreamId, offset: u64) -> Option<SharedWriter> {
        let at = self.offered.iter().position(|writer| covers(&lock(writer), stream, offset))?;
        self.offered.remove(at)
    }
}

/// A fresh lease from its start on: the client asks for just that already.
fn settle(writer: &SharedWriter, offset: u64) {
    let mut writer = lock(writer);
    let whole = writer.range().start == offset;
    writer.set_settled(whole);
}

fn covers(writer: &Writer, stream: StreamId, offset: u64) -> bool {
    !writer.is_ended() && writer.stream() == stream && writer.range().contains(&offset)
}
