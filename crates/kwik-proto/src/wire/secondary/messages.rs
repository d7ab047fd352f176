//! What secondary streams say, and what is said of their mapping.

use bytes::Bytes;

use crate::limits::MAX_PACKET_PAYLOAD;
use crate::wire::WireError;
use crate::wire::convert::{Convert, extent, implied_path_id, known, number, stream_id, text};
use crate::wire::pb::{metadata, secondary as pb};
use crate::{LeaseId, StreamId};

type Result<T> = std::result::Result<T, WireError>;

/// A secondary stream begins to write into a stream of the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecondaryStreamOpen {
    /// Its number among those of its path.
    pub secondary_stream_id: u64,
    /// Into which stream.
    pub target_kwik_stream_id: StreamId,
    /// From where on.
    pub initial_offset: u64,
    /// Under which lease of its path.
    pub lease_id: LeaseId,
}

impl Convert for SecondaryStreamOpen {
    type Proto = pb::SecondaryStreamOpen;

    fn to_proto(&self) -> pb::SecondaryStreamOpen {
        pb::SecondaryStreamOpen {
            secondary_stream_id: self.secondary_stream_id,
            target_kwik_stream_id: self.target_kwik_stream_id.as_u64(),
            initial_offset: self.initial_offset,
            lease_id: self.lease_id.0,
            ..Default::default()
        }
    }

    fn from_proto(m: pb::SecondaryStreamOpen) -> Result<Self> {
        implied_path_id(&m.source_path_id)?;
        Ok(Self {
            secondary_stream_id: number(m.secondary_stream_id)?,
            target_kwik_stream_id: stream_id(m.target_kwik_stream_id)?,
            initial_offset: number(m.initial_offset)?,
            lease_id: LeaseId(m.lease_id),
        })
    }
}

/// Bytes at an offset of the logical stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecondaryStreamData {
    /// See [`SecondaryStreamOpen::secondary_stream_id`].
    pub secondary_stream_id: u64,
    /// Into which stream.
    pub kwik_stream_id: StreamId,
    /// Of the first byte.
    pub offset: u64,
    /// The bytes.
    pub data: Bytes,
    /// The logical stream ends behind them.
    pub fin: bool,
}

impl Convert for SecondaryStreamData {
    type Proto = pb::SecondaryStreamData;

    fn to_proto(&self) -> pb::SecondaryStreamData {
        pb::SecondaryStreamData {
            secondary_stream_id: self.secondary_stream_id,
            kwik_stream_id: self.kwik_stream_id.as_u64(),
            offset: self.offset,
            data: self.data.clone(),
            fin: self.fin,
            ..Default::default()
        }
    }

    fn from_proto(m: pb::SecondaryStreamData) -> Result<Self> {
        WireError::check("data", m.data.len() as u64, MAX_PACKET_PAYLOAD)?;
        extent(m.offset, m.data.len() as u64)?;
        implied_path_id(&m.source_path_id)?;
        Ok(Self {
            secondary_stream_id: number(m.secondary_stream_id)?,
            kwik_stream_id: stream_id(m.kwik_stream_id)?,
            offset: m.offset,
            data: m.data,
            fin: m.fin,
        })
    }
}

/// A secondary stream's end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecondaryStreamClose {
    /// See [`SecondaryStreamOpen::secondary_stream_id`].
    pub secondary_stream_id: u64,
    /// Into which stream it wrote last.
    pub kwik_stream_id: StreamId,
    /// Why, for people.
    pub reason: String,
    /// Where its data ended.
    pub final_offset: u64,
}

impl Convert for SecondaryStreamClose {
    type Proto = pb::SecondaryStreamClose;

    fn to_proto(&self) -> pb::SecondaryStreamClose {
        pb::SecondaryStreamClose {
            secondary_stream_id: self.secondary_stream_id,
            kwik_stream_id: self.kwik_stream_id.as_u64(),
            reason: self.reason.clone(),
            final_offset: self.final_offset,
            timestamp: 0,
        }
    }

    fn from_proto(m: pb::SecondaryStreamClose) -> Result<Self> {
        Ok(Self {
            secondary_stream_id: number(m.secondary_stream_id)?,
            kwik_stream_id: stream_id(m.kwik_stream_id)?,
            reason: text(m.reason)?,
            final_offset: number(m.final_offset)?,
        })
    }
}

/// What becomes of a mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MappingOperation {
    /// It begins.
    #[default]
    Create,
    /// It leads to another place.
    Update,
    /// It ends.
    Delete,
    /// From the client: it is to be said again, in an update on the stream.
    Resend,
}

/// On a secondary stream: what follows belongs to another place. On the control stream, to the
/// secondary: what the client has made of its mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamMappingUpdate {
    /// See [`SecondaryStreamOpen::secondary_stream_id`].
    pub secondary_stream_id: u64,
    /// Into which stream.
    pub kwik_stream_id: StreamId,
    /// What becomes of it.
    pub operation: MappingOperation,
    /// Under which lease of its path.
    pub lease_id: LeaseId,
    /// From where on.
    pub offset: u64,
}

impl Convert for StreamMappingUpdate {
    type Proto = metadata::StreamMappingUpdate;

    fn to_proto(&self) -> metadata::StreamMappingUpdate {
        let operation = match self.operation {
            MappingOperation::Create => metadata::MappingOperation::MappingCreate,
            MappingOperation::Update => metadata::MappingOperation::MappingUpdate,
            MappingOperation::Delete => metadata::MappingOperation::MappingDelete,
            MappingOperation::Resend => metadata::MappingOperation::MappingResend,
        };
        metadata::StreamMappingUpdate {
            secondary_stream_id: self.secondary_stream_id,
            kwik_stream_id: self.kwik_stream_id.as_u64(),
            operation: operation.into(),
            lease_id: self.lease_id.0,
            offset: self.offset,
            ..Default::default()
        }
    }

    fn from_proto(m: metadata::StreamMappingUpdate) -> Result<Self> {
        implied_path_id(&m.path_id)?;
        let operation = match known(m.operation, "an operation")? {
            metadata::MappingOperation::MappingCreate => MappingOperation::Create,
            metadata::MappingOperation::MappingUpdate => MappingOperation::Update,
            metadata::MappingOperation::MappingDelete => MappingOperation::Delete,
            metadata::MappingOperation::MappingResend => MappingOperation::Resend,
        };
        Ok(Self {
            secondary_stream_id: number(m.secondary_stream_id)?,
            kwik_stream_id: stream_id(m.kwik_stream_id)?,
            operation,
            lease_id: LeaseId(m.lease_id),
            offset: number(m.offset)?,
        })
    }
}
