//! What is counted and told of sessions beside their snapshots (10.1, 10.2).
//!
//! Nothing is before [`Endpoint::watch`](crate::Endpoint::watch). From then on, counters rise with
//! events and batches, never with bytes, and by relaxed atomics alone; whatever a snapshot has is
//! read from it when somebody looks.

mod counters;
mod event;
mod events;
mod family;
mod last;
mod live;
mod observed;
mod read;
mod role;
mod watch;

pub use event::{Event, EventField, EventKind};
pub use events::Events;
pub use family::{Family, MetricKind, Sample, Value};
pub use live::LiveSession;
pub use read::FAMILIES;
pub use role::SessionRole;

pub(crate) use live::LiveWeak;
pub(crate) use observed::Metrics;
pub(crate) use read::read;
