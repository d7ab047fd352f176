//! Which mixes are measured, on all cores.

use kwik::CongestionControl;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::network::Link;
use crate::transfer::{Outcome, Way};

pub(crate) fn from_env(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A single mix is replayed.
pub(crate) static DETAILS: LazyLock<bool> = LazyLock::new(|| from_env("KWIK_SEED").is_some());

/// What servers send by: the default, or `KWIK_CONGESTION=cubic|tolerant|model`.
pub(crate) static CONTROL: LazyLock<CongestionControl> =
    LazyLock::new(|| match env::var("KWIK_CONGESTION").as_deref() {
        Ok("cubic") => CongestionControl::Cubic,
        Ok("tolerant") => CongestionControl::Tolerant,
        Ok("model") => CongestionControl::Model,
        _ => CongestionControl::default(),
    });

/// Families take turns, each with all cores, so that their tables do not mix.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures one mix for each seed: `few` unless `KWIK_MIXES` says how many, `most` at the most.
pub(crate) fn measure<T: Send>(few: u64, most: u64, mix: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let first = from_env("KWIK_SEED").or_else(|| from_env("KWIK_MIX_SEED")).unwrap_or(0);
    let count = from_env("KWIK_MIXES").unwrap_or(few).min(most);
    let count = if *DETAILS { 1 } else { count };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(first);
    let (measured, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= first + count {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| mix(seed))) {
                Ok(result) => measured.lock().unwrap().push((seed, result)),
                Err(_) => failed.lock().unwrap().push(seed),
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(failed.is_empty(), "failing seeds, replay with KWIK_SEED: {failed:?}");
    let mut measured = measured.into_inner().unwrap();
    measured.sort_by_key(|(seed, _)| *seed);
    measured.into_iter().map(|(_, result)| result).collect()
}

/// What each path brought.
pub(crate) fn show_details(links: &[Link], way: Way, outcome: &Outcome) {
    let Outcome { len, reading, .. } = outcome;
    println!("{way:?}: {len} bytes in {:.3} s", outcome.took());
    println!("  first byte after {:.3} s, wire {:.3}", reading.first_after(), outcome.wire());
    for path in &reading.stats.paths {
        let link = links.get(path.id.0 as usize);
        println!("  path {}: {} bytes, {link:?}", path.id.0, path.figures.received);
    }
}
