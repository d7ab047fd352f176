//! KWIK next to bare quinn, in turn, on loopback; both are told the same.
//!
//! `cargo bench -p kwik-transport --bench compare -- [OPTIONS] [NAMES...]` (docs/performance.md)
//! prints each round, then a table for each bench: medians, and the median of the rounds' ratios.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded anyway"
)]

mod backpressure;
#[path = "../common/mod.rs"]
mod common;
mod first_byte;
mod latency;
mod servers;
mod streams;
mod throughput;

use common::{Bed, Options, Report};

fn main() {
    let mut report = Report::new(Options::parse());
    let bed = Bed::new(report.options.settings.clone());
    report.bench("throughput", |report| throughput::run(report, &bed));
    report.bench("servers", |report| servers::run(report, &bed));
    report.bench("latency", |report| latency::run(report, &bed));
    report.bench("first_byte", |report| first_byte::run(report, &bed));
    report.bench("streams", |report| streams::run(report, &bed));
    report.bench("backpressure", |report| backpressure::run(report, &bed));
    report.finish();
}
