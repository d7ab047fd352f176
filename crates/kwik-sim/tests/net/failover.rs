//! What a reader sees when servers fail: links of 50, 100 and 200 Mbit/s with 40, 60 and 20 ms,
//! queues of 50 ms. `KWIK_SEEDS=200` measures what docs/failover.md says.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kwik::{Config, PathId, PathStatus, Session};
use kwik_sim::{Shape, Sim};

use crate::cluster::{Cluster, Kind, Reading, Request};
use crate::scenario::ms;

/// What a task of a scenario leaves behind.
type Slot<T> = Arc<Mutex<Option<T>>>;

const OBJECT: u64 = 64_000_000;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Server, Mbit/s, round trip in ms.
const LINKS: [(u64, u64); 3] = [(50, 40), (100, 60), (200, 20)];

/// The link of a server with its rate divided by `part`.
fn up(server: usize, part: u64) -> Shape {
    let (rate, rtt) = LINKS[server];
    Shape::rate_mbit(rate).delay(ms(rtt / 2)).queue(ms(50)).slowed(part)
}

/// Three servers, on links with their rates divided by `part`.
fn cluster(seed: u64, part: u64) -> Cluster {
    let cluster = Cluster::new(&Sim::new(seed), 3);
    for (server, (_, rtt)) in LINKS.iter().enumerate() {
        cluster.servers[server].link_up(up(server, part));
        cluster.servers[server].link_down(Shape::default().delay(ms(rtt / 2)));
        cluster.start(server);
    }
    cluster
}

async fn connect(cluster: &Cluster) -> Session {
    cluster.connect(Config::default()).await.unwrap()
}

/// Fetches an object that every server holds.
async fn fetch(cluster: &Cluster, session: &Session, len: u64) -> Reading {
    let request = Request { kind: Kind::Leased, tag: 1, len };
    cluster.fetch(session, request, None).await.unwrap()
}

/// Bytes that came over each path of a session.
fn received(session: &Session) -> [u64; 3] {
    let mut received = [0; 3];
    for path in session.stats().paths {
        // An edge that left and came again has another path.
        received[(path.id.0 as usize).min(2)] += path.figures.received;
    }
    received
}

/// How a fetch went.
struct Outcome {
    reading: Reading,
    /// When something failed, from the first request on, and what had come by then.
    failed_at: Duration,
    received: [u64; 3],
    /// Bytes a second of each path before that.
    rates: [u64; 3],
}

/// Fetches; at `at`, `fail` happens.
fn run(seed: u64, at: Duration, fail: impl FnOnce(&Cluster) + Send + 'static) -> Outcome {
    const SPAN: Duration = Duration::from_millis(500);
    let cluster = cluster(seed, 1);
    let sim = cluster.sim.clone();
    let held: Slot<Session> = Slot::default();
    let figures: Arc<Mutex<Vec<[u64; 3]>>> = Arc::default();
    for time in [at, at + SPAN] {
        let (held, figures) = (held.clone(), figures.clone());
        sim.at(time, move || {
            let session = held.lock().unwrap().clone().unwrap();
            figures.lock().unwrap().push(received(&session));
        });
    }
    sim.at(at, {
        let cluster = cluster.clone();
        move || fail(&cluster)
    });
    let began = sim.now() + at;
    let reading = sim.block_on(async move {
        let session = connect(&cluster).await;
        held.lock().unwrap().replace(session.clone());
        fetch(&cluster, &session, OBJECT).await
    });
    let figures = figures.lock().unwrap();
    let span = |path: usize| (figures[1][path] - figures[0][path]) * 1000 / SPAN.as_millis() as u64;
    Outcome {
        failed_at: began - reading.began,
        reading,
        received: figures[0],
        rates: [span(0), span(1), span(2)],
    }
}

/// Small numbers of a seed: when something fails, and a little more.
fn failure_time(seed: u64) -> Duration {
    Duration::from_micros(fastrand::Rng::with_seed(seed).u64(900_000..1_100_000))
}

fn seeds() -> u64 {
    std::env::var("KWIK_SEEDS").map_or(2, |seeds| seeds.parse().expect("KWIK_SEEDS is a number"))
}

/// The value that all but one in a hundred do not pass.
fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * 99).div_ceil(100) - 1]
}

/// One edge and then the other fails in the middle, so that `part` of its rate is left: the reader
/// waits 250 ms at the most, and the whole ends within 5 % of what the links that are left allow.
fn fails(name: &str, part: Option<u64>, fail: fn(&Cluster, usize)) {
    let (mut waits, mut late, mut took) = <([Vec<f64>; 2], [Vec<f64>; 2], [f64; 2])>::default();
    for seed in 0..seeds() {
        let at = failure_time(seed);
        let whole = run(seed, at, |_| {});
        let left = OBJECT - whole.received.iter().sum::<u64>();
        for edge in [1, 2] {
            let mut rates = whole.rates;
            rates[edge] = part.map_or(0, |part| rates[edge] / part);
            let outcome = run(seed, at, move |cluster| fail(cluster, edge));
            let left = left as f64 / rates.iter().sum::<u64>() as f64;
            let possible = outcome.failed_at.as_secs_f64() + left;
            let all = outcome.reading.took().as_secs_f64();
            waits[edge - 1].push(outcome.reading.longest_wait().0.as_secs_f64());
            late[edge - 1].push(all / possible);
            took[edge - 1] += all / seeds() as f64;
        }
    }
    for (edge, (waits, late)) in waits.into_iter().zip(late).enumerate() {
        let (took, wait, late) = (took[edge], p99(waits), p99(late));
        let edge = edge + 1;
        println!(
            "{name} {edge}: {took:.3} s, p99 of longest waits {wait:.3} s, of lateness {late:.3}"
        );
        assert!(wait <= 0.250, "{name} {edge}: the reader waited {wait} s");
        assert!(late <= 1.05, "{name} {edge}: {late} of what is possible");
    }
}

#[test]
fn an_edge_that_is_killed_costs_a_moment() {
    fails("killed", None, |cluster, edge| cluster.servers[edge].crash());
}

#[test]
fn an_edge_that_only_stalls_costs_a_moment() {
    fails("stalled", None, |cluster, edge| cluster.servers[edge].freeze());
}

#[test]
fn an_edge_that_falls_to_a_tenth_of_its_rate_holds_nobody_up() {
    fails("slowed", Some(10), |cluster, edge| cluster.servers[edge].link_up(up(edge, 10)));
}

#[test]
fn a_run_without_failure_waits_for_no_more_than_lost_packets() {
    for seed in 0..seeds() {
        let reading = run(seed, failure_time(seed), |_| {}).reading;
        println!("whole: {:?}, longest wait {:?}", reading.took(), reading.longest_wait().0);
        assert!(reading.took() < ms(1_950), "{:?}", reading.took());
        // A lost packet is repeated after the round trip of 60 ms and a queue of 50 ms.
        assert!(reading.longest_wait().0 < ms(150), "{:?}", reading.longest_wait().0);
    }
}

const EDGE: PathId = PathId(1);

#[test]
fn an_edge_that_is_silent_for_long_comes_back() {
    let cluster = cluster(1, 10);
    let sim = cluster.sim.clone();
    let edge = cluster.servers[1].clone();
    sim.at(seconds(2), move || edge.freeze());
    let edge = cluster.servers[1].clone();
    sim.at(seconds(8), move || edge.thaw());
    let ours = cluster.clone();
    let (before, after) = sim.block_on(async move {
        let session = connect(&ours).await;
        let watched = session.clone();
        let reading = Arc::new(Mutex::new(None));
        let (slot, reader) = (reading.clone(), ours.clone());
        ours.client.spawn(async move {
            let read = fetch(&reader, &session, OBJECT).await;
            slot.lock().unwrap().replace(read);
        });
        ours.sim.sleep(seconds(9)).await;
        let before = received(&watched)[1];
        ours.sim.sleep(seconds(3)).await;
        let after = received(&watched)[1];
        ours.sim.sleep(seconds(20)).await;
        assert!(reading.lock().unwrap().is_some(), "the object came");
        (before, after)
    });
    let states = cluster.states(EDGE);
    let dead = states.iter().position(|status| *status == PathStatus::Dead).unwrap();
    assert_eq!(states[dead + 1], PathStatus::Active, "{states:?}");
    // 10 Mbit/s for 3 s.
    assert!(after - before > 2_500_000, "{} bytes after it came back", after - before);
}

#[test]
fn an_edge_that_crashed_and_is_back_at_once_is_dialed_within_two_seconds() {
    let cluster = cluster(7, 1);
    let sim = cluster.sim.clone();
    let ours = cluster.clone();
    sim.at(ms(500), move || ours.servers[1].crash());
    let ours = cluster.clone();
    sim.at(ms(510), move || ours.start(1));
    let ours = cluster;
    sim.block_on(async move {
        let session = connect(&ours).await;
        fetch(&ours, &session, OBJECT / 4).await;
        ours.sim.sleep(ms(1_500)).await;
        let states = ours.states(EDGE);
        assert!(states.ends_with(&[PathStatus::Dead, PathStatus::Active]), "{states:?}");
        let before = received(&session)[1];
        fetch(&ours, &session, OBJECT / 4).await;
        let brought = received(&session)[1] - before;
        assert!(brought > 1_000_000, "{brought} bytes came of it");
    });
}

#[test]
fn an_edge_that_crashed_and_started_anew_is_dialed_again() {
    let cluster = cluster(2, 1);
    let sim = cluster.sim.clone();
    let ours = cluster.clone();
    sim.at(ms(400), move || ours.servers[1].crash());
    let ours = cluster.clone();
    sim.at(seconds(5), move || ours.start(1));
    let ours = cluster;
    let brought = sim.block_on(async move {
        let session = connect(&ours).await;
        fetch(&ours, &session, OBJECT / 4).await;
        // Its connection times out 30 s after the last packet.
        ours.sim.sleep(seconds(40)).await;
        assert_eq!(ours.states(EDGE).last(), Some(&PathStatus::Active));
        fetch(&ours, &session, OBJECT / 4).await;
        received(&session)[1]
    });
    assert!(brought > 1_000_000, "{brought} bytes came of it");
}

#[test]
fn an_edge_that_never_comes_back_is_given_up() {
    let cluster = cluster(3, 1);
    let sim = cluster.sim.clone();
    let ours = cluster.clone();
    sim.at(ms(400), move || ours.servers[1].crash());
    let ours = cluster.clone();
    sim.block_on(async move {
        let session = connect(&ours).await;
        fetch(&ours, &session, OBJECT / 4).await;
        ours.sim.sleep(seconds(300)).await;
        fetch(&ours, &session, OBJECT / 4).await;
    });
    let last = cluster.events.lock().unwrap().pop().unwrap();
    assert!((last.path, last.status, last.ended) == (EDGE, PathStatus::Dead, true), "{last:?}");
}

#[test]
fn one_server_alone_may_be_silent_for_ten_seconds() {
    let sim = Sim::new(4);
    let cluster = Cluster::new(&sim, 1);
    cluster.servers[0].link_up(up(0, 1));
    cluster.start(0);
    let server = cluster.servers[0].clone();
    sim.at(seconds(1), move || server.cut(true));
    let server = cluster.servers[0].clone();
    sim.at(seconds(11), move || server.cut(false));
    let reading = sim.block_on(async move {
        let session = connect(&cluster).await;
        fetch(&cluster, &session, 20_000_000).await
    });
    println!("silent for 10 s: {:?}, waited {:?}", reading.took(), reading.longest_wait().0);
    assert!(reading.took() < seconds(30));
}

#[test]
fn a_path_that_is_removed_under_load_loses_nothing_and_sends_nothing_twice() {
    for edge in [1, 2] {
        let cluster = cluster(5, 1);
        let sim = cluster.sim.clone();
        let ours = cluster.clone();
        sim.at(ms(1000), move || ours.leave(edge));
        let held: Slot<Session> = Slot::default();
        let doubled: Arc<Mutex<Vec<u64>>> = Arc::default();
        for time in [999, 1500] {
            let (held, doubled) = (held.clone(), doubled.clone());
            sim.at(ms(time), move || {
                let stats = held.lock().unwrap().as_ref().unwrap().stats();
                doubled.lock().unwrap().push(stats.duplicates.received);
            });
        }
        let ours = cluster.clone();
        sim.block_on(async move {
            let session = connect(&ours).await;
            held.lock().unwrap().replace(session.clone());
            fetch(&ours, &session, OBJECT).await;
        });
        let states = cluster.states(PathId(edge as u32));
        assert_eq!(states[states.len() - 2..], [PathStatus::Disconnecting, PathStatus::Dead]);
        let doubled = doubled.lock().unwrap();
        assert_eq!(doubled[0], doubled[1], "bytes came twice for the removal");
    }
}

#[test]
fn a_path_that_is_added_under_load_carries_its_share_within_a_second() {
    let cluster = cluster(6, 1);
    let sim = cluster.sim.clone();
    let ours = cluster.clone();
    sim.at(ms(500), move || ours.leave(2));
    let ours = cluster.clone();
    sim.at(seconds(1), move || ours.join(2));
    let held: Slot<Session> = Slot::default();
    let figures: Arc<Mutex<Vec<[u64; 3]>>> = Arc::default();
    for time in [2000, 2500] {
        let (held, figures) = (held.clone(), figures.clone());
        sim.at(ms(time), move || {
            figures.lock().unwrap().push(received(held.lock().unwrap().as_ref().unwrap()));
        });
    }
    sim.block_on(async move {
        let session = connect(&cluster).await;
        held.lock().unwrap().replace(session.clone());
        fetch(&cluster, &session, 2 * OBJECT).await;
    });
    let figures = figures.lock().unwrap();
    let rate = (figures[1][2] - figures[0][2]) * 16;
    println!("added: {} Mbit/s of 200", rate / 1_000_000);
    assert!(rate > 180_000_000, "{rate} bit/s of 200 Mbit/s");
}
