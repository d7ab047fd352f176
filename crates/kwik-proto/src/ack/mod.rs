//! Packet numbers and their acknowledgement (4.1).
//!
//! Each packet of a path and direction has an id, from 1, rising by one. Its receiver tells once,
//! on the path's control stream, that it arrived whole. Both ends keep state for no more than
//! [`MAX_UNACKED_PACKETS`](crate::limits::MAX_UNACKED_PACKETS) ids: the sender stops at that
//! distance from the lowest id that is not acknowledged, and since its receiver misses no id below
//! that one, it takes a greater distance for a violation.

mod received;
mod sent;
#[cfg(test)]
mod tests;

pub use received::{ArrivedPackets, ReceivedPackets};
pub use sent::{KeptFrames, Lane, SentPackets, SharedSent};

use crate::{Code, CodedError};

fn violation(what: String) -> CodedError {
    CodedError::new(Code::InvalidFrame, what)
}
