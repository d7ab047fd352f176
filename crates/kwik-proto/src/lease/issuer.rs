//! The primary's side of leases: issuing, and what the client reports of them.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::wire::{clip, control};
use crate::{Code, CodedError, LeaseId, PathId, StreamId, limits};

/// How a lease ended, as the client reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// All of its range has arrived, from this path or others.
    Done,
    /// The stream was reset or stopped, or the lease revoked.
    Stopped,
    /// Its path died or gave it up; these ranges are missing.
    Lost(Vec<Range<u64>>),
}

/// A lease under way.
#[derive(Debug, Clone)]
pub struct IssuedLease {
    /// The stream it fills.
    pub stream: StreamId,
    /// The path that may write.
    pub path: PathId,
    /// What it may write.
    pub range: Range<u64>,
    /// Bytes its path has brought, once it ended.
    pub delivered: u64,
    /// How it ended; none while it lives.
    pub outcome: Option<LeaseOutcome>,
    /// Why its path gave it up, in the path's words as the client relays them; mostly empty.
    pub reason: String,
    forgotten: bool,
}

/// All leases of a session, at its primary.
#[derive(Debug, Default)]
pub struct LeaseIssuer {
    leases: BTreeMap<LeaseId, IssuedLease>,
    next: u64,
    /// Sequence of signed relays, per path.
    sequences: BTreeMap<PathId, u64>,
}

impl LeaseIssuer {
    /// The next sequence number of a path's signed relays.
    pub fn next_sequence(&mut self, path: PathId) -> u64 {
        let sequence = self.sequences.entry(path).or_default();
        *sequence += 1;
        *sequence
    }

    /// Nothing more is relayed to a path: its id will not be used again.
    pub fn forget_path(&mut self, path: PathId) {
        self.sequences.remove(&path);
    }

    /// Makes an unsigned lease.
    ///
    /// # Errors
    /// The command is too long, or too many leases are live.
    pub fn issue(
        &mut self,
        stream: StreamId,
        path: PathId,
        range: Range<u64>,
        command: Bytes,
    ) -> Result<control::Lease, CodedError> {
        if command.len() > limits::MAX_COMMAND {
            let context = format!("a lease's command is at most {} bytes", limits::MAX_COMMAND);
            return Err(CodedError::new(Code::PacketTooLarge, context));
        }
        if self.leases.len() >= limits::MAX_LEASES {
            let context = format!("{} leases are live", limits::MAX_LEASES);
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        let id = LeaseId(self.next);
        self.next += 1;
        let lease = control::Lease {
            lease_id: id,
            stream_id: stream,
            range: range.clone(),
            path_id: path,
            command,
            sequence: self.next_sequence(path),
            max_bytes: limits::lease_budget(range.end - range.start),
            signature: None,
            unasked: 0,
        };
        let issued = IssuedLease {
            stream,
            path,
            range,
            delivered: 0,
            outcome: None,
            reason: String::new(),
            forgotten: false,
        };
        self.leases.insert(id, issued);
        Ok(lease)
    }

    /// Notes a report; the lease it ended, none when it was unknown or had ended.
    ///
    /// # Errors
    /// The reported ranges lie outside the lease.
    pub fn handle_report(
        &mut self,
        report: &control::LeaseReport,
    ) -> Result<Option<IssuedLease>, CodedError> {
        let id = report.lease_id;
        let Some(lease) = self.leases.get_mut(&id) else { return Ok(None) };
        if lease.outcome.is_some() {
            return Ok(None);
        }
        let ranges = &report.ranges;
        if ranges.iter().any(|r| r.start < lease.range.start || r.end > lease.range.end) {
            return Err(CodedError::new(Code::OffsetMismatch, "a report outside its lease"));
        }
        lease.delivered = report.delivered;
        clip(&report.reason).clone_into(&mut lease.reason);
        lease.outcome = Some(match report.outcome {
            control::LeaseOutcome::Done => LeaseOutcome::Done,
            control::LeaseOutcome::Stopped => LeaseOutcome::Stopped,
            control::LeaseOutcome::Lost => LeaseOutcome::Lost(ranges.clone()),
        });
        let ended = lease.clone();
        if ended.forgotten {
            self.leases.remove(&id);
        }
        Ok(Some(ended))
    }

    /// A lease under way, or ended and not yet taken.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<&IssuedLease> {
        self.leases.get(&id)
    }

    /// Nobody asks for the outcome any more: an ended lease goes at once, a live one when it ends.
    pub fn forget(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.forgotten = true;
        if lease.outcome.is_some() {
            self.leases.remove(&id);
        }
    }

    /// Live leases.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, &IssuedLease)> {
        self.leases.iter().filter(|(_, l)| l.outcome.is_none()).map(|(id, l)| (*id, l))
    }
}
