//! Signals that end a download.

use std::{fs, task::Poll};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Kind};

/// Signals that ask to end.
#[derive(Debug)]
pub(crate) struct Signals(Vec<(i32, Signal)>);

impl Signals {
    /// Listens from here on. What is ignored stays so, as under `nohup`. A file that grows beyond
    /// what a limit allows shows as an error of its write.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed =
            |error| Failure::new(Kind::Transfer, format!("cannot wait for signals: {error}"));
        let ignored = ignored();
        let is_ignored = |number: i32| ignored >> (number - 1) & 1 == 1;
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let kinds = kinds.into_iter().filter(|kind| !is_ignored(kind.as_raw_value()));
        let kinds = kinds.map(|kind| Ok((kind.as_raw_value(), signal(kind)?)));
        let signals = kinds.collect::<Result<_, _>>().map_err(failed)?;
        let too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        // It stays caught.
        drop(signal(too_large).map_err(failed)?);
        Ok(Self(signals))
    }

    /// Waits for one: its number. Cancel safe.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The signals that this process was told to ignore, a bit each; none where the system does not
/// say.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}
