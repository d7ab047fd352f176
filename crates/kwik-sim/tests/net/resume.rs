//! The primary's link is cut, or the client's address changes: the session goes on.

use std::time::Duration;

use kwik_sim::Shape;

use crate::cluster::{Kind, Request};
use crate::directed::alone;
use crate::scenario::{Fault, Fetch, Outcome, Scenario, ms};

const CUT: Duration = Duration::from_millis(1500);
const MENDED: Duration = Duration::from_millis(6500);

fn seeds() -> u64 {
    std::env::var("KWIK_SEEDS").map_or(4, |seeds| seeds.parse().unwrap())
}

fn fetch(kind: Kind, tag: u64, len: u64) -> Fetch {
    Fetch { request: Request { kind, tag, len }, at: ms(0), pace: None }
}

/// The primary's link carries nothing for 5 s.
fn cut() -> Vec<(Duration, Fault)> {
    vec![(CUT, Fault::Cut(0)), (MENDED, Fault::Mend(0))]
}

fn expect_all(outcome: &Outcome, what: &str) {
    for (at, result) in &outcome.fetched {
        assert!(result.is_ok(), "{what}: {result:?} at {at:?}");
    }
}

/// How long after the link's return the reader went on.
fn stall(outcome: &Outcome, seed: u64) -> Duration {
    let began = ms(0);
    let mut longest = began;
    for (_, result) in &outcome.fetched {
        let reading = result.as_ref().unwrap();
        let (wait, ended) = reading.longest_wait();
        // Of the one that the cut has stopped.
        if wait > Duration::from_secs(3) {
            longest = longest.max(ended.saturating_sub(MENDED));
        }
    }
    println!("seed {seed}: goes on after {longest:?}");
    longest
}

#[test]
fn a_transfer_goes_on_within_a_second_of_its_links_return() {
    for kind in [Kind::Plain, Kind::Leased] {
        let mut stalls = Vec::new();
        for seed in 0..seeds() {
            let fetches = vec![fetch(kind, 1, 8_000_000)];
            let outcome = Scenario { fetches, ..alone(cut()) }.run(seed);
            expect_all(&outcome, "a cut of 5 s");
            stalls.push(stall(&outcome, seed));
        }
        stalls.sort_unstable();
        let p99 = stalls[(stalls.len() * 99).div_ceil(100) - 1];
        assert!(p99 < Duration::from_secs(1), "{kind:?}: {stalls:?}");
    }
}

#[test]
fn an_upload_goes_on_when_its_link_is_back() {
    for seed in 0..seeds() {
        let fetches = vec![fetch(Kind::Upload, 1, 8_000_000)];
        let outcome = Scenario { fetches, ..alone(cut()) }.run(seed);
        expect_all(&outcome, "an upload");
        // 3.2 s at 20 Mbit/s, and the cut.
        assert!(outcome.fetched[0].0 < ms(9_800), "{:?}", outcome.fetched[0].0);
    }
}

/// QUIC ends the connections, at both ends, at one alone, or at none.
#[test]
fn a_connection_that_quic_gives_up_is_taken_up_exactly() {
    for kind in [Kind::Plain, Kind::Leased, Kind::Upload] {
        for idle in [2_000, 4_000, 30_000] {
            for cut in [Fault::Cut(0), Fault::CutUp(0), Fault::CutDown(0)] {
                let fetches = (1..=3).map(|tag| fetch(kind, tag, 2_000_000)).collect();
                let faults = vec![(CUT, cut), (MENDED, Fault::Mend(0))];
                let scenario = Scenario { fetches, idle: ms(idle), ..alone(faults) };
                let outcome = scenario.run(idle);
                expect_all(&outcome, &format!("{kind:?}, {cut:?}, idle timeout {idle}"));
            }
        }
    }
}

#[test]
fn sixty_four_streams_both_ways_go_on_exactly() {
    let kinds = [Kind::Plain, Kind::Upload, Kind::Leased, Kind::Plain];
    let fetches = (0..64).map(|tag| fetch(kinds[tag as usize % 4], tag, 120_000));
    for seed in 0..seeds().min(20) {
        let scenario = Scenario { fetches: fetches.clone().collect(), ..alone(cut()) };
        expect_all(&Scenario { idle: ms(3_000), ..scenario.clone() }.run(seed), "64 streams");
        expect_all(&scenario.run(seed), "64 streams");
    }
}

#[test]
fn cuts_one_after_another_cost_no_byte() {
    for seed in 0..seeds().min(20) {
        let mut faults = Vec::new();
        for cut in 0..6 {
            let at = ms(500 + cut * 4_000);
            faults.extend([(at, Fault::Cut(0)), (at + ms(2_500), Fault::Mend(0))]);
        }
        let fetches = vec![
            fetch(Kind::Plain, 1, 4_000_000),
            fetch(Kind::Upload, 2, 4_000_000),
            fetch(Kind::Leased, 3, 4_000_000),
        ];
        let outcome = Scenario { fetches, idle: ms(2_000), ..alone(faults) }.run(seed);
        expect_all(&outcome, "six cuts");
    }
}

#[test]
fn edges_deliver_while_the_primary_is_away() {
    let edge = Shape::rate_mbit(50).delay(ms(20));
    let near = Shape::rate_mbit(20).delay(ms(20));
    let size = 60_000_000;
    let run = |faults| {
        let scenario = Scenario {
            links: vec![[near, near], [edge, edge], [edge, edge]],
            fetches: vec![fetch(Kind::LeasedToEdges, 1, size)],
            ..alone(faults)
        };
        let outcome = scenario.run(1);
        expect_all(&outcome, "edges");
        outcome.fetched[0].1.as_ref().unwrap().took()
    };
    let (calm, cut) = (run(Vec::new()), run(cut()));
    // Five of the seconds that it takes are those of the cut.
    println!("{calm:?} without a cut, {cut:?} with one");
    assert!(cut.saturating_sub(calm) < ms(500), "{calm:?} without a cut, {cut:?} with one");
}

#[test]
fn an_address_that_changes_every_two_seconds_costs_no_byte() {
    let edge = Shape::rate_mbit(5).delay(ms(20));
    for kind in [Kind::Plain, Kind::Upload, Kind::Leased] {
        for idle in [3_000, 30_000] {
            let faults = (1..30).map(|at| (ms(2_000 * at), Fault::Rebind)).collect();
            let scenario = Scenario {
                links: vec![[edge, edge], [edge, edge]],
                fetches: vec![fetch(kind, 1, 20_000_000)],
                idle: ms(idle),
                limit: Duration::from_secs(120),
                ..alone(faults)
            };
            expect_all(&scenario.run(1), &format!("{kind:?}, idle timeout {idle}"));
        }
    }
}

#[test]
fn a_session_whose_server_is_gone_ends_with_a_reason() {
    use crate::cluster::FetchError;
    use kwik::{ConnectionError, ReadError};
    let lost = |faults: Vec<(Duration, Fault)>| {
        let fetches = vec![fetch(Kind::Plain, 1, 8_000_000)];
        let limit = Duration::from_secs(120);
        let outcome = Scenario { fetches, limit, ..alone(faults) }.run(1);
        let (at, result) = outcome.fetched[0].clone();
        match result {
            Err(FetchError::Read(ReadError::ConnectionLost(error))) => (at, error),
            other => panic!("{other:?}"),
        }
    };
    // Another process: it says so at once.
    let (at, error) = lost(vec![(CUT, Fault::Crash(0)), (ms(2_500), Fault::Start(0))]);
    assert_eq!(error, ConnectionError::ServerRestarted);
    assert!(at < ms(5_000), "{at:?}");
    // Nobody: QUIC's idle timeout, and the time in which it could have come back.
    let (at, error) = lost(vec![(CUT, Fault::Crash(0))]);
    assert_eq!(error, ConnectionError::TimedOut);
    assert!(at < ms(64_000), "{at:?}");
}
