//! The serving side, the same for primaries and edges: a session's role says which one it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kwik::{
    Accepted, ConnectError, Endpoint, Incoming, LeaseWriter, PrimarySession, SecondarySession,
    escape,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    Catalogue, Door, Failure, Fingerprint, Link, Object, Source, SourceError,
    limits::{MAX_AHEAD, MAX_FILLS, MAX_LISTINGS, MAX_SUCCESSORS, QUARANTINE},
};

mod about;
mod access;
mod answer;
mod edges;
mod extent;
mod fill;
mod join;
mod list;
mod pace;
mod pack;
mod presence;
mod probe;
mod quarantine;
mod reply;
mod serving;
mod session;
mod throttle;
mod unanswered;
mod version;

use access::AccessLog;
pub use access::{Access, AccessPart};
use edges::Edges;
pub use edges::{Edge, KnownEdge};
use fill::{STOPPING, fill};
pub use join::{
    AtOnce, Decision, EdgeState, EdgeView, Failed, JoinPolicy, Rate, SessionView, WhenItPays,
};
use pace::Pace;
use presence::Presence;
use quarantine::Quarantine;
use serving::Serving;
use throttle::Throttle;
use version::{Doubted, OwnCopy};

/// Serves the objects of a source: as the primary of the sessions that clients open with it, and as
/// an edge in the sessions of other primaries.
#[derive(Debug)]
pub struct Server {
    source: Source,
    catalogue: Catalogue,
    edges: Edges,
    draining: watch::Sender<BTreeSet<Fingerprint>>,
    successors: watch::Sender<Vec<Link>>,
    policy: Arc<dyn JoinPolicy>,
    quarantine: Quarantine,
    presence: Presence,
    throttle: Throttle,
    pace: Pace,
    access: Option<AccessLog>,
    door: Option<Arc<Door>>,
    /// Lines of clients that did not come in, apart from those of clients that did.
    refused: Throttle,
    /// Edges that are looked into, by the port of the client that does so.
    probed: Mutex<BTreeMap<u16, Fingerprint>>,
    /// Turns to read folders for a listing.
    listings: Semaphore,
}

impl Server {
    /// A server of `source`. In its own sessions it brings in `edges`, [`WhenItPays`].
    #[must_use]
    pub fn new(source: Source, catalogue: Catalogue, edges: Vec<Edge>) -> Self {
        let present = Edges::default();
        present.set(edges);
        Self {
            source,
            catalogue,
            edges: present,
            draining: watch::Sender::default(),
            successors: watch::Sender::default(),
            policy: Arc::new(WhenItPays),
            quarantine: Quarantine::new(QUARANTINE),
            presence: Presence::default(),
            throttle: Throttle::default(),
            pace: Pace::default(),
            access: None,
            door: None,
            refused: Throttle::default(),
            probed: Mutex::default(),
            listings: Semaphore::new(MAX_LISTINGS),
        }
    }

    /// When its edges join a session, and when they leave.
    #[must_use]
    pub fn with_join_policy(mut self, policy: impl JoinPolicy + 'static) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Brings in these edges from now on: sessions to come join them, and sessions under way leave
    /// those that are not among them, as if they drained. An edge that stays may have other
    /// addresses.
    pub fn set_edges(&self, edges: Vec<Edge>) {
        self.edges.set(edges);
        self.draining.send_modify(|_| {});
    }

    /// Edges that did not join a session when they were dialed last: they may be somewhere else.
    #[must_use]
    pub fn unreached_edges(&self) -> Vec<Fingerprint> {
        let edges = self.edges.now();
        edges.iter().filter(|peer| peer.is_unreached()).map(|peer| peer.fingerprint).collect()
    }

    /// The edges as they are configured now, with what is known of each.
    #[must_use]
    pub fn known_edges(&self) -> Vec<KnownEdge> {
        let (edges, draining) = (self.edges.now(), self.draining.borrow());
        edges.iter().map(|peer| peer.known(draining.contains(&peer.fingerprint))).collect()
    }

    /// Gives an edge another weight ([`Edge::weight`]) in sessions to come, whatever is configured
    /// from now on. False when there is no such edge.
    pub fn set_edge_weight(&self, edge: Fingerprint, weight: u32) -> bool {
        self.edges.set_weight(edge, weight)
    }

    /// Whether it takes no new sessions: see [`Self::drain`].
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.presence.is_draining()
    }

    /// Tells whether an edge drains. One that does joins no session any more. By the policies of
    /// this crate it leaves those that it is in, once it has brought what it was asked for.
    pub fn set_draining(&self, edge: Fingerprint, drains: bool) {
        self.draining.send_if_modified(|draining| match drains {
            true => draining.insert(edge),
            false => draining.remove(&edge),
        });
    }

    /// Names servers that have the same objects, for clients to go on with once this one has ended,
    /// the first choice first: links that pin their keys, without a name; of more than
    /// [`MAX_SUCCESSORS`] the first ones. Sessions under way are told, too. A link's secret is told
    /// to clients that may have all that this server has, and to no others.
    pub fn set_successors(&self, mut successors: Vec<Link>) {
        successors.retain(|link| link.fingerprint.is_some());
        successors.truncate(MAX_SUCCESSORS);
        successors.iter_mut().for_each(|link| link.name = None);
        self.successors.send_replace(successors);
    }

    /// How long an edge that sent wrong bytes is leased nothing.
    #[must_use]
    pub fn with_quarantine(mut self, lasts: Duration) -> Self {
        self.quarantine = Quarantine::new(lasts);
        self
    }

    /// Sends objects at so many bytes a second at the most, to all clients together.
    #[must_use]
    pub fn with_rate(mut self, bytes: u64) -> Self {
        self.pace = Pace::new(bytes);
        self
    }

    /// Tells `log` of each request that it was asked as a primary, once that is over. `log` must
    /// not block.
    #[must_use]
    pub fn with_access_log(mut self, log: impl Fn(&Access) + Send + Sync + 'static) -> Self {
        self.access = Some(AccessLog(Arc::new(log)));
        self
    }

    /// Keeps clients to what `door` let them in for, which has to be its endpoints' authenticator.
    #[must_use]
    pub fn with_door(mut self, door: Arc<Door>) -> Self {
        self.door = Some(door);
        self
    }

    /// Hashes all objects that were not hashed yet, small ones first, so that none is waited for
    /// when it is asked for. Gives way to what clients ask for. Cancel safe: what was hashed stays.
    pub async fn hash_ahead(&self) {
        let names = match self.source.list(MAX_AHEAD).await {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(error = %escape(error.cause()), "cannot hash objects ahead");
                return;
            }
        };
        let mut objects = Vec::new();
        for name in names {
            // Why one cannot be read is said to whom asks for it.
            if let Ok(stat) = self.source.head(&name).await {
                objects.push((stat.size, name));
            }
        }
        objects.sort_unstable();
        let (count, bytes) = (objects.len(), objects.iter().map(|(size, _)| size).sum::<u64>());
        let mut failed = 0;
        for (_, name) in objects {
            let hashed = async {
                let object = self.source.open(&name).await.ok()?;
                self.catalogue.ahead(&object).await.ok()
            };
            failed += u64::from(hashed.await.is_none());
        }
        tracing::info!(objects = count, bytes, failed, "all objects are hashed");
    }

    /// Takes nobody new from now on, and begins nothing new: the first step of a graceful end.
    /// Where there are successors, who comes is told of them. What is under way goes on. As an edge
    /// it hands over what it has not brought: the client has other servers for that.
    pub fn drain(&self) {
        self.presence.drain();
    }

    /// Sessions that are being served something now.
    #[must_use]
    pub fn busy_sessions(&self) -> usize {
        self.presence.busy()
    }

    /// Waits until nothing is under way any more: no session is left, or those that are have been
    /// quiet for a second. Cancel safe.
    pub async fn drained(&self) {
        self.presence.quiet().await;
    }

    /// Says goodbye to the clients, for `reason`. A client that can fetch the rest from edges is
    /// left without a word, as a closed session fetches nothing: true if there is such a one. Then
    /// the process has to end with its endpoints open.
    pub fn dismiss(&self, reason: &[u8]) -> bool {
        self.presence.dismiss(reason)
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
        // Where there are successors, a client is let in to be told.
        if self.presence.is_draining() && self.successors.borrow().is_empty() {
            return incoming.refuse();
        }
        match incoming.accept_any().await {
            Ok(Accepted::Primary(primary)) => {
                let only = self.probed().get(&client.port()).copied();
                let prober = Some((self, endpoint));
                Serving { prober, only, ..Serving::new(self, &primary) }.run().await;
            }
            Ok(Accepted::Secondary(secondary)) => self.serve_secondary(&secondary).await,
            // It is served already.
            Err(ConnectError::Resumed) => {}
            Err(ConnectError::Refused(reason)) => self.log_refused(client, &reason),
            Err(error) => {
                tracing::debug!(%client, error = %escape(error), "a client did not come in");
            }
        }
    }

    fn log_refused(&self, client: SocketAddr, reason: &str) {
        let Some(left_out) = self.refused.admit(Instant::now()) else { return };
        tracing::info!(%client, reason = %escape(reason), "a client was not let in");
        if left_out > 0 {
            tracing::warn!(left_out, "lines of the last minute were left out");
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
        let place = self.presence.add_secondary(secondary.clone());
        let mut fills = FuturesUnordered::new();
        loop {
            tokio::select! {
                lease = secondary.accept_lease(), if fills.len() < MAX_FILLS => {
                    let Ok(lease) = lease else { break };
                    let work = place.work();
                    fills.push(async {
                        self.fill_lease(lease).await;
                        drop(work);
                    });
                }
                Some(()) = fills.next() => {}
            }
        }
    }

    async fn fill_lease(&self, lease: LeaseWriter) {
        match self.copy_for(&lease).await {
            // Its reason is the client's and the primary's to know, and was logged.
            Ok(OwnCopy { object, offset, doubted }) => {
                let stop = async {
                    tokio::select! {
                        () = self.presence.draining() => STOPPING.to_owned(),
                        reason = Doubted::other_version(doubted) => {
                            self.log_lease_refused(&reason);
                            reason
                        }
                    }
                };
                let filled = fill(lease, &object, offset, &self.pace, stop, |_| {}).await;
                if let Err(error) = filled {
                    self.log_given_up(&object, &error);
                }
            }
            Err(reason) => {
                let Refused { told, cause } = reason;
                self.log_lease_refused(cause.as_ref().unwrap_or(&told));
                lease.abandon(&told);
            }
        }
    }

    fn log_lease_refused(&self, reason: &str) {
        if self.may_say() {
            tracing::warn!(reason = %escape(reason), "lease refused");
        }
    }

    /// Whether one more line that a client causes goes to the log. Says how many did not.
    fn may_say(&self) -> bool {
        let Some(left_out) = self.throttle.admit(Instant::now()) else { return false };
        if left_out > 0 {
            tracing::warn!(left_out, "lines of the last minute were left out");
        }
        true
    }

    /// An object cannot be read on.
    fn log_given_up(&self, object: &Object, error: &SourceError) {
        if self.may_say() {
            let name = escape(&object.stat().name);
            tracing::warn!(%name, reason = %escape(error.cause()), "lease given up");
        }
    }
}

/// Why an edge does not fill a lease.
struct Refused {
    /// To the client and the primary.
    told: String,
    /// What only the operator is told, in place of that.
    cause: Option<String>,
}

impl From<String> for Refused {
    fn from(told: String) -> Self {
        Self { told, cause: None }
    }
}

impl From<&SourceError> for Refused {
    fn from(error: &SourceError) -> Self {
        Self { told: Failure::from(error).message, cause: Some(error.cause()) }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session failed");
    }
}
