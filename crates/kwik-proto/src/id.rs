//! Identifiers: small `Copy` types, so that one kind is never taken for another.

use std::fmt;

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that dialed.
    Client,
    /// The primary server.
    Server,
}

impl std::ops::Not for Side {
    type Output = Self;
    fn not(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Whether a stream carries data both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// Both sides send.
    Bi,
    /// Only the initiator sends.
    Uni,
}

/// A logical stream. The two low bits are QUIC's: bit 0 the initiator, bit 1 the direction
/// (RFC 9000 section 2.1), so that HTTP/3 runs over KWIK unchanged.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl StreamId {
    /// The `index`-th stream of a kind.
    #[must_use]
    pub const fn new(initiator: Side, dir: Dir, index: u64) -> Self {
        Self(index << 2 | (dir as u64) << 1 | initiator as u64)
    }
    /// From its number on the wire.
    #[must_use]
    pub const fn from_u64(id: u64) -> Self {
        Self(id)
    }
    /// Its number on the wire.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
    /// Who opened it.
    #[must_use]
    pub const fn initiator(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }
    /// One way or both.
    #[must_use]
    pub const fn dir(self) -> Dir {
        if self.0 & 2 == 0 { Dir::Bi } else { Dir::Uni }
    }
    /// Its place among the streams of its kind, from 0.
    #[must_use]
    pub const fn index(self) -> u64 {
        self.0 >> 2
    }
    /// Whether `side` may send on it.
    #[must_use]
    pub fn is_sender(self, side: Side) -> bool {
        self.dir() == Dir::Bi || self.initiator() == side
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = if self.dir() == Dir::Bi { "bidirectional" } else { "unidirectional" };
        let initiator = if self.initiator() == Side::Client { "client" } else { "server" };
        write!(f, "{initiator} {dir} stream {}", self.index())
    }
}

/// A path of a session: one QUIC connection to one server. The primary assigns it; 0 is itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

impl PathId {
    /// The path to the primary server.
    pub const PRIMARY: Self = Self(0);
    /// Whether it leads to the primary.
    #[must_use]
    pub const fn is_primary(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease; unique within its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Marks what is no lease of a primary, whose ids count from 0.
    const UNLEASED: u64 = 1 << 61;
    /// Bits for the count.
    const COUNT_BITS: u32 = 29;

    /// Names a place that the secondary at the end of `path` writes without a lease (7.2); `count`
    /// rises with each of the path.
    #[must_use]
    pub const fn unleased(path: PathId, count: u32) -> Self {
        let count = count as u64 % (1 << Self::COUNT_BITS);
        Self(Self::UNLEASED | (path.0 as u64) << Self::COUNT_BITS | count)
    }

    /// Whether it names a place without a lease.
    #[must_use]
    pub const fn is_unleased(self) -> bool {
        self.0 & Self::UNLEASED != 0
    }

    /// Whether it names one that this path may name.
    #[must_use]
    pub const fn is_unleased_of(self, path: PathId) -> bool {
        self.0 >> Self::COUNT_BITS == Self::unleased(path, 0).0 >> Self::COUNT_BITS
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One activation of a lease; rises by one with each `Activate` of a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceId(pub u64);

impl PieceId {
    /// The first that is asked of the primary's own path. Those before it are of pieces that it
    /// sends unasked, one for each lease.
    pub const FIRST_ASKED: Self = Self(1 << 48);

    /// The piece of a lease that its writer sends unasked.
    #[must_use]
    pub const fn unasked(lease: LeaseId) -> Self {
        Self(lease.0)
    }
}

/// A session: 128 random bits. An identifier, never an authority.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = InvalidSessionId;
    fn from_str(text: &str) -> Result<Self, InvalidSessionId> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(InvalidSessionId);
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidSessionId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidSessionId)?;
        }
        Ok(Self(id))
    }
}

/// A session id that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session id is 32 hexadecimal digits")]
pub struct InvalidSessionId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_ids_keep_the_low_bits_of_quic() {
        assert_eq!(StreamId::new(Side::Server, Dir::Uni, 5).as_u64(), 5 << 2 | 3);
        let id = StreamId::from_u64(8);
        assert_eq!((id.initiator(), id.dir(), id.index()), (Side::Client, Dir::Bi, 2));
    }

    #[test]
    fn a_place_without_a_lease_is_named_by_its_path() {
        let (one, most) = (LeaseId::unleased(PathId(1), 7), LeaseId::unleased(PathId(u32::MAX), 7));
        assert!(one.is_unleased_of(PathId(1)) && !one.is_unleased_of(PathId(2)));
        assert!(most.is_unleased_of(PathId(u32::MAX)) && most.0 < 1 << 62);
        assert!(one.is_unleased() && most.is_unleased() && !LeaseId(u64::MAX >> 3).is_unleased());
        assert_ne!(one, LeaseId::unleased(PathId(1), 8));
    }

    #[test]
    fn session_ids_round_trip() {
        let id = SessionId(std::array::from_fn(|i| u8::try_from(i * 16).unwrap()));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("zz".parse::<SessionId>().is_err());
        assert!("+f".repeat(16).parse::<SessionId>().is_err());
    }
}
