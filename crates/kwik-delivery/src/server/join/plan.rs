//! Keeping to the client's dial policy: who may be dialed now, and who later.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use kwik_proto::limits::{DIAL_PERIOD, MAX_DIALS};

use super::Failed;
use crate::limits::{DIAL_MARGIN, RETRY_CALM, RETRY_FIRST, RETRY_LAST};

/// The dials of one session, and the failures of its edges. It has neither clock nor randomness.
#[derive(Debug)]
pub(super) struct Plan {
    /// Differs between sessions, so that the clients of a server do not all come back at once.
    seed: u32,
    /// Requests of the last period.
    dials: VecDeque<Instant>,
    edges: Vec<Attempts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Attempts {
    /// Failures in a row, and when the last one was.
    failed: Option<(u32, Instant)>,
    /// Since when it has a path.
    joined: Option<Instant>,
}

/// What is done of what was wished.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) dial: Vec<usize>,
    /// When one of the others may be dialed; none where only a free path helps.
    pub(super) again: Option<Instant>,
}

impl Plan {
    pub(super) fn new(edges: usize, seed: u32) -> Self {
        Self { seed, dials: VecDeque::new(), edges: vec![Attempts::default(); edges] }
    }

    /// Of the edges that are `wanted`, in this order, those that may be dialed now. At most `room`
    /// of them: each takes a path.
    pub(super) fn step(&mut self, wanted: &[usize], room: usize, now: Instant) -> Step {
        let mut step = Step::default();
        let period = DIAL_PERIOD + DIAL_MARGIN;
        while self.dials.front().is_some_and(|at| *at + period <= now) {
            self.dials.pop_front();
        }
        // Those that were down wait for the others.
        for again in [false, true] {
            for at in wanted.iter().copied() {
                if self.has_failed(at) != again {
                    continue;
                }
                if step.dial.len() >= room {
                    return step;
                }
                // The last dial of a period is for a path that the client lost.
                let most = if again { MAX_DIALS - 1 } else { MAX_DIALS };
                let used = self.dials.len();
                let free = used.checked_sub(most).map(|first| self.dials[first] + period);
                let due = self.retry(at).into_iter().chain(free).max().filter(|due| *due > now);
                match due {
                    Some(due) => step.again = step.again.into_iter().chain([due]).min(),
                    None => {
                        self.dials.push_back(now);
                        step.dial.push(at);
                    }
                }
            }
        }
        step
    }

    pub(super) fn on_joined(&mut self, edge: usize, now: Instant) {
        self.edges[edge].joined = Some(now);
    }

    /// It did not join, or was lost for good.
    pub(super) fn on_failed(&mut self, edge: usize, now: Instant) {
        let Attempts { failed, joined } = &mut self.edges[edge];
        let calm = joined.take().is_some_and(|joined| now >= joined + RETRY_CALM);
        let before = failed.filter(|_| !calm).map_or(0, |(times, _)| times);
        *failed = Some((before.saturating_add(1), now));
    }

    /// It left in order.
    pub(super) fn on_left(&mut self, edge: usize) {
        self.edges[edge] = Attempts::default();
    }

    pub(super) fn failed(&self, edge: usize, now: Instant) -> Option<Failed> {
        let (times, at) = self.edges[edge].failed?;
        Some(Failed { times, ago: now.saturating_duration_since(at) })
    }

    pub(super) fn has_failed(&self, edge: usize) -> bool {
        self.edges[edge].failed.is_some()
    }

    /// When an edge that failed is tried again.
    fn retry(&self, edge: usize) -> Option<Instant> {
        let (times, at) = self.edges[edge].failed?;
        let salt = u32::try_from(edge).unwrap_or(u32::MAX).rotate_left(16) ^ times;
        Some(at + retry_wait(self.seed ^ salt, times))
    }
}

/// Doubled with each failure, give or take a fifth.
fn retry_wait(seed: u32, times: u32) -> Duration {
    let wait = (RETRY_FIRST * (1 << (times.max(1) - 1).min(10))).min(RETRY_LAST);
    let share = seed.wrapping_mul(0x9E37_79B9) >> 16;
    wait * 4 / 5 + wait * share / (5 * 0x8000)
}

#[cfg(test)]
mod tests {
    use kwik_proto::auth::DialLimiter;

    use super::*;

    const STEP: Duration = Duration::from_millis(50);

    /// Runs a session in which `up` says when each edge answers, and a client that admits what its
    /// own policy admits: when each joined, and when each was dialed.
    fn run(
        edges: usize,
        room: usize,
        lasts: Duration,
        up: impl Fn(usize, Duration) -> bool,
    ) -> (Vec<Option<Duration>>, Vec<(usize, Duration)>) {
        let began = Instant::now();
        let (mut plan, mut client) = (Plan::new(edges, 7), DialLimiter::default());
        let (mut joined, mut dials) = (vec![None; edges], Vec::new());
        let mut at = Duration::ZERO;
        while at < lasts {
            let now = began + at;
            let wanted: Vec<_> = (0..edges).filter(|edge| joined[*edge].is_none()).collect();
            let taken = edges - wanted.len();
            for edge in plan.step(&wanted, room - taken, now).dial {
                dials.push((edge, at));
                assert!(client.try_dial(now).is_ok(), "dialed too fast: {dials:?}");
                if up(edge, at) {
                    plan.on_joined(edge, now);
                    joined[edge] = Some(at);
                } else {
                    plan.on_failed(edge, now);
                }
            }
            at += STEP;
        }
        (joined, dials)
    }

    #[test]
    fn eight_edges_join_within_the_pace_of_the_dial_policy() {
        let (joined, dials) = run(8, 8, Duration::from_secs(60), |_, _| true);
        assert_eq!(dials.len(), 8);
        let second = DIAL_PERIOD + DIAL_MARGIN;
        let expected = [[Duration::ZERO; 4], [second; 4]].concat();
        assert_eq!(joined.into_iter().flatten().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn there_are_no_more_dials_than_free_paths() {
        let (joined, dials) = run(8, 3, Duration::from_secs(60), |_, _| true);
        assert_eq!((joined.iter().flatten().count(), dials.len()), (3, 3));
    }

    #[test]
    fn an_edge_that_is_down_is_tried_for_as_long_as_it_takes_and_ever_less_often() {
        let comes = Duration::from_secs(1800);
        let up = |edge, at| edge > 0 || at >= comes;
        let (joined, dials) = run(2, 8, Duration::from_secs(3600), up);
        // The other is there at once.
        assert_eq!(joined[1], Some(Duration::ZERO));
        let first: Vec<_> =
            dials.iter().filter(|(edge, _)| *edge == 0).map(|(_, at)| *at).collect();
        let waits: Vec<_> = first.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(waits[0] >= RETRY_FIRST * 4 / 5 && waits[0] <= RETRY_FIRST * 6 / 5 + STEP);
        let longest = RETRY_LAST * 6 / 5 + STEP;
        assert!(waits.iter().all(|wait| *wait <= longest));
        assert!(waits[8..].iter().all(|wait| *wait >= RETRY_LAST * 4 / 5));
        let came = joined[0].unwrap();
        assert!(came >= comes && came <= comes + longest, "{came:?}");
    }

    /// Edges that are down leave a dial to the client, which may have lost a path.
    #[test]
    fn edges_that_are_down_do_not_take_all_dials() {
        let (joined, dials) = run(8, 8, Duration::from_secs(300), |edge, _| edge == 7);
        // In the second period at the latest, whoever is down.
        assert_eq!(joined[7], Some(DIAL_PERIOD + DIAL_MARGIN));
        let late: Vec<_> =
            dials.iter().map(|(_, at)| *at).filter(|at| *at > DIAL_PERIOD * 2 + STEP).collect();
        let close = |times: &[Duration]| times[MAX_DIALS - 1] - times[0] < DIAL_PERIOD;
        assert!(late.len() > MAX_DIALS && !late.windows(MAX_DIALS).any(close), "{late:?}");
    }

    #[test]
    fn an_edge_that_flaps_waits_longer_and_one_that_stayed_does_not() {
        let (mut plan, mut now) = (Plan::new(1, 1), Instant::now());
        for times in 1..=20 {
            plan.on_joined(0, now);
            plan.on_failed(0, now);
            assert_eq!(plan.failed(0, now), Some(Failed { times, ago: Duration::ZERO }));
            now += RETRY_LAST * 2;
        }
        plan.on_joined(0, now);
        now += RETRY_CALM;
        plan.on_failed(0, now);
        assert_eq!(plan.failed(0, now).map(|failed| failed.times), Some(1));
        plan.on_left(0);
        assert!(!plan.has_failed(0));
    }

    #[test]
    fn waits_double_up_to_the_largest_and_differ_between_sessions() {
        for times in 1..=u32::from(u8::MAX) {
            let plain = RETRY_FIRST * (1 << (times - 1).min(10));
            let plain = plain.min(RETRY_LAST);
            let waits: Vec<_> = (0..100).map(|seed| retry_wait(seed, times)).collect();
            assert!(waits.iter().all(|wait| *wait >= plain * 4 / 5 && *wait <= plain * 6 / 5));
            assert!(waits.iter().max() > waits.iter().min());
        }
    }
}
