//! What happens to a session, for who watches it (10.2).

use std::time::Duration;

use crate::path::PathEvent;
use crate::presentation::BackpressureChange;
use crate::wire::control::LeaseOutcome;
use crate::{PathId, StreamId};

/// Something that happened to a session. Payload brings none, and control frames few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// A path changed its status.
    Path(PathEvent),
    /// A lease ended.
    Lease {
        /// Of which path and stream, at the primary.
        of: Option<(PathId, StreamId)>,
        /// How.
        outcome: LeaseOutcome,
    },
    /// Backpressure that this side applies began, changed its reason, or ended.
    Backpressure(BackpressureChange),
    /// A path fell silent, and what it owed is asked of others.
    Switched {
        /// Which path.
        path: PathId,
        /// How long it had brought nothing.
        after: Duration,
    },
    /// A path answered a heartbeat.
    Answered {
        /// Which path.
        path: PathId,
        /// How long that took.
        after: Duration,
    },
}
