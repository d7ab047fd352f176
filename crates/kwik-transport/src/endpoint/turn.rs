//! Several primaries in a line, and a session's place in it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use kwik_proto::auth::Fingerprint;
use kwik_proto::limits;

use super::config::ClientConfig;
use super::handle::Endpoint;

/// A primary that a client may dial.
#[derive(Debug, Clone)]
pub struct Primary {
    /// Where it is.
    pub address: SocketAddr,
    /// Its TLS name, which matters to servers with a CA's certificate alone; empty otherwise.
    pub server_name: String,
    /// Whom to believe to be it, what it is shown, and the settings of the session.
    pub config: ClientConfig,
}

impl Primary {
    /// The server with this key.
    #[must_use]
    pub fn pinned(address: SocketAddr, key: Fingerprint) -> Self {
        Self { address, server_name: String::new(), config: ClientConfig::pinned(key) }
    }
}

/// Primaries in the order of preference, and who dials them.
pub(super) struct Line {
    pub(super) endpoint: Endpoint,
    pub(super) primaries: Vec<Primary>,
}

/// A session's place in its line.
#[derive(Clone)]
pub(super) struct Turn {
    pub(super) line: Arc<Line>,
    pub(super) at: usize,
    /// Sessions in a row before it of which nothing came.
    pub(super) in_vain: u32,
    pub(super) began: Instant,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, in_vain, .. } = self;
        f.debug_struct("Turn").field("at", at).field("in_vain", in_vain).finish_non_exhaustive()
    }
}

impl Turn {
    /// That of the next session; none when there is to be none.
    pub(super) fn after(&self, ended: Instant, bore: bool) -> Option<Self> {
        let lived = ended.saturating_duration_since(self.began) >= limits::REDIAL_CALM;
        let in_vain = if lived || bore { 0 } else { self.in_vain + 1 };
        let at = (self.at + 1) % self.line.primaries.len();
        let next = Self { line: self.line.clone(), at, in_vain, began: ended };
        (in_vain < limits::MAX_VAIN_SESSIONS).then_some(next)
    }

    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (at, count) = (self.at, self.line.primaries.len());
        (0..count).map(move |step| (at + step) % count)
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.order().map(|at| self.line.primaries[at].address).collect()
    }
}
