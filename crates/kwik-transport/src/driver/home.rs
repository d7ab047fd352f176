//! The session's first path, without which there is no session.

use std::time::Instant;

use bytes::Bytes;
use kwik_proto::stream::{Delivered, SharedRecv};

use crate::quic::{Connection, ConnectionError};

/// A first path's connection that another is to replace.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Why it is gone, if QUIC says so.
    pub(super) error: Option<ConnectionError>,
    /// To be closed once the peer knows of the other.
    pub(super) former: Option<Connection>,
    /// With what the session was closed: so is a connection that comes too late.
    pub(super) closing: Option<(u64, Bytes)>,
    pub(super) end: Option<Ending>,
}

/// What a session had come to when it ended.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) at: Instant,
    /// Payload came, or was acknowledged.
    pub(super) bore: bool,
    /// What was delivered of streams that were not done with, and who knows what was read since.
    pub(super) delivered: Vec<(Delivered, Option<SharedRecv>)>,
}
