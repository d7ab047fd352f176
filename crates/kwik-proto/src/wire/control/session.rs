//! What is said of a session and its connections.

use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::auth::{PublicKey, Signature};
use crate::limits::{MAX_ACK_RANGES, MAX_CREDENTIALS, MAX_RAW_PACKET, MAX_RESUME_RANGES, MAX_TEXT};
use crate::wire::convert::{
    Convert, bytes_of, count, exact, implied_path_id, number, path_id, range, session_id,
    signature, stream_count, text,
};
use crate::wire::pb::{control as pb, data};
use crate::wire::{DataOptions, WireError};
use crate::{PathId, SessionId};

type Result<T> = std::result::Result<T, WireError>;

/// First frame of every path, from its client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthenticationRequest {
    /// The session to join; none asks for a new one.
    pub session_id: Option<SessionId>,
    /// The primary's grant; for a new session what the application's authenticator takes.
    pub credentials: Bytes,
    /// Which protocol the client speaks.
    pub protocol_version: u32,
    /// The client's key of this session.
    pub client_key: Option<PublicKey>,
    /// Which of the session's paths this is.
    pub path_id: PathId,
    /// On a secondary: signature over this connection's exported keying material.
    pub proof: Option<Signature>,
    /// What the client grants from the start.
    pub limits: Option<StreamLimits>,
    /// What the client would like of the path's packets.
    pub data: DataOptions,
}

impl Convert for AuthenticationRequest {
    type Proto = pb::AuthenticationRequest;

    fn to_proto(&self) -> pb::AuthenticationRequest {
        pb::AuthenticationRequest {
            session_id: self.session_id.map(|id| id.to_string()).unwrap_or_default(),
            credentials: self.credentials.clone(),
            protocol_version: self.protocol_version,
            client_key: bytes_of(self.client_key.as_ref().map(|key| &key.0)),
            path_id: self.path_id.0,
            proof: bytes_of(self.proof.as_ref()),
            limits: self.limits.map(StreamLimits::to_proto),
            data: self.data.to_proto(),
        }
    }

    fn from_proto(m: pb::AuthenticationRequest) -> Result<Self> {
        WireError::check("credentials", m.credentials.len() as u64, MAX_CREDENTIALS)?;
        let session = Some(m.session_id).filter(|id| !id.is_empty());
        Ok(Self {
            session_id: session.map(|id| session_id(&id)).transpose()?,
            credentials: m.credentials,
            protocol_version: m.protocol_version,
            client_key: exact(&m.client_key, "a client key")?.map(PublicKey),
            path_id: PathId(m.path_id),
            proof: signature(&m.proof, "a proof")?,
            limits: m.limits.map(StreamLimits::from_proto).transpose()?,
            data: DataOptions::from_proto(m.data),
        })
    }
}

/// A server's answer to an [`AuthenticationRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticationResponse {
    /// The session, or why there is none.
    pub result: std::result::Result<SessionId, String>,
    /// What the server grants from the start.
    pub limits: Option<StreamLimits>,
    /// What the path's packets are subject to.
    pub data: DataOptions,
}

impl Convert for AuthenticationResponse {
    type Proto = pb::AuthenticationResponse;

    fn to_proto(&self) -> pb::AuthenticationResponse {
        let session = self.result.as_ref().ok();
        pb::AuthenticationResponse {
            success: self.result.is_ok(),
            session_id: session.map(ToString::to_string).unwrap_or_default(),
            error_message: self.result.as_ref().err().cloned().unwrap_or_default(),
            limits: self.limits.map(StreamLimits::to_proto),
            data: self.data.to_proto(),
        }
    }

    fn from_proto(m: pb::AuthenticationResponse) -> Result<Self> {
        let message = text(m.error_message)?;
        Ok(Self {
            result: if m.success { Ok(session_id(&m.session_id)?) } else { Err(message) },
            limits: m.limits.map(StreamLimits::from_proto).transpose()?,
            data: DataOptions::from_proto(m.data),
        })
    }
}

/// What the sender of an introduction grants its peer from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bidirectional streams that the peer may open.
    pub max_streams_bidi: u64,
    /// Unidirectional streams that the peer may open.
    pub max_streams_uni: u64,
    /// What each of them may carry.
    pub initial_max_stream_data: u64,
    /// How many of each kind may carry [`FIRST_STREAM_DATA`](crate::limits::FIRST_STREAM_DATA).
    pub first_streams: u64,
    /// What the very first of each kind may carry.
    pub initial_max_first_stream_data: u64,
}

impl StreamLimits {
    fn to_proto(self) -> pb::StreamLimits {
        pb::StreamLimits {
            max_streams_bidi: self.max_streams_bidi,
            max_streams_uni: self.max_streams_uni,
            initial_max_stream_data: self.initial_max_stream_data,
            first_streams: self.first_streams,
            initial_max_first_stream_data: self.initial_max_first_stream_data,
        }
    }

    fn from_proto(m: pb::StreamLimits) -> Result<Self> {
        Ok(Self {
            max_streams_bidi: stream_count(m.max_streams_bidi)?,
            max_streams_uni: stream_count(m.max_streams_uni)?,
            initial_max_stream_data: number(m.initial_max_stream_data)?,
            first_streams: m.first_streams,
            initial_max_first_stream_data: number(m.initial_max_first_stream_data)?,
        })
    }
}

/// An uninterpreted packet of the primary for the server at the end of a path (6.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawPacketTransmission {
    /// The packet.
    pub data: Bytes,
    /// To which path's server.
    pub target_path_id: PathId,
    /// See [`Lease::sequence`](super::Lease::sequence).
    pub sequence: u64,
    /// The primary's.
    pub signature: Option<Signature>,
}

impl Convert for RawPacketTransmission {
    type Proto = pb::RawPacketTransmission;

    fn to_proto(&self) -> pb::RawPacketTransmission {
        pb::RawPacketTransmission {
            data: self.data.clone(),
            target_path_id: self.target_path_id.to_string(),
            source_server_id: String::new(),
            sequence: self.sequence,
            signature: bytes_of(self.signature.as_ref()),
        }
    }

    fn from_proto(m: pb::RawPacketTransmission) -> Result<Self> {
        if m.data.len() > MAX_RAW_PACKET {
            return Err(WireError::RawTooLarge { found: m.data.len() as u64 });
        }
        text(m.source_server_id)?;
        Ok(Self {
            data: m.data,
            target_path_id: path_id(&m.target_path_id)?,
            sequence: m.sequence,
            signature: signature(&m.signature, "a signature")?,
        })
    }
}

/// Client to primary: what became of a raw packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayReport {
    /// Which packet.
    pub sequence: u64,
    /// Of which path.
    pub path_id: PathId,
    /// One of [`Code`](crate::Code)'s numbers, or of a later version's; 0: queued for the path.
    pub code: u64,
}

impl Convert for RelayReport {
    type Proto = pb::RelayReport;

    fn to_proto(&self) -> pb::RelayReport {
        pb::RelayReport { sequence: self.sequence, path_id: self.path_id.0, code: self.code }
    }

    fn from_proto(m: pb::RelayReport) -> Result<Self> {
        Ok(Self { sequence: m.sequence, path_id: PathId(m.path_id), code: m.code })
    }
}

/// Client to server; the answer has the same number and `reply`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Which one.
    pub sequence: u64,
    /// It is an answer.
    pub reply: bool,
}

impl Convert for Heartbeat {
    type Proto = pb::Heartbeat;

    fn to_proto(&self) -> pb::Heartbeat {
        pb::Heartbeat { sequence: self.sequence, reply: self.reply }
    }

    fn from_proto(m: pb::Heartbeat) -> Result<Self> {
        Ok(Self { sequence: m.sequence, reply: m.reply })
    }
}

/// The session ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionClose {
    /// Why: one of the application's codes, or of [`Code`](crate::Code).
    pub code: u64,
    /// Why, in words.
    pub reason: Bytes,
}

impl Convert for SessionClose {
    type Proto = pb::SessionClose;

    fn to_proto(&self) -> pb::SessionClose {
        pb::SessionClose { code: self.code, reason: self.reason.clone() }
    }

    fn from_proto(m: pb::SessionClose) -> Result<Self> {
        WireError::check("a reason", m.reason.len() as u64, MAX_TEXT)?;
        Ok(Self { code: number(m.code)?, reason: m.reason })
    }
}

/// Second frame of a connection that takes up path 0: what its sender has of the other side's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resume {
    /// The control frame that is due: so many were handled in order.
    pub frame_id: u64,
    /// Of a client: rises with each connection on which it tries.
    pub attempt: u64,
    /// Packets that arrived whole.
    pub packets: Vec<RangeInclusive<u64>>,
}

impl Convert for Resume {
    type Proto = pb::Resume;

    fn to_proto(&self) -> pb::Resume {
        let packets = self.packets.iter().map(ack_range).collect();
        pb::Resume { frame_id: self.frame_id, attempt: self.attempt, packets }
    }

    fn from_proto(m: pb::Resume) -> Result<Self> {
        count("ranges", m.packets.len(), MAX_RESUME_RANGES as u64)?;
        let packets = m.packets.into_iter().map(packet_range);
        let packets = packets.collect::<Result<_>>()?;
        Ok(Self { frame_id: m.frame_id, attempt: m.attempt, packets })
    }
}

fn ack_range(ids: &RangeInclusive<u64>) -> data::AckRange {
    data::AckRange { first: *ids.start(), last: *ids.end() }
}

fn packet_range(ids: data::AckRange) -> Result<RangeInclusive<u64>> {
    let ids = range(ids.first, ids.last)?;
    Ok(ids.start..=ids.end)
}

/// To the sender of data packets: these arrived whole. Each is named once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ack {
    /// Ids of packets; what this build sends is disjoint and ascending.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// On path 0: so many control frames were handled; 0 says nothing.
    pub control_frames: u64,
}

impl Convert for Ack {
    type Proto = data::AckFrame;

    fn to_proto(&self) -> data::AckFrame {
        data::AckFrame {
            ranges: self.ranges.iter().map(ack_range).collect(),
            control_frames: self.control_frames,
            ..Default::default()
        }
    }

    fn from_proto(m: data::AckFrame) -> Result<Self> {
        count("packets", m.acked_packet_ids.len(), MAX_ACK_RANGES as u64)?;
        count("ranges", m.ranges.len(), MAX_ACK_RANGES as u64)?;
        implied_path_id(&m.path_id)?;
        let ranges = m.ranges.into_iter().map(packet_range);
        // Packets named one by one, by who does not know ranges.
        let single = m.acked_packet_ids.into_iter().map(|id| Ok(id..=id));
        let ranges = ranges.chain(single).collect::<Result<_>>()?;
        Ok(Self { ranges, control_frames: m.control_frames })
    }
}
