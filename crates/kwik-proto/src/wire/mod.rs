//! What travels: control frames, data packets, raw packets and secondary streams as bytes.
//!
//! Every decoder here is streaming and bounded. Feed one chunk with `handle_input`, `poll` until it
//! returns `None`, feed the next; where the QUIC stream ends, `handle_fin` tells whether it may.
//! A decoder that failed repeats its error: the path is to end with [`WireError::code`] (3.3).

pub mod control;
pub mod data;
pub mod kind;
pub mod raw;
pub mod secondary;

mod convert;
mod delimited;
mod error;
mod pb;
mod varint;

/// As much of `text` as a message may carry.
pub(crate) fn clip(text: &str) -> &str {
    let mut end = text.len().min(crate::limits::MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod testing;

pub use control::{ControlDecoder, ControlMessage};
pub use data::{DataDecoder, DataEvent, DataOptions, FrameHeader, PacketEncoder, PacketFrame};
pub use error::WireError;
pub use kind::{KindDecoder, StreamKind};
pub use raw::RawDecoder;
pub use secondary::{SecondaryDecoder, SecondaryEvent};
