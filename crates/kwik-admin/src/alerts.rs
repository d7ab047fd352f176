//! Alerts: raised once when a threshold is passed, lifted once when it is not any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kwik::{Endpoint, Family, PathStatus, Value};
use serde_json::{Value as Json, json};

use crate::limits::MAX_PAST_ALERTS;
use crate::{Service, view};

/// From when on an operator is told (10.2). A share is from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Share of what came that was here already, within a minute.
    pub duplicates: f64,
    /// A path that has been degraded or silent for so long.
    pub degraded: Duration,
    /// Share of the memory for receive credit that is granted.
    pub memory: f64,
    /// Handshakes that failed within a minute.
    pub failures: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { duplicates: 0.05, degraded: Duration::from_secs(30), memory: 0.8, failures: 60.0 }
    }
}

/// What an operator may be told of: its name, what it means, and what to do.
pub const ALERTS: [(&str, &str, &str); 5] = [
    (
        "no_edge_left",
        "Edges are configured, and none of them joined when it was dialed last.",
        "Look at the edges: do they run, do they trust this primary (`--trust`), do clients reach \
         them? `kwik ctl edges` names each.",
    ),
    (
        "duplicates",
        "Of what clients here received within a minute, too large a share had come before.",
        "A path changes its speed often, or loses much: `kwik ctl session NAME` shows which; take \
         it away, or drain its edge.",
    ),
    (
        "path_degraded",
        "A path of a session has been degraded or dead for long.",
        "Look at the path's rate, losses and round trip; drain its edge if others suffice.",
    ),
    (
        "memory",
        "The receive credit of all sessions is near its bound: they shrink, and get slower.",
        "Find slow readers (`kwik ctl sessions`, limited by `reader`), or raise the bound.",
    ),
    (
        "handshake_failures",
        "Many handshakes failed within a minute.",
        "The log and `kwik_handshake_failures_total` say why: wrong pins, versions, or an attack.",
    ),
];

#[derive(Debug, Clone)]
struct Alert {
    name: &'static str,
    text: String,
    since: SystemTime,
    lifted: Option<SystemTime>,
}

/// Raised alerts, and some that were.
#[derive(Debug, Default)]
pub(crate) struct Alerts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    raised: Vec<Alert>,
    past: VecDeque<Alert>,
    /// Counts of the last minute: when, what came, what came twice, failed handshakes.
    history: VecDeque<(Instant, [u64; 3])>,
    /// Since when paths have done badly, by session and path.
    degraded: BTreeMap<(String, u32), Instant>,
}

/// What was raised or lifted just now.
pub(crate) struct Change {
    pub(crate) name: &'static str,
    pub(crate) raised: bool,
    pub(crate) text: String,
}

impl Alerts {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are raised.
    pub(crate) fn count(&self) -> u64 {
        self.state().raised.len() as u64
    }

    pub(crate) fn show(&self) -> Json {
        let state = self.state();
        let shown = |alert: &Alert| {
            let seconds = |at: SystemTime| {
                at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
            };
            json!({
                "alert": alert.name,
                "text": alert.text,
                "since": seconds(alert.since),
                "lifted": alert.lifted.map(seconds),
            })
        };
        let raised: Vec<_> = state.raised.iter().map(shown).collect();
        let past: Vec<_> = state.past.iter().map(shown).collect();
        json!({ "raised": raised, "lifted": past })
    }

    /// Looks at everything: what changed.
    pub(crate) fn look(
        &self,
        endpoints: &[Endpoint],
        service: &dyn Service,
        thresholds: &Thresholds,
    ) -> Vec<Change> {
        let figures = Looked::at(endpoints, service);
        self.judge(&figures, thresholds, Instant::now(), SystemTime::now())
    }

    fn judge(
        &self,
        looked: &Looked,
        thresholds: &Thresholds,
        now: Instant,
        wall: SystemTime,
    ) -> Vec<Change> {
        let mut state = self.state();
        let minute = Duration::from_secs(60);
        while state.history.front().is_some_and(|(at, _)| *at + minute < now) {
            state.history.pop_front();
        }
        state.history.push_back((now, looked.counts));
        let [received, twice, failures] = state.since_first(looked.counts);
        // Each counts for itself: of many clients' paths some always do badly for a moment.
        state.degraded.retain(|path, _| looked.bad_paths.contains(path));
        for path in &looked.bad_paths {
            state.degraded.entry(path.clone()).or_insert(now);
        }
        let worst = state.degraded.iter().min_by_key(|(_, since)| **since);
        let worst = worst.map(|(path, since)| (path, now.saturating_duration_since(*since)));
        let degraded = worst.filter(|(_, lasted)| *lasted >= thresholds.degraded);
        let degraded = degraded.map(|((session, path), lasted)| {
            let seconds = lasted.as_secs();
            format!("path {path} of session {session} has been degraded or dead for {seconds} s")
        });
        let share = twice as f64 / received.max(1) as f64;
        let memory = looked.memory;
        // It goes up and down about the threshold: once raised, it is lifted well below.
        let is_raised = state.raised.iter().any(|alert| alert.name == "memory");
        let memory_bound = thresholds.memory - if is_raised { 0.05 } else { 0.0 };
        let holds = [
            looked.edges_lost.then(|| "no edge joined when it was dialed last".to_owned()),
            (share > thresholds.duplicates && received > 1 << 20)
                .then(|| format!("{:.1} % of what came had come before", share * 100.0)),
            degraded,
            (memory > memory_bound)
                .then(|| format!("{:.0} % of the memory is granted", memory * 100.0)),
            (failures as f64 >= thresholds.failures)
                .then(|| format!("{failures} handshakes failed within a minute")),
        ];
        let names = ALERTS.iter().map(|(name, ..)| *name);
        names.zip(holds).filter_map(|(name, holds)| state.set(name, holds, wall)).collect()
    }
}

impl State {
    /// What the counts rose by within the last minute.
    fn since_first(&self, now: [u64; 3]) -> [u64; 3] {
        let first = self.history.front().map_or(now, |(_, counts)| *counts);
        std::array::from_fn(|at| now[at].saturating_sub(first[at]))
    }

    fn set(&mut self, name: &'static str, holds: Option<String>, at: SystemTime) -> Option<Change> {
        let raised = self.raised.iter().position(|alert| alert.name == name);
        match (raised, holds) {
            (None, Some(text)) => {
                let alert = Alert { name, text: text.clone(), since: at, lifted: None };
                self.raised.push(alert);
                Some(Change { name, raised: true, text })
            }
            (Some(index), None) => {
                let alert = Alert { lifted: Some(at), ..self.raised.remove(index) };
                let text = alert.text.clone();
                self.past.push_front(alert);
                self.past.truncate(MAX_PAST_ALERTS);
                Some(Change { name, raised: false, text })
            }
            _ => None,
        }
    }
}

/// What alerts follow from.
#[derive(Debug, Default)]
struct Looked {
    /// What came, what came twice, failed handshakes, since the start.
    counts: [u64; 3],
    /// The share of its memory that an endpoint has granted, of the fullest.
    memory: f64,
    /// Session and path.
    bad_paths: BTreeSet<(String, u32)>,
    edges_lost: bool,
}

impl Looked {
    fn at(endpoints: &[Endpoint], service: &dyn Service) -> Self {
        let mut looked = Self::default();
        for endpoint in endpoints {
            let families = endpoint.metrics();
            let sum = |name: &str| sum(&families, name);
            looked.counts[0] += sum("kwik_received_bytes");
            looked.counts[1] += sum("kwik_duplicate_bytes");
            looked.counts[2] += sum("kwik_handshake_failures");
            let limit = sum("kwik_memory_limit_bytes").max(1);
            let share = sum("kwik_memory_granted_bytes") as f64 / limit as f64;
            looked.memory = looked.memory.max(share);
        }
        for found in view::all(endpoints) {
            let kwik::LiveSession::Primary(primary) = &found.session else { continue };
            let bad = |status| matches!(status, PathStatus::Degraded | PathStatus::Dead);
            let paths = primary.all_paths().into_iter();
            let paths = paths.filter(|path| bad(path.status) && !path.ended);
            looked.bad_paths.extend(paths.map(|path| (found.name.clone(), path.id.0)));
        }
        let edges = service.edges();
        looked.edges_lost = !edges.is_empty() && edges.iter().all(|edge| edge.unreached);
        looked
    }
}

fn sum(families: &[Family], name: &str) -> u64 {
    let family = families.iter().filter(|family| family.name == name);
    let samples = family.flat_map(|family| &family.samples);
    samples.map(|sample| if let Value::Number(number) = sample.value { number } else { 0 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(alerts: &Alerts, looked: &Looked, now: Instant) -> Vec<(&'static str, bool)> {
        let changes = alerts.judge(looked, &Thresholds::default(), now, SystemTime::now());
        changes.iter().map(|change| (change.name, change.raised)).collect()
    }

    #[test]
    fn each_alert_is_raised_once_and_lifted_once() {
        let (alerts, start) = (Alerts::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let calm = || Looked { memory: 0.1, ..Looked::default() };
        assert_eq!(changes(&alerts, &calm(), at(0)), []);
        let storm = Looked {
            counts: [10 << 20, 1 << 20, 60],
            memory: 0.9,
            bad_paths: [("0-1".to_owned(), 2)].into(),
            edges_lost: true,
        };
        let raised = ["no_edge_left", "duplicates", "memory", "handshake_failures"];
        assert_eq!(changes(&alerts, &storm, at(1)), raised.map(|name| (name, true)));
        assert_eq!(changes(&alerts, &storm, at(2)), []);
        assert_eq!(changes(&alerts, &storm, at(31)), [("path_degraded", true)]);
        assert_eq!(alerts.count(), 5);
        // Counts rise no more: after a minute they are the past.
        let calm = Looked { counts: storm.counts, ..calm() };
        let lifted = changes(&alerts, &calm, at(100));
        assert_eq!(lifted.len(), 5);
        assert!(lifted.iter().all(|(_, raised)| !raised));
        assert_eq!(changes(&alerts, &calm, at(101)), []);
        assert_eq!(alerts.show()["lifted"].as_array().unwrap().len(), 5);
    }

    #[test]
    fn paths_that_do_badly_in_turn_raise_no_alert() {
        let (alerts, start) = (Alerts::default(), Instant::now());
        for second in 0..100_u32 {
            let bad = [("0-1".to_owned(), u32::from(second % 20 < 10))].into();
            let looked = Looked { bad_paths: bad, ..Looked::default() };
            assert_eq!(changes(&alerts, &looked, start + Duration::from_secs(second.into())), []);
        }
        let bad = [("0-1".to_owned(), 7_u32)];
        let looked = Looked { bad_paths: bad.into(), ..Looked::default() };
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(changes(&alerts, &looked, at(100)), []);
        assert_eq!(changes(&alerts, &looked, at(130)), [("path_degraded", true)]);
        let text = alerts.show()["raised"][0]["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with("path 7 of session 0-1"), "{text}");
    }

    #[test]
    fn memory_about_its_threshold_is_one_alert() {
        let (alerts, now) = (Alerts::default(), Instant::now());
        let told: Vec<_> = [0.79, 0.81, 0.79, 0.81, 0.76, 0.74, 0.76]
            .into_iter()
            .flat_map(|memory| changes(&alerts, &Looked { memory, ..Looked::default() }, now))
            .collect();
        assert_eq!(told, [("memory", true), ("memory", false)]);
    }
}
