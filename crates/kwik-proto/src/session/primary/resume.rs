//! The client's connection when it is gone: another one takes it up.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::auth::verify_proof;
use crate::control::{ControlQueue, ControlReceipts};
use crate::sync::lock;
use crate::wire::control::{self, AuthenticationRequest, ControlMessage, Resume};
use crate::{Code, CodedError, PathId, limits};

use super::super::Wake;
use super::PrimarySession;

/// The client's connection, as far as another may take its place.
#[derive(Debug)]
pub(super) struct Home {
    /// Since when there is none.
    lost: Option<Instant>,
    /// How long the session is kept without one.
    keep: Duration,
    /// The client's last attempt to take it up.
    attempt: u64,
    resumptions: u64,
    /// How often it may be taken up now, and since when it is so often; none: it was not yet.
    allowance: Option<(u32, Instant)>,
    /// What of the client's control frames was handled.
    pub(super) receipts: ControlReceipts,
}

impl Default for Home {
    fn default() -> Self {
        // The introduction was handled before there was a session.
        let receipts = ControlReceipts::new(1);
        let keep = limits::RESUME_TIME;
        Self { lost: None, keep, attempt: 0, resumptions: 0, allowance: None, receipts }
    }
}

impl Home {
    /// How often the session may be taken up now.
    fn allowed(&mut self, now: Instant) -> u32 {
        let (left, since) = self.allowance.unwrap_or((limits::RESUME_BURST, now));
        let periods = now.saturating_duration_since(since).as_millis();
        let more = u32::try_from(periods / limits::RESUME_PERIOD.as_millis()).unwrap_or(u32::MAX);
        let (left, since) = match left.saturating_add(more) {
            all if all >= limits::RESUME_BURST => (limits::RESUME_BURST, now),
            some => (some, since + limits::RESUME_PERIOD * more),
        };
        self.allowance = Some((left, since));
        left
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub(super) fn resumptions(&self) -> u64 {
        self.resumptions
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let end = self.lost.map(|lost| lost + self.keep);
        self.receipts.poll_timeout().into_iter().chain(end).min()
    }
}

impl PrimarySession {
    /// Keeps the session for so long when its connection is gone; none: it ends with it.
    pub fn set_resume_time(&mut self, keep: Duration) {
        self.home.keep = keep;
    }

    /// Bytes that it holds: what its client has not acknowledged, and what nobody has read.
    #[must_use]
    pub fn kept(&self) -> u64 {
        let streams = self.streams.iter().filter_map(|halves| halves.recv.as_ref());
        let held = streams.map(|recv| lock(recv).held()).sum::<u64>();
        let control = self.control.queued() + limits::MAX_CONTROL_KEPT;
        held + lock(&self.data.sent).outstanding() + control as u64
    }

    /// It has no connection, and has to make room for others that have none.
    pub fn end_lost(&mut self) {
        if self.home.is_lost() {
            let context = "too many sessions wait for their clients";
            self.end_with(&CodedError::new(Code::LimitExceeded, context));
        }
    }

    /// What the application wants, as long as not too much of that waits for the client.
    pub fn with_own<R>(&mut self, input: impl FnOnce(&mut Self) -> R) -> Option<R> {
        ControlQueue::with_own(self, |session| &mut session.control, input)
    }

    pub(super) fn on_home_lost(&mut self, now: Instant) {
        self.home.lost.get_or_insert(now);
        self.control.hold();
        self.end_if_lost(now);
    }

    /// Ends the session if its client has been away for too long.
    pub(super) fn end_if_lost(&mut self, now: Instant) -> bool {
        let over = self.home.lost.is_some_and(|lost| lost + self.home.keep <= now);
        if over {
            let context = "the client did not come back in time";
            self.end_with(&CodedError::new(Code::PathDead, context));
        }
        over
    }

    /// A connection whose client says that it is this session's; `exporter` is that connection's
    /// keying material ([`crate::auth::EXPORTER_LABEL`]). What is to be written first on its
    /// control stream, and the `frame_id` behind the two frames that the client wrote. From here on
    /// nothing of the former connection may be fed, and what is transmitted goes to this one. Its
    /// driver repeats [`SentPackets::unacknowledged`](crate::ack::SentPackets::unacknowledged).
    ///
    /// # Errors
    /// It is not this session's client, or what it says cannot be: the connection is to be closed,
    /// and nothing has changed.
    pub fn handle_resume(
        &mut self,
        request: &AuthenticationRequest,
        exporter: &[u8; 32],
        m: &Resume,
        now: Instant,
    ) -> Result<(Bytes, u64), CodedError> {
        self.check_client(request, exporter)?;
        if self.outputs.closed {
            return Err(CodedError::new(Code::SessionUnknown, "the session has ended"));
        }
        if m.attempt <= self.home.attempt {
            let context = format!("attempt {} after {}", m.attempt, self.home.attempt);
            return Err(CodedError::new(Code::InvalidFrame, context));
        }
        let allowed = self.home.allowed(now);
        if allowed == 0 {
            let context = "the session was taken up too often: try again in a second";
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        let frames = {
            let mut sent = lock(&self.data.sent);
            sent.check(&m.packets)?;
            self.control.go_on(m.frame_id)?;
            sent.handle_ack(&m.packets)?
        };
        (self.home.lost, self.home.attempt) = (None, m.attempt);
        self.home.resumptions += 1;
        if let Some((left, _)) = &mut self.home.allowance {
            *left = allowed - 1;
        }
        if !frames.is_empty() {
            // Else it would keep its place by coming back alone.
            self.data.moved = now;
        }
        self.expect_answers_anew(now);
        self.streams.on_acknowledged(&frames);
        self.outputs.wake(Wake::Acknowledged);
        let response = control::AuthenticationResponse {
            result: Ok(self.id),
            limits: None,
            data: self.data.options,
        };
        let handled = self.home.receipts.tell();
        let packets = self.data.received.statement();
        let resume = Resume { frame_id: handled, attempt: m.attempt, packets };
        let mut first = BytesMut::new();
        control::encode(0, &ControlMessage::AuthenticationResponse(response), &mut first);
        control::encode(1, &ControlMessage::Resume(resume), &mut first);
        Ok((first.freeze(), handled))
    }

    fn check_client(
        &self,
        request: &AuthenticationRequest,
        exporter: &[u8; 32],
    ) -> Result<(), CodedError> {
        let failed = |why: String| CodedError::new(Code::AuthFailed, why);
        let key = request.client_key.filter(|key| key.fingerprint() == self.client.key);
        let key = key.ok_or_else(|| failed("the session is another client's".into()))?;
        let proof = request.proof.as_ref().map_or(&[][..], AsRef::as_ref);
        verify_proof(&key, exporter, self.id, PathId::PRIMARY, proof)
            .map_err(|error| failed(error.to_string()))
    }
}
