//! The sender's part.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::violation;
use crate::CodedError;
use crate::limits::MAX_UNACKED_PACKETS;
use crate::wire::control::Ack;
use crate::wire::{DataOptions, PacketFrame};

/// The packets of one connection, shared by the session and its writers. A leaf: who holds it locks
/// nothing else.
pub type SharedSent = Arc<Mutex<SentPackets>>;

/// Numbers packets, and keeps what of them is not acknowledged.
#[derive(Debug)]
pub struct SentPackets {
    next: u64,
    /// Those that are not acknowledged, by id: an acknowledgement costs what it tells, however
    /// often it tells it.
    packets: BTreeMap<u64, SentPacket>,
    outstanding: u64,
    /// Bytes of payload so far.
    total: u64,
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
        Self { next: 1, packets: BTreeMap::new(), outstanding: 0, total: 0, options }
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

    /// Bytes of payload sent so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether one more packet may be sent; if not, wait for the next acknowledgement.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let lowest = self.packets.first_key_value().map_or(self.next, |(id, _)| *id);
        self.next - lowest < MAX_UNACKED_PACKETS
    }

    /// Numbers a packet with `bytes` of payload that is sent now: from here on it has to leave, and
    /// its QUIC stream must not be reset. `frames` are kept; what a lease's report would call lost
    /// need not be among them.
    ///
    /// Call only while [`Self::has_room`]: the peer refuses a packet beyond.
    pub fn on_sent(&mut self, bytes: u64, frames: Vec<PacketFrame>) -> u64 {
        debug_assert!(self.has_room(), "refused by its receiver");
        let id = self.next;
        self.next += 1;
        self.packets.insert(id, SentPacket { bytes, frames });
        self.outstanding += bytes;
        self.total += bytes;
        id
    }

    /// The peer acknowledges packets: the frames that were kept of them, in the order of their ids.
    ///
    /// # Errors
    /// One of them was never sent; nothing is acknowledged then.
    pub fn handle_ack(&mut self, m: &Ack) -> Result<Vec<PacketFrame>, CodedError> {
        let ranges = || m.ranges.iter().map(|ids| (*ids.start(), *ids.end()));
        if let Some((first, last)) =
            ranges().find(|(first, last)| *first == 0 || *last >= self.next)
        {
            return Err(violation(format!("packets {first} to {last} were never all sent")));
        }
        let mut acknowledged = Vec::new();
        for (first, last) in ranges().filter(|(first, last)| first <= last) {
            while let Some((&id, _)) = self.packets.range(first..=last).next() {
                let Some(SentPacket { bytes, frames }) = self.packets.remove(&id) else { break };
                self.outstanding -= bytes;
                acknowledged.extend(frames);
            }
        }
        if self.packets.is_empty() {
            // An empty map would keep room for several.
            self.packets = BTreeMap::new();
        }
        Ok(acknowledged)
    }
}
