//! Every message in every form: what is said arrives, and in the fields that it always had.

use std::ops::Range;
use std::time::Duration;

use proptest::prelude::*;

use super::tests::{decode, encode_all, frame};
use super::*;
use crate::auth::{Fingerprint, PublicKey, Signature};
use crate::limits::{MAX_GRANT, MAX_OFFSET, MAX_TEXT};
use crate::wire::DataOptions;
use crate::wire::secondary::MappingOperation;
use crate::{Dir, LeaseId, PathId, PieceId, SessionId, StreamId};

/// What fields are filled with.
#[derive(Debug, Clone)]
struct Values {
    n: u64,
    id: u32,
    text: String,
    blob: Bytes,
    flag: bool,
    choice: usize,
    ranges: Vec<Range<u64>>,
}

impl Values {
    fn stream(&self) -> StreamId {
        StreamId::from_u64(self.n)
    }

    fn lease(&self) -> LeaseId {
        LeaseId(self.n)
    }

    fn path(&self) -> PathId {
        PathId(self.id)
    }

    fn session(&self) -> Option<SessionId> {
        self.flag.then_some(SessionId([self.id.to_le_bytes()[0]; 16]))
    }

    fn signature(&self) -> Option<Signature> {
        self.flag.then_some(Signature([9; 64]))
    }

    fn result(&self) -> Result<(), String> {
        if self.flag { Ok(()) } else { Err(self.text.clone()) }
    }

    fn data(&self) -> DataOptions {
        DataOptions { checksum: self.flag, compression: self.choice > 0 }
    }

    fn limits(&self) -> Option<StreamLimits> {
        self.flag.then_some(StreamLimits {
            max_streams_bidi: self.n,
            max_streams_uni: self.n,
            initial_max_stream_data: self.n,
            first_streams: self.n / 3,
            initial_max_first_stream_data: self.n,
        })
    }

    fn figures(&self) -> PathFigures {
        PathFigures {
            rtt: Duration::from_micros(self.n),
            sent_packets: self.n,
            lost_packets: self.n / 2,
            goodput: self.flag.then_some(self.n),
            received: self.n,
            outstanding: self.n / 3,
            idle: Duration::from_micros(self.n / 2),
            stalled: Duration::from_micros(self.n / 3),
        }
    }
}

fn values() -> impl Strategy<Value = Values> {
    let range =
        (0..=MAX_OFFSET / 2, 0..=MAX_OFFSET / 2).prop_map(|(start, len)| start..start + len);
    (
        0..=1u64 << 60,
        any::<u32>(),
        "\\PC{0,100}",
        prop::collection::vec(any::<u8>(), 0..MAX_GRANT),
        any::<bool>(),
        0..3usize,
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

/// One of every type, filled.
fn filled(v: &Values) -> Vec<ControlMessage> {
    [of_paths(v), of_sessions(v), of_leases(v), of_streams(v)].concat()
}

fn of_paths(v: &Values) -> Vec<ControlMessage> {
    use ControlMessage as M;
    let statuses = [PathStatus::Dead, PathStatus::Degraded, PathStatus::Disconnecting];
    vec![
        M::AddPathRequest(AddPathRequest {
            path_id: v.path(),
            session_id: v.session(),
            target_address: v.text.clone(),
            server_key_hash: Fingerprint([7; 32]),
            grant: v.blob.clone(),
        }),
        M::AddPathResponse(AddPathResponse { path_id: v.path(), result: v.result() }),
        M::RemovePathRequest(RemovePathRequest { path_id: v.path() }),
        M::RemovePathResponse(RemovePathResponse { path_id: v.path(), result: v.result() }),
        M::PathStatusNotification(PathStatusNotification {
            path_id: v.path(),
            status: statuses[v.choice],
            reason: v.text.clone(),
            report: v.flag.then(|| v.figures()),
            ended: v.flag,
        }),
        M::PathReport(PathReport { path_id: v.path(), figures: v.figures() }),
    ]
}

fn of_sessions(v: &Values) -> Vec<ControlMessage> {
    use ControlMessage as M;
    vec![
        M::AuthenticationRequest(AuthenticationRequest {
            session_id: v.session(),
            credentials: v.blob.clone(),
            protocol_version: v.id,
            client_key: v.flag.then_some(PublicKey([8; 32])),
            path_id: v.path(),
            proof: v.signature(),
            limits: v.limits(),
            data: v.data(),
        }),
        M::AuthenticationResponse(AuthenticationResponse {
            result: v.session().ok_or_else(|| v.text.clone()),
            limits: v.limits(),
            data: v.data(),
        }),
        M::RawPacketTransmission(RawPacketTransmission {
            data: v.blob.clone(),
            target_path_id: v.path(),
            sequence: v.n,
            signature: v.signature(),
        }),
        M::RelayReport(RelayReport { sequence: v.n, path_id: v.path(), code: v.n / 2 }),
        M::Heartbeat(Heartbeat { sequence: v.n, reply: v.flag }),
        M::SessionClose(SessionClose {
            code: v.n,
            reason: v.blob.slice(..MAX_TEXT.min(v.blob.len())),
        }),
        M::Ack(Ack {
            ranges: v.ranges.iter().map(|ids| ids.start..=ids.end).collect(),
            control_frames: v.n,
        }),
        M::Unknown(1000 + v.id.to_le_bytes()[0] as i32),
    ]
}

fn of_leases(v: &Values) -> Vec<ControlMessage> {
    use ControlMessage as M;
    let outcomes = [LeaseOutcome::Done, LeaseOutcome::Stopped, LeaseOutcome::Lost];
    let operations = [MappingOperation::Create, MappingOperation::Update, MappingOperation::Delete];
    let (lease_id, piece_id) = (v.lease(), PieceId(v.n / 2));
    vec![
        M::Lease(Lease {
            lease_id,
            stream_id: v.stream(),
            range: v.n / 2..v.n,
            path_id: v.path(),
            command: v.blob.clone(),
            sequence: v.n / 3,
            max_bytes: v.n / 4,
            signature: v.signature(),
            unasked: if v.path().is_primary() { v.n / 5 } else { 0 },
        }),
        M::Revoke(Revoke { lease_id }),
        M::LeaseReport(LeaseReport {
            lease_id,
            outcome: outcomes[v.choice],
            ranges: v.ranges.clone(),
            delivered: v.n,
            reason: v.text.clone(),
        }),
        M::Activate(Activate { lease_id, piece_id, range: v.n / 2..v.n }),
        M::Cancel(Cancel { lease_id, piece_id }),
        M::Stopped(Stopped {
            lease_id,
            piece_id,
            sent_until: v.n,
            abandoned: v.flag,
            reason: v.text.clone(),
        }),
        M::Uncovered(Uncovered { stream_id: v.stream(), ranges: v.ranges.clone() }),
        M::Blamed(Blamed {
            path_id: PathId(7),
            stream_id: v.flag.then(|| v.stream()),
            range: v.n / 2..v.n,
            reason: v.text.clone(),
        }),
        M::StreamMappingUpdate(StreamMappingUpdate {
            secondary_stream_id: v.n,
            kwik_stream_id: v.stream(),
            operation: operations[v.choice],
            lease_id,
            offset: v.n / 2,
        }),
    ]
}

fn of_streams(v: &Values) -> Vec<ControlMessage> {
    use ControlMessage as M;
    let reasons =
        [None, Some(BackpressureReason::WindowFull), Some(BackpressureReason::BufferFull)];
    let mut metadata = StreamMetadata::new();
    metadata.set_max_buffer(v.n).set_property("key", v.blob.slice(..v.blob.len().min(50))).unwrap();
    let stream_id = v.stream();
    let dir = if v.flag { Dir::Uni } else { Dir::Bi };
    vec![
        M::StreamCreateNotification(StreamCreateNotification { stream_id, metadata }),
        M::StreamReset(StreamReset { stream_id, code: v.n / 2, final_size: v.n / 3 }),
        M::StopSending(StopSending { stream_id, code: v.n / 2 }),
        M::MaxStreams(MaxStreams { dir, maximum: v.n, first_streams: v.n / 2 }),
        M::MaxStreamData(MaxStreamData { stream_id, maximum: v.n / 2 }),
        M::Backpressure(Backpressure {
            stream_id: v.flag.then_some(stream_id),
            reason: reasons[v.choice],
        }),
        M::Resume(Resume {
            frame_id: v.n,
            attempt: v.n / 2,
            packets: v.ranges.iter().map(|ids| ids.start..=ids.end).collect(),
        }),
        M::OffsetSyncRequest(OffsetSyncRequest { kwik_stream_id: stream_id, current_offset: v.n }),
        M::OffsetSyncResponse(OffsetSyncResponse {
            kwik_stream_id: stream_id,
            expected_offset: v.n / 2,
            sync_required: v.flag,
        }),
    ]
}

proptest! {
    #[test]
    fn filled_messages_round_trip(
        v in values(), sizes in prop::collection::vec(1usize..900, 1..8),
    ) {
        let messages = filled(&v);
        let encoded = encode_all(&messages);
        let decoded = decode(&encoded, &sizes);
        prop_assert_eq!(decoded.as_ref(), Ok(&messages));
        // And as bytes: nothing that was said is lost on the way through our types.
        prop_assert_eq!(encode_all(&decoded.unwrap()), encoded);
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        sizes in prop::collection::vec(1usize..50, 1..8),
    ) {
        drop(decode(&bytes, &sizes));
    }

    /// What a peer says in words of its own is in ours a fixed point.
    #[test]
    fn random_payloads_never_panic_and_are_encoded_as_they_are_read(
        number in 0i32..40, payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        if let Ok(messages) = decode(&frame(0, number, &payload), &[1000]) {
            prop_assert_eq!(decode(&encode_all(&messages), &[1000]), Ok(messages));
        }
    }
}
