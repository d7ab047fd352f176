//! KWIK's error codes (9.1): a name, and a number on the wire.

use std::fmt;

use crate::escape;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a stream, path or session was refused or ended (9.1).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Code {
            /// Every code, in order of number.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name that people see and that travels in a close reason.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// From its number on the wire.
            #[must_use]
            pub const fn from_u64(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

codes! {
    /// No path has this id.
    PathNotFound = 0x4b01, "KWIK_PATH_NOT_FOUND";
    /// The path is dead; nothing can be sent on it.
    PathDead = 0x4b02, "KWIK_PATH_DEAD";
    /// A frame is malformed, oversized or out of order.
    InvalidFrame = 0x4b03, "KWIK_INVALID_FRAME";
    /// Authentication failed.
    AuthFailed = 0x4b04, "KWIK_AUTH_FAILED";
    /// A stream could not be created.
    StreamCreateFailed = 0x4b05, "KWIK_STREAM_CREATE_FAILED";
    /// A raw packet is over the limit.
    PacketTooLarge = 0x4b06, "KWIK_PACKET_TOO_LARGE";
    /// Data beyond a limit or the final size, or a final size that moved.
    OffsetMismatch = 0x4b07, "KWIK_OFFSET_MISMATCH";
    /// A secondary wrote where it holds no lease or activation.
    SecondaryStreamIsolation = 0x4b08, "KWIK_SECONDARY_STREAM_ISOLATION";
    /// Two mappings contradict each other.
    StreamMappingConflict = 0x4b09, "KWIK_STREAM_MAPPING_CONFLICT";
    /// Two sides disagree where a source continues.
    OffsetSyncFailure = 0x4b0a, "KWIK_OFFSET_SYNC_FAILURE";
    /// Stream metadata broke its protocol.
    MetadataProtocolViolation = 0x4b0b, "KWIK_METADATA_PROTOCOL_VIOLATION";
    /// No server brought the missing bytes in time.
    AggregationTimeout = 0x4b0c, "KWIK_AGGREGATION_TIMEOUT";
    /// A secondary sent more than it may.
    SecondaryStreamOverflow = 0x4b0d, "KWIK_SECONDARY_STREAM_OVERFLOW";
    /// A peer did what its role may not do.
    InvalidStreamRole = 0x4b0e, "KWIK_INVALID_STREAM_ROLE";
    /// The peer is out of a bounded resource.
    LimitExceeded = 0x4b0f, "KWIK_LIMIT_EXCEEDED";
    /// The server is full: there may be room later.
    Busy = 0x4b10, "KWIK_BUSY";
    /// The server keeps no such session any more: it was away for too long, or has ended.
    SessionUnknown = 0x4b11, "KWIK_SESSION_UNKNOWN";
    /// Another process of the server had the session, which ended with it.
    ServerRestarted = 0x4b12, "KWIK_SERVER_RESTARTED";
    /// An orderly end without an error.
    NoError = 0x4b00, "KWIK_NO_ERROR";
}

impl Code {
    /// Its number on the wire, as a QUIC application error code.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self as u64
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A peer broke the protocol, or a request cannot be met: a code with its context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {}", escape(.context))]
pub struct CodedError {
    /// What kind.
    pub code: Code,
    /// Which frame, stream or path, and why. It may hold a peer's words as they came.
    pub context: String,
}

impl CodedError {
    /// `code`, explained by `context`.
    pub fn new(code: Code, context: impl Into<String>) -> Self {
        Self { code, context: context.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_words_are_shown_escaped() {
        let error = CodedError::new(Code::AuthFailed, "no\n\u{1b}[2JERROR \u{202e}");
        assert_eq!(error.to_string(), r"KWIK_AUTH_FAILED: no\n\u{1b}[2JERROR \u{202e}");
    }

    #[test]
    fn numbers_round_trip_and_are_unique() {
        for code in Code::ALL {
            assert_eq!(Code::from_u64(code.as_u64()), Some(*code));
        }
    }
}
