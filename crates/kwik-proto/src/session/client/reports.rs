//! What a client tells its primary later: how paths do, and why writers gave leases up.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::scheduler::SchedulerEvent;
use crate::wire::clip;
use crate::wire::control::{ControlMessage, Stopped};
use crate::{LeaseId, PathId, limits};

/// What the primary is to be told.
#[derive(Debug)]
pub(super) struct Reports {
    /// Why leases were given up that it is not told of yet.
    pub(super) reasons: Reasons,
    /// When it is told next how paths do.
    pub(super) due: Instant,
}

impl Reports {
    pub(super) fn new(now: Instant) -> Self {
        Self { reasons: Reasons::default(), due: now }
    }
}

/// What writers said, by lease.
#[derive(Debug, Default)]
pub(super) struct Reasons(BTreeMap<LeaseId, (PathId, String)>);

impl Reasons {
    /// The writer at the end of `path` gave a lease up, or says so.
    pub(super) fn on_stopped(&mut self, path: PathId, m: &Stopped) {
        let of_path = self.0.values().filter(|(by, _)| *by == path).count();
        if m.abandoned && !m.reason.is_empty() && of_path < limits::MAX_REASONS {
            self.0.insert(m.lease_id, (path, clip(&m.reason).to_owned()));
        }
    }

    /// Puts into reports what was said of their leases, by those whose leases they were.
    pub(super) fn complete(&mut self, events: &mut [SchedulerEvent]) {
        if self.0.is_empty() {
            return;
        }
        for event in &*events {
            if let SchedulerEvent::LeaseEnded(path, _, id) = event
                && self.0.get(id).is_some_and(|(by, _)| by != path)
            {
                self.0.remove(id);
            }
        }
        for event in events {
            if let SchedulerEvent::Send(_, ControlMessage::LeaseReport(report)) = event
                && let Some((_, reason)) = self.0.remove(&report.lease_id)
            {
                report.reason = reason;
            }
        }
    }

    pub(super) fn end_path(&mut self, path: PathId) {
        self.0.retain(|_, (by, _)| *by != path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StreamId;
    use crate::wire::control::LeaseReport;

    fn reported(path: PathId, by: PathId, said: &str) -> String {
        let mut reasons = Reasons::default();
        let lease_id = LeaseId(7);
        let stopped = Stopped { lease_id, abandoned: true, reason: said.into(), ..<_>::default() };
        reasons.on_stopped(by, &stopped);
        let report = ControlMessage::LeaseReport(LeaseReport { lease_id, ..<_>::default() });
        let mut events = [
            SchedulerEvent::Send(PathId::PRIMARY, report),
            SchedulerEvent::LeaseEnded(path, StreamId::from_u64(3), lease_id),
        ];
        reasons.complete(&mut events);
        match &events[0] {
            SchedulerEvent::Send(_, ControlMessage::LeaseReport(report)) => report.reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_writer_of_a_lease_says_why_it_ended() {
        assert_eq!(reported(PathId(1), PathId(1), "no such object"), "no such object");
        assert_eq!(reported(PathId(1), PathId(2), "no such object"), "");
    }

    #[test]
    fn a_path_that_gives_up_what_it_does_not_have_is_bounded_and_leaves_nothing() {
        let mut reasons = Reasons::default();
        for lease_id in (0..1000).map(LeaseId) {
            let reason = "x".repeat(2000);
            let stopped = Stopped { lease_id, abandoned: true, reason, ..<_>::default() };
            reasons.on_stopped(PathId(1), &stopped);
        }
        assert_eq!(reasons.0.len(), limits::MAX_REASONS);
        assert!(reasons.0.values().all(|(_, reason)| reason.len() <= limits::MAX_TEXT));
        reasons.end_path(PathId(1));
        assert!(reasons.0.is_empty());
    }
}
