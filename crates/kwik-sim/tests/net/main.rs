//! KWIK over a simulated network: everything but the wire and the clock is what runs in production.
//!
//! A failure names its seed; `KWIK_SEED=n cargo test --release -p kwik-sim --test net replay_one --
//! --nocapture` replays it. `KWIK_NETWORKS=n` sets how many random scenarios run.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod bare;
mod blocked;
mod cluster;
mod content;
mod coverage;
mod crimes;
mod directed;
mod failover;
mod full_link;
mod hostile;
mod lost;
mod opening;
mod priority;
mod random;
mod replay;
mod resume;
mod scenario;
mod seeds;
mod slots;
mod urgent;
