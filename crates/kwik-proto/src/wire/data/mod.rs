//! The data plane: length-delimited `DataPacket`s on streams of kind
//! [`Data`](super::StreamKind::Data).
//!
//! Only here is protobuf coded by hand: a header is written in front of payload that goes to QUIC
//! untouched, and payload is handed on as it arrives, before its frame or packet is complete.
//! What we write, any protobuf decoder reads; of what others write, we demand that stream id and
//! offset precede the data, and what says that it is compressed. `fin` precedes the data too in
//! what we write (protobuf leaves the order free), so that nothing has to follow the payload.
//!
//! With a checksum a packet is kept back until it held; a compressed frame is kept until it is
//! whole. Either is a copy, of at most [`MAX_PACKET_PAYLOAD`](crate::limits::MAX_PACKET_PAYLOAD)
//! and [`MAX_PACKET_OVERHEAD`](crate::limits::MAX_PACKET_OVERHEAD) bytes per QUIC stream.

mod compression;
mod decode;
mod encode;
mod held;

pub use decode::{DataDecoder, DataEvent};
pub use encode::PacketEncoder;

use crate::wire::pb;
use bytes::Bytes;

/// Whose bytes a data frame carries, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Logical stream.
    pub stream_id: u64,
    /// Offset of the first byte in that stream.
    pub offset: u64,
    /// Bytes of payload, uncompressed.
    pub len: usize,
}

/// A frame to send, with its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketFrame {
    /// Logical stream.
    pub stream_id: u64,
    /// Offset of the first byte in that stream.
    pub offset: u64,
    /// What it carries.
    pub payload: Bytes,
    /// Whether the stream ends behind it.
    pub fin: bool,
}

impl PacketFrame {
    /// The first offset behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.payload.len() as u64
    }

    /// Whether it goes on where `before` ends.
    fn continues(&self, before: &Self) -> bool {
        self.stream_id == before.stream_id && self.offset == before.end() && !before.fin
    }
}

/// What the packets of a path are subject to, in both directions (4.6, 4.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataOptions {
    /// Each packet has a CRC32C, and is read only once that held.
    pub checksum: bool,
    /// Frames may be compressed.
    pub compression: bool,
}

impl DataOptions {
    /// What both ends want.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            checksum: self.checksum && other.checksum,
            compression: self.compression && other.compression,
        }
    }

    /// As an authentication states them; nothing when nothing is wanted.
    pub(super) fn to_proto(self) -> Option<pb::data::DataOptions> {
        let Self { checksum, compression } = self;
        (self != Self::default()).then_some(pb::data::DataOptions { checksum, compression })
    }

    /// As a peer stated them.
    pub(super) fn from_proto(options: Option<pb::data::DataOptions>) -> Self {
        let pb::data::DataOptions { checksum, compression } = options.unwrap_or_default();
        Self { checksum, compression }
    }
}

/// Field numbers of `DataPacket`.
mod packet {
    pub(super) const PACKET_ID: u32 = 1;
    pub(super) const PATH_ID: u32 = 2;
    pub(super) const FRAMES: u32 = 3;
    pub(super) const CHECKSUM: u32 = 4;
}

/// Field numbers of `DataFrame`.
mod frame {
    pub(super) const FRAME_ID: u32 = 1;
    pub(super) const STREAM_ID: u32 = 2;
    pub(super) const OFFSET: u32 = 3;
    pub(super) const DATA: u32 = 4;
    pub(super) const FIN: u32 = 5;
    pub(super) const TIMESTAMP: u32 = 6;
    pub(super) const PATH_ID: u32 = 7;
    pub(super) const FLAGS: u32 = 16;
    pub(super) const UNCOMPRESSED_LENGTH: u32 = 17;
}

#[cfg(test)]
mod option_tests;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
