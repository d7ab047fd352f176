//! Streams that a session opens later start as fast as those of QUIC: a round trip of 100 ms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kwik::{ClientConfig, Endpoint, Identity, QuicConfig, SendStream, ServerConfig, Session};
use kwik_sim::{Host, Shape, Sim};

use crate::scenario::ms;

const RTT: Duration = Duration::from_millis(100);
/// More than a stream's floor.
const LEN: usize = 15_000;

/// A client and a server, a link apart.
struct Pair {
    sim: Sim,
    client: Host,
    server: Host,
    listener: Endpoint,
    dialer: Endpoint,
    address: SocketAddr,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(seed);
        let (client, server) = (sim.host("client"), sim.host("server"));
        server.link(Shape::rate_mbit(1000).delay(RTT / 2));
        let config = ServerConfig::new(Arc::new(identity()));
        let listener = server.endpoint(4433, Some(config), &QuicConfig::default()).unwrap();
        let dialer = client.endpoint(0, None, &QuicConfig::default()).unwrap();
        let address = listener.local_addr().unwrap();
        Self { sim, client, server, listener, dialer, address }
    }
}

fn identity() -> Identity {
    Identity::from_seed([1; 32])
}

async fn connect(dialer: &Endpoint, address: SocketAddr) -> Session {
    let config = ClientConfig::pinned(identity().fingerprint());
    dialer.connect_with(config, address, "").unwrap().await.unwrap()
}

async fn write(mut stream: SendStream, len: usize) {
    stream.write_all(&vec![7; len]).await.unwrap();
    stream.finish().unwrap();
    stream.stopped().await.unwrap();
}

#[test]
fn streams_that_are_opened_later_need_no_round_trip_for_credit() {
    let Pair { sim, client, server, listener, dialer, address } = Pair::new(5);
    let ends = Arc::<Mutex<BTreeMap<u64, Instant>>>::default();
    let (read, world, reading) = (ends.clone(), sim.clone(), server.clone());
    server.spawn(async move {
        let session = listener.accept().await.unwrap().await.unwrap();
        while let Ok(mut stream) = session.accept_uni().await {
            let (read, world) = (read.clone(), world.clone());
            reading.spawn(async move {
                stream.read_to_end(usize::MAX).await.unwrap();
                read.lock().unwrap().insert(stream.id().index(), world.now());
            });
        }
    });
    let world = sim.clone();
    sim.block_on(async move {
        let session = connect(&dialer, address).await;
        // QUIC's congestion window has room for what follows.
        write(session.open_uni().await.unwrap(), 2_000_000).await;
        let mut begun = BTreeMap::new();
        for burst in [1, 1, 1, 10, 1, 10, 10] {
            for _ in 0..burst {
                let stream = session.open_uni().await.unwrap();
                begun.insert(stream.id().index(), world.now());
                client.spawn(write(stream, LEN));
            }
            world.sleep(ms(1000)).await;
        }
        let ends = ends.lock().unwrap();
        let took = begun.iter().map(|(stream, at)| ends[stream] - *at).collect::<Vec<_>>();
        assert!(took.iter().all(|took| *took < RTT * 3 / 4), "{took:?}");
        session.close(0, b"");
    });
}

/// A byte leaves as soon as the handshake stands, as with QUIC: a round trip after the dial. Half a
/// round trip later it is there (2.1).
#[test]
fn the_first_byte_leaves_after_one_round_trip() {
    let Pair { sim, server, listener, dialer, address, .. } = Pair::new(6);
    let came = Arc::<Mutex<Option<Instant>>>::default();
    let (read, world) = (came.clone(), sim.clone());
    server.spawn(async move {
        let session = listener.accept().await.unwrap().await.unwrap();
        let mut stream = session.accept_uni().await.unwrap();
        stream.read_to_end(usize::MAX).await.unwrap();
        read.lock().unwrap().replace(world.now());
        session.closed().await;
    });
    let world = sim.clone();
    sim.block_on(async move {
        let began = world.now();
        let session = connect(&dialer, address).await;
        println!("connected after {:?}", world.now() - began);
        write(session.open_uni().await.unwrap(), 1).await;
        let took = came.lock().unwrap().unwrap() - began;
        println!("the first byte came after {took:?}");
        assert!(took < RTT * 3 / 2 + ms(5), "{took:?}");
        session.close(0, b"");
    });
}
