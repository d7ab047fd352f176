//! Dialing a primary.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kwik_proto::limits;

use crate::driver::ToPrimary;
use crate::quic::{ConnectError, Connecting, Connection, ConnectionError, Runtime};

/// A round trip that is more likely a silence within the handshake, after which QUIC would repeat
/// what is lost next only after half a minute or more.
const LONG_RTT: Duration = Duration::from_secs(1);

/// Dialing takes no longer, whatever QUIC's idle timeout is.
const LONGEST: Duration = Duration::from_secs(3600);

/// A primary to be dialed.
///
/// A handshake that takes long is begun anew, up to QUIC's idle timeout, since QUIC repeats what
/// was lost after twice as long each time; and once more if it has measured a [`LONG_RTT`].
pub(super) struct Dial {
    pub(super) to: Arc<ToPrimary>,
    pub(super) runtime: Runtime,
}

impl Dial {
    /// Begins a handshake.
    pub(super) fn begin(&self) -> Result<Connecting, ConnectError> {
        self.to.begin()
    }

    /// Goes on from the first handshake.
    pub(super) async fn connect(self, first: Connecting) -> Result<Connection, ConnectError> {
        let usual = limits::HANDSHAKE_TIMEOUT;
        // For QUIC 0 is none, and one that is shorter than a few round trips is as long as they.
        let idle = Some(self.to.endpoint.idle_timeout()).filter(|idle| !idle.is_zero());
        let end = self.runtime.now() + idle.unwrap_or(LONGEST).clamp(usual, LONGEST);
        let (mut connecting, mut patience, mut slow) = (first, usual, None);
        loop {
            let until = end.min(self.runtime.now() + patience);
            let mut timeout = self.runtime.sleep_until(until);
            let result = before(&mut timeout, connecting).await;
            match (result, slow.take()) {
                (Some(Ok(connection)), None) if connection.rtt() >= LONG_RTT => {
                    slow = Some(connection);
                    patience = usual;
                }
                (Some(Ok(connection)), _) | (_, Some(connection)) => return Ok(connection),
                (Some(Err(error)), None) => return Err(error),
                (None, None) if until == end => return Err(ConnectionError::TimedOut.into()),
                (None, None) => patience *= 2,
            }
            connecting = self.begin()?;
        }
    }
}

/// Awaits `work` until the timeout; none if it comes first.
pub(super) async fn before<T>(
    timeout: &mut (impl Future<Output = ()> + Unpin),
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut *timeout).poll(cx).map(|()| None),
    })
    .await
}
