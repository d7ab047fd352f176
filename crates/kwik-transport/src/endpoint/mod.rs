//! Dialing and listening, as in quinn (1.1).

mod accept;
mod config;
mod dial;
mod primaries;
mod registry;
mod slots;
mod watch;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use kwik_proto::auth::{EXPORTER_LABEL, Fingerprint, Identity, SessionIds};
use kwik_proto::presentation::MemoryBudget;
use kwik_proto::session::ClientSession;
use kwik_proto::sync::lock;
use kwik_proto::{Config, ConfigError, PathId, limits};

use crate::driver::{Datagrams, Dialer, Held, SERVER_NAME, Shared, open_control, start};
use crate::metrics::{LiveWeak, Metrics, WeakHeld};
use crate::quic::{self, ConnectError, QuicConfig, Runtime, ServerTls, TlsError, UdpSocket};
use crate::runtime;
use crate::session::Session;

pub use accept::{Accepted, Incoming};
pub use config::{Certificate, ClientConfig, Credentials, ServerConfig};
use dial::Dial;
pub(crate) use primaries::Turn;
pub use primaries::{Primary, SessionEnd};
use registry::PathRegistry;
use slots::{Admission, SlotLimits, Slots};

/// A UDP socket that dials sessions, and accepts them if it has a [`ServerConfig`]. Cheap to clone.
///
/// To be made inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Endpoint {
    quic: quic::Endpoint,
    runtime: Runtime,
    server: Option<Arc<Server>>,
    fingerprint: Option<Fingerprint>,
    default_client: Option<Arc<ClientConfig>>,
    /// What all sessions may have granted together.
    budget: Arc<MemoryBudget>,
    metrics: Metrics,
}

/// What all sessions of a serving endpoint share.
#[derive(Debug)]
struct Server {
    config: ServerConfig,
    /// Those of sessions to come: they may have changed since.
    settings: Mutex<Config>,
    paths: Mutex<PathRegistry>,
    ids: SessionIds,
    slots: Arc<Slots>,
}

/// What an endpoint could not be made for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The server's key or certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The settings of its sessions, or QUIC's.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<EndpointError> for io::Error {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Io(error) => error,
            error => Self::new(io::ErrorKind::InvalidInput, error),
        }
    }
}

impl Endpoint {
    /// An endpoint that only dials, with quinn's shape.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn client(addr: SocketAddr) -> io::Result<Self> {
        Self::bind(addr, None, &QuicConfig::default()).map_err(Into::into)
    }

    /// An endpoint that serves, and dials too.
    ///
    /// # Errors
    /// The socket cannot be bound, or the configuration contradicts itself.
    pub fn server(config: ServerConfig, addr: SocketAddr) -> io::Result<Self> {
        let quic = config.quic.clone();
        Self::bind(addr, Some(config), &quic).map_err(Into::into)
    }

    /// An endpoint with its QUIC settings.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub fn bind(
        addr: SocketAddr,
        server: Option<ServerConfig>,
        quic: &QuicConfig,
    ) -> Result<Self, EndpointError> {
        let runtime = Runtime::tokio();
        quic.validate()?;
        let bind = |tls: Option<&ServerTls>| quic::Endpoint::bind(addr, tls, quic, &runtime);
        Self::new(server, &runtime, bind)
    }

    /// An endpoint on a runtime and a socket of the caller's own; both are used until its last
    /// handle and session are gone.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub fn with_runtime(
        runtime: Arc<dyn runtime::Runtime>,
        socket: Arc<dyn runtime::Socket>,
        server: Option<ServerConfig>,
        quic: &QuicConfig,
    ) -> Result<Self, EndpointError> {
        quic.validate()?;
        let runtime = Runtime::custom(runtime);
        let socket = UdpSocket::custom(socket);
        let new = |tls: Option<&ServerTls>| quic::Endpoint::new(socket, tls, quic, &runtime);
        Self::new(server, &runtime, new)
    }

    fn new(
        server: Option<ServerConfig>,
        runtime: &Runtime,
        endpoint: impl FnOnce(Option<&ServerTls>) -> io::Result<quic::Endpoint>,
    ) -> Result<Self, EndpointError> {
        let tls = match &server {
            Some(config) => {
                config.settings.validate()?;
                Some(match &config.certificate {
                    Some(own) => ServerTls::from_chain(own.chain.clone(), own.key.clone())?,
                    None => ServerTls::self_signed(&config.identity.pkcs8_der())?,
                })
            }
            None => None,
        };
        let quic = endpoint(tls.as_ref())?;
        let metrics = Metrics::default();
        if quic.qlog().is_some() {
            metrics.turn_on(runtime, quic.qlog());
        }
        Ok(Self {
            quic,
            fingerprint: tls.as_ref().map(ServerTls::fingerprint),
            runtime: runtime.clone(),
            server: server.map(|config| {
                let settings = Mutex::new(config.settings.clone());
                let slots = Slots::new(SlotLimits {
                    sessions: config.max_sessions,
                    network_sessions: config.max_network_sessions,
                    handshakes: config.max_handshakes,
                    lost: config.max_lost_sessions,
                    lost_memory: config.max_lost_memory,
                });
                let ids = SessionIds::new(&runtime.random_bytes());
                Arc::new(Server { config, settings, paths: Mutex::default(), ids, slots })
            }),
            default_client: None,
            budget: Arc::new(MemoryBudget::new(limits::MEMORY_BUDGET)),
            metrics,
        })
    }

    /// The settings of sessions that it will accept; none if it does not serve.
    #[must_use]
    pub fn config(&self) -> Option<Config> {
        self.server.as_ref().map(|server| lock(&server.settings).clone())
    }

    /// Changes the settings of sessions that it will accept (8.8). Those that live are changed with
    /// [`Session::set_config`], and those that it will dial with
    /// [`Self::set_default_client_config`].
    ///
    /// # Errors
    /// They contradict each other; nothing has changed then.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        if let Some(server) = &self.server {
            *lock(&server.settings) = config;
        }
        Ok(())
    }

    /// What [`Self::connect`] uses.
    pub fn set_default_client_config(&mut self, config: ClientConfig) {
        self.default_client = Some(Arc::new(config));
    }

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
    fn dial(&self, primary: Primary, turn: Option<Turn>) -> Result<Connecting, ConnectError> {
        let Primary { address: addr, server_name, config } = primary;
        let tls = config.check()?;
        let name = if server_name.is_empty() { SERVER_NAME } else { &server_name };
        let dial = Dial {
            endpoint: self.quic.clone(),
            runtime: self.runtime.clone(),
            address: addr,
            server_name: name.to_owned(),
            tls,
        };
        let connecting = dial.begin()?;
        let dialer = Dialer {
            endpoint: self.quic.clone(),
            primary: (addr, dial.server_name.clone(), dial.tls.clone()),
            turn: turn.map(Box::new),
        };
        let endpoint = self.clone();
        let began = self.runtime.now();
        let (mut session, settings) = (config.session.clone(), config.session.settings);
        let credentials = config.credentials;
        Ok(Connecting(Box::pin(async move {
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
                (Some(dialer.into()), endpoint.quic.receive_window()),
                (&settings, Datagrams::new(endpoint.quic.datagram_buffer())),
            );
            let held = Held::new(shared.clone()).streams();
            let live = LiveWeak::Client(WeakHeld::new(&held));
            shared.set_watch(endpoint.metrics.begin(live, Some(began)));
            let session = Session::new(held);
            start(&(shared as _), PathId::PRIMARY, &connection, control);
            Ok(session)
        })))
    }

    /// The next connection attempt that there is room for, or none once the endpoint is closed.
    /// Others are told to show that they receive at their address, or that the server is busy
    /// ([`ServerConfig::max_sessions`]). Cancel safe.
    ///
    /// Go on calling this as long as sessions shall outlive their connections, and go on after any
    /// error of an [`Incoming`]: a client that comes back comes by here, and awaiting its attempt
    /// takes its session up ([`ConnectError::Resumed`]).
    pub async fn accept(&self) -> Option<Incoming> {
        let server = self.server.clone()?;
        loop {
            let incoming = self.quic.accept().await?;
            let (ip, now) = (incoming.remote_address().ip(), self.runtime.now());
            match server.slots.admit(ip, incoming.is_validated(), now) {
                Admission::Begin(slot) => {
                    return Some(Incoming { incoming, slot, server, endpoint: self.clone() });
                }
                Admission::Validate => {
                    self.metrics.on_validation();
                    incoming.validate();
                }
                Admission::Busy => {
                    self.metrics.on_refused("busy");
                    incoming.refuse();
                    server.slots.notice_busy(now);
                }
            }
        }
    }

    /// Sets how many bytes of receive credit all sessions of this endpoint may grant together; 1
    /// GiB at the start (8.3). From 80 % on, sessions shrink to their streams' floors until there
    /// is room again; new sessions are refused while all of it is granted. Counts at once, for
    /// clones too.
    pub fn set_memory_budget(&self, bytes: u64) {
        self.budget.set_limit(bytes);
    }

    /// The receive credit that all sessions have granted, in bytes.
    #[must_use]
    pub fn memory_granted(&self) -> u64 {
        self.budget.granted()
    }

    /// The key that clients pin, of an endpoint that serves.
    #[must_use]
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Where the socket is bound.
    ///
    /// # Errors
    /// The socket does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.quic.local_addr()
    }

    /// Goes on on another UDP socket, bound already, as quinn's `rebind`: a client that moves from
    /// one network to another keeps its connections, or makes them anew where QUIC cannot; its
    /// sessions go on either way. Peers of a server that moves have to find it again.
    ///
    /// # Errors
    /// The socket cannot be used; nothing has changed then.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        self.quic.rebind(socket, &self.runtime)
    }

    /// The same on a socket of the caller's own, of an endpoint with such a runtime.
    ///
    /// # Errors
    /// The socket does not say where it is.
    pub fn rebind_abstract(&self, socket: Arc<dyn runtime::Socket>) -> io::Result<()> {
        self.quic.rebind_abstract(UdpSocket::custom(socket))
    }

    /// Closes all sessions at once, those that wait for another connection too, and accepts no
    /// more.
    pub fn close(&self, error_code: u64, reason: &[u8]) {
        if let Some(server) = &self.server {
            for session in server.slots.lost() {
                session.close(error_code, reason);
            }
        }
        self.quic.close(error_code, reason);
    }

    /// Waits until every session is gone, with its end told to the peer: also to primaries that
    /// were away as their sessions were closed ([`Self::wait_farewells`]). Cancel safe.
    pub async fn wait_idle(&self) {
        self.wait_farewells().await;
        self.quic.wait_idle().await;
    }

    /// Waits until each primary that was away as its session was closed has heard of that, for
    /// which it is dialed up to [`FAREWELL_TIME`](kwik_proto::limits::FAREWELL_TIME) long. At once
    /// where there is none. Cancel safe.
    pub async fn wait_farewells(&self) {
        self.quic.farewells_over().await;
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
