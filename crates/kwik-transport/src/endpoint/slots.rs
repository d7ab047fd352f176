//! Who may come in: the places of a server for handshakes and for sessions.
//!
//! A handshake has a place from its first datagram until the client is authenticated, a session
//! from then on until it is over. Once many are taken, a client has to show that it receives at its
//! address before it gets any; when all are, those give way that have been quiet for longest, of
//! the networks that have most.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use kwik_proto::session::Activity;
use kwik_proto::sync::lock;
use kwik_proto::{Code, SessionId, limits};
use tokio::sync::Notify;

use crate::driver::{Role, Shared, Slot};

/// How many may be there at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlotLimits {
    pub(super) sessions: usize,
    /// From one [`Network`].
    pub(super) network_sessions: usize,
    pub(super) handshakes: usize,
    /// Sessions that wait for their clients, and bytes that they hold.
    pub(super) lost: usize,
    pub(super) lost_memory: u64,
}

/// What counts as one client: who has an IPv6 network has all of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Network {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// What to do about a connection attempt.
#[derive(Debug)]
pub(super) enum Admission {
    /// Go on with the handshake, which has this place.
    Begin(HandshakeSlot),
    /// Have the client show that it receives at its address.
    Validate,
    /// There is no place.
    Busy,
}

/// The places of one server.
#[derive(Debug)]
pub(super) struct Slots {
    limits: SlotLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    handshakes: BTreeMap<u64, Handshake>,
    sessions: BTreeMap<u64, Occupant>,
    next: u64,
    /// When the operator last read that the server is full.
    noticed: Option<Instant>,
}

#[derive(Debug)]
struct Handshake {
    /// None of an address that may be forged: nobody is held to account for it.
    network: Option<Network>,
    since: Instant,
    given_up: Arc<Notify>,
}

#[derive(Debug)]
struct Occupant {
    network: Network,
    /// None until it has begun.
    session: Option<Weak<Shared<dyn Role>>>,
    /// Which it is, if its client may take it up.
    id: Option<SessionId>,
    /// Its turn among those that lost their connections, and the bytes that it holds.
    lost: Option<(u64, u64)>,
}

impl Slots {
    pub(super) fn new(limits: SlotLimits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Decides on a first datagram. `validated` says that its sender receives at its address.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr, validated: bool, now: Instant) -> Admission {
        let mut state = lock(&self.state);
        let crowded = state.handshakes.len() >= self.limits.handshakes / limits::UNVALIDATED_SHARE
            || state.sessions.len() >= self.limits.sessions / 2;
        if crowded && !validated {
            return Admission::Validate;
        }
        let network = validated.then(|| ip.into());
        if !state.make_room(network, self.limits.handshakes, now) {
            return Admission::Busy;
        }
        let (id, given_up) = (state.next_id(), Arc::new(Notify::new()));
        let handshake = Handshake { network, since: now, given_up: given_up.clone() };
        state.handshakes.insert(id, handshake);
        Admission::Begin(HandshakeSlot { slots: self.clone(), id, given_up })
    }

    /// A place for the session of a client that is authenticated. None when there is none, although
    /// the quietest had to go.
    pub(super) fn claim(self: &Arc<Self>, ip: IpAddr, now: Instant) -> Option<SessionSlot> {
        let network = Network::from(ip);
        match self.try_claim(network) {
            Ok(slot) => Some(slot),
            Err(candidates) => {
                let quietest = quietest(candidates, now)?;
                tracing::debug!("a quiet session makes room for another");
                quietest.close(Code::Busy.as_u64(), b"KWIK_BUSY: quiet while the server is full");
                self.try_claim(network).ok()
            }
        }
    }

    /// A place, or whose may be taken.
    fn try_claim(self: &Arc<Self>, network: Network) -> Result<SessionSlot, Vec<Candidate>> {
        let mut state = lock(&self.state);
        let own = state.sessions.values().filter(|occupant| occupant.network == network).count();
        let crowded = own >= self.limits.network_sessions;
        if crowded || state.sessions.len() >= self.limits.sessions {
            return Err(state.candidates(network, own, crowded));
        }
        let id = state.next_id();
        state.sessions.insert(id, Occupant { network, session: None, id: None, lost: None });
        Ok(SessionSlot { slots: self.clone(), id })
    }

    /// The session that a client wants to take up.
    pub(super) fn find(&self, id: SessionId) -> Option<Arc<Shared<dyn Role>>> {
        let state = lock(&self.state);
        let found = state.sessions.values().find(|occupant| occupant.id == Some(id))?;
        found.session.as_ref()?.upgrade()
    }

    /// The sessions that wait for their clients.
    pub(super) fn lost(&self) -> Vec<Arc<Shared<dyn Role>>> {
        let waiting = |state: &State| state.lost().map(|(_, session)| session).collect::<Vec<_>>();
        let waiting = waiting(&lock(&self.state));
        waiting.iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells the operator that somebody was turned away, unless it was told just now.
    pub(super) fn notice_busy(&self, now: Instant) {
        let mut state = lock(&self.state);
        if state.noticed.is_none_or(|at| now >= at + limits::BUSY_NOTICE) {
            state.noticed = Some(now);
            let (sessions, handshakes) = (state.sessions.len(), state.handshakes.len());
            drop(state);
            tracing::warn!(sessions, handshakes, "busy: clients are turned away");
        }
    }

    /// Handshakes and sessions that have a place.
    #[cfg(test)]
    fn taken(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.handshakes.len(), state.sessions.len())
    }
}

/// A session that may have to make room.
struct Candidate {
    session: Weak<Shared<dyn Role>>,
    /// How many its network has.
    crowd: usize,
    /// Its network has more, also without it, than that of the one who wants its place.
    has_more: bool,
}

impl State {
    /// Whose place somebody from `network`, which has `own` already, may take: only of its own when
    /// it has its share.
    fn candidates(&self, network: Network, own: usize, crowded: bool) -> Vec<Candidate> {
        let mut crowds = BTreeMap::new();
        for occupant in self.sessions.values() {
            *crowds.entry(occupant.network).or_insert(0) += 1;
        }
        let candidates = self.sessions.values().filter_map(|occupant| {
            let (session, crowd) = (occupant.session.clone()?, crowds[&occupant.network]);
            let is_open_to = !crowded || occupant.network == network;
            is_open_to.then_some(Candidate { session, crowd, has_more: crowd > own + 1 })
        });
        candidates.collect()
    }

    /// Those that wait for their clients.
    fn lost(&self) -> impl Iterator<Item = (u64, Weak<Shared<dyn Role>>)> {
        let lost = self.sessions.iter().filter(|(_, occupant)| occupant.lost.is_some());
        lost.filter_map(|(id, occupant)| Some((*id, occupant.session.clone()?)))
    }

    /// Which of them has to go: of the networks that have most, the one that was lost first.
    fn eldest_lost(&self) -> Option<u64> {
        let lost = || self.sessions.iter().filter(|(_, occupant)| occupant.lost.is_some());
        let mut crowds = BTreeMap::new();
        for (_, occupant) in lost() {
            *crowds.entry(occupant.network).or_insert(0) += 1;
        }
        let turn =
            |(_, occupant): &(&u64, &Occupant)| (Reverse(crowds[&occupant.network]), occupant.lost);
        lost().min_by_key(turn).map(|(id, _)| *id)
    }

    fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Sees to it that there is a place for a handshake from this network. If there is none, the
    /// eldest of those who have most makes room; within one network, and among equals, not before
    /// it has taken as long as a handshake may.
    fn make_room(&mut self, network: Option<Network>, most: usize, now: Instant) -> bool {
        // How many each has, and which is the eldest: their numbers rise with time.
        let mut crowds = BTreeMap::<_, (usize, Reverse<u64>)>::new();
        for (id, handshake) in &self.handshakes {
            crowds.entry(handshake.network).or_insert((0, Reverse(*id))).0 += 1;
        }
        let own = crowds.get(&network).map_or(0, |(count, _)| *count);
        let crowd = if network.is_some() && own >= limits::MAX_NETWORK_HANDSHAKES.min(most) {
            crowds.get(&network)
        } else if self.handshakes.len() < most {
            return true;
        } else {
            crowds.values().max()
        };
        let Some((count, Reverse(eldest))) = crowd.copied() else { return false };
        let late = |one: &Handshake| now >= one.since + limits::HANDSHAKE_TIMEOUT;
        if count <= own + 1 && !self.handshakes.get(&eldest).is_some_and(late) {
            return false;
        }
        if let Some(handshake) = self.handshakes.remove(&eldest) {
            handshake.given_up.notify_one();
        }
        true
    }
}

/// Who has to go: of the networks that have most, the session that has been quiet for longest, and
/// for so long that it may be let go.
fn quietest(candidates: Vec<Candidate>, now: Instant) -> Option<Arc<Shared<dyn Role>>> {
    let quiet = candidates.into_iter().filter_map(|Candidate { session, crowd, has_more }| {
        let session = session.upgrade()?;
        let activity = session.look(|machine| machine.activity())?;
        may_go(activity, has_more, now).then_some((activity, crowd, session))
    });
    let first =
        quiet.min_by_key(|(activity, crowd, _)| (activity.open, Reverse(*crowd), activity.moved));
    first.map(|(_, _, session)| session)
}

fn may_go(Activity { open, moved }: Activity, has_more: bool, now: Instant) -> bool {
    let quiet = match (open, has_more) {
        (true, _) => limits::SLOT_STALLED,
        (false, true) => limits::SLOT_CROWDED,
        (false, false) => limits::SLOT_IDLE,
    };
    now >= moved + quiet
}

/// The place of a handshake; free again when it is dropped.
#[derive(Debug)]
pub(super) struct HandshakeSlot {
    slots: Arc<Slots>,
    id: u64,
    given_up: Arc<Notify>,
}

impl HandshakeSlot {
    /// Notified when another takes the place.
    pub(super) fn given_up(&self) -> Arc<Notify> {
        self.given_up.clone()
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        lock(&self.slots.state).handshakes.remove(&self.id);
    }
}

/// The place of a session; free again when it is dropped.
#[derive(Debug)]
pub(super) struct SessionSlot {
    slots: Arc<Slots>,
    id: u64,
}

impl Slot for SessionSlot {
    fn occupy(&self, session: Weak<Shared<dyn Role>>, id: Option<SessionId>) {
        if let Some(occupant) = lock(&self.slots.state).sessions.get_mut(&self.id) {
            (occupant.session, occupant.id) = (Some(session), id);
        }
    }

    fn on_lost(&self, kept: u64) {
        let mut state = lock(&self.slots.state);
        let turn = state.next_id();
        if let Some(occupant) = state.sessions.get_mut(&self.id) {
            occupant.lost = Some((turn, kept));
        }
    }

    fn gives_way(&self) -> Option<Arc<Shared<dyn Role>>> {
        let waiting = lock(&self.slots.state).lost().collect::<Vec<_>>();
        // What their applications have written since counts too. No lock is held meanwhile.
        let measured = waiting.into_iter().map(|(id, session)| {
            let session = session.upgrade();
            (id, session.map_or(0, |session| session.look(|machine| machine.kept())))
        });
        let measured = measured.collect::<Vec<_>>();
        let mut state = lock(&self.slots.state);
        for (id, bytes) in measured {
            let lost = state.sessions.get_mut(&id).and_then(|occupant| occupant.lost.as_mut());
            lost.into_iter().for_each(|(_, kept)| *kept = bytes);
        }
        loop {
            let lost = state.sessions.values().filter_map(|occupant| occupant.lost);
            let (count, bytes) = lost.fold((0, 0), |(n, sum), (_, kept)| (n + 1, sum + kept));
            if count <= self.slots.limits.lost && bytes <= self.slots.limits.lost_memory {
                return None;
            }
            let eldest = state.eldest_lost()?;
            let occupant = state.sessions.get_mut(&eldest)?;
            occupant.lost = None;
            // One that is ending already makes room by itself.
            if let Some(session) = occupant.session.as_ref().and_then(Weak::upgrade) {
                return Some(session);
            }
        }
    }

    fn on_resumed(&self) {
        if let Some(occupant) = lock(&self.slots.state).sessions.get_mut(&self.id) {
            occupant.lost = None;
        }
    }
}

impl Drop for SessionSlot {
    fn drop(&mut self) {
        lock(&self.slots.state).sessions.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quic::Runtime;

    const LIMITS: SlotLimits = SlotLimits {
        sessions: 16,
        network_sessions: 4,
        handshakes: 128,
        lost: 4,
        lost_memory: 1000,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(at: usize) -> IpAddr {
        Ipv4Addr::from_bits(0xc633_6400 + u32::try_from(at).unwrap()).into()
    }

    fn begin(admission: Admission) -> HandshakeSlot {
        match admission {
            Admission::Begin(slot) => slot,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn addresses_are_validated_from_a_share_of_the_handshakes_on() {
        let (slots, now) = (Slots::new(LIMITS), Runtime::tokio().now());
        let forged: Vec<_> = (0..16).map(|at| begin(slots.admit(v4(at), false, now))).collect();
        for _ in 0..10_000 {
            assert!(matches!(slots.admit(v4(99), false, now), Admission::Validate));
        }
        assert_eq!(slots.taken(), (16, 0));
        // Forged addresses are not held against who has them.
        drop(begin(slots.admit(v4(0), true, now)));
        drop(forged);
        drop(begin(slots.admit(v4(99), false, now)));
        assert_eq!(slots.taken(), (0, 0));
    }

    #[tokio::test]
    async fn addresses_are_validated_from_half_of_the_sessions_on() {
        let (slots, now) = (Slots::new(LIMITS), Runtime::tokio().now());
        let mut sessions: Vec<_> = (0..8).map(|at| slots.claim(v4(at), now).unwrap()).collect();
        assert!(matches!(slots.admit(v4(99), false, now), Admission::Validate));
        drop(begin(slots.admit(v4(99), true, now)));
        sessions.pop();
        drop(begin(slots.admit(v4(99), false, now)));
    }

    #[tokio::test]
    async fn a_network_has_its_share_of_handshakes_and_sessions() {
        let (slots, now) = (Slots::new(LIMITS), Runtime::tokio().now());
        let share = limits::MAX_NETWORK_HANDSHAKES;
        let own = |at: usize| ip(&format!("2001:db8:0:1::{at:x}"));
        let taken: Vec<_> = (0..share).map(|at| begin(slots.admit(own(at), true, now))).collect();
        assert!(matches!(slots.admit(own(share), true, now), Admission::Busy));
        drop(begin(slots.admit(ip("2001:db8:0:2::1"), true, now)));
        // The eldest of the network gives way once it takes too long.
        let later = now + limits::HANDSHAKE_TIMEOUT;
        let next = begin(slots.admit(own(share), true, later));
        taken[0].given_up().notified().await;
        assert_eq!(slots.taken(), (share, 0));
        drop((taken, next));
        let sessions: Vec<_> = (0..4).map(|at| slots.claim(own(at), now).unwrap()).collect();
        assert!(slots.claim(own(9), now).is_none());
        assert!(slots.claim(ip("2001:db8:0:2::1"), now).is_some());
        assert!(slots.claim(ip("::ffff:198.51.100.1"), now).is_some());
        drop(sessions);
        assert_eq!(slots.taken(), (0, 0));
    }

    #[tokio::test]
    async fn a_full_server_gives_up_the_eldest_handshake_of_all() {
        let (slots, now) = (Slots::new(LIMITS), Runtime::tokio().now());
        let at = |index: usize| now + Duration::from_millis(index as u64);
        let taken: Vec<_> =
            (0..128).map(|index| begin(slots.admit(v4(index), true, at(index)))).collect();
        assert!(matches!(slots.admit(v4(200), true, at(128)), Admission::Busy));
        let later = now + limits::HANDSHAKE_TIMEOUT;
        let next = begin(slots.admit(v4(200), true, later));
        taken[0].given_up().notified().await;
        assert!(matches!(slots.admit(v4(201), true, later), Admission::Busy));
        drop((taken, next));
        assert_eq!(slots.taken(), (0, 0));
    }

    #[tokio::test]
    async fn who_comes_alone_gets_a_place_from_those_who_have_most() {
        let (slots, now) = (Slots::new(LIMITS), Runtime::tokio().now());
        let share = limits::MAX_NETWORK_HANDSHAKES;
        // Two networks take all, and come again whenever they may.
        let admit = |ip| slots.admit(ip, true, now);
        let taken: Vec<_> = (0..2 * share).map(|at| begin(admit(v4(at % 2)))).collect();
        assert!(matches!(admit(v4(0)), Admission::Busy));
        let alone: Vec<_> = (10..20).map(|at| begin(admit(v4(at)))).collect();
        assert_eq!(slots.taken(), (2 * share, 0));
        assert!(alone.iter().all(|slot| lock(&slots.state).handshakes.contains_key(&slot.id)));
        drop((taken, alone));
        assert_eq!(slots.taken(), (0, 0));
    }

    #[tokio::test]
    async fn of_those_without_a_connection_the_eldest_of_the_largest_crowd_goes_first() {
        let (slots, now) = (Slots::new(LIMITS), Runtime::tokio().now());
        let honest = slots.claim(v4(1), now).unwrap();
        let crowd: Vec<_> = (0..3).map(|_| slots.claim(v4(2), now).unwrap()).collect();
        honest.on_lost(1);
        crowd.iter().for_each(|slot| slot.on_lost(1));
        assert_eq!(lock(&slots.state).eldest_lost(), Some(crowd[0].id));
        crowd.iter().for_each(Slot::on_resumed);
        assert_eq!(lock(&slots.state).eldest_lost(), Some(honest.id));
        // One that is gone already makes room, and keeps no other from it.
        crowd.iter().for_each(|slot| slot.on_lost(600));
        assert!(honest.gives_way().is_none());
    }

    #[tokio::test]
    async fn the_idle_go_before_the_stalled() {
        let moved = Runtime::tokio().now();
        let (idle, stalled) = (Activity { open: false, moved }, Activity { open: true, moved });
        assert!(!may_go(idle, true, moved) && !may_go(stalled, true, moved + limits::SLOT_IDLE));
        assert!(may_go(idle, true, moved + limits::SLOT_CROWDED));
        assert!(!may_go(idle, false, moved + limits::SLOT_CROWDED));
        assert!(may_go(idle, false, moved + limits::SLOT_IDLE));
        assert!(may_go(stalled, false, moved + limits::SLOT_STALLED));
    }
}
