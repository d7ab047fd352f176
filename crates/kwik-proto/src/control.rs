//! What waits to be sent on a path's control stream, and its heartbeat (3.1).

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::limits;
use crate::wire::control::{self, ControlMessage, Heartbeat};

/// One path's outgoing control frames: numbered, encoded, in order.
#[derive(Debug)]
pub struct ControlQueue {
    next_frame_id: u64,
    encoded: BytesMut,
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
            last_sent: now,
            next_busy: now + limits::HEARTBEAT_BUSY,
            heartbeat: 0,
            beat_at: now,
            unanswered: false,
        }
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
    }

    /// Takes what is to be written, in order.
    pub fn take(&mut self) -> Option<Bytes> {
        (!self.encoded.is_empty()).then(|| self.encoded.split().freeze())
    }

    /// The peer reads so slowly that the bound on waiting bytes is passed.
    #[must_use]
    pub fn is_overfull(&self) -> bool {
        self.encoded.len() > limits::MAX_CONTROL_QUEUED
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
    pub fn heartbeat_due(&self, busy: bool) -> Instant {
        let often = busy || self.unanswered;
        if often { self.next_busy } else { self.last_sent + limits::HEARTBEAT_IDLE }
    }

    /// Queues a heartbeat if one is due.
    pub fn beat(&mut self, busy: bool, now: Instant) {
        if now >= self.heartbeat_due(busy) {
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
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_is_not_answered_is_followed_by_more_of_them() {
        let mut now = crate::test_now();
        let mut control = ControlQueue::new(now);
        assert_eq!(control.heartbeat_due(false), now + limits::HEARTBEAT_IDLE);
        for _ in 0..3 {
            now = control.heartbeat_due(false);
            control.beat(false, now);
            assert!(control.take().is_some());
            assert_eq!(control.heartbeat_due(false), now + limits::HEARTBEAT_BUSY);
        }
        control.on_heard();
        assert_eq!(control.heartbeat_due(false), now + limits::HEARTBEAT_IDLE);
    }

    #[test]
    fn what_else_is_sent_puts_off_no_heartbeat_of_a_busy_path() {
        let mut now = crate::test_now();
        let mut control = ControlQueue::new(now);
        let due = now + limits::HEARTBEAT_BUSY;
        let other = ControlMessage::Heartbeat(Heartbeat { sequence: 0, reply: true });
        for _ in 0..9 {
            now += limits::HEARTBEAT_BUSY / 10;
            control.push(&other, now);
            assert_eq!(control.heartbeat_due(true), due);
        }
        // After a pause it is not due at once.
        now += limits::HEARTBEAT_IDLE;
        control.push(&other, now);
        assert_eq!(control.heartbeat_due(true), now + limits::HEARTBEAT_BUSY);
    }
}
