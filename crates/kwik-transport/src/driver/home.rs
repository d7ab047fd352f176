//! The session's first path, without which there is no session.

use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use kwik_proto::PathId;
use kwik_proto::stream::{Delivered, SharedRecv};

use crate::quic::{Connection, ConnectionError};

/// The path without which there is no session.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) path: PathId,
    /// Its connection, or the last that it had.
    pub(super) connection: Mutex<Connection>,
    /// What is known of one that is gone.
    pub(super) gone: Mutex<Option<Box<Gone>>>,
    /// Held while it is replaced, or found to be gone: all that follows from the one is done before
    /// the next. Taken before the machine's lock.
    pub(super) replacing: Mutex<()>,
}

impl Home {
    pub(super) fn new(path: PathId, connection: &Connection) -> Self {
        let (gone, replacing) = (Mutex::default(), Mutex::default());
        Self { path, connection: connection.clone().into(), gone, replacing }
    }
}

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
