//! The data plane: length-delimited `DataPacket`s on streams of kind
//! [`Data`](super::StreamKind::Data).
//!
//! Only here is protobuf coded by hand: a header is written in front of payload that goes to QUIC
//! untouched, and payload is handed on as it arrives, before its frame or packet is complete.
//! What we write, any protobuf decoder reads; of what others write, we demand that stream id and
//! offset precede the data. `fin` precedes the data too in what we write (protobuf leaves the
//! order free), so that nothing has to follow the payload.

mod decode;
mod encode;

pub use decode::{DataDecoder, DataEvent};
pub use encode::{MAX_PACKET_HEADER, PacketBuilder, encode_packet_header, packet_overhead};

/// Whose bytes a data frame carries, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Logical stream.
    pub stream_id: u64,
    /// Offset of the first byte in that stream.
    pub offset: u64,
    /// Bytes of payload.
    pub len: usize,
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
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
