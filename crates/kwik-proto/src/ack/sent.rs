//! The sender's part.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use super::violation;
use crate::CodedError;
use crate::limits::MAX_UNACKED_PACKETS;
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
    kept: KeptFrames,
    lane: Lane,
}

/// Packets of one lane are repeated in their order: they wrote one QUIC stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(pub u64);

/// What is kept of a packet until it is acknowledged: nothing where the connection cannot be taken
/// up and what of a lease is lost its report says.
#[derive(Debug, Clone, Default)]
pub struct KeptFrames {
    /// Of streams, whose writers hear of the acknowledgement.
    pub plain: Vec<PacketFrame>,
    /// Of leases, to be repeated on another connection.
    pub leased: Vec<PacketFrame>,
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
    /// its QUIC stream must not be reset.
    ///
    /// Call only while [`Self::has_room`]: the peer refuses a packet beyond.
    pub fn on_sent(&mut self, bytes: u64, kept: KeptFrames, lane: Lane) -> u64 {
        debug_assert!(self.has_room(), "refused by its receiver");
        let id = self.next;
        self.next += 1;
        self.packets.insert(id, SentPacket { bytes, kept, lane });
        self.outstanding += bytes;
        self.total += bytes;
        id
    }

    /// The peer acknowledges packets: the frames of streams that were kept of them, in the order of
    /// their ids.
    ///
    /// # Errors
    /// One of them was never sent; nothing is acknowledged then.
    pub fn handle_ack(
        &mut self,
        packets: &[RangeInclusive<u64>],
    ) -> Result<Vec<PacketFrame>, CodedError> {
        self.check(packets)?;
        let mut acknowledged = Vec::new();
        for ids in packets.iter().filter(|ids| !ids.is_empty()) {
            while let Some((&id, _)) = self.packets.range(ids.clone()).next() {
                let Some(SentPacket { bytes, kept, .. }) = self.packets.remove(&id) else { break };
                self.outstanding -= bytes;
                acknowledged.extend(kept.plain);
            }
        }
        if self.packets.is_empty() {
            // An empty map would keep room for several.
            self.packets = BTreeMap::new();
        }
        Ok(acknowledged)
    }

    /// Whether the peer can have these packets.
    ///
    /// # Errors
    /// One of them was never sent.
    pub fn check(&self, packets: &[RangeInclusive<u64>]) -> Result<(), CodedError> {
        match packets.iter().find(|ids| *ids.start() == 0 || *ids.end() >= self.next) {
            None => Ok(()),
            Some(ids) => {
                let (first, last) = (ids.start(), ids.end());
                Err(violation(format!("packets {first} to {last} were never all sent")))
            }
        }
    }

    /// What is to be repeated on another connection: the packets that are not acknowledged, of the
    /// lanes that are `wanted`, in the order of their ids.
    #[must_use]
    pub fn unacknowledged(&self, wanted: impl Fn(Lane) -> bool) -> Vec<(u64, Vec<PacketFrame>)> {
        let packets = self.packets.iter().filter(|(_, packet)| wanted(packet.lane));
        let frames = |kept: &KeptFrames| kept.plain.iter().chain(&kept.leased).cloned().collect();
        packets.map(|(id, packet)| (*id, frames(&packet.kept))).collect()
    }
}
