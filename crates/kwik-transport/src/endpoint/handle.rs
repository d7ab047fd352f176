//! The handle of an endpoint: what it is made of, and what it is asked as a whole.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use kwik_proto::auth::{Fingerprint, SessionIds};
use kwik_proto::presentation::MemoryBudget;
use kwik_proto::sync::lock;
use kwik_proto::{Config, ConfigError, limits};

use crate::metrics::Metrics;
use crate::quic::{self, QuicConfig, Runtime, ServerTls, TlsError, UdpSocket};
use crate::runtime;

use super::config::{ClientConfig, ServerConfig};
use super::registry::PathRegistry;
use super::slots::{SlotLimits, Slots};

/// A UDP socket that dials sessions, and accepts them if it has a [`ServerConfig`]. Cheap to clone.
///
/// To be made inside a tokio runtime.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(super) quic: quic::Endpoint,
    pub(super) runtime: Runtime,
    pub(super) server: Option<Arc<Server>>,
    fingerprint: Option<Fingerprint>,
    pub(super) default_client: Option<Arc<ClientConfig>>,
    /// What all sessions may have granted together.
    pub(super) budget: Arc<MemoryBudget>,
    pub(super) metrics: Metrics,
}

/// What all sessions of a serving endpoint share.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) config: ServerConfig,
    /// Those of sessions to come: they may have changed since.
    pub(super) settings: Mutex<Config>,
    pub(super) paths: Mutex<PathRegistry>,
    pub(super) ids: SessionIds,
    pub(super) slots: Arc<Slots>,
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
    /// [`Session::set_config`](crate::Session::set_config), and those that it will dial with
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
