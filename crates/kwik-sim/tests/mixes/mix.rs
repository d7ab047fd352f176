//! Random links.

use std::time::Duration;

use fastrand::Rng;

use crate::network::Link;

const MTU_BITS: u64 = 1500 * 8;
/// A slow link's queue holds this many full packets at least.
const LEAST_PACKETS: u64 = 20;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A link whose queue holds 50 ms.
pub(crate) fn link(rate: u64, rtt: Duration) -> Link {
    Link { rate, rtt, queue: ms(50), loss: 0.0 }
}

/// How values are spread over their range.
#[derive(Debug, Clone, Copy)]
enum Spread {
    /// Each order of magnitude is as likely as the others.
    Log,
    Even,
}

impl Spread {
    fn pick(self, rng: &mut Rng, (low, high): (f64, f64)) -> f64 {
        match self {
            Self::Log => log_uniform(rng, low, high),
            Self::Even => low + rng.f64() * (high - low),
        }
    }
}

pub(crate) fn log_uniform(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low * (high / low).powf(rng.f64())
}

/// Two to five links of 5 to 200 Mbit/s and 5 to 300 ms. Evenly spread rates give faster links,
/// evenly spread round trips longer ones: half of the mixes have the one, a quarter has both.
pub(crate) fn fast(seed: u64) -> Vec<Link> {
    let mut rng = Rng::with_seed(seed);
    let rates = if seed.is_multiple_of(2) { Spread::Log } else { Spread::Even };
    let rtts = if seed % 4 < 3 { Spread::Log } else { Spread::Even };
    let mut any = || {
        let rate = (rates.pick(&mut rng, (5.0, 200.0)) * 1e6) as u64;
        let rtt = Duration::from_secs_f64(rtts.pick(&mut rng, (5.0, 300.0)) / 1e3);
        link(rate, rtt)
    };
    any_number(seed, &mut any)
}

/// Two to five links of 0.2 to 5 Mbit/s and 5 to 100 ms. A queue of 50 ms holds two packets on the
/// slowest; half of the mixes have queues of [`LEAST_PACKETS`] at least.
pub(crate) fn slow(seed: u64) -> Vec<Link> {
    let mut rng = Rng::with_seed(seed);
    let mut any = || {
        let rate = (log_uniform(&mut rng, 0.2, 5.0) * 1e6) as u64;
        let rtt = Duration::from_secs_f64(log_uniform(&mut rng, 5.0, 100.0) / 1e3);
        let packets = Duration::from_nanos(LEAST_PACKETS * MTU_BITS * 1_000_000_000 / rate);
        let least = if seed.is_multiple_of(2) { packets } else { Duration::ZERO };
        Link { queue: ms(50).max(least), ..link(rate, rtt) }
    };
    any_number(seed, &mut any)
}

/// Two to five.
fn any_number(seed: u64, any: &mut dyn FnMut() -> Link) -> Vec<Link> {
    let count = Rng::with_seed(!seed).usize(2..=5);
    (0..count).map(|_| any()).collect()
}

/// As `97/5 24/295`: Mbit/s and milliseconds of each link.
pub(crate) fn describe(links: &[Link]) -> String {
    let one =
        |link: &Link| format!("{:.3}/{:.0}", link.rate as f64 / 1e6, link.rtt.as_secs_f64() * 1e3);
    links.iter().map(one).collect::<Vec<_>>().join(" ")
}
