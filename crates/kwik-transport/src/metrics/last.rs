//! What was read last, so that counters never fall.

use std::sync::Mutex;

use kwik_proto::sync::lock;

use super::family::{Family, MetricKind, Sample, Value};

/// Counters that are read from connections that live.
const OF_CONNECTIONS: [&str; 5] = [
    "kwik_udp_datagrams",
    "kwik_udp_bytes",
    "kwik_quic_packets_sent",
    "kwik_quic_packets_lost",
    "kwik_congestion_events",
];

/// What was read last: a connection that ends is counted a moment after it is gone, and counters
/// shall not fall.
#[derive(Debug, Default)]
pub(crate) struct LastRead(Mutex<Vec<Vec<Sample>>>);

impl LastRead {
    /// Counters as they are, or were.
    pub(super) fn rise(&self, families: &mut [Family]) {
        let mut last = lock(&self.0);
        last.resize_with(families.len(), Vec::new);
        for (family, before) in families.iter_mut().zip(last.iter_mut()) {
            if family.kind == MetricKind::Counter && OF_CONNECTIONS.contains(&family.name) {
                for sample in &mut family.samples {
                    let earlier = before.iter().find(|earlier| earlier.labels == sample.labels);
                    if let Some(earlier) = earlier {
                        sample.value = sample.value.at_least(earlier.value);
                    }
                }
                before.clone_from(&family.samples);
            }
        }
    }
}

impl Value {
    fn at_least(self, other: Self) -> Self {
        match (self, other) {
            (Self::Number(now), Self::Number(before)) => Self::Number(now.max(before)),
            (Self::Time(now), Self::Time(before)) => Self::Time(now.max(before)),
            (now, _) => now,
        }
    }
}
