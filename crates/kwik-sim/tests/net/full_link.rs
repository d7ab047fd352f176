//! One stream over one link with a deep queue, 100 Mbit/s, 20 ms, and 100 ms of queue, which QUIC's
//! slow start fills and overfills: from its first round trips on, the link never waits for KWIK.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kwik::{ClientConfig, Identity, QuicConfig, ServerConfig};
use kwik_sim::{Shape, Sim};

use crate::scenario::ms;

const PAYLOAD: usize = 24 << 20;
/// What a link with this rate needs for it, with the headers of QUIC, UDP and IP and those of KWIK.
const ON_THE_LINK: Duration = Duration::from_millis(2102);
/// The handshake, and slow start until the link is full: as long as bare QUIC needs.
const BEGINNING: Duration = Duration::from_millis(116);

/// From the call that dials to the read of the end.
fn transfer(seed: u64) -> Duration {
    let sim = Sim::new(seed);
    let (client, server) = (sim.host("client"), sim.host("server"));
    server.link(Shape::rate_mbit(100).delay(ms(10)).queue(ms(100)));
    let identity = Arc::new(Identity::from_seed([1; 32]));
    let config = ServerConfig::new(identity.clone());
    let listener = server.endpoint(4433, Some(config), &QuicConfig::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let dialer = client.endpoint(0, None, &QuicConfig::default()).unwrap();
    server.spawn(async move {
        let session = listener.accept().await.unwrap().await.unwrap();
        let mut stream = session.open_uni().await.unwrap();
        let chunk = Bytes::from(vec![7; 64 * 1024]);
        for _ in 0..PAYLOAD / chunk.len() {
            stream.write_chunk(chunk.clone()).await.unwrap();
        }
        stream.finish().unwrap();
        session.closed().await;
    });
    let world = sim.clone();
    sim.block_on(async move {
        let dialed = world.now();
        let config = ClientConfig::pinned(identity.fingerprint());
        let session = dialer.connect_with(config, address, "").unwrap().await.unwrap();
        let mut stream = session.accept_uni().await.unwrap();
        let mut read = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX, true).await.unwrap() {
            read += chunk.bytes.len();
        }
        assert_eq!(read, PAYLOAD);
        let took = world.now() - dialed;
        session.close(0, b"");
        took
    })
}

#[test]
fn a_link_that_slow_start_overfills_is_never_idle() {
    for seed in 1..=8 {
        let took = transfer(seed);
        println!("seed {seed}: {took:?}");
        assert!(took <= ON_THE_LINK + BEGINNING, "seed {seed}: {took:?}");
    }
}
