//! The paths that lead to a server as a secondary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use kwik_proto::auth::RelayVerifier;
use kwik_proto::{Code, PathId, SessionId, limits, session};

use crate::driver::Shared;

/// Paths that lead to this server as a secondary. A second connection for one replaces the first,
/// and goes on with its relay sequence, so that no lease is honoured twice.
#[derive(Debug, Default)]
pub(super) struct PathRegistry {
    paths: BTreeMap<(SessionId, PathId), RegisteredPath>,
}

#[derive(Debug)]
struct RegisteredPath {
    state: PathState,
    used: Instant,
}

#[derive(Debug)]
enum PathState {
    Open(Arc<Shared<session::SecondarySession>>),
    Ended(RelayVerifier),
}

impl PathRegistry {
    /// Ends the connection that a path had; its relay sequence goes on in `verifier`.
    pub(super) fn replace(
        &mut self,
        key: (SessionId, PathId),
        verifier: &mut RelayVerifier,
        now: Instant,
    ) {
        let kept = limits::GRANT_LIFETIME + 2 * limits::CLOCK_SKEW;
        for path in self.paths.values_mut() {
            path.state.forget_ended();
        }
        self.paths.retain(|_, path| path.state.is_open() || path.used + kept > now);
        match self.paths.remove(&key).map(|path| path.state) {
            Some(PathState::Open(session)) => {
                session.close(Code::PathDead.as_u64(), b"replaced by a newer connection");
                session.look(|machine| verifier.take_over(machine.verifier()));
            }
            Some(PathState::Ended(earlier)) => verifier.take_over(&earlier),
            None => {}
        }
        // Grants end before what is dropped here could be replayed, unless someone makes this many.
        while self.paths.len() >= limits::MAX_REGISTERED_PATHS {
            self.paths.pop_first();
        }
    }

    pub(super) fn insert(
        &mut self,
        key: (SessionId, PathId),
        session: Arc<Shared<session::SecondarySession>>,
        now: Instant,
    ) {
        self.paths.insert(key, RegisteredPath { state: PathState::Open(session), used: now });
    }
}

impl PathState {
    fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Keeps of a session that is over what a newer one needs.
    fn forget_ended(&mut self) {
        if let Self::Open(session) = self
            && session.close_reason().is_some()
        {
            let verifier = session.look(|machine| machine.verifier().clone());
            *self = Self::Ended(verifier);
        }
    }
}
