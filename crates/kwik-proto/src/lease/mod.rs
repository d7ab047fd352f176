//! Leases: permission for one path to bring a range of a stream (ARCHITECTURE.md#four-rules).
//!
//! The primary issues them ([`LeaseIssuer`]), a client schedules them, and whoever writes for one
//! holds a [`Writer`] that is bounded to what the client has activated.

mod issuer;
mod writer;

pub use issuer::{IssuedLease, LeaseIssuer, LeaseOutcome};
pub use writer::{SharedWriter, Writer, WriterTable};
