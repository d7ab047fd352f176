//! Congestion control at one bottleneck, in virtual time.
//!
//! Each family prints a line for each of its cases: medians over the seeds, and the worst where it
//! counts. Environment:
//!
//! - `KWIK_SEEDS=n`: seeds of each case; one by default.
//! - `KWIK_CONGESTION=tolerant|model|cubic|all`: the controllers that are measured; the first two
//!   by default.
//! - `KWIK_CASE=name`: that case alone.
//!
//! `KWIK_SEEDS=10 cargo test --release -p kwik-sim --test congestion -- --nocapture` measures all.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]
#![allow(clippy::cast_sign_loss, reason = "figures are not negative")]

mod bottleneck;
#[path = "../net/content.rs"]
#[allow(dead_code, reason = "bytes are counted here, not checked")]
mod content;
mod fairness;
mod flow;
mod loss;
mod seeds;
mod steps;
