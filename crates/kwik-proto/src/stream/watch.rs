//! What a session's streams hold for their readers, watched for backpressure (8.3) and for gaps
//! that last (8.4).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::limits::MEMORY_INTERVAL;
use crate::presentation::{
    Backpressure, BackpressureChange, BackpressureReason, SessionLoad, StreamLoad, WindowStatus,
};
use crate::stats::{GapNotice, Latencies};
use crate::{Config, StreamId};

use super::RecvHalf;

#[derive(Debug)]
struct Gap {
    range: Range<u64>,
    since: Instant,
    reported: bool,
}

/// How long what came early waited until it could be read: of one place of a stream at a time.
/// Nothing is kept where that never happened.
#[derive(Debug, Default)]
struct Aggregation(Option<Box<Latencies>>);

impl Aggregation {
    fn look(&mut self, ahead: &mut Option<(u64, Instant)>, recv: &RecvHalf, now: Instant) {
        match *ahead {
            Some((end, since)) if recv.contiguous_end() >= end => {
                let latencies = self.0.get_or_insert_default();
                latencies.note(now.saturating_duration_since(since));
                *ahead = None;
            }
            Some(_) => {}
            None => *ahead = recv.early_end().map(|end| (end, now)),
        }
    }
}

#[derive(Debug)]
struct Watched {
    held: u64,
    opened_at: Instant,
    active_at: Instant,
    /// The end of what was here and the time, when a byte before it was missing first.
    ahead: Option<(u64, Instant)>,
}

/// What is known of the receiving streams of a session. It is looked at once a batch that came and
/// once a step that was read, never per chunk.
#[derive(Debug, Default)]
pub(super) struct Watch {
    streams: BTreeMap<StreamId, Watched>,
    /// Sum over `streams`.
    held: u64,
    backpressure: Backpressure,
    /// What readers wait for while bytes behind it are here.
    gaps: BTreeMap<StreamId, Gap>,
    /// Gaps reported so far.
    reported: u64,
    aggregation: Aggregation,
    /// The time of the last look: streams are closed without one.
    latest: Option<Instant>,
}

impl Watch {
    pub(super) fn open(&mut self, id: StreamId, now: Instant) {
        self.latest = self.latest.max(Some(now));
        let watched = Watched { held: 0, opened_at: now, active_at: now, ahead: None };
        self.streams.insert(id, watched);
    }

    /// A stream received something, or was read.
    pub(super) fn on_active(&mut self, id: StreamId, now: Instant) {
        if let Some(watched) = self.streams.get_mut(&id) {
            watched.active_at = now;
        }
    }

    /// Looks at a stream with its `allowance`: its backpressure, if that changed.
    pub(super) fn look(
        &mut self,
        id: StreamId,
        recv: &RecvHalf,
        allowance: u64,
        config: &Config,
        now: Instant,
    ) -> Option<BackpressureChange> {
        let watched = self.streams.get_mut(&id)?;
        self.latest = self.latest.max(Some(now));
        let held = recv.held();
        self.held = self.held - watched.held + held;
        watched.held = held;
        self.aggregation.look(&mut watched.ahead, recv, now);
        self.look_for_gap(id, recv, now);
        let load = StreamLoad {
            held: if recv.is_complete() { 0 } else { held },
            contiguous: recv.unread(),
            size: allowance,
        };
        self.backpressure.on_stream(id, load, config.stream_threshold(), now)
    }

    /// Looks at all streams together: the session's backpressure, if that changed.
    pub(super) fn look_at_session(
        &mut self,
        window: &WindowStatus,
        memory: bool,
        config: &Config,
    ) -> Option<BackpressureChange> {
        let load = SessionLoad {
            held: self.held,
            size: window.lent + window.lendable + window.streams * window.floor,
            streams: self.streams.len(),
            memory,
        };
        self.backpressure.on_session(load, config.window_threshold(), self.latest?)
    }

    /// A stream's reader needs nothing more.
    pub(super) fn close(&mut self, id: StreamId) {
        if let Some(watched) = self.streams.remove(&id) {
            if self.streams.is_empty() {
                // An empty map would keep room for several.
                self.streams = BTreeMap::new();
            }
            self.held -= watched.held;
            self.gaps.remove(&id);
            self.backpressure.on_closed(id, self.latest.unwrap_or(watched.active_at));
        }
    }

    /// When [`Watch::take_gap`] or [`Watch::is_look_due`] may have something.
    pub(super) fn poll_timeout(&self, timeout: Duration) -> Option<Instant> {
        let gaps = self.gaps.values().filter(|gap| !gap.reported).map(|gap| gap.since + timeout);
        gaps.chain(self.next_look()).min()
    }

    /// Whether it is time to look at the session, with or without traffic; notes that it was done.
    pub(super) fn is_look_due(&mut self, now: Instant) -> bool {
        let due = self.next_look().is_some_and(|at| at <= now);
        if due {
            self.latest = self.latest.max(Some(now));
        }
        due
    }

    /// Memory pressure is ended by what other sessions do, of which nothing is heard here.
    fn next_look(&self) -> Option<Instant> {
        let (reason, _) = self.backpressure.session()?;
        let pressed = reason == BackpressureReason::MemoryPressure;
        self.latest.filter(|_| pressed).map(|at| at + MEMORY_INTERVAL)
    }

    /// A gap that has lasted for `timeout` and was not reported yet.
    pub(super) fn take_gap(&mut self, timeout: Duration, now: Instant) -> Option<GapNotice> {
        let due = |gap: &Gap| !gap.reported && gap.since + timeout <= now;
        let (id, gap) = self.gaps.iter_mut().find(|(_, gap)| due(gap))?;
        gap.reported = true;
        self.reported += 1;
        Some(GapNotice { stream: *id, range: gap.range.clone(), since: gap.since })
    }

    /// A gap that a stream's reader waits for, however long.
    pub(super) fn gap(&self, id: StreamId) -> Option<GapNotice> {
        let gap = self.gaps.get(&id)?;
        Some(GapNotice { stream: id, range: gap.range.clone(), since: gap.since })
    }

    /// When a stream was opened, and when it last received or was read.
    pub(super) fn times(&self, id: StreamId) -> Option<(Instant, Instant)> {
        self.streams.get(&id).map(|watched| (watched.opened_at, watched.active_at))
    }

    /// Gaps reported so far.
    pub(super) fn reported(&self) -> u64 {
        self.reported
    }

    /// Bytes received and not yet read, as of the last look.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// How long bytes waited for others before them.
    pub(super) fn aggregation(&self) -> Latencies {
        self.aggregation.0.as_deref().copied().unwrap_or_default()
    }

    pub(super) fn backpressure(&self) -> &Backpressure {
        &self.backpressure
    }

    /// Notes the gap that the reader waits for; the time begins anew when it waits at another
    /// place.
    fn look_for_gap(&mut self, id: StreamId, recv: &RecvHalf, now: Instant) {
        let Some(range) = recv.blocking_gap() else {
            self.gaps.remove(&id);
            return;
        };
        match self.gaps.get_mut(&id).filter(|gap| gap.range.start == range.start) {
            Some(gap) => gap.range = range,
            None => {
                self.gaps.insert(id, Gap { range, since: now, reported: false });
            }
        }
    }
}
