//! A path as the scheduler sees it: its model, whether it lives, and what it was asked for.

use std::time::{Duration, Instant};

use crate::path::{PathInput, PathState};
use crate::wire::control;
use crate::{PathId, PieceId, StreamId, limits};

use super::decisions::Decisions;
use super::liveness::Liveness;
use super::model::PathModel;

/// One path's model and liveness, in step.
#[derive(Debug)]
pub struct PathSchedule {
    pub(super) model: PathModel,
    pub(super) live: Liveness,
}

impl PathSchedule {
    /// A path of which nothing is known.
    pub(super) fn new(now: Instant) -> Self {
        Self { model: PathModel::new(now), live: Liveness::new(now) }
    }

    pub(super) fn on_activated(&mut self, bytes: u64, now: Instant) {
        if self.model.outstanding() == 0 {
            self.live.on_asked(now);
        }
        self.model.on_activated(bytes, now);
    }

    /// Bytes came, `asked` of them outstanding until now. True when that is worth something.
    pub(super) fn on_received(&mut self, bytes: u64, asked: u64, now: Instant) -> bool {
        self.model.on_received(bytes, asked, now);
        self.live.on_received(bytes, now)
    }

    /// What the path's connection has received in all, in bytes.
    pub(super) fn on_arrived(&mut self, total: u64, now: Instant) {
        self.live.on_arrived(total, now);
        self.model.on_arrived(total, now);
    }

    /// It was dead and spoke.
    pub(super) fn on_revived(&mut self, now: Instant) {
        self.live.on_revived();
        self.model.on_revived(now);
    }

    /// When it becomes suspect unless it speaks; none while nothing is asked of it.
    pub(super) fn suspect_at(&self) -> Option<Instant> {
        let asked = self.model.outstanding() > 0;
        asked.then(|| self.live.suspect_at(self.model.patience()))
    }

    /// It may be silent for no more than lost packets.
    pub(super) fn may_have_lost_packets(&self, now: Instant) -> bool {
        now < self.live.suspect_at(self.model.loss_explains(limits::DEAD_AFTER, now))
    }

    /// When it loses its leases unless it brings something of what it owes.
    pub(super) fn stalled_at(&self) -> Instant {
        self.live.stalled_at(self.model.rtt())
    }

    /// See [`Liveness::is_spent`].
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.live.is_spent(self.model.rtt(), now)
    }

    /// How long it may leave a piece that was taken back unanswered: twice as long as all such
    /// bytes take.
    pub(super) fn answer_time(&self, now: Instant) -> Duration {
        let time = self.model.delivery(0, now) * 2;
        time.clamp(limits::STALLED_AFTER, limits::MAX_ANSWER_TIME).max(self.model.rtt() * 3)
    }

    /// Of one that never brought anything it takes so long until it shows that it brings nothing:
    /// who was kept waiting once is not made to wait for the next such.
    pub(super) fn doubt(&self) -> Duration {
        if self.model.rate().is_none() { self.tolerance() } else { Duration::ZERO }
    }

    /// It brought something lately, for all that it owes.
    fn brings(&self, now: Instant) -> bool {
        now < self.live.last_brought() + self.tolerance()
    }

    /// When it counts as dead unless it speaks.
    pub(super) fn dead_at(&self) -> Instant {
        self.live.dead_at(self.model.rtt())
    }

    /// Its connection receives something.
    pub(super) fn is_reachable(&self, now: Instant) -> bool {
        self.live.is_reachable(self.model.rtt(), now)
    }

    /// How long nothing may come of it.
    pub(super) fn tolerance(&self) -> Duration {
        self.live.tolerance(self.model.patience())
    }

    /// Smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.model.rtt()
    }

    /// Measured delivery rate in bytes a second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.model.rate()
    }

    /// Bytes asked for and not come.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.model.outstanding()
    }

    /// Payload bytes that came, copies included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.model.received()
    }

    /// When anything was last heard of it.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.live.last_heard()
    }

    /// When it last brought something, or was asked after a pause.
    #[must_use]
    pub fn last_brought(&self) -> Instant {
        self.live.last_brought()
    }
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) schedule: PathSchedule,
    pub(super) next_piece: u64,
    pub(super) state: PathState,
    /// The stream it served last: the next one is next.
    pub(super) last_stream: StreamId,
    /// There was nothing to ask of it when it was last looked at.
    pub(super) idle: bool,
    /// Leases that its server is told of once it has accepted the client, in their order.
    pub(super) early: Vec<control::Lease>,
    pub(super) decisions: Decisions,
}

impl Path {
    pub(super) fn new(id: PathId, state: PathState, now: Instant) -> Self {
        let first = if id.is_primary() { PieceId::FIRST_ASKED } else { PieceId(0) };
        Self {
            schedule: PathSchedule::new(now),
            next_piece: first.0,
            state,
            last_stream: StreamId::from_u64(0),
            idle: false,
            early: Vec::new(),
            decisions: Decisions::default(),
        }
    }

    /// It answers, and is to stay.
    pub(super) fn is_healthy(&self) -> bool {
        self.state == PathState::Active && self.schedule.live.rest_until().is_none()
    }

    /// Something happened to it: the state that it had, if that is news.
    pub(super) fn on(&mut self, input: PathInput) -> Option<PathState> {
        let next = self.state.on(input)?;
        Some(std::mem::replace(&mut self.state, next))
    }

    /// With `pieces` under way it may be asked for more now, or once what it is asked for has come.
    /// One that owes nothing but answers for what was cancelled may never give them, nor may one
    /// that brings nothing, though it is not silent.
    pub(super) fn is_delivering(&self, pieces: usize, now: Instant) -> bool {
        let brings = self.schedule.outstanding() > 0 && self.schedule.brings(now);
        self.has_room(pieces) || self.is_healthy() && brings
    }

    /// With `pieces` under way it may be asked for more, as far as it is concerned.
    pub(super) fn has_room(&self, pieces: usize) -> bool {
        let few = pieces < limits::MAX_PIECES;
        few && self.is_healthy() && self.schedule.model.has_room()
    }
}
