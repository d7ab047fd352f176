//! Large objects: the rates of all links add up, and little comes twice.

use fastrand::Rng;

use crate::mix::{describe, fast, link, ms, slow};
use crate::network::Link;
use crate::report::{Row, cost, gain, report};
use crate::seeds::{CONTROL, measure, turn};
use crate::transfer::{Outcome, Way, alone, transfer};

/// So that an object's size does not follow from its links.
const SECONDS: u64 = 0x5ec0;
/// Nor its losses.
const LOSSES: u64 = 0x1055;

/// Bytes of all links in so many seconds, headers included.
fn carried(links: &[Link], seconds: f64) -> f64 {
    links.iter().map(|link| link.rate as f64).sum::<f64>() * seconds / 8.0
}

/// An object that all links together need about so many seconds for, against what each link carries
/// alone in that time.
fn compare(seed: u64, links: &[Link], seconds: f64) -> Row {
    let len = carried(links, seconds) as u64;
    let lens = links.iter().map(|link| carried(&[*link], seconds) as u64).collect::<Vec<_>>();
    let singles = alone(seed, links, &lens);
    let sum = singles.iter().map(Outcome::rate).sum::<f64>();
    let best = singles.iter().map(|single| single.extended(len)).min_by(f64::total_cmp).unwrap();
    let single_wire = singles.iter().map(|single| single.wire as f64).sum::<f64>();
    let outcome = transfer(seed, links, Way::Leased, len);
    let figures = vec![
        gain("share of sum", outcome.rate() / sum),
        gain("rate/best", best / outcome.took()),
        cost("twice", outcome.twice()),
        cost("duplicates", outcome.duplicates()),
        cost("extra on the wire", outcome.wire() - single_wire / len as f64),
        gain("tail/mean", outcome.tail()),
        gain("share of raw rates", len as f64 / outcome.took() / carried(links, 1.0)),
        cost("seconds", outcome.took()),
    ];
    Row { seed, what: describe(links), figures }
}

fn family(name: &str, (few, most): (u64, u64), mix: impl Fn(u64) -> Row + Sync) {
    let _turn = turn();
    assert!(report(name, &measure(few, most, mix)), "bounds do not hold");
}

#[test]
fn slow_links() {
    family("slow", (3, u64::MAX), |seed| {
        let seconds = 20.0 + 40.0 * Rng::with_seed(seed ^ SECONDS).f64();
        compare(seed, &slow(seed), seconds)
    });
}

/// Three equal links of 0.5 to 3 Mbit/s and 10 ms: all is as slow, so nothing is to be moved.
#[test]
fn equal_slow_links() {
    const RATES: [u64; 6] = [500, 750, 1000, 1250, 1500, 3000];
    family("equal slow links", (1, 12), |seed| {
        let rate = RATES[seed as usize % RATES.len()] * 1000;
        compare(seed, &[link(rate, ms(10)); 3], 30.0)
    });
}

#[test]
fn long() {
    family("long", (1, u64::MAX), |seed| compare(seed, &fast(seed), 8.0));
}

/// The same links, each with up to 0.5 % of loss by chance. With CUBIC a transfer would take
/// minutes.
#[test]
fn lossy() {
    let counts = if *CONTROL != kwik::CongestionControl::Cubic { (1, u64::MAX) } else { (0, 0) };
    family("lossy", counts, |seed| {
        let mut rng = Rng::with_seed(seed ^ LOSSES);
        let lossy = |link| Link { loss: 0.005 * rng.f64(), ..link };
        let links = fast(seed).into_iter().map(lossy).collect::<Vec<_>>();
        compare(seed, &links, 8.0)
    });
}

/// Round trips from 20 ms to 20, 40, 80 and 200 ms, of two and four links of 20 Mbit/s.
#[test]
fn rtt_ratios() {
    const RATIOS: [f64; 4] = [1.0, 2.0, 4.0, 10.0];
    family("rtt ratios", (1, 16), |seed| {
        let count = if seed % 8 < 4 { 2 } else { 4 };
        let ratio = RATIOS[seed as usize % 4];
        let rtt = |at: i32| 20.0 * ratio.powf(f64::from(at) / f64::from(count - 1));
        let links = (0..count).map(|at| link(20_000_000, ms(rtt(at) as u64)));
        compare(seed, &links.collect::<Vec<_>>(), 8.0)
    });
}

#[test]
fn loss() {
    let link = Link { loss: 0.1, ..link(40_000_000, ms(20)) };
    family("loss of 10 %", (1, 20), |seed| compare(seed, &[link; 3], 2.0));
}
