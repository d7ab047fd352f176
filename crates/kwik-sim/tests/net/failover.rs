//! What a reader sees when servers fail: links of 50, 100 and 200 Mbit/s with 40, 60 and 20 ms, queues of 50 ms.

use std::time::Duration;

use kwik_sim::{Shape, Sim};

use crate::cluster::{Cluster, Reading};

const OBJECT: u64 = 64_000_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Server, Mbit/s, round trip in ms.
const LINKS: [(u64, u64); 3] = [(50, 40), (100, 60), (200, 20)];

fn up(server: usize) -> Shape {
    let (rate, rtt) = LINKS[server];
    Shape::rate_mbit(rate).delay(ms(rtt / 2)).queue(ms(50))
}

/// Fetches; at `at`, `fail` happens.
fn run(seed: u64, at: Duration, fail: impl FnOnce(&Cluster) + Send + 'static) -> Reading {
    let sim = Sim::new(seed);
    let cluster = Cluster::new(&sim, 3, OBJECT);
    for (server, (_, rtt)) in LINKS.iter().enumerate() {
        cluster.servers[server].link_up(up(server));
        cluster.servers[server].link_down(Shape::default().delay(ms(rtt / 2)));
    }
    cluster.start_all();
    sim.at(at, {
        let cluster = cluster.clone();
        move || fail(&cluster)
    });
    sim.block_on(async move {
        let session = cluster.connect().await;
        cluster.fetch(&session).await.unwrap()
    })
}

fn report(name: &str, reading: &Reading) {
    let after = reading.longest_at - reading.began;
    println!(
        "{name}: {:?}, longest wait {:?} until {after:?}",
        reading.took(),
        reading.longest_wait
    );
}

#[test]
fn figures() {
    for seed in 0..3 {
        report("whole", &run(seed, ms(1), |_| {}));
        for edge in [1, 2] {
            report(
                &format!("crash {edge}"),
                &run(seed, ms(1000), move |c| c.servers[edge].crash()),
            );
            report(
                &format!("freeze {edge}"),
                &run(seed, ms(1000), move |c| c.servers[edge].freeze()),
            );
            report(
                &format!("tenth {edge}"),
                &run(seed, ms(1000), move |c| c.servers[edge].link_up(up(edge).slowed(10))),
            );
        }
    }
}
