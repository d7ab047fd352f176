//! What waits to be sent on a path's control stream, and its heartbeat (3.1).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::wire::control::{self, ControlMessage, Heartbeat};
use crate::{CodedError, limits};

mod kept;

pub(crate) use kept::ControlReceipts;
use kept::{Chunk, Kept, is_acknowledged};

/// One path's outgoing control frames: numbered, encoded, in order.
///
/// Those of path 0 are kept until the peer has handled them, at most [`limits::MAX_CONTROL_KEPT`],
/// so that another connection can go on where one broke. The rest waits here meanwhile.
#[derive(Debug)]
pub struct ControlQueue {
    next_frame_id: u64,
    /// Frames that wait behind `waiting`, the first with this `frame_id`.
    encoded: BytesMut,
    first: u64,
    /// What waits in parts, of a queue that keeps what it gives.
    waiting: VecDeque<Chunk>,
    /// Bytes in `waiting`.
    parted: usize,
    /// Bytes that wait by the application's doing.
    own: usize,
    kept: Option<Kept>,
    /// There is no connection to write to.
    held: bool,
    last_sent: Instant,
    /// When a busy path is asked for a sign of life next, and for how many packets it lost: what
    /// else is sent to it brings no answer.
    next_busy: Instant,
    heartbeat: u64,
    /// When it was sent.
    beat_at: Instant,
    /// Nothing came since the last heartbeat.
    unanswered: bool,
}

impl ControlQueue {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            next_frame_id: 0,
            encoded: BytesMut::new(),
            first: 0,
            waiting: VecDeque::new(),
            parted: 0,
            own: 0,
            kept: None,
            held: false,
            last_sent: now,
            next_busy: now + limits::HEARTBEAT_BUSY,
            heartbeat: 0,
            beat_at: now,
            unanswered: false,
        }
    }

    /// The same, which keeps what it gives until it is acknowledged.
    pub(crate) fn keeping(now: Instant) -> Self {
        Self { kept: Some(Kept::default()), ..Self::new(now) }
    }

    /// Queues a frame.
    pub fn push(&mut self, message: &ControlMessage, now: Instant) {
        control::encode(self.next_frame_id, message, &mut self.encoded);
        self.next_frame_id += 1;
        self.last_sent = now;
        if now >= self.next_busy + limits::HEARTBEAT_BUSY {
            // It had nothing to do.
            self.next_busy = now + limits::HEARTBEAT_BUSY;
        }
        if let Some(kept) = &mut self.kept {
            if is_acknowledged(message) {
                kept.awaited = self.next_frame_id;
            }
            if self.encoded.len() >= limits::CONTROL_CHUNK {
                self.part();
            }
        }
    }

    fn part(&mut self) {
        if !self.encoded.is_empty() {
            // Whole, as an idle path has no buffer.
            let bytes = std::mem::take(&mut self.encoded).freeze();
            self.parted += bytes.len();
            if self.waiting.is_empty() {
                self.waiting.reserve_exact(1);
            }
            self.waiting.push_back(Chunk { first: self.first, end: self.next_frame_id, bytes });
        }
        self.first = self.next_frame_id;
    }

    /// Takes what is to be written, in order: nothing while as much is kept as may be, or while
    /// there is no connection.
    pub fn take(&mut self) -> Option<Bytes> {
        if self.held {
            return None;
        }
        let Some(kept) = &self.kept else {
            self.own = 0;
            return (!self.encoded.is_empty()).then(|| self.encoded.split().freeze());
        };
        if self.waiting.front().is_some_and(|next| !kept.has_room(next)) {
            return None;
        }
        if self.waiting.is_empty() {
            self.part();
        }
        let kept = self.kept.as_mut()?;
        let next = self.waiting.front().filter(|next| kept.has_room(next))?.clone();
        self.waiting.pop_front();
        if self.waiting.is_empty() {
            // An empty queue would keep room for several.
            self.waiting = VecDeque::new();
        }
        self.parted -= next.bytes.len();
        self.own = self.own.saturating_sub(next.bytes.len());
        kept.push(next.clone());
        Some(next.bytes)
    }

    /// Bytes that wait.
    pub(crate) fn queued(&self) -> usize {
        self.parted + self.encoded.len()
    }

    /// The peer reads so slowly that the bound on waiting bytes is passed, but for what the
    /// application caused.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.is_fuller_than(limits::MAX_CONTROL_QUEUED)
    }

    /// The same with another bound.
    #[must_use]
    pub fn is_fuller_than(&self, most: usize) -> bool {
        self.queued() - self.own.min(self.queued()) > most
    }

    /// Does what the application wants, as long as not too much of that waits: it counts as its
    /// own. None if too much does.
    pub fn with_own<M, R>(
        machine: &mut M,
        queue: impl Fn(&mut M) -> &mut Self,
        input: impl FnOnce(&mut M) -> R,
    ) -> Option<R> {
        let this = queue(machine);
        let (before, kept) = (this.queued(), this.kept.as_ref().map_or(0, Kept::bytes));
        if this.own + kept + limits::MAX_CONTROL_FRAME > limits::MAX_CONTROL_QUEUED {
            return None;
        }
        let result = input(machine);
        let queue = queue(machine);
        queue.own += queue.queued().saturating_sub(before);
        Some(result)
    }

    /// The peer owes an acknowledgement of a frame that was sent, or an answer to a heartbeat.
    pub(crate) fn is_awaited(&self) -> bool {
        self.unanswered || self.kept.as_ref().is_some_and(Kept::is_awaited)
    }

    /// The frame up to which the peer has acknowledged, while it owes more.
    pub(crate) fn owed(&self) -> Option<u64> {
        self.kept.as_ref().and_then(Kept::owed)
    }

    /// The peer has handled so many frames; 0 says nothing.
    pub(crate) fn on_acknowledged(&mut self, frames: u64) -> Result<(), CodedError> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        kept.check(frames)?;
        kept.on_acknowledged(frames);
        Ok(())
    }

    /// There is no connection any more: nothing is given until [`Self::go_on`].
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// There is another connection, whose peer has handled `frames`: the rest is given anew.
    ///
    /// # Errors
    /// The peer cannot have handled so many or so few; nothing has changed then.
    pub(crate) fn go_on(&mut self, frames: u64) -> Result<(), CodedError> {
        if let Some(kept) = &mut self.kept {
            let again = kept.take_from(frames)?;
            let bytes = again.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
            self.parted += bytes;
            // It is not for these that the peer would read too slowly.
            self.own += bytes;
            again.into_iter().rev().for_each(|chunk| self.waiting.push_front(chunk));
        }
        (self.held, self.unanswered) = (false, false);
        Ok(())
    }

    /// The peer has sent a control frame.
    pub fn on_heard(&mut self) {
        self.unanswered = false;
    }

    /// The peer has answered a heartbeat: how long that took, if it was the last one.
    pub fn answered(&self, sequence: u64, now: Instant) -> Option<Duration> {
        let is_last = sequence == self.heartbeat && sequence > 0;
        is_last.then(|| now.saturating_duration_since(self.beat_at))
    }

    /// When the next heartbeat is due.
    #[must_use]
    pub fn heartbeat_due(&self, interval: Duration) -> Instant {
        let busy = limits::HEARTBEAT_BUSY;
        if self.unanswered || interval <= busy {
            return self.next_busy - (busy - interval.min(busy));
        }
        self.last_sent + interval
    }

    /// Queues a heartbeat if one is due.
    pub fn beat(&mut self, interval: Duration, now: Instant) {
        if now >= self.heartbeat_due(interval) {
            self.heartbeat += 1;
            self.beat_at = now;
            self.unanswered = true;
            self.next_busy = now + limits::HEARTBEAT_BUSY;
            let beat = Heartbeat { sequence: self.heartbeat, reply: false };
            self.push(&ControlMessage::Heartbeat(beat), now);
        }
    }
}

#[cfg(test)]
mod tests;
