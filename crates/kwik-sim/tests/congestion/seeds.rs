//! Which controllers and seeds are measured.

use std::env;
use std::thread;

use kwik::CongestionControl::{self, Cubic, Model, Tolerant};

use crate::bottleneck::Outcome;

pub(crate) fn controls() -> &'static [CongestionControl] {
    match env::var("KWIK_CONGESTION").as_deref() {
        Ok("tolerant") => &[Tolerant],
        Ok("model") => &[Model],
        Ok("cubic") => &[Cubic],
        Ok("all") => &[Tolerant, Model, Cubic],
        _ => &[Tolerant, Model],
    }
}

/// Whether a case is to be measured.
pub(crate) fn wanted(case: &str) -> bool {
    env::var("KWIK_CASE").map_or(true, |only| only == case)
}

/// The outcome for each seed.
pub(crate) fn each(run: impl Fn(u64) -> Outcome + Sync) -> Vec<Outcome> {
    let count = env::var("KWIK_SEEDS").map_or(1, |count| count.parse().unwrap());
    let seeds = (0..count).collect::<Vec<u64>>();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut all = Vec::new();
    for some in seeds.chunks(cores) {
        thread::scope(|scope| {
            let run = &run;
            let start = |seed: &u64| {
                let seed = *seed;
                scope.spawn(move || run(seed))
            };
            let runs = some.iter().map(start).collect::<Vec<_>>();
            all.extend(runs.into_iter().map(|run| run.join().unwrap()));
        });
    }
    all
}

/// The figure of all outcomes: the least, the median, the greatest.
pub(crate) fn spread(all: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> [f64; 3] {
    let mut values = all.iter().map(figure).collect::<Vec<_>>();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}
