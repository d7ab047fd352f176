//! A full server: who gives way to whom, and when.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kwik::{
    ClientConfig, ConnectError, ConnectionError, Endpoint, Identity, QuicConfig, ServerConfig,
    Session,
};
use kwik_proto::limits;
use kwik_sim::{Host, Shape, Sim};

use crate::scenario::ms;

const SESSIONS: usize = 8;

/// A server of few sessions, which echoes every stream.
struct Scene {
    sim: Sim,
    identity: Arc<Identity>,
    address: SocketAddr,
    /// Each with an address of its own.
    clients: Vec<(Host, Endpoint)>,
}

impl Scene {
    fn new(clients: usize) -> Self {
        let sim = Sim::new(3);
        let server = sim.host("server");
        server.link(Shape::rate_mbit(100).delay(ms(10)));
        let identity = Arc::new(Identity::from_seed([1; 32]));
        let config = ServerConfig {
            max_sessions: SESSIONS,
            max_network_sessions: SESSIONS / 2,
            ..ServerConfig::new(identity.clone())
        };
        let listener = server.endpoint(4433, Some(config), &QuicConfig::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server.clone();
        server.spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let host = serving.clone();
                serving.spawn(async move {
                    if let Ok(session) = incoming.await {
                        echo_all(&host, &session).await;
                    }
                });
            }
        });
        let client = |at: usize| {
            let host = sim.host(&format!("client {at}"));
            let endpoint = host.endpoint(0, None, &QuicConfig::default()).unwrap();
            (host, endpoint)
        };
        let clients = (0..clients).map(client).collect();
        Self { sim, identity, address, clients }
    }

    /// A session of a client's, or why it was not let in.
    async fn enter(&self, client: usize) -> Result<Session, ConnectionError> {
        let config = ClientConfig::pinned(self.identity.fingerprint());
        let endpoint = &self.clients[client].1;
        let session = match endpoint.connect_with(config, self.address, "").unwrap().await {
            Ok(session) => session,
            Err(ConnectError::Connection(error)) => return Err(error),
            Err(error) => panic!("{error}"),
        };
        match echo(&session).await {
            true => Ok(session),
            false => Err(session.closed().await),
        }
    }
}

async fn echo_all(host: &Host, session: &Session) {
    while let Ok((mut send, mut recv)) = session.accept_bi().await {
        host.spawn(async move {
            while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
                if send.write_chunk(chunk.bytes).await.is_err() {
                    return;
                }
            }
            send.finish().ok();
        });
    }
}

/// Whether the server still answers.
async fn echo(session: &Session) -> bool {
    let Ok((mut send, mut recv)) = session.open_bi().await else { return false };
    if send.write_all(b"x").await.is_err() || send.finish().is_err() {
        return false;
    }
    recv.read_to_end(9).await.is_ok_and(|echoed| echoed == b"x")
}

#[test]
fn the_session_that_was_idle_for_longest_gives_way() {
    let scene = Scene::new(3);
    let sim = scene.sim.clone();
    sim.clone().block_on(async move {
        // Two networks take all that there is.
        let mut idle = Vec::new();
        for at in 0..SESSIONS {
            idle.push(scene.enter(at % 2).await.unwrap());
            sim.sleep(ms(10)).await;
        }
        assert_eq!(scene.enter(2).await.err(), Some(ConnectionError::Busy));
        sim.sleep(limits::SLOT_IDLE - ms(1_000)).await;
        // One of them is at work just now.
        assert!(echo(&idle[0]).await);
        sim.sleep(ms(2_000)).await;
        let late = scene.enter(2).await.unwrap();
        assert_eq!(idle[1].closed().await, ConnectionError::Busy);
        for session in idle.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, idle)| idle) {
            assert!(echo(session).await, "one goes for one");
        }
        assert!(echo(&late).await);
        // All have moved something since.
        assert_eq!(scene.enter(2).await.err(), Some(ConnectionError::Busy));
    });
}

#[test]
fn a_network_takes_no_more_from_others_than_its_share() {
    let scene = Scene::new(2);
    let sim = scene.sim.clone();
    sim.clone().block_on(async move {
        let honest = scene.enter(1).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..SESSIONS / 2 {
            idle.push(scene.enter(0).await.unwrap());
        }
        assert_eq!(scene.enter(0).await.err(), Some(ConnectionError::Busy));
        // Its own go first, although the honest one is older.
        sim.sleep(limits::SLOT_IDLE + ms(1_000)).await;
        idle.push(scene.enter(0).await.unwrap());
        assert_eq!(idle[0].closed().await, ConnectionError::Busy);
        assert!(echo(&honest).await);
    });
}

/// Idle sessions need not be old: those who have most of them make room for who comes alone.
#[test]
fn who_comes_alone_takes_the_place_of_an_idle_session_of_those_who_have_most() {
    let scene = Scene::new(5);
    let sim = scene.sim.clone();
    sim.clone().block_on(async move {
        let honest = scene.enter(3).await.unwrap();
        sim.sleep(ms(5_000)).await;
        let mut crowd = Vec::new();
        for at in 1..SESSIONS {
            crowd.push(scene.enter(at % 2).await.unwrap());
        }
        assert_eq!(scene.enter(2).await.err(), Some(ConnectionError::Busy));
        sim.sleep(limits::SLOT_CROWDED).await;
        let late = scene.enter(2).await.unwrap();
        // Network 1 has four, and came first; the honest one is older than all.
        assert_eq!(crowd[0].closed().await, ConnectionError::Busy);
        assert!(echo(&honest).await && echo(&late).await);
        // Three each, and one who is alone: as many networks as may be have some.
        sim.sleep(limits::SLOT_CROWDED).await;
        let later = scene.enter(4).await.unwrap();
        assert!(echo(&honest).await && echo(&late).await && echo(&later).await);
        // Two who have one each take nothing from each other so soon.
        let left = crowd.iter().filter(|session| session.close_reason().is_none()).count();
        assert_eq!(left, 5);
    });
}

#[test]
fn an_open_stream_keeps_its_place_for_longer_but_not_for_ever() {
    let scene = Scene::new(3);
    let sim = scene.sim.clone();
    sim.clone().block_on(async move {
        let (mut kept, mut streams) = (Vec::new(), Vec::new());
        for at in 0..SESSIONS {
            let session = scene.enter(at % 2).await.unwrap();
            let (mut send, recv) = session.open_bi().await.unwrap();
            send.write_all(b"x").await.unwrap();
            streams.push((send, recv));
            kept.push(session);
            sim.sleep(ms(10)).await;
        }
        sim.sleep(limits::SLOT_IDLE * 2).await;
        assert_eq!(scene.enter(2).await.err(), Some(ConnectionError::Busy));
        sim.sleep(limits::SLOT_STALLED).await;
        let late = scene.enter(2).await.unwrap();
        assert_eq!(kept[0].closed().await, ConnectionError::Busy);
        assert!(echo(&late).await);
    });
}

#[test]
fn a_session_at_work_is_never_let_go() {
    let scene = Scene::new(3);
    let sim = scene.sim.clone();
    sim.clone().block_on(async move {
        let honest = scene.enter(2).await.unwrap();
        let (mut send, mut recv) = honest.open_bi().await.unwrap();
        let mut crowd = Vec::new();
        for round in 0..200 {
            crowd.extend(scene.enter(round % 2).await);
            send.write_all(b"x").await.unwrap();
            assert!(recv.read_chunk(1, true).await.unwrap().is_some());
            sim.sleep(Duration::from_secs(1)).await;
        }
        assert!(crowd.len() > SESSIONS, "{} came in, one for another", crowd.len());
    });
}
