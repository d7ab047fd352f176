//! Measures how well leased objects use their links, over random mixes of links in virtual time.
//!
//! Each family prints a table. Environment:
//!
//! - `KWIK_MIXES=n`: mixes of each family; a few by default.
//! - `KWIK_MIX_SEED=n`: the first seed, 0 by default.
//! - `KWIK_SEED=n`: that mix alone, with what each path brought.
//! - `KWIK_CONGESTION=model`: all send by the model of the path, and not by CUBIC.
//! - `KWIK_MIX_CSV=file`: one line for each mix is appended there.
//! - `KWIK_MIX_STRICT=1`: a figure past its bound (`bounds.rs`) fails its test.
//!
//! `KWIK_MIXES=60 cargo test --release -p kwik-sim --test mixes -- --nocapture` runs all families;
//! a name before the second `--` runs one.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]
#![allow(clippy::cast_sign_loss, reason = "figures are not negative")]

mod bounds;
mod bulk;
#[path = "../net/content.rs"]
mod content;
mod mix;
mod network;
mod report;
mod seeds;
mod shared;
mod short;
mod tiny;
mod transfer;
