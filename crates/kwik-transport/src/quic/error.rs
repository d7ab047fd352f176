//! Errors of the QUIC layer: one enum an operation.

use std::{fmt, net::SocketAddr};

use bytes::Bytes;

use kwik_proto::auth::Fingerprint;
use kwik_proto::{Code, escape};

/// A peer's words, which may be anything.
fn text(reason: &[u8]) -> impl fmt::Display {
    escape(String::from_utf8_lossy(reason))
}

/// Why a QUIC connection ended. Reasons that a peer gave fit in one packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer speaks no QUIC version of ours.
    #[error("no QUIC version in common with the peer")]
    VersionMismatch,
    /// The peer broke QUIC, or the TLS handshake failed here (RFC 9000 section 20.1).
    #[error("QUIC error {code:#x}: {}", escape(.reason))]
    TransportError {
        /// QUIC transport error code; 0x100 to 0x1ff are TLS alerts.
        code: u64,
        /// What was wrong.
        reason: String,
    },
    /// The peer's QUIC stack ended the connection.
    #[error("ended by the peer's QUIC stack, error {code:#x}: {}", text(.reason))]
    ConnectionClosed {
        /// QUIC transport error code; 0x100 to 0x1ff are TLS alerts.
        code: u64,
        /// The peer's words.
        reason: Bytes,
    },
    /// The peer's application closed the connection.
    #[error("closed by the peer, code {code:#x}: {}", text(.reason))]
    ApplicationClosed {
        /// The application's code.
        code: u64,
        /// The peer's words.
        reason: Bytes,
    },
    /// The server is full, or takes no connections now. Later it may.
    #[error("the server is busy: try again")]
    Busy,
    /// The connection was lost, and the server keeps the session no more: the client was away for
    /// too long, or too many were.
    #[error("the server no longer knows the session")]
    SessionUnknown,
    /// The connection was lost, and the server was restarted, which ended the session.
    #[error("the server was restarted, which ended the session")]
    ServerRestarted,
    /// The peer does not know the connection any more, usually since it restarted.
    #[error("the peer has forgotten the connection")]
    Reset,
    /// Nothing was heard for the idle timeout.
    #[error("nothing heard from the peer for the idle timeout")]
    TimedOut,
    /// This side closed the connection.
    #[error("closed here")]
    LocallyClosed,
    /// No connection id is left.
    #[error("no QUIC connection id left")]
    CidsExhausted,
}

/// RFC 9000 section 20.1.
const CONNECTION_REFUSED: u64 = 0x2;

impl ConnectionError {
    /// The peer closed the connection or the session with this code.
    pub(crate) fn closed_by_peer(code: u64, reason: Bytes) -> Self {
        match Code::from_u64(code) {
            Some(Code::Busy) => Self::Busy,
            _ => Self::ApplicationClosed { code, reason },
        }
    }

    /// Somebody wanted it so: there is nothing to go on with on another connection.
    pub(crate) fn ends_session(&self) -> bool {
        match self {
            // This ends a connection, and says nothing of the session.
            Self::ApplicationClosed { code, .. } => *code != Code::PathDead.as_u64(),
            Self::Busy | Self::LocallyClosed => true,
            _ => false,
        }
    }

    pub(super) fn from_quic(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as Quic;
        match error {
            Quic::VersionMismatch => Self::VersionMismatch,
            Quic::TransportError(error) => {
                Self::TransportError { code: error.code.into(), reason: error.reason }
            }
            // CONNECTION_REFUSED, of a server that did not even begin the handshake.
            Quic::ConnectionClosed(close) if u64::from(close.error_code) == CONNECTION_REFUSED => {
                Self::Busy
            }
            Quic::ConnectionClosed(close) => {
                Self::ConnectionClosed { code: close.error_code.into(), reason: close.reason }
            }
            Quic::ApplicationClosed(close) => {
                Self::closed_by_peer(close.error_code.into(), close.reason)
            }
            Quic::Reset => Self::Reset,
            Quic::TimedOut => Self::TimedOut,
            Quic::LocallyClosed => Self::LocallyClosed,
            Quic::CidsExhausted => Self::CidsExhausted,
        }
    }
}

/// Why a connection could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is closed.
    #[error("the endpoint is closed")]
    EndpointStopping,
    /// No connection id is left.
    #[error("no QUIC connection id left")]
    CidsExhausted,
    /// Neither a DNS name nor an IP address.
    #[error("invalid server name: {}", escape(.0))]
    InvalidServerName(String),
    /// Port 0, or an address family that the socket does not have.
    #[error("address {0} cannot be dialed from this socket")]
    InvalidRemoteAddress(SocketAddr),
    /// The server has another key than the pinned one. `actual` is what it presented; it did not
    /// prove that it holds that key.
    #[error("the server's key is {actual}, not the pinned {expected}")]
    PinMismatch {
        /// The pin.
        expected: Fingerprint,
        /// What the server presented.
        actual: Fingerprint,
    },
    /// No configuration was given, and the endpoint has no default.
    #[error("no client configuration: use connect_with, or set_default_client_config first")]
    NoDefaultClientConfig,
    /// The configuration cannot be used.
    #[error("invalid client configuration: {}", escape(.0))]
    InvalidConfig(String),
    /// The client was not let in; it was told why.
    #[error("refused: {}", escape(.0))]
    Refused(String),
    /// A session that was accepted before goes on over this connection: there is nothing to do but
    /// to accept the next. Sessions outlive their connections only while their server does that,
    /// whatever an attempt turns out to be: no error of one is a reason to stop.
    #[error("an earlier session goes on over this connection")]
    Resumed,
    /// No other primary is known: see [`SessionEnd::primaries`](crate::SessionEnd::primaries).
    #[error("there is no primary to dial for a new session")]
    NoPrimary,
    /// None of several primaries could be dialed: each with its address and why.
    #[error("none of {} primaries could be dialed: {}", .0.len(), reasons(.0))]
    AllFailed(Vec<(SocketAddr, ConnectError)>),
    /// The handshake failed, or the connection was lost during it.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

fn reasons(failed: &[(SocketAddr, ConnectError)]) -> String {
    let reasons: Vec<_> =
        failed.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    reasons.join("; ")
}

impl ConnectError {
    pub(super) fn from_quic(error: quinn::ConnectError) -> Self {
        use quinn::ConnectError as Quic;
        match error {
            Quic::EndpointStopping => Self::EndpointStopping,
            Quic::CidsExhausted => Self::CidsExhausted,
            Quic::InvalidServerName(name) => Self::InvalidServerName(name),
            Quic::InvalidRemoteAddress(address) => Self::InvalidRemoteAddress(address),
            Quic::UnsupportedVersion => ConnectionError::VersionMismatch.into(),
            Quic::NoDefaultClientConfig => {
                unreachable!("invariant: every dial brings its own client configuration")
            }
        }
    }
}

/// Why a write to a QUIC stream failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum WriteError {
    /// The peer takes no more data, with the application's code.
    #[error("stopped by the peer, code {0:#x}")]
    Stopped(u64),
    /// The connection ended.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was finished or reset before.
    #[error("the stream is finished or reset")]
    ClosedStream,
}

impl WriteError {
    pub(super) fn from_quic(error: quinn::WriteError) -> Self {
        use quinn::WriteError as Quic;
        match error {
            Quic::Stopped(code) => Self::Stopped(code.into_inner()),
            Quic::ConnectionLost(error) => ConnectionError::from_quic(error).into(),
            // Early data is never sent, so the second cannot be.
            Quic::ClosedStream | Quic::ZeroRttRejected => Self::ClosedStream,
        }
    }
}

/// Why a read from a QUIC stream failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReadError {
    /// The peer gave the stream up, with the application's code.
    #[error("reset by the peer, code {0:#x}")]
    Reset(u64),
    /// The connection ended.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was stopped, finished or reset before.
    #[error("the stream is stopped, finished or reset")]
    ClosedStream,
    /// An ordered read after an unordered one.
    #[error("ordered read after an unordered one: keep to unordered reads")]
    IllegalOrderedRead,
}

impl ReadError {
    pub(super) fn from_quic(error: quinn::ReadError) -> Self {
        use quinn::ReadError as Quic;
        match error {
            Quic::Reset(code) => Self::Reset(code.into_inner()),
            Quic::ConnectionLost(error) => ConnectionError::from_quic(error).into(),
            // Early data is never sent, so the second cannot be.
            Quic::ClosedStream | Quic::ZeroRttRejected => Self::ClosedStream,
            Quic::IllegalOrderedRead => Self::IllegalOrderedRead,
        }
    }
}

/// Why a datagram was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendDatagramError {
    /// The peer takes no datagrams.
    #[error("the peer takes no datagrams")]
    UnsupportedByPeer,
    /// Datagrams are off at this side.
    #[error("datagrams are off at this side")]
    Disabled,
    /// Larger than what one packet of this path, or the peer, takes now.
    #[error("datagram too large: ask max_datagram_size")]
    TooLarge,
    /// The connection ended.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
}

impl SendDatagramError {
    pub(super) fn from_quic(error: quinn::SendDatagramError) -> Self {
        use quinn::SendDatagramError as Quic;
        match error {
            Quic::UnsupportedByPeer => Self::UnsupportedByPeer,
            Quic::Disabled => Self::Disabled,
            Quic::TooLarge => Self::TooLarge,
            Quic::ConnectionLost(error) => ConnectionError::from_quic(error).into(),
        }
    }
}

/// The stream was finished, reset or stopped before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is finished, reset or stopped")]
pub struct ClosedStream;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_words_are_shown_escaped() {
        let words = "bye\r\n\u{1b}]0;\u{7}\u{9b}31m\u{202e}\u{2028}";
        let shown = r"bye\r\n\u{1b}]0;\u{7}\u{9b}31m\u{202e}\u{2028}";
        let reason = Bytes::from_static(words.as_bytes());
        let errors = [
            ConnectionError::TransportError { code: 1, reason: words.to_owned() },
            ConnectionError::ConnectionClosed { code: 1, reason: reason.clone() },
            ConnectionError::ApplicationClosed { code: 1, reason },
        ];
        for error in errors {
            let error = ConnectError::from(error).to_string();
            assert!(error.ends_with(shown), "{error}");
        }
        for error in [ConnectError::Refused, ConnectError::InvalidServerName] {
            let error = error(words.to_owned()).to_string();
            assert!(error.ends_with(shown), "{error}");
        }
    }
}
