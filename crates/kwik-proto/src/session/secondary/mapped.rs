//! Secondary streams at their writer.

use std::time::Instant;

use crate::lease::{SharedWriter, Writer};
use crate::mapping::{Mapping, Place};
use crate::sync::lock;
use crate::wire::secondary::{MappingOperation, StreamMappingUpdate};
use crate::{Code, CodedError, StreamId, limits};

use super::{SecondarySession, Wake};

/// A secondary stream that was opened, or moved.
#[derive(Debug)]
pub struct Mapped {
    /// Its number on this path.
    pub id: u64,
    /// The lease's writer, which is the stream's from now on.
    pub writer: SharedWriter,
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
        let (stream, lease, covers) = {
            let writer = lock(writer);
            (writer.stream(), writer.lease(), covers(&writer, writer.stream(), offset))
        };
        if !covers {
            let context = format!("lease {lease} does not cover {offset} of {stream}");
            return Err(CodedError::new(Code::SecondaryStreamIsolation, context));
        }
        let id = self.next_mapping;
        self.next_mapping += 1;
        settle(writer, offset);
        self.mappings.open((self.path, id), Place { stream, lease, offset }, true, now)?;
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
        let former = self.mappings.get((self.path, id))?.place.lease;
        let own = self.writers.writer(former).filter(|w| covers(&lock(w), stream, offset)).cloned();
        let writer = match own {
            Some(writer) => {
                lock(&writer).set_settled(false);
                writer
            }
            None => {
                let writer = self.take_offered(stream, offset)?;
                settle(&writer, offset);
                self.abandon(former, "its secondary stream moved", now);
                writer
            }
        };
        let lease = lock(&writer).lease();
        self.mappings.update((self.path, id), Place { stream, lease, offset }, true, now);
        Some(writer)
    }

    /// A secondary stream wrote `bytes` and goes on at `offset`.
    pub fn on_stream_written(&mut self, id: u64, bytes: u64, offset: u64, now: Instant) {
        self.mappings.on_bytes((self.path, id), bytes, offset, now);
    }

    /// A secondary stream is closed: others will be asked for what its lease leaves.
    pub fn close_stream(&mut self, id: u64, reason: &str, now: Instant) {
        if let Some(mapping) = self.mappings.close((self.path, id), true) {
            self.abandon(mapping.place.lease, reason, now);
        }
    }

    /// The open secondary streams, in order of their numbers (7.3).
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.of_path(self.path)
    }

    /// The client has taken note of a mapping, or says that it is over with its lease; the stream
    /// may have moved on meanwhile.
    pub(super) fn on_mapping_update(&mut self, m: &StreamMappingUpdate) {
        let (stream, lease) = (m.kwik_stream_id, m.lease_id);
        if m.operation == MappingOperation::Delete {
            self.mappings.on_lease_ended(self.path, stream, lease);
        } else if let Some(writer) = self.writers.writer(lease) {
            lock(writer).set_settled(true);
        }
        self.outputs.wake(Wake::Writer(lease));
    }

    fn check_room(&self) -> Result<(), CodedError> {
        if self.mappings().count() < limits::MAX_SECONDARY_STREAMS {
            return Ok(());
        }
        let context = format!("{} secondary streams are open", limits::MAX_SECONDARY_STREAMS);
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
