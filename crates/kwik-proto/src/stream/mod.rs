//! Logical streams: their ids and limits, their sending and their receiving halves.

#[cfg(test)]
mod credit_tests;
mod recv;
mod send;
mod table;
#[cfg(test)]
mod tests;
mod watch;

pub use recv::{Piece, PieceEnd, Read, ReadError, Received, RecvHalf, SharedRecv};
pub use send::{SendHalf, SharedSend, WriteError};
pub use table::{Halves, StreamTable, StreamWake};
pub use watch::GapNotice;
