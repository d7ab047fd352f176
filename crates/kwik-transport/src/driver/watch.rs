//! Who is told what happens to a session.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use kwik_proto::session::SessionEvent;
use kwik_proto::stats::SessionStats;
use kwik_proto::{PathId, SessionId};

use crate::quic::{ConnectionError, QuicStats};

/// Counts and tells what happens to a session. It is called with each batch and each event, never
/// with each byte. Who implements it knows sessions, so sessions know only this of it.
pub(crate) trait Watch: Debug + Send + Sync {
    /// It began.
    fn on_begun(&self, session: Option<SessionId>);

    /// A client's primary has accepted it.
    fn on_accepted(&self, now: Instant);

    /// A batch came.
    fn on_received(&self, path: PathId, bytes: u64, conflicting: u64);

    /// The peer answered, and the connection has this round trip.
    fn on_rtt(&self, rtt: Duration);

    /// A connection of the session is let go.
    fn on_connection_ended(&self, stats: &QuicStats);

    /// Something happened to it.
    fn on_event(&self, session: Option<SessionId>, event: SessionEvent);

    /// It goes on over another connection to or from its primary.
    fn on_resumed(&self, session: Option<SessionId>);

    /// It is over; `totals` are its last figures.
    fn on_ended(
        &self,
        session: Option<SessionId>,
        error: &ConnectionError,
        totals: Option<&SessionStats>,
    );
}
