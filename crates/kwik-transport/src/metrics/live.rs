//! The sessions of an endpoint that are not over.

use std::collections::BTreeMap;
use std::time::Instant;

use kwik_proto::session;

use crate::driver::{StreamRole, WeakHeld};
use crate::primary::PrimarySession;
use crate::secondary::SecondarySession;
use crate::session::Session;

use super::role::SessionRole;

/// A session that is not over.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum LiveSession {
    /// This endpoint dialed it.
    Client(Session),
    /// It owns the session.
    Primary(PrimarySession),
    /// It serves a session of another server's.
    Secondary(SecondarySession),
}

impl LiveSession {
    /// Its streams, unless it is a secondary's, which has none.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::Client(session) => Some(session),
            Self::Primary(primary) => Some(primary.session()),
            Self::Secondary(_) => None,
        }
    }

    /// What the endpoint is in it.
    #[must_use]
    pub const fn role(&self) -> SessionRole {
        match self {
            Self::Client(_) => SessionRole::Client,
            Self::Primary(_) => SessionRole::Primary,
            Self::Secondary(_) => SessionRole::Secondary,
        }
    }
}

/// A session that may be over.
#[derive(Debug)]
pub(crate) enum LiveWeak {
    Client(WeakHeld<dyn StreamRole>),
    Primary(WeakHeld<session::PrimarySession>),
    Secondary(WeakHeld<session::SecondarySession>),
}

impl LiveWeak {
    pub(super) const fn role(&self) -> SessionRole {
        match self {
            Self::Client(_) => SessionRole::Client,
            Self::Primary(_) => SessionRole::Primary,
            Self::Secondary(_) => SessionRole::Secondary,
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Client(held) => held.is_gone(),
            Self::Primary(held) => held.is_gone(),
            Self::Secondary(held) => held.is_gone(),
        }
    }

    fn upgrade(&self) -> Option<LiveSession> {
        Some(match self {
            Self::Client(held) => LiveSession::Client(Session::new(held.upgrade()?)),
            Self::Primary(held) => LiveSession::Primary(PrimarySession::new(held.upgrade()?)),
            Self::Secondary(held) => LiveSession::Secondary(SecondarySession::new(held.upgrade()?)),
        })
    }
}

/// A session, and when its client began to dial, until its primary has accepted it.
#[derive(Debug)]
struct Known {
    session: LiveWeak,
    began: Option<Instant>,
}

/// See the module. Each has a number of its own in this endpoint, which rises.
#[derive(Debug, Default)]
pub(crate) struct Live {
    sessions: BTreeMap<u64, Known>,
    next: u64,
}

impl Live {
    pub(super) fn insert(&mut self, session: LiveWeak, began: Option<Instant>) -> u64 {
        self.next += 1;
        self.sessions.insert(self.next, Known { session, began });
        self.next
    }

    /// When its client began to dial; none if the primary had accepted it before.
    pub(super) fn take_beginning(&mut self, number: u64) -> Option<Instant> {
        self.sessions.get_mut(&number)?.began.take()
    }

    /// The same of one that is over; none if it is not known any more.
    pub(super) fn remove(&mut self, number: u64) -> Option<Option<Instant>> {
        self.sessions.remove(&number).map(|known| known.began)
    }

    /// All that are not over. What is gone without a word is forgotten.
    pub(super) fn all(&mut self) -> Vec<(u64, LiveSession)> {
        self.sessions.retain(|_, known| !known.session.is_gone());
        let all = self.sessions.iter();
        all.filter_map(|(number, known)| Some((*number, known.session.upgrade()?))).collect()
    }
}
