//! The three roles of the core, joined by in-memory pipes in virtual time: random scenarios from seeds.
//!
//! A failure names its seed; `KWIK_SEED=n cargo test -p kwik-proto --test harness replay -- --nocapture`
//! replays it with a trace. `KWIK_SCENARIOS=n` sets how many scenarios run in all.

#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

mod checks;
mod client;
mod directed;
mod edge;
mod pipe;
mod rng;
mod scenario;
mod server;
mod world;

use checks::Coverage;
use scenario::ROUNDS;
use world::World;

const SCENARIOS: u64 = 20_000;

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says how to replay a seed that panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let command = "cargo test -p kwik-proto --test harness replay -- --nocapture";
            eprintln!("replay with: KWIK_SEED={} {command}", self.0);
        }
    }
}

fn run(seed: u64, trace: bool) -> Coverage {
    let _replay = Replay(seed);
    World::run(seed, trace)
}

/// Runs the `part`-th of `parts` of all seeds.
fn run_part(part: u64, parts: u64) {
    if from_env("KWIK_SEED").is_some() {
        return;
    }
    let worlds = from_env("KWIK_SCENARIOS").unwrap_or(SCENARIOS).div_ceil(ROUNDS);
    let mut covered = Coverage::default();
    for seed in (0..worlds).filter(|seed| seed % parts == part) {
        covered.add(&run(seed, false));
    }
    println!("{covered:#?}");
    if worlds * ROUNDS >= SCENARIOS {
        covered.check();
    }
}

#[test]
fn even_seeds() {
    run_part(0, 2);
}

#[test]
fn odd_seeds() {
    run_part(1, 2);
}

#[test]
fn replay() {
    if let Some(seed) = from_env("KWIK_SEED") {
        run(seed, true);
    }
}
