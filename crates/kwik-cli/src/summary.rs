//! What a transfer came to.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    time::Duration,
};

use kwik::{Decision, PathId, ScheduleStats, Session, escape};
use kwik_delivery::{Manifest, Progress, Takeover};
use serde_json::{Value, json};

use crate::{limit::Limits, voice::json_line};

/// What each path has brought.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    paths: BTreeMap<PathId, Share>,
    /// What addresses brought in sessions that were lost.
    before: BTreeMap<String, u64>,
    /// What paths brought of other objects.
    others: BTreeMap<PathId, u64>,
    sessions: u32,
    /// What limits, where somebody wants to know.
    limits: Option<Limits>,
}

/// What one path has brought, and why so much.
#[derive(Debug, Default)]
struct Share {
    address: String,
    bytes: u64,
    schedule: Option<ScheduleStats>,
    /// The most that it was asked for at once.
    pieces: usize,
    queue: Duration,
}

impl Shares {
    /// Of a get that says what limits it, or does not.
    pub(crate) fn new(verbose: bool) -> Self {
        Self { limits: verbose.then(Limits::default), ..Self::default() }
    }

    /// Goes on with a session, which may have brought other objects; the one before, if any, was
    /// lost.
    pub(crate) fn begin_session(&mut self, session: &Session) {
        self.sessions += 1;
        let paths = session.stats().paths.into_iter();
        self.others = paths.map(|path| (path.id, path.figures.received)).collect();
        for share in std::mem::take(&mut self.paths).into_values() {
            *self.before.entry(share.address).or_default() += share.bytes;
        }
    }

    /// How many sessions there were.
    pub(crate) const fn sessions(&self) -> u32 {
        self.sessions
    }

    /// Looks at a session's paths; those that have ended since stay with what was seen last.
    /// `writing` says that blocks wait to be written.
    pub(crate) fn update(&mut self, session: &Session, writing: bool) -> BTreeMap<PathId, u64> {
        if let Some(limits) = &mut self.limits {
            limits.look(session, writing);
        }
        let mut brought = BTreeMap::new();
        for path in session.stats().paths {
            brought.insert(path.id, path.figures.received);
            let others = self.others.get(&path.id).copied().unwrap_or_default();
            let share = self.paths.entry(path.id).or_default();
            share.bytes = path.figures.received.saturating_sub(others);
            share.address = path.address;
        }
        for schedule in session.schedule_stats() {
            let share = self.paths.entry(schedule.path).or_default();
            share.pieces = share.pieces.max(schedule.pieces);
            share.queue = share.queue.max(schedule.queue);
            share.schedule = Some(schedule);
        }
        brought
    }

    /// What a session before this one has brought since it had `brought` so much.
    pub(crate) fn update_before(&mut self, session: &Session, brought: &mut BTreeMap<PathId, u64>) {
        for path in session.stats().paths {
            let now = path.figures.received;
            let had = brought.insert(path.id, now).unwrap_or_default();
            *self.before.entry(path.address).or_default() += now.saturating_sub(had);
        }
    }

    /// Paths that have brought something.
    pub(crate) fn paths(&self) -> usize {
        self.paths.values().filter(|share| share.bytes > 0).count()
    }

    /// Address, bytes, and share of all bytes, path by path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64, f64)> {
        let now = self.paths.values().map(|share| {
            (&*share.address, share.bytes + self.before.get(&share.address).unwrap_or(&0))
        });
        let is_gone = |address: &str| self.paths.values().all(|share| share.address != address);
        let before = self.before.iter().filter(move |(address, _)| is_gone(address));
        let before = before.map(|(address, bytes)| (&**address, *bytes));
        let all: Vec<_> = now.chain(before).collect();
        let total: u64 = all.iter().map(|(_, bytes)| bytes).sum();
        let part = move |bytes: u64| if total == 0 { 0.0 } else { bytes as f64 / total as f64 };
        all.into_iter().map(move |(address, bytes)| (address, bytes, part(bytes)))
    }

    /// What limits now, where somebody wants to know.
    pub(crate) fn limit(&self) -> Option<&str> {
        self.limits.as_ref()?.last()
    }

    /// A line for each path: what it brought, what is known of it, and what was decided last; and
    /// one for what limited.
    pub(crate) fn explain(&self) -> Vec<String> {
        let paths = self.paths.iter().map(|(path, share)| share.explain(*path));
        paths.chain(self.limits.as_ref().and_then(Limits::summary)).collect()
    }
}

impl Share {
    fn explain(&self, path: PathId) -> String {
        let begin = format!("path {path} {}: {}", self.address, Size(self.bytes));
        let Some(schedule) = &self.schedule else { return begin };
        let rate = schedule.rate.map_or("rate unknown".into(), |rate| {
            format!("{:.0} Mbit/s", mbit(rate, Duration::from_secs(1)))
        });
        let (moved_in, moved_out) = (Size(schedule.moved_in), Size(schedule.moved_out));
        format!(
            "{begin}, {rate}, round trip {:.1} ms, up to {} pieces and {} ms asked for; moved in \
             {moved_in}, out {moved_out}, twice {}; {}",
            schedule.rtt.as_secs_f64() * 1e3,
            self.pieces,
            self.queue.as_millis(),
            Size(schedule.twice),
            schedule.decision.map_or("never asked", reason),
        )
    }
}

/// Why a path was asked last, or not, for people.
fn reason(decision: Decision) -> &'static str {
    match decision {
        Decision::Asked => "asked, as it has the next piece first",
        Decision::Unasked => "sent the beginning unasked",
        Decision::Expedited => "asked for what the reader waits for",
        Decision::TookOver => "took a piece over that it has sooner",
        Decision::LeftToOthers => "not asked, as others have all before",
        Decision::Moved => "lost a piece to a quicker path",
        Decision::OverBudget => "kept a late piece, lest too much come twice",
        Decision::Silent => "silent, so others were asked",
        Decision::Returned => "returned a piece, and rests",
        Decision::Lost => "lost its leases",
        _ => "decided for a reason of a newer version",
    }
}

/// A finished, verified transfer.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) manifest: Manifest,
    pub(crate) elapsed: Duration,
    /// The longest wait for a next byte.
    pub(crate) longest_stall: Duration,
    /// Bytes that an earlier get left, and that were used.
    pub(crate) taken_over: u64,
    /// Bytes of the object that came from servers.
    pub(crate) received: u64,
    pub(crate) shares: Shares,
    /// Addresses of servers that sent other bytes than the object's, which others brought.
    pub(crate) liars: Vec<String>,
}

impl Summary {
    pub(crate) fn new(
        manifest: Manifest,
        elapsed: Duration,
        progress: &Progress,
        shares: Shares,
        liars: Vec<String>,
    ) -> Self {
        let taken_over = match progress.takeover() {
            Some(Takeover::Kept { bytes, .. }) => bytes,
            _ => 0,
        };
        let (longest_stall, received) = (progress.longest_stall(), progress.received());
        Self { manifest, elapsed, longest_stall, taken_over, received, shares, liars }
    }

    /// Of what came, in Mbit/s.
    fn rate(&self) -> f64 {
        mbit(self.manifest.size.saturating_sub(self.taken_over), self.elapsed)
    }

    /// That it is done, for those who follow events.
    pub(crate) fn to_event(&self) -> Value {
        json!({
            "event": "done",
            "name": self.manifest.name.to_string(),
            "size": self.manifest.size,
            "blake3": self.manifest.root.to_hex().as_str(),
            "seconds": self.elapsed.as_secs_f64(),
            "taken_over": self.taken_over,
            "received": self.received,
            "sessions": self.shares.sessions,
        })
    }

    /// One JSON object.
    pub(crate) fn to_json(&self, output: &str) -> String {
        let shown = |address: &str| escape(address).to_string();
        let paths = self.shares.iter().map(|(address, bytes, share)| {
            json!({ "address": shown(address), "bytes": bytes, "share": share })
        });
        let liars = self.liars.iter().map(|address| shown(address));
        let object = json!({
            "name": self.manifest.name.to_string(),
            "output": output,
            "size": self.manifest.size,
            "blake3": self.manifest.root.to_hex().as_str(),
            "seconds": self.elapsed.as_secs_f64(),
            "longest_stall_seconds": self.longest_stall.as_secs_f64(),
            "mbit_per_second": self.rate(),
            "taken_over": self.taken_over,
            "received": self.received,
            "sessions": self.shares.sessions,
            "paths": paths.collect::<Vec<_>>(),
            "liars": liars.collect::<Vec<_>>(),
            "verified": true,
        });
        let mut line = json_line(&object);
        line.push('\n');
        line
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shares = String::new();
        for (address, _, share) in self.shares.iter() {
            write!(shares, "{address} {:.1} %, ", share * 100.0)?;
        }
        write!(
            f,
            "{}: {} in {:.2} s, {:.0} Mbit/s, longest stall {} ms; {shares}BLAKE3 {} verified",
            self.manifest.name,
            Size(self.manifest.size),
            self.elapsed.as_secs_f64(),
            self.rate(),
            self.longest_stall.as_millis(),
            self.manifest.root,
        )
    }
}

/// Megabits a second.
pub(crate) fn mbit(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 * 8e-6 / elapsed.as_secs_f64().max(1e-9)
}

/// A number of bytes for people.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut size = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while size >= 1024.0 && unit + 1 < units.len() {
            size /= 1024.0;
            unit += 1;
        }
        write!(f, "{size:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let shown = |size| Size(size).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1536), "1.5 KiB");
        assert_eq!(shown(256 << 20), "256.0 MiB");
        assert_eq!(shown(u64::MAX), "16777216.0 TiB");
    }
}
