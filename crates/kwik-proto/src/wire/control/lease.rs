//! What is said of leases and of the pieces asked for under them.

use std::ops::Range;

use bytes::Bytes;

use crate::auth::Signature;
use crate::limits::MAX_COMMAND;
use crate::wire::WireError;
use crate::wire::convert::{
    Convert, bytes_of, known, number, range, ranges, ranges_to_proto, signature, stream_id, text,
};
use crate::wire::pb::control as pb;
use crate::{LeaseId, PathId, PieceId, StreamId};

type Result<T> = std::result::Result<T, WireError>;

/// Permission for one path to bring a range of a stream: primary to client, relayed to the path's
/// server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    /// Which lease.
    pub lease_id: LeaseId,
    /// The stream that it covers.
    pub stream_id: StreamId,
    /// What may be asked for.
    pub range: Range<u64>,
    /// Whose server writes.
    pub path_id: PathId,
    /// Opaque command for the writer's application.
    pub command: Bytes,
    /// Counts the leases and raw packets of one path together, from 1.
    pub sequence: u64,
    /// What the writer will send for it at most, repeats included.
    pub max_bytes: u64,
    /// The primary's; none for a lease of its own path.
    pub signature: Option<Signature>,
    /// Bytes from its start on that the primary sends without being asked; none on other paths.
    pub unasked: u64,
}

impl Convert for Lease {
    type Proto = pb::Lease;

    fn to_proto(&self) -> pb::Lease {
        pb::Lease {
            lease_id: self.lease_id.0,
            stream_id: self.stream_id.as_u64(),
            start: self.range.start,
            end: self.range.end,
            path_id: self.path_id.0,
            command: self.command.clone(),
            sequence: self.sequence,
            max_bytes: self.max_bytes,
            signature: bytes_of(self.signature.as_ref()),
            unasked: self.unasked,
        }
    }

    fn from_proto(m: pb::Lease) -> Result<Self> {
        WireError::check("a command", m.command.len() as u64, MAX_COMMAND)?;
        let range = range(m.start, m.end)?;
        let path_id = PathId(m.path_id);
        let most = if path_id.is_primary() { range.end - range.start } else { 0 };
        if m.unasked > most {
            return Err(WireError::Invalid("more unasked than a lease has"));
        }
        Ok(Self {
            lease_id: LeaseId(m.lease_id),
            stream_id: stream_id(m.stream_id)?,
            unasked: m.unasked,
            range,
            path_id,
            command: m.command,
            sequence: m.sequence,
            max_bytes: m.max_bytes,
            signature: signature(&m.signature, "a signature")?,
        })
    }
}

/// Primary to client: this lease shall end. Client to secondary: it is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Revoke {
    /// Which lease.
    pub lease_id: LeaseId,
}

impl Convert for Revoke {
    type Proto = pb::Revoke;

    fn to_proto(&self) -> pb::Revoke {
        pb::Revoke { lease_id: self.lease_id.0 }
    }

    fn from_proto(m: pb::Revoke) -> Result<Self> {
        Ok(Self { lease_id: LeaseId(m.lease_id) })
    }
}

/// How a lease ended, as its client says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// All of its range has arrived.
    #[default]
    Done,
    /// The stream was reset or stopped, or the lease revoked.
    Stopped,
    /// Its path died or gave it up.
    Lost,
}

/// Client to primary: how a lease ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseReport {
    /// Which lease.
    pub lease_id: LeaseId,
    /// How.
    pub outcome: LeaseOutcome,
    /// What of it is missing, in order: none when it is done.
    pub ranges: Vec<Range<u64>>,
    /// Bytes that its path brought.
    pub delivered: u64,
    /// Why its writer gave it up, in its words.
    pub reason: String,
}

impl Convert for LeaseReport {
    type Proto = pb::LeaseReport;

    fn to_proto(&self) -> pb::LeaseReport {
        let outcome = match self.outcome {
            LeaseOutcome::Done => pb::LeaseOutcome::LeaseDone,
            LeaseOutcome::Stopped => pb::LeaseOutcome::LeaseStopped,
            LeaseOutcome::Lost => pb::LeaseOutcome::LeaseLost,
        };
        pb::LeaseReport {
            lease_id: self.lease_id.0,
            outcome: outcome.into(),
            ranges: ranges_to_proto(&self.ranges),
            delivered: self.delivered,
            reason: self.reason.clone(),
        }
    }

    fn from_proto(m: pb::LeaseReport) -> Result<Self> {
        let outcome = match known(m.outcome, "a lease outcome")? {
            pb::LeaseOutcome::LeaseDone => LeaseOutcome::Done,
            pb::LeaseOutcome::LeaseStopped => LeaseOutcome::Stopped,
            pb::LeaseOutcome::LeaseLost => LeaseOutcome::Lost,
        };
        let (ranges, reason) = (ranges(m.ranges)?, text(m.reason)?);
        Ok(Self { lease_id: LeaseId(m.lease_id), outcome, ranges, delivered: m.delivered, reason })
    }
}

/// Client to writer: send this range of a lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activate {
    /// Which lease.
    pub lease_id: LeaseId,
    /// Rises by one with each of a path.
    pub piece_id: PieceId,
    /// What to send.
    pub range: Range<u64>,
}

impl Convert for Activate {
    type Proto = pb::Activate;

    fn to_proto(&self) -> pb::Activate {
        pb::Activate {
            lease_id: self.lease_id.0,
            piece_id: self.piece_id.0,
            start: self.range.start,
            end: self.range.end,
        }
    }

    fn from_proto(m: pb::Activate) -> Result<Self> {
        let (lease_id, piece_id) = (LeaseId(m.lease_id), PieceId(m.piece_id));
        Ok(Self { lease_id, piece_id, range: range(m.start, m.end)? })
    }
}

/// Client to writer: send no more of this piece. Answered by [`Stopped`], unless all was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cancel {
    /// Of which lease.
    pub lease_id: LeaseId,
    /// Which piece.
    pub piece_id: PieceId,
}

impl Convert for Cancel {
    type Proto = pb::Cancel;

    fn to_proto(&self) -> pb::Cancel {
        pb::Cancel { lease_id: self.lease_id.0, piece_id: self.piece_id.0 }
    }

    fn from_proto(m: pb::Cancel) -> Result<Self> {
        Ok(Self { lease_id: LeaseId(m.lease_id), piece_id: PieceId(m.piece_id) })
    }
}

/// Writer to client: a piece ends early, or a lease has no writer any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Of which lease.
    pub lease_id: LeaseId,
    /// Which piece; of no meaning with `abandoned`.
    pub piece_id: PieceId,
    /// Where the piece ends; of no meaning with `abandoned`.
    pub sent_until: u64,
    /// The lease is over: each of its pieces ends where its own `Stopped` says.
    pub abandoned: bool,
    /// Why, for people.
    pub reason: String,
}

impl Convert for Stopped {
    type Proto = pb::Stopped;

    fn to_proto(&self) -> pb::Stopped {
        pb::Stopped {
            lease_id: self.lease_id.0,
            piece_id: self.piece_id.0,
            sent_until: self.sent_until,
            abandoned: self.abandoned,
            reason: self.reason.clone(),
        }
    }

    fn from_proto(m: pb::Stopped) -> Result<Self> {
        Ok(Self {
            lease_id: LeaseId(m.lease_id),
            piece_id: PieceId(m.piece_id),
            sent_until: number(m.sent_until)?,
            abandoned: m.abandoned,
            reason: text(m.reason)?,
        })
    }
}

/// Client to primary: missing ranges under no live lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uncovered {
    /// Of which stream.
    pub stream_id: StreamId,
    /// What is missing, in order.
    pub ranges: Vec<Range<u64>>,
}

impl Convert for Uncovered {
    type Proto = pb::Uncovered;

    fn to_proto(&self) -> pb::Uncovered {
        let ranges = ranges_to_proto(&self.ranges);
        pb::Uncovered { stream_id: self.stream_id.as_u64(), ranges }
    }

    fn from_proto(m: pb::Uncovered) -> Result<Self> {
        Ok(Self { stream_id: stream_id(m.stream_id)?, ranges: ranges(m.ranges)? })
    }
}
