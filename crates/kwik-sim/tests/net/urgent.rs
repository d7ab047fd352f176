//! A small message of high priority on a session that is full both ways: 20 Mbit/s, a round trip
//! of 50 ms, and drop-tail queues of 50 ms, so that what is written last waits for one of them at
//! most.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik::{ClientConfig, Identity, Priority, QuicConfig, SendStream, ServerConfig, Session};
use kwik_sim::{Host, Shape, Sim};

use crate::scenario::ms;

const RTT: Duration = Duration::from_millis(50);
/// When the urgent messages begin: bulk has filled the queues.
const LOADED: Duration = Duration::from_secs(4);
const MESSAGES: u64 = 40;

const BULK: u8 = 0;
const URGENT: u8 = 1;

/// How long messages took from write to read, toward either side.
type Latencies = Arc<Mutex<[Vec<Duration>; 2]>>;

/// One end of the session.
#[derive(Clone)]
struct End {
    sim: Sim,
    host: Host,
    session: Session,
    bulk_streams: u64,
    priority: i32,
    latencies: Latencies,
    /// When a message was written: its place among them says which.
    written: Arc<Mutex<Vec<Instant>>>,
}

impl End {
    async fn bulk(mut stream: SendStream) {
        let chunk = Bytes::from(vec![BULK; 64 * 1024]);
        while stream.write_chunk(chunk.clone()).await.is_ok() {}
    }

    /// Fills the session, and sends urgent messages of 64 bytes and of 1 KiB in turns.
    async fn write(self) {
        for _ in 0..self.bulk_streams {
            self.host.spawn(Self::bulk(self.session.open_uni().await.unwrap()));
        }
        self.sim.sleep(LOADED).await;
        for at in 0..MESSAGES {
            let mut message = vec![URGENT; if at % 2 == 0 { 64 } else { 1024 }];
            message[1..9].copy_from_slice(&at.to_be_bytes());
            self.written.lock().unwrap().push(self.sim.now());
            let mut stream = self.session.open_uni().await.unwrap();
            stream.set_priority(self.priority).unwrap();
            stream.write_all(&message).await.unwrap();
            stream.finish().unwrap();
            self.sim.sleep(ms(131)).await;
        }
    }

    /// Reads all; `from` is the far end and `way` the messages' direction.
    async fn read(self, from: Arc<Mutex<Vec<Instant>>>, way: usize) {
        while let Ok(mut stream) = self.session.accept_uni().await {
            let (ours, from) = (self.clone(), from.clone());
            self.host.spawn(async move {
                let mut message = Vec::new();
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                    if chunk.bytes[0] == URGENT || !message.is_empty() {
                        message.extend_from_slice(&chunk.bytes);
                    }
                }
                if let Some(at) = message.get(1..9) {
                    let at = u64::from_be_bytes(at.try_into().unwrap());
                    let written = from.lock().unwrap()[at as usize];
                    ours.latencies.lock().unwrap()[way].push(ours.sim.now() - written);
                }
            });
        }
    }
}

/// The longest time that a message took, toward the server and toward the client.
fn slowest(seed: u64, bulk_streams: u64, priority: i32) -> [Duration; 2] {
    let sim = Sim::new(seed);
    let (client, server) = (sim.host("client"), sim.host("server"));
    server.link(Shape::rate_mbit(20).delay(RTT / 2).queue(RTT));
    let identity = Arc::new(Identity::from_seed([1; 32]));
    let config = ServerConfig::new(identity.clone());
    let listener = server.endpoint(4433, Some(config), &QuicConfig::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let dialer = client.endpoint(0, None, &QuicConfig::default()).unwrap();
    let latencies = Latencies::default();
    let written = [Arc::default(), Arc::default()];
    let (out, world) = (latencies.clone(), sim.clone());
    let far: Arc<Mutex<Option<Session>>> = Arc::default();
    let slot = far.clone();
    server.spawn(async move {
        let session = listener.accept().await.unwrap().await.unwrap();
        slot.lock().unwrap().replace(session);
        std::future::pending::<()>().await;
    });
    sim.block_on(async move {
        let config = ClientConfig::pinned(identity.fingerprint());
        let near = dialer.connect_with(config, address, "").unwrap().await.unwrap();
        world.sleep(ms(500)).await;
        let far = far.lock().unwrap().clone().unwrap();
        let end = |host: &Host, session: &Session, way: usize| End {
            sim: world.clone(),
            host: host.clone(),
            session: session.clone(),
            bulk_streams,
            priority,
            latencies: latencies.clone(),
            written: Arc::clone(&written[way]),
        };
        let ends = [end(&client, &near, 0), end(&server, &far, 1)];
        for (way, end) in ends.iter().enumerate() {
            end.host.spawn(end.clone().write());
            let other = &ends[1 - way];
            end.host.spawn(end.clone().read(other.written.clone(), 1 - way));
        }
        world.sleep(LOADED + ms(131) * MESSAGES as u32 + ms(2000)).await;
        near.close(0, b"");
    });
    let latencies = out.lock().unwrap();
    latencies.each_ref().map(|took| {
        assert_eq!(took.len() as u64, MESSAGES, "all of them arrive");
        *took.iter().max().unwrap()
    })
}

#[test]
fn an_urgent_message_on_a_full_session_arrives_within_two_round_trips() {
    for bulk_streams in [1, 16, 64] {
        let took = slowest(1, bulk_streams, Priority::Critical.into());
        println!("{bulk_streams} bulk streams: {took:?}");
        assert!(took.iter().all(|took| *took <= 2 * RTT), "{took:?} beside {bulk_streams} streams");
    }
}

#[test]
fn without_priority_a_small_message_waits_for_its_turn() {
    let took = slowest(1, 16, Priority::Normal.into());
    println!("without priority: {took:?}");
    assert!(took.iter().all(|took| *took > 4 * RTT), "{took:?}: nothing was in the way");
}
