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

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::auth::prove;
use crate::control::ControlReceipts;
use crate::path::Health;
use crate::stats::PacketCounts;
use crate::sync::lock;
use crate::wire::control::{self, AuthenticationRequest, ControlMessage, Resume};
use crate::{Code, CodedError, PathId, limits};

use super::super::{Action, Wake};
use super::ClientSession;
use super::packets::wanted;

/// What is done about the primary's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    /// Another connection is being made; until then.
    Dialing(Instant),
    /// Another connection stands, and the server has to answer on it until then.
    Answering(Instant),
}

/// The primary's connection, as far as it may have to be made anew.
#[derive(Debug)]
pub(super) struct Resumption {
    state: State,
    /// When anything came on it last.
    heard: Instant,
    /// Since when something is expected of it.
    asked: Option<Instant>,
    /// What its connection has received, and all of those before it.
    arrived: u64,
    before: u64,
    /// When it broke.
    lost: Option<Instant>,
    /// Dials of this session, for their jitter, and connections that were made.
    dials: u32,
    attempt: u64,
    /// Those of them that the primary answered.
    pub(super) resumptions: u64,
    /// What of the primary's control frames was handled.
    pub(super) receipts: ControlReceipts,
}

impl Resumption {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Well,
            heard: now,
            asked: None,
            arrived: 0,
            before: 0,
            lost: None,
            dials: 0,
            attempt: 0,
            resumptions: 0,
            receipts: ControlReceipts::default(),
        }
    }

    /// Anything came. A connection that stands and speaks is as good as another.
    pub(super) fn on_heard(&mut self, now: Instant) {
        self.heard = now;
        if self.lost.is_none() && matches!(self.state, State::Dialing(_)) {
            self.state = State::Well;
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
        let since = self.heard.max(self.asked?);
        Some(since + limits::RESUME_SILENCE.max(rtt * limits::RESUME_ROUND_TRIPS))
    }

    /// When [`ClientSession::handle_resumption`] has something to do.
    pub(super) fn poll_timeout(&self, rtt: Duration) -> Option<Instant> {
        let next = match self.state {
            State::Well => self.is_silent_at(rtt),
            State::Dialing(until) | State::Answering(until) => Some(until),
        };
        let end = self.lost.map(|lost| lost + limits::RESUME_TIME);
        next.into_iter().chain(end).min()
    }
}

impl ClientSession {
    /// What a path's connection has received in all, of path 0 those before it included.
    pub(super) fn total_arrived(&mut self, path: PathId, total: u64, now: Instant) -> u64 {
        if path.is_primary() { self.home.on_arrived(total, now) } else { total }
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
        if self.id.is_none() {
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
        if self.home.lost.is_some_and(|lost| lost + limits::RESUME_TIME <= now) {
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
        // The session's key is random, and nobody else's.
        let [a, b, c, d, ..] = self.key.fingerprint().0;
        let seed = u32::from_le_bytes([a, b, c, d]) ^ self.home.dials;
        let share = seed.wrapping_mul(0x9E37_79B9) >> 16;
        let interval = self.answer_time();
        let within = interval * 4 / 5 + interval * share / (5 * 0x8000);
        self.home.state = State::Dialing(now + within);
        self.outputs.actions.push_back(Action::Redial(within));
    }

    /// How long a handshake, or an answer, may take.
    fn answer_time(&self) -> Duration {
        limits::RESUME_INTERVAL.max(self.home_rtt() * limits::RESUME_ROUND_TRIPS)
    }

    /// A connection to the primary stands that [`Action::Redial`] asked for. `exporter` is its
    /// exported keying material ([`crate::auth::EXPORTER_LABEL`]).
    ///
    /// What is to be written first on its control stream, and the `frame_id` behind the two frames
    /// of the answer, which goes to [`Self::handle_resumed`]. From here on nothing of the former
    /// connection may be fed. None when this one is not needed any more: it is to be closed with
    /// [`Code::PathDead`].
    pub fn begin_resume(&mut self, exporter: &[u8; 32], now: Instant) -> Option<(Bytes, u64)> {
        let id = self.id?;
        let time = self.answer_time();
        let link = self.links.get_mut(&PathId::PRIMARY)?;
        if self.outputs.closed || !matches!(self.home.state, State::Dialing(_)) {
            return None;
        }
        self.home.attempt += 1;
        // Twice: the server has a signature to check, and may be busy.
        self.home.state = State::Answering(now + 2 * time);
        link.control.hold();
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
        Some((first.freeze(), handled))
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
        self.home.state = State::Well;
        self.home.resumptions += 1;
        (self.home.lost, self.home.asked) = (None, None);
        self.home.heard = now;
        self.home.before = self.home.arrived;
        self.scheduler.on_alive(PathId::PRIMARY, now);
        Ok(())
    }

    /// No connection could be made, or the one that was made is gone before its answer. `refused`
    /// is what the server said, if it did: there is no session to take up.
    pub fn on_redial_failed(&mut self, refused: Option<&CodedError>, now: Instant) {
        if self.outputs.closed {
            return;
        }
        match (refused, self.home.state) {
            (Some(error), State::Answering(_)) => self.outputs.close_with(error),
            (None, State::Answering(_)) => {
                self.home.lost.get_or_insert(now);
                self.redial_home(now);
            }
            // The next dial is due when this one would have taken too long.
            (_, State::Well | State::Dialing(_)) => {}
        }
    }
}
