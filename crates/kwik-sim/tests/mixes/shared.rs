//! Links that others use too: many clients of three servers, and one client's own access link.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use kwik_sim::Shape;

use crate::mix::{describe, link, ms};
use crate::network::{Kind, Link, Network, Reading};
use crate::report::{Row, cost, gain, report};
use crate::seeds::{measure, turn};
use crate::transfer::{QUIET, drained, limit};

/// All clients begin within this time.
const SPREAD_MS: u64 = 20;

/// How it went for all clients.
struct Crowd {
    /// From the first request to the last client's end, in seconds.
    took: f64,
    /// Stream bytes that clients received.
    received: u64,
    /// UDP payload that any host received since then.
    wire: u64,
}

/// So many clients fetch `len` bytes at once. Each has a link of its own of this shape.
fn crowd(
    seed: u64,
    links: &[Link],
    access: Shape,
    (clients, kind, len): (u64, Kind, u64),
) -> Crowd {
    let network = Network::new(seed, links);
    let limit = limit(links, len * clients);
    let mut rng = Rng::with_seed(seed);
    let sim = network.sim.clone();
    let crowd = sim.block_on(async move {
        let mut all = Vec::new();
        for _ in 0..clients {
            let client = network.client().await;
            client.host.link_down(access);
            all.push(client);
        }
        for client in &all {
            client.joined().await;
        }
        network.sim.sleep(QUIET).await;
        let (began, before) = (network.sim.now(), network.sim.trace().bytes);
        let readings: Arc<Mutex<Vec<Reading>>> = Arc::default();
        for client in &all {
            let delay = ms(rng.u64(0..SPREAD_MS));
            let (network, client, readings) = (network.clone(), client.clone(), readings.clone());
            client.host.clone().spawn(async move {
                network.sim.sleep(delay).await;
                let reading = client.fetch(kind, len).await;
                readings.lock().unwrap().push(reading);
            });
        }
        let end = network.sim.elapsed() + limit;
        while readings.lock().unwrap().len() < all.len() {
            assert!(network.sim.elapsed() < end, "{} end", readings.lock().unwrap().len());
            network.sim.sleep(Duration::from_millis(100)).await;
        }
        let wire = drained(&network, before).await;
        all.iter().for_each(|client| client.close());
        let readings = readings.lock().unwrap();
        let last = readings.iter().map(|reading| reading.last).max().unwrap();
        let paths = readings.iter().flat_map(|reading| &reading.stats.paths);
        let received = paths.map(|path| path.figures.received).sum();
        Crowd { took: (last - began).as_secs_f64(), received, wire }
    });
    sim.end();
    crowd
}

/// Three servers of 20 Mbit/s against one of 60 Mbit/s.
fn three(seed: u64, clients: u64, len: u64) -> Row {
    let links = [link(20_000_000, ms(20)); 3];
    let one = link(60_000_000, ms(20));
    let access = Shape::default();
    let leased = crowd(seed, &links, access, (clients, Kind::Leased, len));
    let plain = crowd(seed, &[one], access, (clients, Kind::Plain, len));
    let payload = (clients * len) as f64;
    let figures = vec![
        cost("bytes/payload", leased.received as f64 / payload),
        cost("time/one server", leased.took / plain.took),
        cost("wire/payload", leased.wire as f64 / payload),
        cost("one server: wire/payload", plain.wire as f64 / payload),
        cost("seconds", leased.took),
        cost("one server, seconds", plain.took),
    ];
    Row { seed, what: describe(&links), figures }
}

fn clients(count: u64, len: u64, (few, most): (u64, u64)) {
    let _turn = turn();
    let rows = measure(few, most, |seed| three(seed, count, len));
    assert!(report(&format!("{count} clients"), &rows), "bounds do not hold");
}

#[test]
fn shared_by_20() {
    clients(20, 5_000_000, (1, 4));
}

/// Only where `KWIK_MIXES` asks for it: it takes far longer than the others.
#[test]
fn shared_by_100() {
    clients(100, 1_000_000, (0, 2));
}

/// Three servers that are far faster than the client's access link of 100 Mbit/s.
#[test]
fn access_link() {
    let _turn = turn();
    let access = Shape::rate_mbit(100).queue(ms(50));
    let rows = measure(1, 4, |seed| {
        let links = [20, 40, 80].map(|rtt| link(1_000_000_000, ms(rtt)));
        let len = 50_000_000;
        let leased = crowd(seed, &links, access, (1, Kind::Leased, len));
        let plain = |link: &Link| crowd(seed, &[*link], access, (1, Kind::Plain, len)).took;
        let best = links.iter().map(plain).min_by(f64::total_cmp).unwrap();
        let figures = vec![
            gain("rate/best", best / leased.took),
            cost("bytes/payload", leased.received as f64 / len as f64),
            cost("seconds", leased.took),
        ];
        Row { seed, what: describe(&links), figures }
    });
    assert!(report("shared access link", &rows), "bounds do not hold");
}
