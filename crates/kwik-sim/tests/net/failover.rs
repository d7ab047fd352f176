//! What a reader sees when servers fail: links of 50, 100 and 200 Mbit/s with round trips of 40, 60 and 20 ms.

use crate::cluster::Reading;
use crate::scenario::{Fault, Scenario, ms};

const LINKS: [(u64, u64); 3] = [(50, 40), (100, 60), (200, 20)];
const OBJECT: u64 = 64_000_000;

fn read(name: &str, seed: u64, fault: Option<Fault>) -> Reading {
    let mut scenario = Scenario::with_links(&LINKS).fetch(OBJECT);
    scenario.faults.extend(fault.map(|fault| (ms(1000), fault)));
    let mut outcome = scenario.run(seed);
    let reading = outcome.fetched.remove(0).1.unwrap();
    let (wait, at) = reading.longest_wait();
    println!("{name}: {:?}, longest wait {wait:?} until {at:?}", reading.took());
    reading
}

#[test]
#[ignore = "prints figures"]
fn figures() {
    for seed in 0..3 {
        read("whole", seed, None);
        for edge in [1, 2] {
            read(&format!("crash {edge}"), seed, Some(Fault::Crash(edge)));
            read(&format!("freeze {edge}"), seed, Some(Fault::Freeze(edge)));
            read(&format!("tenth {edge}"), seed, Some(Fault::Slow(edge, 10)));
        }
    }
}

#[test]
fn an_edge_that_crashes_costs_a_moment() {
    let reading = read("crash", 1, Some(Fault::Crash(1)));
    assert!(reading.longest_wait().0 < ms(300), "{:?}", reading.longest_wait());
}
