//! How endpoints serve and dial.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kwik_proto::auth::{AcceptAny, Authenticator, Fingerprint, Identity};
use kwik_proto::{Config, limits, session};

use crate::quic::{ClientTls, ConnectError, QuicConfig, ServerTrust};

/// How an endpoint serves.
#[derive(Clone)]
pub struct ServerConfig {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// A CA's certificate for clients that trust a CA; none: a self-signed one of the identity, to
    /// be pinned.
    pub certificate: Option<Certificate>,
    /// Primaries whose grants it honours as their secondary.
    pub trusted: BTreeSet<Fingerprint>,
    /// Who may be a client at all.
    pub authenticator: Arc<dyn Authenticator>,
    /// Settings of its sessions.
    pub settings: Config,
    /// QUIC's settings.
    pub quic: QuicConfig,
    /// Sessions and secondary paths at once. From half of them on, a client that dials first shows
    /// that it receives at its address, which costs it a round trip. Once all are there, the one
    /// that has been quiet for longest gives way; if all are at work, the client is told that the
    /// server is busy.
    pub max_sessions: usize,
    /// Of those from one IPv4 address or IPv6 /64.
    pub max_network_sessions: usize,
    /// How long a session is kept whose client's connection is lost, until the client is back on
    /// another: 30 s. None: it ends with its connection.
    pub resume_time: Duration,
    /// Sessions at once that wait for their clients. Of more the one ends that has waited for
    /// longest.
    pub max_lost_sessions: usize,
    /// Bytes that all of those hold for their clients and applications; the same.
    pub max_lost_memory: u64,
    /// Connections at once that have not introduced themselves yet.
    pub max_handshakes: usize,
}

impl ServerConfig {
    /// A server that is known by its key, and accepts every client.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            certificate: None,
            trusted: BTreeSet::new(),
            authenticator: Arc::new(AcceptAny),
            settings: Config::default(),
            quic: QuicConfig::default(),
            max_sessions: limits::MAX_SESSIONS,
            max_network_sessions: limits::MAX_NETWORK_SESSIONS,
            resume_time: limits::RESUME_TIME,
            max_lost_sessions: limits::MAX_LOST_SESSIONS,
            max_lost_memory: limits::MAX_LOST_MEMORY,
            max_handshakes: limits::MAX_HANDSHAKES,
        }
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A certificate and its private key, all DER.
#[derive(Clone)]
pub struct Certificate {
    /// The server's own first.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: Vec<u8>,
}

/// Makes what a client shows to a server, for one connection.
pub trait Credentials: Send + Sync + fmt::Debug {
    /// Credentials for the connection that has this `exporter` value
    /// ([`Introduction::exporter`](kwik_proto::auth::Introduction::exporter)), whose server is the
    /// one that was to be reached. At most
    /// [`MAX_CREDENTIALS`](kwik_proto::limits::MAX_CREDENTIALS) bytes count.
    fn credentials(&self, exporter: &[u8; 32]) -> Bytes;
}

/// How an endpoint dials.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Whom to believe to be the server.
    pub trust: ServerTrust,
    /// Settings, credentials, dial policy.
    pub session: session::ClientConfig,
    /// Makes credentials for each connection, in place of those of `session`.
    pub credentials: Option<Arc<dyn Credentials>>,
}

impl ClientConfig {
    /// Believes what `trust` says; the rest is the default.
    #[must_use]
    pub fn new(trust: ServerTrust) -> Self {
        Self { trust, session: session::ClientConfig::default(), credentials: None }
    }

    /// Only the server with this key is the server.
    #[must_use]
    pub fn pinned(key: Fingerprint) -> Self {
        Self::new(ServerTrust::Pin(key))
    }
}

impl ClientConfig {
    /// What TLS needs of it, if it does not contradict itself.
    pub(super) fn check(&self) -> Result<ClientTls, ConnectError> {
        let invalid = |error: &dyn fmt::Display| ConnectError::InvalidConfig(error.to_string());
        self.session.settings.validate().map_err(|error| invalid(&error))?;
        if self.session.credentials.len() > limits::MAX_CREDENTIALS {
            return Err(invalid(&"credentials are too long"));
        }
        ClientTls::new(self.trust.clone()).map_err(|error| invalid(&error))
    }
}
