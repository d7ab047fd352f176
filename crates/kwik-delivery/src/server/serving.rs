//! One client's session, at its primary: what is known of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kwik::{Endpoint, PathId, PrimarySession, escape};

use crate::{Blame, Fingerprint, ObjectName, Published, door::Admission};

use super::{Server, edges::Peer, join::demand::Demand, presence::Place, probe};

/// A session, and the server whose it is.
pub(super) struct Serving<'a> {
    pub(super) server: &'a Server,
    pub(super) primary: &'a PrimarySession,
    /// What its client was let in as.
    pub(super) admission: Admission,
    pub(super) place: Place<'a>,
    /// The server's edges when it began.
    pub(super) edges: Arc<[Peer]>,
    /// With what edges are looked into; none in a server that has no endpoint of its own.
    pub(super) prober: Option<(&'a Arc<Server>, &'a Endpoint)>,
    /// The one edge that is to join, where this session looks into it.
    pub(super) only: Option<Fingerprint>,
    pub(super) demand: Demand,
    /// Edges that this session's client blamed.
    pub(super) blamed: Mutex<BTreeSet<Fingerprint>>,
}

impl<'a> Serving<'a> {
    pub(super) fn new(server: &'a Server, primary: &'a PrimarySession) -> Self {
        // Another authenticator's words are nothing to this crate.
        let admitted_as = server.door.as_ref().map(|_| primary.admitted_as());
        let admission = admitted_as.and_then(|text| Admission::decode(&text));
        Self {
            server,
            primary,
            admission: admission.unwrap_or_default(),
            place: server.presence.add_primary(primary.clone()),
            edges: server.edges.now(),
            prober: None,
            only: None,
            demand: Demand::new(),
            blamed: Mutex::default(),
        }
    }

    /// Says to the operator what became of a request, of which object, and whose. What the server
    /// can do something about is a warning.
    pub(super) fn log_unanswered(
        &self,
        what: &str,
        name: Option<&ObjectName>,
        reason: &str,
        own_fault: bool,
    ) {
        if !self.server.may_say() {
            return;
        }
        let client = self.primary.session().remote_address();
        let name = name.map(|name| escape(name).to_string()).unwrap_or_default();
        let reason = escape(reason);
        match own_fault {
            true => tracing::warn!(%client, %name, %reason, "{what}"),
            false => tracing::info!(%client, %name, %reason, "{what}"),
        }
    }

    /// Where a path leads; nothing when it is unknown.
    pub(super) fn address(&self, path: PathId) -> String {
        let all = self.primary.all_paths();
        all.into_iter().find(|info| info.id == path).map(|info| info.address).unwrap_or_default()
    }

    /// The edge at the end of a path.
    pub(super) fn edge(&self, path: PathId) -> Option<&Peer> {
        let address = self.address(path);
        self.edges.iter().find(|edge| edge.is_at(&address))
    }

    /// Whether an edge is not to join this session.
    pub(super) fn is_barred(&self, edge: &Peer) -> bool {
        let other = self.only.is_some_and(|only| only != edge.fingerprint);
        other
            || self.server.quarantine.holds(&edge.fingerprint)
            || self.blamed().contains(&edge.fingerprint)
    }

    fn blamed(&self) -> MutexGuard<'_, BTreeSet<Fingerprint>> {
        // The set is whole between statements, so a panic elsewhere leaves it usable.
        self.blamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the edge at the end of a path is leased nothing.
    pub(super) fn is_quarantined(&self, path: PathId) -> bool {
        let quarantine = &self.server.quarantine;
        self.edge(path).is_some_and(|edge| quarantine.holds(&edge.fingerprint))
    }

    pub(super) fn leave_quarantined(&self) {
        for path in self.primary.active_paths() {
            if self.is_quarantined(path.id) {
                self.leave(path.id);
            }
        }
    }

    fn leave(&self, path: PathId) {
        if let Err(error) = self.primary.mark_dead(path) {
            tracing::debug!(%path, %error, "a path was left already");
        }
    }

    /// The client says that an edge sent other bytes than the object's. This session does without
    /// it from now on. For others that takes more than one client's word: the edge is looked into.
    pub(super) fn on_blamed(&self, blame: &Blame, published: &Arc<Published>) {
        let Some(edge) = self.edge(blame.path) else { return };
        let address = self.address(blame.path);
        self.blamed().insert(edge.fingerprint);
        self.leave(blame.path);
        if !self.server.quarantine.accuse(edge.fingerprint) {
            return;
        }
        let name = escape(&published.manifest().name);
        let (range, expected) = (blame.range.clone(), hex(&blame.expected));
        let received = blame.received.map(|hash| hex(&hash)).unwrap_or_default();
        tracing::warn!(
            edge = %address, fingerprint = %edge.fingerprint, %name, ?range, expected,
            received,
            "a client says that this edge sent other bytes than the object's: it is looked into"
        );
        let Some((server, endpoint)) = self.prober else { return };
        let (server, endpoint, edge) = (Arc::clone(server), endpoint.clone(), edge.clone());
        let published = Arc::clone(published);
        // A task of its own, as the client may leave: one at a time for each edge.
        tokio::spawn(async move {
            let found = probe::find_lie(&server, &endpoint, &edge, &published, &range).await;
            server.on_looked_into(&address, edge.fingerprint, &published, found);
        });
    }
}

impl Server {
    fn on_looked_into(
        &self,
        address: &str,
        fingerprint: Fingerprint,
        published: &Published,
        found: Result<Option<String>, String>,
    ) {
        let name = escape(&published.manifest().name);
        match found {
            Ok(Some(lie)) => {
                self.quarantine.put(fingerprint);
                tracing::warn!(
                    edge = %address, %fingerprint, %name, lie = %escape(lie),
                    "this edge sends other bytes than the object's: it is leased nothing for now"
                );
            }
            Ok(None) => tracing::warn!(
                edge = %address, %fingerprint, %name,
                "this edge sent the object's bytes when it was looked into: other clients keep it"
            ),
            Err(error) => tracing::warn!(
                edge = %address, %fingerprint, %name, error = %escape(error),
                "this edge could not be looked into: other clients keep it"
            ),
        }
    }
}

fn hex(hash: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}
