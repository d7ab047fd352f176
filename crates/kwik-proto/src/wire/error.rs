//! Why bytes of a peer were refused.

use crate::Code;

/// Bytes that are not what KWIK's wire format allows (3.3).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A length or count is over its bound in [`limits`](crate::limits).
    #[error("{what} of {found} is over the limit of {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// What the peer announced.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// A raw packet is over [`limits::MAX_RAW_PACKET`](crate::limits::MAX_RAW_PACKET).
    #[error("a raw packet of {found} bytes is over the limit")]
    RawTooLarge {
        /// Its length.
        found: u64,
    },
    /// A varint does not fit 64 bits.
    #[error("a varint exceeds 64 bits")]
    Varint,
    /// A field reaches beyond the message that holds it.
    #[error("a field reaches beyond its message")]
    Overrun,
    /// A key with field number 0, beyond 32 bits, or with a wire type that its field cannot have.
    #[error("field {field} cannot have wire type {wire_type}")]
    Key {
        /// Field number.
        field: u64,
        /// Protobuf wire type.
        wire_type: u64,
    },
    /// A data frame's stream id or offset follows its data.
    #[error("a stream id or offset follows the data of its frame")]
    HeaderAfterData,
    /// A data frame has two data fields.
    #[error("a frame has data twice")]
    DataTwice,
    /// A packet's checksum is missing or does not hold.
    #[error("a packet's checksum is missing or does not hold")]
    Checksum,
    /// A control frame is missing, repeated or out of order.
    #[error("frame_id {found} where {expected} is due")]
    FrameId {
        /// The next in order.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// A frame without payload, which would read as the type numbered 0.
    #[error("a frame has no payload")]
    EmptyPayload,
    /// A field's value is not one of those it may have.
    #[error("{0} is invalid")]
    Invalid(&'static str),
    /// What the opener of a stream says of it cannot be.
    #[error("metadata of a stream: {0}")]
    Metadata(String),
    /// The QUIC stream ended inside a message.
    #[error("the stream ended inside a message")]
    Truncated,
    /// Not the protobuf of the announced message.
    #[error(transparent)]
    Protobuf(#[from] prost::DecodeError),
}

impl WireError {
    /// What to end the path with.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Metadata(_) => Code::MetadataProtocolViolation,
            Self::RawTooLarge { .. } => Code::PacketTooLarge,
            _ => Code::InvalidFrame,
        }
    }

    /// Refuses `found` over `limit`.
    pub(super) fn check(what: &'static str, found: u64, limit: usize) -> Result<(), Self> {
        let limit = limit as u64;
        if found > limit { Err(Self::TooLarge { what, found, limit }) } else { Ok(()) }
    }
}
