//! Objects of one flight over 200 ms: no round trip more than a plain stream.

use std::time::Duration;

use fastrand::Rng;

use crate::mix::{describe, link, log_uniform};
use crate::network::Link;
use crate::report::{Row, cost, report};
use crate::seeds::{measure, turn};
use crate::transfer::{Way, transfer};

const SIZES: [(&str, u64); 2] = [("1 B", 1), ("10 KB", 10_000)];
const RTT: Duration = Duration::from_millis(200);

fn mix(seed: u64, way: Way, len: u64) -> Row {
    let mut rng = Rng::with_seed(seed);
    let links: [Link; 3] =
        std::array::from_fn(|_| link((log_uniform(&mut rng, 5.0, 200.0) * 1e6) as u64, RTT));
    let plain = transfer(seed, &links, Way::Plain, len);
    let leased = transfer(seed, &links, way, len);
    let first = leased.reading.first_after() - plain.reading.first_after();
    let figures = vec![
        cost("first byte, ms late", first * 1e3),
        cost("whole, ms late", (leased.took() - plain.took()) * 1e3),
        cost("plain, ms", plain.took() * 1e3),
    ];
    Row { seed, what: describe(&links), figures }
}

#[test]
fn tiny() {
    let _turn = turn();
    let mut hold = true;
    for (name, len) in SIZES {
        for (way, suffix) in [(Way::Leased, ""), (Way::Dialing, " while dialing")] {
            let rows = measure(2, u64::MAX, |seed| mix(seed, way, len));
            hold &= report(&format!("tiny {name}{suffix}"), &rows);
        }
    }
    assert!(hold, "bounds do not hold");
}
