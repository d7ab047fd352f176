//! Packets that the system refuses to send.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two lines in the log, at the least: QUIC sends again and again.
const EVERY: Duration = Duration::from_secs(60);

/// Says what the system refuses, in words and now and then. QUIC takes such packets for lost ones.
#[derive(Debug, Default)]
pub(super) struct Unsent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    since: u64,
}

impl Unsent {
    /// A packet to `to` was refused.
    #[expect(clippy::disallowed_methods, reason = "a socket of the system's is in no simulation")]
    pub(super) fn notice(&self, to: SocketAddr, error: &io::Error) {
        if let Some(before) = self.admit(Instant::now()) {
            let advice = advice(error);
            tracing::warn!(
                %to, %error, refused_before = before,
                "the system does not send packets to an address: {advice}"
            );
        }
    }

    /// Whether a line is due: how many packets were refused since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        // The state is whole between statements, so a panic elsewhere leaves it usable.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|said| now.saturating_duration_since(said) < EVERY) {
            state.since += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.since))
    }
}

fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind::{HostUnreachable, InvalidInput, NetworkUnreachable, PermissionDenied};
    match error.kind() {
        PermissionDenied => "a firewall of this machine forbids it",
        NetworkUnreachable | HostUnreachable => "this machine has no route there",
        InvalidInput => "a socket of this address cannot reach it",
        _ => "they count as lost",
    }
}

/// Larger than the link takes: QUIC tries such sizes to learn that.
pub(super) fn is_too_large(error: &io::Error) -> bool {
    #[cfg(unix)]
    const TOO_LARGE: i32 =
        if cfg!(any(target_os = "linux", target_os = "android")) { 90 } else { 40 };
    #[cfg(not(unix))]
    const TOO_LARGE: i32 = 10040;
    error.raw_os_error() == Some(TOO_LARGE)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment to count from")]
mod tests {
    use super::*;

    #[test]
    fn refused_packets_are_counted_and_said_once_a_minute() {
        let (unsent, began) = (Unsent::default(), Instant::now());
        assert_eq!(unsent.admit(began), Some(0));
        assert!((0..9).all(|_| unsent.admit(began).is_none()));
        assert_eq!(unsent.admit(began + EVERY), Some(9));
        assert_eq!(unsent.admit(began + EVERY), None);
    }

    #[test]
    fn what_the_system_says_is_put_into_words() {
        assert!(advice(&io::Error::from_raw_os_error(1)).contains("firewall"));
        if cfg!(target_os = "linux") {
            assert!(advice(&io::Error::from_raw_os_error(101)).contains("route"));
            assert!(is_too_large(&io::Error::from_raw_os_error(90)));
        }
        assert!(!is_too_large(&io::Error::from_raw_os_error(1)));
    }
}
