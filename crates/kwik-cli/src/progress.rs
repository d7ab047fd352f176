//! Progress on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{
    env,
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use kwik_delivery::{Progress, Takeover};
use serde_json::json;

use crate::{
    summary::{Shares, Size, mbit},
    voice::{self, Form, note},
};

/// How often a transfer is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Until the first plain line. Each further wait is twice as long, up to the longest: a log of a
/// long download stays short.
const FIRST_LINE: Duration = Duration::from_secs(2);
/// See [`FIRST_LINE`].
const LONGEST_LINE: Duration = Duration::from_secs(60);
/// Between two events.
const EVENT_EVERY: Duration = Duration::from_millis(100);
/// Columns from which on a bar has room beside what it says.
const WIDE: u16 = 90;

/// Shows how far a transfer is.
#[derive(Debug)]
pub(crate) struct Display {
    size: u64,
    began: Instant,
    /// Received before, by a session that was lost.
    before: u64,
    told: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines { next: Instant, wait: Duration },
    Events { next: Instant },
    Nothing,
}

impl Kind {
    fn new(size: u64, now: Instant) -> Self {
        match voice::form() {
            Form::Quiet | Form::Silent => Self::Nothing,
            Form::Json => Self::Events { next: now },
            Form::Auto if is_terminal() => {
                let wide =
                    console::Term::stderr().size_checked().is_some_and(|size| size.1 >= WIDE);
                let template = match wide {
                    true => "[{bar:20}] {percent:>3} %  {wide_msg}",
                    // What does not fit is cut.
                    false => "{percent:>3} %  {wide_msg}",
                };
                let style = ProgressStyle::with_template(template);
                let style = style.expect("invariant: the template is well-formed");
                // What every terminal and locale has.
                Self::Bar(ProgressBar::new(size).with_style(style.progress_chars("=> ")))
            }
            Form::Auto | Form::Lines => Self::Lines { next: now + FIRST_LINE, wait: FIRST_LINE },
        }
    }
}

/// Whether standard error is a terminal that can go back on a line.
fn is_terminal() -> bool {
    stderr().is_terminal()
        && env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

impl Display {
    pub(crate) fn new(size: u64, progress: &Progress) -> Self {
        let began = Instant::now();
        let (before, told) = (progress.received(), progress.takeover().is_some());
        Self { size, began, before, told, kind: Kind::new(size, began) }
    }

    pub(crate) fn update(&mut self, progress: &Progress, shares: &Shares) {
        self.tell_takeover(progress);
        let now = Instant::now();
        let (verified, size) = (progress.verified(), self.size);
        let percent = || verified.saturating_mul(100).checked_div(size).unwrap_or(100);
        let text = self.text(progress, shares, now);
        match &mut self.kind {
            Kind::Bar(bar) => {
                bar.set_position(verified);
                bar.set_message(text);
            }
            Kind::Lines { next, wait } if now >= *next => {
                *wait = (*wait * 2).min(LONGEST_LINE);
                *next = now + *wait;
                note(&format!("{:>3} %  {text}", percent()));
            }
            Kind::Events { next } if now >= *next => {
                *next = now + EVENT_EVERY;
                voice::event(&json!({
                    "event": "progress",
                    "verified": verified,
                    "received": progress.received(),
                    "size": size,
                    "paths": shares.paths(),
                }));
            }
            Kind::Lines { .. } | Kind::Events { .. } | Kind::Nothing => {}
        }
    }

    fn text(&self, progress: &Progress, shares: &Shares, now: Instant) -> String {
        let (verified, size) = (progress.verified(), self.size);
        if let Some((checked, all)) = progress.checked().filter(|(checked, all)| checked < all) {
            return format!("checking what is here already: {} of {}", Size(checked), Size(all));
        }
        if size > 0 && verified == size {
            return format!("{} are here: the disk is waited for", Size(size));
        }
        let came = progress.received().saturating_sub(self.before);
        let elapsed = now - self.began;
        let rate = mbit(came, elapsed);
        let paths = match shares.paths() {
            1 => "1 path".into(),
            paths => format!("{paths} paths"),
        };
        let left = left(size.saturating_sub(verified), came, elapsed);
        let limit = limited_by(shares.limit());
        format!("{} of {}  {rate:.0} Mbit/s  {left}{paths}{limit}", Size(verified), Size(size))
    }

    /// Says once what became of what was there already.
    pub(crate) fn tell_takeover(&mut self, progress: &Progress) {
        let Some(takeover) = progress.takeover().filter(|_| !self.told) else { return };
        self.told = true;
        let (kept, lost) = match takeover {
            Takeover::Kept { bytes, damaged } => (bytes, damaged),
            _ => (0, 0),
        };
        voice::event(&json!({ "event": "takeover", "kept": kept, "damaged": lost }));
        let text = match takeover {
            Takeover::Kept { bytes, damaged: 0 } => {
                format!("going on: {} of {} are here and verified", Size(bytes), Size(self.size))
            }
            Takeover::Kept { bytes, damaged } => format!(
                "going on: {} of {} are here and verified, {} were damaged",
                Size(bytes),
                Size(self.size),
                Size(damaged)
            ),
            _ => "the object is another than the one that was begun here: fetching it anew".into(),
        };
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| note(&text)),
            _ => note(&text),
        }
    }
}

/// Shows how far many transfers are.
pub(crate) struct Overall {
    began: Instant,
    received: u64,
    kind: Kind,
}

impl Overall {
    pub(crate) fn new() -> Self {
        let began = Instant::now();
        Self { began, received: 0, kind: Kind::new(0, began) }
    }

    /// What had come when it was shown last.
    pub(crate) const fn received(&self) -> u64 {
        self.received
    }

    /// Bytes that came; bytes and files that are done, and how many are known to be wanted; paths,
    /// what is waited for when nothing comes, and what limits.
    pub(crate) fn update(
        &mut self,
        received: u64,
        (verified, size): (u64, u64),
        (done, files): (u64, u64),
        (paths, waiting, limit): (usize, Option<String>, Option<String>),
    ) {
        let now = Instant::now();
        let elapsed = now - self.began;
        self.received = received;
        let text = || {
            if let Some(waiting) = &waiting {
                return format!("{done} of {files}: {waiting}");
            }
            let rate = mbit(received, elapsed);
            let left = left(size.saturating_sub(verified), received, elapsed);
            let (verified, size) = (Size(verified), Size(size.max(verified)));
            let limit = limited_by(limit.as_deref());
            format!("{done} of {files}: {verified} of {size}  {rate:.0} Mbit/s  {left}{limit}")
        };
        let percent = verified.saturating_mul(100).checked_div(size).unwrap_or(0).min(100);
        match &mut self.kind {
            Kind::Bar(bar) => {
                bar.set_length(size.max(1));
                bar.set_position(verified);
                bar.set_message(text());
            }
            Kind::Lines { next, wait } if now >= *next => {
                *wait = (*wait * 2).min(LONGEST_LINE);
                *next = now + *wait;
                note(&format!("{percent:>3} %  {}", text()));
            }
            Kind::Events { next } if now >= *next => {
                *next = now + EVENT_EVERY;
                voice::event(&json!({
                    "event": "progress",
                    "verified": verified,
                    "received": received,
                    "size": size,
                    "done": done,
                    "files": files,
                    "paths": paths,
                }));
            }
            Kind::Lines { .. } | Kind::Events { .. } | Kind::Nothing => {}
        }
    }

    /// Says a line beside it.
    pub(crate) fn say(&self, text: &str) {
        match &self.kind {
            Kind::Bar(bar) => bar.suspend(|| note(text)),
            _ => note(text),
        }
    }
}

impl Drop for Overall {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn limited_by(limit: Option<&str>) -> String {
    limit.map(|limit| format!("  limited by {limit}")).unwrap_or_default()
}

/// How long the rest may take, for people; nothing before that can be told.
fn left(bytes: u64, came: u64, elapsed: Duration) -> String {
    if came == 0 || elapsed < Duration::from_secs(1) {
        return String::new();
    }
    let millis = u128::from(bytes).saturating_mul(elapsed.as_millis());
    let seconds = millis.div_ceil(u128::from(came) * 1000);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s left  "),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02} left  "),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02} left  "),
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

/// Says what is waited for, once that takes a while, and now and then from there on.
#[derive(Debug)]
pub(crate) struct Waiting {
    next: Instant,
    wait: Duration,
}

/// Until the first line. Each further wait is twice as long, up to [`LONGEST_LINE`].
const FIRST_WAITING: Duration = Duration::from_secs(3);

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now() + FIRST_WAITING, wait: FIRST_WAITING }
    }

    /// Waits for `work`, and says of `what` until it is done.
    pub(crate) async fn for_work<T>(
        mut self,
        work: impl Future<Output = T>,
        what: impl Fn() -> String,
    ) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = tokio::time::sleep_until(self.next.into()) => {
                    self.wait = (self.wait * 2).min(LONGEST_LINE);
                    self.next = Instant::now() + self.wait;
                    note(&what());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_readable() {
        let left = |bytes| left(bytes, 1000, Duration::from_secs(10));
        assert_eq!(left(0), "0 s left  ");
        assert_eq!(left(5_950), "1:00 left  ");
        assert_eq!(left(5_999_999), "16:40:00 left  ");
        assert_eq!(super::left(1, 0, Duration::from_secs(10)), "");
    }
}
