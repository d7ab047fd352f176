//! What limits a get, for who wants to know (`-v`).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kwik::{Bottleneck, Session};

/// How often a session is looked at.
const EVERY: Duration = Duration::from_millis(250);

/// What limited a get, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// When it was looked at last, what limited then, and that as a sentence.
    last: Option<(Instant, &'static str, String)>,
    times: BTreeMap<&'static str, Duration>,
}

impl Limits {
    /// Looks at a session, unless it did just now. `writing` says that blocks wait to be written.
    pub(crate) fn look(&mut self, session: &Session, writing: bool) {
        let now = Instant::now();
        if self.last.as_ref().is_some_and(|(at, ..)| now < *at + EVERY) {
            return;
        }
        let limit = session.blocked_on();
        match limit {
            // What it reads waits for the disk, or for who reads what it writes.
            Bottleneck::Reader { .. } if writing => {
                self.note(now, "disk", "the disk, or what the output goes to, is slow".into());
            }
            // It is over, or not begun.
            Bottleneck::Nothing => {}
            limit => self.note(now, limit.name(), limit.to_string()),
        }
    }

    fn note(&mut self, now: Instant, name: &'static str, text: String) {
        if let Some((since, before, _)) = self.last.replace((now, name, text)) {
            *self.times.entry(before).or_default() += now.saturating_duration_since(since);
        }
    }

    /// What limited when it was looked at last.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_ref().map(|(.., text)| &**text)
    }

    /// What limited most of the time, in one line.
    pub(crate) fn summary(&self) -> Option<String> {
        let (.., last) = self.last.as_ref()?;
        let all: Duration = self.times.values().sum();
        let mut times: Vec<_> = self.times.iter().collect();
        times.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
        let part = |time: &Duration| time.as_secs_f64() * 100.0 / all.as_secs_f64().max(1e-9);
        let parts = times.iter().filter(|(_, time)| part(time) >= 1.0);
        let parts = parts
            .map(|(name, time)| {
                format!("{} {:.0} % of the time", name.replace('_', " "), part(time))
            })
            .collect::<Vec<_>>();
        match parts.is_empty() {
            true => Some(format!("limited by {last}")),
            false => Some(format!("limited by {}; last: {last}", parts.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_limited_longest_is_named_first() {
        let (mut limits, start) = (Limits::default(), Instant::now());
        assert_eq!(limits.summary(), None);
        limits.note(start, "silent_path", "path 1 has been silent for 0.3 s".into());
        let begun = "limited by path 1 has been silent for 0.3 s";
        assert_eq!(limits.summary().as_deref(), Some(begun));
        limits.note(start + Duration::from_secs(1), "links", "a".into());
        limits.note(start + Duration::from_secs(4), "links", "b".into());
        assert_eq!(
            limits.summary().as_deref(),
            Some("limited by links 75 % of the time, silent path 25 % of the time; last: b")
        );
    }
}
