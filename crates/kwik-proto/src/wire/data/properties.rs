//! Against prost, for every chunking of the bytes.

use super::tests::{
    ALL_OPTIONS, Raw, Whole, bytes, decode, decode_packets, encode, fixed, frame_of, oracle,
    packet_of, varint,
};
use super::*;
use crate::limits::{MAX_FRAME_FIELD, MAX_OFFSET, MAX_PACKET_PAYLOAD};
use crate::wire::pb::data::{DataFlags, DataFrame, DataPacket};
use proptest::prelude::*;
use prost::Message;
use prost::encoding::WireType;

fn header() -> impl Strategy<Value = (u64, u64)> {
    let number = || prop_oneof![Just(0u64), 0u64..300, 0..=MAX_OFFSET - MAX_PACKET_PAYLOAD as u64];
    (number(), number())
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (0usize..5000).prop_map(|len| vec![7; len]),
    ]
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..4, 1usize..100, 1000usize..9000], 1..8)
}

/// Fields of a later version.
fn later() -> impl Strategy<Value = u32> {
    (8u32..1 << 29).prop_filter("known", |field| !matches!(field, 16 | 17))
}

/// Fields that say nothing and may stand anywhere in a frame.
fn noise() -> impl Strategy<Value = Raw> {
    prop_oneof![
        any::<u64>().prop_map(|value| varint(frame::FRAME_ID, value)),
        any::<u64>().prop_map(|value| varint(frame::TIMESTAMP, value)),
        "[a-z]{0,200}".prop_map(|text| bytes(frame::PATH_ID, text.as_bytes())),
        any::<bool>().prop_map(|fin| varint(frame::FIN, u64::from(fin))),
        (later(), any::<u64>()).prop_map(|(field, value)| varint(field, value)),
        (later(), 0usize..=MAX_FRAME_FIELD).prop_map(|(field, len)| bytes(field, &vec![0xff; len])),
        later().prop_map(|field| fixed(field, WireType::SixtyFourBit, 8)),
        later().prop_map(|field| fixed(field, WireType::ThirtyTwoBit, 4)),
    ]
}

/// A frame whose fields are in any order that is allowed.
fn shuffled_frame() -> impl Strategy<Value = Raw> {
    let noise = || prop::collection::vec(noise(), 0..3);
    (header(), payload(), any::<bool>(), noise(), noise()).prop_flat_map(
        |((id, offset), data, with_data, mut before, after)| {
            before.extend([varint(frame::STREAM_ID, id), varint(frame::OFFSET, offset)]);
            let data = with_data.then(|| bytes(frame::DATA, &data));
            (Just(before).prop_shuffle(), Just(data), Just(after).prop_shuffle()).prop_map(
                |(before, data, after)| {
                    frame_of(&before.into_iter().chain(data).chain(after).collect::<Vec<_>>())
                },
            )
        },
    )
}

fn shuffled_packet() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop_oneof![
        any::<u64>().prop_map(|value| varint(packet::PACKET_ID, value)),
        any::<u32>().prop_map(|value| varint(packet::CHECKSUM, u64::from(value))),
        "[a-z]{0,200}".prop_map(|text| bytes(packet::PATH_ID, text.as_bytes())),
        (5u32..1 << 29).prop_map(|field| bytes(field, b"later version")),
    ];
    (prop::collection::vec(shuffled_frame(), 0..4), prop::collection::vec(noise, 0..3))
        .prop_flat_map(|(frames, noise)| {
            Just(frames.into_iter().chain(noise).collect::<Vec<_>>()).prop_shuffle()
        })
        .prop_map(|fields| packet_of(&fields))
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(shuffled_packet(), 1..4).prop_map(|packets| packets.concat())
}

/// Frames of few streams, so that some continue one another; some of them shrink.
fn frames() -> impl Strategy<Value = Vec<PacketFrame>> {
    let frame = (0u64..3, header(), payload(), any::<bool>(), any::<bool>());
    prop::collection::vec(frame, 0..8).prop_map(|frames| {
        let mut list: Vec<PacketFrame> = Vec::new();
        for (stream_id, (_, offset), payload, fin, on) in frames {
            let next = list.last().filter(|_| on).map(|last| (last.stream_id, last.end()));
            let (stream_id, offset) = next.unwrap_or((stream_id, offset));
            list.push(PacketFrame { stream_id, offset, payload: payload.into(), fin });
        }
        list
    })
}

/// What a receiver makes of `frames`.
fn joined(frames: &[PacketFrame]) -> Vec<Whole> {
    let mut list: Vec<Whole> = Vec::new();
    for frame in frames {
        let payload = frame.payload.to_vec();
        match list.last_mut() {
            Some((id, offset, before, fin @ false))
                if (*id, *offset + before.len() as u64) == (frame.stream_id, frame.offset) =>
            {
                before.extend(payload);
                *fin = frame.fin;
            }
            _ => list.push((frame.stream_id, frame.offset, payload, frame.fin)),
        }
    }
    list
}

proptest! {
    #[test]
    fn we_decode_what_we_encode_under_all_options(
        packets in prop::collection::vec((any::<u64>(), frames()), 1..4),
        sizes in sizes(), options in prop::sample::select(ALL_OPTIONS.to_vec()),
    ) {
        let stream: Vec<u8> =
            packets.iter().flat_map(|(id, frames)| encode(*id, frames, options)).collect();
        let expected: Vec<_> =
            packets.iter().map(|(id, frames)| (*id, joined(frames))).collect();
        prop_assert_eq!(decode_packets(&stream, &sizes, options), Ok(expected.clone()));
        // A checksum that was not agreed is passed over; what is compressed is not.
        if !options.compression {
            let none = DataOptions::default();
            prop_assert_eq!(decode_packets(&stream, &sizes, none), Ok(expected));
        }
    }

    #[test]
    fn prost_decodes_what_we_encode(
        id: u64, frames in frames(), options in prop::sample::select(ALL_OPTIONS.to_vec()),
    ) {
        let stream = encode(id, &frames, options);
        let packet = DataPacket::decode_length_delimited(&stream[..]).unwrap();
        prop_assert_eq!(packet.packet_id, id);
        let found: Vec<Whole> = packet.frames.iter().map(|frame| {
            let data = if frame.flags == DataFlags::DataFlagCompressed as u32 {
                let len = frame.uncompressed_length as usize;
                prop_assert!(frame.data.len() < len);
                lz4_flex::block::decompress(&frame.data, len).unwrap()
            } else {
                frame.data.to_vec()
            };
            Ok((frame.logical_stream_id, frame.offset, data, frame.fin))
        }).collect::<Result<_, TestCaseError>>()?;
        prop_assert_eq!(found, joined(&frames));
        prop_assert!(options.checksum || packet.checksum == 0);
    }

    #[test]
    fn a_bit_that_was_flipped_shows(
        frames in frames(), sizes in sizes(), at: prop::sample::Index, bit in 0u32..8,
        compression: bool,
    ) {
        let options = DataOptions { checksum: true, compression };
        let mut stream = encode(9, &frames, options);
        *at.get_mut(&mut stream) ^= 1 << bit;
        prop_assert!(decode_packets(&stream, &sizes, options).is_err());
    }

    #[test]
    fn we_decode_what_prost_encodes(
        frames in prop::collection::vec((header(), payload(), any::<bool>()), 0..4),
        number: u64, text in "[a-z]{0,200}", sizes in sizes(),
    ) {
        let packet = DataPacket {
            packet_id: number,
            path_id: text.clone(),
            frames: frames.iter().map(|((id, offset), data, fin)| DataFrame {
                frame_id: number,
                logical_stream_id: *id,
                offset: *offset,
                data: data.clone().into(),
                fin: *fin,
                timestamp: number,
                path_id: text.clone(),
                flags: 3,
                uncompressed_length: 0,
            }).collect(),
            checksum: 77,
        };
        let frames: Vec<_> =
            frames.into_iter().map(|((id, offset), data, fin)| (id, offset, data, fin)).collect();
        prop_assert_eq!(decode(&packet.encode_length_delimited_to_vec(), &sizes), Ok(frames));
    }

    #[test]
    fn a_checksum_is_of_what_prost_writes_before_it(id: u64, data in payload(), sizes in sizes()) {
        let frames = vec![DataFrame { data: data.clone().into(), ..Default::default() }];
        let mut packet = DataPacket { packet_id: id, frames, ..Default::default() };
        packet.checksum = crc32c::crc32c(&packet.encode_to_vec());
        let stream = packet.encode_length_delimited_to_vec();
        let options = DataOptions { checksum: true, compression: false };
        let expected = vec![(id, vec![(0, 0, data, false)])];
        prop_assert_eq!(decode_packets(&stream, &sizes, options), Ok(expected));
    }

    #[test]
    fn we_decode_any_order_of_fields(stream in stream(), sizes in sizes()) {
        let expected = oracle(&stream).unwrap();
        prop_assert_eq!(decode(&stream, &sizes), Ok(expected));
    }

    #[test]
    fn what_we_accept_prost_reads_alike(
        mut stream in stream(), at: prop::sample::Index, bits in 1u8.., sizes in sizes(),
    ) {
        *at.get_mut(&mut stream) ^= bits;
        let found = decode(&stream, &sizes);
        prop_assert_eq!(&found, &decode(&stream, &[usize::MAX]));
        // Texts that we skip may be no UTF-8, which prost refuses.
        if let (Ok(found), Ok(expected)) = (found, oracle(&stream)) {
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300), sizes in sizes(),
        options in prop::sample::select(ALL_OPTIONS.to_vec()),
    ) {
        drop(decode_packets(&bytes, &sizes, options));
    }
}
