//! Writes packets around payload.

use super::{DataOptions, FrameHeader, PacketFrame, compression, frame, packet};
use crate::limits::{
    MAX_PACKET_FRAMES, MAX_PACKET_OVERHEAD, MAX_PACKET_PAYLOAD, MIN_COMPRESSED, MIN_SLICE,
};
use crate::wire::convert;
use crate::wire::pb::data::DataFlags;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Bytes of the largest packet's length.
const MAX_PACKET_LENGTH: usize =
    encoded_len_varint((MAX_PACKET_PAYLOAD + MAX_PACKET_OVERHEAD) as u64);
/// Packet id and checksum.
const MAX_PACKET_FIELDS: usize = (1 + 10) + (1 + 5);
/// Key and length of the frame; stream id and offset (62 bits); fin; flags and uncompressed length;
/// key and length of the data.
const MAX_FRAME_HEADER: usize = (1 + 3) + 2 * (1 + 9) + 2 + (2 + 1) + (2 + 3) + (1 + 3);

// A full packet cannot exceed what receivers accept.
const _: () =
    assert!(MAX_PACKET_FRAMES * MAX_FRAME_HEADER + MAX_PACKET_FIELDS <= MAX_PACKET_OVERHEAD);

/// Encodes packets; keeps buffers between them, and nothing else.
#[derive(Debug, Default)]
pub struct PacketEncoder {
    /// All but long payload.
    buffer: BytesMut,
    compressed: Vec<u8>,
}

impl PacketEncoder {
    /// Allocates with the first packet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a packet to `out`, to be written in that order. Frames that continue one another
    /// travel as one. Payload of [`MIN_SLICE`] bytes and more is not copied unless it
    /// is compressed.
    ///
    /// There are at most [`MAX_PACKET_FRAMES`] frames, with at most [`MAX_PACKET_PAYLOAD`] bytes.
    pub fn encode(
        &mut self,
        packet_id: u64,
        frames: &[PacketFrame],
        options: DataOptions,
        out: &mut Vec<Bytes>,
    ) {
        debug_assert!(frames.len() <= MAX_PACKET_FRAMES, "refused by its receiver");
        let mut packet =
            Packet { buffer: &mut self.buffer, head: None, first: out.len(), out, len: 0 };
        // The head follows last, once the packet's length is known.
        packet.out.push(Bytes::new());
        packet.buffer.put_bytes(0, MAX_PACKET_LENGTH);
        encode_key(packet::PACKET_ID, WireType::Varint, packet.buffer);
        encode_varint(packet_id, packet.buffer);
        for run in frames.chunk_by(|frame, next| next.continues(frame)) {
            if !options.compression || !packet.put_compressed(run, &mut self.compressed) {
                packet.put(run);
            }
        }
        if options.checksum {
            let sum = packet.sum();
            encode_key(packet::CHECKSUM, WireType::Varint, packet.buffer);
            encode_varint(u64::from(sum), packet.buffer);
        }
        packet.finish();
    }
}

/// A packet that is being encoded, as chunks that are out and one that is open.
struct Packet<'a> {
    /// The open chunk.
    buffer: &'a mut BytesMut,
    /// The first chunk, with room for the packet's length, once it is closed.
    head: Option<BytesMut>,
    /// Where the first chunk goes.
    first: usize,
    out: &'a mut Vec<Bytes>,
    /// Bytes of the closed chunks.
    len: usize,
}

impl Packet<'_> {
    /// Appends one frame of what `run` holds.
    fn put(&mut self, run: &[PacketFrame]) {
        let Some((header, fin)) = describe(run) else { return };
        encode_frame_header(self.buffer, &header, fin, None);
        for frame in run {
            if frame.payload.len() < MIN_SLICE {
                self.buffer.extend_from_slice(&frame.payload);
            } else {
                self.close_chunk();
                self.len += frame.payload.len();
                self.out.push(frame.payload.clone());
            }
        }
    }

    /// The same, if the frame becomes smaller.
    fn put_compressed(&mut self, run: &[PacketFrame], compressed: &mut Vec<u8>) -> bool {
        let Some((header, fin)) = describe(run) else { return false };
        if header.len < MIN_COMPRESSED {
            return false;
        }
        let joined: Vec<u8>;
        let plain = match run {
            [frame] => &frame.payload[..],
            _ => {
                joined = run.iter().flat_map(|frame| &frame.payload[..]).copied().collect();
                &joined
            }
        };
        let Some(data) = compression::compress(plain, compressed) else { return false };
        encode_frame_header(self.buffer, &header, fin, Some(data.len()));
        self.buffer.extend_from_slice(data);
        true
    }

    fn close_chunk(&mut self) {
        let chunk = self.buffer.split();
        self.len += chunk.len();
        if self.head.is_none() {
            self.head = Some(chunk);
        } else if !chunk.is_empty() {
            self.out.push(chunk.freeze());
        }
    }

    /// CRC32C of the message so far.
    fn sum(&self) -> u32 {
        let (head, open) = match &self.head {
            Some(head) => (&head[MAX_PACKET_LENGTH..], &self.buffer[..]),
            None => (&[][..], &self.buffer[MAX_PACKET_LENGTH..]),
        };
        let closed = self.out[self.first + 1..].iter().map(|chunk| &chunk[..]);
        let chunks = [head].into_iter().chain(closed).chain([open]);
        chunks.fold(0, crc32c::crc32c_append)
    }

    fn finish(mut self) {
        self.close_chunk();
        let mut head = self.head.expect("invariant: the first chunk was closed above");
        let len = (self.len - MAX_PACKET_LENGTH) as u64;
        // The length goes right before the message; what it leaves of its room is cut off.
        let unused = MAX_PACKET_LENGTH - encoded_len_varint(len);
        encode_varint(len, &mut &mut head[unused..MAX_PACKET_LENGTH]);
        head.advance(unused);
        self.out[self.first] = head.freeze();
    }
}

/// The one frame that a run of frames becomes.
fn describe(run: &[PacketFrame]) -> Option<(FrameHeader, bool)> {
    let (first, last) = (run.first()?, run.last()?);
    let len = run.iter().map(|frame| frame.payload.len()).sum();
    Some((FrameHeader { stream_id: first.stream_id, offset: first.offset, len }, last.fin))
}

/// Appends a frame up to its data; `compressed` is the data's length if it is not the header's.
fn encode_frame_header(
    out: &mut BytesMut,
    header: &FrameHeader,
    fin: bool,
    compressed: Option<usize>,
) {
    debug_assert!(header.len <= MAX_PACKET_PAYLOAD, "refused by its receiver");
    debug_assert!(convert::number(header.stream_id).is_ok(), "refused by its receiver");
    debug_assert_eq!(convert::extent(header.offset, header.len as u64), Ok(()));
    let (flags, uncompressed) = match compressed {
        Some(_) => (DataFlags::DataFlagCompressed as u64, header.len as u64),
        None => (0, 0),
    };
    let fields = [
        (frame::STREAM_ID, header.stream_id),
        (frame::OFFSET, header.offset),
        (frame::FIN, u64::from(fin)),
        (frame::FLAGS, flags),
        (frame::UNCOMPRESSED_LENGTH, uncompressed),
    ];
    let set = fields.into_iter().filter(|(_, value)| *value != 0);
    let fields_len: usize =
        set.clone().map(|(field, value)| key_len(field) + encoded_len_varint(value)).sum();
    let data = compressed.unwrap_or(header.len);
    let data_len =
        if data == 0 { 0 } else { key_len(frame::DATA) + encoded_len_varint(data as u64) + data };
    encode_key(packet::FRAMES, WireType::LengthDelimited, out);
    encode_varint((fields_len + data_len) as u64, out);
    for (field, value) in set {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    }
    if data != 0 {
        encode_key(frame::DATA, WireType::LengthDelimited, out);
        encode_varint(data as u64, out);
    }
}
