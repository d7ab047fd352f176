//! The control plane: length-delimited `ControlFrame`s (3.1 to 3.3).

use super::WireError;
use super::convert::Convert;
use super::delimited::{self, DelimitedReader};
use super::pb::control::{ControlFrame, ControlFrameType};
use super::secondary::StreamMappingUpdate;
use crate::limits::MAX_CONTROL_FRAME;
use bytes::{Bytes, BytesMut};
use prost::Message;

mod blame;
mod lease;
mod metadata;
mod path;
mod priority;
mod session;
mod stream;

pub use blame::Blamed;
pub use lease::{Activate, Cancel, Lease, LeaseOutcome, LeaseReport, Revoke, Stopped, Uncovered};
pub use metadata::{MetadataError, StreamMetadata, StreamType};
pub use path::{
    AddPathRequest, AddPathResponse, PathFigures, PathReport, PathStatus, PathStatusNotification,
    RemovePathRequest, RemovePathResponse,
};
pub use priority::Priority;
pub use session::{
    Ack, AuthenticationRequest, AuthenticationResponse, Heartbeat, RawPacketTransmission,
    RelayReport, Resume, SessionClose, StreamLimits,
};
pub use stream::{
    Backpressure, BackpressureReason, MaxStreamData, MaxStreams, OffsetSyncRequest,
    OffsetSyncResponse, StopSending, StreamCreateNotification, StreamReset,
};

/// One table of what a control frame can be: variant, frame type and message.
macro_rules! messages {
    ($($variant:ident($message:ty),)+) => {
        /// What one control frame says; see `proto/control.proto`.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub enum ControlMessage {
            $($variant($message),)+
            /// A type of a later version: to be skipped (3.3).
            Unknown(i32),
        }

        impl ControlMessage {
            /// Its frame type's number on the wire.
            #[must_use]
            pub const fn frame_type(&self) -> i32 {
                match self {
                    $(Self::$variant(_) => ControlFrameType::$variant as i32,)+
                    Self::Unknown(number) => *number,
                }
            }

            /// What the documents call it.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)+
                    Self::Unknown(_) => "a frame of an unknown type",
                }
            }

            /// Whether a receiver takes it: every field is within its bounds.
            ///
            /// # Errors
            /// Which one is not.
            pub fn check(&self) -> Result<(), WireError> {
                Self::decode(self.frame_type(), &self.payload()).map(drop)
            }

            fn payload(&self) -> Bytes {
                match self {
                    $(Self::$variant(message) => delimited::payload(&message.to_proto()),)+
                    Self::Unknown(_) => delimited::payload(&()),
                }
            }

            /// Decodes from a slice, so that every bytes field is a right-sized copy: a message
            /// that is kept never pins the receive buffer that it came in.
            fn decode(number: i32, payload: &[u8]) -> Result<Self, WireError> {
                let Ok(frame_type) = ControlFrameType::try_from(number) else {
                    return Ok(Self::Unknown(number));
                };
                Ok(match frame_type {
                    $(ControlFrameType::$variant => {
                        Self::$variant(Convert::from_proto(Message::decode(payload)?)?)
                    },)+
                })
            }
        }
    };
}

messages! {
    AddPathRequest(AddPathRequest),
    AddPathResponse(AddPathResponse),
    RemovePathRequest(RemovePathRequest),
    RemovePathResponse(RemovePathResponse),
    PathStatusNotification(PathStatusNotification),
    AuthenticationRequest(AuthenticationRequest),
    AuthenticationResponse(AuthenticationResponse),
    StreamCreateNotification(StreamCreateNotification),
    RawPacketTransmission(RawPacketTransmission),
    Lease(Lease),
    Revoke(Revoke),
    LeaseReport(LeaseReport),
    Activate(Activate),
    Cancel(Cancel),
    Stopped(Stopped),
    Uncovered(Uncovered),
    StreamReset(StreamReset),
    StopSending(StopSending),
    MaxStreams(MaxStreams),
    MaxStreamData(MaxStreamData),
    RelayReport(RelayReport),
    Resume(Resume),
    Heartbeat(Heartbeat),
    Backpressure(Backpressure),
    SessionClose(SessionClose),
    OffsetSyncRequest(OffsetSyncRequest),
    OffsetSyncResponse(OffsetSyncResponse),
    StreamMappingUpdate(StreamMappingUpdate),
    PathReport(PathReport),
    Ack(Ack),
    Blamed(Blamed),
}

/// Appends `message` as the frame `frame_id`, which counts from 0 per path and direction.
pub fn encode(frame_id: u64, message: &ControlMessage, out: &mut BytesMut) {
    let (frame_type, payload) = (message.frame_type(), message.payload());
    debug_assert!(ControlMessage::decode(frame_type, &payload).is_ok(), "refused by its receiver");
    let frame = ControlFrame { frame_id, r#type: frame_type, payload, timestamp: 0 };
    debug_assert!(frame.encoded_len() <= MAX_CONTROL_FRAME, "refused by its receiver");
    delimited::encode(&frame, out);
}

/// Decodes the control stream of one path and direction. Holds at most one frame and one chunk.
#[derive(Debug)]
pub struct ControlDecoder {
    reader: DelimitedReader,
    next_id: u64,
}

impl Default for ControlDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ControlDecoder {
    /// Before the first frame, which has `frame_id` 0.
    #[must_use]
    pub fn new() -> Self {
        Self { reader: DelimitedReader::new(MAX_CONTROL_FRAME), next_id: 0 }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Panics
    /// When [`poll_frame`](Self::poll_frame) has not returned `None` since the last input.
    pub fn handle_input(&mut self, input: Bytes) {
        self.reader.handle_input(input);
    }

    /// The next message, within its bounds; `None` when more input is due.
    ///
    /// # Errors
    /// When a frame is oversized, malformed, empty or out of order; repeats ever after.
    pub fn poll_frame(&mut self) -> Result<Option<ControlMessage>, WireError> {
        let next_id = &mut self.next_id;
        self.reader.poll(|frame| {
            let frame = ControlFrame::decode(frame)?;
            if frame.frame_id != *next_id {
                return Err(WireError::FrameId { expected: *next_id, found: frame.frame_id });
            }
            *next_id += 1;
            if frame.payload.is_empty() {
                return Err(WireError::EmptyPayload);
            }
            ControlMessage::decode(frame.r#type, &frame.payload)
        })
    }

    /// The frame that is due next has this `frame_id`: where a new connection takes up path 0,
    /// behind its first two frames.
    pub const fn go_on_at(&mut self, frame_id: u64) {
        self.next_id = frame_id;
    }

    /// How many frames came, unknown ones included: the `frame_id` that is due.
    #[must_use]
    pub const fn frames(&self) -> u64 {
        self.next_id
    }

    /// Call when the QUIC stream has ended.
    ///
    /// # Errors
    /// When it ended inside a frame.
    pub fn handle_fin(&self) -> Result<(), WireError> {
        self.reader.handle_fin()
    }
}

#[cfg(test)]
mod fields;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
