//! What an endpoint counts and tells.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use kwik_proto::EventLog;
use kwik_proto::sync::lock;
use tokio::sync::Notify;

use crate::quic::{ConnectError, Qlog, Runtime};

use super::counters::Counters;
use super::event::Event;
use super::family;
use super::last::LastRead;
use super::live::{Live, LiveSession};

/// Events that are kept for readers that are slow.
pub(crate) const MAX_EVENTS: usize = 1024;

/// What an endpoint counts and tells; nothing until it is turned on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics(Arc<OnceLock<Observed>>);

#[derive(Debug)]
pub(crate) struct Observed {
    pub(super) runtime: Runtime,
    /// What is told goes there too.
    qlog: Option<Qlog>,
    pub(super) counters: Counters,
    pub(super) events: Mutex<EventLog<Event>>,
    pub(super) told: Notify,
    pub(super) live: Mutex<Live>,
    pub(super) last: LastRead,
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
            last: LastRead::default(),
        });
    }

    pub(crate) fn get(&self) -> Option<&Observed> {
        self.0.get()
    }

    /// A server's handshake is over.
    pub(crate) fn on_handshake(&self, took: Duration) {
        if let Some(observed) = self.get() {
            observed.counters.handshakes.took[1].note(took);
        }
    }

    /// A handshake failed, at a client or a server.
    pub(crate) fn on_failure(&self, server: bool, error: &ConnectError) {
        if let Some(observed) = self.get() {
            observed.counters.handshakes.failures[usize::from(server)].add(family::failure(error));
        }
    }

    /// Somebody has to show first that they receive at their address.
    pub(crate) fn on_validation(&self) {
        if let Some(observed) = self.get() {
            observed.counters.handshakes.validations.add(1);
        }
    }

    /// Somebody was turned away before a handshake.
    pub(crate) fn on_refused(&self, reason: &'static str) {
        if let Some(observed) = self.get() {
            observed.counters.handshakes.refused.add(reason);
        }
    }
}

impl Observed {
    /// Sessions that are not over, each with its number.
    pub(crate) fn live(&self) -> Vec<(u64, LiveSession)> {
        lock(&self.live).all()
    }

    pub(super) fn tell(&self, event: Event) {
        event.trace();
        if let Some(qlog) = &self.qlog {
            event.note(self.runtime.now(), qlog);
        }
        self.counters.events.add(event.kind.name());
        lock(&self.events).push(event);
        self.told.notify_waiters();
    }
}
