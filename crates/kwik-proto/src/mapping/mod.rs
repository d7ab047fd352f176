//! Explicitly mapped secondary streams: QUIC streams that a secondary opens to write into a
//! stream of the client, from an offset on and never back, under a lease that covers it (7.1 to
//! 7.3, 7.6, 7.7).
//!
//! A mapping moves no byte by itself: what its lease's pieces ask for comes on it instead of a data
//! stream, and is admitted by the same rule
//! ([`RecvHalf::receive`](crate::stream::RecvHalf::receive)). Both sides keep a [`MappingTable`];
//! the receiver of a secondary stream checks the order of its frames with [`Inbound`].

mod inbound;
mod table;
mod verdict;

pub use inbound::Inbound;
pub use table::{Mapping, MappingKey, MappingState, MappingTable, Place};
pub use verdict::Verdict;
