//! What is counted and told of sessions beside their snapshots (10.1, 10.2).
//!
//! Nothing is before [`Endpoint::watch`](crate::Endpoint::watch). From then on, counters rise with
//! events and batches, never with bytes, and by relaxed atomics alone; whatever a snapshot has is
//! read from it when somebody looks.

mod counters;
mod event;
mod family;
mod live;
mod marks;
mod read;

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use kwik_proto::session::SessionEvent;
use kwik_proto::stats::SessionStats;
use kwik_proto::sync::lock;
use kwik_proto::{EventLog, PathId, SessionId};
use tokio::sync::Notify;

use crate::quic::{ConnectError, ConnectionError, Qlog, QuicStats, Runtime};

pub use event::{Event, EventField, EventKind, Events};
pub use family::{Family, MetricKind, Sample, Value};
pub use live::{LiveSession, SessionRole};
pub use read::FAMILIES;

pub(crate) use live::LiveWeak;
pub(crate) use live::WeakHeld;
pub(crate) use marks::MarkPair;
pub(crate) use read::read;

use counters::Counters;
use live::Live;

/// Events that are kept for readers that are slow.
pub(crate) const MAX_EVENTS: usize = 1024;

/// What an endpoint counts and tells; nothing until it is turned on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(Arc<OnceLock<Observed>>);

#[derive(Debug)]
pub(crate) struct Observed {
    runtime: Runtime,
    /// What is told goes there too.
    qlog: Option<Qlog>,
    counters: Counters,
    events: Mutex<EventLog<Event>>,
    told: Notify,
    live: Mutex<Live>,
    last: read::LastRead,
}

impl Metrics {
    /// Turns it on, for sessions that begin from now on.
    pub(crate) fn turn_on(&self, runtime: &Runtime, qlog: Option<&Qlog>) {
        self.0.get_or_init(|| Observed {
            runtime: runtime.clone(),
            qlog: qlog.cloned(),
            counters: Counters::default(),
            events: Mutex::new(EventLog::new(MAX_EVENTS)),
            told: Notify::new(),
            live: Mutex::default(),
            last: read::LastRead::default(),
        });
    }

    pub(crate) fn get(&self) -> Option<&Observed> {
        self.0.get()
    }

    /// A session begins, if any are watched.
    /// `began`: when a client began to dial whose primary has not accepted it yet.
    pub(crate) fn begin(&self, session: LiveWeak, began: Option<Instant>) -> Option<SessionWatch> {
        let observed = self.get()?;
        let role = session.role();
        let number = lock(&observed.live).insert(session, began);
        observed.counters.begun[role as usize].add(1);
        Some(SessionWatch { metrics: self.clone(), number, role })
    }

    /// A server's handshake is over.
    pub(crate) fn on_handshake(&self, took: Duration) {
        if let Some(observed) = self.get() {
            observed.counters.handshake[1].note(took);
        }
    }

    /// A handshake failed, at a client or a server.
    pub(crate) fn on_failure(&self, server: bool, error: &ConnectError) {
        if let Some(observed) = self.get() {
            observed.counters.failures[usize::from(server)].add(family::failure(error));
        }
    }

    /// Somebody has to show first that they receive at their address.
    pub(crate) fn on_validation(&self) {
        if let Some(observed) = self.get() {
            observed.counters.validations.add(1);
        }
    }

    /// Somebody was turned away before a handshake.
    pub(crate) fn on_refused(&self, reason: &'static str) {
        if let Some(observed) = self.get() {
            observed.counters.refused.add(reason);
        }
    }
}

/// What a session tells of itself.
#[derive(Debug, Clone)]
pub(crate) struct SessionWatch {
    metrics: Metrics,
    number: u64,
    role: SessionRole,
}

impl SessionWatch {
    fn observed(&self) -> &Observed {
        self.metrics.get().expect("invariant: a session is watched once metrics are on")
    }

    /// A batch came.
    pub(crate) fn on_received(&self, path: PathId, bytes: u64, conflicting: u64) {
        let counters = &self.observed().counters;
        counters.received[usize::from(!path.is_primary())].add(bytes);
        if conflicting > 0 {
            counters.conflicting.add(conflicting);
        }
    }

    /// The peer answered, and the connection has this round trip.
    pub(crate) fn on_rtt(&self, rtt: Duration) {
        self.observed().counters.rtt.note(rtt);
    }

    /// A connection of the session is let go.
    pub(crate) fn on_connection_ended(&self, stats: &QuicStats) {
        self.observed().counters.quic.add(stats);
    }

    /// Something happened to it.
    pub(crate) fn on_event(&self, session: Option<SessionId>, event: SessionEvent) {
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

    /// It began.
    pub(crate) fn on_begun(&self, session: Option<SessionId>) {
        self.tell(session, EventKind::SessionBegun { role: self.role });
    }

    /// A client's primary has accepted it.
    pub(crate) fn on_accepted(&self, now: Instant) {
        let observed = self.observed();
        if let Some(began) = lock(&observed.live).take_beginning(self.number) {
            observed.counters.handshake[0].note(now.saturating_duration_since(began));
        }
    }

    /// It goes on over another connection to or from its primary.
    pub(crate) fn on_resumed(&self, session: Option<SessionId>) {
        self.observed().counters.resumed[self.role as usize].add(1);
        self.tell(session, EventKind::Resumed { role: self.role });
    }

    /// It is over; `totals` are its last figures.
    pub(crate) fn on_ended(
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
                observed.counters.failures[0].add(code);
            }
        }
        let reason = error.to_string();
        self.tell(session, EventKind::SessionEnded { role: self.role, by, code, reason });
    }

    fn tell(&self, session: Option<SessionId>, kind: EventKind) {
        let observed = self.observed();
        let at = observed.runtime.wall_clock();
        observed.tell(Event { at, session, kind });
    }
}

impl Observed {
    /// Sessions that are not over, each with its number.
    pub(crate) fn live(&self) -> Vec<(u64, LiveSession)> {
        lock(&self.live).all()
    }

    fn tell(&self, event: Event) {
        event.trace();
        if let Some(qlog) = &self.qlog {
            event.note(self.runtime.now(), qlog);
        }
        self.counters.events.add(event.kind.name());
        lock(&self.events).push(event);
        self.told.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kwik_proto::path::{PathEvent, PathStatus};

    use super::*;

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
