//! Several primaries: whom a new session is dialed with when one cannot go on.

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kwik_proto::limits;
use kwik_proto::stream::Delivered;

use crate::driver::Ended;
use crate::quic::{ConnectError, ConnectionError};
use crate::session::Session;

use super::connect::Connecting;
use super::dial::before;
use super::dialer::SessionDialer;
use super::handle::Endpoint;
use super::turn::{Line, Primary, Turn};

/// How a session ended, what was delivered in it, and with whom there can be a new one.
///
/// Nothing goes from one session to the next by itself: a new one begins without streams, and with
/// another server's application, which may know nothing of the first. So what is to be asked or
/// sent again is for the application to say, by [`Self::streams`]. Of a session of
/// [`Endpoint::connect_any`] it holds the endpoint open, as it dials with that.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionEnd {
    /// Why it ended, and was not taken up on another connection.
    pub reason: ConnectionError,
    /// What was delivered of each stream that was not done with, oldest of each kind first. What
    /// was read is that of now, as bytes that are here can be read behind the end.
    pub streams: Vec<Delivered>,
    /// Whom [`Self::connect`] dials for a new session, in this order. Empty when there is nobody:
    /// the session was closed here, it was dialed with [`Endpoint::connect`] or
    /// [`Endpoint::connect_with`], whose caller knows the one primary, or
    /// [`limits::MAX_VAIN_SESSIONS`] sessions in a row ended before anything came of them.
    pub primaries: Vec<SocketAddr>,
    next: Option<Turn>,
}

impl SessionEnd {
    fn new(ended: Ended, turn: Option<&Turn>) -> Self {
        let Ended { reason, at, bore, streams } = ended;
        let wanted = reason != ConnectionError::LocallyClosed;
        let next = turn.filter(|_| wanted).and_then(|turn| turn.after(at, bore));
        let primaries = next.as_ref().map(Turn::addresses).unwrap_or_default();
        Self { reason, streams, primaries, next }
    }

    /// Dials the next primary for a new session, the others behind it, and the one whose session
    /// ended in its turn; all of them up to [`limits::PRIMARY_ROUNDS`] times, with waits in
    /// between.
    ///
    /// # Errors
    /// [`ConnectError::NoPrimary`] where there is none to dial; when all were dialed in vain, the
    /// future says [`ConnectError::AllFailed`].
    pub fn connect(&self) -> Result<Connecting, ConnectError> {
        let next = self.next.clone().ok_or(ConnectError::NoPrimary)?;
        Ok(next.connect(limits::PRIMARY_ROUNDS))
    }
}

impl Session {
    /// Waits until the session is over: why, what was delivered of each stream, and with whom there
    /// can be a new session ([`Endpoint::connect_any`](crate::Endpoint::connect_any)). It is not
    /// over while it can be taken up on another connection. Cancel safe, and may be called again.
    pub async fn ended(&self) -> SessionEnd {
        let shared = self.shared();
        let ended = shared.ended().await;
        let dialer = shared.dialer().and_then(|dialer| {
            let dialer: &dyn Any = dialer;
            dialer.downcast_ref::<SessionDialer>()
        });
        SessionEnd::new(ended, dialer.and_then(|dialer| dialer.turn.as_deref()))
    }
}

impl Turn {
    fn connect(self, rounds: u32) -> Connecting {
        Connecting::new(async move {
            let mut failed = Vec::new();
            for round in 0..rounds {
                self.wait(round).await;
                failed.clear();
                for at in self.order() {
                    let is_last = failed.len() + 1 == self.line.primaries.len();
                    match self.dial(at, is_last && round + 1 == rounds).await {
                        Ok(session) => return Ok(session),
                        Err(ConnectError::EndpointStopping) => {
                            return Err(ConnectError::EndpointStopping);
                        }
                        Err(error) => failed.push((self.line.primaries[at].address, error)),
                    }
                }
            }
            match (failed.len(), failed.pop()) {
                (1, Some((_, error))) => Err(error),
                (_, last) => {
                    failed.extend(last);
                    Err(ConnectError::AllFailed(failed))
                }
            }
        })
    }

    /// Where nothing came of sessions or dials, the next follows later and later.
    async fn wait(&self, round: u32) {
        let doublings = (self.in_vain + round).min(16);
        if doublings == 0 {
            return;
        }
        let runtime = &self.line.endpoint.runtime;
        let wait = (limits::REDIAL_FIRST * (1 << (doublings - 1))).min(limits::REDIAL_LAST);
        // Give or take a fifth: clients that lost one server do not all come at once.
        let [random] = runtime.random_bytes();
        let wait = wait * 4 / 5 + wait * u32::from(random) * 2 / (5 * 256);
        runtime.sleep_until(runtime.now() + wait).await;
    }

    async fn dial(&self, at: usize, is_last: bool) -> Result<Session, ConnectError> {
        let endpoint = &self.line.endpoint;
        let now = endpoint.runtime.now();
        let turn = Self { at, began: now, ..self.clone() };
        let connecting = endpoint.dial(self.line.primaries[at].clone(), Some(turn))?;
        if is_last {
            return connecting.await;
        }
        let mut timeout = endpoint.runtime.sleep_until(now + PATIENCE);
        let dialed = before(&mut timeout, connecting).await;
        dialed.unwrap_or_else(|| Err(ConnectionError::TimedOut.into()))
    }
}

const PATIENCE: Duration = limits::PRIMARY_PATIENCE;

impl Endpoint {
    /// Dials primaries that serve the same, the first choice first, each once: the session with the
    /// first that answers. Each but the last has [`limits::PRIMARY_PATIENCE`] for that.
    ///
    /// When such a session ends, [`Session::ended`] says what was delivered, and
    /// [`SessionEnd::connect`] dials the next primary for a new one.
    ///
    /// # Errors
    /// There are none, or more than [`limits::MAX_PRIMARIES`], or a configuration cannot be used.
    /// When nobody answers, the future says [`ConnectError::AllFailed`], or of one primary its
    /// error.
    pub fn connect_any(
        &self,
        primaries: impl IntoIterator<Item = Primary>,
    ) -> Result<Connecting, ConnectError> {
        let primaries: Vec<_> = primaries.into_iter().take(limits::MAX_PRIMARIES + 1).collect();
        if primaries.is_empty() || primaries.len() > limits::MAX_PRIMARIES {
            let message = format!("1 to {} primaries can be named", limits::MAX_PRIMARIES);
            return Err(ConnectError::InvalidConfig(message));
        }
        for primary in &primaries {
            primary.config.check()?;
        }
        let line = Line { endpoint: self.clone(), primaries };
        let began = self.runtime.now();
        Ok(Turn { line: Arc::new(line), at: 0, in_vain: 0, began }.connect(1))
    }
}
