//! KWIK over a simulated network: everything but the wire and the clock is what runs in production.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod cluster;
mod failover;
mod replay;
