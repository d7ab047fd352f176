//! The one seam over the QUIC library: nothing outside this module names it, and no type of it
//! appears in a signature that leaves the module.

mod config;
mod congestion;
mod connection;
mod endpoint;
mod error;
#[cfg(not(feature = "qlog"))]
#[path = "no_qlog.rs"]
mod qlog;
#[cfg(feature = "qlog")]
mod qlog;
mod runtime;
mod socket;
mod stream;
mod tls;

#[cfg(test)]
mod tests;

pub use config::QuicConfig;
pub use congestion::CongestionControl;
pub(crate) use connection::{Connection, Figures, QuicStats};
pub(crate) use endpoint::{Connecting, Endpoint, Incoming};
pub use error::{ClosedStream, ConnectError, ConnectionError, SendDatagramError};
pub(crate) use error::{ReadError, WriteError};
#[cfg(feature = "qlog")]
pub use qlog::Qlog;
#[cfg(not(feature = "qlog"))]
pub(crate) use qlog::Qlog;
pub(crate) use qlog::TraceName;
pub(crate) use runtime::{Runtime, Sleep, yield_now};
pub(crate) use socket::UdpSocket;
pub(crate) use stream::{RecvStream, SendStream};
pub(crate) use tls::{ClientTls, ServerTls};
pub use tls::{ServerTrust, TlsError};

/// `value` as a QUIC variable-length integer, at most 2^62 - 1 (RFC 9000 section 16).
fn varint(value: u64) -> quinn::VarInt {
    quinn::VarInt::from_u64(value).unwrap_or(quinn::VarInt::MAX)
}
