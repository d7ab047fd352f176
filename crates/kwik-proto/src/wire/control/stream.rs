//! What is said of streams.

use crate::wire::WireError;
use crate::wire::convert::{Convert, implied_path_id, known, number, stream_count, stream_id};
use crate::wire::pb::control as pb;
use crate::wire::pb::secondary;
use crate::{Dir, StreamId};

use super::StreamMetadata;

type Result<T> = std::result::Result<T, WireError>;

/// Opener to peer: a stream was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamCreateNotification {
    /// Which stream.
    pub stream_id: StreamId,
    /// What its opener says of it.
    pub metadata: StreamMetadata,
}

impl Convert for StreamCreateNotification {
    type Proto = pb::StreamCreateNotification;

    fn to_proto(&self) -> pb::StreamCreateNotification {
        pb::StreamCreateNotification {
            logical_stream_id: self.stream_id.as_u64(),
            path_id: String::new(),
            metadata: self.metadata.to_proto(),
        }
    }

    fn from_proto(m: pb::StreamCreateNotification) -> Result<Self> {
        implied_path_id(&m.path_id)?;
        let metadata = StreamMetadata::from_proto(m.metadata)?;
        Ok(Self { stream_id: stream_id(m.logical_stream_id)?, metadata })
    }
}

/// Writer to reader: no more of this stream will come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamReset {
    /// Which stream.
    pub stream_id: StreamId,
    /// Why: one of the application's codes, or of [`Code`](crate::Code).
    pub code: u64,
    /// How far it was written.
    pub final_size: u64,
}

impl Convert for StreamReset {
    type Proto = pb::StreamReset;

    fn to_proto(&self) -> pb::StreamReset {
        let Self { stream_id, code, final_size } = *self;
        pb::StreamReset { stream_id: stream_id.as_u64(), code, final_size }
    }

    fn from_proto(m: pb::StreamReset) -> Result<Self> {
        let (code, final_size) = (number(m.code)?, number(m.final_size)?);
        Ok(Self { stream_id: stream_id(m.stream_id)?, code, final_size })
    }
}

/// Reader to writer: nothing more of this stream is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StopSending {
    /// Which stream.
    pub stream_id: StreamId,
    /// Why: one of the application's codes, or of [`Code`](crate::Code).
    pub code: u64,
}

impl Convert for StopSending {
    type Proto = pb::StopSending;

    fn to_proto(&self) -> pb::StopSending {
        pb::StopSending { stream_id: self.stream_id.as_u64(), code: self.code }
    }

    fn from_proto(m: pb::StopSending) -> Result<Self> {
        Ok(Self { stream_id: stream_id(m.stream_id)?, code: number(m.code)? })
    }
}

/// How many streams of one kind the peer may have opened in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxStreams {
    /// Of which kind.
    pub dir: Dir,
    /// How many.
    pub maximum: u64,
    /// See [`StreamLimits::first_streams`](super::StreamLimits::first_streams).
    pub first_streams: u64,
}

impl Convert for MaxStreams {
    type Proto = pb::MaxStreams;

    fn to_proto(&self) -> pb::MaxStreams {
        let Self { dir, maximum, first_streams } = *self;
        pb::MaxStreams { unidirectional: dir == Dir::Uni, maximum, first_streams }
    }

    fn from_proto(m: pb::MaxStreams) -> Result<Self> {
        let dir = if m.unidirectional { Dir::Uni } else { Dir::Bi };
        Ok(Self { dir, maximum: stream_count(m.maximum)?, first_streams: m.first_streams })
    }
}

/// Plain writes on a stream may reach up to this offset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MaxStreamData {
    /// Which stream.
    pub stream_id: StreamId,
    /// How far.
    pub maximum: u64,
}

impl Convert for MaxStreamData {
    type Proto = pb::MaxStreamData;

    fn to_proto(&self) -> pb::MaxStreamData {
        pb::MaxStreamData { stream_id: self.stream_id.as_u64(), maximum: self.maximum }
    }

    fn from_proto(m: pb::MaxStreamData) -> Result<Self> {
        Ok(Self { stream_id: stream_id(m.stream_id)?, maximum: number(m.maximum)? })
    }
}

/// Why a producer is to slow down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackpressureReason {
    /// A stream's buffer is full of bytes that wait for missing ones before them.
    BufferFull,
    /// A stream's buffer is full of bytes that its application could read.
    SlowConsumer,
    /// The unread bytes of all streams fill the session's window.
    WindowFull,
    /// The endpoint has granted nearly all the memory that it may use.
    MemoryPressure,
}

impl BackpressureReason {
    /// A word for it, as events, metrics and commands have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BufferFull => "buffer_full",
            Self::SlowConsumer => "slow_consumer",
            Self::WindowFull => "window_full",
            Self::MemoryPressure => "memory_pressure",
        }
    }

    fn to_proto(reason: Option<Self>) -> pb::BackpressureReason {
        match reason {
            None => pb::BackpressureReason::BackpressureNone,
            Some(Self::WindowFull) => pb::BackpressureReason::BackpressureWindowFull,
            Some(Self::BufferFull) => pb::BackpressureReason::BackpressureBufferFull,
            Some(Self::SlowConsumer) => pb::BackpressureReason::BackpressureSlowConsumer,
            Some(Self::MemoryPressure) => pb::BackpressureReason::BackpressureMemoryPressure,
        }
    }

    fn from_proto(reason: pb::BackpressureReason) -> Option<Self> {
        match reason {
            pb::BackpressureReason::BackpressureNone => None,
            pb::BackpressureReason::BackpressureWindowFull => Some(Self::WindowFull),
            pb::BackpressureReason::BackpressureBufferFull => Some(Self::BufferFull),
            pb::BackpressureReason::BackpressureSlowConsumer => Some(Self::SlowConsumer),
            pb::BackpressureReason::BackpressureMemoryPressure => Some(Self::MemoryPressure),
        }
    }
}

/// Receiver to sender, on path 0, when it changes (8.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backpressure {
    /// Of which stream; none: of the session.
    pub stream_id: Option<StreamId>,
    /// Why it is to slow down; none: it need not any more.
    pub reason: Option<BackpressureReason>,
}

impl Convert for Backpressure {
    type Proto = pb::Backpressure;

    fn to_proto(&self) -> pb::Backpressure {
        pb::Backpressure {
            stream_id: self.stream_id.map(StreamId::as_u64),
            reason: BackpressureReason::to_proto(self.reason).into(),
        }
    }

    fn from_proto(m: pb::Backpressure) -> Result<Self> {
        let reason = BackpressureReason::from_proto(known(m.reason, "a reason")?);
        Ok(Self { stream_id: m.stream_id.map(stream_id).transpose()?, reason })
    }
}

/// Secondary to client: where does it go on in a stream (7.4)?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OffsetSyncRequest {
    /// Which stream.
    pub kwik_stream_id: StreamId,
    /// Where it is: it has written all before that it was to write.
    pub current_offset: u64,
}

impl Convert for OffsetSyncRequest {
    type Proto = secondary::OffsetSyncRequest;

    fn to_proto(&self) -> secondary::OffsetSyncRequest {
        secondary::OffsetSyncRequest {
            kwik_stream_id: self.kwik_stream_id.as_u64(),
            current_offset: self.current_offset,
            ..Default::default()
        }
    }

    fn from_proto(m: secondary::OffsetSyncRequest) -> Result<Self> {
        implied_path_id(&m.requesting_path_id)?;
        let kwik_stream_id = stream_id(m.kwik_stream_id)?;
        Ok(Self { kwik_stream_id, current_offset: number(m.current_offset)? })
    }
}

/// The answer to an [`OffsetSyncRequest`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OffsetSyncResponse {
    /// Which stream.
    pub kwik_stream_id: StreamId,
    /// Where it should be: the lowest offset that it may bring, that is missing, and that no other
    /// was asked for. Where it is, if there is none.
    pub expected_offset: u64,
    /// It is elsewhere.
    pub sync_required: bool,
}

impl Convert for OffsetSyncResponse {
    type Proto = secondary::OffsetSyncResponse;

    fn to_proto(&self) -> secondary::OffsetSyncResponse {
        secondary::OffsetSyncResponse {
            kwik_stream_id: self.kwik_stream_id.as_u64(),
            expected_offset: self.expected_offset,
            sync_required: self.sync_required,
            timestamp: 0,
        }
    }

    fn from_proto(m: secondary::OffsetSyncResponse) -> Result<Self> {
        Ok(Self {
            kwik_stream_id: stream_id(m.kwik_stream_id)?,
            expected_offset: number(m.expected_offset)?,
            sync_required: m.sync_required,
        })
    }
}
