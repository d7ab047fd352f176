//! What a server holds for clients that have lost their connections: 500 of them, or as many as
//! `KWIK_LOST` says. `KWIK_LOST=10000 cargo test -p kwik-transport --test lost -- --nocapture`
//! takes a minute of CPU.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;
#[path = "common/heap.rs"]
mod heap;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::hostile::{self, Peer};
use common::{address, identity, server, until};
use kwik::{Accepted, Code, Endpoint, Identity, PrimarySession, ServerConfig, SessionId};
use kwik_proto::limits;
use kwik_proto::wire::control::Resume;
use tokio::sync::mpsc;

/// What the server's application writes to each client, which acknowledges nothing of it.
const WRITTEN: usize = 16 * 1024;
/// What a session may cost besides: its machine, its tasks, what the application has of it.
const SESSION: usize = 64 * 1024;
/// Both endpoints, and what their last connections need to go.
const ENDPOINTS: usize = 16 * 1024 * 1024;

fn clients() -> usize {
    std::env::var("KWIK_LOST").map_or(500, |count| count.parse().unwrap())
}

fn key(at: usize) -> Identity {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(at as u64).to_be_bytes());
    Identity::from_seed(seed)
}

/// A server whose application writes to each client once.
struct Scene {
    server: Endpoint,
    dialer: quinn::Endpoint,
    sessions: mpsc::UnboundedReceiver<PrimarySession>,
    /// How many sessions have ended.
    ended: Arc<AtomicUsize>,
}

/// A client that is gone.
struct Lost {
    at: usize,
    session: SessionId,
    heard: u64,
}

impl Scene {
    fn new(config: ServerConfig) -> Self {
        let many = clients() * 2;
        let server = server(ServerConfig {
            max_sessions: many,
            max_network_sessions: many,
            resume_time: Duration::from_secs(600),
            ..config
        });
        let (tell, sessions) = mpsc::unbounded_channel();
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                if let Ok(Accepted::Primary(primary)) = incoming.accept_any().await {
                    tell.send(primary).unwrap();
                }
            }
        });
        Self { server, dialer: hostile::dialer(), sessions, ended: Arc::default() }
    }

    /// A client comes, is written to, and loses its connection.
    async fn come_and_go(&mut self, at: usize) -> Lost {
        let (key, address) = (key(at), address(&self.server));
        let (mut peer, session) = Peer::join_as(&self.dialer, address, &key).await;
        let primary = self.sessions.recv().await.unwrap();
        let mut stream = primary.session().open_uni().await.unwrap();
        stream.write_all(&[7; WRITTEN]).await.unwrap();
        peer.ping().await;
        let heard = peer.heard();
        peer.connection.close(0x4b02u32.into(), b"gone");
        let ended = self.ended.clone();
        tokio::spawn(async move {
            primary.session().closed().await;
            drop(stream);
            ended.fetch_add(1, Relaxed);
        });
        Lost { at, session, heard }
    }

    /// All of them, one after the other; what the heap holds of them then.
    async fn all(&mut self, kept: usize) -> (Vec<Lost>, usize) {
        let before = heap::live();
        let mut lost = Vec::new();
        for at in 0..clients() {
            lost.push(self.come_and_go(at).await);
        }
        until(|| self.ended.load(Relaxed) >= clients() - kept).await;
        self.dialer.wait_idle().await;
        // Of connections too: each is drained for a while.
        let bound = ENDPOINTS + kept * (SESSION + WRITTEN);
        let held = || heap::live().saturating_sub(before);
        let settled = tokio::time::timeout(Duration::from_secs(30), until(|| held() <= bound));
        settled.await.unwrap_or_else(|_| panic!("{} bytes on the heap, of {bound}", held()));
        (lost, held())
    }

    async fn resume(&self, lost: &Lost) -> Peer {
        let mut peer = Peer::dial(&self.dialer, address(&self.server)).await;
        let m = Resume { frame_id: lost.heard, attempt: 1, packets: Vec::new() };
        peer.ask_to_resume(&key(lost.at), lost.session, m).await;
        peer
    }
}

/// As many as may be are kept, whatever they hold.
#[tokio::test]
async fn lost_sessions_hold_no_more_than_their_bound() {
    let _turn = heap::TURN.lock().await;
    let count = clients();
    let mut scene = Scene::new(ServerConfig {
        max_lost_sessions: count,
        max_lost_memory: u64::MAX,
        ..ServerConfig::new(identity(0))
    });
    let (lost, held) = scene.all(count).await;
    println!("{count} lost sessions: {held} bytes, {} each", held / count);
    for lost in [&lost[0], &lost[count / 2], &lost[count - 1]] {
        let mut peer = scene.resume(lost).await;
        peer.hear_resumed(lost.heard).await;
        peer.ping().await;
    }
}

/// Memory that they hold is bounded too: those that were lost last are kept.
#[tokio::test]
async fn more_lost_sessions_than_their_memory_allows_make_room() {
    const MEMORY: u64 = 32 * 1024 * 1024;
    let _turn = heap::TURN.lock().await;
    let count = clients();
    let mut scene = Scene::new(ServerConfig {
        max_lost_sessions: count,
        max_lost_memory: MEMORY,
        ..ServerConfig::new(identity(0))
    });
    // Each counts with all that it may have to repeat.
    let most = MEMORY as usize / (limits::MAX_CONTROL_KEPT + WRITTEN);
    let (lost, held) = scene.all(most).await;
    println!("{count} lost sessions, {most} kept: {held} bytes of {MEMORY} and the endpoints");
    assert!(held <= MEMORY as usize + ENDPOINTS, "{held} bytes on the heap");
    let first = scene.resume(&lost[0]).await;
    first.expect(Code::SessionUnknown, "one too many").await;
    let last = &lost[count - 1];
    let mut peer = scene.resume(last).await;
    peer.hear_resumed(last.heard).await;
    peer.ping().await;
}
