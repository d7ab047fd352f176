//! Against prost, for every chunking of the bytes.

use super::tests::{Raw, bytes, decode, fixed, frame_of, oracle, packet_of, varint};
use super::*;
use crate::limits::{MAX_FRAME_FIELD, MAX_OFFSET, MAX_PACKET_PAYLOAD};
use crate::wire::pb::data::{DataFrame, DataPacket};
use bytes::BytesMut;
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

/// Fields that say nothing and may stand anywhere in a frame.
fn noise() -> impl Strategy<Value = Raw> {
    prop_oneof![
        any::<u64>().prop_map(|value| varint(frame::FRAME_ID, value)),
        any::<u64>().prop_map(|value| varint(frame::TIMESTAMP, value)),
        "[a-z]{0,200}".prop_map(|text| bytes(frame::PATH_ID, text.as_bytes())),
        any::<bool>().prop_map(|fin| varint(frame::FIN, u64::from(fin))),
        (8u32..1 << 29, any::<u64>()).prop_map(|(field, value)| varint(field, value)),
        (8u32..1 << 29, 0usize..=MAX_FRAME_FIELD)
            .prop_map(|(field, len)| bytes(field, &vec![0xff; len])),
        (8u32..1 << 29).prop_map(|field| fixed(field, WireType::SixtyFourBit, 8)),
        (8u32..1 << 29).prop_map(|field| fixed(field, WireType::ThirtyTwoBit, 4)),
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

proptest! {
    #[test]
    fn prost_decodes_what_we_encode((id, offset) in header(), data in payload(), fin: bool) {
        let header = FrameHeader { stream_id: id, offset, len: data.len() };
        let mut out = BytesMut::new();
        encode_packet_header(&mut out, &header, fin);
        prop_assert_eq!(out.len(), packet_overhead(&header, fin));
        prop_assert!(out.len() <= MAX_PACKET_HEADER);
        out.extend_from_slice(&data);
        let expected = vec![(id, offset, data, fin)];
        prop_assert_eq!(oracle(&out), Ok(expected.clone()));
        prop_assert_eq!(decode(&out, &[3]), Ok(expected));
    }

    #[test]
    fn prost_decodes_what_we_batch(
        frames in prop::collection::vec((header(), payload(), any::<bool>()), 0..10),
        sizes in sizes(),
    ) {
        let mut builder = PacketBuilder::new();
        for _ in 0..2 {
            let mut expected = Vec::new();
            for ((id, offset), data, fin) in frames.clone() {
                prop_assert!(builder.push(id, offset, &data, fin));
                expected.push((id, offset, data, fin));
            }
            let packet = builder.finish();
            prop_assert_eq!(oracle(&packet), Ok(expected.clone()));
            prop_assert_eq!(decode(&packet, &sizes), Ok(expected));
        }
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
            }).collect(),
            checksum: 77,
        };
        let frames: Vec<_> =
            frames.into_iter().map(|((id, offset), data, fin)| (id, offset, data, fin)).collect();
        prop_assert_eq!(decode(&packet.encode_length_delimited_to_vec(), &sizes), Ok(frames));
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
    ) {
        drop(decode(&bytes, &sizes));
    }
}
