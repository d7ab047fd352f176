//! What is said of paths.

use std::time::Duration;

use bytes::Bytes;

use crate::auth::Fingerprint;
use crate::limits::MAX_GRANT;
use crate::wire::WireError;
use crate::wire::convert::{Convert, exact, known, path_id, session_id, text};
use crate::wire::pb::control as pb;
use crate::{PathId, SessionId};

type Result<T> = std::result::Result<T, WireError>;

/// Primary to client: make this path, or, when it was joined before, dial it again with this grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddPathRequest {
    /// Which path.
    pub path_id: PathId,
    /// Of which session; none when the primary does not say.
    pub session_id: Option<SessionId>,
    /// IP:port, unresolved.
    pub target_address: String,
    /// The pin: who must answer.
    pub server_key_hash: Fingerprint,
    /// What the secondary verifies.
    pub grant: Bytes,
}

impl Convert for AddPathRequest {
    type Proto = pb::AddPathRequest;

    fn to_proto(&self) -> pb::AddPathRequest {
        pb::AddPathRequest {
            target_address: self.target_address.clone(),
            session_id: self.session_id.map(|id| id.to_string()).unwrap_or_default(),
            path_id: self.path_id.0,
            server_key_hash: Bytes::copy_from_slice(&self.server_key_hash.0),
            grant: self.grant.clone(),
        }
    }

    fn from_proto(m: pb::AddPathRequest) -> Result<Self> {
        WireError::check("a grant", m.grant.len() as u64, MAX_GRANT)?;
        let what = "a server key hash";
        let pin = exact(&m.server_key_hash, what)?.ok_or(WireError::Invalid(what))?;
        let session = Some(m.session_id).filter(|id| !id.is_empty());
        Ok(Self {
            path_id: PathId(m.path_id),
            session_id: session.map(|id| session_id(&id)).transpose()?,
            target_address: text(m.target_address)?,
            server_key_hash: Fingerprint(pin),
            grant: m.grant,
        })
    }
}

/// Client to primary: what became of an [`AddPathRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddPathResponse {
    /// Which path.
    pub path_id: PathId,
    /// Why there is no such path, if so.
    pub result: std::result::Result<(), String>,
}

impl Convert for AddPathResponse {
    type Proto = pb::AddPathResponse;

    fn to_proto(&self) -> pb::AddPathResponse {
        let (success, error_message) = result_to_proto(&self.result);
        pb::AddPathResponse { success, path_id: self.path_id.to_string(), error_message }
    }

    fn from_proto(m: pb::AddPathResponse) -> Result<Self> {
        let result = result(m.success, m.error_message)?;
        Ok(Self { path_id: path_id(&m.path_id)?, result })
    }
}

/// Primary to client: leave this path once it has brought what it was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovePathRequest {
    /// Which path.
    pub path_id: PathId,
}

impl Convert for RemovePathRequest {
    type Proto = pb::RemovePathRequest;

    fn to_proto(&self) -> pb::RemovePathRequest {
        pb::RemovePathRequest { path_id: self.path_id.to_string() }
    }

    fn from_proto(m: pb::RemovePathRequest) -> Result<Self> {
        Ok(Self { path_id: path_id(&m.path_id)? })
    }
}

/// Client to primary: what became of a [`RemovePathRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovePathResponse {
    /// Which path.
    pub path_id: PathId,
    /// Why it was not removed, if so.
    pub result: std::result::Result<(), String>,
}

impl Convert for RemovePathResponse {
    type Proto = pb::RemovePathResponse;

    fn to_proto(&self) -> pb::RemovePathResponse {
        let (success, error_message) = result_to_proto(&self.result);
        pb::RemovePathResponse { success, path_id: self.path_id.to_string(), error_message }
    }

    fn from_proto(m: pb::RemovePathResponse) -> Result<Self> {
        let result = result(m.success, m.error_message)?;
        Ok(Self { path_id: path_id(&m.path_id)?, result })
    }
}

fn result(success: bool, message: String) -> Result<std::result::Result<(), String>> {
    let message = text(message)?;
    Ok(if success { Ok(()) } else { Err(message) })
}

fn result_to_proto(result: &std::result::Result<(), String>) -> (bool, String) {
    (result.is_ok(), result.as_ref().err().cloned().unwrap_or_default())
}

/// What state a path is in (2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStatus {
    /// Dialing or authenticating.
    Connecting,
    /// Carrying data.
    Active,
    /// Carrying data badly: see [`Health`](crate::path::Health).
    Degraded,
    /// Leaving in order: no new pieces.
    Disconnecting,
    /// Silent for long, or without a connection. The client tries to revive it, unless it
    /// has ended.
    Dead,
}

impl PathStatus {
    /// Whether it can carry data, well or badly.
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Active | Self::Degraded)
    }

    /// A word for it, as events, metrics and commands have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Disconnecting => "disconnecting",
            Self::Dead => "dead",
        }
    }

    fn to_proto(self) -> pb::PathStatus {
        match self {
            Self::Connecting => pb::PathStatus::Connecting,
            Self::Active => pb::PathStatus::Active,
            Self::Degraded => pb::PathStatus::Degraded,
            Self::Disconnecting => pb::PathStatus::Disconnecting,
            Self::Dead => pb::PathStatus::Dead,
        }
    }

    fn from_proto(status: pb::PathStatus) -> Self {
        match status {
            pb::PathStatus::Connecting => Self::Connecting,
            pb::PathStatus::Active => Self::Active,
            pb::PathStatus::Degraded => Self::Degraded,
            pb::PathStatus::Disconnecting => Self::Disconnecting,
            pb::PathStatus::Dead => Self::Dead,
        }
    }
}

/// How a path does, as its client sees it (2.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathFigures {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// QUIC packets that its server sent, as far as that told.
    pub sent_packets: u64,
    /// Of those, lost.
    pub lost_packets: u64,
    /// Measured delivery rate in bytes a second; none until measured.
    pub goodput: Option<u64>,
    /// Payload bytes that came over it, copies included.
    pub received: u64,
    /// Bytes asked of it that have not come yet.
    pub outstanding: u64,
    /// Since anything was heard of it.
    pub idle: Duration,
    /// Since it brought something, or was asked for something after a pause.
    pub stalled: Duration,
}

impl PathFigures {
    fn to_proto(self, path: PathId) -> pb::PathReport {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        pb::PathReport {
            path_id: path.0,
            rtt_us: micros(self.rtt),
            lost_packets: self.lost_packets,
            goodput: self.goodput,
            sent_packets: self.sent_packets,
            received: self.received,
            outstanding: self.outstanding,
            idle_us: micros(self.idle),
            stalled_us: micros(self.stalled),
        }
    }

    fn from_proto(m: &pb::PathReport) -> Self {
        Self {
            rtt: Duration::from_micros(m.rtt_us),
            sent_packets: m.sent_packets,
            lost_packets: m.lost_packets,
            goodput: m.goodput,
            received: m.received,
            outstanding: m.outstanding,
            idle: Duration::from_micros(m.idle_us),
            stalled: Duration::from_micros(m.stalled_us),
        }
    }
}

/// Client to primary: a path's state changed. Primary to client, dead: the path is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStatusNotification {
    /// Which path.
    pub path_id: PathId,
    /// Its state from now on.
    pub status: PathStatus,
    /// Why, for people.
    pub reason: String,
    /// What the client knew of the path when it changed.
    pub report: Option<PathFigures>,
    /// With [`PathStatus::Dead`]: it will not come back.
    pub ended: bool,
}

impl Convert for PathStatusNotification {
    type Proto = pb::PathStatusNotification;

    fn to_proto(&self) -> pb::PathStatusNotification {
        pb::PathStatusNotification {
            path_id: self.path_id.to_string(),
            status: self.status.to_proto().into(),
            reason: self.reason.clone(),
            report: self.report.map(|figures| figures.to_proto(self.path_id)),
            ended: self.ended,
        }
    }

    fn from_proto(m: pb::PathStatusNotification) -> Result<Self> {
        Ok(Self {
            status: PathStatus::from_proto(known(m.status, "a path status")?),
            reason: text(m.reason)?,
            path_id: path_id(&m.path_id)?,
            report: m.report.as_ref().map(PathFigures::from_proto),
            ended: m.ended,
        })
    }
}

/// Client to primary: how a path does. Server to client, behind its answer to a heartbeat: what it
/// sent over this path, and of that was lost; the other figures stay empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Which path.
    pub path_id: PathId,
    /// How it does.
    pub figures: PathFigures,
}

impl Convert for PathReport {
    type Proto = pb::PathReport;

    fn to_proto(&self) -> pb::PathReport {
        self.figures.to_proto(self.path_id)
    }

    fn from_proto(m: pb::PathReport) -> Result<Self> {
        Ok(Self { path_id: PathId(m.path_id), figures: PathFigures::from_proto(&m) })
    }
}
