//! Who may come in when many want to: places for handshakes and sessions, and what others are told.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{address, echo, identity, serve_echo, within};
use kwik::{
    Accepted, ClientConfig, ConnectError, ConnectionError, Endpoint, ServerConfig, Session,
};
use kwik_proto::limits;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// A server of at most `sessions`, half of them from one network.
fn server(sessions: usize) -> Endpoint {
    common::server(ServerConfig {
        max_sessions: sessions,
        max_network_sessions: sessions / 2,
        ..ServerConfig::new(identity(0))
    })
}

/// Echoes for every client: how many attempts the application got to see.
fn serve(endpoint: Endpoint) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            count.fetch_add(1, Relaxed);
            tokio::spawn(async move {
                if let Ok(Accepted::Primary(primary)) = incoming.accept_any().await {
                    serve_echo(primary.session().clone());
                    primary.session().closed().await;
                }
            });
        }
    });
    seen
}

/// A client at an address of its own.
fn client_at(host: u8) -> Endpoint {
    Endpoint::client(SocketAddr::from(([127, 0, 0, host], 0))).unwrap()
}

async fn connect(client: &Endpoint, server: &Endpoint) -> Result<Session, ConnectError> {
    let config = ClientConfig::pinned(identity(0).fingerprint());
    client.connect_with(config, address(server), "").unwrap().await
}

/// A session that was let in.
async fn enter(client: &Endpoint, server: &Endpoint) -> Session {
    let session = connect(client, server).await.unwrap();
    echo(&session).await;
    session
}

/// First datagrams of clients that say nothing more.
async fn initials(count: usize) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = sink.local_addr().unwrap();
    let dialer = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let (mut dials, mut initials, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut buffer = [0; 2048];
    while initials.len() < count {
        let config = ClientConfig::pinned(identity(0).fingerprint());
        dials.push(dialer.connect_with(config, to, "").unwrap());
        let len = sink.recv(&mut buffer).await.unwrap();
        // Behind the version: a connection id with its length. A first datagram may be repeated.
        if ids.insert(buffer[5..14].to_vec()) {
            initials.push(buffer[..len].to_vec());
        }
    }
    initials
}

#[tokio::test]
async fn one_network_gets_its_share_and_is_told_when_that_is_taken() {
    within(async {
        let server = server(8);
        serve(server.clone());
        let (here, there) = (client_at(1), client_at(2));
        let mut sessions = Vec::new();
        for _ in 0..4 {
            sessions.push(enter(&here, &server).await);
        }
        // The client learns of it once it has said who it is.
        let refused = match connect(&here, &server).await {
            Ok(session) => session.closed().await,
            Err(ConnectError::Connection(error)) => error,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(refused, ConnectionError::Busy);
        assert_eq!(refused.to_string(), "the server is busy: try again");
        sessions.push(enter(&there, &server).await);
    })
    .await;
}

#[tokio::test]
async fn a_session_that_is_over_makes_room_at_once() {
    within(async {
        let server = server(2);
        serve(server.clone());
        let client = client_at(1);
        for _ in 0..10 {
            let session = enter(&client, &server).await;
            session.close(0, b"");
            client.wait_idle().await;
        }
    })
    .await;
}

#[tokio::test]
async fn silent_first_datagrams_take_a_share_of_the_handshakes_alone() {
    const SILENT: usize = 1_100;
    within(async {
        let server = server(1_024);
        let seen = serve(server.clone());
        let initials = initials(SILENT).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (mut buffer, mut asked) = ([0; 2048], 0);
        for initials in initials.chunks(50) {
            for datagram in initials {
                socket.send_to(datagram, address(&server)).await.unwrap();
            }
            // Others were asked to come again from where they are: a long header of type Retry
            // (RFC 9000 section 17.2.5).
            let answer = Duration::from_millis(20);
            while let Ok(len) = timeout(answer, socket.recv(&mut buffer)).await {
                asked += usize::from(len.unwrap() > 0 && buffer[0] & 0xf0 == 0xf0);
            }
        }
        let share = limits::MAX_HANDSHAKES / limits::UNVALIDATED_SHARE;
        assert_eq!(seen.load(Relaxed), share, "attempts that got a place");
        assert_eq!(asked, SILENT - share, "attempts that have to come again");
        // Honest clients come in while that goes on.
        let to = address(&server);
        let flood = tokio::spawn(async move {
            for initials in initials.chunks(100).cycle() {
                for datagram in initials {
                    socket.send_to(datagram, to).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        for _ in 0..3 {
            enter(&client_at(1), &server).await;
        }
        flood.abort();
        assert_eq!(seen.load(Relaxed), share + 3);
    })
    .await;
}

#[tokio::test]
async fn a_server_without_places_refuses_before_the_handshake() {
    within(async {
        let mut config = ServerConfig::new(identity(0));
        config.max_handshakes = 0;
        let server = common::server(config);
        serve(server.clone());
        let refused = connect(&client_at(1), &server).await.unwrap_err();
        assert_eq!(refused, ConnectionError::Busy.into());
    })
    .await;
}

/// The hello names so many protocols; QUIC's library and TLS hold some of it until it is whole.
#[tokio::test]
async fn a_hello_of_any_size_leaves_the_server_as_it_was() {
    within(async {
        let server = server(1_024);
        let seen = serve(server.clone());
        let dialer = common::hostile::dialer();
        for kib in [1, 16, 40, 60] {
            let protocols = (0..kib * 5).map(|at| format!("{at:0>200}").into_bytes()).collect();
            let shaking = common::hostile::handshake(&dialer, address(&server), protocols);
            // A hello that is too long is refused, or never answered.
            let shaken = timeout(Duration::from_secs(5), shaking).await;
            let is_in = matches!(shaken, Ok(Ok(_)));
            assert!(is_in || kib > 16, "{kib} KiB: {shaken:?}");
        }
        enter(&client_at(1), &server).await;
        assert!(seen.load(Relaxed) >= 2);
    })
    .await;
}

/// The victim of the attackers below, which bench/lab/flood.sh starts.
fn victim() -> SocketAddr {
    std::env::var("KWIK_VICTIM").expect("started by bench/lab/flood.sh").parse().unwrap()
}

fn number(name: &str) -> usize {
    std::env::var(name).expect("started by bench/lab/flood.sh").parse().unwrap()
}

/// First datagrams at a rate, from all addresses of a /24, to none of which answers get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by bench/lab/flood.sh"]
async fn silent_first_datagrams_at_a_rate() {
    let (to, rate) = (victim(), number("KWIK_RATE"));
    let [a, b, c, _] = std::env::var("KWIK_SOURCES").unwrap().parse::<Ipv4Addr>().unwrap().octets();
    let bind = |host| std::net::UdpSocket::bind((Ipv4Addr::new(a, b, c, host), 0)).unwrap();
    let sockets: Vec<_> = (0..=255).map(bind).collect();
    let initials = initials(rate).await;
    let mut datagrams = initials.iter().cycle().zip(sockets.iter().cycle());
    let (began, mut sent) = (Instant::now(), 0);
    loop {
        let due = began.elapsed().as_micros() as usize * rate / 1_000_000;
        // What is late by more than that is left out.
        sent = sent.max(due.saturating_sub(rate / 10));
        for (datagram, socket) in datagrams.by_ref().take(due.saturating_sub(sent)) {
            socket.send_to(datagram, to).ok();
            sent += 1;
            if sent.is_multiple_of(rate) {
                println!("-- sent {sent} in {:.1} s", began.elapsed().as_secs_f64());
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Sessions on which nothing happens. One that had to go comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by bench/lab/flood.sh"]
async fn idle_sessions_that_come_again() {
    let pin = std::env::var("KWIK_PIN").unwrap().parse().unwrap();
    let (to, client) = (victim(), Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap());
    let idle = Arc::new(AtomicUsize::new(0));
    for _ in 0..number("KWIK_IDLE") {
        let (client, idle) = (client.clone(), idle.clone());
        tokio::spawn(async move {
            loop {
                let dial = client.connect_with(ClientConfig::pinned(pin), to, "").unwrap();
                if let Ok(session) = dial.await {
                    idle.fetch_add(1, Relaxed);
                    session.closed().await;
                    idle.fetch_sub(1, Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
    }
    loop {
        println!("-- idle {}", idle.load(Relaxed));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
