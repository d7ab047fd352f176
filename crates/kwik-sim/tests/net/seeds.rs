//! Every stream ends once: with its bytes, or with a typed error when it may.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use kwik_sim::Shape;

use crate::cluster::{Kind, MOST_LEASES, Request};
use crate::coverage::Coverage;
use crate::directed::alone;
use crate::hostile::Crime;
use crate::random::scenario;
use crate::scenario::{Fault, Fetch, Outcome, Scenario, ms};

const SCENARIOS: u64 = 2_000;

/// An error is told that long after the first fault at the latest: QUIC's idle timeout, the time in
/// which the session may be taken up, and a moment.
const DEADLINE: Duration = Duration::from_secs(65);

/// While the primary does well, nobody waits longer for bytes that an edge owes: half a second is
/// the rule, and an edge counts as dead after three.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A hostile edge that is leased a stream anew holds up its error for this long each time: it is
/// found out, and the primary is asked to lease once more.
const LEASE_LOST: Duration = Duration::from_secs(40);

/// What a stream is written at once, in bytes.
const TURN: usize = 20_000;

/// So many networks later a long run says what it has seen.
const PROGRESS: u64 = 10_000;

/// Failing seeds after which no more are tried.
const MOST_FAILURES: usize = 20;

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

impl Scenario {
    fn hits(&self, server: usize, fault: fn(&Fault) -> Option<usize>) -> usize {
        self.faults.iter().filter(|(_, hit)| fault(hit) == Some(server)).count()
    }

    /// Nothing goes wrong but with edges.
    fn primary_does_well(&self) -> bool {
        !self.lossy && self.faults.iter().all(|(_, fault)| fault.server() != 0)
    }

    /// When an error is told at the latest, after the first fault.
    fn deadline(&self) -> Duration {
        let hostile = self.hostile.map_or(Duration::ZERO, |_| LEASE_LOST * MOST_LEASES);
        DEADLINE + hostile
    }

    /// How long a reader waits at most while only edges fail. Where the primary's link is slower
    /// than 1 Mbit/s, each stream has its turn before.
    fn longest_wait(&self) -> Duration {
        let [up, down] = self.links[0].map(|shape| shape.time_to_send(TURN));
        let turn = up.max(down);
        let slow = turn > Shape::rate_mbit(1).time_to_send(TURN);
        let turns = if slow { u32::try_from(self.fetches.len()).unwrap() } else { 0 };
        LONGEST_WAIT + turn * turns
    }

    /// The primary's link is cut for nearly as long as dialing takes at most.
    fn may_not_be_dialed(&self) -> bool {
        let cut = self.faults.iter().find(|(_, fault)| matches!(fault, Fault::Cut(0)));
        let ends = self.faults.iter().filter(|(_, fault)| matches!(fault, Fault::Mend(0)));
        let last = ends.map(|(at, _)| *at).max();
        cut.zip(last).is_some_and(|((at, _), last)| last > *at + Duration::from_secs(15))
    }

    /// Whether the primary's process ends: nothing else costs a session.
    fn loses_its_primary(&self) -> bool {
        self.hits(0, crash) > 0
    }

    /// Whether the fetches of a kind may fail.
    fn may_fail(&self, kind: Kind) -> bool {
        let silence = |fault: &Fault| match fault {
            Fault::Freeze(server) | Fault::Cut(server) => Some(*server),
            Fault::CutUp(server) | Fault::CutDown(server) => Some(*server),
            _ => None,
        };
        let leave = |fault: &Fault| match fault {
            Fault::Leave(server) => Some(*server),
            _ => None,
        };
        let hostile = |server| self.hostile.is_some_and(|(edge, _)| edge == server);
        let gone = |server| {
            hostile(server)
                || self.hits(server, crash) + self.hits(server, silence) + self.hits(server, leave)
                    > 0
        };
        let alone = kind == Kind::LeasedToEdges && (1..self.links.len()).all(gone);
        self.loses_its_primary() || alone
    }
}

/// Whose process ends.
fn crash(fault: &Fault) -> Option<usize> {
    match fault {
        Fault::Crash(server) => Some(*server),
        _ => None,
    }
}

fn verify(scenario: &Scenario, outcome: &Outcome) {
    let undialed = !outcome.joined && scenario.may_not_be_dialed();
    if let Some(why) = &outcome.lost {
        assert!(undialed || scenario.loses_its_primary(), "the session is lost: {why}");
    }
    for (fetch, (at, result)) in scenario.fetches.iter().zip(&outcome.fetched) {
        if let (Ok(reading), Kind::Leased, None) = (result, fetch.request.kind, fetch.pace)
            && scenario.primary_does_well()
        {
            let (wait, at) = reading.longest_wait();
            assert!(wait < scenario.longest_wait(), "{fetch:?} waited {wait:?} at {at:?}");
        }
        if let Err(error) = result {
            let allowed = undialed || scenario.may_fail(fetch.request.kind);
            assert!(allowed, "{fetch:?} failed at {at:?}: {error:?}");
            let first = scenario.faults.first().map_or(Duration::ZERO, |(at, _)| *at);
            assert!(
                *at < first + scenario.deadline(),
                "{fetch:?} failed at {at:?} only: {error:?}"
            );
        }
    }
}

fn run(seed: u64) -> Coverage {
    let scenario = scenario(seed);
    let outcome = scenario.clone().run(seed);
    verify(&scenario, &outcome);
    Coverage::of(seed, &scenario, &outcome)
}

/// What this process held at most, where the system says so.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    format!("peak memory {}", peak.map_or("unknown", str::trim))
}

#[test]
fn seeds() {
    let scenarios = from_env("KWIK_NETWORKS").unwrap_or(SCENARIOS);
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let (next, covered) = (AtomicU64::new(0), Mutex::new(Coverage::default()));
    let failed = Mutex::new(Vec::new());
    let work = || {
        while failed.lock().unwrap().len() < MOST_FAILURES {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= scenarios {
                break;
            }
            match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                Ok(coverage) => {
                    let mut covered = covered.lock().unwrap();
                    covered.add(&coverage);
                    // A run of hours tells how far it is.
                    if seed > 0 && seed.is_multiple_of(PROGRESS) {
                        println!("up to some {seed}: {covered}, {}", peak_memory());
                    }
                }
                Err(_) => {
                    let command =
                        "cargo test --release -p kwik-sim --test net replay_one -- --nocapture";
                    let hostile = scenario(seed).hostile;
                    eprintln!("replay with: KWIK_SEED={seed} {command} (hostile: {hostile:?})");
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let covered = covered.into_inner().unwrap();
    println!("{scenarios} networks on {threads} threads: {covered}, {}", peak_memory());
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
    if scenarios >= SCENARIOS {
        covered.check();
    }
}

/// Paths fall silent, or are lost and dialed again, for longer than the primary has to lease what
/// is missing: nobody else may bring it.
#[test]
fn a_stream_of_edges_alone_outlives_the_redials_of_their_paths() {
    for seed in [2620, 3254, 29044] {
        run(seed);
    }
}

/// The client hears its primary, which hears nothing: it cannot lease what it was never told of.
#[test]
fn what_a_primary_could_not_hear_of_fails_no_reader() {
    run(24090);
}

/// What a silent path may bring twice is spent, and loss would explain the silence: what a reader
/// waits for is asked of another all the same.
#[test]
fn no_reader_waits_for_lost_packets_that_are_none() {
    for seed in [1350, 2045, 6737, 6958, 8040, 37916, 50750] {
        run(seed);
    }
}

/// An edge is added again and again while the primary's link is cut: no path of it keeps another
/// edge from being dialed.
#[test]
fn one_edge_that_comes_and_goes_takes_no_place_of_others() {
    run(25402);
}

/// What others brought of a piece meanwhile does not keep those behind it at a path that says much
/// and brings nothing.
#[test]
fn a_piece_of_which_nothing_is_missing_holds_up_no_other() {
    run(8484);
}

/// A hostile edge that joins anew is a path of which nothing is known: what one of its paths kept
/// a reader waiting for is not asked of the next.
#[test]
fn who_was_kept_waiting_once_does_not_wait_for_the_next_stranger() {
    for seed in [2452, 58888] {
        run(seed);
    }
}

/// The primary can add no path while its link is cut: its application has to wait for longer.
#[test]
fn a_stream_of_edges_alone_waits_until_the_primary_can_add_paths() {
    let link = Shape::rate_mbit(10).delay(ms(50));
    let request = Request { kind: Kind::LeasedToEdges, tag: 1, len: 10_000 };
    let scenario = Scenario {
        links: vec![[link, link]; 3],
        fetches: vec![Fetch { request, at: ms(0), pace: None }],
        hostile: Some((1, Crime::Return)),
        ..alone(vec![(ms(350), Fault::Cut(0)), (ms(31_000), Fault::Mend(0))])
    };
    let outcome = scenario.run(1);
    let (at, result) = &outcome.fetched[0];
    assert!(result.is_ok() && *at > ms(31_000), "{result:?} at {at:?}");
}

#[test]
fn replay_one() {
    if let Some(seed) = from_env("KWIK_SEED") {
        let scenario = scenario(seed);
        println!("{scenario:#?}");
        let outcome = scenario.clone().run(seed);
        outcome.trace.packets.iter().for_each(|packet| println!("{packet}"));
        for (at, result) in &outcome.fetched {
            println!("{at:?} {result:?}");
        }
        verify(&scenario, &outcome);
    }
}
