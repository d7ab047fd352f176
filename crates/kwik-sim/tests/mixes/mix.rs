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

/// Each order of magnitude is as likely as the others.
pub(crate) fn log_uniform(rng: &mut Rng, low: f64, high: f64) -> f64 {
    low * (high / low).powf(rng.f64())
}

/// Of these Mbit/s and milliseconds, log-uniform.
fn random(rng: &mut Rng, (slow, fast): (f64, f64), (near, far): (f64, f64)) -> Link {
    let rate = (log_uniform(rng, slow, fast) * 1e6) as u64;
    let rtt = Duration::from_secs_f64(log_uniform(rng, near, far) / 1e3);
    let packets = Duration::from_nanos(LEAST_PACKETS * MTU_BITS * 1_000_000_000 / rate);
    Link { queue: ms(50).max(packets), ..link(rate, rtt) }
}

/// Two to five links of 5 to 200 Mbit/s and 5 to 300 ms.
pub(crate) fn fast(seed: u64) -> Vec<Link> {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(2..=5);
    (0..count).map(|_| random(&mut rng, (5.0, 200.0), (5.0, 300.0))).collect()
}

/// Two to five links of 0.2 to 5 Mbit/s and 5 to 100 ms.
pub(crate) fn slow(seed: u64) -> Vec<Link> {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(2..=5);
    (0..count).map(|_| random(&mut rng, (0.2, 5.0), (5.0, 100.0))).collect()
}

/// As `97/5 24/295`: Mbit/s and milliseconds of each link.
pub(crate) fn describe(links: &[Link]) -> String {
    let one =
        |link: &Link| format!("{:.3}/{:.0}", link.rate as f64 / 1e6, link.rtt.as_secs_f64() * 1e3);
    links.iter().map(one).collect::<Vec<_>>().join(" ")
}
