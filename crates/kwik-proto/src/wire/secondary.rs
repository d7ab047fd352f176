//! Explicitly mapped secondary streams: length-delimited `StreamMetadataFrame`s.

use super::WireError;
use super::convert::Convert;
use super::delimited::{self, DelimitedReader};
use super::pb::metadata::{MetadataFrameType, StreamMetadataFrame};
use crate::limits::{MAX_CONTROL_FRAME, MAX_PACKET_OVERHEAD, MAX_PACKET_PAYLOAD};
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

mod messages;

pub use messages::{
    MappingOperation, SecondaryStreamClose, SecondaryStreamData, SecondaryStreamOpen,
    StreamMappingUpdate,
};

/// A whole frame: data and everything around it.
const MAX_SECONDARY_FRAME: usize = MAX_PACKET_PAYLOAD + MAX_PACKET_OVERHEAD;

/// What one frame of a secondary stream says.
#[derive(Debug, Clone, PartialEq)]
pub enum SecondaryEvent {
    /// The stream and what it maps to.
    Open(SecondaryStreamOpen),
    /// Bytes at an offset of the logical stream.
    Data(SecondaryStreamData),
    /// What follows maps to another place.
    Update(StreamMappingUpdate),
    /// The mapping's end.
    Close(SecondaryStreamClose),
    /// A type of a later version, or one that belongs to the control stream: to be skipped (3.3).
    Unknown(i32),
}

/// Appends `event` as one frame.
pub fn encode_secondary(event: &SecondaryEvent, out: &mut BytesMut) {
    use MetadataFrameType as Type;
    let (frame_type, payload) = match event {
        SecondaryEvent::Open(m) => (Type::SecondaryStreamOpen as i32, payload(m)),
        SecondaryEvent::Data(m) => (Type::SecondaryStreamData as i32, payload(m)),
        SecondaryEvent::Update(m) => (Type::StreamMappingUpdate as i32, payload(m)),
        SecondaryEvent::Close(m) => (Type::SecondaryStreamClose as i32, payload(m)),
        SecondaryEvent::Unknown(number) => (*number, delimited::payload(&())),
    };
    debug_assert!(decode(frame_type, payload.clone()).is_ok(), "refused by its receiver");
    let frame = StreamMetadataFrame { r#type: frame_type, payload, ..Default::default() };
    delimited::encode(&frame, out);
}

fn payload(message: &impl Convert) -> Bytes {
    delimited::payload(&message.to_proto())
}

/// Appends all of a data frame but its payload: the `len` bytes that are to follow, at most
/// [`MAX_PACKET_PAYLOAD`]. The payload goes to QUIC uncopied (4.5).
pub fn encode_secondary_data(out: &mut BytesMut, id: u64, stream: u64, offset: u64, len: usize) {
    let fields = [(1, id), (2, stream), (3, offset)];
    let field = |(tag, value): &(u32, u64)| key_len(*tag) + encoded_len_varint(*value);
    let inner = fields.iter().map(field).sum::<usize>() + delimited_len(4, len);
    let frame_type = MetadataFrameType::SecondaryStreamData as u64;
    encode_varint((field(&(2, frame_type)) + delimited_len(3, inner)) as u64, out);
    encode_key(2, WireType::Varint, out);
    encode_varint(frame_type, out);
    encode_key(3, WireType::LengthDelimited, out);
    encode_varint(inner as u64, out);
    for (tag, value) in fields {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
    encode_key(4, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn delimited_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// Decodes a secondary stream. Holds at most one frame and one chunk.
#[derive(Debug)]
pub struct SecondaryDecoder {
    reader: DelimitedReader,
}

impl Default for SecondaryDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl SecondaryDecoder {
    /// After the kind of the stream.
    #[must_use]
    pub fn new() -> Self {
        Self { reader: DelimitedReader::new(MAX_SECONDARY_FRAME) }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Panics
    /// When [`poll`](Self::poll) has not returned `None` since the last input.
    pub fn handle_input(&mut self, input: Bytes) {
        self.reader.handle_input(input);
    }

    /// The next frame, its data a slice of the input where one chunk held it all; `None` when
    /// more input is due.
    ///
    /// # Errors
    /// When a frame is oversized, malformed or empty; repeats ever after.
    pub fn poll(&mut self) -> Result<Option<SecondaryEvent>, WireError> {
        self.reader.poll(|frame| {
            let frame = StreamMetadataFrame::decode(frame)?;
            decode(frame.r#type, frame.payload)
        })
    }

    /// Call when the QUIC stream has ended.
    ///
    /// # Errors
    /// When it ended inside a frame.
    pub fn handle_fin(&self) -> Result<(), WireError> {
        self.reader.handle_fin()
    }
}

fn decode(number: i32, payload: Bytes) -> Result<SecondaryEvent, WireError> {
    if payload.is_empty() {
        return Err(WireError::EmptyPayload);
    }
    let frame_type = MetadataFrameType::try_from(number);
    if let Ok(MetadataFrameType::SecondaryStreamData) = frame_type {
        return Ok(SecondaryEvent::Data(convert(payload)?));
    }
    WireError::check("a message", payload.len() as u64, MAX_CONTROL_FRAME)?;
    Ok(match frame_type {
        Ok(MetadataFrameType::SecondaryStreamOpen) => SecondaryEvent::Open(convert(payload)?),
        Ok(MetadataFrameType::StreamMappingUpdate) => SecondaryEvent::Update(convert(payload)?),
        Ok(MetadataFrameType::SecondaryStreamClose) => SecondaryEvent::Close(convert(payload)?),
        _ => SecondaryEvent::Unknown(number),
    })
}

fn convert<T: Convert>(payload: Bytes) -> Result<T, WireError> {
    T::from_proto(Message::decode(payload)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{chunks, collect};
    use super::*;
    use crate::limits::MAX_OFFSET;
    use crate::wire::pb::secondary as pb;
    use crate::{LeaseId, StreamId};
    use proptest::prelude::*;

    fn decode(input: &[u8], sizes: &[usize]) -> Result<Vec<SecondaryEvent>, WireError> {
        let mut decoder = SecondaryDecoder::new();
        let mut found = Vec::new();
        for chunk in chunks(input, sizes) {
            decoder.handle_input(chunk);
            found.extend(collect(|| decoder.poll())?);
            assert!(decoder.reader.buffered() <= 2 * MAX_SECONDARY_FRAME);
        }
        decoder.handle_fin()?;
        Ok(found)
    }

    fn frame(number: i32, message: &impl Message) -> Vec<u8> {
        let payload = message.encode_to_vec().into();
        let frame = StreamMetadataFrame { r#type: number, payload, ..Default::default() };
        frame.encode_length_delimited_to_vec()
    }

    proptest! {
        #[test]
        fn frames_round_trip(
            id in 0..=MAX_OFFSET, offset in 0..MAX_OFFSET - 70_000, len in 0usize..3000, fin: bool,
            text in "[a-z]{0,20}", sizes in prop::collection::vec(1usize..300, 1..8),
        ) {
            let (stream, lease) = (StreamId::from_u64(id), LeaseId(id));
            let events = vec![
                SecondaryEvent::Open(SecondaryStreamOpen {
                    secondary_stream_id: id, target_kwik_stream_id: stream,
                    initial_offset: offset, lease_id: lease,
                }),
                SecondaryEvent::Update(StreamMappingUpdate {
                    secondary_stream_id: id, kwik_stream_id: stream, lease_id: lease, offset,
                    operation: MappingOperation::Update,
                }),
                SecondaryEvent::Data(SecondaryStreamData {
                    secondary_stream_id: id, kwik_stream_id: stream, offset,
                    data: vec![9; len].into(), fin,
                }),
                SecondaryEvent::Unknown(77),
                SecondaryEvent::Open(SecondaryStreamOpen::default()),
                SecondaryEvent::Data(SecondaryStreamData::default()),
                SecondaryEvent::Close(SecondaryStreamClose {
                    secondary_stream_id: id, kwik_stream_id: stream, reason: text,
                    final_offset: offset,
                }),
            ];
            let mut out = BytesMut::new();
            events.iter().for_each(|event| encode_secondary(event, &mut out));
            prop_assert_eq!(decode(&out, &sizes), Ok(events));
        }

        #[test]
        fn a_header_by_hand_is_what_prost_reads(
            id in 0..=MAX_OFFSET, stream in 0..=MAX_OFFSET, offset in 0..MAX_OFFSET - 70_000,
            len in 0usize..70_000,
        ) {
            let len = len.min(MAX_PACKET_PAYLOAD);
            let mut out = BytesMut::new();
            encode_secondary_data(&mut out, id, stream, offset, len);
            out.extend_from_slice(&vec![5; len]);
            let data = SecondaryStreamData {
                secondary_stream_id: id, kwik_stream_id: StreamId::from_u64(stream), offset,
                data: vec![5; len].into(), ..Default::default()
            };
            prop_assert_eq!(decode(&out, &[9999]), Ok(vec![SecondaryEvent::Data(data)]));
        }

        #[test]
        fn random_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            sizes in prop::collection::vec(1usize..30, 1..8),
        ) {
            drop(decode(&bytes, &sizes));
        }
    }

    #[test]
    fn an_oversized_frame_is_refused_from_its_prefix() {
        let mut out = BytesMut::new();
        prost::encoding::encode_varint(MAX_SECONDARY_FRAME as u64 + 1, &mut out);
        assert!(matches!(decode(&out, &[1]), Err(WireError::TooLarge { .. })));
    }

    #[test]
    fn an_empty_payload_is_refused() {
        assert_eq!(decode(&frame(0, &()), &[9]), Err(WireError::EmptyPayload));
    }

    #[test]
    fn oversized_data_is_refused() {
        let data = vec![0; MAX_PACKET_PAYLOAD + 1].into();
        let encoded = frame(1, &pb::SecondaryStreamData { data, ..Default::default() });
        assert!(matches!(decode(&encoded, &[9999]), Err(WireError::TooLarge { .. })));
    }

    #[test]
    fn data_beyond_the_largest_offset_is_refused() {
        for offset in [MAX_OFFSET, u64::MAX] {
            let data = Bytes::from_static(b"xx");
            let encoded = frame(1, &pb::SecondaryStreamData { offset, data, ..Default::default() });
            assert!(matches!(decode(&encoded, &[99]), Err(WireError::Invalid(_))));
        }
    }

    #[test]
    fn a_truncated_frame_is_refused() {
        assert_eq!(decode(&[5, 10], &[1]), Err(WireError::Truncated));
    }
}
