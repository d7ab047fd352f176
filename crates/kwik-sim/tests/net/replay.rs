//! The same seed is the same run, to the last packet.

use std::time::Duration;

use kwik_sim::{Shape, Sim, Trace};

use crate::cluster::Cluster;

fn run(seed: u64) -> (Trace, Duration) {
    let sim = Sim::new(seed);
    sim.keep_packets(100_000);
    let cluster = Cluster::new(&sim, 3, 1_000_000);
    for (server, rate) in cluster.servers.iter().zip([20, 50, 10]) {
        let shape = Shape::rate_mbit(rate).delay(Duration::from_millis(10)).loss(0.02);
        server.link(shape.jitter(Duration::from_millis(3)).reorder(0.01).duplicate(0.01));
    }
    cluster.start_all();
    let took = sim.block_on(async move {
        let session = cluster.connect().await;
        cluster.fetch(&session).await.unwrap().took()
    });
    (sim.trace(), took)
}

#[test]
fn one_seed_gives_one_trace_of_packets() {
    let (first, again) = (run(1), run(1));
    for (one, two) in first.0.packets.iter().zip(&again.0.packets) {
        assert_eq!(one, two, "{one} and {two}");
    }
    assert_eq!(first, again);
    assert!(first.0.delivered > 500, "{first:?}");
    assert_ne!(run(2).0.digest, first.0.digest);
}
