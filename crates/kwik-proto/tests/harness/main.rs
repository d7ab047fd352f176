//! The three roles of the core, joined by in-memory pipes in virtual time: random scenarios from
//! seeds.
//!
//! A failure names its seed; `KWIK_SEED=n cargo test -p kwik-proto --test harness replay --
//! --nocapture` replays it with a trace. `KWIK_SCENARIOS=n` sets how many scenarios run in all.

#![allow(clippy::unwrap_used, reason = "a harness fails by panicking")]

mod checks;
mod client;
mod delivery;
mod directed;
mod edge;
mod pipe;
mod resume;
mod rng;
mod scenario;
mod server;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use checks::Coverage;
use scenario::ROUNDS;
use world::World;

const SCENARIOS: u64 = 20_000;

/// Failing seeds after which no more are tried.
const MOST_FAILURES: usize = 20;

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// All seeds, on all cores.
#[test]
fn seeds() {
    let worlds = from_env("KWIK_SCENARIOS").unwrap_or(SCENARIOS).div_ceil(ROUNDS);
    let (next, covered) = (AtomicU64::new(0), Mutex::new(Coverage::default()));
    let failed = Mutex::new(Vec::new());
    let work = || {
        while failed.lock().unwrap().len() < MOST_FAILURES {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= worlds {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| World::run(seed, false))) {
                Ok(coverage) => covered.lock().unwrap().add(&coverage),
                Err(_) => {
                    let command = "cargo test -p kwik-proto --test harness replay -- --nocapture";
                    eprintln!("replay with: KWIK_SEED={seed} {command}");
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let covered = covered.into_inner().unwrap();
    println!("{} scenarios on {threads} threads: {covered}", worlds * ROUNDS);
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
    if worlds * ROUNDS >= SCENARIOS {
        covered.check();
    }
}

#[test]
fn replay() {
    if let Some(seed) = from_env("KWIK_SEED") {
        World::run(seed, true);
    }
}
