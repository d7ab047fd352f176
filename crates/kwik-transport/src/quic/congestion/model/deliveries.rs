//! What was delivered, what was lost, and samples of the delivery rate
//! (draft-ietf-ccwg-bbr, section 4.1).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Moments of sending that are kept for each round trip: what was sent between two of them is
/// taken as sent at the first.
const MOMENTS_PER_ROUND: u32 = 64;
/// Moments that are kept at most. What is older was acknowledged or lost, or the peer holds back
/// its acknowledgements; then it costs a sample.
const MOST_MOMENTS: usize = 512;

/// The connection when something was sent.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    /// When the last packet was sent of those that had been acknowledged.
    acked_sent_at: Instant,
    /// The application had left some of the window unused.
    app_limited: bool,
}

/// What one acknowledgement tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Bytes a second, between the sending and the acknowledgement of the newest packet.
    pub(super) rate: f64,
    pub(super) rtt: Duration,
    /// The application sent less than it was allowed to, so the path may be faster than that.
    pub(super) app_limited: bool,
    /// What had been delivered when the packet was sent.
    pub(super) delivered_before: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Deliveries {
    /// Bytes acknowledged, and bytes lost, since the connection began.
    pub(super) delivered: u64,
    pub(super) lost: u64,
    delivered_at: Instant,
    acked_sent_at: Instant,
    /// What is delivered up to there was sent while the application was the limit.
    app_limited_until: u64,
    moments: VecDeque<Moment>,
    /// When the newest packet of this acknowledgement was sent.
    newest: Option<Instant>,
}

impl Deliveries {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            delivered: 0,
            lost: 0,
            delivered_at: now,
            acked_sent_at: now,
            app_limited_until: 0,
            moments: VecDeque::new(),
            newest: None,
        }
    }

    /// Something is sent while `in_flight` bytes are under way; round trips take `rtt`.
    pub(super) fn on_sent(&mut self, now: Instant, in_flight: u64, rtt: Duration) {
        if in_flight == 0 {
            // Silence is not slowness.
            (self.delivered_at, self.acked_sent_at) = (now, now);
        }
        let slot = rtt / MOMENTS_PER_ROUND;
        if in_flight > 0 && self.moments.back().is_some_and(|last| now < last.at + slot) {
            return;
        }
        if self.moments.len() >= MOST_MOMENTS {
            self.moments.pop_front();
        }
        self.moments.push_back(Moment {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            acked_sent_at: self.acked_sent_at,
            app_limited: self.app_limited_until > self.delivered,
        });
    }

    pub(super) fn on_acked(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        self.newest = self.newest.max(Some(sent));
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    /// The application has nothing to send, with `in_flight` bytes under way.
    pub(super) fn on_app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = self.delivered + in_flight.max(1);
    }

    /// What the packets that were acknowledged since the last call tell.
    pub(super) fn sample(&mut self, now: Instant) -> Option<Sample> {
        let sent = self.newest.take()?;
        let after = self.moments.partition_point(|moment| moment.at <= sent);
        let moment = *self.moments.get(after.checked_sub(1)?)?;
        // What was sent before it is acknowledged or lost by now, or comes out of order.
        self.moments.drain(..after - 1);
        let sending = moment.at.saturating_duration_since(moment.acked_sent_at);
        let acking = now.saturating_duration_since(moment.delivered_at);
        let span = sending.max(acking);
        self.acked_sent_at = self.acked_sent_at.max(sent);
        let delivered = self.delivered - moment.delivered;
        (!span.is_zero()).then(|| Sample {
            rate: delivered as f64 / span.as_secs_f64(),
            rtt: now.saturating_duration_since(sent),
            app_limited: moment.app_limited,
            delivered_before: moment.delivered,
        })
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any moment will do")]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_sample_tells_what_was_delivered_between_sending_and_acknowledgement() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        // 1,000 bytes every 10 ms, acknowledged after 100.
        for millis in (0..=100).step_by(10) {
            deliveries.on_sent(at(start, millis), millis * 100, RTT);
        }
        for sent in (0..=100).step_by(10) {
            deliveries.on_acked(at(start, sent + 100), at(start, sent), 1000);
            let sample = deliveries.sample(at(start, sent + 100)).unwrap();
            assert_eq!(sample.rtt, RTT);
            // Nothing had been delivered when they were sent.
            let (bytes, seconds) = (sent as f64 * 100.0 + 1000.0, (sent + 100) as f64 / 1e3);
            assert!((sample.rate - bytes / seconds).abs() < 1.0, "{sent}: {sample:?}");
        }
        assert!(deliveries.sample(at(start, 300)).is_none(), "nothing new");
    }

    #[test]
    fn acknowledgements_that_come_at_once_are_no_faster_than_what_was_sent() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        for millis in (0..=200).step_by(10) {
            deliveries.on_sent(at(start, millis), millis * 100, RTT);
        }
        deliveries.on_acked(at(start, 100), at(start, 0), 1000);
        deliveries.sample(at(start, 100));
        for sent in (10..=200).step_by(10) {
            deliveries.on_acked(at(start, 300), at(start, sent), 1000);
        }
        let sample = deliveries.sample(at(start, 300)).unwrap();
        assert!(sample.rate <= 101_000.0, "{sample:?}");
    }

    #[test]
    fn what_the_application_limits_is_marked_until_it_is_delivered() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        deliveries.on_sent(start, 0, RTT);
        deliveries.on_app_limited(1000);
        deliveries.on_sent(at(start, 10), 1000, RTT);
        deliveries.on_acked(at(start, 100), start, 1000);
        assert!(!deliveries.sample(at(start, 100)).unwrap().app_limited);
        deliveries.on_sent(at(start, 110), 1000, RTT);
        deliveries.on_acked(at(start, 110), at(start, 10), 1000);
        assert!(deliveries.sample(at(start, 110)).unwrap().app_limited);
        deliveries.on_acked(at(start, 210), at(start, 110), 1000);
        assert!(!deliveries.sample(at(start, 210)).unwrap().app_limited);
    }

    #[test]
    fn moments_are_bounded_whatever_is_not_acknowledged() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        for millis in 0..10_000 {
            deliveries.on_sent(at(start, millis), 1, Duration::from_millis(1));
        }
        assert_eq!(deliveries.moments.len(), MOST_MOMENTS);
        deliveries.on_acked(at(start, 10_000), start, 1);
        assert!(deliveries.sample(at(start, 10_000)).is_none(), "too old to tell");
    }
}
