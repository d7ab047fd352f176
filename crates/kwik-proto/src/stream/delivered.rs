//! What was delivered of a stream: the word for who goes on in another session.

use crate::StreamId;
use crate::sync::lock;

use super::recv::{ReadError, RecvHalf};
use super::send::SendHalf;
use super::table::StreamTable;

/// What was delivered of a stream. A stream of which none is told was done with: read to its end,
/// or acknowledged whole, or given up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// Which stream.
    pub id: StreamId,
    /// What this side wrote of it, if it did.
    pub sent: Option<Sent>,
    /// What this side was to read of it, if it was.
    pub received: Option<ReadSoFar>,
}

/// What of a written half has arrived, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sent {
    /// What was written; what is behind [`Self::acknowledged`] may have arrived or not.
    pub written: u64,
    /// From the start on, what the peer's session has acknowledged. Whether the peer's application
    /// has read it, it alone can say.
    pub acknowledged: u64,
    /// How it ended, if it did.
    pub end: HalfEnd,
}

/// What of a read half has come, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadSoFar {
    /// From the start on, what the application has read in order. Where it reads in any order,
    /// bytes behind this may have been read too.
    pub read: u64,
    /// All that it has read, in any order.
    pub consumed: u64,
    /// How it ended, if it did.
    pub end: HalfEnd,
}

/// How half of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HalfEnd {
    /// It did not.
    Open,
    /// It was finished: its final size.
    Finished(u64),
    /// This side gave it up: it was reset or stopped here, or failed.
    GivenUp,
    /// The peer gave it up, with this code.
    RefusedByPeer(u64),
}

impl StreamTable {
    /// What was delivered so far of each live stream, oldest of each kind first.
    #[must_use]
    pub fn delivered(&self) -> Vec<Delivered> {
        let delivered = |halves: &super::Halves| Delivered {
            id: halves.id,
            sent: halves.send.as_ref().map(|send| lock(send).delivered()),
            received: halves.recv.as_ref().map(|recv| lock(recv).delivered()),
        };
        self.iter().map(delivered).collect()
    }
}

impl SendHalf {
    fn delivered(&self) -> Sent {
        let end = match (self.has_ended(), self.stopped()) {
            (false, _) => HalfEnd::Open,
            (true, Some(code)) => HalfEnd::RefusedByPeer(code),
            (true, None) if self.is_finished() => HalfEnd::Finished(self.cursor()),
            (true, None) => HalfEnd::GivenUp,
        };
        Sent { written: self.cursor(), acknowledged: self.acknowledged(), end }
    }
}

impl RecvHalf {
    fn delivered(&self) -> ReadSoFar {
        let end = match (self.failure(), self.final_size()) {
            (Some(ReadError::Reset(code)), _) => HalfEnd::RefusedByPeer(*code),
            (Some(_), _) => HalfEnd::GivenUp,
            (None, Some(size)) => HalfEnd::Finished(size),
            (None, None) => HalfEnd::Open,
        };
        ReadSoFar { read: self.read_position(), consumed: self.consumed(), end }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::PacketFrame;
    use crate::{Config, Dir, PathId, Side};

    #[test]
    fn what_was_delivered_is_told_of_each_half() {
        let mut table = StreamTable::new(Side::Client, &Config::default());
        let now = crate::test_now();
        let open = table.open(Dir::Bi, now).unwrap();
        let id = open.id;
        let (send, recv) = (open.send.unwrap(), open.recv.unwrap());
        assert_eq!(lock(&send).commit(100), Ok(0..100));
        let frame = |offset, len| PacketFrame {
            stream_id: id.as_u64(),
            offset,
            payload: vec![0; len].into(),
            fin: false,
        };
        // With a hole at 40.
        table.on_acknowledged(&[frame(0, 40), frame(50, 50)]);
        lock(&recv).receive(PathId::PRIMARY, 0, Bytes::from_static(b"abcdef")).unwrap();
        lock(&recv).read(4).unwrap();
        let told = table.delivered();
        let sent = Sent { written: 100, acknowledged: 40, end: HalfEnd::Open };
        let received = ReadSoFar { read: 4, consumed: 4, end: HalfEnd::Open };
        assert_eq!(told, [Delivered { id, sent: Some(sent), received: Some(received) }]);
        lock(&send).finish().unwrap();
        lock(&recv).receive_fin(PathId::PRIMARY, 6).unwrap();
        let ends = |table: &StreamTable| {
            let told = table.delivered().remove(0);
            (told.sent.unwrap().end, told.received.unwrap().end)
        };
        assert_eq!(ends(&table), (HalfEnd::Finished(100), HalfEnd::Finished(6)));
        lock(&send).on_stopped(7);
        lock(&recv).stop();
        assert_eq!(ends(&table), (HalfEnd::RefusedByPeer(7), HalfEnd::GivenUp));
    }
}
