//! What checksums and compression make of packets that are not as they should be.

use super::tests::{
    Raw, WholePacket, bytes, decode_packets, encode, frame, frame_of, packet_of, varint,
};
use super::*;
use crate::limits::{MAX_PACKET_PAYLOAD, MIN_COMPRESSED, MIN_SLICE};
use crate::wire::WireError;
use crate::wire::testing::collect;
use bytes::Bytes;

const CHECKSUM: DataOptions = DataOptions { checksum: true, compression: false };
const COMPRESSION: DataOptions = DataOptions { checksum: false, compression: true };
const COMPRESSED: u64 = 4;

/// Refused for the same reason whole and byte by byte.
fn refused(stream: &[u8], options: DataOptions) -> WireError {
    let error = decode_packets(stream, &[usize::MAX], options).unwrap_err();
    assert_eq!(decode_packets(stream, &[1], options), Err(error.clone()));
    error
}

fn one(id: u64, payload: &[u8]) -> Result<Vec<WholePacket>, WireError> {
    Ok(vec![(id, vec![(4, 9, payload.to_vec(), false)])])
}

/// A packet of one frame whose data stands for `uncompressed` bytes, as it says.
fn compressed(data: &[u8], uncompressed: usize) -> Vec<u8> {
    packet_of(&[compressed_frame(data, uncompressed)])
}

fn compressed_frame(data: &[u8], uncompressed: usize) -> Raw {
    frame_of(&[
        varint(frame::FLAGS, COMPRESSED),
        varint(frame::UNCOMPRESSED_LENGTH, uncompressed as u64),
        bytes(frame::DATA, data),
    ])
}

#[test]
fn nothing_of_a_packet_is_read_before_its_checksum_held() {
    let payload = vec![5; 3 * MIN_SLICE];
    let stream = Bytes::from(encode(1, &[frame(4, 9, &payload, true)], CHECKSUM));
    let mut decoder = DataDecoder::new(CHECKSUM);
    decoder.handle_input(stream.slice(..stream.len() - 1));
    assert_eq!(decoder.poll(), Ok(None));
    assert!(!decoder.is_idle() && decoder.handle_fin().is_err());
    decoder.handle_input(stream.slice(stream.len() - 1..));
    let events = collect(|| decoder.poll()).unwrap();
    assert!(matches!(events[..], [DataEvent::Frame(_), DataEvent::Payload(_), ..]));
    assert!(decoder.is_idle());
}

#[test]
fn a_packet_that_came_in_one_slice_is_not_copied() {
    let payload = vec![5; 3 * MIN_SLICE];
    let stream = Bytes::from(encode(1, &[frame(4, 9, &payload, true)], CHECKSUM).repeat(2));
    let mut decoder = DataDecoder::new(CHECKSUM);
    decoder.handle_input(stream.clone());
    let events = collect(|| decoder.poll()).unwrap();
    let DataEvent::Payload(last) = &events[5] else { panic!("no payload") };
    assert!(stream.as_ptr_range().contains(&last.as_ptr()), "the payload was copied");
    assert!(decoder.is_idle());
}

#[test]
fn what_is_held_of_a_packet_pins_no_receive_buffer() {
    let payload = vec![5; 3 * MIN_SLICE];
    let frames = [frame(4, 9, &payload, true)];
    for options in [CHECKSUM, COMPRESSION, DataOptions { checksum: true, compression: true }] {
        let stream = encode(1, &frames, options);
        let mut decoder = DataDecoder::new(options);
        let received = Bytes::from([&[0; 60_000][..], &stream].concat());
        decoder.handle_input(received.slice(60_000..60_000 + stream.len() - 1));
        while let Some(event) = decoder.poll().unwrap() {
            assert!(matches!(event, DataEvent::Frame(_)), "{event:?}");
        }
        assert!(!decoder.is_idle() && received.is_unique(), "{options:?}");
    }
}

#[test]
fn a_corrupted_packet_is_refused_wherever_it_is() {
    let stream = encode(300, &[frame(4, 9, b"payload", false), frame(8, 0, b"x", true)], CHECKSUM);
    for at in 0..stream.len() {
        for bit in 0..8 {
            let mut corrupted = stream.clone();
            corrupted[at] ^= 1 << bit;
            refused(&corrupted, CHECKSUM);
        }
    }
}

#[test]
fn a_packet_without_the_checksum_that_was_agreed_is_refused() {
    let stream = encode(1, &[frame(4, 9, b"payload", false)], DataOptions::default());
    assert_eq!(refused(&stream, CHECKSUM), WireError::Checksum);
    assert_eq!(refused(&packet_of(&[]), CHECKSUM), WireError::Checksum);
    // A checksum of 0 has to be written, like others.
    assert_eq!(decode_packets(&[2, 0x20, 0], &[1], CHECKSUM), Ok(vec![(0, vec![])]));
}

#[test]
fn nothing_follows_a_checksum() {
    let sum = varint(packet::CHECKSUM, 0);
    for fields in [[sum.clone(), frame_of(&[])], [sum.clone(), sum]] {
        let error = refused(&packet_of(&fields), CHECKSUM);
        assert_eq!(error, WireError::Invalid("what follows a checksum"));
    }
}

#[test]
fn crumbs_that_are_held_are_few_slices() {
    let stream = encode(1, &[frame(4, 9, &vec![7; MAX_PACKET_PAYLOAD], false)], CHECKSUM);
    let mut decoder = DataDecoder::new(CHECKSUM);
    let mut events = Vec::new();
    for byte in Bytes::from(stream).chunks(1) {
        decoder.handle_input(Bytes::copy_from_slice(byte));
        events.extend(collect(|| decoder.poll()).unwrap());
    }
    assert_eq!(events.len(), 4);
}

#[test]
fn what_shrinks_is_compressed_and_the_rest_is_not() {
    let repetitive = vec![7; MAX_PACKET_PAYLOAD];
    let stream = encode(1, &[frame(4, 9, &repetitive, false)], COMPRESSION);
    assert!(stream.len() < MAX_PACKET_PAYLOAD / 100, "{}", stream.len());
    assert_eq!(decode_packets(&stream, &[50], COMPRESSION), one(1, &repetitive));
    let mut random = 1u64;
    let noise = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random.to_be_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(5000).collect();
    let short = vec![7; MIN_COMPRESSED - 1];
    for plain in [noise, short] {
        let frames = [frame(4, 9, &plain, false)];
        let stream = encode(1, &frames, COMPRESSION);
        assert_eq!(stream, encode(1, &frames, DataOptions::default()));
        assert_eq!(decode_packets(&stream, &[50], COMPRESSION), one(1, &plain));
    }
}

#[test]
fn compression_that_was_not_agreed_is_refused() {
    let stream = encode(1, &[frame(4, 9, &[7; 500], false)], COMPRESSION);
    for options in [DataOptions::default(), CHECKSUM] {
        assert!(matches!(refused(&stream, options), WireError::Invalid(_)));
    }
}

#[test]
fn a_bomb_is_refused_from_what_it_says() {
    let block = lz4_flex::block::compress(&vec![0; MAX_PACKET_PAYLOAD + 1]);
    let mut head = compressed(&block, MAX_PACKET_PAYLOAD + 1);
    head.truncate(head.len() - block.len());
    let mut decoder = DataDecoder::new(COMPRESSION);
    decoder.handle_input(head.into());
    assert!(matches!(decoder.poll(), Err(WireError::TooLarge { what: "a payload", .. })));

    // So are several that are too much together.
    let block = lz4_flex::block::compress(&vec![0; MAX_PACKET_PAYLOAD]);
    let half = compressed_frame(&block, MAX_PACKET_PAYLOAD);
    let error = refused(&packet_of(&[half.clone(), half]), COMPRESSION);
    assert!(matches!(error, WireError::TooLarge { what: "a payload", .. }));
}

#[test]
fn a_compressed_frame_that_lies_is_refused() {
    let block = lz4_flex::block::compress(&[0; 1000]);
    assert!(decode_packets(&compressed(&block, 1000), &[1], COMPRESSION).is_ok());
    for (data, uncompressed) in [
        // More or less than it says; not smaller than what it stands for; nothing; garbage.
        (&block[..], 999),
        (&block, 1001),
        (&block, block.len()),
        (&block, 0),
        (&[], 1000),
        (&[0xff; 100], 1000),
        (&block[..block.len() - 1], 1000),
    ] {
        let error = refused(&compressed(data, uncompressed), COMPRESSION);
        assert!(matches!(error, WireError::Invalid(_)), "{error} of {uncompressed}");
    }
}

#[test]
fn a_frame_without_data_is_not_compressed() {
    let fields = [varint(frame::FLAGS, COMPRESSED), varint(frame::UNCOMPRESSED_LENGTH, 5)];
    let error = refused(&packet_of(&[frame_of(&fields)]), COMPRESSION);
    assert!(matches!(error, WireError::Invalid(_)));
}

#[test]
fn what_says_that_data_is_compressed_precedes_it() {
    let data = bytes(frame::DATA, b"x");
    for late in [varint(frame::FLAGS, COMPRESSED), varint(frame::UNCOMPRESSED_LENGTH, 9)] {
        let stream = packet_of(&[frame_of(&[data.clone(), late])]);
        assert_eq!(refused(&stream, COMPRESSION), WireError::HeaderAfterData);
    }
    // Flags that say nothing to us may stand anywhere.
    let urgent = packet_of(&[frame_of(&[data, varint(frame::FLAGS, 3)])]);
    assert!(decode_packets(&urgent, &[1], COMPRESSION).is_ok());
}

#[test]
fn a_huge_packet_of_compressed_crumbs_ends_within_its_bounds() {
    let block = lz4_flex::block::compress(&[0; 600]);
    let crumbs = vec![compressed_frame(&block, 600); 200];
    let error = refused(&packet_of(&crumbs), COMPRESSION);
    assert!(matches!(error, WireError::TooLarge { what: "a payload", .. }));
}

#[test]
fn options_hold_where_both_ends_want_them() {
    assert_eq!(DataOptions::default().to_proto(), None);
    assert_eq!(DataOptions::from_proto(CHECKSUM.to_proto()), CHECKSUM);
    assert_eq!(CHECKSUM.and(COMPRESSION), DataOptions::default());
    assert_eq!(CHECKSUM.and(CHECKSUM), CHECKSUM);
}

#[test]
fn what_was_held_of_a_packet_that_is_whole_pins_nothing() {
    let payload = vec![5; 3 * MIN_SLICE];
    let frames = [frame(4, 9, &payload, true)];
    let stream = encode(1, &frames, CHECKSUM);
    let mut decoder = DataDecoder::new(CHECKSUM);
    let received = Bytes::from([&[0; 60_000][..], &stream].concat());
    decoder.handle_input(received.slice(60_000..));
    while let Some(event) = decoder.poll().unwrap() {
        drop(event);
    }
    assert!(decoder.is_idle());
    assert!(received.is_unique(), "pinned");
}
