//! Sessions that are taken up on another connection, by their clients and by nobody else.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::hostile::{self, Peer, introduction, visit};
use common::{LOOPBACK, address, client, identity, object, serve_clients, server, within};
use kwik::{ClientConfig, Code, Endpoint, Identity, PathId, ServerConfig, SessionId};
use kwik_proto::limits;
use kwik_proto::wire::ControlMessage;
use kwik_proto::wire::control::Resume;

const GONE: u64 = 0x4b02;

fn key(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn resume(handled: u64, attempt: u64) -> Resume {
    Resume { frame_id: handled, attempt, packets: Vec::new() }
}

/// A server that answers, and a client of it that is made by hand.
struct Scene {
    dialer: quinn::Endpoint,
    address: SocketAddr,
    _server: Endpoint,
}

impl Scene {
    fn new(config: ServerConfig) -> Self {
        let server = server(config);
        serve_clients(server.clone());
        Self { dialer: hostile::dialer(), address: address(&server), _server: server }
    }

    async fn join(&self, seed: u8) -> (Peer, SessionId) {
        let (mut peer, session) = Peer::join_as(&self.dialer, self.address, &key(seed)).await;
        peer.ping().await;
        (peer, session)
    }

    async fn dial(&self) -> Peer {
        Peer::dial(&self.dialer, self.address).await
    }

    /// The connection of a client breaks, and nothing else.
    fn lose(peer: &Peer) {
        peer.connection.close(u32::try_from(GONE).unwrap().into(), b"gone");
    }

    async fn take_up(&self, seed: u8, session: SessionId, m: Resume) -> Peer {
        let mut peer = self.dial().await;
        let handled = m.frame_id;
        peer.ask_to_resume(&key(seed), session, m).await;
        peer.hear_resumed(handled).await;
        peer
    }

    async fn refused(&self, seed: u8, session: SessionId, m: Resume, code: Code, what: &str) {
        let mut peer = self.dial().await;
        peer.ask_to_resume(&key(seed), session, m).await;
        peer.expect(code, what).await;
    }
}

#[tokio::test]
async fn who_is_not_the_client_or_says_what_cannot_be_takes_nothing_up() {
    within(async {
        let scene = Scene::new(ServerConfig::new(identity(0)));
        let (mut victim, session) = scene.join(1).await;
        let heard = victim.heard();
        let packets = |ids: &[std::ops::RangeInclusive<u64>]| Resume {
            packets: ids.to_vec(),
            ..resume(heard, 1)
        };
        let rows = [
            (2, session, resume(heard, 1), Code::AuthFailed, "another client"),
            (1, SessionId([7; 16]), resume(heard, 1), Code::ServerRestarted, "of another process"),
            (1, session, resume(heard, 0), Code::InvalidFrame, "from the past"),
            (1, session, resume(heard + 1000, 1), Code::InvalidFrame, "frames never sent"),
            (1, session, resume(u64::MAX, 1), Code::InvalidFrame, "frames beyond all measure"),
            (1, session, packets(&[1..=1]), Code::InvalidFrame, "packets never sent"),
            (1, session, packets(&[0..=0]), Code::InvalidFrame, "packet 0"),
            (
                1,
                session,
                packets(&[9..=limits::MAX_OFFSET]),
                Code::InvalidFrame,
                "packets without end",
            ),
        ];
        for (seed, session, m, code, what) in rows {
            scene.refused(seed, session, m, code, what).await;
            victim.ping().await;
        }
        // A proof that was made for another connection, and the key of the client without one.
        let other = scene.dial().await.exporter();
        let mut thief = scene.dial().await;
        thief.say(visit(&key(1), &other, session, PathId::PRIMARY, <_>::default())).await;
        thief.say(ControlMessage::Resume(resume(heard, 1))).await;
        thief.expect(Code::AuthFailed, "a stolen proof").await;
        // Something else where the session is to be taken up.
        let mut odd = scene.dial().await;
        odd.say(visit(&key(1), &odd.exporter(), session, PathId::PRIMARY, <_>::default())).await;
        odd.say(introduction(&key(1))).await;
        odd.expect(Code::InvalidFrame, "an introduction in its place").await;
        victim.ping().await;
    })
    .await;
}

#[tokio::test]
async fn a_session_goes_on_where_both_sides_were() {
    within(async {
        let scene = Scene::new(ServerConfig::new(identity(0)));
        let (peer, session) = scene.join(1).await;
        let heard = peer.heard();
        Scene::lose(&peer);
        let mut again = scene.take_up(1, session, resume(heard, 1)).await;
        again.ping().await;
        // The one before is not looked at any more, and the client's earlier words are refused.
        for attempt in [0, 1] {
            let heard = again.heard();
            let m = resume(heard, attempt);
            scene.refused(1, session, m, Code::InvalidFrame, "from the past").await;
        }
        again.ping().await;
        // Without that the connection was lost.
        let heard = again.heard();
        let mut third = scene.take_up(1, session, resume(heard, 7)).await;
        third.ping().await;
        again.expect(Code::PathDead, "replaced").await;
        third.ping().await;
    })
    .await;
}

#[tokio::test]
async fn of_two_that_take_up_at_once_one_has_the_session() {
    within(async {
        let scene = Scene::new(ServerConfig::new(identity(0)));
        let (peer, session) = scene.join(1).await;
        let heard = peer.heard();
        let (mut one, mut two) = (scene.dial().await, scene.dial().await);
        let (first, second) = (key(1), key(1));
        tokio::join!(
            one.ask_to_resume(&first, session, resume(heard, 1)),
            two.ask_to_resume(&second, session, resume(heard, 2))
        );
        two.hear_resumed(heard).await;
        two.ping().await;
        let (code, _) = one.closed().await;
        assert!(matches!(code, Some(Code::PathDead | Code::InvalidFrame)), "{code:?}");
        two.ping().await;
    })
    .await;
}

#[tokio::test]
async fn a_session_that_has_ended_is_not_known_any_more() {
    within(async {
        let keep = Duration::from_millis(100);
        let config = ServerConfig { resume_time: keep, ..ServerConfig::new(identity(0)) };
        let scene = Scene::new(config);
        let (closed, session) = scene.join(1).await;
        let heard = closed.heard();
        closed.connection.close(0u32.into(), b"");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let unknown = Code::SessionUnknown;
        scene.refused(1, session, resume(heard, 1), unknown, "closed by its client").await;
        let (lost, session) = scene.join(2).await;
        let heard = lost.heard();
        Scene::lose(&lost);
        tokio::time::sleep(10 * keep).await;
        scene.refused(2, session, resume(heard, 1), unknown, "lost for too long").await;
    })
    .await;
}

#[tokio::test]
async fn of_too_many_lost_sessions_those_end_that_were_lost_first() {
    within(async {
        let config = ServerConfig { max_lost_sessions: 3, ..ServerConfig::new(identity(0)) };
        let scene = Scene::new(config);
        let mut lost = Vec::new();
        for seed in 1..=8 {
            let (peer, session) = scene.join(seed).await;
            Scene::lose(&peer);
            tokio::time::sleep(Duration::from_millis(20)).await;
            lost.push((seed, session, peer.heard()));
        }
        for (seed, session, heard) in lost.drain(..5) {
            let m = resume(heard, 1);
            scene.refused(seed, session, m, Code::SessionUnknown, "one too many").await;
        }
        for (seed, session, heard) in lost {
            scene.take_up(seed, session, resume(heard, 1)).await.ping().await;
        }
    })
    .await;
}

/// An endpoint that is closed closes the sessions that have no connection too.
#[tokio::test]
async fn a_closed_endpoint_ends_the_sessions_that_wait_for_their_clients() {
    within(async {
        let server = server(ServerConfig::new(identity(0)));
        let accepting = tokio::spawn({
            let server = server.clone();
            async move { server.accept().await.unwrap().await.unwrap() }
        });
        let (peer, _) = Peer::join_as(&hostile::dialer(), address(&server), &key(1)).await;
        let session = accepting.await.unwrap();
        Scene::lose(&peer);
        // Lost, and not over.
        let early = tokio::time::timeout(Duration::from_millis(300), session.closed()).await;
        early.unwrap_err();
        session.send_datagram(b"lost".as_slice().into()).ok();
        assert_eq!(session.close_reason(), None);
        server.close(7, b"");
        assert_eq!(session.closed().await, kwik::ConnectionError::LocallyClosed);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_resumes_in_a_loop_is_held_up() {
    within(async {
        let scene = Scene::new(ServerConfig::new(identity(0)));
        let (peer, session) = scene.join(1).await;
        let heard = peer.heard();
        let mut taken = vec![peer];
        for attempt in 1..=limits::RESUME_BURST.into() {
            taken.push(scene.take_up(1, session, resume(heard, attempt)).await);
        }
        let next = u64::from(limits::RESUME_BURST) + 1;
        let m = resume(heard, next);
        scene.refused(1, session, m.clone(), Code::LimitExceeded, "too often").await;
        tokio::time::sleep(limits::RESUME_PERIOD * 2).await;
        scene.take_up(1, session, m).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_moves_to_another_socket_goes_on() {
    within(async {
        let server = server(ServerConfig::new(identity(0)));
        serve_clients(server.clone());
        let client = client();
        let config = ClientConfig::pinned(identity(0).fingerprint());
        let session = client.connect_with(config, address(&server), "").unwrap().await.unwrap();
        let before = client.local_addr().unwrap();
        let (mut send, mut recv) = session.open_bi().await.unwrap();
        let whole = object(0..3_000_000);
        let writing = async {
            for (at, part) in whole.chunks(100_000).enumerate() {
                if at % 10 == 5 {
                    client.rebind(UdpSocket::bind(LOOPBACK).unwrap()).unwrap();
                }
                send.write_all(part).await.unwrap();
            }
            send.finish().unwrap();
        };
        let (echoed, ()) = tokio::join!(recv.read_to_end(4_000_000), writing);
        assert!(echoed.unwrap() == whole);
        assert_ne!(client.local_addr().unwrap(), before);
    })
    .await;
}
