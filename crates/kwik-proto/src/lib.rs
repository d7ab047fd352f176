//! The sans-IO core of KWIK (QUIC With Intelligent Konnections).
//!
//! No socket, task, clock or randomness lives here: input comes through `handle_*`, output goes
//! through `poll_*`, `now` is an argument. See `ARCHITECTURE.md` for how the planes fit together.

pub mod ack;
pub mod auth;
pub mod bottleneck;
pub mod control;
pub mod lease;
pub mod limits;
pub mod mapping;
pub mod path;
pub mod presentation;
pub mod range;
pub mod scheduler;
pub mod session;
pub mod stats;
pub mod stream;
pub mod sync;
pub mod wire;

mod code;
mod config;
mod escape;
mod event_log;
mod id;

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an instant to count from; tests only add to it")]
pub(crate) fn test_now() -> std::time::Instant {
    std::time::Instant::now()
}

pub use code::{Code, CodedError};
pub use config::{
    AggregationFallback, Backoff, Config, ConfigError, ConflictPolicy, MappingRetry,
    MetadataRecovery, Recovery, SecondaryStreamConfig, SecondaryWrites, WindowRecovery,
};
pub use escape::{Escaped, escape};
pub use event_log::{EventLog, LogCursor};
pub use id::{Dir, LeaseId, PathId, PieceId, SessionId, Side, StreamId};
