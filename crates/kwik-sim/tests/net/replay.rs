//! The same seed is the same run, to the last packet.

use std::process::Command;
use std::thread;

use kwik_sim::Fate;

use crate::random;

const SEEDS: u64 = 300;

/// The seed's trace: a digest of each packet's time, addresses, size and fate.
fn trace(seed: u64) -> String {
    let outcome = random::scenario(seed).run(seed);
    let delivered = outcome.trace.count(Fate::Delivered);
    assert!(delivered > 20, "{delivered}");
    format!("trace {seed} {:016x} {:?}", outcome.trace.digest, outcome.took)
}

/// What the other process does: all seeds on one thread, the last first.
#[test]
fn traces() {
    if std::env::var_os("KWIK_TRACES").is_some() {
        (0..SEEDS).rev().for_each(|seed| println!("{}", trace(seed)));
    }
}

#[test]
fn one_seed_gives_one_trace_of_packets_on_any_thread_and_in_any_process() {
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "replay::traces", "--nocapture"]).env("KWIK_TRACES", "1");
    let there = thread::spawn(move || other.output().unwrap().stdout);
    let (one, two) = thread::scope(|scope| {
        let part =
            |from| scope.spawn(move || (from..SEEDS).step_by(2).map(trace).collect::<Vec<_>>());
        let (one, two) = (part(0), part(1));
        (one.join().unwrap(), two.join().unwrap())
    });
    let there = String::from_utf8(there.join().unwrap()).unwrap();
    let mut there: Vec<_> = there.lines().filter(|line| line.starts_with("trace ")).collect();
    let mut here: Vec<_> = one.iter().chain(&two).map(String::as_str).collect();
    there.sort_unstable();
    here.sort_unstable();
    assert_eq!(here.len() as u64, SEEDS);
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(here, there);
    }
    assert_eq!(here.len(), there.len());
    assert_ne!(here[0].split(' ').nth(2), here[1].split(' ').nth(2));
}
