//! What came, in figures.

/// What a successful [`RecvHalf::receive`](super::RecvHalf::receive) did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// The reader has something to do.
    pub readable: bool,
    /// A piece ended: the session should look.
    pub piece_ended: bool,
    /// Bytes of it that a live piece had asked for.
    pub asked: u64,
    /// Bytes of it that were here already.
    pub twice: u64,
    /// Of those, bytes that differed from the copy that was still held.
    pub conflicting: u64,
}

impl Received {
    /// And so much besides.
    pub(super) fn add(&mut self, other: Self) {
        self.readable |= other.readable;
        self.piece_ended |= other.piece_ended;
        self.asked += other.asked;
        self.twice += other.twice;
        self.conflicting += other.conflicting;
    }
}

/// Bytes of a stream that came more than once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    /// Bytes that were here already.
    pub duplicates: u64,
    /// Of those, bytes whose two copies differed.
    pub conflicts: u64,
}

/// Bytes of a stream that one path brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceivedBytes {
    /// All of them.
    pub total: u64,
    /// Of those, bytes that live pieces had asked for ([`Received::asked`]).
    pub asked: u64,
    /// Of those, bytes that were here already ([`Received::twice`]).
    pub twice: u64,
    /// Of those, bytes that differed from the copy that was held ([`Received::conflicting`]).
    pub conflicting: u64,
}

impl ReceivedBytes {
    /// So many more came: `received` says what of it.
    pub fn note(&mut self, bytes: u64, received: Received) {
        self.total += bytes;
        self.asked += received.asked;
        self.twice += received.twice;
        self.conflicting += received.conflicting;
    }
}
