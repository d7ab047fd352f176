//! Carrying out what the policy says, for as long as a session lasts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, poll, stream::FuturesUnordered};
use kwik::{PathError, PathId, PathInfo, PathStats, PathStatus, escape};
use kwik_proto::limits::MAX_PATHS;

use super::{
    AtOnce, Decision, EdgeState, EdgeView, JoinPolicy, SessionView,
    demand::{Meter, Rest},
    plan::{Plan, Step},
};
use crate::{
    limits::{LOOK_LEAST, LOOK_MOST},
    server::serving::Serving,
};

/// An edge's place in a session, which counts against its cap until it is dropped.
#[derive(Debug)]
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    /// None when so many sessions have one.
    fn take(sessions: &'a AtomicUsize, cap: Option<usize>) -> Option<Self> {
        let below = |count: usize| cap.is_none_or(|cap| count < cap).then(|| count + 1);
        sessions.fetch_update(Relaxed, Relaxed, below).ok().map(|_| Self(sessions))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// An edge as this session knows it.
#[derive(Debug, Default)]
struct Member<'a> {
    seat: Option<Seat<'a>>,
    path: Option<PathId>,
    leaving: bool,
    /// What it had brought when it was looked at last.
    received: u64,
    rtt: Option<Duration>,
    rate: Option<u64>,
}

/// The edge, where it was dialed, and its path.
type Added = (usize, SocketAddr, Result<PathId, PathError>);

/// Adds and drops the edges of one session.
struct Joins<'a> {
    serving: &'a Serving<'a>,
    members: Vec<Member<'a>>,
    plan: Plan,
    meter: Meter,
    adding: FuturesUnordered<BoxFuture<'a, Added>>,
    leaving: FuturesUnordered<BoxFuture<'a, ()>>,
}

/// Adds and drops edges until the session is over, or at once where there are none.
pub(in crate::server) async fn join_edges(serving: &Serving<'_>) {
    if serving.edges.is_empty() {
        return serving.demand.set_untried(0);
    }
    let mut joins = Joins::new(serving);
    let mut draining = serving.server.draining.subscribe();
    loop {
        let mut changed = pin!(serving.primary.path_changed());
        // Listening before looking: no change falls in between.
        if poll!(changed.as_mut()).is_ready() {
            continue;
        }
        draining.mark_unchanged();
        let now = Instant::now();
        let again = joins.look(now);
        let mut sleep = pin!(async {
            match again {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            Some((edge, address, added)) = joins.adding.next() => {
                if !joins.on_added(edge, address, added, Instant::now()) {
                    return;
                }
            }
            Some(()) = joins.leaving.next() => {}
            () = changed => {}
            () = serving.demand.changed() => {}
            Ok(()) = draining.changed() => {}
            () = &mut sleep => {}
        }
    }
}

impl<'a> Joins<'a> {
    fn new(serving: &'a Serving<'a>) -> Self {
        let [a, b, c, d, ..] = serving.primary.id().0;
        let edges = serving.edges.len();
        Self {
            serving,
            members: (0..edges).map(|_| Member::default()).collect(),
            plan: Plan::new(edges, u32::from_le_bytes([a, b, c, d])),
            meter: Meter::default(),
            adding: FuturesUnordered::new(),
            leaving: FuturesUnordered::new(),
        }
    }

    /// Does what is to be done now. When to look again, if nothing happens before.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let all = self.serving.primary.all_paths();
        let live = all.iter().filter(|info| !info.ended).count();
        self.note_ended(&all, now);
        let (views, rest) = self.views(&all, now);
        let rtt = self.serving.primary.session().rtt().max(Duration::from_micros(1));
        let session = SessionView {
            left: rest.left,
            foreign: rest.foreign,
            idle: rest.idle,
            rtt,
            rate: self.meter.rate(),
            edges: &views,
        };
        // An edge that is looked into joins that session, whatever is fetched there.
        let policy: &dyn JoinPolicy =
            if self.serving.only.is_some() { &AtOnce } else { &*self.serving.server.policy };
        let Decision { join, drop, again } = policy.decide(&session);
        drop.into_iter().for_each(|edge| self.leave(edge));
        let absent =
            |edge: &usize| views.get(*edge).is_some_and(|view| view.state == EdgeState::Absent);
        let mut wanted: Vec<_> = join.into_iter().filter(absent).collect();
        self.take_seats(&mut wanted);
        let Step { dial, again: due } =
            self.plan.step(&wanted, MAX_PATHS.saturating_sub(live), now);
        for edge in &wanted {
            if !dial.contains(edge) {
                self.members[*edge].seat = None;
            }
        }
        dial.into_iter().for_each(|edge| self.dial(edge));
        self.count_untried(&views);
        let missing = views.iter().any(|view| view.state != EdgeState::Joined);
        let most = (rest.left > 0 && missing).then_some(LOOK_MOST);
        let again = again.map(|wait| wait.max(LOOK_LEAST)).into_iter().chain(most).min();
        again.map(|wait| now + wait).into_iter().chain(due).min()
    }

    /// Paths that ended since.
    fn note_ended(&mut self, all: &[PathInfo], now: Instant) {
        for (edge, member) in self.members.iter_mut().enumerate() {
            let Some(path) = member.path else { continue };
            // One that the history has forgotten has ended long ago.
            let ended = all.iter().find(|info| info.id == path).is_none_or(|info| info.ended);
            if ended {
                match member.leaving {
                    true => self.plan.on_left(edge),
                    false => self.plan.on_failed(edge, now),
                }
                let Member { rtt, rate, .. } = *member;
                *member = Member { rtt, rate, ..Member::default() };
            }
        }
    }

    fn views(&mut self, all: &[PathInfo], now: Instant) -> (Vec<EdgeView>, Rest) {
        let stats = self.serving.primary.session().stats();
        self.measure(&stats.paths);
        let demand = &self.serving.demand;
        let rest = demand.rest(now);
        let arrived = rest.written.saturating_sub(stats.unacknowledged);
        let busy = rest.left > 0 && stats.unacknowledged > 0;
        self.meter.sample(now, arrived, busy, self.serving.primary.session().rtt());
        let server = self.serving.server;
        let draining = server.draining.borrow();
        let views = self.serving.edges.iter().zip(&self.members).enumerate();
        let views = views.map(|(at, (edge, member))| EdgeView {
            weight: edge.weight,
            cap: edge.cap,
            sessions: edge.sessions().load(Relaxed),
            draining: edge.is_removed() || draining.contains(&edge.fingerprint),
            state: self.state(at, member, all),
            failed: self.plan.failed(at, now),
            rtt: member.rtt,
            rate: member.rate,
        });
        (views.collect(), rest)
    }

    fn state(&self, edge: usize, member: &Member<'_>, all: &[PathInfo]) -> EdgeState {
        let info = member.path.and_then(|path| all.iter().find(|info| info.id == path));
        match info.map(|info| info.status) {
            Some(status) if status.is_usable() && !member.leaving => EdgeState::Joined,
            Some(PathStatus::Connecting) => EdgeState::Joining,
            Some(_) => EdgeState::Away,
            None if member.seat.is_some() => EdgeState::Joining,
            None if self.serving.is_barred(&self.serving.edges[edge]) => EdgeState::Barred,
            // Nobody knows where it is.
            None if self.serving.edges[edge].address().is_none() => EdgeState::Barred,
            None => EdgeState::Absent,
        }
    }

    /// What the client says of the edges.
    fn measure(&mut self, paths: &[PathStats]) {
        let paths: BTreeMap<_, _> = paths.iter().map(|path| (path.id, path.figures)).collect();
        let mut brought = 0_u64;
        for member in &mut self.members {
            let Some(figures) = member.path.and_then(|path| paths.get(&path)) else { continue };
            brought = brought.saturating_add(figures.received.saturating_sub(member.received));
            member.received = figures.received.max(member.received);
            member.rtt = Some(figures.rtt).filter(|rtt| !rtt.is_zero()).or(member.rtt);
            member.rate = figures.goodput.or(member.rate);
        }
        self.serving.demand.on_edges_brought(brought);
    }

    /// Leaves of `wanted` those whose cap admits one more session.
    fn take_seats(&mut self, wanted: &mut Vec<usize>) {
        let serving = self.serving;
        wanted.retain(|edge| {
            let seat = Seat::take(serving.edges[*edge].sessions(), serving.edges[*edge].cap);
            self.members[*edge].seat = seat;
            self.members[*edge].seat.is_some()
        });
    }

    fn dial(&mut self, edge: usize) {
        let (primary, to) = (self.serving.primary, &self.serving.edges[edge]);
        let Some(address) = to.address() else { return self.members[edge].seat = None };
        let adding = primary.add_path(address, to.fingerprint);
        self.adding.push(adding.map(move |added| (edge, address, added)).boxed());
    }

    fn leave(&mut self, edge: usize) {
        let Some(member) = self.members.get_mut(edge) else { return };
        let Some(path) = member.path.filter(|_| !member.leaving) else { return };
        member.leaving = true;
        let primary = self.serving.primary;
        self.leaving.push(primary.remove_path(path).map(drop).boxed());
    }

    /// False once the session is over. One edge that does not answer is no reason to do without the
    /// others.
    fn on_added(
        &mut self,
        edge: usize,
        address: SocketAddr,
        added: Result<PathId, PathError>,
        now: Instant,
    ) -> bool {
        let to = &self.serving.edges[edge];
        match added {
            Ok(path) => {
                self.members[edge].path = Some(path);
                self.plan.on_joined(edge, now);
                to.on_joined();
                tracing::debug!(edge = %address, %path, "edge joined");
            }
            Err(PathError::ConnectionLost(_)) => return false,
            Err(error) => {
                // Again and again, but the operator need not hear of each time.
                if !self.plan.has_failed(edge)
                    && self.serving.server.quarantine.may_say(to.fingerprint)
                {
                    tracing::warn!(
                        edge = %address, error = %escape(&error),
                        "edge did not join: it is tried again while something is fetched"
                    );
                }
                to.on_unreached(address);
                self.members[edge].seat = None;
                self.plan.on_failed(edge, now);
            }
        }
        true
    }

    fn count_untried(&self, views: &[EdgeView]) {
        let untried = views.iter().filter(|view| {
            let comes = matches!(view.state, EdgeState::Absent | EdgeState::Joining);
            comes && !view.draining && view.failed.is_none()
        });
        self.serving.demand.set_untried(untried.count());
    }
}
