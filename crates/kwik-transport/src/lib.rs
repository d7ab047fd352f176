//! KWIK (QUIC With Intelligent Konnections): one session with the API of a QUIC library, several
//! servers behind it.

#[allow(dead_code, unused_imports, reason = "the session layer, which uses it, comes on top")]
mod quic;

pub use quic::{
    ClosedStream, ConnectError, ConnectionError, Fingerprint, QuicConfig, ReadError,
    SendDatagramError, ServerTrust, TlsError, WriteError,
};
