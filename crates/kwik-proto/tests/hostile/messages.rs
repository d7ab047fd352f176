//! Control messages that are nearly right.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use kwik_proto::auth::{Fingerprint, Signature};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    Ack, Activate, AddPathRequest, AddPathResponse, Backpressure, BackpressureReason, Blamed,
    Cancel, Heartbeat, Lease, LeaseOutcome, LeaseReport, MaxStreamData, MaxStreams,
    OffsetSyncRequest, OffsetSyncResponse, PathFigures, PathReport, PathStatus,
    PathStatusNotification, RawPacketTransmission, RelayReport, RemovePathRequest,
    RemovePathResponse, Resume, Revoke, SessionClose, StopSending, Stopped,
    StreamCreateNotification, StreamReset, Uncovered,
};
use kwik_proto::{Dir, LeaseId, PathId, PieceId, Side, StreamId};

use crate::choices::Choices;

/// What a victim has said, which its peer answers to.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) leases: Vec<Lease>,
    pub(crate) activations: Vec<Activate>,
    /// What the victim opened or was told to open last.
    pub(crate) streams: Vec<StreamId>,
    pub(crate) grants: Vec<AddPathRequest>,
    /// Messages so far: numbers that rise.
    told: Cell<u64>,
}

impl Heard {
    /// The next id of a piece.
    fn pieces(&self) -> PieceId {
        self.told.set(self.told.get() + 1);
        PieceId(self.told.get())
    }

    pub(crate) fn note(&mut self, message: &M) {
        match message {
            M::Lease(m) => keep(&mut self.leases, m.clone()),
            M::Activate(m) => keep(&mut self.activations, m.clone()),
            M::AddPathRequest(m) => keep(&mut self.grants, m.clone()),
            M::StreamCreateNotification(m) => keep(&mut self.streams, m.stream_id),
            _ => {}
        }
    }
}

/// The last few are what matters.
pub(crate) fn keep<T>(items: &mut Vec<T>, item: T) {
    if items.len() >= 64 {
        items.remove(0);
    }
    items.push(item);
}

pub(crate) fn stream(choices: &mut Choices<'_>, heard: &Heard) -> StreamId {
    if choices.chance(40)
        && let Some(known) = choices.pick(&heard.streams)
    {
        return known;
    }
    let side = if choices.chance(50) { Side::Client } else { Side::Server };
    let dir = if choices.chance(50) { Dir::Bi } else { Dir::Uni };
    let index = if choices.chance(95) { choices.below(6) } else { choices.number() >> 2 };
    StreamId::new(side, dir, index.min((1 << 60) - 1))
}

fn range(choices: &mut Choices<'_>) -> Range<u64> {
    let (start, len) = (choices.number(), choices.number());
    start..start.saturating_add(len).min((1 << 62) - 1)
}

fn ranges(choices: &mut Choices<'_>) -> Vec<Range<u64>> {
    (0..choices.below(4)).map(|_| range(choices)).collect()
}

fn path(choices: &mut Choices<'_>) -> PathId {
    PathId(if choices.chance(95) { choices.below(4) as u32 } else { choices.number() as u32 })
}

fn lease(choices: &mut Choices<'_>, heard: &Heard) -> LeaseId {
    match choices.pick(&heard.leases) {
        Some(lease) if choices.chance(80) => lease.lease_id,
        _ => LeaseId(choices.below(8)),
    }
}

/// An answer to an activation, most often one that fits.
pub(crate) fn stopped(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let asked = choices.pick(&heard.activations).unwrap_or_default();
    let sent_until = match choices.below(200) {
        0 => choices.number(),
        1..190 => asked.range.start,
        _ => asked.range.end,
    };
    M::Stopped(Stopped {
        lease_id: asked.lease_id,
        piece_id: asked.piece_id,
        sent_until,
        abandoned: choices.chance(10),
        reason: "why\u{1b}not\n".into(),
    })
}

/// Any message at all.
pub(crate) fn any(choices: &mut Choices<'_>, heard: &Heard) -> M {
    match choices.below(24) {
        0..6 => of_leases(choices, heard),
        6..14 => of_streams(choices, heard),
        14..20 => of_paths(choices, heard),
        _ => of_sessions(choices),
    }
}

/// What a client may say to its primary.
pub(crate) fn to_primary(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let known = choices.pick(&heard.streams);
    let own = StreamId::new(Side::Client, Dir::Uni, choices.below(6));
    match (choices.below(12), known) {
        (0, Some(stream_id)) => {
            M::MaxStreamData(MaxStreamData { stream_id, maximum: choices.below(1 << 30) })
        }
        (1, Some(stream_id)) if choices.chance(5) => {
            M::StopSending(StopSending { stream_id, code: 7 })
        }
        (2, _) => M::StreamCreateNotification(StreamCreateNotification {
            stream_id: own,
            ..<_>::default()
        }),
        (3, _) => M::StreamReset(StreamReset { stream_id: own, code: 1, final_size: 30_000 }),
        (4, _) => M::MaxStreams(MaxStreams {
            dir: if choices.chance(70) { Dir::Uni } else { Dir::Bi },
            maximum: choices.below(200),
            first_streams: choices.below(20),
        }),
        (5, _) => report(choices, heard),
        (6, _) => M::Backpressure(Backpressure {
            stream_id: known,
            reason: Some(BackpressureReason::BufferFull),
        }),
        (7, _) => to_secondary(choices, heard),
        (8, _) => M::Heartbeat(Heartbeat { sequence: 3, reply: choices.chance(20) }),
        _ => loop {
            let message = of_paths(choices, heard);
            if !matches!(message, M::AddPathRequest(_) | M::RemovePathRequest(_)) {
                return message;
            }
            if choices.is_empty() {
                return M::Unknown(1_000);
            }
        },
    }
}

/// A few messages that are said again and again: what a few of them bring about, many bring about
/// many times.
pub(crate) fn cycle(choices: &mut Choices<'_>, heard: &Heard) -> Vec<M> {
    let path_id = PathId(1 + choices.below(2) as u32);
    let state = |status| {
        M::PathStatusNotification(PathStatusNotification {
            path_id,
            status,
            reason: String::new(),
            report: None,
            ended: false,
        })
    };
    let states = [
        PathStatus::Active,
        PathStatus::Dead,
        PathStatus::Dead,
        PathStatus::Disconnecting,
        PathStatus::Degraded,
    ];
    (0..1 + choices.below(3))
        .map(|_| match choices.below(4) {
            0 => state(choices.pick(&states).unwrap_or(PathStatus::Active)),
            _ => to_primary(choices, heard),
        })
        .collect()
}

/// An end of a lease, as its stream may have brought it.
fn report(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let lease = choices.pick(&heard.leases).unwrap_or_default();
    let Range { start, end } = lease.range;
    let half = start + (end - start) / 2..end;
    let ranges = if choices.chance(50) && !half.is_empty() { vec![half] } else { Vec::new() };
    let outcome = if ranges.is_empty() { LeaseOutcome::Done } else { LeaseOutcome::Stopped };
    let lease_id = lease.lease_id;
    M::LeaseReport(LeaseReport { lease_id, outcome, ranges, ..<_>::default() })
}

/// What a client may say to a secondary, and of a lease of its own path to its primary.
pub(crate) fn to_secondary(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let lease = choices.pick(&heard.leases).unwrap_or_default();
    let len = lease.range.end - lease.range.start;
    match choices.below(12) {
        0..6 => {
            let start = lease.range.start + choices.below(len + 1) / 1000 * 1000;
            let end = (start + 1 + choices.below(50_000)).min(lease.range.end).max(start);
            // They rise.
            let piece_id = heard.pieces();
            M::Activate(Activate { lease_id: lease.lease_id, piece_id, range: start..end })
        }
        6 => M::Cancel(Cancel {
            lease_id: lease.lease_id,
            piece_id: PieceId(choices.below(heard.pieces().0)),
        }),
        7 => M::Ack(Ack::default()),
        8 => M::Unknown(1_000),
        _ => M::Heartbeat(Heartbeat { sequence: 1, reply: choices.chance(30) }),
    }
}

fn of_leases(choices: &mut Choices<'_>, heard: &Heard) -> M {
    match choices.below(10) {
        0 => M::Lease(Lease {
            lease_id: LeaseId(choices.below(8)),
            stream_id: stream(choices, heard),
            range: choices.number()..choices.number(),
            path_id: path(choices),
            sequence: choices.below(8),
            max_bytes: choices.number(),
            command: Bytes::from(vec![1; choices.below(100) as usize]),
            signature: Some(Signature([7; 64])),
            unasked: 0,
        }),
        1 => M::Revoke(Revoke { lease_id: lease(choices, heard) }),
        2 => M::LeaseReport(LeaseReport {
            lease_id: lease(choices, heard),
            outcome: choices
                .pick(&[LeaseOutcome::Done, LeaseOutcome::Stopped, LeaseOutcome::Lost])
                .unwrap_or_default(),
            ranges: ranges(choices),
            delivered: choices.number(),
            reason: "none\u{9b}31m".into(),
        }),
        3 => {
            let leased = choices.pick(&heard.leases).unwrap_or_default();
            let start = leased.range.start.saturating_add(choices.below(3) * 1000);
            M::Activate(Activate {
                lease_id: leased.lease_id,
                piece_id: PieceId(choices.below(20)),
                range: start..start.saturating_add(choices.below(100_000)),
            })
        }
        4 => M::Cancel(Cancel {
            lease_id: lease(choices, heard),
            piece_id: PieceId(choices.below(20)),
        }),
        5 => stopped(choices, heard),
        6 => M::Blamed(Blamed {
            path_id: path(choices),
            stream_id: choices.chance(50).then(|| stream(choices, heard)),
            range: choices.number()..choices.number(),
            reason: "lies\u{9b}31m".into(),
        }),
        7 => M::OffsetSyncRequest(OffsetSyncRequest {
            kwik_stream_id: stream(choices, heard),
            current_offset: choices.number(),
        }),
        8 => M::OffsetSyncResponse(OffsetSyncResponse {
            kwik_stream_id: stream(choices, heard),
            expected_offset: choices.number(),
            sync_required: choices.chance(50),
        }),
        _ => M::Uncovered(Uncovered { stream_id: stream(choices, heard), ranges: ranges(choices) }),
    }
}

fn of_streams(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let stream_id = stream(choices, heard);
    match choices.below(8) {
        0 => M::StreamReset(StreamReset {
            stream_id,
            code: choices.number(),
            final_size: choices.number(),
        }),
        1 => M::StopSending(StopSending { stream_id, code: choices.number() }),
        2 => M::MaxStreamData(MaxStreamData { stream_id, maximum: choices.number() }),
        3 => M::MaxStreams(MaxStreams {
            dir: if choices.chance(50) { Dir::Uni } else { Dir::Bi },
            maximum: choices.number(),
            first_streams: choices.number(),
        }),
        4 => M::StreamCreateNotification(StreamCreateNotification { stream_id, ..<_>::default() }),
        5 => M::Backpressure(Backpressure {
            stream_id: choices.chance(70).then_some(stream_id),
            reason: choices
                .pick(&[
                    None,
                    Some(BackpressureReason::BufferFull),
                    Some(BackpressureReason::SlowConsumer),
                    Some(BackpressureReason::WindowFull),
                    Some(BackpressureReason::MemoryPressure),
                ])
                .flatten(),
        }),
        6 => M::Ack(Ack {
            ranges: vec![choices.below(4)..=choices.below(8)],
            control_frames: choices.below(4),
        }),
        _ => M::StreamMappingUpdate(<_>::default()),
    }
}

/// The likelier ones are there twice.
const STATUSES: [PathStatus; 7] = [
    PathStatus::Active,
    PathStatus::Active,
    PathStatus::Dead,
    PathStatus::Dead,
    PathStatus::Connecting,
    PathStatus::Disconnecting,
    PathStatus::Degraded,
];

fn of_paths(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let path_id = path(choices);
    let text = "gone\u{202e}\u{7}".to_owned();
    match choices.below(8) {
        0 => M::AddPathResponse(AddPathResponse {
            path_id,
            result: if choices.chance(60) { Ok(()) } else { Err(text) },
        }),
        1 => M::RemovePathResponse(RemovePathResponse {
            path_id,
            result: if choices.chance(60) { Ok(()) } else { Err(text) },
        }),
        2 | 3 => M::PathStatusNotification(PathStatusNotification {
            path_id,
            status: choices.pick(&STATUSES).unwrap_or(PathStatus::Active),
            reason: text,
            report: None,
            ended: choices.chance(10),
        }),
        4 => M::RemovePathRequest(RemovePathRequest { path_id }),
        5 => M::PathReport(PathReport {
            path_id,
            figures: PathFigures {
                rtt: Duration::from_micros(choices.number()),
                goodput: Some(choices.number()),
                received: choices.number(),
                ..<_>::default()
            },
        }),
        6 => M::AddPathRequest(match choices.pick(&heard.grants) {
            Some(known) if choices.chance(50) => known,
            _ => add_path(choices),
        }),
        _ => M::RelayReport(RelayReport {
            sequence: choices.below(8),
            path_id,
            code: choices.number(),
        }),
    }
}

/// What a primary asks of a client.
pub(crate) fn add_path(choices: &mut Choices<'_>) -> AddPathRequest {
    let targets = ["127.0.0.1:2", "10.0.0.1:443", "[64:ff9b::7f00:1]:9", "0.0.0.0:0", "nowhere"];
    AddPathRequest {
        target_address: choices.pick(&targets).unwrap_or_default().into(),
        session_id: None,
        path_id: path(choices),
        server_key_hash: Fingerprint([3; 32]),
        grant: Bytes::from_static(b"grant"),
    }
}

fn of_sessions(choices: &mut Choices<'_>) -> M {
    match choices.below(12) {
        0..6 => M::Heartbeat(Heartbeat { sequence: choices.below(100), reply: choices.chance(50) }),
        6..8 => M::RawPacketTransmission(RawPacketTransmission {
            data: Bytes::from(vec![7; choices.below(2_000) as usize]),
            target_path_id: path(choices),
            sequence: choices.below(8),
            signature: Some(Signature([7; 64])),
        }),
        8 => M::Resume(Resume { frame_id: choices.number(), ..<_>::default() }),
        9 => M::OffsetSyncRequest(<_>::default()),
        10 => M::OffsetSyncResponse(<_>::default()),
        _ if choices.chance(5) => M::SessionClose(SessionClose {
            code: choices.number(),
            reason: Bytes::from_static(b"bye"),
        }),
        _ => M::Unknown(choices.below(1_000) as i32),
    }
}
