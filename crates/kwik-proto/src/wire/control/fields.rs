//! Which field of ours is which on the wire (4.2): a mix-up in both directions would round-trip.

use std::time::Duration;

use super::*;
use crate::auth::{Fingerprint, PublicKey, Signature};
use crate::wire::DataOptions;
use crate::wire::pb::control as pb;
use crate::wire::pb::control::ByteRange;
use crate::wire::pb::{data, metadata, secondary};
use crate::wire::secondary::MappingOperation;
use crate::{Dir, LeaseId, PathId, PieceId, SessionId, StreamId};

type Pair = (ControlMessage, Vec<u8>);

const STREAM: StreamId = StreamId::from_u64(7);
const PATH: PathId = PathId(3);

fn pair(ours: ControlMessage, theirs: &impl Message) -> Pair {
    (ours, theirs.encode_to_vec())
}

fn hex(byte: u8) -> String {
    SessionId([byte; 16]).to_string()
}

fn figures() -> (PathFigures, pb::PathReport) {
    let figures = PathFigures {
        rtt: Duration::from_micros(1),
        sent_packets: 2,
        lost_packets: 4,
        goodput: Some(5),
        received: 6,
        outstanding: 7,
        idle: Duration::from_micros(8),
        stalled: Duration::from_micros(9),
    };
    let report = pb::PathReport {
        path_id: 3,
        rtt_us: 1,
        lost_packets: 4,
        goodput: Some(5),
        sent_packets: 2,
        received: 6,
        outstanding: 7,
        idle_us: 8,
        stalled_us: 9,
    };
    (figures, report)
}

fn paths() -> Vec<Pair> {
    use ControlMessage as M;
    let (figures, report) = figures();
    vec![
        pair(
            M::AddPathRequest(AddPathRequest {
                path_id: PATH,
                session_id: Some(SessionId([1; 16])),
                target_address: "a:1".into(),
                server_key_hash: Fingerprint([2; 32]),
                grant: Bytes::from_static(b"grant"),
            }),
            &pb::AddPathRequest {
                target_address: "a:1".into(),
                session_id: hex(1),
                path_id: 3,
                server_key_hash: vec![2; 32].into(),
                grant: Bytes::from_static(b"grant"),
            },
        ),
        pair(
            M::AddPathResponse(AddPathResponse { path_id: PATH, result: Err("why".into()) }),
            &pb::AddPathResponse {
                success: false,
                path_id: "3".into(),
                error_message: "why".into(),
            },
        ),
        pair(
            M::RemovePathRequest(RemovePathRequest { path_id: PATH }),
            &pb::RemovePathRequest { path_id: "3".into() },
        ),
        pair(
            M::RemovePathResponse(RemovePathResponse { path_id: PATH, result: Ok(()) }),
            &pb::RemovePathResponse {
                success: true,
                path_id: "3".into(),
                error_message: String::new(),
            },
        ),
        pair(
            M::PathStatusNotification(PathStatusNotification {
                path_id: PATH,
                status: PathStatus::Degraded,
                reason: "why".into(),
                report: Some(figures),
                ended: true,
            }),
            &pb::PathStatusNotification {
                path_id: "3".into(),
                status: 16,
                reason: "why".into(),
                report: Some(report),
                ended: true,
            },
        ),
        pair(M::PathReport(PathReport { path_id: PATH, figures }), &report),
    ]
}

fn introductions() -> Vec<Pair> {
    use ControlMessage as M;
    let limits = StreamLimits {
        max_streams_bidi: 1,
        max_streams_uni: 2,
        initial_max_stream_data: 3,
        first_streams: 4,
        initial_max_first_stream_data: 5,
    };
    let told = Some(pb::StreamLimits {
        max_streams_bidi: 1,
        max_streams_uni: 2,
        initial_max_stream_data: 3,
        first_streams: 4,
        initial_max_first_stream_data: 5,
    });
    let checksum = DataOptions { checksum: true, compression: false };
    let options = Some(data::DataOptions { checksum: true, compression: false });
    vec![
        pair(
            M::AuthenticationRequest(AuthenticationRequest {
                session_id: Some(SessionId([1; 16])),
                credentials: Bytes::from_static(b"me"),
                protocol_version: 9,
                client_key: Some(PublicKey([4; 32])),
                path_id: PATH,
                proof: Some(Signature([5; 64])),
                limits: Some(limits),
                data: checksum,
            }),
            &pb::AuthenticationRequest {
                session_id: hex(1),
                credentials: Bytes::from_static(b"me"),
                protocol_version: 9,
                client_key: vec![4; 32].into(),
                path_id: 3,
                proof: vec![5; 64].into(),
                limits: told,
                data: options,
            },
        ),
        pair(
            M::AuthenticationResponse(AuthenticationResponse {
                result: Ok(SessionId([1; 16])),
                limits: Some(limits),
                data: DataOptions::default(),
            }),
            &pb::AuthenticationResponse {
                success: true,
                session_id: hex(1),
                error_message: String::new(),
                limits: told,
                data: None,
            },
        ),
        pair(
            M::AuthenticationResponse(AuthenticationResponse {
                result: Err("why".into()),
                limits: None,
                data: checksum,
            }),
            &pb::AuthenticationResponse {
                error_message: "why".into(),
                data: options,
                ..Default::default()
            },
        ),
    ]
}

fn sessions() -> Vec<Pair> {
    use ControlMessage as M;
    vec![
        pair(
            M::RawPacketTransmission(RawPacketTransmission {
                data: Bytes::from_static(b"raw"),
                target_path_id: PATH,
                sequence: 8,
                signature: Some(Signature([5; 64])),
            }),
            &pb::RawPacketTransmission {
                data: Bytes::from_static(b"raw"),
                target_path_id: "3".into(),
                source_server_id: String::new(),
                sequence: 8,
                signature: vec![5; 64].into(),
            },
        ),
        pair(
            M::RelayReport(RelayReport { sequence: 8, path_id: PATH, code: 9 }),
            &pb::RelayReport { sequence: 8, path_id: 3, code: 9 },
        ),
        pair(
            M::Heartbeat(Heartbeat { sequence: 8, reply: true }),
            &pb::Heartbeat { sequence: 8, reply: true },
        ),
        pair(
            M::SessionClose(SessionClose { code: 9, reason: Bytes::from_static(b"why") }),
            &pb::SessionClose { code: 9, reason: Bytes::from_static(b"why") },
        ),
        pair(
            M::Ack(Ack { ranges: vec![1..=2, 5..=9], control_frames: 3 }),
            &data::AckFrame {
                ranges: vec![
                    data::AckRange { first: 1, last: 2 },
                    data::AckRange { first: 5, last: 9 },
                ],
                control_frames: 3,
                ..Default::default()
            },
        ),
    ]
}

fn leases() -> Vec<Pair> {
    use ControlMessage as M;
    let lease_id = LeaseId(4);
    let ranges = || vec![1..2, 5..9];
    let told = || vec![ByteRange { start: 1, end: 2 }, ByteRange { start: 5, end: 9 }];
    vec![
        pair(
            M::Lease(Lease {
                lease_id,
                stream_id: STREAM,
                range: 10..20,
                path_id: PATH,
                command: Bytes::from_static(b"get"),
                sequence: 8,
                max_bytes: 30,
                signature: Some(Signature([5; 64])),
                unasked: 0,
            }),
            &pb::Lease {
                lease_id: 4,
                stream_id: 7,
                start: 10,
                end: 20,
                path_id: 3,
                command: Bytes::from_static(b"get"),
                sequence: 8,
                max_bytes: 30,
                signature: vec![5; 64].into(),
                unasked: 0,
            },
        ),
        pair(
            M::Lease(Lease {
                lease_id,
                stream_id: STREAM,
                range: 10..20,
                unasked: 6,
                ..Lease::default()
            }),
            &pb::Lease {
                lease_id: 4,
                stream_id: 7,
                start: 10,
                end: 20,
                unasked: 6,
                ..pb::Lease::default()
            },
        ),
        pair(M::Revoke(Revoke { lease_id }), &pb::Revoke { lease_id: 4 }),
        pair(
            M::LeaseReport(LeaseReport {
                lease_id,
                outcome: LeaseOutcome::Lost,
                ranges: ranges(),
                delivered: 6,
                reason: "gone".into(),
            }),
            &pb::LeaseReport {
                lease_id: 4,
                outcome: 2,
                ranges: told(),
                delivered: 6,
                reason: "gone".into(),
            },
        ),
        pair(
            M::Uncovered(Uncovered { stream_id: STREAM, ranges: ranges() }),
            &pb::Uncovered { stream_id: 7, ranges: told() },
        ),
    ]
}

fn blame() -> Vec<Pair> {
    use ControlMessage as M;
    vec![pair(
        M::Blamed(Blamed {
            path_id: PATH,
            stream_id: Some(STREAM),
            range: 1..2,
            reason: "lies".into(),
        }),
        &pb::Blamed { path_id: 3, stream_id: Some(7), start: 1, end: 2, reason: "lies".into() },
    )]
}

fn pieces() -> Vec<Pair> {
    use ControlMessage as M;
    let (lease_id, piece_id) = (LeaseId(4), PieceId(5));
    vec![
        pair(
            M::Activate(Activate { lease_id, piece_id, range: 10..20 }),
            &pb::Activate { lease_id: 4, piece_id: 5, start: 10, end: 20 },
        ),
        pair(M::Cancel(Cancel { lease_id, piece_id }), &pb::Cancel { lease_id: 4, piece_id: 5 }),
        pair(
            M::Stopped(Stopped {
                lease_id,
                piece_id,
                sent_until: 6,
                abandoned: true,
                reason: "why".into(),
            }),
            &pb::Stopped {
                lease_id: 4,
                piece_id: 5,
                sent_until: 6,
                abandoned: true,
                reason: "why".into(),
            },
        ),
        pair(
            M::StreamMappingUpdate(StreamMappingUpdate {
                secondary_stream_id: 1,
                kwik_stream_id: STREAM,
                operation: MappingOperation::Delete,
                lease_id,
                offset: 6,
            }),
            &metadata::StreamMappingUpdate {
                secondary_stream_id: 1,
                kwik_stream_id: 7,
                operation: 2,
                lease_id: 4,
                offset: 6,
                ..Default::default()
            },
        ),
    ]
}

fn streams() -> Vec<Pair> {
    use ControlMessage as M;
    let mut about = StreamMetadata::new();
    about.set_stream_type(StreamType::Control).set_priority(Priority::Critical);
    about.set_max_buffer(9);
    vec![
        pair(
            M::StreamCreateNotification(StreamCreateNotification {
                stream_id: STREAM,
                metadata: about,
            }),
            &pb::StreamCreateNotification {
                logical_stream_id: 7,
                path_id: String::new(),
                metadata: Some(metadata::StreamMetadata {
                    stream_type: 1,
                    priority: 3,
                    max_buffer_size: 9,
                    ..Default::default()
                }),
            },
        ),
        pair(
            M::StreamReset(StreamReset { stream_id: STREAM, code: 8, final_size: 9 }),
            &pb::StreamReset { stream_id: 7, code: 8, final_size: 9 },
        ),
        pair(
            M::StopSending(StopSending { stream_id: STREAM, code: 8 }),
            &pb::StopSending { stream_id: 7, code: 8 },
        ),
        pair(
            M::MaxStreams(MaxStreams { dir: Dir::Uni, maximum: 8, first_streams: 9 }),
            &pb::MaxStreams { unidirectional: true, maximum: 8, first_streams: 9 },
        ),
        pair(
            M::MaxStreamData(MaxStreamData { stream_id: STREAM, maximum: 8 }),
            &pb::MaxStreamData { stream_id: 7, maximum: 8 },
        ),
        pair(
            M::Backpressure(Backpressure {
                stream_id: Some(STREAM),
                reason: Some(BackpressureReason::SlowConsumer),
            }),
            &pb::Backpressure { stream_id: Some(7), reason: 3 },
        ),
    ]
}

fn resumption() -> Vec<Pair> {
    use ControlMessage as M;
    vec![
        pair(
            M::Resume(Resume { frame_id: 8, attempt: 3, packets: vec![1..=2, 5..=9] }),
            &pb::Resume {
                frame_id: 8,
                attempt: 3,
                packets: vec![
                    data::AckRange { first: 1, last: 2 },
                    data::AckRange { first: 5, last: 9 },
                ],
            },
        ),
        pair(
            M::OffsetSyncRequest(OffsetSyncRequest { kwik_stream_id: STREAM, current_offset: 8 }),
            &secondary::OffsetSyncRequest {
                kwik_stream_id: 7,
                current_offset: 8,
                ..Default::default()
            },
        ),
        pair(
            M::OffsetSyncResponse(OffsetSyncResponse {
                kwik_stream_id: STREAM,
                expected_offset: 8,
                sync_required: true,
            }),
            &secondary::OffsetSyncResponse {
                kwik_stream_id: 7,
                expected_offset: 8,
                sync_required: true,
                timestamp: 0,
            },
        ),
    ]
}

#[test]
fn every_field_travels_where_it_always_did() {
    let pairs = [paths(), introductions(), sessions(), leases(), blame(), pieces(), streams()];
    let pairs = [pairs.concat(), resumption()].concat();
    let types: std::collections::BTreeSet<_> =
        pairs.iter().map(|(ours, _)| ours.frame_type()).collect();
    assert_eq!(types.len(), 31, "one of each type");
    for (ours, theirs) in pairs {
        assert_eq!(ours.payload(), theirs, "{ours:?}");
        assert_eq!(ControlMessage::decode(ours.frame_type(), &theirs), Ok(ours));
    }
}

/// Zero means the first of each, so all the others are told apart here.
#[test]
fn every_choice_has_the_number_that_it_always_had() {
    let status = |status| {
        let (reason, report, ended) = (String::new(), None, false);
        let m = PathStatusNotification { path_id: PATH, status, reason, report, ended };
        let proto = pb::PathStatusNotification::decode(
            &ControlMessage::PathStatusNotification(m).payload()[..],
        );
        proto.unwrap().status
    };
    use PathStatus as S;
    let statuses = [S::Active, S::Dead, S::Connecting, S::Disconnecting, S::Degraded];
    assert_eq!(statuses.map(status), [0, 1, 2, 3, 16]);
    let reason = |reason| {
        let m = ControlMessage::Backpressure(Backpressure { stream_id: None, reason });
        pb::Backpressure::decode(&m.payload()[..]).unwrap().reason
    };
    use BackpressureReason as R;
    let reasons = [R::WindowFull, R::BufferFull, R::SlowConsumer, R::MemoryPressure];
    assert_eq!((reason(None), reasons.map(|r| reason(Some(r)))), (0, [1, 2, 3, 4]));
    let outcome = |outcome| {
        let m = ControlMessage::LeaseReport(LeaseReport { outcome, ..<_>::default() });
        pb::LeaseReport::decode(&m.payload()[..]).unwrap().outcome
    };
    use LeaseOutcome as O;
    assert_eq!([O::Done, O::Stopped, O::Lost].map(outcome), [0, 1, 2]);
    let operation = |operation| {
        let m = StreamMappingUpdate { operation, ..<_>::default() };
        let payload = ControlMessage::StreamMappingUpdate(m).payload();
        metadata::StreamMappingUpdate::decode(&payload[..]).unwrap().operation
    };
    use MappingOperation as P;
    assert_eq!([P::Create, P::Update, P::Delete].map(operation), [0, 1, 2]);
}
