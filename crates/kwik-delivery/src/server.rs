//! The serving side, the same for primaries and edges: a session's role says which one it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kwik::{Accepted, Endpoint, Incoming, LeaseWriter, PrimarySession, SecondarySession, escape};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    Catalogue, EdgeCommand, Fingerprint, Object, Source,
    limits::{MAX_FILLS, QUARANTINE},
};

mod answer;
mod extent;
mod fill;
mod join;
mod probe;
mod quarantine;
mod serving;

use fill::fill;
pub use join::{
    AtOnce, Decision, EdgeState, EdgeView, Failed, JoinPolicy, Rate, SessionView, WhenItPays,
};
use quarantine::Quarantine;
use serving::Serving;

/// Another server with the same objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Where clients reach it.
    pub address: SocketAddr,
    /// Its key's pin.
    pub fingerprint: Fingerprint,
    /// Edges with more weight join a session first; those of equal weight as they were configured.
    pub weight: u32,
    /// Sessions of this server that it may be in at once; none when as many as like.
    pub cap: Option<usize>,
}

impl Edge {
    /// An edge of weight 1, without a cap.
    #[must_use]
    pub fn new(address: SocketAddr, fingerprint: Fingerprint) -> Self {
        Self { address, fingerprint, weight: 1, cap: None }
    }

    /// The same with another weight.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        Self { weight, ..self }
    }

    /// The same with a cap.
    #[must_use]
    pub fn with_cap(self, sessions: usize) -> Self {
        Self { cap: Some(sessions), ..self }
    }
}

/// Serves the objects of a source: as the primary of the sessions that clients open with it, and as
/// an edge in the sessions of other primaries.
#[derive(Debug)]
pub struct Server {
    source: Source,
    catalogue: Catalogue,
    edges: Vec<Edge>,
    /// Sessions that each of them is in.
    sessions: Vec<AtomicUsize>,
    draining: watch::Sender<BTreeSet<Fingerprint>>,
    policy: Arc<dyn JoinPolicy>,
    quarantine: Quarantine,
    /// Edges that are looked into, by the port of the client that does so.
    probed: Mutex<BTreeMap<u16, Fingerprint>>,
}

impl Server {
    /// A server of `source`. In its own sessions it brings in `edges`, [`WhenItPays`].
    #[must_use]
    pub fn new(source: Source, catalogue: Catalogue, edges: Vec<Edge>) -> Self {
        Self {
            source,
            catalogue,
            sessions: edges.iter().map(|_| AtomicUsize::new(0)).collect(),
            edges,
            draining: watch::Sender::default(),
            policy: Arc::new(WhenItPays),
            quarantine: Quarantine::new(QUARANTINE),
            probed: Mutex::default(),
        }
    }

    /// When its edges join a session, and when they leave.
    #[must_use]
    pub fn with_join_policy(mut self, policy: impl JoinPolicy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Tells whether an edge drains. One that does joins no session any more. By the policies of
    /// this crate it leaves those that it is in, once it has brought what it was asked for.
    pub fn set_draining(&self, edge: Fingerprint, drains: bool) {
        self.draining.send_if_modified(|draining| match drains {
            true => draining.insert(edge),
            false => draining.remove(&edge),
        });
    }

    /// How long an edge that sent wrong bytes is leased nothing.
    #[must_use]
    pub fn with_quarantine(mut self, lasts: Duration) -> Self {
        self.quarantine = Quarantine::new(lasts);
        self
    }

    /// Serves whoever comes, as many at once as the endpoint lets in, until it is closed. Needs a
    /// tokio runtime. Cancel safety: dropping it ends all sessions.
    pub async fn run(self: Arc<Self>, endpoint: &Endpoint) {
        let mut sessions = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            while let Some(ended) = sessions.try_join_next() {
                log_panic(ended);
            }
            let (server, endpoint) = (Arc::clone(&self), endpoint.clone());
            sessions.spawn(async move { server.accept(incoming, &endpoint).await });
        }
        while let Some(ended) = sessions.join_next().await {
            log_panic(ended);
        }
    }

    async fn accept(self: &Arc<Self>, incoming: Incoming, endpoint: &Endpoint) {
        let client = incoming.remote_address();
        match incoming.accept_any().await {
            Ok(Accepted::Primary(primary)) => {
                let only = self.probed().get(&client.port()).copied();
                let prober = Some((self, endpoint));
                Serving { prober, only, ..Serving::new(self, &primary) }.run().await;
            }
            Ok(Accepted::Secondary(secondary)) => self.serve_secondary(&secondary).await,
            Err(error) => {
                tracing::debug!(%client, error = %escape(error), "a client did not come in");
            }
        }
    }

    /// Answers a client's requests until the session ends. Without an endpoint of its own it looks
    /// into no edge that a client accuses. Cancel safety: dropping it abandons what is under way.
    pub async fn serve_primary(&self, primary: &PrimarySession) {
        Serving::new(self, primary).run().await;
    }

    fn probed(&self) -> MutexGuard<'_, BTreeMap<u16, Fingerprint>> {
        // The map is whole between statements, so a panic elsewhere leaves it usable.
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills an edge's leases until its path ends. Cancel safety: as
    /// [`serve_primary`](Self::serve_primary).
    pub async fn serve_secondary(&self, secondary: &SecondarySession) {
        let mut fills = FuturesUnordered::new();
        loop {
            tokio::select! {
                lease = secondary.accept_lease(), if fills.len() < MAX_FILLS => {
                    let Ok(lease) = lease else { break };
                    fills.push(self.fill_lease(lease));
                }
                Some(()) = fills.next() => {}
            }
        }
    }

    async fn fill_lease(&self, lease: LeaseWriter) {
        match self.open_for(&lease).await {
            // Its reason is the client's and the primary's to know, and was logged.
            Ok((object, offset)) => drop(fill(lease, &object, offset, |_| {}).await),
            Err(reason) => {
                tracing::warn!(reason = %escape(&reason), "lease refused");
                lease.abandon(&reason);
            }
        }
    }

    /// The object that a lease asks for, and where in it the lease's stream begins. Its hash is
    /// compared when it is known here; it is not made for that: the client verifies.
    async fn open_for(&self, lease: &LeaseWriter) -> Result<(Object, u64), String> {
        let command = EdgeCommand::decode(&lease.command()).map_err(|error| error.to_string())?;
        let EdgeCommand { name, size, root, offset } = command;
        let object = self.source.open(&name).await.map_err(|error| error.to_string())?;
        let here = object.stat().size;
        if here != size || lease.range().end.checked_add(offset).is_none_or(|end| end > here) {
            return Err(format!("another version: {name} has {here} bytes here, not {size}"));
        }
        match self.catalogue.known(object.stat()).await {
            Some(here) if here != root => {
                Err(format!("another version: {name} has the hash {here} here, not {root}"))
            }
            _ => Ok((object, offset)),
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session failed");
    }
}
