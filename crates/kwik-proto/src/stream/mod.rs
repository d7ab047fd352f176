//! Logical streams: their ids and limits, their sending and their receiving halves.

#[cfg(test)]
mod conflict_tests;
#[cfg(test)]
mod credit_tests;
mod delivered;
mod pool;
mod recv;
mod send;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use delivered::{Delivered, HalfEnd, ReadSoFar, Sent};
pub use pool::{Slot, StreamPool, WriterKey, WriterKind};
pub use recv::{
    Copies, Dispute, Piece, PieceEnd, Read, ReadError, Received, ReceivedBytes, RecvHalf,
    SharedRecv,
};
pub use send::{SendHalf, SharedSend, WriteError};
pub use table::{Destination, Halves, StreamTable, StreamWake};

pub use crate::stats::GapNotice;
pub use crate::wire::control::{MetadataError, Priority, StreamMetadata, StreamType};
