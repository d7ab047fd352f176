//! The bounds of every field that a peer controls, in one place.

use super::control::ControlMessage;
use super::pb::control::{
    AddPathRequest, AuthenticationRequest, AuthenticationResponse, BackpressureReason, ByteRange,
    Lease, LeaseOutcome, PathStatus, PathStatusNotification, RawPacketTransmission, Resume,
    StreamLimits,
};
use super::pb::data::AckFrame;
use super::pb::metadata::{MappingOperation, StreamMappingUpdate};
use super::pb::secondary::{SecondaryStreamClose, SecondaryStreamData, SecondaryStreamOpen};
use super::{SecondaryEvent, WireError};
use crate::limits::{
    MAX_ACK_RANGES, MAX_COMMAND, MAX_CREDENTIALS, MAX_GAPS, MAX_GRANT, MAX_OFFSET,
    MAX_PACKET_PAYLOAD, MAX_RAW_PACKET, MAX_STREAMS, MAX_TEXT,
};

type Result = std::result::Result<(), WireError>;

/// An Ed25519 public key, or a SHA-256.
const KEY: usize = 32;
/// An Ed25519 signature.
const SIGNATURE: usize = 64;
/// Streams that can be open at once: both sides', both directions.
const MAX_OPEN_STREAMS: u64 = 4 * MAX_STREAMS;

/// Refuses a message with a field out of its bounds.
pub(super) fn control(message: &ControlMessage) -> Result {
    use ControlMessage as M;
    match message {
        M::AddPathRequest(m) => add_path(m),
        M::AddPathResponse(m) => texts(&[&m.path_id, &m.error_message]),
        M::RemovePathRequest(m) => texts(&[&m.path_id]),
        M::RemovePathResponse(m) => texts(&[&m.path_id, &m.error_message]),
        M::PathStatusNotification(m) => path_status(m),
        M::AuthenticationRequest(m) => authentication(m),
        M::AuthenticationResponse(m) => authenticated(m),
        M::StreamCreateNotification(m) => {
            number(m.logical_stream_id)?;
            text(&m.path_id)
        }
        M::RawPacketTransmission(m) => raw_packet(m),
        M::Lease(m) => lease(m),
        M::LeaseReport(m) => {
            known(LeaseOutcome::try_from(m.outcome), "a lease outcome")?;
            text(&m.reason)?;
            ranges(&m.ranges)
        }
        M::Activate(m) => range(m.start, m.end),
        M::Stopped(m) => {
            number(m.sent_until)?;
            text(&m.reason)
        }
        M::Uncovered(m) => {
            number(m.stream_id)?;
            ranges(&m.ranges)
        }
        M::StreamReset(m) => numbers(&[m.stream_id, m.code, m.final_size]),
        M::StopSending(m) => numbers(&[m.stream_id, m.code]),
        M::MaxStreams(m) => stream_count(m.maximum),
        M::MaxStreamData(m) => numbers(&[m.stream_id, m.maximum]),
        M::Resume(m) => resume(m),
        M::Backpressure(m) => {
            known(BackpressureReason::try_from(m.reason), "a reason")?;
            number(m.stream_id.unwrap_or_default())
        }
        M::SessionClose(m) => {
            number(m.code)?;
            WireError::check("a reason", m.reason.len() as u64, MAX_TEXT)
        }
        M::OffsetSyncRequest(m) => {
            numbers(&[m.kwik_stream_id, m.current_offset])?;
            text(&m.requesting_path_id)
        }
        M::OffsetSyncResponse(m) => numbers(&[m.kwik_stream_id, m.expected_offset]),
        M::StreamMappingUpdate(m) => mapping(m),
        M::Ack(m) => ack(m),
        // Counters and identifiers alone, which are looked up and index nothing.
        M::Revoke(_) | M::Cancel(_) | M::RelayReport(_) | M::Heartbeat(_) => Ok(()),
        M::PathReport(_) | M::Unknown(_) => Ok(()),
    }
}

/// A raw packet, on the control stream or on a raw one.
pub(super) fn raw_packet(m: &RawPacketTransmission) -> Result {
    WireError::check("a raw packet", m.data.len() as u64, MAX_RAW_PACKET)?;
    exact(&m.signature, SIGNATURE, "a signature")?;
    texts(&[&m.target_path_id, &m.source_server_id])
}

/// What travels on a secondary stream.
pub(super) fn secondary(event: &SecondaryEvent) -> Result {
    match event {
        SecondaryEvent::Open(SecondaryStreamOpen {
            secondary_stream_id,
            target_kwik_stream_id,
            initial_offset,
            source_path_id,
            ..
        }) => {
            numbers(&[*secondary_stream_id, *target_kwik_stream_id, *initial_offset])?;
            text(source_path_id)
        }
        SecondaryEvent::Data(SecondaryStreamData {
            secondary_stream_id,
            kwik_stream_id,
            offset,
            data,
            source_path_id,
            ..
        }) => {
            numbers(&[*secondary_stream_id, *kwik_stream_id])?;
            WireError::check("data", data.len() as u64, MAX_PACKET_PAYLOAD)?;
            extent(*offset, data.len() as u64)?;
            text(source_path_id)
        }
        SecondaryEvent::Close(SecondaryStreamClose {
            secondary_stream_id,
            kwik_stream_id,
            reason,
            final_offset,
            ..
        }) => {
            numbers(&[*secondary_stream_id, *kwik_stream_id, *final_offset])?;
            text(reason)
        }
        SecondaryEvent::Update(update) => mapping(update),
        SecondaryEvent::Unknown(_) => Ok(()),
    }
}

/// A number that QUIC's 62 bits must hold: stream ids, offsets, error codes.
pub(super) fn number(value: u64) -> Result {
    if value > MAX_OFFSET { Err(WireError::Invalid("a number over 62 bits")) } else { Ok(()) }
}

/// `[offset, offset + len)` lies within what a stream can hold.
pub(super) fn extent(offset: u64, len: u64) -> Result {
    match offset.checked_add(len) {
        Some(end) => number(end),
        None => Err(WireError::Invalid("an offset")),
    }
}

fn add_path(m: &AddPathRequest) -> Result {
    exact(&m.server_key_hash, KEY, "a server key hash")?;
    WireError::check("a grant", m.grant.len() as u64, MAX_GRANT)?;
    texts(&[&m.target_address, &m.session_id])
}

fn authentication(m: &AuthenticationRequest) -> Result {
    WireError::check("credentials", m.credentials.len() as u64, MAX_CREDENTIALS)?;
    exact(&m.client_key, KEY, "a client key")?;
    exact(&m.proof, SIGNATURE, "a proof")?;
    stream_limits(m.limits.as_ref())?;
    text(&m.session_id)
}

fn authenticated(m: &AuthenticationResponse) -> Result {
    stream_limits(m.limits.as_ref())?;
    texts(&[&m.session_id, &m.error_message])
}

fn path_status(m: &PathStatusNotification) -> Result {
    known(PathStatus::try_from(m.status), "a path status")?;
    texts(&[&m.path_id, &m.reason])
}

fn mapping(m: &StreamMappingUpdate) -> Result {
    known(MappingOperation::try_from(m.operation), "an operation")?;
    numbers(&[m.secondary_stream_id, m.kwik_stream_id, m.offset])?;
    text(&m.path_id)
}

fn lease(m: &Lease) -> Result {
    number(m.stream_id)?;
    range(m.start, m.end)?;
    WireError::check("a command", m.command.len() as u64, MAX_COMMAND)?;
    exact(&m.signature, SIGNATURE, "a signature")
}

fn resume(m: &Resume) -> Result {
    count("resumed streams", m.streams.len(), MAX_OPEN_STREAMS)?;
    m.streams.iter().try_for_each(|stream| {
        numbers(&[stream.stream_id, stream.final_size])?;
        ranges(&stream.received)
    })
}

fn stream_limits(limits: Option<&StreamLimits>) -> Result {
    limits.map_or(Ok(()), |limits| {
        stream_count(limits.max_streams_bidi)?;
        stream_count(limits.max_streams_uni)?;
        numbers(&[limits.initial_max_stream_data, limits.initial_max_first_stream_data])
    })
}

/// The highest id must fit 62 bits (RFC 9000 section 4.6).
fn stream_count(streams: u64) -> Result {
    if streams > 1 << 60 { Err(WireError::Invalid("a number of streams")) } else { Ok(()) }
}

fn ack(m: &AckFrame) -> Result {
    count("packets", m.acked_packet_ids.len(), MAX_ACK_RANGES as u64)?;
    count("ranges", m.ranges.len(), MAX_ACK_RANGES as u64)?;
    m.ranges.iter().try_for_each(|r| range(r.first, r.last))?;
    text(&m.path_id)
}

fn numbers(values: &[u64]) -> Result {
    values.iter().try_for_each(|value| number(*value))
}

fn range(start: u64, end: u64) -> Result {
    if start > end { Err(WireError::Invalid("a range")) } else { number(end) }
}

fn ranges(ranges: &[ByteRange]) -> Result {
    count("ranges", ranges.len(), MAX_GAPS as u64)?;
    ranges.iter().try_for_each(|r| range(r.start, r.end))
}

fn count(what: &'static str, found: usize, limit: u64) -> Result {
    let found = found as u64;
    if found > limit { Err(WireError::TooLarge { what, found, limit }) } else { Ok(()) }
}

fn text(text: &str) -> Result {
    WireError::check("a text", text.len() as u64, MAX_TEXT)
}

fn texts(texts: &[&str]) -> Result {
    texts.iter().try_for_each(|t| text(t))
}

/// Absent, or of the one length that its algorithm has.
fn exact(bytes: &[u8], length: usize, what: &'static str) -> Result {
    if bytes.is_empty() || bytes.len() == length { Ok(()) } else { Err(WireError::Invalid(what)) }
}

/// Generated accessors read an unknown value as the first one, which may mean success.
fn known<T, E>(value: std::result::Result<T, E>, what: &'static str) -> Result {
    value.map(drop).map_err(|_| WireError::Invalid(what))
}
