//! Writes packets around payload.

use super::{FrameHeader, frame, packet};
use crate::limits::{MAX_PACKET_FRAMES, MAX_PACKET_OVERHEAD, MAX_PACKET_PAYLOAD};
use crate::wire::validate;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// The most that a packet of one frame adds to its payload.
pub const MAX_PACKET_HEADER: usize = MAX_PACKET_LENGTH + MAX_FRAME_HEADER;

/// Bytes of the largest packet's length.
const MAX_PACKET_LENGTH: usize =
    encoded_len_varint((MAX_PACKET_PAYLOAD + MAX_PACKET_OVERHEAD) as u64);
/// Key and length of the frame; stream id and offset (62 bits); fin; key and length of the data.
const MAX_FRAME_HEADER: usize = (1 + 3) + 2 * (1 + 9) + 2 + (1 + 3);

// A full builder cannot exceed what receivers accept.
const _: () = assert!(MAX_PACKET_FRAMES * MAX_FRAME_HEADER <= MAX_PACKET_OVERHEAD);

/// Appends all of a packet with one frame but its payload: the `header.len` bytes that are to
/// follow. A frame with `fin` and no payload is complete by itself.
///
/// `header.len` is at most [`MAX_PACKET_PAYLOAD`].
pub fn encode_packet_header(out: &mut BytesMut, header: &FrameHeader, fin: bool) {
    out.reserve(MAX_PACKET_HEADER);
    encode_varint((frame_len(header, fin)) as u64, out);
    encode_frame_header(out, header, fin);
}

/// What [`encode_packet_header`] appends, in bytes; at most [`MAX_PACKET_HEADER`].
#[must_use]
pub fn packet_overhead(header: &FrameHeader, fin: bool) -> usize {
    let len = frame_len(header, fin);
    encoded_len_varint(len as u64) + len - header.len
}

/// Several small frames in one packet, their payloads copied into one buffer.
#[derive(Debug)]
pub struct PacketBuilder {
    /// Room for the packet's length, then the frames.
    buffer: BytesMut,
    frames: usize,
    payload: usize,
}

impl Default for PacketBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBuilder {
    /// An empty packet; allocates with the first frame.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: BytesMut::new(), frames: 0, payload: 0 }
    }

    /// Appends a frame with `payload`, or returns false when the packet has no room for it.
    #[must_use]
    pub fn push(&mut self, stream_id: u64, offset: u64, payload: &[u8], fin: bool) -> bool {
        if self.frames == MAX_PACKET_FRAMES || payload.len() > self.room() {
            return false;
        }
        if self.frames == 0 {
            self.buffer.put_bytes(0, MAX_PACKET_LENGTH);
        }
        let header = FrameHeader { stream_id, offset, len: payload.len() };
        encode_frame_header(&mut self.buffer, &header, fin);
        self.buffer.extend_from_slice(payload);
        self.frames += 1;
        self.payload += payload.len();
        true
    }

    /// Bytes of payload that still fit.
    #[must_use]
    pub const fn room(&self) -> usize {
        MAX_PACKET_PAYLOAD - self.payload
    }

    /// Whether no frame was appended.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// The packet, ready to send; the builder starts anew. Empty when no frame was appended.
    pub fn finish(&mut self) -> Bytes {
        if self.is_empty() {
            return Bytes::new();
        }
        let mut packet = self.buffer.split();
        (self.frames, self.payload) = (0, 0);
        let len = (packet.len() - MAX_PACKET_LENGTH) as u64;
        // The length goes right before the frames; what it leaves of its room is cut off.
        let unused = MAX_PACKET_LENGTH - encoded_len_varint(len);
        encode_varint(len, &mut &mut packet[unused..MAX_PACKET_LENGTH]);
        packet.advance(unused);
        packet.freeze()
    }
}

/// A frame within its packet: key, length, fields and payload.
fn frame_len(header: &FrameHeader, fin: bool) -> usize {
    let body = body_len(header, fin);
    key_len(packet::FRAMES) + encoded_len_varint(body as u64) + body
}

/// The frame's message: fields and payload.
fn body_len(header: &FrameHeader, fin: bool) -> usize {
    let varint = |value| {
        if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
    };
    let data = if header.len == 0 { 0 } else { varint(header.len as u64) + header.len };
    varint(header.stream_id) + varint(header.offset) + varint(u64::from(fin)) + data
}

fn encode_frame_header(out: &mut BytesMut, header: &FrameHeader, fin: bool) {
    debug_assert!(header.len <= MAX_PACKET_PAYLOAD, "refused by its receiver");
    debug_assert_eq!(validate::number(header.stream_id), Ok(()), "refused by its receiver");
    debug_assert_eq!(validate::extent(header.offset, header.len as u64), Ok(()));
    encode_key(packet::FRAMES, WireType::LengthDelimited, out);
    encode_varint(body_len(header, fin) as u64, out);
    let fields = [
        (frame::STREAM_ID, header.stream_id),
        (frame::OFFSET, header.offset),
        (frame::FIN, u64::from(fin)),
    ];
    for (field, value) in fields {
        if value != 0 {
            encode_key(field, WireType::Varint, out);
            encode_varint(value, out);
        }
    }
    if header.len != 0 {
        encode_key(frame::DATA, WireType::LengthDelimited, out);
        encode_varint(header.len as u64, out);
    }
}
