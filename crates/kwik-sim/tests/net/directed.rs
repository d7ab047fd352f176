//! Single situations that random scenarios found.

use std::time::Duration;

use kwik::Config;
use kwik_sim::Shape;

use crate::cluster::{Kind, Request};
use crate::scenario::{Fault, Fetch, Scenario, ms};

/// One server at 20 Mbit/s and 40 ms, one small fetch, and that.
fn alone(faults: Vec<(Duration, Fault)>) -> Scenario {
    let link = Shape::rate_mbit(20).delay(ms(20));
    let request = Request { kind: Kind::Plain, tag: 1, len: 40_000 };
    Scenario {
        links: vec![[link, link]],
        fetches: vec![Fetch { request, at: ms(0), pace: None }],
        faults,
        settings: Config::default(),
        limit: Duration::from_secs(60),
        lossy: false,
    }
}

#[test]
fn a_silence_of_ten_seconds_within_the_handshake_costs_no_session() {
    // Before the client's first flight arrives, within it, and when the server's answer leaves.
    for at in [0, 30, 65, 85] {
        let faults = vec![(ms(at), Fault::Cut(0)), (ms(at + 10_000), Fault::Mend(0))];
        for fault in [Fault::Cut(0), Fault::CutDown(0), Fault::CutUp(0)] {
            let mut faults = faults.clone();
            faults[0].1 = fault;
            let outcome = alone(faults).run(1);
            let (at, result) = &outcome.fetched[0];
            // QUIC's handshake probes wait twice as long each time; nothing else is waited for.
            let fine = result.is_ok() && *at < ms(22_000);
            assert!(fine, "{fault:?}: {result:?} at {at:?}");
        }
    }
}
