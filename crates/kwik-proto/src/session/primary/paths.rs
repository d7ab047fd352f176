//! What a primary does about paths: add, remove, give up, renew, and what its client tells of them.

use std::time::{Instant, SystemTime};

use crate::auth::{Fingerprint, Grant, GrantClaims};
use crate::path::{PathEvent, PathStatus};
use crate::wire::control::{self, ControlMessage, PathFigures};
use crate::{Code, CodedError, LogCursor, PathId, limits};

use super::super::{Action, SessionEvent, Wake};
use super::renewal::Renewal;
use super::{ConnectionFigures, PrimarySession, Uncovered};

/// A secondary behind a path.
#[derive(Debug)]
pub(super) struct Edge {
    key: Fingerprint,
    /// What the client last said of it, and when.
    figures: (PathFigures, Instant),
    /// When the client's answer on its path is overdue; none while none is expected.
    answer_by: Option<Instant>,
    /// The client was silent when it was: it has had more time.
    excused: bool,
    renewal: Renewal,
}

impl Edge {
    pub(super) fn key(&self) -> Fingerprint {
        self.key
    }
}

impl PrimarySession {
    /// Has the client make a path to the secondary `edge` at `address` (IP:port),
    /// with a fresh grant (2.2). The path has ended if the client does not answer
    /// within [`limits::ANSWER_TIMEOUT`]; one that is silent then, as its link is cut, has
    /// [`limits::MAX_ANSWER_TIME`] more, and one that comes back on another connection has all of
    /// its time again.
    ///
    /// # Errors
    /// Too many paths are live, or the client has isolated that secondary.
    pub fn add_path(
        &mut self,
        address: &str,
        edge: Fingerprint,
        now: Instant,
        wall: SystemTime,
    ) -> Result<PathId, CodedError> {
        if address.len() > limits::MAX_TEXT {
            return Err(CodedError::new(Code::PathNotFound, "an address is IP:port"));
        }
        self.check_trusted(edge)?;
        let path = self.paths.add(address.to_owned(), now)?;
        let answer_by = Some(now + limits::ANSWER_TIMEOUT);
        let figures = (PathFigures::default(), now);
        let renewal = Renewal::default();
        let excused = false;
        self.edges.insert(path, Edge { key: edge, figures, answer_by, excused, renewal });
        self.request_path(path, now, wall);
        Ok(path)
    }

    /// Gives the client a fresh grant for a path, with which it is dialed again
    /// ([`Action::RenewGrant`]).
    pub fn renew_grant(&mut self, path: PathId, now: Instant, wall: SystemTime) {
        if self.paths.status(path) == Ok(PathStatus::Dead) {
            self.request_path(path, now, wall);
        }
    }

    fn request_path(&mut self, path: PathId, now: Instant, wall: SystemTime) {
        let (Some(info), Some(edge)) = (self.paths.path(path), self.edges.get(&path)) else {
            return;
        };
        let claims =
            GrantClaims { session: self.id, path, audience: edge.key, client_key: self.client.key };
        let request = control::AddPathRequest {
            path_id: path,
            session_id: Some(self.id),
            target_address: info.address.clone(),
            server_key_hash: edge.key,
            grant: Grant::issue(&self.identity, &claims, wall),
        };
        self.send(&ControlMessage::AddPathRequest(request), now);
    }

    /// Has the client leave a path once it has brought what it was asked for (2.3). It is given up
    /// if that takes longer than [`limits::ANSWER_TIMEOUT`].
    ///
    /// # Errors
    /// [`Code::PathNotFound`] or [`Code::PathDead`]; the primary's own path cannot be removed.
    pub fn remove_path(&mut self, path: PathId, now: Instant) -> Result<(), CodedError> {
        self.check_secondary(path)?;
        self.set_status(path, PathStatus::Disconnecting, "removed", None, now);
        if let Some(edge) = self.edges.get_mut(&path) {
            edge.answer_by = Some(now + limits::ANSWER_TIMEOUT);
        }
        let request = control::RemovePathRequest { path_id: path };
        self.send(&ControlMessage::RemovePathRequest(request), now);
        Ok(())
    }

    /// Gives a path up at once and for good: the client moves its pieces elsewhere (2.4).
    ///
    /// # Errors
    /// [`Code::PathNotFound`] or [`Code::PathDead`]; the primary's own path cannot be given up.
    pub fn mark_dead(&mut self, path: PathId, now: Instant) -> Result<(), CodedError> {
        self.check_secondary(path)?;
        self.give_up(path, "marked dead", now);
        Ok(())
    }

    fn give_up(&mut self, path: PathId, reason: &str, now: Instant) {
        let status = control::PathStatusNotification {
            path_id: path,
            status: PathStatus::Dead,
            reason: reason.into(),
            report: None,
            ended: true,
        };
        self.send(&ControlMessage::PathStatusNotification(status), now);
        self.end_path(path, reason, None, now);
    }

    pub(super) fn check_secondary(&self, path: PathId) -> Result<(), CodedError> {
        self.paths.status(path)?;
        if path.is_primary() {
            let context = "the primary's own path lives as long as the session";
            return Err(CodedError::new(Code::InvalidStreamRole, context));
        }
        Ok(())
    }

    fn end_path(&mut self, path: PathId, reason: &str, figures: Option<PathFigures>, now: Instant) {
        if self.paths.end(path, reason, now) {
            self.issuer.forget_path(path);
            self.edges.remove(&path);
            self.tell(path, PathStatus::Dead, reason, figures);
        }
    }

    /// Changes a path's state, and tells who listens if that is news. True when it is.
    fn set_status(
        &mut self,
        path: PathId,
        status: PathStatus,
        reason: &str,
        figures: Option<PathFigures>,
        now: Instant,
    ) -> bool {
        let news = self.paths.set(path, status, reason, now);
        if news {
            self.tell(path, status, reason, figures);
        }
        news
    }

    fn tell(
        &mut self,
        path: PathId,
        status: PathStatus,
        reason: &str,
        figures: Option<PathFigures>,
    ) {
        let (reason, ended) = (reason.to_owned(), self.paths.has_ended(path));
        let event = PathEvent { path, status, reason, figures, ended };
        self.outputs.tell(SessionEvent::Path(event.clone()));
        self.events.paths.push(event);
        self.outputs.wake(Wake::Path(path));
    }

    pub(super) fn on_path_added(&mut self, m: control::AddPathResponse, now: Instant) {
        let path = m.path_id;
        if path.is_primary() {
            return;
        }
        if let Err(reason) = m.result {
            self.end_path(path, &reason, None, now);
        } else if self.paths.status(path) == Ok(PathStatus::Connecting) {
            self.expect_no_answer(path);
            self.set_status(path, PathStatus::Active, "", None, now);
        }
    }

    pub(super) fn on_path_removed(&mut self, m: &control::RemovePathResponse, now: Instant) {
        if m.result.is_ok() && !m.path_id.is_primary() {
            self.end_path(m.path_id, "removed", None, now);
        }
    }

    pub(super) fn on_path_status(&mut self, m: &control::PathStatusNotification, now: Instant) {
        let (path, status, figures) = (m.path_id, m.status, m.report);
        if let (Some(figures), Some(edge)) = (figures, self.edges.get_mut(&path)) {
            edge.figures = (figures, now);
        }
        match status {
            PathStatus::Dead if path.is_primary() => {}
            PathStatus::Dead if m.ended => self.end_path(path, &m.reason, figures, now),
            // A path that was removed meanwhile stays so.
            _ if self.paths.status(path) == Ok(PathStatus::Disconnecting) => {}
            _ => {
                self.expect_no_answer(path);
                let news = self.set_status(path, status, &m.reason, figures, now);
                let edge = self.edges.get_mut(&path).filter(|_| status == PathStatus::Dead);
                if news && edge.is_some_and(|edge| edge.renewal.on_lost(now)) {
                    self.outputs.actions.push_back(Action::RenewGrant(path));
                }
            }
        }
    }

    fn expect_no_answer(&mut self, path: PathId) {
        if let Some(edge) = self.edges.get_mut(&path) {
            edge.answer_by = None;
        }
    }

    pub(super) fn on_path_report(&mut self, m: &control::PathReport, now: Instant) {
        let control::PathReport { path_id: path, figures } = *m;
        if let Some(edge) = self.edges.get_mut(&path) {
            edge.figures = (figures, now);
            if figures.idle <= limits::REPORT_INTERVAL {
                self.paths.on_active(path, now);
                if self.issuer.iter().next().is_some() {
                    // An edge may take long over a lease, and only the client sees what it brings.
                    self.data.moved = now;
                }
            }
        }
    }

    pub(super) fn on_uncovered(&mut self, m: control::Uncovered) {
        self.events.uncovered.push(Uncovered { stream: m.stream_id, ranges: m.ranges });
        self.outputs.wake(Wake::Uncovered);
    }

    /// How a path does: the primary's own as it sees it, others as the client last said. One of
    /// which it said nothing for some reports is idle: it tells of paths while they are at work.
    pub(super) fn figures(&self, path: PathId, now: Instant) -> PathFigures {
        let ConnectionFigures { rtt, packets } = self.connection;
        let own = PathFigures {
            rtt,
            sent_packets: packets.sent,
            lost_packets: packets.lost,
            ..Default::default()
        };
        if path.is_primary() {
            return own;
        }
        let Some(edge) = self.edges.get(&path) else { return PathFigures::default() };
        let (said, at) = edge.figures;
        let age = now.saturating_duration_since(at);
        match age > limits::REPORT_INTERVAL * limits::STALE_REPORTS || said.outstanding == 0 {
            true => PathFigures { outstanding: 0, goodput: None, ..said },
            false => said,
        }
    }

    /// A reader of what happens to paths from now on.
    #[must_use]
    pub fn path_events(&self) -> LogCursor {
        self.events.paths.subscribe()
    }

    /// The next of them ([`Wake::Path`]).
    pub fn poll_path_event(&self, cursor: &mut LogCursor) -> Option<PathEvent> {
        self.events.paths.poll(cursor)
    }

    /// A reader of what nobody may bring, from now on.
    #[must_use]
    pub fn uncovered(&self) -> LogCursor {
        self.events.uncovered.subscribe()
    }

    /// The next of it ([`Wake::Uncovered`]).
    pub fn poll_uncovered(&self, cursor: &mut LogCursor) -> Option<Uncovered> {
        self.events.uncovered.poll(cursor)
    }

    /// When the next grant falls due.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        self.edges.values().filter_map(|edge| edge.renewal.due()).min()
    }

    /// Gives the grants that are due; a path that is back needs none.
    pub(super) fn renew_due(&mut self, now: Instant) {
        for (path, edge) in &mut self.edges {
            if edge.renewal.take_due(now) {
                self.outputs.actions.push_back(Action::RenewGrant(*path));
            }
        }
    }

    /// When the next answer of the client on a path is overdue.
    pub(super) fn next_unanswered(&self) -> Option<Instant> {
        let answers = self.edges.values().filter_map(|edge| edge.answer_by);
        answers.min().filter(|_| !self.home.is_lost())
    }

    /// The client is back: what it owes answers on has the whole time again.
    pub(super) fn expect_answers_anew(&mut self, now: Instant) {
        for edge in self.edges.values_mut().filter(|edge| edge.answer_by.is_some()) {
            (edge.answer_by, edge.excused) = (Some(now + limits::ANSWER_TIMEOUT), false);
        }
    }

    /// Gives up the paths on which the client owes an answer.
    pub(super) fn give_up_unanswered(&mut self, now: Instant) {
        if self.home.is_lost() {
            return;
        }
        // What it was asked comes with all else once its link is back. To give the path up before
        // would have it dial for nothing, and refuse the next paths as too many dials.
        let heard = self.paths.path(PathId::PRIMARY).map_or(now, |info| info.last_active);
        let silent = now.saturating_duration_since(heard) >= limits::DEAD_AFTER;
        let overdue = |edge: &Edge| edge.answer_by.is_some_and(|at| at <= now);
        for edge in self.edges.values_mut().filter(|edge| overdue(edge)) {
            if silent && !std::mem::replace(&mut edge.excused, true) {
                edge.answer_by = Some(now + limits::MAX_ANSWER_TIME);
            }
        }
        let late = self.edges.iter().filter(|(_, edge)| overdue(edge)).map(|(path, _)| *path);
        let late: Vec<_> = late.collect();
        for path in late {
            self.give_up(path, "the client did not answer in time", now);
        }
    }
}
