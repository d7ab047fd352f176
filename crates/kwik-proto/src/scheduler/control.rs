//! What the primary and the writers say of leases and pieces.

use std::time::Instant;

use crate::path::PathState;
use crate::stats::Decision;
use crate::stream::{Halves, StreamTable};
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage, LeaseOutcome};
use crate::{Code, CodedError, LeaseId, PathId, PieceId, StreamId, limits};

use super::ledger::ClientLease;
use super::path::Path;
use super::{Scheduler, SchedulerEvent};

impl Scheduler {
    /// Takes a lease of the primary. `halves` is its stream, none when that is over.
    ///
    /// # Errors
    /// The primary broke the protocol.
    pub fn handle_lease(
        &mut self,
        lease: control::Lease,
        halves: Option<Halves>,
        now: Instant,
    ) -> Result<(), CodedError> {
        let (id, range) = (lease.lease_id, lease.range.clone());
        let (stream, unasked) = (lease.stream_id, lease.unasked);
        if id.is_unleased() {
            let context = format!("lease {id} has an id that is no lease's");
            return Err(CodedError::new(Code::InvalidFrame, context));
        }
        if self.ledger.lease(id).is_some() {
            let context = format!("lease {id} came twice");
            return Err(CodedError::new(Code::StreamMappingConflict, context));
        }
        if range.is_empty() || range.end > limits::MAX_OFFSET {
            let context = format!("lease {id} of {range:?} is no range of a stream");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        if self.ledger.leases() >= limits::MAX_LEASES {
            return Err(CodedError::new(Code::LimitExceeded, "too many leases"));
        }
        let Some(recv) = halves.and_then(|halves| halves.recv) else {
            // The stream is over, and the lease came late: nothing of it is missing, and what its
            // writer sent unasked overtook it.
            self.report(id, LeaseOutcome::Done, Vec::new(), unasked);
            return Ok(());
        };
        if lock(&recv).final_size().is_some_and(|size| range.end > size) {
            let context = format!("lease {id} of {range:?} lies beyond the end of {stream}");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        let (failed, complete) = {
            let recv = lock(&recv);
            (recv.has_failed(), recv.is_complete())
        };
        if complete {
            self.ledger.charges.on_unasked(unasked);
            let outcome = if failed { LeaseOutcome::Stopped } else { LeaseOutcome::Done };
            self.report(id, outcome, Vec::new(), unasked);
            return Ok(());
        }
        let path = lease.path_id;
        let usable = self.state(path).is_some_and(PathState::takes_leases);
        if let Some(joining) = self.paths.get_mut(&path).filter(|path| path.state.is_joining()) {
            joining.early.retain(|early| self.ledger.lease(early.lease_id).is_some());
            if joining.early.len() >= limits::MAX_EARLY_LEASES {
                let context = format!("too many leases for path {path} before it is a path");
                return Err(CodedError::new(Code::LimitExceeded, context));
            }
        }
        let budget = lease.max_bytes.min(limits::lease_budget(range.end - range.start));
        let lease_here = ClientLease::new(stream, path, range, budget);
        if !self.ledger.is_leased(path)
            && let Some(owner) = self.paths.get_mut(&path)
        {
            owner.schedule.live.on_leased(now);
        }
        let added = self.ledger.add_lease(id, lease_here, recv)?;
        self.note(added);
        self.on_leased(path, stream, now);
        if usable && path.is_primary() {
            self.expect(id, (path, stream), unasked, now);
        } else if usable {
            // At once: relays of one path keep the order in which the primary numbered them.
            self.events.push(SchedulerEvent::Send(path, ControlMessage::Lease(lease)));
        } else if let Some(joining) = self.joining(path) {
            joining.early.push(lease);
        } else {
            self.ledger.charges.on_unasked(unasked);
            self.end_lease(id, LeaseOutcome::Lost, now);
            return Ok(());
        }
        self.end_done_leases(stream, None, now);
        self.cover(stream, now);
        Ok(())
    }

    /// Who may bring it may take as long as ever. Of paths that there are not, nothing is kept.
    fn on_leased(&mut self, path: PathId, stream: StreamId, now: Instant) {
        if self.paths.contains_key(&path)
            && let Some(fill) = self.ledger.fill_mut(stream)
        {
            fill.brought.insert(path, now);
        }
    }

    /// A path that its client is still dialing.
    fn joining(&mut self, path: PathId) -> Option<&mut Path> {
        let path = self.paths.get_mut(&path).map(Box::as_mut);
        path.filter(|path| path.state.is_joining())
    }

    /// The primary sends so much of its own lease without being asked.
    fn expect(
        &mut self,
        id: LeaseId,
        (path, stream): (PathId, StreamId),
        unasked: u64,
        now: Instant,
    ) {
        let Some(owner) = self.paths.get_mut(&path) else { return };
        let due = |len| now + owner.schedule.model.arrival(len, now);
        let (len, clipped) = self.ledger.expect(id, unasked, due);
        if len > 0 {
            owner.decisions.note(stream, Decision::Unasked);
            owner.schedule.on_activated(len, now);
        }
        if clipped {
            // This comes before any credit beyond: the writer goes no further.
            let cancel = control::Cancel { lease_id: id, piece_id: PieceId::unasked(id) };
            self.events.push(SchedulerEvent::Send(path, ControlMessage::Cancel(cancel)));
        }
    }

    /// The primary takes a lease back.
    pub fn handle_revoke(&mut self, id: LeaseId, now: Instant) {
        self.end_lease(id, LeaseOutcome::Stopped, now);
    }

    /// A writer stopped a piece, or gave a lease up.
    ///
    /// # Errors
    /// The writer broke the protocol: its path is to be closed.
    pub fn handle_stopped(
        &mut self,
        path: PathId,
        m: &control::Stopped,
        streams: &mut StreamTable,
        now: Instant,
    ) -> Result<(), CodedError> {
        self.on_alive(path, now);
        if !m.abandoned {
            return self.stop_piece(path, m.piece_id, m.sent_until, streams, now);
        }
        let (closed, changed) = self.ledger.close_lease(path, m.lease_id);
        self.note(changed);
        if closed {
            self.end_if_spent(m.lease_id, now);
        }
        Ok(())
    }

    fn stop_piece(
        &mut self,
        path: PathId,
        piece: PieceId,
        sent_until: u64,
        streams: &mut StreamTable,
        now: Instant,
    ) -> Result<(), CodedError> {
        let (stopped, changed) = self.ledger.stop(path, piece, sent_until)?;
        self.note(changed);
        let Some(stopped) = stopped else { return Ok(()) };
        let Some(owner) = self.paths.get_mut(&path) else { return Ok(()) };
        let mut returned = false;
        if stopped.live {
            owner.schedule.model.on_released(stopped.left);
            // Who gives a lease up, or goes on elsewhere with a secondary stream, may.
            let lease = self.ledger.lease(stopped.lease);
            let asked = !path.is_primary() || piece != PieceId::unasked(stopped.lease);
            if asked && lease.is_some_and(|lease| !lease.closing && !lease.mapped) {
                returned = owner.schedule.live.on_returned(now);
                let decision = if returned { Decision::Lost } else { Decision::Returned };
                owner.decisions.note(stopped.stream, decision);
            }
        } else {
            owner.schedule.model.on_dropped(stopped.left);
        }
        self.on_finished(stopped.finished.as_slice(), now);
        if returned {
            self.end_lease(stopped.lease, LeaseOutcome::Lost, now);
        }
        self.forget_if_idle(stopped.stream, streams);
        Ok(())
    }
}
