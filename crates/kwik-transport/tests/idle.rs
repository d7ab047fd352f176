//! An idle session takes little more of the heap than a QUIC connection that does the same (8.1).

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "what it shares with the benches"
)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded anyway"
)]

#[path = "../benches/common/mod.rs"]
mod common;

use std::alloc::System;

use common::heap::idle;
use common::{Bare, Bed, Kwik, Settings};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SESSIONS: usize = 100;

#[test]
fn an_idle_session_takes_a_fifth_more_than_a_quic_connection_at_most() {
    let bed = Bed::new(Settings::default());
    let (kwik, quinn) = (idle::<Kwik>(&bed, SESSIONS), idle::<Bare>(&bed, SESSIONS));
    assert!(kwik <= 1.2 * quinn, "{kwik:.1} KiB against {quinn:.1} KiB");
}
