//! Bulk of unequal priority over one link of 20 Mbit/s, which is far less than either could use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use kwik::{ClientConfig, Identity, Priority, QuicConfig, ServerConfig};
use kwik_sim::{Shape, Sim};

use crate::scenario::ms;

/// What arrived of a stream of each priority by then, in bytes; the first of them begins first.
fn arrived(priorities: [Priority; 2]) -> [u64; 2] {
    let sim = Sim::new(3);
    let (client, server) = (sim.host("client"), sim.host("server"));
    server.link(Shape::rate_mbit(20).delay(ms(20)).queue(ms(50)));
    let identity = Arc::new(Identity::from_seed([1; 32]));
    let config = ServerConfig::new(identity.clone());
    let listener = server.endpoint(4433, Some(config), &QuicConfig::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let dialer = client.endpoint(0, None, &QuicConfig::default()).unwrap();
    let (read, world) = (<[Arc<AtomicU64>; 2]>::default(), sim.clone());
    let (counted, reading) = (read.clone(), server.clone());
    server.spawn(async move {
        let session = listener.accept().await.unwrap().await.unwrap();
        while let Ok(mut stream) = session.accept_uni().await {
            let read = counted[usize::try_from(stream.id().index()).unwrap()].clone();
            reading.spawn(async move {
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                    read.fetch_add(chunk.bytes.len() as u64, Relaxed);
                }
            });
        }
    });
    sim.block_on(async move {
        let config = ClientConfig::pinned(identity.fingerprint());
        let session = dialer.connect_with(config, address, "").unwrap().await.unwrap();
        for priority in priorities {
            let mut stream = session.open_uni().await.unwrap();
            stream.set_priority(priority.into()).unwrap();
            let chunk = Bytes::from(vec![7; 64 * 1024]);
            client.spawn(async move { while stream.write_chunk(chunk.clone()).await.is_ok() {} });
            world.sleep(Duration::from_secs(1)).await;
        }
        world.sleep(Duration::from_secs(9)).await;
        session.close(0, b"");
    });
    read.map(|read| read.load(Relaxed))
}

#[test]
fn bulk_of_low_priority_gets_what_the_rest_leaves() {
    for priorities in [
        [Priority::Low, Priority::Normal],
        [Priority::Normal, Priority::High],
        [Priority::High, Priority::Critical],
    ] {
        let [lower, higher] = arrived(priorities);
        println!("{priorities:?}: {lower} and {higher} bytes");
        // It was alone for a second, and what QUIC had taken of it by then may take another.
        assert!(lower < 6_000_000 && higher > 15_000_000, "{priorities:?}: {lower} and {higher}");
    }
}

#[test]
fn bulk_of_equal_priority_takes_turns() {
    let [first, second] = arrived([Priority::Low; 2]);
    println!("{first} and {second} bytes");
    assert!(second > 7_000_000 && first > second, "{first} and {second}");
}
