//! When the edges of a session join and leave.

use std::{cmp::Reverse, fmt, time::Duration};

use crate::limits::{
    IDLE_LEAVE, INITIAL_WINDOW, JOIN_EDGE_ROUND_TRIPS, JOIN_HALF_ROUND_TRIPS, LOOK_LEAST, LOOK_MOST,
};

pub(super) mod demand;
pub(super) mod drive;
mod plan;

/// Says when the primary of a session adds edges to it, and when it drops them.
///
/// The server keeps to the client's dial policy by itself: it spreads what a policy asks for, and
/// waits longer each time before it tries an edge again that is down.
pub trait JoinPolicy: fmt::Debug + Send + Sync {
    /// What to do now. A pure function of the session as it stands: it is asked again after each
    /// change, and while something is left to fetch at least once a second.
    fn decide(&self, session: &SessionView<'_>) -> Decision;
}

/// A session as a [`JoinPolicy`] sees it.
#[derive(Debug, Clone, Copy)]
pub struct SessionView<'a> {
    /// Bytes that all fetches of the session have yet to bring.
    pub left: u64,
    /// Of those, bytes that the primary is not to bring.
    pub foreign: u64,
    /// How long nothing was left to fetch.
    pub idle: Duration,
    /// The round trip between primary and client.
    pub rtt: Duration,
    /// What the primary itself brings; none until measured.
    pub rate: Option<Rate>,
    /// The server's edges in configured order.
    pub edges: &'a [EdgeView],
}

/// A measured delivery rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bytes a second.
    pub bytes: u64,
    /// It was still growing when it was measured, as in slow start.
    pub growing: bool,
}

/// An edge as a [`JoinPolicy`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EdgeView {
    /// Edges with more weight join first.
    pub weight: u32,
    /// Sessions that it may be in at once; none when as many as like.
    pub cap: Option<usize>,
    /// Sessions of this server that it is in.
    pub sessions: usize,
    /// Its operator wants it to be free: see [`Server::set_draining`](crate::Server::set_draining).
    pub draining: bool,
    /// Its place in this session.
    pub state: EdgeState,
    /// When it failed to join last, or was lost for good.
    pub failed: Option<Failed>,
    /// Its round trip to the client, where the session has measured it.
    pub rtt: Option<Duration>,
    /// What it brings, in bytes a second, where the session has measured it.
    pub rate: Option<u64>,
}

/// The place of an edge in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeState {
    /// Not there: it may join.
    Absent,
    /// Kept out, as it sent wrong bytes.
    Barred,
    /// The client was asked to dial it.
    Joining,
    /// It brings data.
    Joined,
    /// The client lost it and dials it again, or it is leaving.
    Away,
}

/// How an edge failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// Times in a row.
    pub times: u32,
    /// Since the last of them.
    pub ago: Duration,
}

/// What a [`JoinPolicy`] wants. Edges are named by their place in [`SessionView::edges`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Edges to add, in this order.
    pub join: Vec<usize>,
    /// Edges to drop, once they have brought what they were asked for.
    pub drop: Vec<usize>,
    /// When to ask again, if nothing changes before.
    pub again: Option<Duration>,
}

impl EdgeView {
    fn may_join(&self) -> bool {
        let full = self.cap.is_some_and(|cap| self.sessions >= cap);
        self.state == EdgeState::Absent && !self.draining && !full
    }

    fn is_present(&self) -> bool {
        matches!(self.state, EdgeState::Joined | EdgeState::Away)
    }
}

impl SessionView<'_> {
    /// Edges that may join, by weight, then in configured order.
    fn candidates(&self) -> Vec<usize> {
        let mut may: Vec<_> =
            (0..self.edges.len()).filter(|at| self.edges[*at].may_join()).collect();
        may.sort_by_key(|at| Reverse(self.edges[*at].weight));
        may
    }

    fn present(&self, which: impl Fn(&EdgeView) -> bool) -> Vec<usize> {
        let present = |at: &usize| self.edges[*at].is_present() && which(&self.edges[*at]);
        (0..self.edges.len()).filter(present).collect()
    }

    /// From the wish for an edge to its first byte.
    fn joining_time(&self, edge: &EdgeView) -> Duration {
        // Of an edge that was never there nothing is known: it may be as far as the primary.
        let rtt = edge.rtt.unwrap_or(self.rtt);
        self.rtt * JOIN_HALF_ROUND_TRIPS / 2 + rtt * JOIN_EDGE_ROUND_TRIPS
    }

    /// How long those who are there now need for the rest.
    fn time_left(&self) -> Duration {
        let joined = self.edges.iter().filter(|edge| edge.state == EdgeState::Joined);
        let beside: u64 = joined.filter_map(|edge| edge.rate).fold(0, u64::saturating_add);
        match self.rate {
            Some(Rate { bytes, growing: false }) => {
                let bytes = u128::from(bytes.saturating_add(beside).max(1));
                micros(u128::from(self.left) * 1_000_000 / bytes)
            }
            Some(Rate { bytes, growing: true }) => {
                self.slow_start(self.in_round_trip(bytes.saturating_add(beside)))
            }
            None => self.slow_start(INITIAL_WINDOW + self.in_round_trip(beside)),
        }
    }

    fn in_round_trip(&self, rate: u64) -> u64 {
        let bytes = u128::from(rate) * self.rtt.as_micros() / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// What `window` bytes in the next round trip, and twice as much in each that follows, take. No
    /// link is that fast for long, so the truth is later.
    fn slow_start(&self, window: u64) -> Duration {
        let (mut window, mut rest, mut time) = (window.max(1), self.left, Duration::ZERO);
        while rest > window {
            rest -= window;
            window = window.saturating_mul(2);
            time += self.rtt;
        }
        time + micros(self.rtt.as_micros() * u128::from(rest) / u128::from(window))
    }
}

fn micros(time: u128) -> Duration {
    Duration::from_micros(u64::try_from(time).unwrap_or(u64::MAX))
}

/// The default policy. An edge joins when those who are there need longer for the rest than the
/// edge needs to join. So a session that fetches an index page dials nobody, and one that fetches
/// a large object has all edges. Edges leave when they drain, or when nothing was fetched for
/// a minute.
#[derive(Debug, Clone, Copy, Default)]
pub struct WhenItPays;

impl JoinPolicy for WhenItPays {
    fn decide(&self, session: &SessionView<'_>) -> Decision {
        if session.left == 0 {
            let long = session.idle >= IDLE_LEAVE;
            let drop = session.present(|edge| long || edge.draining);
            let stays = session.present(|edge| !long && !edge.draining);
            let again = (!stays.is_empty()).then(|| IDLE_LEAVE - session.idle);
            return Decision { join: Vec::new(), drop, again };
        }
        let time_left = session.time_left();
        let candidates = session.candidates();
        let pays = |at: &usize| time_left > session.joining_time(&session.edges[*at]);
        let join: Vec<_> =
            candidates.iter().copied().filter(|at| session.foreign > 0 || pays(at)).collect();
        // Who does not pay yet may do so once the primary turns out to be slow.
        let again =
            (join.len() < candidates.len()).then(|| session.rtt.clamp(LOOK_LEAST, LOOK_MOST));
        Decision { join, drop: session.present(|edge| edge.draining), again }
    }
}

/// All edges join every session at its start and stay: for servers of large objects alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct AtOnce;

impl JoinPolicy for AtOnce {
    fn decide(&self, session: &SessionView<'_>) -> Decision {
        let drop = session.present(|edge| edge.draining);
        Decision { join: session.candidates(), drop, again: None }
    }
}

#[cfg(test)]
mod tests;
