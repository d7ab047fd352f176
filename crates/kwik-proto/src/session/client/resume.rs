//! The primary's path when its connection is silent or gone: another one takes it up.
//!
//! ```text
//!          silent, or lost              a connection stands
//!   Well -----------------> Dialing ------------------------> Answering
//!    ^ ^                     |   ^                             |    |
//!    | +---------------------+   +-----------------------------+    |
//!    |   the old one speaks           no answer in time, or lost    |
//!    +--------------------------------------------------------------+
//!                              the server has answered
//! ```
//!
//! In Answering nothing of the old connection counts any more: the server was told what of it did.
//!
//! Who closes the session in Dialing or Answering closes a connection that the server may not hear.
//! So one more takes the session up, to be closed at once.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::auth::prove;
use crate::control::ControlReceipts;
use crate::path::{Health, PathState};
use crate::stats::PacketCounts;
use crate::sync::lock;
use crate::wire::control::{self, AuthenticationRequest, ControlMessage, Resume};
use crate::{Code, CodedError, PathId, limits};

use super::super::{Action, Wake};
use super::ClientSession;
use super::packets::wanted;

/// An attempt to take a session up on a connection that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeAttempt {
    /// Its number, which the answer names.
    pub attempt: u64,
    /// What is to be written first on the connection's control stream.
    pub first: Bytes,
    /// The `frame_id` behind the two frames of the answer, which goes to
    /// [`ClientSession::handle_resumed`].
    pub handled: u64,
    /// How long the answer is waited for.
    pub within: Duration,
}

/// What is done about the primary's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    /// Another connection is being made; one more from then on.
    Dialing(Instant),
    /// Another connection stands, and the server has to answer on it until then.
    Answering(Instant),
}

/// The primary's connection, as far as it may have to be made anew.
#[derive(Debug)]
pub(super) struct Resumption {
    state: State,
    /// How long it may be gone.
    time: Duration,
    /// When anything came on it last.
    heard: Instant,
    /// Since when something is expected of it.
    asked: Option<Instant>,
    /// What its connection has received, and all of those before it.
    arrived: u64,
    before: u64,
    /// When it broke.
    lost: Option<Instant>,
    /// Dials of this session, for their jitter, and those since its connection was well.
    dials: u32,
    tries: u32,
    /// Connections that were made.
    attempt: u64,
    /// When payload came last, if that was just now.
    payload: Option<Instant>,
    /// How far it has acknowledged control frames while it owes more, and since when it is so far.
    owed: (Option<u64>, Instant),
    /// Those of them that the primary answered.
    pub(super) resumptions: u64,
    /// What of the primary's control frames was handled.
    pub(super) receipts: ControlReceipts,
}

impl Resumption {
    pub(super) fn new(time: Duration, now: Instant) -> Self {
        Self {
            state: State::Well,
            time,
            heard: now,
            asked: None,
            arrived: 0,
            before: 0,
            lost: None,
            dials: 0,
            tries: 0,
            attempt: 0,
            payload: None,
            owed: (None, now),
            resumptions: 0,
            receipts: ControlReceipts::default(),
        }
    }

    /// Anything came. A connection that stands and speaks is as good as another.
    pub(super) fn on_heard(&mut self, now: Instant) {
        self.heard = now;
        if self.lost.is_none() && matches!(self.state, State::Dialing(_)) {
            (self.state, self.tries) = (State::Well, 0);
        }
    }

    /// Payload came.
    pub(super) fn on_payload(&mut self, now: Instant) {
        self.payload = Some(now);
        self.on_heard(now);
    }

    /// What the primary's heartbeats are asked for at, where they are `busy` or not for what
    /// the primary was asked for.
    ///
    /// While something is expected so often that a primary that has nothing to say is not believed
    /// to be gone. While payload came just now more may be on its way of which nothing is known:
    /// what is left of a stream without leases, say.
    fn heartbeat_interval(&self, busy: bool) -> Duration {
        match (self.asked, busy || self.payload.is_some()) {
            (Some(_), _) => limits::HEARTBEAT_AWAITED,
            (None, true) => limits::HEARTBEAT_BUSY,
            (None, false) => limits::HEARTBEAT_IDLE,
        }
    }

    /// What the connection has received in all: the same of all connections.
    fn on_arrived(&mut self, total: u64, now: Instant) -> u64 {
        let total = self.before + total;
        if total > self.arrived {
            self.arrived = total;
            self.on_heard(now);
        }
        total
    }

    fn is_silent_at(&self, rtt: Duration) -> Option<Instant> {
        let since = self.heard.max(self.asked.filter(|_| !self.time.is_zero())?);
        Some(since + limits::RESUME_SILENCE.max(rtt * limits::RESUME_ROUND_TRIPS))
    }

    /// When [`ClientSession::handle_resumption`] has something to do.
    pub(super) fn poll_timeout(&self, rtt: Duration) -> Option<Instant> {
        let next = match self.state {
            State::Well => self.is_silent_at(rtt),
            State::Dialing(until) | State::Answering(until) => Some(until),
        };
        let end = self.lost.map(|lost| lost + self.time);
        next.into_iter().chain(end).min()
    }
}

impl ClientSession {
    /// What a path's connection has received in all, of path 0 those before it included.
    pub(super) fn total_arrived(&mut self, path: PathId, total: u64, now: Instant) -> u64 {
        if path.is_primary() { self.home.on_arrived(total, now) } else { total }
    }

    /// At what intervals a path's server is sent heartbeats, if it is.
    pub(super) fn heartbeat_interval(&self, path: PathId) -> Option<Duration> {
        let busy = match self.scheduler.state(path)? {
            PathState::Waiting | PathState::Dialing => return None,
            // What QUIC lost of the first flight it repeats once something later arrives.
            PathState::Authenticating => true,
            _ => self.scheduler.is_busy(path),
        };
        Some(match (path.is_primary(), busy) {
            (true, _) => self.home.heartbeat_interval(busy),
            (false, true) => limits::HEARTBEAT_BUSY,
            (false, false) => limits::HEARTBEAT_IDLE,
        })
    }

    fn home_rtt(&self) -> Duration {
        self.scheduler.path(PathId::PRIMARY).map_or(Duration::ZERO, |path| path.rtt())
    }

    /// Notes whether anything is expected of the primary's connection.
    pub(super) fn note_expected(&mut self, now: Instant) {
        let asked = self.scheduler.path(PathId::PRIMARY).is_some_and(|p| p.outstanding() > 0);
        let control = self.links.get(&PathId::PRIMARY);
        let expected = asked
            || control.is_some_and(|link| link.control.is_awaited())
            || lock(&self.sent).outstanding() > 0;
        let owed = control.and_then(|link| link.control.owed());
        if owed != self.home.owed.0 {
            self.home.owed = (owed, now);
        }
        let since = self.home.owed.1;
        self.scheduler.note_deaf(owed.is_some() && since + limits::DEAD_AFTER <= now);
        let receives = |at: &Instant| {
            now < *at + limits::RECEIVING_FOR && self.streams.iter().next().is_some()
        };
        self.home.payload = self.home.payload.filter(receives);
        if self.id.is_none() || !expected {
            self.home.asked = None;
        } else {
            self.home.asked.get_or_insert(now);
        }
    }

    pub(super) fn resumption_timeout(&self) -> Option<Instant> {
        self.home.poll_timeout(self.home_rtt())
    }

    /// The primary's connection is gone. Once it was accepted another one may take its place.
    pub(super) fn on_home_lost(&mut self, error: &CodedError, now: Instant) {
        if self.id.is_none() || self.home.time.is_zero() {
            return self.outputs.close_with(error);
        }
        if let Some(link) = self.links.get_mut(&PathId::PRIMARY) {
            link.control.hold();
        }
        self.home.lost.get_or_insert(now);
        if self.home.state == State::Well {
            self.redial_home(now);
        }
    }

    /// Does what is due about the primary's connection.
    pub(super) fn handle_resumption(&mut self, now: Instant) {
        if self.home.lost.is_some_and(|lost| lost + self.home.time <= now) {
            let error = CodedError::new(Code::PathDead, "the primary could not be reached again");
            return self.outputs.close_with(&error);
        }
        let due = match self.home.state {
            State::Well => self.home.is_silent_at(self.home_rtt()),
            State::Dialing(until) | State::Answering(until) => Some(until),
        };
        if due.is_some_and(|due| due <= now) {
            if let State::Answering(_) = self.home.state {
                self.home.lost.get_or_insert(now);
            }
            self.redial_home(now);
        }
    }

    fn redial_home(&mut self, now: Instant) {
        self.home.dials += 1;
        self.home.tries += 1;
        // The session's key is random, and nobody else's.
        let [a, b, c, d, ..] = self.key.fingerprint().0;
        let seed = u32::from_le_bytes([a, b, c, d]) ^ self.home.dials;
        let share = seed.wrapping_mul(0x9E37_79B9) >> 16;
        let least = if self.home.tries > limits::RESUME_EAGER {
            limits::RESUME_LATER
        } else {
            limits::RESUME_INTERVAL
        };
        let interval = answer_time(self.home_rtt()).clamp(least, limits::RESUME_LATER);
        let next = interval * 4 / 5 + interval * share / (5 * 0x8000);
        self.home.state = State::Dialing(now + next);
        // The network may be another one now, of which no round trip was measured.
        let within = interval * 4 / 5 * limits::RESUME_DIALS;
        self.outputs.actions.push_back(Action::Redial(within));
    }

    /// A connection to the primary stands that [`Action::Redial`] asked for. `exporter` is its
    /// exported keying material ([`crate::auth::EXPORTER_LABEL`]), `rtt` its round-trip time.
    ///
    /// From here on of the former connection nothing may be fed but [`Self::on_received`], for
    /// bytes that are in their streams' receiving halves. None when this one is not needed any
    /// more: it is to be closed with [`Code::PathDead`].
    pub fn begin_resume(
        &mut self,
        exporter: &[u8; 32],
        rtt: Duration,
        now: Instant,
    ) -> Option<ResumeAttempt> {
        if self.outputs.closed || !matches!(self.home.state, State::Dialing(_)) {
            return None;
        }
        let begun = self.begin_attempt(exporter, rtt)?;
        self.home.state = State::Answering(now + begun.within);
        if let Some(link) = self.links.get_mut(&PathId::PRIMARY) {
            link.control.hold();
        }
        Some(begun)
    }

    /// How long a connection may take to stand on which the primary is to hear that the session was
    /// closed; none where there is no need of one. To be asked before that is done.
    #[must_use]
    pub fn farewell(&self) -> Option<Duration> {
        let away = self.home.lost.is_some() || self.home.state != State::Well;
        let wanted = away && self.id.is_some() && !self.outputs.closed;
        wanted.then(|| 2 * answer_time(self.home_rtt()))
    }

    /// The connection of [`Self::farewell`] stands: it takes the session up as with
    /// [`Self::begin_resume`], and is to be closed once the primary has answered, or said that it
    /// has no such session.
    pub fn begin_farewell(&mut self, exporter: &[u8; 32], rtt: Duration) -> Option<ResumeAttempt> {
        self.begin_attempt(exporter, rtt).filter(|_| self.outputs.closed)
    }

    fn begin_attempt(&mut self, exporter: &[u8; 32], rtt: Duration) -> Option<ResumeAttempt> {
        let id = self.id?;
        // Twice: the server has a signature to check, and may be busy.
        let within = 2 * answer_time(rtt.max(self.home_rtt()));
        let link = self.links.get_mut(&PathId::PRIMARY)?;
        self.home.attempt += 1;
        let request = AuthenticationRequest {
            session_id: Some(id),
            credentials: Bytes::new(),
            protocol_version: limits::PROTOCOL_VERSION,
            client_key: Some(self.key.public_key()),
            path_id: PathId::PRIMARY,
            proof: Some(prove(&self.key, exporter, id, PathId::PRIMARY)),
            limits: None,
            data: wanted(&self.config),
        };
        let handled = self.home.receipts.tell();
        let resume = Resume {
            frame_id: handled,
            attempt: self.home.attempt,
            packets: link.received.statement(),
        };
        let mut first = BytesMut::new();
        control::encode(0, &ControlMessage::AuthenticationRequest(request), &mut first);
        control::encode(1, &ControlMessage::Resume(resume), &mut first);
        Some(ResumeAttempt { attempt: self.home.attempt, first: first.freeze(), handled, within })
    }

    /// The primary has answered on the connection of [`Self::begin_resume`], of this `attempt`:
    /// control frames that it has not handled are transmitted again, and its driver repeats
    /// [`SentPackets::unacknowledged`](crate::ack::SentPackets::unacknowledged). False when nobody
    /// waits for it any more.
    pub fn handle_resumed(&mut self, m: &Resume, now: Instant) -> bool {
        if self.outputs.closed
            || m.attempt != self.home.attempt
            || !matches!(self.home.state, State::Answering(_))
        {
            return false;
        }
        if let Err(error) = self.take_up(m, now) {
            self.outputs.close_with(&error);
            return false;
        }
        true
    }

    fn take_up(&mut self, m: &Resume, now: Instant) -> Result<(), CodedError> {
        let Some(link) = self.links.get_mut(&PathId::PRIMARY) else { return Ok(()) };
        let frames = lock(&self.sent).handle_ack(&m.packets)?;
        link.control.go_on(m.frame_id)?;
        link.health = Health::new(now);
        link.packets = PacketCounts::default();
        self.streams.on_acknowledged(&frames);
        self.outputs.wake(Wake::Acknowledged);
        (self.home.state, self.home.tries) = (State::Well, 0);
        self.home.resumptions += 1;
        (self.home.lost, self.home.asked) = (None, None);
        self.home.heard = now;
        self.home.before = self.home.arrived;
        self.scheduler.on_alive(PathId::PRIMARY, now);
        Ok(())
    }

    /// The connection of an `attempt` is gone before its answer. `refused` is what the server said,
    /// if it did: there is no session to take up. Counts for the last attempt alone, as long as
    /// its answer is waited for; true when it ends the session.
    pub fn on_redial_failed(
        &mut self,
        attempt: u64,
        refused: Option<&CodedError>,
        now: Instant,
    ) -> bool {
        let waits = matches!(self.home.state, State::Answering(_));
        if self.outputs.closed || !waits || attempt != self.home.attempt {
            return false;
        }
        match refused {
            Some(error) => self.outputs.close_with(error),
            None => {
                self.home.lost.get_or_insert(now);
                self.redial_home(now);
            }
        }
        refused.is_some()
    }
}

/// How long a part of an answer may take.
fn answer_time(rtt: Duration) -> Duration {
    limits::RESUME_INTERVAL.max(rtt * limits::RESUME_ROUND_TRIPS)
}
