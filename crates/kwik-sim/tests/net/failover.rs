//! What a reader sees when servers fail.

use std::time::Duration;

use kwik_sim::{Shape, Sim};

use crate::cluster::Cluster;

#[test]
fn three_servers() {
    let sim = Sim::new(1);
    let cluster = Cluster::new(&sim, 3, 20_000_000);
    let ms = Duration::from_millis;
    for (server, (rate, rtt)) in cluster.servers.iter().zip([(200, 20), (50, 40), (100, 60)]) {
        server.link_up(Shape::rate_mbit(rate).delay(ms(rtt / 2)).queue(ms(50)));
        server.link_down(Shape::default().delay(ms(rtt / 2)));
    }
    cluster.start_all();
    let reading = sim.block_on(async move {
        let session = cluster.connect().await;
        cluster.fetch(&session).await.unwrap()
    });
    println!("{:?} longest {:?}", reading.took(), reading.longest_wait);
}
