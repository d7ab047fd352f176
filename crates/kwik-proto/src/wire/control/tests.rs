use super::*;
use crate::auth::Fingerprint;
use crate::limits::{
    MAX_COMMAND, MAX_CREDENTIALS, MAX_GAPS, MAX_GRANT, MAX_OFFSET, MAX_RESUME_RANGES, MAX_TEXT,
};
use crate::wire::pb::control::{self as pb, ByteRange};
use crate::wire::pb::{data, metadata, secondary};
use crate::wire::testing::{chunks, collect};
use crate::{Code, Dir, LeaseId, PathId};

pub(super) fn decode(input: &[u8], sizes: &[usize]) -> Result<Vec<ControlMessage>, WireError> {
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

pub(super) fn encode_all(messages: &[ControlMessage]) -> BytesMut {
    let mut out = BytesMut::new();
    for (frame_id, message) in (0..).zip(messages) {
        encode(frame_id, message, &mut out);
    }
    out
}

/// A frame that [`encode`] would not write.
pub(super) fn frame(frame_id: u64, frame_type: i32, payload: &[u8]) -> Vec<u8> {
    let payload = Bytes::copy_from_slice(payload);
    ControlFrame { frame_id, r#type: frame_type, payload, timestamp: 5 }
        .encode_length_delimited_to_vec()
}

fn refused(frame_type: ControlFrameType, message: &impl Message) -> WireError {
    decode(&frame(0, frame_type as i32, &delimited::payload(message)), &[100]).unwrap_err()
}

/// The least that each type can say: of most all fields are default.
fn least() -> Vec<ControlMessage> {
    use ControlMessage as M;
    let path_id = PathId::PRIMARY;
    vec![
        M::AddPathRequest(AddPathRequest {
            path_id,
            session_id: None,
            target_address: String::new(),
            server_key_hash: Fingerprint([0; 32]),
            grant: Bytes::new(),
        }),
        M::AddPathResponse(AddPathResponse { path_id, result: Err(String::new()) }),
        M::RemovePathRequest(RemovePathRequest { path_id }),
        M::RemovePathResponse(RemovePathResponse { path_id, result: Err(String::new()) }),
        M::PathStatusNotification(PathStatusNotification {
            path_id,
            status: PathStatus::Active,
            reason: String::new(),
            report: None,
            ended: false,
        }),
        M::AuthenticationRequest(AuthenticationRequest::default()),
        M::AuthenticationResponse(AuthenticationResponse {
            result: Err(String::new()),
            limits: None,
            data: <_>::default(),
        }),
        M::StreamCreateNotification(StreamCreateNotification::default()),
        M::RawPacketTransmission(RawPacketTransmission::default()),
        M::Lease(Lease::default()),
        M::Revoke(Revoke::default()),
        M::LeaseReport(LeaseReport::default()),
        M::Activate(Activate::default()),
        M::Cancel(Cancel::default()),
        M::Stopped(Stopped::default()),
        M::Uncovered(Uncovered::default()),
        M::StreamReset(StreamReset::default()),
        M::StopSending(StopSending::default()),
        M::MaxStreams(MaxStreams { dir: Dir::Bi, maximum: 0, first_streams: 0 }),
        M::MaxStreamData(MaxStreamData::default()),
        M::RelayReport(RelayReport::default()),
        M::Resume(Resume::default()),
        M::Heartbeat(Heartbeat::default()),
        M::Backpressure(Backpressure::default()),
        M::SessionClose(SessionClose::default()),
        M::OffsetSyncRequest(OffsetSyncRequest::default()),
        M::OffsetSyncResponse(OffsetSyncResponse::default()),
        M::StreamMappingUpdate(StreamMappingUpdate::default()),
        M::PathReport(PathReport::default()),
        M::Ack(Ack::default()),
        M::Blamed(Blamed::default()),
    ]
}

#[test]
fn every_type_round_trips_even_when_all_default() {
    let messages = least();
    let types: std::collections::BTreeSet<_> =
        messages.iter().map(ControlMessage::frame_type).collect();
    let all = (0..100).filter(|number| ControlFrameType::try_from(*number).is_ok());
    assert!(all.eq(types), "one of each type");
    for chunk in [1, 7, 10_000] {
        assert_eq!(decode(&encode_all(&messages), &[chunk]).as_ref(), Ok(&messages));
    }
}

#[test]
fn bytes_fields_do_not_pin_the_input() {
    let lease = Lease { command: vec![1; 100].into(), ..Default::default() };
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
    let heartbeat = Heartbeat { sequence: 1, reply: false };
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
    assert_eq!(found, Ok(vec![ControlMessage::Revoke(Revoke { lease_id: LeaseId(3) })]));
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
    let packets = vec![data::AckRange { first: 1, last: 1 }; MAX_RESUME_RANGES + 1];
    for error in [
        refused(T::Lease, &pb::Lease { command, ..Default::default() }),
        refused(
            T::AuthenticationRequest,
            &pb::AuthenticationRequest { credentials, ..Default::default() },
        ),
        refused(T::AddPathRequest, &pb::AddPathRequest { grant, ..Default::default() }),
        refused(T::Stopped, &pb::Stopped { reason: long, ..Default::default() }),
        refused(T::Uncovered, &pb::Uncovered { stream_id: 0, ranges: gaps }),
        refused(T::Resume, &pb::Resume { packets, ..Default::default() }),
    ] {
        assert!(matches!(error, WireError::TooLarge { .. }), "{error}");
    }
    let packet = pb::RawPacketTransmission { data, ..Default::default() };
    let error = refused(T::RawPacketTransmission, &packet);
    assert_eq!(error.code(), crate::Code::PacketTooLarge);
}

#[test]
fn invalid_fields_are_refused() {
    use ControlFrameType as T;
    let short: Bytes = vec![0; 31].into();
    for error in [
        refused(T::Activate, &pb::Activate { start: 2, end: 1, ..Default::default() }),
        refused(T::Activate, &pb::Activate { end: MAX_OFFSET + 1, ..Default::default() }),
        refused(T::MaxStreamData, &pb::MaxStreamData { stream_id: MAX_OFFSET + 1, maximum: 0 }),
        refused(
            T::MaxStreams,
            &pb::MaxStreams { unidirectional: false, maximum: 1 << 61, first_streams: 0 },
        ),
        refused(T::Lease, &pb::Lease { signature: short.clone(), ..Default::default() }),
        refused(
            T::AuthenticationRequest,
            &pb::AuthenticationRequest { client_key: short, ..Default::default() },
        ),
        // An unknown outcome would read as LEASE_DONE.
        refused(T::LeaseReport, &pb::LeaseReport { outcome: 9, ..Default::default() }),
    ] {
        assert!(matches!(error, WireError::Invalid(_)), "{error}");
    }
}

const NO_NUMBERS: [&str; 6] = ["", "seven", "-1", "1.0", " 1", "4294967296"];

fn assert_invalid(what: &'static str, errors: impl IntoIterator<Item = WireError>) {
    for error in errors {
        assert_eq!((error.code(), error), (Code::InvalidFrame, WireError::Invalid(what)));
    }
}

/// 3.3, whoever hears them: the client took a path id that it could not read for path 0, or for one
/// that is not there.
#[test]
fn malformed_path_ids_are_refused() {
    use ControlFrameType as T;
    for path_id in NO_NUMBERS.map(str::to_owned) {
        let added = pb::AddPathResponse { path_id: path_id.clone(), ..Default::default() };
        let remove = pb::RemovePathRequest { path_id: path_id.clone() };
        let removed = pb::RemovePathResponse { path_id: path_id.clone(), ..Default::default() };
        let dead = pb::PathStatusNotification {
            path_id: path_id.clone(),
            status: 1,
            ..Default::default()
        };
        let raw = pb::RawPacketTransmission { target_path_id: path_id, ..Default::default() };
        let errors = [
            refused(T::AddPathResponse, &added),
            refused(T::RemovePathRequest, &remove),
            refused(T::RemovePathResponse, &removed),
            refused(T::PathStatusNotification, &dead),
            refused(T::RawPacketTransmission, &raw),
        ];
        assert_invalid("a path id", errors);
    }
}

#[test]
fn the_id_of_the_path_that_a_message_came_on_is_absent_or_a_number() {
    use ControlFrameType as T;
    for path_id in NO_NUMBERS.into_iter().skip(1).map(str::to_owned) {
        let created =
            pb::StreamCreateNotification { path_id: path_id.clone(), ..Default::default() };
        let sync = secondary::OffsetSyncRequest {
            requesting_path_id: path_id.clone(),
            ..Default::default()
        };
        let mapped =
            metadata::StreamMappingUpdate { path_id: path_id.clone(), ..Default::default() };
        let errors = [
            refused(T::StreamCreateNotification, &created),
            refused(T::OffsetSyncRequest, &sync),
            refused(T::StreamMappingUpdate, &mapped),
            refused(T::Ack, &data::AckFrame { path_id, ..Default::default() }),
        ];
        assert_invalid("a path id", errors);
    }
    let ack = data::AckFrame { path_id: "7".into(), ..Default::default() };
    let found = decode(&frame(0, T::Ack as i32, &ack.encode_to_vec()), &[9]);
    assert_eq!(found, Ok(vec![ControlMessage::Ack(Ack::default())]));
}

#[test]
fn malformed_session_ids_and_missing_pins_are_refused() {
    use ControlFrameType as T;
    let server_key_hash = Bytes::from(vec![1; 32]);
    for session_id in ["zz".to_owned(), "0".repeat(31), "+f".repeat(16), "x".repeat(32)] {
        let add = pb::AddPathRequest {
            server_key_hash: server_key_hash.clone(),
            session_id: session_id.clone(),
            ..Default::default()
        };
        let join =
            pb::AuthenticationRequest { session_id: session_id.clone(), ..Default::default() };
        let answer = pb::AuthenticationResponse { success: true, session_id, ..Default::default() };
        let errors = [
            refused(T::AddPathRequest, &add),
            refused(T::AuthenticationRequest, &join),
            refused(T::AuthenticationResponse, &answer),
        ];
        assert_invalid("a session id", errors);
    }
    let nameless = pb::AuthenticationResponse { success: true, ..Default::default() };
    assert_invalid("a session id", [refused(T::AuthenticationResponse, &nameless)]);
    let unpinned = pb::AddPathRequest { path_id: 1, ..Default::default() };
    assert_invalid("a server key hash", [refused(T::AddPathRequest, &unpinned)]);
}

#[test]
fn packets_that_are_named_one_by_one_are_acknowledged_too() {
    let ranges = vec![data::AckRange { first: 4, last: 9 }];
    let named = data::AckFrame { ranges, acked_packet_ids: vec![1, 11], ..Default::default() };
    let found = decode(&frame(0, ControlFrameType::Ack as i32, &named.encode_to_vec()), &[9]);
    let ranges = vec![4..=9, 1..=1, 11..=11];
    assert_eq!(found, Ok(vec![ControlMessage::Ack(Ack { ranges, control_frames: 0 })]));
}

#[test]
fn metadata_that_cannot_be_is_a_violation_of_its_own() {
    let metadata = Some(metadata::StreamMetadata { stream_type: 9, ..Default::default() });
    let notice = pb::StreamCreateNotification { metadata, ..Default::default() };
    let error = refused(ControlFrameType::StreamCreateNotification, &notice);
    assert_eq!(error.code(), Code::MetadataProtocolViolation);
}
