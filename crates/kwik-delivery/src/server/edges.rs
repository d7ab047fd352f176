//! The edges that a server brings in, and where they are.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use crate::{Fingerprint, limits::MAX_FORMER_ADDRESSES};

/// Another server with the same objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// Where clients reach it, in the order in which that is tried; empty while nobody knows.
    pub addresses: Vec<SocketAddr>,
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
        Self::at(vec![address], fingerprint)
    }

    /// The same with all its addresses.
    #[must_use]
    pub const fn at(addresses: Vec<SocketAddr>, fingerprint: Fingerprint) -> Self {
        Self { addresses, fingerprint, weight: 1, cap: None }
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

/// An edge, and what is known of it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownEdge {
    /// As it is configured.
    pub edge: Edge,
    /// Sessions that it is in.
    pub sessions: usize,
    /// It did not join when it was dialed last.
    pub unreached: bool,
    /// It joins no session any more: see [`Server::set_draining`](crate::Server::set_draining).
    pub draining: bool,
}

/// The edges as they are configured now.
#[derive(Debug, Default)]
pub(super) struct Edges(Mutex<Arc<[Peer]>>);

/// An edge as one configuration has it; what is known of it outlives the configuration.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) fingerprint: Fingerprint,
    pub(super) weight: u32,
    pub(super) cap: Option<usize>,
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Sessions that it is in.
    sessions: AtomicUsize,
    /// It is configured no more.
    removed: AtomicBool,
    /// It did not join when it was dialed last.
    unreached: AtomicBool,
    /// What an operator has said, in place of what is configured.
    weight: Mutex<Option<u32>>,
    place: Mutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    addresses: Vec<SocketAddr>,
    /// Which of them is dialed next.
    next: usize,
    /// Where it was before: paths may lead there still.
    former: VecDeque<SocketAddr>,
}

impl Edges {
    /// The present ones. A session keeps those that it began with.
    pub(super) fn now(&self) -> Arc<[Peer]> {
        Arc::clone(&lock(&self.0))
    }

    /// Takes others from now on. Those that stay keep what is known of them.
    pub(super) fn set(&self, edges: Vec<Edge>) {
        let mut now = lock(&self.0);
        let mut known: BTreeMap<_, _> =
            now.iter().map(|peer| (peer.fingerprint, Arc::clone(&peer.known))).collect();
        *now = edges
            .into_iter()
            .map(|Edge { addresses, fingerprint, weight, cap }| {
                let known = known.remove(&fingerprint).unwrap_or_default();
                known.move_to(addresses);
                let weight = lock(&known.weight).unwrap_or(weight);
                Peer { fingerprint, weight, cap, known }
            })
            .collect();
        known.into_values().for_each(|gone| gone.removed.store(true, Relaxed));
    }

    /// Another weight for one of them; false when there is no such.
    pub(super) fn set_weight(&self, edge: Fingerprint, weight: u32) -> bool {
        let mut now = lock(&self.0);
        let mut peers = now.to_vec();
        let Some(peer) = peers.iter_mut().find(|peer| peer.fingerprint == edge) else {
            return false;
        };
        peer.weight = weight;
        *lock(&peer.known.weight) = Some(weight);
        *now = peers.into();
        true
    }
}

impl Known {
    fn move_to(&self, addresses: Vec<SocketAddr>) {
        let mut place = lock(&self.place);
        if place.addresses != addresses {
            let gone = std::mem::replace(&mut place.addresses, addresses);
            place.former.extend(gone);
            let most = place.former.len().saturating_sub(MAX_FORMER_ADDRESSES);
            place.former.drain(..most);
            place.next = 0;
        }
    }
}

impl Peer {
    /// What is known of it.
    pub(super) fn known(&self, draining: bool) -> KnownEdge {
        let addresses = lock(&self.known.place).addresses.clone();
        let (fingerprint, weight, cap) = (self.fingerprint, self.weight, self.cap);
        KnownEdge {
            edge: Edge { addresses, fingerprint, weight, cap },
            sessions: self.sessions().load(Relaxed),
            unreached: self.is_unreached(),
            draining,
        }
    }

    pub(super) fn sessions(&self) -> &AtomicUsize {
        &self.known.sessions
    }

    pub(super) fn is_removed(&self) -> bool {
        self.known.removed.load(Relaxed)
    }

    pub(super) fn is_unreached(&self) -> bool {
        self.known.unreached.load(Relaxed)
    }

    /// Where to dial it; none while nobody knows.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let place = lock(&self.known.place);
        place.addresses.get(place.next).copied()
    }

    /// Whether it is, or was, at this address.
    pub(super) fn is_at(&self, address: &str) -> bool {
        let place = lock(&self.known.place);
        place.addresses.iter().chain(&place.former).any(|at| at.to_string() == address)
    }

    pub(super) fn on_joined(&self) {
        self.known.unreached.store(false, Relaxed);
    }

    /// It did not join by `address`: another of its addresses is next.
    pub(super) fn on_unreached(&self, address: SocketAddr) {
        self.known.unreached.store(true, Relaxed);
        let mut place = lock(&self.known.place);
        // Several sessions may find out at the same time.
        if place.addresses.get(place.next) == Some(&address) {
            place.next = (place.next + 1) % place.addresses.len();
        }
    }
}

/// What the locks guard is whole between statements, so a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn all_addresses_of_an_edge_are_tried_in_turn() {
        let edges = Edges::default();
        let [one, two] = [Fingerprint([1; 32]), Fingerprint([2; 32])];
        edges.set(vec![Edge::at(vec![address(1), address(2)], one), Edge::at(Vec::new(), two)]);
        let now = edges.now();
        assert_eq!(now[1].address(), None);
        for port in [1, 2, 1] {
            assert_eq!(now[0].address(), Some(address(port)));
            now[0].on_unreached(address(port));
            // A second session that says the same moves nothing.
            now[0].on_unreached(address(port));
        }
        assert!(now[0].is_unreached() && !now[1].is_unreached());
        now[0].on_joined();
        assert!(!now[0].is_unreached());
    }

    #[test]
    fn an_edge_that_stays_keeps_what_is_known_of_it() {
        let edges = Edges::default();
        let [one, two] = [Fingerprint([1; 32]), Fingerprint([2; 32])];
        edges.set(vec![Edge::new(address(1), one), Edge::new(address(2), two)]);
        let before = edges.now();
        before[1].sessions().fetch_add(3, Relaxed);
        edges.set(vec![Edge::new(address(3), two).with_cap(9)]);
        let now = edges.now();
        assert!(before[0].is_removed() && !before[1].is_removed());
        assert_eq!((now.len(), now[0].cap, now[0].sessions().load(Relaxed)), (1, Some(9), 3));
        // Paths that lead to its former address are still its own.
        assert!(now[0].is_at("127.0.0.1:3") && now[0].is_at("127.0.0.1:2"));
        assert!(!now[0].is_at("127.0.0.1:1"));
        assert_eq!(before[1].address(), Some(address(3)));
    }
}
