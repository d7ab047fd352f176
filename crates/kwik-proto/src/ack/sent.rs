//! The sender's part.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::violation;
use crate::CodedError;
use crate::limits::MAX_UNACKED_PACKETS;
use crate::wire::pb::data::AckFrame;
use crate::wire::{DataOptions, PacketFrame};

/// The packets of one connection, shared by the session and its writers. A leaf: who holds it locks
/// nothing else.
pub type SharedSent = Arc<Mutex<SentPackets>>;

/// Numbers packets, and keeps what of them is not acknowledged.
#[derive(Debug, Default)]
pub struct SentPackets {
    /// The ids below are acknowledged.
    lowest: u64,
    /// From there on; none for those that are acknowledged.
    packets: VecDeque<Option<SentPacket>>,
    outstanding: u64,
    options: DataOptions,
}

#[derive(Debug)]
struct SentPacket {
    bytes: u64,
    frames: Vec<PacketFrame>,
}

impl SentPackets {
    /// Of a connection that begins. `options` are how packets are to be encoded for now.
    #[must_use]
    pub fn new(options: DataOptions) -> Self {
        Self { lowest: 1, packets: VecDeque::new(), outstanding: 0, options }
    }

    /// How packets are to be encoded at this time.
    #[must_use]
    pub fn options(&self) -> DataOptions {
        self.options
    }

    /// The peer has answered what it takes.
    pub fn set_options(&mut self, options: DataOptions) {
        self.options = options;
    }

    /// Bytes of payload that are not acknowledged.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Whether one more packet may be sent; if not, wait for the next acknowledgement.
    #[must_use]
    pub fn has_room(&self) -> bool {
        (self.packets.len() as u64) < MAX_UNACKED_PACKETS
    }

    /// Numbers a packet with `bytes` of payload that is sent now: from here on it has to leave, and
    /// its QUIC stream must not be reset. `frames` are kept; what a lease's report would call lost
    /// need not be among them.
    ///
    /// Call only while [`Self::has_room`]: the peer refuses a packet beyond.
    pub fn on_sent(&mut self, bytes: u64, frames: Vec<PacketFrame>) -> u64 {
        debug_assert!(self.has_room(), "refused by its receiver");
        let id = self.lowest + self.packets.len() as u64;
        self.packets.push_back(Some(SentPacket { bytes, frames }));
        self.outstanding += bytes;
        id
    }

    /// The peer acknowledges packets: the frames that were kept of them, in the order of their ids.
    ///
    /// # Errors
    /// One of them was never sent; nothing is acknowledged then.
    pub fn handle_ack(&mut self, m: &AckFrame) -> Result<Vec<PacketFrame>, CodedError> {
        let next = self.lowest + self.packets.len() as u64;
        let ids = m.acked_packet_ids.iter().map(|id| (*id, *id));
        let ranges = || m.ranges.iter().map(|range| (range.first, range.last)).chain(ids.clone());
        if let Some((first, last)) = ranges().find(|(first, last)| *first == 0 || *last >= next) {
            return Err(violation(format!("packets {first} to {last} were never all sent")));
        }
        let mut acknowledged = Vec::new();
        for (first, last) in ranges() {
            for id in first.max(self.lowest)..=last {
                let index = usize::try_from(id - self.lowest).unwrap_or(usize::MAX);
                let packet = self.packets.get_mut(index).and_then(Option::take);
                if let Some(SentPacket { bytes, frames }) = packet {
                    self.outstanding -= bytes;
                    acknowledged.extend(frames);
                }
            }
            while self.packets.front().is_some_and(Option::is_none) {
                self.packets.pop_front();
                self.lowest += 1;
            }
        }
        Ok(acknowledged)
    }
}
