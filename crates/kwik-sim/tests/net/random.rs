//! Random scenarios, each from its seed.

use std::time::Duration;

use fastrand::Rng;
use kwik::Config;
use kwik_sim::Shape;

use crate::cluster::{Kind, Request};
use crate::hostile::Crime;
use crate::scenario::{Fault, Fetch, Scenario, ms};

/// Bytes that a scenario fetches at most.
const MOST: u64 = 400_000;

/// Chance that a datagram is lost, at most.
const MOST_LOSS: f64 = 0.2;

/// Packets that each queue has room for.
const LEAST_QUEUE: u64 = 8;

fn shape(rng: &mut Rng, lossy: bool) -> Shape {
    // In tenths of Mbit/s.
    let rates = [2, 5, 10, 50, 200, 500, 2000];
    let rate = rates[rng.usize(..rates.len())];
    // A queue holds some packets, however slow its link is.
    let packets = ms(LEAST_QUEUE * 1500 * 8 / (rate * 100));
    let mut shape = Shape::default()
        .rate(rate * 100_000)
        .delay(ms(rng.u64(0..60)))
        .queue(ms(rng.u64(20..200)).max(packets));
    if rng.u8(..4) == 0 {
        shape = shape.jitter(ms(rng.u64(0..20))).reorder(rng.f64() * 0.05);
    }
    if rng.u8(..4) == 0 {
        shape = shape.duplicate(rng.f64() * 0.05).corrupt(rng.f64() * 0.01);
    }
    if lossy && rng.bool() {
        shape = shape.loss(rng.f64() * MOST_LOSS);
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
            _ if server > 0 => churn(rng, server, at, &mut faults),
            _ => {}
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// In half of the networks the primary's link is cut for 1 to 29 s, while most of them still have
/// something to fetch. Of chance of its own, so that the rest of a seed stays as it is.
fn long_cut(seed: u64, faults: &mut Vec<(Duration, Fault)>) {
    let mut rng = Rng::with_seed(seed ^ 0x7265_7375_6d65);
    if rng.bool() {
        let at = ms(rng.u64(300..1800));
        let until = at + ms(rng.u64(1_000..29_000));
        faults.extend([(at, Fault::Cut(0)), (until, Fault::Mend(0))]);
        faults.sort_by_key(|(at, _)| *at);
    }
}

/// A path goes and comes, up to three times.
fn churn(rng: &mut Rng, server: usize, at: Duration, faults: &mut Vec<(Duration, Fault)>) {
    let mut at = at;
    for _ in 0..rng.usize(1..=3) {
        let back = at + ms(rng.u64(50..3000));
        faults.extend([(at, Fault::Leave(server)), (back, Fault::Join(server))]);
        at = back + ms(rng.u64(50..1000));
    }
}

fn fetches(rng: &mut Rng, servers: usize) -> Vec<Fetch> {
    let streams = match rng.u8(..5) {
        0 => 1,
        1 | 2 => rng.u64(2..=8),
        3 => rng.u64(9..=32),
        _ => rng.u64(33..=64),
    };
    let fetch = |tag| {
        let kind = match rng.u8(..8) {
            0..4 => Kind::Leased,
            4 if servers > 1 => Kind::LeasedToEdges,
            5 => Kind::Upload,
            _ => Kind::Plain,
        };
        let request = Request { kind, tag, len: rng.u64(0..MOST / streams) };
        let slow = rng.u8(..5) == 0;
        let pace = slow.then(|| (rng.u64(1_000..50_000), ms(rng.u64(1..300))));
        Fetch { request, at: ms(rng.u64(0..1500)), pace }
    };
    (0..streams).map(fetch).collect()
}

fn settings(rng: &mut Rng) -> Config {
    let mut settings = Config::default();
    if rng.bool() {
        let window = 1 << rng.u32(20..23);
        settings.set_max_window(window).unwrap().set_initial_window(window).unwrap();
    }
    settings.set_streams_per_quic_stream([1, 4, 4, 64][rng.usize(..4)]).unwrap();
    settings.set_checksum(rng.u8(..4) == 0).unwrap().set_compression(rng.u8(..4) == 0).unwrap();
    settings
}

/// In one of five networks an edge does not serve, and may come back when it was given up.
fn hostile(
    rng: &mut Rng,
    servers: usize,
    faults: &mut Vec<(Duration, Fault)>,
) -> Option<(usize, Crime)> {
    // One in five of all: the quarter of those that have edges.
    if servers == 1 || rng.u8(..4) > 0 {
        return None;
    }
    let edge = rng.usize(1..servers);
    if rng.bool() {
        let at = ms(rng.u64(500..3000));
        churn(rng, edge, at, faults);
        faults.sort_by_key(|(at, _)| *at);
    }
    let mut crime = Crime::ALL[rng.usize(..Crime::FIRST)];
    if rng.u8(..5) == 0 {
        crime = Crime::ALL[rng.usize(Crime::FIRST..Crime::ALL.len())];
    }
    Some((edge, crime))
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
    let settings = settings(&mut rng);
    let fetches = fetches(&mut rng, servers);
    let mut faults = faults(&mut rng, servers);
    // A slow primary is still faster than 50 kbit/s: below, its connection may end.
    let most = (ms(240).as_nanos() / links[0][0].time_to_send(1500).as_nanos()) as u64;
    for (_, fault) in &mut faults {
        if let Fault::Slow(0, part) = fault {
            *part = (*part).min(most);
        }
    }
    long_cut(seed, &mut faults);
    let hostile = hostile(&mut rng, servers, &mut faults);
    let (limit, idle) = (Duration::from_secs(600), Duration::from_secs(30));
    Scenario { links, fetches, faults, settings, limit, lossy, hostile, idle }
}
