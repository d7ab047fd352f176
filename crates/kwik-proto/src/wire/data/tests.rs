use super::*;
use crate::limits::{
    MAX_FRAME_FIELD, MAX_OFFSET, MAX_PACKET_FRAMES, MAX_PACKET_OVERHEAD, MAX_PACKET_PAYLOAD,
    MIN_SLICE,
};
use crate::wire::pb::data::DataPacket;
use crate::wire::testing::{chunks, collect};
use crate::wire::{StreamKind, WireError};
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

pub(super) const ALL_OPTIONS: [DataOptions; 4] = [
    DataOptions { checksum: false, compression: false },
    DataOptions { checksum: true, compression: false },
    DataOptions { checksum: false, compression: true },
    DataOptions { checksum: true, compression: true },
];

/// A frame, its payload joined.
pub(super) type Whole = (u64, u64, Vec<u8>, bool);

/// A packet's id and frames.
pub(super) type WholePacket = (u64, Vec<Whole>);

/// Chunks of nothing but payload make no difference when they are passed together.
pub(super) fn decode_packets(
    input: &[u8],
    sizes: &[usize],
    options: DataOptions,
) -> Result<Vec<WholePacket>, WireError> {
    let each = decode_chunks(input, sizes, options, false);
    assert_eq!(decode_chunks(input, sizes, options, true), each);
    each
}

fn decode_chunks(
    input: &[u8],
    sizes: &[usize],
    options: DataOptions,
    together: bool,
) -> Result<Vec<WholePacket>, WireError> {
    let mut decoder = DataDecoder::new(options);
    let mut packets = Vec::new();
    let mut frames: Vec<Whole> = Vec::new();
    let mut due = None;
    let chunks = chunks(input, sizes);
    let mut left = &chunks[..];
    while let Some(chunk) = left.first() {
        let payload = if together { decoder.handle_payload(left) } else { 0 };
        if payload > 0 {
            let bytes = left[..payload].concat();
            due = due.map(|due| due - bytes.len());
            frames.last_mut().unwrap().2.extend_from_slice(&bytes);
            left = &left[payload..];
            continue;
        }
        left = &left[1..];
        decoder.handle_input(chunk.clone());
        for event in collect(|| decoder.poll())? {
            match event {
                DataEvent::Frame(header) => {
                    assert_eq!(due.replace(header.len), None);
                    frames.push((header.stream_id, header.offset, Vec::new(), false));
                }
                DataEvent::Payload(bytes) => {
                    assert!(!bytes.is_empty());
                    due = due.map(|due| due - bytes.len());
                    frames.last_mut().unwrap().2.extend_from_slice(&bytes);
                }
                DataEvent::FrameEnd { fin } => {
                    assert_eq!(due.take(), Some(0));
                    frames.last_mut().unwrap().3 = fin;
                }
                DataEvent::PacketEnd { id, payload, fin } => {
                    assert_eq!(due, None);
                    assert_eq!(payload, frames.iter().map(|frame| frame.2.len()).sum::<usize>());
                    assert_eq!(fin, frames.iter().any(|frame| frame.3));
                    packets.push((id, std::mem::take(&mut frames)));
                }
            }
        }
    }
    decoder.handle_fin()?;
    assert!(frames.is_empty());
    Ok(packets)
}

/// The frames alone, where nothing was agreed.
pub(super) fn decode(input: &[u8], sizes: &[usize]) -> Result<Vec<Whole>, WireError> {
    let packets = decode_packets(input, sizes, DataOptions::default())?;
    Ok(packets.into_iter().flat_map(|(_, frames)| frames).collect())
}

pub(super) fn frame(stream_id: u64, offset: u64, payload: &[u8], fin: bool) -> PacketFrame {
    PacketFrame { stream_id, offset, payload: Bytes::copy_from_slice(payload), fin }
}

pub(super) fn encode(id: u64, frames: &[PacketFrame], options: DataOptions) -> Vec<u8> {
    let mut out = vec![Bytes::from_static(b"before")];
    PacketEncoder::new().encode(id, frames, options, &mut out);
    assert!(out.iter().all(|chunk| !chunk.is_empty()));
    out[1..].concat()
}

/// What prost makes of the same bytes.
pub(super) fn oracle(mut input: &[u8]) -> Result<Vec<Whole>, prost::DecodeError> {
    let mut frames = Vec::new();
    while !input.is_empty() {
        let packet = DataPacket::decode_length_delimited(&mut input)?;
        frames.extend(
            packet.frames.into_iter().map(|frame| {
                (frame.logical_stream_id, frame.offset, frame.data.to_vec(), frame.fin)
            }),
        );
    }
    Ok(frames)
}

/// One field, encoded.
#[derive(Debug, Clone)]
pub(super) struct Raw(pub(super) Vec<u8>);

pub(super) fn varint(field: u32, value: u64) -> Raw {
    let mut out = Vec::new();
    encode_key(field, WireType::Varint, &mut out);
    encode_varint(value, &mut out);
    Raw(out)
}

pub(super) fn bytes(field: u32, value: &[u8]) -> Raw {
    let mut out = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut out);
    encode_varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    Raw(out)
}

pub(super) fn fixed(field: u32, wire_type: WireType, len: usize) -> Raw {
    let mut out = Vec::new();
    encode_key(field, wire_type, &mut out);
    out.resize(out.len() + len, 0xff);
    Raw(out)
}

pub(super) fn frame_of(fields: &[Raw]) -> Raw {
    bytes(packet::FRAMES, &join(fields))
}

pub(super) fn packet_of(fields: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    let body = join(fields);
    encode_varint(body.len() as u64, &mut out);
    out.extend(body);
    out
}

fn join(fields: &[Raw]) -> Vec<u8> {
    fields.iter().flat_map(|field| field.0.clone()).collect()
}

/// Refused for the same reason whole and byte by byte.
fn refused(stream: &[u8]) -> WireError {
    let error = decode(stream, &[usize::MAX]).unwrap_err();
    assert_eq!(decode(stream, &[1]), Err(error.clone()));
    error
}

#[test]
fn payload_is_sent_and_handed_on_without_a_copy_and_before_its_frame_is_complete() {
    let payload = Bytes::from(vec![1; MIN_SLICE]);
    let whole = PacketFrame { payload: payload.clone(), ..frame(4, 9, b"", false) };
    let mut out = Vec::new();
    PacketEncoder::new().encode(7, &[whole], DataOptions::default(), &mut out);
    let [head, body] = &out[..] else { panic!("{} chunks", out.len()) };
    assert_eq!(body.as_ptr(), payload.as_ptr());

    let mut decoder = DataDecoder::new(DataOptions::default());
    decoder.handle_input(head.clone());
    let header = FrameHeader { stream_id: 4, offset: 9, len: MIN_SLICE };
    assert_eq!(decoder.poll(), Ok(Some(DataEvent::Frame(header))));
    assert_eq!(decoder.poll(), Ok(None));
    decoder.handle_input(body.slice(..600));
    assert_eq!(decoder.poll(), Ok(Some(DataEvent::Payload(body.slice(..600)))));
    assert_eq!(decoder.poll(), Ok(None));
    assert_eq!(decoder.handle_fin(), Err(WireError::Truncated));
    decoder.handle_input(body.slice(600..));
    let Ok(Some(DataEvent::Payload(chunk))) = decoder.poll() else { panic!("no payload") };
    assert_eq!(chunk.as_ptr(), body[600..].as_ptr());
    let end = DataEvent::PacketEnd { id: 7, payload: MIN_SLICE, fin: false };
    let rest = collect(|| decoder.poll()).unwrap();
    assert_eq!(rest, [DataEvent::FrameEnd { fin: false }, end]);
    assert!(decoder.is_idle());
}

#[test]
fn a_frame_may_carry_nothing_but_fin() {
    let stream = encode(1, &[frame(0, 70, b"", true)], DataOptions::default());
    assert_eq!(decode(&stream, &[1]), Ok(vec![(0, 70, vec![], true)]));
}

#[test]
fn frames_that_continue_one_another_travel_as_one() {
    let frames = [
        frame(4, 0, b"abc", false),
        frame(4, 3, b"de", true),
        frame(4, 5, b"", true),
        frame(8, 5, b"f", false),
        frame(8, 7, b"g", false),
    ];
    let expected = vec![
        (4, 0, b"abcde".to_vec(), true),
        (4, 5, vec![], true),
        (8, 5, b"f".to_vec(), false),
        (8, 7, b"g".to_vec(), false),
    ];
    let stream = encode(3, &frames, DataOptions::default());
    assert_eq!(decode(&stream, &[5]), Ok(expected));
}

#[test]
fn a_packet_costs_little_beside_its_payload() {
    let frames = [frame(400, 1 << 40, &[7; MAX_PACKET_PAYLOAD], false)];
    let checksum = DataOptions { checksum: true, ..DataOptions::default() };
    let overhead = encode(1 << 40, &frames, checksum).len() - MAX_PACKET_PAYLOAD;
    assert!(overhead <= 40, "{overhead}");
}

#[test]
fn empty_packets_and_frames_are_valid() {
    let mut stream = packet_of(&[]);
    stream.extend(packet_of(&[frame_of(&[]), frame_of(&[bytes(frame::DATA, b"")])]));
    assert_eq!(decode(&stream, &[1]), Ok(vec![(0, 0, vec![], false); 2]));
}

#[test]
fn the_largest_packet_is_valid_and_one_byte_more_is_not() {
    let largest = |len| packet_of(&[frame_of(&[bytes(frame::DATA, &vec![0; len])])]);
    assert_eq!(decode(&largest(MAX_PACKET_PAYLOAD), &[9999]).unwrap().len(), 1);
    let error = refused(&largest(MAX_PACKET_PAYLOAD + 1));
    assert!(matches!(error, WireError::TooLarge { what: "a payload", .. }));
}

#[test]
fn a_receiver_takes_the_fullest_packet() {
    let part = MAX_PACKET_PAYLOAD / MAX_PACKET_FRAMES;
    let largest = frame(MAX_OFFSET, MAX_OFFSET - part as u64, &vec![0; part], true);
    let frames = vec![largest; MAX_PACKET_FRAMES];
    for options in ALL_OPTIONS {
        let stream = encode(u64::MAX, &frames, options);
        let packets = decode_packets(&stream, &[999], options).unwrap();
        assert_eq!(packets[0].1.len(), MAX_PACKET_FRAMES);
    }
}

#[test]
fn an_oversized_packet_is_refused_from_its_length() {
    let mut stream = Vec::new();
    encode_varint((MAX_PACKET_PAYLOAD + MAX_PACKET_OVERHEAD) as u64 + 1, &mut stream);
    assert!(matches!(refused(&stream), WireError::TooLarge { what: "a packet", .. }));
}

#[test]
fn too_many_frames_are_refused() {
    let stream = packet_of(&vec![frame_of(&[]); MAX_PACKET_FRAMES + 1]);
    assert!(matches!(refused(&stream), WireError::TooLarge { what: "a number of frames", .. }));
}

#[test]
fn too_much_overhead_is_refused() {
    let stream = packet_of(&vec![bytes(9, &[0; MAX_FRAME_FIELD]); 70]);
    assert!(matches!(refused(&stream), WireError::TooLarge { what: "an overhead", .. }));
}

#[test]
fn an_oversized_field_is_refused() {
    let field = bytes(frame::PATH_ID, &[b'x'; MAX_FRAME_FIELD + 1]);
    let stream = packet_of(&[frame_of(&[field])]);
    assert!(matches!(refused(&stream), WireError::TooLarge { what: "a field", .. }));
}

#[test]
fn offset_or_id_after_data_is_refused() {
    for field in [frame::STREAM_ID, frame::OFFSET] {
        let fields = [bytes(frame::DATA, b"x"), varint(field, 1)];
        assert_eq!(refused(&packet_of(&[frame_of(&fields)])), WireError::HeaderAfterData);
    }
}

#[test]
fn data_twice_is_refused() {
    for data in [&b"x"[..], b""] {
        let fields = [bytes(frame::DATA, data), bytes(frame::DATA, b"y")];
        assert_eq!(refused(&packet_of(&[frame_of(&fields)])), WireError::DataTwice);
    }
}

#[test]
fn lengths_beyond_the_parent_are_refused() {
    // A frame beyond its packet; data, a text and a fixed field beyond their frame.
    for stream in [
        &[3, 0x1a, 2, 0][..],
        &[5, 0x1a, 3, 0x22, 2, 0, 0],
        &[5, 0x1a, 3, 0x3a, 2, 0, 0],
        &[4, 0x1a, 2, 0x41, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        assert_eq!(refused(stream), WireError::Overrun);
    }
}

#[test]
fn varints_beyond_the_parent_are_refused() {
    // A key and a value that continue behind the end of their frame.
    for stream in [&[3, 0x1a, 1, 0x90, 0x00][..], &[4, 0x1a, 2, 0x10, 0x90, 0x00]] {
        assert_eq!(refused(stream), WireError::Overrun);
    }
}

#[test]
fn a_key_cut_by_the_end_of_its_message_is_refused() {
    assert_eq!(refused(&[3, 0x1a, 1, 0x90]), WireError::Truncated);
}

#[test]
fn overlong_varints_are_refused() {
    assert_eq!(refused(&[0xff; 11]), WireError::Varint);
    let mut stream = vec![14, 0x1a, 12, 0x10];
    stream.extend([0xff; 11]);
    assert_eq!(refused(&stream), WireError::Varint);
}

#[test]
fn wrong_wire_types_are_refused() {
    let text = |field| frame_of(&[bytes(field, b"x")]);
    for field in [
        frame::STREAM_ID,
        frame::OFFSET,
        frame::FIN,
        frame::FRAME_ID,
        frame::TIMESTAMP,
        frame::FLAGS,
        frame::UNCOMPRESSED_LENGTH,
    ] {
        assert!(matches!(refused(&packet_of(&[text(field)])), WireError::Key { .. }));
    }
    for field in [frame::DATA, frame::PATH_ID] {
        let stream = packet_of(&[frame_of(&[varint(field, 1)])]);
        assert!(matches!(refused(&stream), WireError::Key { .. }));
    }
    for field in [packet::FRAMES, packet::PATH_ID] {
        assert!(matches!(refused(&packet_of(&[varint(field, 1)])), WireError::Key { .. }));
    }
    for field in [packet::PACKET_ID, packet::CHECKSUM] {
        assert!(matches!(refused(&packet_of(&[bytes(field, b"x")])), WireError::Key { .. }));
    }
}

#[test]
fn groups_and_impossible_keys_are_refused() {
    for key in [9 << 3 | 3, 9 << 3 | 4, 9 << 3 | 6, 9 << 3 | 7, 0, 2, 1 << 32, u64::MAX] {
        let mut field = Vec::new();
        encode_varint(key, &mut field);
        let field = Raw(field);
        for stream in [
            packet_of(std::slice::from_ref(&field)),
            packet_of(&[frame_of(std::slice::from_ref(&field))]),
        ] {
            assert!(matches!(refused(&stream), WireError::Key { .. }), "{key}");
        }
    }
}

#[test]
fn offsets_and_ids_over_62_bits_are_refused() {
    for fields in [
        vec![varint(frame::OFFSET, MAX_OFFSET), bytes(frame::DATA, b"x")],
        vec![varint(frame::OFFSET, u64::MAX), bytes(frame::DATA, b"x")],
        vec![varint(frame::OFFSET, MAX_OFFSET + 1)],
        vec![varint(frame::STREAM_ID, MAX_OFFSET + 1)],
    ] {
        assert!(matches!(refused(&packet_of(&[frame_of(&fields)])), WireError::Invalid(_)));
    }
    let last = [varint(frame::OFFSET, MAX_OFFSET - 1), bytes(frame::DATA, b"x")];
    assert!(decode(&packet_of(&[frame_of(&last)]), &[9]).is_ok());
}

#[test]
fn a_stream_that_ends_inside_a_packet_is_refused() {
    let stream = packet_of(&[frame_of(&[bytes(frame::DATA, b"payload")])]);
    for end in 1..stream.len() {
        assert_eq!(refused(&stream[..end]), WireError::Truncated);
    }
}

#[test]
fn an_error_repeats() {
    let mut decoder = DataDecoder::new(DataOptions::default());
    for _ in 0..2 {
        decoder.handle_input(Bytes::from_static(&[1, 0, 1, 0]));
        assert!(matches!(decoder.poll(), Err(WireError::Key { .. })));
        assert!(!decoder.is_idle());
    }
}

#[test]
fn kinds_are_one_byte() {
    let mut out = BytesMut::new();
    StreamKind::Data.encode(&mut out);
    assert_eq!(&out[..], [0]);
}
