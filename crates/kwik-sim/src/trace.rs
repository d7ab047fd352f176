//! What every packet did: two runs of one seed must not differ in a single one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It came to its host.
    Delivered,
    /// Its bytes were changed on the way.
    Corrupted,
    /// The link was cut.
    Cut,
    /// It was lost by chance.
    Lost,
    /// A queue was full: a link's, or a socket's.
    Dropped,
    /// It was larger than the link's MTU.
    TooLarge,
    /// Nobody is there.
    Unreachable,
}

/// A datagram's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// When, from the beginning of the simulation.
    pub at: Duration,
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// UDP payload, in bytes.
    pub len: usize,
    /// What became of it.
    pub fate: Fate,
}

/// Counts of a run, and a digest of what each packet did and when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Datagrams, by what became of them.
    pub fates: BTreeMap<Fate, u64>,
    /// Bytes of those that were delivered.
    pub bytes: u64,
    /// Digest of all packets' times, addresses, sizes and fates, in their order (FNV-1a).
    pub digest: u64,
    /// The last packets in full, if [`Sim::keep_packets`](crate::Sim::keep_packets) asked for it.
    pub packets: Vec<Packet>,
    pub(crate) keep: usize,
}

impl Trace {
    /// Number of datagrams of which that became.
    #[must_use]
    pub fn count(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    pub(crate) fn note(&mut self, packet: Packet) {
        *self.fates.entry(packet.fate).or_default() += 1;
        if packet.fate == Fate::Delivered {
            self.bytes += packet.len as u64;
        }
        let line = packet.to_string();
        let start = if self.digest == 0 { 0xcbf2_9ce4_8422_2325 } else { self.digest };
        let mix =
            |digest: u64, byte: &u8| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.digest = line.as_bytes().iter().fold(start, mix);
        if self.packets.len() < self.keep {
            self.packets.push(packet);
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, from, to, len, fate } = self;
        write!(f, "{:>14} {from} > {to} {len} {fate:?}", at.as_nanos())
    }
}
