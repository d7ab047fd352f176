//! Congestion control: how much may be in flight.
//!
//! Three controllers behind the QUIC library's trait, and [`unstuck`] around each.

mod losses;
mod model;
mod round_trips;
mod tolerant;
mod tuning;
mod unstuck;

use std::sync::Arc;
use std::time::Instant;

use kwik_proto::stats::{CongestionState, CongestionStats};
use quinn::congestion::{Controller, ControllerFactory, CubicConfig};

use model::Model;
use tolerant::Tolerant;
use unstuck::Unstuck;

type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// What decides how much an endpoint has in flight on each of its connections. It rules what this
/// endpoint sends; the peer decides for what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CongestionControl {
    /// CUBIC that answers full queues, and not what is lost by chance, as on wireless and long
    /// links; where nothing is lost by chance it does as CUBIC does.
    #[default]
    Tolerant,
    /// The QUIC library's CUBIC (RFC 9438): each loss is taken for a full queue.
    Cubic,
    /// A model of the path: its rate, its round trip, and what it loses anyway. Loss by chance
    /// does not slow it down, and it keeps queues short. Where round trips vary by milliseconds
    /// without a queue, as on Wi-Fi or between busy machines, it is too careful. See
    /// `docs/congestion.md`.
    Model,
}

impl CongestionControl {
    /// Congestion windows of bytes that may wait for acknowledgement on a path that loses packets:
    /// what is lost takes a round trip or more to come, and what came behind it is not
    /// acknowledged meanwhile. CUBIC halves its window then, and the model goes on.
    pub(super) fn windows_ahead(self) -> u64 {
        match self {
            Self::Cubic => 2,
            Self::Tolerant | Self::Model => 4,
        }
    }
}

/// What a connection's controller knows and does.
pub(super) fn stats(controller: Box<dyn Controller>) -> CongestionStats {
    let metrics = controller.metrics();
    // CUBIC's own: the others say it themselves.
    let state = match metrics.ssthresh {
        Some(threshold) if metrics.congestion_window < threshold => CongestionState::SlowStart,
        _ => CongestionState::Avoidance,
    };
    let stats = || CongestionStats::new(metrics.congestion_window, state);
    let Ok(unstuck) = controller.into_any().downcast::<Unstuck>() else { return stats() };
    let inner = unstuck.into_inner().into_any();
    let tolerant = inner.downcast_ref().map(Tolerant::stats);
    tolerant.or_else(|| inner.downcast_ref().map(Model::stats)).unwrap_or_else(stats)
}

/// Makes the controllers of an endpoint's connections.
pub(super) struct Congestion {
    control: CongestionControl,
    clock: Clock,
    cubic: Arc<CubicConfig>,
}

impl Congestion {
    pub(super) fn new(
        control: CongestionControl,
        clock: impl Fn() -> Instant + Send + Sync + 'static,
    ) -> Self {
        Self { control, clock: Arc::new(clock), cubic: Arc::default() }
    }
}

impl ControllerFactory for Congestion {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner: Box<dyn Controller> = match self.control {
            CongestionControl::Model => Box::new(Model::new(now, current_mtu)),
            CongestionControl::Tolerant => Box::new(Tolerant::new(now, current_mtu)),
            CongestionControl::Cubic => self.cubic.clone().build(now, current_mtu),
        };
        Box::new(Unstuck::new(inner, self.clock.clone(), now, current_mtu))
    }
}
