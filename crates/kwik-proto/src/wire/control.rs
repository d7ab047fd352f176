//! The control plane: length-delimited `ControlFrame`s (3.1 to 3.3).

use super::delimited::{self, DelimitedReader};
use super::pb::{self, control::ControlFrame, control::ControlFrameType};
use super::{WireError, validate};
use crate::limits::MAX_CONTROL_FRAME;
use bytes::{Bytes, BytesMut};
use prost::Message;

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
                validate::control(self)
            }

            fn payload(&self) -> Bytes {
                match self {
                    $(Self::$variant(message) => delimited::payload(message),)+
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
                    $(ControlFrameType::$variant => Self::$variant(Message::decode(payload)?),)+
                })
            }
        }
    };
}

messages! {
    AddPathRequest(pb::control::AddPathRequest),
    AddPathResponse(pb::control::AddPathResponse),
    RemovePathRequest(pb::control::RemovePathRequest),
    RemovePathResponse(pb::control::RemovePathResponse),
    PathStatusNotification(pb::control::PathStatusNotification),
    AuthenticationRequest(pb::control::AuthenticationRequest),
    AuthenticationResponse(pb::control::AuthenticationResponse),
    StreamCreateNotification(pb::control::StreamCreateNotification),
    RawPacketTransmission(pb::control::RawPacketTransmission),
    Lease(pb::control::Lease),
    Revoke(pb::control::Revoke),
    LeaseReport(pb::control::LeaseReport),
    Activate(pb::control::Activate),
    Cancel(pb::control::Cancel),
    Stopped(pb::control::Stopped),
    Uncovered(pb::control::Uncovered),
    StreamReset(pb::control::StreamReset),
    StopSending(pb::control::StopSending),
    MaxStreams(pb::control::MaxStreams),
    MaxStreamData(pb::control::MaxStreamData),
    RelayReport(pb::control::RelayReport),
    Resume(pb::control::Resume),
    Heartbeat(pb::control::Heartbeat),
    Backpressure(pb::control::Backpressure),
    SessionClose(pb::control::SessionClose),
    OffsetSyncRequest(pb::secondary::OffsetSyncRequest),
    OffsetSyncResponse(pb::secondary::OffsetSyncResponse),
    StreamMappingUpdate(pb::metadata::StreamMappingUpdate),
    PathReport(pb::control::PathReport),
    Ack(pb::data::AckFrame),
}

/// Appends `message` as the frame `frame_id`, which counts from 0 per path and direction.
pub fn encode(frame_id: u64, message: &ControlMessage, out: &mut BytesMut) {
    debug_assert_eq!(validate::control(message), Ok(()), "refused by its receiver");
    let frame = ControlFrame {
        frame_id,
        r#type: message.frame_type(),
        payload: message.payload(),
        timestamp: 0,
    };
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
            let message = ControlMessage::decode(frame.r#type, &frame.payload)?;
            validate::control(&message)?;
            Ok(message)
        })
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
mod tests;
