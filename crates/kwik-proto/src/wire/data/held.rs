//! What keeps a packet back until its checksum has held.

use super::DataEvent;
use crate::limits::MIN_SLICE;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// The CRC32C of what a decoder takes from its input, without a look at each field: it follows
/// behind, chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct RunningSum {
    sum: u32,
    /// The input from where the sum ends.
    behind: Bytes,
}

impl RunningSum {
    /// A message begins at the front of `input`.
    pub(super) fn begin(&mut self, input: &Bytes) {
        *self = Self { sum: 0, behind: input.clone() };
    }

    /// More input came.
    pub(super) fn handle_input(&mut self, input: &Bytes) {
        self.behind = input.clone();
    }

    /// The sum up to where `left` bytes of the input are left.
    pub(super) fn up_to(&mut self, left: usize) -> u32 {
        let taken = self.behind.len() - left;
        self.sum = crc32c::crc32c_append(self.sum, &self.behind[..taken]);
        self.behind.advance(taken);
        if left == 0 {
            // An empty slice would still pin the buffer.
            self.behind = Bytes::new();
        }
        self.sum
    }
}

/// A packet's events; its payload stays in the slices it came in, but for small ones.
#[derive(Debug, Default)]
pub(super) struct HeldPacket {
    events: VecDeque<DataEvent>,
    /// Small slices that follow one another: bounds their number.
    small: BytesMut,
    complete: bool,
}

impl HeldPacket {
    pub(super) fn push(&mut self, event: DataEvent) {
        if let DataEvent::Payload(bytes) = &event
            && bytes.len() < MIN_SLICE
        {
            self.small.extend_from_slice(bytes);
            return;
        }
        if !self.small.is_empty() {
            self.events.push_back(DataEvent::Payload(self.small.split().freeze()));
        }
        self.complete = matches!(event, DataEvent::PacketEnd { .. });
        self.events.push_back(event);
    }

    /// The next event of a packet that is complete.
    pub(super) fn release(&mut self) -> Option<DataEvent> {
        if !self.complete {
            return None;
        }
        let event = self.events.pop_front();
        self.complete = event.is_some();
        event
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.small.is_empty()
    }
}
