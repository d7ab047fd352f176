//! Random scenarios: every stream ends once, with its bytes or with a typed error when it may.

use std::time::Duration;

use fastrand::Rng;
use kwik::Config;
use kwik_sim::Shape;

use crate::cluster::{FetchError, Kind, Request};
use crate::scenario::{Fault, Fetch, Outcome, Scenario, ms};

const SCENARIOS: u64 = 2_000;

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says how to replay a seed that panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let command = "cargo test --release -p kwik-sim --test net replay_one -- --nocapture";
            eprintln!("replay with: KWIK_SEED={} {command}", self.0);
        }
    }
}

fn shape(rng: &mut Rng, lossy: bool) -> Shape {
    let rates = [1, 5, 20, 50, 200];
    let mut shape = Shape::rate_mbit(rates[rng.usize(..rates.len())])
        .delay(ms(rng.u64(0..60)))
        .queue(ms(rng.u64(20..200)));
    if rng.u8(..4) == 0 {
        shape = shape.jitter(ms(rng.u64(0..20))).reorder(rng.f64() * 0.05);
    }
    if rng.u8(..4) == 0 {
        shape = shape.duplicate(rng.f64() * 0.05).corrupt(rng.f64() * 0.01);
    }
    if lossy && rng.bool() {
        shape = shape.loss(rng.f64() * 0.2);
    } else if lossy {
        shape = shape.bursts(rng.f64() * 0.02, 0.2 + rng.f64() * 0.5);
    }
    if rng.u8(..8) == 0 {
        shape = shape.mtu(rng.usize(1280..1500));
    }
    shape
}

fn faults(rng: &mut Rng, servers: usize) -> Vec<(Duration, Fault)> {
    let mut faults = Vec::new();
    for _ in 0..rng.usize(..4) {
        let server = rng.usize(..servers);
        // The primary is the session: most scenarios leave it alone.
        if server == 0 && rng.u8(..4) > 0 {
            continue;
        }
        let at = ms(rng.u64(0..3000));
        let until = at + ms(rng.u64(50..12_000));
        let mut pair = |fault, end| faults.extend([(at, fault), (until, end)]);
        match rng.u8(..7) {
            0 => pair(Fault::Crash(server), Fault::Start(server)),
            1 => pair(Fault::Freeze(server), Fault::Thaw(server)),
            2 => pair(Fault::Cut(server), Fault::Mend(server)),
            3 => pair(Fault::CutUp(server), Fault::Mend(server)),
            4 => pair(Fault::CutDown(server), Fault::Mend(server)),
            5 => pair(Fault::Slow(server, rng.u64(2..50)), Fault::Mend(server)),
            _ if server > 0 => pair(Fault::Leave(server), Fault::Join(server)),
            _ => {}
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fetches(rng: &mut Rng, servers: usize) -> Vec<Fetch> {
    let streams = [1, 2, 4, 16, 64][rng.usize(..5)];
    let most = 400_000 / streams;
    let fetch = |tag| {
        let kind = match rng.u8(..8) {
            0..4 => Kind::Leased,
            4 if servers > 1 => Kind::LeasedToEdges,
            5 => Kind::Upload,
            _ => Kind::Plain,
        };
        let request = Request { kind, tag, len: rng.u64(0..most) };
        let slow = rng.u8(..5) == 0;
        let pace = slow.then(|| (rng.u64(1_000..50_000), ms(rng.u64(1..300))));
        Fetch { request, at: ms(rng.u64(0..1500)), pace }
    };
    (0..streams).map(fetch).collect()
}

pub(crate) fn scenario(seed: u64) -> Scenario {
    let mut rng = Rng::with_seed(seed);
    let servers = rng.usize(1..=5);
    let lossy = rng.bool();
    let mut links = Vec::new();
    for _ in 0..servers {
        let up = shape(&mut rng, lossy);
        let down = shape(&mut rng, lossy);
        links.push([up, down]);
    }
    let mut settings = Config::default();
    if rng.bool() {
        let window = 1 << rng.u32(20..23);
        settings.set_max_window(window).unwrap();
        settings.set_initial_window(window).unwrap();
    }
    let fetches = fetches(&mut rng, servers);
    let faults = faults(&mut rng, servers);
    Scenario { links, fetches, faults, settings, limit: Duration::from_secs(600), lossy }
}

/// Whether the fetches of a kind may fail.
fn may_fail(scenario: &Scenario, kind: Kind, error: &FetchError) -> bool {
    let hit = |server: usize| {
        scenario.faults.iter().any(|(_, fault)| match fault {
            Fault::Crash(hit) | Fault::Freeze(hit) | Fault::Cut(hit) => *hit == server,
            Fault::CutUp(hit) | Fault::CutDown(hit) | Fault::Leave(hit) => *hit == server,
            _ => false,
        })
    };
    let crashed = scenario.faults.iter().any(|(_, fault)| matches!(fault, Fault::Crash(0)));
    // QUIC itself gives up a handshake that hears nothing for long.
    let undialed = matches!(error, FetchError::Dial(_)) && (hit(0) || scenario.lossy);
    crashed || undialed || kind == Kind::LeasedToEdges && (1..scenario.links.len()).all(hit)
}

fn verify(scenario: &Scenario, outcome: &Outcome) {
    for (fetch, (at, result)) in scenario.fetches.iter().zip(&outcome.fetched) {
        if let Err(error) = result {
            let allowed = may_fail(scenario, fetch.request.kind, error);
            assert!(allowed, "{fetch:?} failed at {at:?}: {error:?}");
        }
    }
    assert_eq!(outcome.left, 0, "tasks that are left when the session is closed");
}

fn run(seed: u64) -> Outcome {
    let _replay = Replay(seed);
    let scenario = scenario(seed);
    let outcome = scenario.clone().run(seed);
    verify(&scenario, &outcome);
    outcome
}

#[derive(Debug, Default)]
struct Coverage {
    scenarios: u64,
    fetched: u64,
    failed: u64,
    packets: u64,
    lost: u64,
    virtual_time: Duration,
    waits_over_a_second: u64,
}

fn run_part(part: u64, parts: u64) {
    let scenarios = from_env("KWIK_NETWORKS").unwrap_or(SCENARIOS);
    let mut covered = Coverage::default();
    for seed in (0..scenarios).filter(|seed| seed % parts == part) {
        let outcome = run(seed);
        covered.scenarios += 1;
        for (_, result) in &outcome.fetched {
            match result {
                Ok(reading) => {
                    covered.fetched += 1;
                    let long = reading.longest_wait().0 > Duration::from_secs(1);
                    covered.waits_over_a_second += u64::from(long);
                }
                Err(_) => covered.failed += 1,
            }
        }
        covered.packets += outcome.trace.delivered;
        covered.lost += outcome.trace.lost;
        covered.virtual_time += outcome.took;
    }
    println!("{covered:#?}");
}

#[test]
fn even_seeds() {
    run_part(0, 2);
}

#[test]
fn odd_seeds() {
    run_part(1, 2);
}

#[test]
fn replay_one() {
    if let Some(seed) = from_env("KWIK_SEED") {
        let _replay = Replay(seed);
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
