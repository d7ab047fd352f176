//! Edges that sent wrong bytes.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::Fingerprint;

/// Edges that are leased nothing for a while, and those that were accused. At most as many as the
/// server has.
#[derive(Debug)]
pub(super) struct Quarantine {
    lasts: Duration,
    edges: Mutex<BTreeMap<Fingerprint, Record>>,
    /// Counts those who were put in.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// It is leased nothing until then.
    until: Option<Instant>,
    /// It is looked into, or was shortly before.
    checked: Option<Instant>,
    /// Since when lines on it are counted, and how many there were.
    said: Option<(Instant, u32)>,
}

/// Between two checks of one edge: a client that accuses an honest one costs no more than that.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Lines on one edge in the log, at most, of what clients say of it ...
const MAX_SAID: u32 = 30;
/// ... within this time: no client fills the disk with them.
const SAID_WITHIN: Duration = Duration::from_secs(60);

impl Quarantine {
    pub(super) fn new(lasts: Duration) -> Self {
        Self { lasts, edges: Mutex::default(), changes: watch::Sender::new(0) }
    }

    fn edges(&self) -> MutexGuard<'_, BTreeMap<Fingerprint, Record>> {
        // The map is whole between statements, so a panic elsewhere leaves it usable.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an edge is leased nothing now.
    pub(super) fn holds(&self, edge: &Fingerprint) -> bool {
        let until = self.edges().get(edge).and_then(|record| record.until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// An edge was accused: whether to look into it.
    pub(super) fn accuse(&self, edge: Fingerprint) -> bool {
        let now = Instant::now();
        let mut edges = self.edges();
        let record = edges.entry(edge).or_default();
        let known = record.until.is_some_and(|until| now < until);
        let checked = record.checked.is_some_and(|at| now.duration_since(at) < CHECK_EVERY);
        if known || checked {
            return false;
        }
        record.checked = Some(now);
        true
    }

    /// Whether one more line on what a client says of an edge goes to the log.
    pub(super) fn may_say(&self, edge: Fingerprint) -> bool {
        let now = Instant::now();
        let mut edges = self.edges();
        let (since, count) = edges.entry(edge).or_default().said.get_or_insert((now, 0));
        if now.duration_since(*since) >= SAID_WITHIN {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= MAX_SAID
    }

    /// It lied: it is leased nothing for a while.
    pub(super) fn put(&self, edge: Fingerprint) {
        let until = Instant::now().checked_add(self.lasts);
        self.edges().entry(edge).or_default().until = until;
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Hears of edges that are put in.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_comes_out_by_itself_and_is_looked_into_once() {
        let (one, two) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let quarantine = Quarantine::new(Duration::from_secs(3600));
        assert!(quarantine.accuse(one) && !quarantine.accuse(one) && quarantine.accuse(two));
        quarantine.put(one);
        assert!(quarantine.holds(&one) && !quarantine.holds(&two));
        let said = (0..1000).filter(|_| quarantine.may_say(one)).count();
        assert_eq!(said, usize::try_from(MAX_SAID).unwrap());
        assert!(quarantine.may_say(two));
        let quarantine = Quarantine::new(Duration::ZERO);
        quarantine.put(one);
        assert!(!quarantine.holds(&one));
    }
}
