//! Dialing a session with a primary.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use kwik_proto::auth::{EXPORTER_LABEL, Identity};
use kwik_proto::session::ClientSession;
use kwik_proto::{PathId, limits};

use crate::driver::{
    Datagrams, Held, SERVER_NAME, Shared, ToPrimary, WeakHeld, open_control, start,
};
use crate::metrics::LiveWeak;
use crate::quic::ConnectError;
use crate::session::Session;

use super::config::ClientConfig;
use super::dial::Dial;
use super::dialer::SessionDialer;
use super::handle::Endpoint;
use super::turn::{Primary, Turn};

impl Endpoint {
    /// Dials a primary server with the default configuration. `server_name` is the TLS name, which
    /// matters to servers with a CA's certificate alone.
    ///
    /// # Errors
    /// There is no default configuration, or the address cannot be dialed.
    pub fn connect(&self, addr: SocketAddr, server_name: &str) -> Result<Connecting, ConnectError> {
        let config = self.default_client.as_ref().ok_or(ConnectError::NoDefaultClientConfig)?;
        self.connect_with(ClientConfig::clone(config), addr, server_name)
    }

    /// Dials a primary server.
    ///
    /// # Errors
    /// The configuration or the address cannot be used.
    pub fn connect_with(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
        server_name: &str,
    ) -> Result<Connecting, ConnectError> {
        let server_name = server_name.to_owned();
        self.dial(Primary { address: addr, server_name, config }, None)
    }

    /// Dials a primary, with the place in its line of the session to come.
    pub(super) fn dial(
        &self,
        primary: Primary,
        turn: Option<Turn>,
    ) -> Result<Connecting, ConnectError> {
        let Primary { address: addr, server_name, config } = primary;
        let tls = config.check()?;
        let name = if server_name.is_empty() { SERVER_NAME } else { &server_name };
        let to = Arc::new(ToPrimary {
            endpoint: self.quic.clone(),
            address: addr,
            server_name: name.to_owned(),
            tls,
        });
        let dial = Dial { to: to.clone(), runtime: self.runtime.clone() };
        let connecting = dial.begin()?;
        let dialer = SessionDialer { to, turn: turn.map(Box::new) };
        let endpoint = self.clone();
        let began = self.runtime.now();
        let (mut session, settings) = (config.session.clone(), config.session.settings);
        let credentials = config.credentials;
        Ok(Connecting::new(async move {
            let key = || Identity::from_seed(endpoint.runtime.random_bytes());
            let (connection, key) = meanwhile(dial.connect(connecting), key).await;
            let failed = |error: &ConnectError| endpoint.metrics.on_failure(false, error);
            let connection = connection.inspect_err(failed)?;
            let control = open_control(&connection).await.map_err(ConnectError::from);
            let control = control.inspect_err(failed)?;
            if let Some(credentials) = credentials {
                let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
                session.credentials = credentials.credentials(&exporter);
                if session.credentials.len() > limits::MAX_CREDENTIALS {
                    return Err(ConnectError::InvalidConfig("credentials are too long".into()));
                }
            }
            let mut machine = ClientSession::new(session, key, addr, endpoint.runtime.now());
            machine.streams_mut().set_memory(endpoint.runtime.receive_memory());
            machine.streams_mut().set_budget(endpoint.budget.clone());
            let shared = Shared::new(
                machine,
                (PathId::PRIMARY, &connection),
                &endpoint.runtime,
                (Some(Box::new(dialer)), endpoint.quic.receive_window()),
                (&settings, Datagrams::new(endpoint.quic.datagram_buffer())),
            );
            let held = Held::new(shared.clone()).streams();
            let live = LiveWeak::Client(WeakHeld::new(&held));
            shared.set_watch(endpoint.metrics.begin(live, Some(began)));
            let session = Session::new(held);
            start(&(shared as _), PathId::PRIMARY, &connection, control);
            Ok(session)
        }))
    }
}

/// Does `work` while `wait` waits, once it has had a turn to send what it waits for the answer of.
async fn meanwhile<T, U>(wait: impl Future<Output = T>, work: impl FnOnce() -> U) -> (T, U) {
    let mut wait = pin!(wait);
    let (mut turns, mut work, mut done) = (0, Some(work), None);
    let waited = std::future::poll_fn(|cx| {
        let polled = wait.as_mut().poll(cx);
        turns += 1;
        match turns {
            1 if polled.is_pending() => cx.waker().wake_by_ref(),
            _ if done.is_none() => done = work.take().map(|work| work()),
            _ => {}
        }
        polled
    });
    let waited = waited.await;
    let done = done.or_else(|| work.take().map(|work| work()));
    (waited, done.expect("invariant: it is done once"))
}

/// A session being dialed: a future of it, ready as soon as the first byte may leave.
pub struct Connecting(Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>);

impl Connecting {
    pub(super) fn new(
        dialed: impl Future<Output = Result<Session, ConnectError>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(dialed))
    }
}

impl Future for Connecting {
    type Output = Result<Session, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}
