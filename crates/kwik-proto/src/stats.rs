//! Figures of a session, as snapshots.

use std::time::Duration;

use crate::{PathId, path::PathStatus};

/// What one path has done for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStats {
    /// Which path.
    pub id: PathId,
    /// Where it leads; empty on the primary's own side.
    pub address: String,
    /// Its state.
    pub status: PathStatus,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Payload bytes received over it, copies included.
    pub received: u64,
    /// Measured delivery rate in bytes a second; none until measured.
    pub rate: Option<u64>,
    /// Bytes activated on it that have not come yet.
    pub outstanding: u64,
    /// Its secondary streams, at the client.
    pub secondary: SecondaryStats,
}

/// The explicitly mapped secondary streams of one path (7.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SecondaryStats {
    /// Open under a live lease.
    pub active: usize,
    /// Opened under a lease so far.
    pub mapped: u64,
    /// Opened or moved to where no lease of the path was.
    pub unmapped: u64,
    /// Payload bytes that came on them.
    pub bytes: u64,
}

/// What a session has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Its paths.
    pub paths: Vec<PathStats>,
    /// Live streams.
    pub streams: usize,
    /// Live leases.
    pub leases: usize,
    /// Pieces that are activated and not over.
    pub pieces: usize,
    /// Size of the receive window in bytes.
    pub window: u64,
    /// Of which granted to streams.
    pub granted: u64,
    /// Bytes sent here that the peer has not acknowledged.
    pub unacknowledged: u64,
    /// Pooled QUIC streams that carry what is sent here (5.2); the driver's.
    pub quic_streams: usize,
    /// How many of them were ever opened.
    pub quic_streams_opened: u64,
}
