//! Two packets for who is stuck, beside any controller.
//!
//! What was in flight when a link fell silent stays in flight for QUIC until something that was
//! sent later is acknowledged. With the window full of it nothing is sent but probes, which wait
//! twice as long each time; the library does not even acknowledge what arrives, while data waits.
//! An acknowledgement that was held up by the silence makes it worse: QUIC takes it for a round
//! trip of that length, and the next probe may come after the peer's idle timeout.

use std::any::Any;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::Clock;

/// A sender that its window has kept from sending for so long may send [`PROBES`] packets, as soon
/// as it is made to look: by what arrives, or by what is written. The rate of a heartbeat.
const STUCK_AFTER: Duration = Duration::from_secs(1);
/// See [`STUCK_AFTER`]: as many as a probe of QUIC (RFC 9002 section 6.2.4).
const PROBES: u64 = 2;

/// See the module.
pub(super) struct Unstuck {
    inner: Box<dyn Controller>,
    clock: Clock,
    mtu: u64,
    /// Bytes in flight, or a little more: acknowledgements count until the next one comes.
    in_flight: u64,
    last_sent: Instant,
}

impl Unstuck {
    pub(super) fn new(inner: Box<dyn Controller>, clock: Clock, now: Instant, mtu: u16) -> Self {
        Self { inner, clock, mtu: mtu.into(), in_flight: 0, last_sent: now }
    }

    pub(super) fn into_inner(self) -> Box<dyn Controller> {
        self.inner
    }
}

impl Controller for Unstuck {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight = self.in_flight.saturating_add(bytes);
        self.last_sent = now;
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = u64::from(new_mtu);
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let window = self.inner.window();
        // A packet leaves while more than its own size is free. A probe of the MTU in flight is not
        // told of, and may take the place of the second.
        let wanted = self.in_flight.saturating_add((PROBES + 1) * self.mtu);
        if window < wanted && (self.clock)() >= self.last_sent + STUCK_AFTER {
            return wanted;
        }
        window
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (inner, clock) = (self.inner.clone_box(), self.clock.clone());
        Box::new(Self { inner, clock, ..*self })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use quinn::congestion::ControllerFactory;

    use super::super::{Congestion, CongestionControl};
    use super::*;
    use crate::quic::Runtime;

    const MTU: u64 = 1200;

    #[tokio::test]
    async fn who_is_stuck_for_a_second_may_send_two_packets_at_a_time() {
        let start = Runtime::tokio().now();
        let time = Arc::new(Mutex::new(start));
        let clock = time.clone();
        let congestion = Congestion::new(CongestionControl::Cubic, move || *clock.lock().unwrap());
        let congestion = Arc::new(congestion);
        let build = || congestion.clone().build(start, u16::try_from(MTU).unwrap());
        let mut controller = build();
        let window = controller.window();
        controller.on_sent(start, window, 9);
        // QUIC sends a packet while less than the window would be in flight with it.
        let packets = |controller: &dyn Controller, in_flight: u64| {
            (controller.window().saturating_sub(in_flight + 1)) / MTU
        };
        assert_eq!(packets(&*controller, window), 0);
        let later = start + STUCK_AFTER;
        *time.lock().unwrap() = later;
        assert_eq!(packets(&*controller, window), PROBES);
        controller.on_sent(later, PROBES * MTU, 11);
        assert_eq!(packets(&*controller, window + PROBES * MTU), 0);
        *time.lock().unwrap() = later + STUCK_AFTER;
        assert_eq!(packets(&*controller.clone_box(), window + PROBES * MTU), PROBES);
        controller.on_congestion_event(later + STUCK_AFTER, later, false, window);
        controller.on_end_acks(later + STUCK_AFTER, 0, false, Some(11));
        assert!(controller.window() < window, "nothing is in the way: the window is CUBIC's");
        // A probe of the MTU, which nobody tells of, takes what is left of the window.
        let mut controller = build();
        controller.on_sent(start, window - MTU - 1, 9);
        assert!(packets(&*controller, window - 1) > 0);
    }
}
