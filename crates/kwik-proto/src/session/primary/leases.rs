//! Leases that the primary gives, and what becomes of them.

use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;

use crate::auth::{LeaseFields, sign_lease};
use crate::lease::{IssuedLease, SharedWriter};
use crate::path::PathStatus;
use crate::range::RangeSet;
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage};
use crate::{Code, CodedError, LeaseId, PathId, StreamId, limits};

use super::super::{SessionEvent, Wake};
use super::PrimarySession;

impl PrimarySession {
    /// Leases `range` of a stream to a path. On the primary's own path the writer is returned.
    ///
    /// # Errors
    /// The range was not reserved, the stream is over, the path is dead or unknown, or a bound
    /// is reached.
    pub fn lease(
        &mut self,
        stream: StreamId,
        range: Range<u64>,
        path: PathId,
        command: Bytes,
        now: Instant,
    ) -> Result<(LeaseId, Option<SharedWriter>), CodedError> {
        self.check_extent(stream, &range)?;
        self.check_leasable(path)?;
        let mut lease = self.issuer.issue(stream, path, range, command)?;
        let id = lease.lease_id;
        if path.is_primary() {
            // What a stream may carry before anything is said: an object of one flight comes as
            // early as from a plain stream.
            let send = self.streams.halves(stream).and_then(|halves| halves.send.as_ref());
            lease.unasked = send.map_or(0, |send| lock(send).take_unasked(&lease.range));
        }
        let writer = path.is_primary().then(|| self.writers.insert(&lease)).transpose()?;
        self.grant_unasked(stream);
        if !path.is_primary() {
            let fields = LeaseFields {
                lease_id: id,
                stream_id: stream,
                start: lease.range.start,
                end: lease.range.end,
                max_bytes: lease.max_bytes,
                command: &lease.command,
            };
            let signature = sign_lease(&self.identity, self.id, path, lease.sequence, &fields);
            lease.signature = Some(signature);
        }
        self.send(&ControlMessage::Lease(lease), now);
        Ok((id, writer))
    }

    /// Whether a path may be given one more lease. One that the client is still dialing may: the
    /// lease travels with the order to dial, and not a round trip behind the news of its success.
    fn check_leasable(&self, path: PathId) -> Result<(), CodedError> {
        let status = self.paths.status(path)?;
        self.check_path_trusted(path)?;
        if status == PathStatus::Connecting {
            let early = self.issuer.iter().filter(|(_, lease)| lease.path == path).count();
            if early >= limits::MAX_EARLY_LEASES {
                let context = format!("path {path} has {early} leases and is still being dialed");
                return Err(CodedError::new(Code::LimitExceeded, context));
            }
        } else if !status.is_usable() {
            let context = format!("path {path} is not active");
            return Err(CodedError::new(Code::PathDead, context));
        }
        Ok(())
    }

    /// Lets what nobody asked for leave as far as its stream's credit goes.
    pub(super) fn grant_unasked(&mut self, stream: StreamId) {
        let send = self.streams.halves(stream).and_then(|halves| halves.send.as_ref());
        let granted = send.map_or(0, |send| lock(send).max_data());
        for lease in self.writers.on_granted(stream, granted) {
            self.outputs.wake(Wake::Writer(lease));
        }
    }

    fn check_extent(&self, stream: StreamId, range: &Range<u64>) -> Result<(), CodedError> {
        let send = self.streams.halves(stream).and_then(|halves| halves.send.as_ref());
        let Some(send) = send else {
            let context = format!("{stream} is over, or not written here");
            return Err(CodedError::new(Code::StreamCreateFailed, context));
        };
        if range.is_empty() || !lock(send).is_reserved(range) {
            let context = format!("{stream}: {range:?} was not reserved");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        Ok(())
    }

    /// Takes a lease back; its outcome will be [`Stopped`](crate::lease::LeaseOutcome::Stopped).
    pub fn revoke(&mut self, lease: LeaseId, now: Instant) {
        if self.issuer.lease(lease).is_some_and(|lease| lease.outcome.is_none()) {
            self.send(&ControlMessage::Revoke(control::Revoke { lease_id: lease }), now);
        }
    }

    /// Nobody asks for this lease's outcome any more.
    pub fn forget(&mut self, lease: LeaseId) {
        self.issuer.forget(lease);
    }

    /// A lease under way, or ended with its outcome.
    #[must_use]
    pub fn issued(&self, lease: LeaseId) -> Option<&IssuedLease> {
        self.issuer.lease(lease)
    }

    /// Live leases of all paths.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, &IssuedLease)> {
        self.issuer.iter()
    }

    /// Live writers of the primary's own path.
    #[must_use]
    pub fn writers(&self) -> usize {
        self.writers.len()
    }

    /// The application gives up writing a lease of its own path.
    pub fn abandon(&mut self, lease: LeaseId, reason: &str, now: Instant) {
        for message in self.writers.abandon(lease, reason) {
            self.send(&message, now);
        }
    }

    pub(super) fn on_report(
        &mut self,
        m: &control::LeaseReport,
        now: Instant,
    ) -> Result<(), CodedError> {
        let id = m.lease_id;
        let Some(lease) = self.issuer.handle_report(m)? else { return Ok(()) };
        self.data.moved = now;
        let stream = lease.stream;
        let (of, outcome) = (Some((lease.path, stream)), m.outcome);
        self.outputs.tell(SessionEvent::Lease { of, outcome });
        // However it ended, what is not missing has been delivered.
        let mut delivered: RangeSet = std::iter::once(lease.range).collect();
        for missing in &m.ranges {
            delivered.remove(missing.clone());
        }
        let halves = self.streams.halves(stream);
        if let Some(send) = halves.and_then(|halves| halves.send.as_ref()) {
            delivered.iter().for_each(|range| lock(send).on_delivered(range));
        }
        self.streams.retire(stream);
        for answer in self.writers.handle_revoke(id).unwrap_or_default() {
            self.send(&answer, now);
        }
        self.outputs.wake(Wake::Writer(id));
        self.outputs.wake(Wake::LeaseEnded(id));
        Ok(())
    }
}
