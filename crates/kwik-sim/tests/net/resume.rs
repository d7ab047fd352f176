//! The primary's link is cut, or the client's address changes: the session goes on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kwik::{Config, Session};
use kwik_sim::{Shape, Sim};

use crate::cluster::{Cluster, FetchError, Kind, Reading, Request};
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

/// When a fetch went on after waits, since the simulation began, and how long they were.
fn waits((ended, result): &(Duration, Result<Reading, FetchError>)) -> Vec<(Duration, Duration)> {
    let reading = result.as_ref().unwrap();
    let began = *ended - reading.took();
    reading.waits.iter().map(|(at, wait)| (*at - reading.began + began, *wait)).collect()
}

/// How long after the link's return the reader went on that the cut had stopped.
fn stall(outcome: &Outcome, seed: u64) -> Duration {
    let stopped = |(_, wait): &(Duration, Duration)| *wait > Duration::from_secs(3);
    let waits = outcome.fetched.iter().flat_map(waits).filter(stopped);
    let longest = waits.map(|(at, _)| at.saturating_sub(MENDED)).max();
    let longest = longest.expect("the cut stops the transfer");
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
        let p99 = p99(stalls.clone());
        println!("{kind:?}: {p99:?}");
        assert!(p99 < Duration::from_secs(1), "{kind:?}: {stalls:?}");
    }
}

/// The 99th percentile.
fn p99(mut stalls: Vec<Duration>) -> Duration {
    stalls.sort_unstable();
    stalls[(stalls.len() * 99).div_ceil(100) - 1]
}

/// What a cut costs an upload besides its own time.
#[test]
fn an_upload_goes_on_when_its_link_is_back() {
    let took = |faults, seed| {
        let fetches = vec![fetch(Kind::Upload, 1, 8_000_000)];
        let outcome = Scenario { fetches, ..alone(faults) }.run(seed);
        expect_all(&outcome, "an upload");
        outcome.fetched[0].0
    };
    let stall = |seed| {
        let calm = took(Vec::new(), seed);
        took(cut(), seed).saturating_sub(calm + (MENDED - CUT))
    };
    let stalls = (0..seeds()).map(stall).collect::<Vec<_>>();
    let p99 = p99(stalls.clone());
    println!("uploads: {p99:?}");
    assert!(p99 < Duration::from_secs(1), "{stalls:?}");
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
    let mut stalls = Vec::new();
    for seed in 0..seeds() {
        let scenario = Scenario { fetches: fetches.clone().collect(), ..alone(cut()) };
        if seed < 20 {
            expect_all(&Scenario { idle: ms(3_000), ..scenario.clone() }.run(seed), "64 streams");
        }
        let outcome = scenario.run(seed);
        expect_all(&outcome, "64 streams");
        // The first that goes on, and the last that the cut had stopped: each has its turn.
        let waits = outcome.fetched.iter().flat_map(waits).map(|(at, _)| at);
        let mut on: Vec<_> = waits.filter(|at| *at > MENDED).map(|at| at - MENDED).collect();
        on.sort_unstable();
        stalls.push((on[0], stall(&outcome, seed)));
    }
    let (first, last): (Vec<_>, Vec<_>) = stalls.into_iter().unzip();
    let (first, last) = (p99(first), p99(last));
    println!("64 streams: the first {first:?}, the last {last:?}");
    assert!(first < Duration::from_secs(1) && last < ms(1_500), "{first:?}, {last:?}");
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

/// Bytes that have come over the edges' paths.
fn brought(session: &Session) -> u64 {
    let edges = session.stats().paths.into_iter().filter(|path| !path.id.is_primary());
    edges.map(|path| path.figures.received).sum()
}

/// The rate of the edges in the second before the cut and during it, and how the streams ended.
fn rates_of_edges(seed: u64) -> ([u64; 2], Vec<Reading>) {
    let (near, edge) = (Shape::rate_mbit(20), Shape::rate_mbit(50));
    let cluster = Cluster::new(&Sim::new(seed), 3);
    for (server, shape) in [near, edge, edge].into_iter().enumerate() {
        cluster.servers[server].link(shape.delay(ms(20)));
        cluster.start(server);
    }
    let sim = cluster.sim.clone();
    let home = cluster.clone();
    sim.at(CUT, move || home.servers[0].cut(true));
    let home = cluster.clone();
    sim.at(MENDED, move || home.servers[0].cut(false));
    let outcome = sim.block_on({
        let sim = sim.clone();
        async move {
            let session = cluster.connect(Config::default()).await.unwrap();
            let done = Arc::new(Mutex::new(Vec::new()));
            let kinds = [(Kind::LeasedToEdges, 60_000_000), (Kind::Leased, 40_000_000)];
            let kinds = kinds.into_iter().chain([(Kind::Upload, 8_000_000)]);
            for (tag, (kind, len)) in (1..).zip(kinds) {
                let (cluster, session, done) = (cluster.clone(), session.clone(), done.clone());
                cluster.client.clone().spawn(async move {
                    let request = Request { kind, tag, len };
                    let reading = cluster.fetch(&session, request, None).await.unwrap();
                    done.lock().unwrap().push(reading);
                });
            }
            let mut marks = Vec::new();
            for at in [CUT - ms(1_000), CUT, MENDED] {
                let wait = at.saturating_sub(sim.elapsed());
                sim.sleep(wait).await;
                marks.push(brought(&session));
            }
            while done.lock().unwrap().len() < 3 {
                sim.sleep(ms(100)).await;
            }
            let during = (marks[2] - marks[1]) / (MENDED - CUT).as_secs();
            ([marks[1] - marks[0], during], done.lock().unwrap().clone())
        }
    });
    sim.end();
    outcome
}

#[test]
fn edges_deliver_while_the_primary_is_away() {
    // Each of them moves 108 MB.
    for seed in 0..seeds().div_ceil(2).min(20) {
        let ([before, during], readings) = rates_of_edges(seed);
        println!("seed {seed}: {before} bytes a second from edges before the cut, {during} during");
        assert!(during >= before / 10 * 9, "{before} before, {during} during");
        // What the primary owed comes from edges at once; after its return nobody waits for it.
        for reading in readings {
            let late = |(_, wait): &&(_, Duration)| *wait > Duration::from_secs(1);
            assert_eq!(reading.waits.iter().find(late), None);
        }
    }
}

/// What a primary asks of a client that is cut off waits for it: the client's dials are not spent
/// on paths that were given up meanwhile.
#[test]
fn paths_that_are_asked_for_during_a_cut_are_made_after_it() {
    let cluster = Cluster::new(&Sim::new(1), 4);
    for server in 0..4 {
        cluster.servers[server].link(Shape::rate_mbit(10).delay(ms(50)));
        cluster.start(server);
    }
    let sim = cluster.sim.clone();
    for (at, cut) in [(ms(220), true), (ms(20_220), false)] {
        let home = cluster.clone();
        sim.at(at, move || home.servers[0].cut(cut));
    }
    sim.block_on({
        let sim = sim.clone();
        async move {
            let session = cluster.connect(Config::default()).await.unwrap();
            let request = Request { kind: Kind::Plain, tag: 1, len: 100_000 };
            cluster.fetch(&session, request, None).await.unwrap();
            sim.sleep(ms(2_000)).await;
            let primary = cluster.primary_session().unwrap();
            assert_eq!(primary.active_paths().len(), 4, "{:?}", primary.all_paths());
            assert_eq!(primary.all_paths().len(), 4, "{:?}", primary.all_paths());
        }
    });
    sim.end();
}

/// All that takes a minute: one byte in three or more comes from the edges where they may bring it.
#[test]
fn an_address_that_changes_every_two_seconds_costs_no_byte() {
    let link = Shape::rate_mbit(2).delay(ms(20));
    let minute = Duration::from_secs(60);
    // Bytes that a link brings meanwhile, and on how many they come.
    let kinds = [(Kind::Plain, 1), (Kind::Upload, 1), (Kind::Leased, 3), (Kind::LeasedToEdges, 2)];
    for (kind, links) in kinds {
        for idle in [3_000, 30_000] {
            let faults = (1..30).map(|at| (ms(2_000 * at), Fault::Rebind)).collect();
            let scenario = Scenario {
                links: vec![[link, link]; 3],
                fetches: vec![fetch(kind, 1, links * 14_500_000)],
                idle: ms(idle),
                limit: minute * 3,
                ..alone(faults)
            };
            let outcome = scenario.run(1);
            expect_all(&outcome, &format!("{kind:?}, idle timeout {idle}"));
            println!("{kind:?}, idle timeout {idle}: {:?}", outcome.fetched[0].0);
            assert!(outcome.fetched[0].0 > minute, "all of it lies between two changes");
        }
    }
}

#[test]
fn a_session_whose_server_is_gone_ends_with_a_reason() {
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
