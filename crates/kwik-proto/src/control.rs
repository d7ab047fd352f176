//! What waits to be sent on a path's control stream, and its heartbeat (3.1).

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::limits;
use crate::wire::control::{self, ControlMessage};
use crate::wire::pb::control as pb;

/// One path's outgoing control frames: numbered, encoded, in order.
#[derive(Debug)]
pub struct ControlQueue {
    next_frame_id: u64,
    encoded: BytesMut,
    last_sent: Instant,
    heartbeat: u64,
}

impl ControlQueue {
    /// Nothing was sent yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { next_frame_id: 0, encoded: BytesMut::new(), last_sent: now, heartbeat: 0 }
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

    /// When the next heartbeat is due.
    #[must_use]
    pub fn heartbeat_due(&self, busy: bool) -> Instant {
        self.last_sent + if busy { limits::HEARTBEAT_BUSY } else { limits::HEARTBEAT_IDLE }
    }

    /// Queues a heartbeat if one is due.
    pub fn beat(&mut self, busy: bool, now: Instant) {
        if now >= self.heartbeat_due(busy) {
            self.heartbeat += 1;
            let beat = pb::Heartbeat { sequence: self.heartbeat, reply: false };
            self.push(&ControlMessage::Heartbeat(beat), now);
        }
    }
}
