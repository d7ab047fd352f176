//! What it costs to be watched: throughput and CPU on loopback with metrics, events and a page
//! open, beside the same without; and a scrape each second of many sessions.
//!
//! `cargo bench -p kwik-admin --bench observe -- [--rounds 11] [--mib 512] [--sessions 1000]
//! [--seconds 20]`

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a bench")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kwik::{ClientConfig, Endpoint, Identity, ServerConfig, Session};
use kwik_admin::{Admin, Bound, Place};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy)]
struct Options {
    /// Pairs of runs, one watched and one not.
    rounds: usize,
    /// Of a transfer.
    mib: usize,
    sessions: usize,
    /// How long they are scraped.
    seconds: u64,
}

impl Options {
    fn read() -> Self {
        let mut options = Self { rounds: 11, mib: 512, sessions: 1_000, seconds: 20 };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            let place = match name.as_str() {
                "--rounds" => &mut options.rounds,
                "--mib" => &mut options.mib,
                "--sessions" => &mut options.sessions,
                "--seconds" => {
                    options.seconds = given.next().unwrap().parse().unwrap();
                    continue;
                }
                // Cargo says so itself.
                _ => continue,
            };
            *place = given.next().unwrap().parse().unwrap();
        }
        options
    }
}

/// CPU time of this process.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
}

/// A server that sends what it is asked for, and a client of it.
struct Pair {
    server: Endpoint,
    client: Endpoint,
    config: ClientConfig,
    serving: JoinHandle<()>,
}

impl Pair {
    fn new() -> Self {
        let identity = Arc::new(Identity::from_seed([7; 32]));
        let config = ClientConfig::pinned(identity.fingerprint());
        let loopback = "127.0.0.1:0".parse().unwrap();
        let mut serves = ServerConfig::new(identity);
        (serves.max_sessions, serves.max_network_sessions) = (10_000, 10_000);
        let server = Endpoint::server(serves, loopback).unwrap();
        let client = Endpoint::client(loopback).unwrap();
        let accepting = server.clone();
        let serving = tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move {
                    let Ok(session) = incoming.await else { return };
                    while let Ok((mut send, mut recv)) = session.accept_bi().await {
                        let mut left = recv.read_u64().await.unwrap();
                        let part = [7; 64 * 1024];
                        while left > 0 {
                            let some = left.min(part.len() as u64);
                            let end = usize::try_from(some).unwrap();
                            send.write_all(&part[..end]).await.unwrap();
                            left -= some;
                        }
                        send.finish().unwrap();
                    }
                });
            }
        });
        Self { server, client, config, serving }
    }

    async fn connect(&self) -> Session {
        let address = self.server.local_addr().unwrap();
        let dial = self.client.connect_with(self.config.clone(), address, "");
        dial.unwrap().await.unwrap()
    }

    /// An interface that shows both ends.
    async fn watched(&self) -> (SocketAddr, JoinHandle<()>) {
        let place = Place::Tcp("127.0.0.1:0".parse().unwrap());
        let bound = Bound::new(&place).await.unwrap();
        let Some(Place::Tcp(address)) = bound.place() else { panic!("no port") };
        let admin = Admin::of(vec![self.server.clone(), self.client.clone()]);
        (address, tokio::spawn(async move { admin.run(&bound).await }))
    }

    async fn end(self) {
        self.serving.abort();
        self.client.close(0, b"");
        self.server.close(0, b"");
        self.client.wait_idle().await;
    }
}

async fn fetch(session: &Session, bytes: u64) {
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    send.write_all(&bytes.to_be_bytes()).await.unwrap();
    send.finish().unwrap();
    let (mut part, mut left) = (vec![0; 256 * 1024], bytes);
    while left > 0 {
        left -= recv.read(&mut part).await.unwrap().unwrap() as u64;
    }
}

async fn ask(address: SocketAddr, path: &str) -> usize {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{path}");
    answer.len()
}

/// Asks for what the page asks for each second, and follows events.
fn page(address: SocketAddr) -> [JoinHandle<()>; 2] {
    let looks = tokio::spawn(async move {
        loop {
            for path in ["/api/v1/sessions", "/api/v1/sessions/0-1", "/api/v1/alerts"] {
                ask(address, path).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let events = tokio::spawn(async move {
        ask(address, "/api/v1/events").await;
    });
    [looks, events]
}

/// Seconds, and seconds of CPU, of one transfer.
async fn transfer(watched: bool, bytes: u64) -> [f64; 2] {
    let pair = Pair::new();
    let admin = if watched { Some(pair.watched().await) } else { None };
    let session = pair.connect().await;
    // What a connection does at its start is no part of it.
    fetch(&session, 8 << 20).await;
    let open = admin.as_ref().map(|(address, _)| page(*address));
    let (began, used) = (Instant::now(), cpu());
    fetch(&session, bytes).await;
    let taken = [began.elapsed(), cpu().saturating_sub(used)].map(|time| time.as_secs_f64());
    open.into_iter().flatten().for_each(|task| task.abort());
    if let Some((_, task)) = admin {
        task.abort();
    }
    drop(session);
    pair.end().await;
    taken
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The median, and between what the rest lies: without that, nobody can say what it is worth.
fn spread(all: &[f64]) -> String {
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.3} ({least:.3} to {most:.3})", median(all.to_vec()))
}

async fn pairs(options: Options) {
    let bytes = (options.mib as u64) << 20;
    let (mut plain, mut watched) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        // In turn, so that what changes on the machine changes for both.
        for turn in [round % 2 == 0, round % 2 != 0] {
            let taken = transfer(turn, bytes).await;
            if turn { watched.push(taken) } else { plain.push(taken) }
        }
    }
    let mib = options.mib as f64;
    println!("| | not watched | watched, a page open | ratio of pairs: median (least to most) |");
    println!("|---|---:|---:|---:|");
    for (at, name) in [(0, "throughput, MiB/s"), (1, "CPU, ms a MiB")] {
        let figure = |taken: &[f64; 2]| match at {
            0 => mib / taken[0],
            _ => taken[1] * 1e3 / mib,
        };
        let of = |all: &[[f64; 2]]| all.iter().map(figure).collect::<Vec<_>>();
        let (plain, watched) = (of(&plain), of(&watched));
        let ratios = plain.iter().zip(&watched).map(|(plain, watched)| watched / plain);
        let ratios = spread(&ratios.collect::<Vec<_>>());
        println!("| {name} | {:.2} | {:.2} | {ratios} |", median(plain), median(watched));
    }
}

async fn scrapes(options: Options) {
    let pair = Pair::new();
    let (address, admin) = pair.watched().await;
    let mut sessions = Vec::new();
    for _ in 0..options.sessions {
        sessions.push(pair.connect().await);
    }
    // What came with the handshakes is over by then.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (mut size, mut alone, mut scraped) = (0, Vec::new(), Vec::new());
    let share = |used: Duration| (cpu() - used).as_secs_f64() * 100.0;
    // Of heartbeats and alerts, a second without a scrape and one with it in turn.
    for _ in 0..options.seconds {
        let used = cpu();
        tokio::time::sleep(Duration::from_secs(1)).await;
        alone.push(share(used));
        let (begun, used) = (Instant::now(), cpu());
        size = ask(address, "/metrics").await;
        tokio::time::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed())).await;
        scraped.push(share(used));
    }
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let (alone, scraped) = (mean(&alone), mean(&scraped));
    println!("\n| {} sessions at both ends | % of a core |\n|---|---:|", options.sessions);
    println!("| idle, watched | {alone:.2} |");
    println!("| scraped each second ({size} bytes) | {scraped:.2} |");
    println!("| of that, scrapes | {:.2} |", scraped - alone);
    admin.abort();
    drop(sessions);
    pair.end().await;
}

#[tokio::main]
async fn main() {
    let options = Options::read();
    pairs(options).await;
    scrapes(options).await;
}
