//! What is counted and told of one session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kwik_proto::session::SessionEvent;
use kwik_proto::stats::SessionStats;
use kwik_proto::sync::lock;
use kwik_proto::{PathId, SessionId};

use crate::driver::Watch;
use crate::quic::{ConnectionError, QuicStats};

use super::event::{Event, EventKind};
use super::family;
use super::live::LiveWeak;
use super::observed::{Metrics, Observed};
use super::role::SessionRole;

impl Metrics {
    /// A session begins, if any are watched.
    /// `began`: when a client began to dial whose primary has not accepted it yet.
    pub(crate) fn begin(
        &self,
        session: LiveWeak,
        began: Option<Instant>,
    ) -> Option<Arc<dyn Watch>> {
        let observed = self.get()?;
        let role = session.role();
        let number = lock(&observed.live).insert(session, began);
        observed.counters.begun[role as usize].add(1);
        Some(Arc::new(SessionWatch { metrics: self.clone(), number, role }))
    }
}

/// What a session tells of itself.
#[derive(Debug)]
struct SessionWatch {
    metrics: Metrics,
    number: u64,
    role: SessionRole,
}

impl SessionWatch {
    fn observed(&self) -> &Observed {
        self.metrics.get().expect("invariant: a session is watched once metrics are on")
    }

    fn tell(&self, session: Option<SessionId>, kind: EventKind) {
        let observed = self.observed();
        let at = observed.runtime.wall_clock();
        observed.tell(Event { at, session, kind });
    }
}

impl Watch for SessionWatch {
    fn on_received(&self, path: PathId, bytes: u64, conflicting: u64) {
        let counters = &self.observed().counters;
        counters.received[usize::from(!path.is_primary())].add(bytes);
        if conflicting > 0 {
            counters.conflicting.add(conflicting);
        }
    }

    fn on_rtt(&self, rtt: Duration) {
        self.observed().counters.rtt.note(rtt);
    }

    fn on_connection_ended(&self, stats: &QuicStats) {
        self.observed().counters.quic.add(stats);
    }

    fn on_event(&self, session: Option<SessionId>, event: SessionEvent) {
        let observed = self.observed();
        match &event {
            SessionEvent::Answered { after, .. } => observed.counters.control.note(*after),
            SessionEvent::Switched { after, .. } => observed.counters.switches.note(*after),
            SessionEvent::Path(change) => {
                observed.counters.path_changes.add(change.status.name());
            }
            SessionEvent::Lease { outcome, .. } => {
                observed.counters.leases.add(family::outcome(*outcome));
            }
            SessionEvent::Backpressure(_) => {}
        }
        if let Some(kind) = EventKind::of(event) {
            self.tell(session, kind);
        }
    }

    fn on_begun(&self, session: Option<SessionId>) {
        self.tell(session, EventKind::SessionBegun { role: self.role });
    }

    fn on_accepted(&self, now: Instant) {
        let observed = self.observed();
        if let Some(began) = lock(&observed.live).take_beginning(self.number) {
            observed.counters.handshakes.took[0].note(now.saturating_duration_since(began));
        }
    }

    fn on_resumed(&self, session: Option<SessionId>) {
        self.observed().counters.resumed[self.role as usize].add(1);
        self.tell(session, EventKind::Resumed { role: self.role });
    }

    fn on_ended(
        &self,
        session: Option<SessionId>,
        error: &ConnectionError,
        totals: Option<&SessionStats>,
    ) {
        let observed = self.observed();
        let (by, code) = family::end(error);
        {
            // Under one lock, so that who reads finds it in one of the two places.
            let mut live = lock(&observed.live);
            // It is told once.
            let Some(began) = live.remove(self.number) else { return };
            observed.counters.ended.add(self.role, by, code);
            observed.counters.totals.add(totals);
            if began.is_some() {
                observed.counters.handshakes.failures[0].add(code);
            }
        }
        let reason = error.to_string();
        self.tell(session, EventKind::SessionEnded { role: self.role, by, code, reason });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kwik_proto::path::{PathEvent, PathStatus};

    use super::super::read::read;
    use super::*;
    use crate::quic::{ConnectError, Runtime};

    /// Whatever peers choose, a scrape stays small (10.1).
    #[tokio::test]
    async fn a_million_sessions_make_few_labels() {
        let metrics = Metrics::default();
        metrics.turn_on(&Runtime::tokio(), None);
        let observed = metrics.get().unwrap();
        let mut seed = 1_u64;
        for number in 0..1_000_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number);
            let (code, role) = (seed >> 2, SessionRole::ALL[(seed % 3) as usize]);
            let reason = String::new();
            let error = match number % 3 {
                0 => ConnectionError::closed_by_peer(code, Vec::new().into()),
                1 => ConnectionError::TransportError { code: code % 100_000, reason },
                _ => ConnectionError::TransportError { code: 0x4b00 + code % 256, reason },
            };
            let (by, name) = family::end(&error);
            observed.counters.ended.add(role, by, name);
            if number % 100 == 0 {
                metrics.on_failure(number % 200 == 0, &ConnectError::Connection(error));
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&seed.to_be_bytes());
                let watch = SessionWatch { metrics: metrics.clone(), number, role };
                let path = PathId(u32::try_from(seed >> 32).unwrap());
                let (status, reason) = (PathStatus::Dead, format!("peer {seed}"));
                let event = PathEvent { path, status, reason, figures: None, ended: true };
                watch.on_event(Some(SessionId(bytes)), SessionEvent::Path(event));
            }
        }
        let families = read(observed, [0, 0]);
        let samples = families.iter().flat_map(|family| &family.samples);
        let values: BTreeSet<_> = samples.clone().flat_map(|sample| &sample.labels).collect();
        assert!(values.len() <= 200, "{}: {values:?}", values.len());
        let ended: u64 = observed.counters.ended.values().iter().map(|(_, count)| count).sum();
        assert_eq!(ended, 1_000_000);
    }
}
