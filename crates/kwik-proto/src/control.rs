//! What waits to be sent on a path's control stream, and its heartbeat (3.1).

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::limits;
use crate::wire::control::{self, ControlMessage, Heartbeat};

/// One path's outgoing control frames: numbered, encoded, in order.
#[derive(Debug)]
pub struct ControlQueue {
    next_frame_id: u64,
    encoded: BytesMut,
    last_sent: Instant,
    heartbeat: u64,
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
            heartbeat: 0,
            unanswered: false,
        }
    }

    /// Queues a frame.
    pub fn push(&mut self, message: &ControlMessage, now: Instant) {
        control::encode(self.next_frame_id, message, &mut self.encoded);
        self.next_frame_id += 1;
        self.last_sent = now;
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

    /// When the next heartbeat is due.
    #[must_use]
    pub fn heartbeat_due(&self, busy: bool) -> Instant {
        let often = busy || self.unanswered;
        self.last_sent + if often { limits::HEARTBEAT_BUSY } else { limits::HEARTBEAT_IDLE }
    }

    /// Queues a heartbeat if one is due.
    pub fn beat(&mut self, busy: bool, now: Instant) {
        if now >= self.heartbeat_due(busy) {
            self.heartbeat += 1;
            self.unanswered = true;
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
}
