//! What is kept of control frames until the peer has handled them, and what is told of its own.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf, Bytes};
use prost::encoding::decode_varint;

use crate::wire::control::ControlMessage;
use crate::{Code, CodedError, limits};

/// Bytes up to which frames are copied, to be kept together.
const SMALL: usize = 256;

/// Encoded frames that follow one another.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    /// The `frame_id` of the first.
    pub(super) first: u64,
    /// That behind the last.
    pub(super) end: u64,
    pub(super) bytes: Bytes,
}

impl Chunk {
    /// Drops the frames before `frame_id`.
    fn skip_to(&mut self, frame_id: u64) {
        while self.first < frame_id {
            let len = decode_varint(&mut self.bytes).unwrap_or_default();
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            self.bytes.advance(len.min(self.bytes.len()));
            self.first += 1;
        }
    }
}

/// Frames that were written and are not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Kept {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    acknowledged: u64,
    /// Behind the last frame that the peer is to acknowledge soon.
    pub(super) awaited: u64,
}

impl Kept {
    /// Whether a chunk may be written, which is kept then.
    pub(super) fn has_room(&self, chunk: &Chunk) -> bool {
        self.bytes == 0 || self.bytes + chunk.bytes.len() <= limits::MAX_CONTROL_KEPT
    }

    pub(super) fn push(&mut self, mut chunk: Chunk) {
        self.bytes += chunk.bytes.len();
        // What an idle path keeps takes no more room than it is long.
        if chunk.bytes.len() <= SMALL {
            match self.chunks.back_mut() {
                Some(last) if last.bytes.len() + chunk.bytes.len() <= SMALL => {
                    last.bytes = [&*last.bytes, &*chunk.bytes].concat().into();
                    last.end = chunk.end;
                    return;
                }
                _ => chunk.bytes = Bytes::copy_from_slice(&chunk.bytes),
            }
        }
        if self.chunks.is_empty() {
            self.chunks.reserve_exact(1);
        }
        self.chunks.push_back(chunk);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the peer owes an acknowledgement.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited > self.acknowledged
    }

    /// How far it has acknowledged, while it owes more.
    pub(super) fn owed(&self) -> Option<u64> {
        self.is_awaited().then_some(self.acknowledged)
    }

    /// Whether the peer can have handled the frames before `frame_id`.
    pub(super) fn check(&self, frame_id: u64) -> Result<(), CodedError> {
        let written = self.chunks.back().map_or(self.acknowledged, |chunk| chunk.end);
        if frame_id > written {
            let context = format!("control frame {frame_id} is due, of {written} that were sent");
            return Err(CodedError::new(Code::InvalidFrame, context));
        }
        Ok(())
    }

    /// The peer has handled the frames before `frame_id`.
    pub(super) fn on_acknowledged(&mut self, frame_id: u64) {
        while let Some(chunk) = self.chunks.front().filter(|chunk| chunk.end <= frame_id) {
            self.bytes -= chunk.bytes.len();
            self.chunks.pop_front();
        }
        if self.chunks.is_empty() {
            // An empty queue would keep room for several.
            self.chunks = VecDeque::new();
        } else if self.chunks.len() == 1 {
            // As it is on an idle path: the last word of each side is not acknowledged.
            self.chunks.shrink_to_fit();
        }
        self.acknowledged = self.acknowledged.max(frame_id);
    }

    /// Takes all that is to be repeated from `frame_id` on.
    ///
    /// # Errors
    /// That is not kept any more, or was never sent.
    pub(super) fn take_from(&mut self, frame_id: u64) -> Result<VecDeque<Chunk>, CodedError> {
        self.check(frame_id)?;
        if frame_id < self.acknowledged {
            let before = self.acknowledged;
            let context = format!("control frame {frame_id} is due, of which {before} were there");
            return Err(CodedError::new(Code::InvalidFrame, context));
        }
        self.on_acknowledged(frame_id);
        if let Some(first) = self.chunks.front_mut() {
            first.skip_to(frame_id);
        }
        self.bytes = 0;
        Ok(std::mem::take(&mut self.chunks))
    }
}

/// The peer's control frames of path 0: how many were handled, and when it is told.
#[derive(Debug, Default)]
pub(crate) struct ControlReceipts {
    handled: u64,
    told: u64,
    /// Of those that were not told; see [`limits::CONTROL_ACK_FRAMES`].
    weight: u32,
    due: Option<Instant>,
}

impl ControlReceipts {
    /// So many frames were handled by others.
    pub(crate) fn new(handled: u64) -> Self {
        Self { handled, ..Self::default() }
    }

    /// One more frame was handled.
    pub(crate) fn on_handled(&mut self, message: &ControlMessage, now: Instant) {
        self.handled += 1;
        let bytes = match message {
            ControlMessage::Lease(m) => m.command.len(),
            ControlMessage::RawPacketTransmission(m) => m.data.len(),
            ControlMessage::Uncovered(m) => m.ranges.len() * 16,
            ControlMessage::LeaseReport(m) => m.ranges.len() * 16,
            _ => 0,
        };
        let weight = bytes / limits::CONTROL_ACK_BYTES;
        self.weight += 1 + u32::try_from(weight).unwrap_or(u32::MAX);
        if self.weight >= limits::CONTROL_ACK_FRAMES {
            self.due = Some(now);
        } else if is_acknowledged(message) {
            self.due.get_or_insert(now + limits::CONTROL_ACK_DELAY);
        }
    }

    /// So many were handled, which the peer is being told.
    pub(crate) fn tell(&mut self) -> u64 {
        (self.told, self.weight, self.due) = (self.handled, 0, None);
        self.handled
    }

    /// What an acknowledgement of packets is to say of control frames: 0 if that is nothing new.
    pub(crate) fn tell_news(&mut self) -> u64 {
        if self.handled > self.told { self.tell() } else { 0 }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}

/// Whether a frame is acknowledged soon, by itself. Acknowledgements are not, lest two sides
/// acknowledge each other's for ever; nor is what is answered or comes again anyway.
pub(super) fn is_acknowledged(message: &ControlMessage) -> bool {
    !matches!(
        message,
        ControlMessage::Ack(_) | ControlMessage::Heartbeat(_) | ControlMessage::PathReport(_)
    )
}
