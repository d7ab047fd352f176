//! A link in one direction.

use std::time::Duration;

use fastrand::Rng;

use crate::trace::Fate;

/// What a link does to the datagrams that pass it. Shares are chances from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    rate: Option<u64>,
    slowed: u64,
    queue: Duration,
    delay: Duration,
    jitter: Duration,
    loss: f64,
    burst: Option<(f64, f64)>,
    reorder: f64,
    duplicate: f64,
    corrupt: f64,
    mtu: usize,
    cut: bool,
}

impl Default for Shape {
    /// An ideal link: no limit, no delay, no loss, an MTU of 1,500 bytes.
    fn default() -> Self {
        Self {
            rate: None,
            slowed: 1,
            queue: Duration::from_millis(50),
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: None,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: 1500,
            cut: false,
        }
    }
}

impl Shape {
    /// A link of that many Mbit/s, otherwise ideal.
    #[must_use]
    pub fn rate_mbit(rate: u64) -> Self {
        Self::default().rate(rate * 1_000_000)
    }

    /// Bits a second, IP and UDP headers included.
    #[must_use]
    pub fn rate(self, bits: u64) -> Self {
        Self { rate: Some(bits.max(1)), ..self }
    }

    /// How long a datagram of `len` bytes takes to leave, headers included.
    #[must_use]
    pub fn time_to_send(self, len: usize) -> Duration {
        let bits = len as u64 * 8 * self.slowed;
        Duration::from_nanos(self.rate.map_or(0, |rate| bits * 1_000_000_000 / rate))
    }

    /// The rate divided by `part`, if there is one; the queue holds as many bytes as before.
    #[must_use]
    pub fn slowed(self, part: u64) -> Self {
        Self { slowed: part.max(1), ..self }
    }

    /// A drop-tail queue that holds what the full rate sends in this time.
    #[must_use]
    pub fn queue(self, queue: Duration) -> Self {
        Self { queue, ..self }
    }

    /// Time that each datagram takes once it left the queue.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Up to this much more for some datagrams; they keep their order.
    #[must_use]
    pub fn jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// Share of datagrams lost, each by itself.
    #[must_use]
    pub fn loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// Bursts of half a second at most in which all is lost: the chance that a datagram begins one,
    /// and that it ends one.
    #[must_use]
    pub fn bursts(self, begin: f64, end: f64) -> Self {
        Self { burst: Some((begin, end)), ..self }
    }

    /// Share of datagrams that are held back by up to 10 ms, so that others overtake them.
    #[must_use]
    pub fn reorder(self, reorder: f64) -> Self {
        Self { reorder, ..self }
    }

    /// Share of datagrams that arrive twice.
    #[must_use]
    pub fn duplicate(self, duplicate: f64) -> Self {
        Self { duplicate, ..self }
    }

    /// Share of datagrams of which a byte is changed.
    #[must_use]
    pub fn corrupt(self, corrupt: f64) -> Self {
        Self { corrupt, ..self }
    }

    /// Largest IP packet, in bytes; larger ones vanish.
    #[must_use]
    pub fn mtu(self, mtu: usize) -> Self {
        Self { mtu, ..self }
    }

    /// Nothing passes while it is cut.
    #[must_use]
    pub fn cut(self, cut: bool) -> Self {
        Self { cut, ..self }
    }
}

/// IP and UDP headers of a datagram.
const HEADERS: usize = 28;
/// How long a datagram is held back at most so that others overtake it.
const HOLD_BACK: u64 = 10_000_000;

/// However few datagrams come, a burst of losses is over then.
const LONGEST_BURST: u64 = 500_000_000;

/// What a link did with a datagram: when its copies come out, or why none does. In nanoseconds.
pub(crate) struct Passage {
    pub(crate) arrivals: [Option<u64>; 2],
    pub(crate) fate: Fate,
}

/// A link and what passes it.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) shape: Shape,
    /// When the last datagram in the queue will have left it.
    busy_until: u64,
    last_arrival: u64,
    /// When the burst of losses began that lasts.
    burst_since: Option<u64>,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn chance(rng: &mut Rng, share: f64) -> bool {
    share > 0.0 && rng.f64() < share
}

impl Link {
    /// What waits at `now`, in nanoseconds of the link.
    pub(crate) fn queued(&self, now: u64) -> u64 {
        self.busy_until.saturating_sub(now)
    }

    /// Sends a datagram of `len` bytes at `now`.
    pub(crate) fn pass(&mut self, now: u64, len: usize, rng: &mut Rng) -> Passage {
        let lost = |fate| Passage { arrivals: [None; 2], fate };
        let shape = self.shape;
        if shape.cut {
            return lost(Fate::Cut);
        }
        if len + HEADERS > shape.mtu {
            return lost(Fate::TooLarge);
        }
        let mut leaves = now;
        if shape.rate.is_some() {
            let begins = self.busy_until.max(now);
            if begins - now > nanos(shape.queue).saturating_mul(shape.slowed) {
                return lost(Fate::Dropped);
            }
            leaves = begins + nanos(shape.time_to_send(len + HEADERS));
            self.busy_until = leaves;
        }
        if let Some((begin, end)) = shape.burst {
            self.burst_since = match self.burst_since {
                Some(since) => {
                    Some(since).filter(|_| now < since + LONGEST_BURST && !chance(rng, end))
                }
                None => chance(rng, begin).then_some(now),
            };
        }
        if (shape.burst.is_some() && self.burst_since.is_some()) || chance(rng, shape.loss) {
            return lost(Fate::Lost);
        }
        let mut arrives = leaves + nanos(shape.delay);
        if !shape.jitter.is_zero() {
            arrives += rng.u64(0..=nanos(shape.jitter));
        }
        arrives = arrives.max(self.last_arrival);
        self.last_arrival = arrives;
        if chance(rng, shape.reorder) {
            arrives += rng.u64(0..=HOLD_BACK);
        }
        let twin = chance(rng, shape.duplicate).then(|| arrives + rng.u64(0..=HOLD_BACK));
        let fate = if chance(rng, shape.corrupt) { Fate::Corrupted } else { Fate::Delivered };
        Passage { arrivals: [Some(arrives), twin], fate }
    }
}
