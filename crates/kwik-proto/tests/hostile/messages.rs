//! Control messages that are nearly right.

use std::cell::Cell;

use bytes::Bytes;
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::pb::control as pb;
use kwik_proto::wire::pb::data::{AckFrame, AckRange};
use kwik_proto::{Dir, Side, StreamId};

use crate::choices::Choices;

/// What a victim has said, which its peer answers to.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) leases: Vec<pb::Lease>,
    pub(crate) activations: Vec<pb::Activate>,
    /// What the victim opened or was told to open last.
    pub(crate) streams: Vec<u64>,
    pub(crate) grants: Vec<pb::AddPathRequest>,
    /// Messages so far: numbers that rise.
    told: Cell<u64>,
}

impl Heard {
    /// The next id of a piece.
    fn pieces(&self) -> u64 {
        self.told.set(self.told.get() + 1);
        self.told.get()
    }

    pub(crate) fn note(&mut self, message: &M) {
        match message {
            M::Lease(m) => keep(&mut self.leases, m.clone()),
            M::Activate(m) => keep(&mut self.activations, *m),
            M::AddPathRequest(m) => keep(&mut self.grants, m.clone()),
            M::StreamCreateNotification(m) => keep(&mut self.streams, m.logical_stream_id),
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

pub(crate) fn stream(choices: &mut Choices<'_>, heard: &Heard) -> u64 {
    if choices.chance(40)
        && let Some(known) = choices.pick(&heard.streams)
    {
        return known;
    }
    let side = if choices.chance(50) { Side::Client } else { Side::Server };
    let dir = if choices.chance(50) { Dir::Bi } else { Dir::Uni };
    let index = if choices.chance(95) { choices.below(6) } else { choices.number() >> 2 };
    StreamId::new(side, dir, index.min((1 << 60) - 1)).as_u64()
}

fn range(choices: &mut Choices<'_>) -> pb::ByteRange {
    let (start, len) = (choices.number(), choices.number());
    pb::ByteRange { start, end: start.saturating_add(len).min((1 << 62) - 1) }
}

fn ranges(choices: &mut Choices<'_>) -> Vec<pb::ByteRange> {
    (0..choices.below(4)).map(|_| range(choices)).collect()
}

fn path(choices: &mut Choices<'_>) -> u32 {
    if choices.chance(95) { choices.below(4) as u32 } else { choices.number() as u32 }
}

fn lease(choices: &mut Choices<'_>, heard: &Heard) -> u64 {
    match choices.pick(&heard.leases) {
        Some(lease) if choices.chance(80) => lease.lease_id,
        _ => choices.below(8),
    }
}

/// An answer to an activation, most often one that fits.
pub(crate) fn stopped(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let asked = choices.pick(&heard.activations).unwrap_or_default();
    let sent_until = match choices.below(200) {
        0 => choices.number(),
        1..190 => asked.start,
        _ => asked.end,
    };
    M::Stopped(pb::Stopped {
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
    let own = StreamId::new(Side::Client, Dir::Uni, choices.below(6)).as_u64();
    match (choices.below(12), known) {
        (0, Some(stream_id)) => {
            M::MaxStreamData(pb::MaxStreamData { stream_id, maximum: choices.below(1 << 30) })
        }
        (1, Some(stream_id)) if choices.chance(5) => {
            M::StopSending(pb::StopSending { stream_id, code: 7 })
        }
        (2, _) => M::StreamCreateNotification(pb::StreamCreateNotification {
            logical_stream_id: own,
            ..<_>::default()
        }),
        (3, _) => M::StreamReset(pb::StreamReset { stream_id: own, code: 1, final_size: 30_000 }),
        (4, _) => M::MaxStreams(pb::MaxStreams {
            unidirectional: choices.chance(70),
            maximum: choices.below(200),
            first_streams: choices.below(20),
        }),
        (5, _) => report(choices, heard),
        (6, _) => M::Backpressure(pb::Backpressure { stream_id: known, reason: 1 }),
        (7, _) => to_secondary(choices, heard),
        (8, _) => M::Heartbeat(pb::Heartbeat { sequence: 3, reply: choices.chance(20) }),
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
    let path_id = 1 + choices.below(2);
    let state = |status| {
        M::PathStatusNotification(pb::PathStatusNotification {
            path_id: path_id.to_string(),
            status,
            ..<_>::default()
        })
    };
    (0..1 + choices.below(3))
        .map(|_| match choices.below(4) {
            0 => state(choices.pick(&[0, 1, 1, 3, 16]).unwrap_or_default()),
            _ => to_primary(choices, heard),
        })
        .collect()
}

/// An end of a lease, as its stream may have brought it.
fn report(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let lease = choices.pick(&heard.leases).unwrap_or_default();
    let half = pb::ByteRange { start: lease.start + (lease.end - lease.start) / 2, end: lease.end };
    let ranges = if choices.chance(50) && half.start < half.end { vec![half] } else { Vec::new() };
    let outcome = i32::from(!ranges.is_empty());
    M::LeaseReport(pb::LeaseReport { lease_id: lease.lease_id, outcome, ranges, delivered: 0 })
}

/// What a client may say to a secondary, and of a lease of its own path to its primary.
pub(crate) fn to_secondary(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let lease = choices.pick(&heard.leases).unwrap_or_default();
    let len = lease.end - lease.start;
    match choices.below(12) {
        0..6 => {
            let start = lease.start + choices.below(len + 1) / 1000 * 1000;
            let end = (start + 1 + choices.below(50_000)).min(lease.end).max(start);
            // They rise.
            let piece_id = heard.pieces();
            M::Activate(pb::Activate { lease_id: lease.lease_id, piece_id, start, end })
        }
        6 => M::Cancel(pb::Cancel {
            lease_id: lease.lease_id,
            piece_id: choices.below(heard.pieces()),
        }),
        7 => M::Ack(AckFrame::default()),
        8 => M::Unknown(1_000),
        _ => M::Heartbeat(pb::Heartbeat { sequence: 1, reply: choices.chance(30) }),
    }
}

fn of_leases(choices: &mut Choices<'_>, heard: &Heard) -> M {
    match choices.below(7) {
        0 => M::Lease(pb::Lease {
            lease_id: choices.below(8),
            stream_id: stream(choices, heard),
            start: choices.number(),
            end: choices.number(),
            path_id: path(choices),
            sequence: choices.below(8),
            max_bytes: choices.number(),
            command: Bytes::from(vec![1; choices.below(100) as usize]),
            signature: Bytes::from_static(&[7; 64]),
        }),
        1 => M::Revoke(pb::Revoke { lease_id: lease(choices, heard) }),
        2 => M::LeaseReport(pb::LeaseReport {
            lease_id: lease(choices, heard),
            outcome: choices.below(4) as i32,
            ranges: ranges(choices),
            delivered: choices.number(),
        }),
        3 => {
            let leased = choices.pick(&heard.leases).unwrap_or_default();
            let start = leased.start.saturating_add(choices.below(3) * 1000);
            M::Activate(pb::Activate {
                lease_id: leased.lease_id,
                piece_id: choices.below(20),
                start,
                end: start.saturating_add(choices.below(100_000)),
            })
        }
        4 => M::Cancel(pb::Cancel { lease_id: lease(choices, heard), piece_id: choices.below(20) }),
        5 => stopped(choices, heard),
        _ => M::Uncovered(pb::Uncovered {
            stream_id: stream(choices, heard),
            ranges: ranges(choices),
        }),
    }
}

fn of_streams(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let stream_id = stream(choices, heard);
    match choices.below(8) {
        0 => M::StreamReset(pb::StreamReset {
            stream_id,
            code: choices.number(),
            final_size: choices.number(),
        }),
        1 => M::StopSending(pb::StopSending { stream_id, code: choices.number() }),
        2 => M::MaxStreamData(pb::MaxStreamData { stream_id, maximum: choices.number() }),
        3 => M::MaxStreams(pb::MaxStreams {
            unidirectional: choices.chance(50),
            maximum: choices.number(),
            first_streams: choices.number(),
        }),
        4 => M::StreamCreateNotification(pb::StreamCreateNotification {
            logical_stream_id: stream_id,
            ..<_>::default()
        }),
        5 => M::Backpressure(pb::Backpressure {
            stream_id: choices.chance(70).then_some(stream_id),
            reason: choices.below(6) as i32,
        }),
        6 => M::Ack(AckFrame {
            ranges: vec![AckRange { first: choices.below(4), last: choices.below(8) }],
            ..<_>::default()
        }),
        _ => M::StreamMappingUpdate(<_>::default()),
    }
}

fn of_paths(choices: &mut Choices<'_>, heard: &Heard) -> M {
    let path_id = path(choices);
    let text = "gone\u{202e}\u{7}".to_owned();
    match choices.below(8) {
        0 => M::AddPathResponse(pb::AddPathResponse {
            success: choices.chance(60),
            path_id: path_id.to_string(),
            error_message: text,
        }),
        1 => M::RemovePathResponse(pb::RemovePathResponse {
            success: choices.chance(60),
            path_id: path_id.to_string(),
            error_message: text,
        }),
        2 | 3 => M::PathStatusNotification(pb::PathStatusNotification {
            path_id: path_id.to_string(),
            status: choices.pick(&[0, 0, 1, 1, 2, 3, 16]).unwrap_or_default(),
            reason: text,
            report: None,
            ended: choices.chance(10),
        }),
        4 => M::RemovePathRequest(pb::RemovePathRequest { path_id: path_id.to_string() }),
        5 => M::PathReport(pb::PathReport {
            path_id,
            rtt_us: choices.number(),
            goodput: Some(choices.number()),
            received: choices.number(),
            ..<_>::default()
        }),
        6 => M::AddPathRequest(match choices.pick(&heard.grants) {
            Some(known) if choices.chance(50) => known,
            _ => add_path(choices),
        }),
        _ => M::RelayReport(pb::RelayReport {
            sequence: choices.below(8),
            path_id,
            code: choices.number(),
        }),
    }
}

/// What a primary asks of a client.
pub(crate) fn add_path(choices: &mut Choices<'_>) -> pb::AddPathRequest {
    let targets = ["127.0.0.1:2", "10.0.0.1:443", "[64:ff9b::7f00:1]:9", "0.0.0.0:0", "nowhere"];
    pb::AddPathRequest {
        target_address: choices.pick(&targets).unwrap_or_default().into(),
        session_id: String::new(),
        path_id: path(choices),
        server_key_hash: Bytes::from_static(&[3; 32]),
        grant: Bytes::from_static(b"grant"),
    }
}

fn of_sessions(choices: &mut Choices<'_>) -> M {
    match choices.below(12) {
        0..6 => {
            M::Heartbeat(pb::Heartbeat { sequence: choices.below(100), reply: choices.chance(50) })
        }
        6..8 => M::RawPacketTransmission(pb::RawPacketTransmission {
            data: Bytes::from(vec![7; choices.below(2_000) as usize]),
            target_path_id: path(choices).to_string(),
            source_server_id: String::new(),
            sequence: choices.below(8),
            signature: Bytes::from_static(&[7; 64]),
        }),
        8 => M::Resume(pb::Resume { frame_id: choices.number(), streams: Vec::new() }),
        9 => M::OffsetSyncRequest(<_>::default()),
        10 => M::OffsetSyncResponse(<_>::default()),
        _ if choices.chance(5) => M::SessionClose(pb::SessionClose {
            code: choices.number(),
            reason: Bytes::from_static(b"bye"),
        }),
        _ => M::Unknown(choices.below(1_000) as i32),
    }
}
