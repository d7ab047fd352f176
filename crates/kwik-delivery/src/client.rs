//! A client of a session's primary, as far as all that it asks for has it in common.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use kwik::{PathId, RecvStream, Session, StreamId};
use tokio::{sync::Mutex, time::timeout};

use crate::{FetchError, limits::PATIENCE, pace::Pace, step::Step};

/// Paths that brought other bytes than an object's, with their addresses: nothing is asked of them
/// any more.
type Liars = BTreeMap<PathId, String>;

/// Fetches objects over a session. Cheap to clone. Needs a tokio runtime with time.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    patience: Duration,
    pace: Option<Arc<Mutex<Pace>>>,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    /// Streams that came before their answers were read: at most as many as the peer may open.
    arrived: Mutex<BTreeMap<StreamId, RecvStream>>,
    /// Who lied in this session: at most as many as it has paths.
    liars: std::sync::Mutex<Liars>,
}

impl Client {
    /// On a session with a primary.
    #[must_use]
    pub fn new(session: Session) -> Self {
        let shared = Shared { session, arrived: Mutex::default(), liars: Default::default() };
        Self { shared: Arc::new(shared), patience: PATIENCE, pace: None }
    }

    /// Gives a fetch up once it has made no progress for so long: [`PATIENCE`] by default.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Reads at so many bytes a second at the most, all objects together: servers send no faster
    /// once the session's window is full.
    #[must_use]
    pub fn with_rate(self, rate: NonZeroU64) -> Self {
        Self { pace: Some(Arc::new(Mutex::new(Pace::new(rate)))), ..self }
    }

    /// Waits until so many bytes more may have come.
    pub(crate) async fn spend(&self, bytes: usize) {
        if let Some(pace) = &self.pace {
            pace.lock().await.spend(bytes).await;
        }
    }

    pub(crate) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.shared.session
    }

    /// Whether both are of one session, and not only with one server.
    #[must_use]
    pub fn is_same_session(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Who sent other bytes than an object's in this session: their paths and addresses.
    #[must_use]
    pub fn liars_found(&self) -> Vec<(PathId, String)> {
        self.liars().clone().into_iter().collect()
    }

    pub(crate) fn liars(&self) -> MutexGuard<'_, Liars> {
        // The map is whole between statements, so a panic elsewhere leaves it usable.
        self.shared.liars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a path leads.
    pub(crate) fn address(&self, path: PathId) -> String {
        if path.is_primary() {
            return self.session().remote_address().to_string();
        }
        let paths = self.session().stats().paths;
        let found = paths.into_iter().find(|stats| stats.id == path);
        found.map_or_else(|| format!("path {path}"), |stats| stats.address)
    }

    /// The paths that the session has now.
    pub(crate) fn paths(&self) -> BTreeSet<PathId> {
        self.session().stats().paths.into_iter().map(|path| path.id).collect()
    }

    /// The stream `id`, once it has come.
    pub(crate) async fn stream(&self, id: StreamId) -> Result<RecvStream, FetchError> {
        let stream = async {
            loop {
                // Released each time round: others may wait for what came here.
                let mut arrived = self.shared.arrived.lock().await;
                if let Some(stream) = arrived.remove(&id) {
                    return Ok(stream);
                }
                let stream = self.session().accept_uni().await?;
                arrived.insert(stream.id(), stream);
            }
        };
        self.patiently(Step::Stream, stream).await?
    }

    /// Waits for one step of progress.
    pub(crate) async fn patiently<T>(
        &self,
        step: Step,
        waiting: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        let waited = self.patience;
        timeout(waited, waiting).await.map_err(|_| FetchError::Silent { step, waited })
    }
}
