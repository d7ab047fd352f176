use super::*;
use crate::Code;
use crate::limits::{MAX_COMMAND, MAX_CREDENTIALS, MAX_GAPS, MAX_GRANT, MAX_OFFSET, MAX_TEXT};
use crate::wire::testing::{chunks, collect};
use pb::control::{ByteRange, StreamLimits, StreamResumption};
use proptest::prelude::*;

fn decode(input: &[u8], sizes: &[usize]) -> Result<Vec<ControlMessage>, WireError> {
    let mut decoder = ControlDecoder::new();
    let mut found = Vec::new();
    for chunk in chunks(input, sizes) {
        decoder.handle_input(chunk);
        found.extend(collect(|| decoder.poll_frame())?);
        assert!(decoder.reader.buffered() <= 2 * MAX_CONTROL_FRAME);
    }
    decoder.handle_fin()?;
    Ok(found)
}

fn encode_all(messages: &[ControlMessage]) -> BytesMut {
    let mut out = BytesMut::new();
    for (frame_id, message) in (0..).zip(messages) {
        encode(frame_id, message, &mut out);
    }
    out
}

/// A frame that [`encode`] would not write.
fn frame(frame_id: u64, frame_type: i32, payload: &[u8]) -> Vec<u8> {
    let payload = Bytes::copy_from_slice(payload);
    ControlFrame { frame_id, r#type: frame_type, payload, timestamp: 5 }
        .encode_length_delimited_to_vec()
}

fn refused(frame_type: ControlFrameType, message: &impl Message) -> WireError {
    decode(&frame(0, frame_type as i32, &message.encode_to_vec()), &[100]).unwrap_err()
}

/// The default of every type.
fn defaults() -> Vec<ControlMessage> {
    (0..64)
        .map(|number| ControlMessage::decode(number, &[]).unwrap())
        .filter(|message| !matches!(message, ControlMessage::Unknown(_)))
        .collect()
}

/// What fields are filled with.
#[derive(Debug, Clone)]
struct Values {
    n: u64,
    id: u32,
    text: String,
    blob: Bytes,
    flag: bool,
    choice: i32,
    ranges: Vec<ByteRange>,
}

fn values() -> impl Strategy<Value = Values> {
    let range = (0..=MAX_OFFSET / 2, 0..=MAX_OFFSET / 2)
        .prop_map(|(start, len)| ByteRange { start, end: start + len });
    (
        0..=1u64 << 60,
        any::<u32>(),
        "\\PC{0,100}",
        prop::collection::vec(any::<u8>(), 0..MAX_GRANT),
        any::<bool>(),
        0..3i32,
        prop::collection::vec(range, 0..50),
    )
        .prop_map(|(n, id, text, blob, flag, choice, ranges)| Values {
            n,
            id,
            text,
            blob: blob.into(),
            flag,
            choice,
            ranges,
        })
}

/// One of every type with more than numbers, filled.
fn filled(v: &Values) -> Vec<ControlMessage> {
    [of_paths(v), of_streams(v)].concat()
}

fn of_paths(v: &Values) -> Vec<ControlMessage> {
    use ControlMessage as M;
    let (text, blob) = (|| v.text.clone(), || v.blob.clone());
    let key = Bytes::from(vec![9; 32]);
    let signature = Bytes::from(vec![9; 64]);
    let limits = Some(StreamLimits {
        max_streams_bidi: v.n,
        max_streams_uni: v.n,
        initial_max_stream_data: v.n,
        first_streams: v.n / 3,
        initial_max_first_stream_data: v.n,
    });
    vec![
        M::AddPathRequest(pb::control::AddPathRequest {
            target_address: text(),
            session_id: text(),
            path_id: v.id,
            server_key_hash: key.clone(),
            grant: blob(),
        }),
        M::AddPathResponse(pb::control::AddPathResponse {
            success: v.flag,
            path_id: text(),
            error_message: text(),
        }),
        M::PathStatusNotification(pb::control::PathStatusNotification {
            path_id: text(),
            status: v.choice,
            reason: text(),
            report: v.flag.then(pb::control::PathReport::default),
            ended: v.flag,
        }),
        M::AuthenticationRequest(pb::control::AuthenticationRequest {
            data: Some(pb::data::DataOptions { checksum: true, compression: false }),
            session_id: text(),
            credentials: blob(),
            protocol_version: v.id,
            client_key: key,
            path_id: v.id,
            proof: signature.clone(),
            limits,
        }),
        M::AuthenticationResponse(pb::control::AuthenticationResponse {
            data: Some(pb::data::DataOptions { checksum: true, compression: true }),
            success: v.flag,
            session_id: text(),
            error_message: text(),
            limits,
        }),
        M::RawPacketTransmission(pb::control::RawPacketTransmission {
            data: blob(),
            target_path_id: text(),
            source_server_id: text(),
            sequence: v.n,
            signature: signature.clone(),
        }),
        M::Lease(pb::control::Lease {
            lease_id: v.n,
            stream_id: v.n,
            start: v.n / 2,
            end: v.n,
            path_id: v.id,
            command: blob(),
            sequence: v.n,
            max_bytes: v.n,
            signature,
        }),
    ]
}

fn of_streams(v: &Values) -> Vec<ControlMessage> {
    use ControlMessage as M;
    let text = || v.text.clone();
    vec![
        M::LeaseReport(pb::control::LeaseReport {
            lease_id: v.n,
            outcome: v.choice,
            ranges: v.ranges.clone(),
            delivered: v.n,
            reason: text(),
        }),
        M::Activate(pb::control::Activate { lease_id: v.n, piece_id: v.n, start: 0, end: v.n }),
        M::Stopped(pb::control::Stopped {
            lease_id: v.n,
            piece_id: v.n,
            sent_until: v.n,
            abandoned: v.flag,
            reason: text(),
        }),
        M::Uncovered(pb::control::Uncovered { stream_id: v.n, ranges: v.ranges.clone() }),
        M::StreamReset(pb::control::StreamReset { stream_id: v.n, code: v.n, final_size: v.n }),
        M::MaxStreams(pb::control::MaxStreams {
            unidirectional: v.flag,
            maximum: v.n,
            first_streams: v.n / 2,
        }),
        M::Resume(pb::control::Resume {
            frame_id: v.n,
            streams: vec![StreamResumption {
                stream_id: v.n,
                received: v.ranges.clone(),
                final_size: v.n,
                finished: v.flag,
                reset: v.flag,
            }],
        }),
        M::Backpressure(pb::control::Backpressure {
            stream_id: v.flag.then_some(v.n),
            reason: v.choice,
        }),
        M::SessionClose(pb::control::SessionClose {
            code: v.n,
            reason: v.blob.slice(..MAX_TEXT.min(v.blob.len())),
        }),
        M::Unknown(1000 + v.choice),
        M::StreamMappingUpdate(pb::metadata::StreamMappingUpdate {
            secondary_stream_id: v.n,
            kwik_stream_id: v.n,
            path_id: text(),
            operation: v.choice,
            timestamp: v.n,
            lease_id: v.n,
            offset: v.n,
        }),
        M::Ack(pb::data::AckFrame {
            ranges: v
                .ranges
                .iter()
                .map(|r| pb::data::AckRange { first: r.start, last: r.end })
                .collect(),
            ack_id: v.n,
            acked_packet_ids: v.ranges.iter().map(|range| range.start).collect(),
            path_id: text(),
            timestamp: v.n,
        }),
    ]
}

proptest! {
    #[test]
    fn filled_messages_round_trip(
        v in values(), sizes in prop::collection::vec(1usize..900, 1..8),
    ) {
        let messages = filled(&v);
        prop_assert_eq!(decode(&encode_all(&messages), &sizes), Ok(messages));
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        sizes in prop::collection::vec(1usize..50, 1..8),
    ) {
        drop(decode(&bytes, &sizes));
    }

    #[test]
    fn random_payloads_never_panic(
        number in 0i32..40, payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        drop(decode(&frame(0, number, &payload), &[1000]));
    }
}

#[test]
fn every_type_round_trips_even_when_all_default() {
    let messages = defaults();
    assert_eq!(messages.len(), 30);
    for chunk in [1, 7, 10_000] {
        assert_eq!(decode(&encode_all(&messages), &[chunk]).as_ref(), Ok(&messages));
    }
}

#[test]
fn bytes_fields_do_not_pin_the_input() {
    let lease = pb::control::Lease { command: vec![1; 100].into(), ..Default::default() };
    let input = encode_all(&[ControlMessage::Lease(lease)]).freeze();
    let mut decoder = ControlDecoder::new();
    decoder.handle_input(input.clone());
    let Ok(Some(ControlMessage::Lease(lease))) = decoder.poll_frame() else { panic!("no lease") };
    assert!(!input.as_ptr_range().contains(&lease.command.as_ptr()));
}

#[test]
fn unknown_types_are_told_and_counted() {
    let mut input = frame(0, 999, b"anything");
    input.extend(frame(1, -5, b"anything"));
    input.extend(frame(2, ControlFrameType::Heartbeat as i32, &[8, 1]));
    let found = decode(&input, &[3]).unwrap();
    let heartbeat = pb::control::Heartbeat { sequence: 1, reply: false };
    assert_eq!(
        found,
        [
            ControlMessage::Unknown(999),
            ControlMessage::Unknown(-5),
            ControlMessage::Heartbeat(heartbeat)
        ]
    );
}

#[test]
fn unknown_fields_are_skipped() {
    let mut payload = vec![8, 3];
    prost::encoding::bytes::encode(77, &b"later version".to_vec(), &mut payload);
    let found = decode(&frame(0, ControlFrameType::Revoke as i32, &payload), &[100]);
    assert_eq!(found, Ok(vec![ControlMessage::Revoke(pb::control::Revoke { lease_id: 3 })]));
}

#[test]
fn an_oversized_frame_is_refused_from_its_prefix() {
    let mut input = BytesMut::new();
    prost::encoding::encode_varint(MAX_CONTROL_FRAME as u64 + 1, &mut input);
    let error = decode(&input, &[1]).unwrap_err();
    assert!(matches!(error, WireError::TooLarge { .. }));
    assert_eq!(error.code(), Code::InvalidFrame);
}

#[test]
fn frame_ids_out_of_order_are_refused() {
    let heartbeat = |id| frame(id, ControlFrameType::Heartbeat as i32, &[8, 1]);
    assert!(decode(&[heartbeat(0), heartbeat(1)].concat(), &[9]).is_ok());
    for ids in [vec![1], vec![0, 0], vec![0, 2]] {
        let input: Vec<u8> = ids.into_iter().flat_map(heartbeat).collect();
        assert!(matches!(decode(&input, &[9]), Err(WireError::FrameId { .. })));
    }
}

#[test]
fn an_empty_payload_is_refused() {
    assert_eq!(decode(&frame(0, 0, b""), &[9]), Err(WireError::EmptyPayload));
    assert_eq!(decode(&[0], &[9]), Err(WireError::EmptyPayload));
}

#[test]
fn malformed_frames_and_payloads_are_refused() {
    assert!(matches!(decode(&[2, 0xff, 0xff], &[9]), Err(WireError::Protobuf(_))));
    assert!(matches!(decode(&frame(0, 17, &[0xff]), &[9]), Err(WireError::Protobuf(_))));
}

#[test]
fn a_truncated_stream_is_refused() {
    let input = frame(0, 17, &[8, 1]);
    for end in 1..input.len() {
        assert_eq!(decode(&input[..end], &[2]), Err(WireError::Truncated));
    }
}

#[test]
fn oversized_fields_are_refused() {
    use ControlFrameType as T;
    let long = "x".repeat(MAX_TEXT + 1);
    let command = vec![0; MAX_COMMAND + 1].into();
    let credentials = vec![0; MAX_CREDENTIALS + 1].into();
    let grant = vec![0; MAX_GRANT + 1].into();
    let data = vec![0; crate::limits::MAX_RAW_PACKET + 1].into();
    let gaps = vec![ByteRange { start: 0, end: 1 }; MAX_GAPS + 1];
    let streams = vec![StreamResumption::default(); 401];
    for error in [
        refused(T::Lease, &pb::control::Lease { command, ..Default::default() }),
        refused(
            T::AuthenticationRequest,
            &pb::control::AuthenticationRequest { credentials, ..Default::default() },
        ),
        refused(T::AddPathRequest, &pb::control::AddPathRequest { grant, ..Default::default() }),
        refused(
            T::RawPacketTransmission,
            &pb::control::RawPacketTransmission { data, ..Default::default() },
        ),
        refused(T::Stopped, &pb::control::Stopped { reason: long, ..Default::default() }),
        refused(T::Uncovered, &pb::control::Uncovered { stream_id: 0, ranges: gaps }),
        refused(T::Resume, &pb::control::Resume { frame_id: 0, streams }),
    ] {
        assert!(matches!(error, WireError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn invalid_fields_are_refused() {
    use ControlFrameType as T;
    let short: Bytes = vec![0; 31].into();
    for error in [
        refused(T::Activate, &pb::control::Activate { start: 2, end: 1, ..Default::default() }),
        refused(T::Activate, &pb::control::Activate { end: MAX_OFFSET + 1, ..Default::default() }),
        refused(
            T::MaxStreamData,
            &pb::control::MaxStreamData { stream_id: MAX_OFFSET + 1, maximum: 0 },
        ),
        refused(
            T::MaxStreams,
            &pb::control::MaxStreams { unidirectional: false, maximum: 1 << 61, first_streams: 0 },
        ),
        refused(T::Lease, &pb::control::Lease { signature: short.clone(), ..Default::default() }),
        refused(
            T::AuthenticationRequest,
            &pb::control::AuthenticationRequest { client_key: short, ..Default::default() },
        ),
        // An unknown outcome would read as LEASE_DONE.
        refused(T::LeaseReport, &pb::control::LeaseReport { outcome: 9, ..Default::default() }),
    ] {
        assert!(matches!(error, WireError::Invalid(_)), "{error}");
    }
}
