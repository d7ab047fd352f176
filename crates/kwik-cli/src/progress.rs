//! Progress on standard error: a bar on a terminal, a line a second elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    say,
    summary::{Shares, Size, mbit},
};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows how far a transfer is.
#[derive(Debug)]
pub(crate) struct Display {
    size: u64,
    began: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Display {
    pub(crate) fn new(size: u64) -> Self {
        let began = Instant::now();
        let kind = if stderr().is_terminal() {
            let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}");
            let style = style.expect("invariant: the template is well-formed");
            Kind::Bar(ProgressBar::new(size).with_style(style))
        } else {
            Kind::Lines { last: began }
        };
        Self { size, began, kind }
    }

    pub(crate) fn update(&mut self, verified: u64, shares: &Shares) {
        let now = Instant::now();
        let rate = mbit(verified, now - self.began);
        let paths = match shares.paths() {
            1 => "1 path".into(),
            paths => format!("{paths} paths"),
        };
        let (done, size) = (Size(verified), Size(self.size));
        let text = format!("{done} of {size}  {rate:.0} Mbit/s  {paths}");
        match &mut self.kind {
            Kind::Bar(bar) => {
                bar.set_position(verified);
                bar.set_message(text);
            }
            Kind::Lines { last } if now - *last >= LINE_EVERY => {
                *last = now;
                let percent = verified.saturating_mul(100).checked_div(self.size).unwrap_or(100);
                say(&format!("{percent:>3} %  {text}"));
            }
            Kind::Lines { .. } => {}
        }
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
}

/// Until the first line, and between two.
const WAITING_EVERY: Duration = Duration::from_secs(3);

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { next: Instant::now() + WAITING_EVERY }
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
                    self.next = Instant::now() + WAITING_EVERY;
                    say(&what());
                }
            }
        }
    }
}
