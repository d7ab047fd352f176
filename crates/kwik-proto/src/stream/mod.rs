//! Logical streams: their ids and limits, their sending and their receiving halves.

#[cfg(test)]
mod credit_tests;
mod metadata;
mod pool;
mod priority;
mod recv;
mod send;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use metadata::{MetadataError, StreamMetadata, StreamType};
pub use pool::{Slot, StreamPool, WriterKey, WriterKind};
pub use priority::Priority;
pub use recv::{Piece, PieceEnd, Read, ReadError, Received, RecvHalf, SharedRecv};
pub use send::{SendHalf, SharedSend, WriteError};
pub use table::{Halves, StreamTable, StreamWake};
pub use watch::GapNotice;
