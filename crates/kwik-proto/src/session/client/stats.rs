//! What a client's session has done.

use std::time::Instant;

use crate::PathId;
use crate::stats::{PathFigures, PathStats, ScheduleStats, SessionStats};
use crate::sync::lock;

use super::ClientSession;

impl ClientSession {
    /// Figures of the session and its live paths.
    #[must_use]
    pub fn stats(&self, now: Instant) -> SessionStats {
        let paths = self.paths.active().into_iter().filter_map(|info| {
            Some(PathStats {
                id: info.id,
                figures: self.figures(info.id, now)?,
                data: self.data_options(info.id),
                address: info.address,
                status: info.status,
                congestion: None,
                udp_sent: 0,
                udp_received: 0,
                secondary: self.mappings.stats(info.id),
            })
        });
        let (unacknowledged, sent) = {
            let sent = lock(&self.sent);
            (sent.outstanding(), sent.total())
        };
        SessionStats {
            resumptions: self.home.resumptions,
            duplicates: self.scheduler.duplicates(),
            paths: paths.collect(),
            leases: self.scheduler.leases(),
            pieces: self.scheduler.pieces(),
            unacknowledged,
            sent,
            ..self.streams.stats(now)
        }
    }

    /// Why each path has what it has.
    #[must_use]
    pub fn schedule_stats(&self, now: Instant) -> Vec<ScheduleStats> {
        self.scheduler.explain(now)
    }

    /// How a path does; none while it has no connection.
    pub(super) fn figures(&self, path: PathId, now: Instant) -> Option<PathFigures> {
        let schedule = self.scheduler.path(path)?;
        let packets = self.links.get(&path)?.packets;
        Some(PathFigures {
            rtt: schedule.rtt(),
            sent_packets: packets.sent,
            lost_packets: packets.lost,
            goodput: schedule.rate(),
            received: schedule.received(),
            outstanding: schedule.outstanding(),
            idle: now.saturating_duration_since(schedule.last_heard()),
            stalled: now.saturating_duration_since(schedule.last_brought()),
        })
    }
}
