//! The same seed is the same run, to the last packet.

use kwik_sim::{Fate, Trace};

use crate::random;

fn run(seed: u64) -> (Trace, std::time::Duration) {
    let outcome = random::scenario(seed).run(seed);
    (outcome.trace, outcome.took)
}

#[test]
fn one_seed_gives_one_trace_of_packets() {
    let first: Vec<_> = (0..20).map(run).collect();
    let again: Vec<_> = (0..20).map(run).collect();
    for (seed, (one, two)) in first.iter().zip(&again).enumerate() {
        assert_eq!(one, two, "seed {seed}");
        assert!(one.0.count(Fate::Delivered) > 20, "{one:?}");
    }
    assert_ne!(first[0].0.digest, first[1].0.digest);
}
