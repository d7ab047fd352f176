//! Short objects over fast mixes: no server alone is much faster than all of them.

use crate::mix::{describe, fast};
use crate::network::Link;
use crate::report::{Row, cost, report};
use crate::seeds::{measure, turn};
use crate::transfer::{Outcome, Way, alone, transfer};

const SIZES: [(&str, u64); 3] = [("100 KB", 100_000), ("1 MB", 1_000_000), ("10 MB", 10_000_000)];
const WAYS: [(Way, &str); 2] = [(Way::Leased, ""), (Way::Dialing, " while dialing")];

fn row(seed: u64, links: &[Link], outcome: &Outcome, singles: &[Outcome]) -> Row {
    let times = singles.iter().map(Outcome::took).enumerate();
    let (best, own) = times.min_by(|(_, one), (_, other)| one.total_cmp(other)).unwrap();
    let rtt = |server: usize| links[server].rtt.as_secs_f64();
    let (took, plain) = (outcome.took(), singles[0].took());
    let figures = vec![
        cost("time/best", took / own),
        cost("time/bound", took / (own + 3.0 * rtt(0) + 2.0 * rtt(best))),
        cost("time/plain", took / (1.15 * plain + rtt(0))),
        cost("twice", outcome.twice()),
        cost("seconds", took),
        cost("best, seconds", own),
        cost("plain, seconds", plain),
    ];
    Row { seed, what: describe(links), figures }
}

/// One row for each way.
fn mix(seed: u64, len: u64) -> [Row; 2] {
    let links = fast(seed);
    let singles = alone(seed, &links, &vec![len; links.len()]);
    WAYS.map(|(way, _)| row(seed, &links, &transfer(seed, &links, way, len), &singles))
}

#[test]
fn short() {
    let _turn = turn();
    let mut hold = true;
    for (name, len) in SIZES {
        let rows = measure(3, u64::MAX, |seed| mix(seed, len));
        for (at, (_, suffix)) in WAYS.iter().enumerate() {
            let rows = rows.iter().map(|rows| rows[at].clone()).collect::<Vec<_>>();
            hold &= report(&format!("short {name}{suffix}"), &rows);
        }
    }
    assert!(hold, "bounds do not hold");
}

/// Mixes that were the farthest past their bounds, with the size: an edge that joins while the
/// primary's far or slow link is in slow start.
const WORST: [(u64, u64); 7] = [
    (34, 100_000),
    (52, 100_000),
    (17, 100_000),
    (22, 100_000),
    (17, 1_000_000),
    (28, 1_000_000),
    (38, 1_000_000),
];

#[test]
fn the_worst_mixes_of_before_stay_within_their_bounds() {
    for (seed, len) in WORST {
        for (row, (way, _)) in mix(seed, len).iter().zip(WAYS) {
            let [bound, plain] = ["time/bound", "time/plain"].map(|name| row.figure(name));
            assert!(bound <= 1.0 && plain <= 1.0, "{seed}, {len}, {way:?}: {bound}, {plain}");
        }
    }
}
