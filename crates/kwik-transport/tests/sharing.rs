//! Logical streams over few QUIC streams (5.1 to 5.5), and priorities between them (8.5).

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]

mod common;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use common::hostile::{self, Peer};
use common::{
    LOOPBACK, Rng, Servers, client, fill, identity, object, open_with_a_byte, pair, serve_echo,
    server, settled, within,
};
use kwik::{
    ClientConfig, Config, Endpoint, PrimarySession, Priority, QuicConfig, ReadError, SendStream,
    ServerConfig, Session, WriteError,
};
use kwik_proto::limits::{MAX_POOLED, POOLED_IDLE};
use kwik_proto::wire::ControlMessage;
use tokio::io::AsyncReadExt as _;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// A session whose both ends share QUIC streams in this ratio.
async fn pair_of_ratio(ratio: u64) -> (Session, PrimarySession, Servers) {
    let mut settings = Config::default();
    settings.set_streams_per_quic_stream(ratio).unwrap();
    let config = ServerConfig { settings: settings.clone(), ..ServerConfig::new(identity(0)) };
    let servers = Servers { primary: server(config), edges: Vec::new() };
    let mut config = ClientConfig::pinned(identity(0).fingerprint());
    config.session.settings = settings;
    let (session, primary) = servers.connect_with(&client(), config).await;
    (session, primary, servers)
}

#[tokio::test]
async fn opening_a_stream_opens_no_quic_stream_and_the_peer_sees_it_all_the_same() {
    within(async {
        let (one, two, _kept) = pair().await;
        let mut opened = Vec::new();
        for _ in 0..8 {
            opened.push(one.open_bi().await.unwrap());
        }
        let mut far = Vec::new();
        for (send, _) in &opened {
            far.push(two.accept_bi().await.unwrap());
            assert_eq!(far.last().unwrap().0.id(), send.id());
        }
        assert_eq!((one.stats().quic_streams.opened, two.stats().quic_streams.opened), (0, 0));
        // The first byte of any opens one for all of them.
        opened[3].0.write_all(b"x").await.unwrap();
        assert_eq!(one.stats().quic_streams.opened, 1);
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_counts_sees_no_quic_stream_before_the_first_byte() {
    within(async {
        let servers = Servers::new(0);
        let endpoint = hostile::dialer();
        let address = servers.primary.local_addr().unwrap();
        let accept = async { servers.primary.accept().await.unwrap().await.unwrap() };
        let (mut peer, session) = tokio::join!(Peer::join(&endpoint, address), accept);
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(session.open_uni().await.unwrap());
        }
        while !matches!(peer.hear().await, ControlMessage::StreamCreateNotification(_)) {}
        let none = timeout(Duration::from_millis(100), peer.connection.accept_uni()).await;
        assert!(none.is_err(), "a QUIC stream for nothing");
        for stream in &mut streams {
            stream.write_all(b"x").await.unwrap();
        }
        peer.connection.accept_uni().await.unwrap();
        let none = timeout(Duration::from_millis(100), peer.connection.accept_uni()).await;
        assert!(none.is_err(), "three streams fit on one");
    })
    .await;
}

#[tokio::test]
async fn streams_share_as_the_ratio_says() {
    within(async {
        for (ratio, count) in [(1, 8), (3, 3), (4, 2)] {
            let (session, _primary, _servers) = pair_of_ratio(ratio).await;
            // The first answer states how many streams there may be.
            session.open_bi().await.unwrap().0.write_all(b"x").await.unwrap();
            let held = open_with_a_byte(&session, 8).await;
            assert_eq!(session.stats().quic_streams.open, count, "ratio {ratio}");
            drop(held);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_quic_streams_write_at_once() {
    within(async {
        let (session, primary, _servers) = pair_of_ratio(1).await;
        let mut held = open_with_a_byte(&session, 100).await;
        assert!(session.stats().quic_streams.open <= MAX_POOLED, "{:?}", session.stats());
        let mut far = Vec::new();
        for near in &mut held {
            let mut stream = primary.session().accept_uni().await.unwrap();
            assert_eq!(stream.read_chunk(10, true).await.unwrap().unwrap().bytes, &b"x"[..]);
            near.write_chunk(object(0..5_000)).await.unwrap();
            near.finish().unwrap();
            far.push(stream);
        }
        for mut stream in far {
            assert!(stream.read_to_end(5_000).await.unwrap() == object(0..5_000));
        }
        settled(&session, primary.session()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_stalls_none_that_shares_with_it() {
    within(async {
        let (one, two, _kept) = pair().await;
        let size = 60_000;
        let write = |mut stream: SendStream| async move {
            stream.write_all_chunks(&mut [object(0..1000), object(1000..size)]).await?;
            stream.finish().ok();
            Ok::<_, WriteError>(())
        };
        let mut unread = one.open_uni().await.unwrap();
        unread.write_all(b"never read").await.unwrap();
        let unread = tokio::spawn(write(unread));
        let kept = two.accept_uni().await.unwrap();
        let mut writing = Vec::new();
        let mut reading = Vec::new();
        for _ in 0..63 {
            writing.push(tokio::spawn(write(one.open_uni().await.unwrap())));
            let mut stream = two.accept_uni().await.unwrap();
            reading.push(tokio::spawn(async move { stream.read_to_end(1 << 20).await.unwrap() }));
        }
        for read in reading {
            assert!(read.await.unwrap() == object(0..size));
        }
        for written in writing {
            written.await.unwrap().unwrap();
        }
        assert!(one.stats().quic_streams.opened <= 16, "{:?}", one.stats());
        drop(kept);
        assert!(matches!(unread.await.unwrap(), Ok(()) | Err(WriteError::Stopped(0))));
        settled(&one, &two).await;
    })
    .await;
}

#[tokio::test]
async fn bulk_has_a_quic_stream_of_its_own() {
    within(async {
        let (one, two, _kept) = pair().await;
        let mut held = open_with_a_byte(&one, 4).await;
        assert_eq!(one.stats().quic_streams.open, 1);
        let mut far = two.accept_uni().await.unwrap();
        let reading = tokio::spawn(async move { far.read_to_end(1 << 22).await.unwrap().len() });
        held[0].write_chunk(object(0..1_000_000)).await.unwrap();
        assert_eq!(one.stats().quic_streams.open, 2);
        held[0].finish().unwrap();
        assert_eq!(reading.await.unwrap(), 1_000_001);
    })
    .await;
}

#[tokio::test]
async fn bulk_that_was_acknowledged_shares_again() {
    within(async {
        let (one, two, _kept) = pair().await;
        let mut held = open_with_a_byte(&one, 4).await;
        let mut far = two.accept_uni().await.unwrap();
        tokio::spawn(async move { far.read_to_end(1 << 22).await });
        held[0].write_chunk(object(0..1_000_000)).await.unwrap();
        assert_eq!(one.stats().quic_streams.open, 2);
        while one.stats().unacknowledged > 0 {
            sleep(Duration::from_millis(5)).await;
        }
        held[0].write_all(b"x").await.unwrap();
        held.extend(open_with_a_byte(&one, 4).await);
        assert_eq!(one.stats().quic_streams.open, 2, "eight writers, four a QUIC stream");
    })
    .await;
}

#[tokio::test]
async fn quic_streams_are_retired_when_traffic_falls() {
    within(async {
        let (one, two, _kept) = pair().await;
        let held = open_with_a_byte(&one, 60).await;
        let most = one.stats().quic_streams.open;
        assert_eq!(most, 15);
        for _ in 0..held.len() {
            two.accept_uni().await.unwrap();
        }
        drop(held);
        assert_eq!(one.stats().quic_streams.open, most, "a burst may follow");
        settled(&one, &two).await;
        // No other call is made of the session.
        while one.stats().quic_streams.open > 0 {
            sleep(POOLED_IDLE / 10).await;
        }
        let held = open_with_a_byte(&one, 1).await;
        assert_eq!(one.stats().quic_streams.open, 1);
        drop(held);
    })
    .await;
}

#[tokio::test]
async fn a_reset_leaves_those_alone_that_share_with_it() {
    within(async {
        let servers = Servers::new(0);
        // What is reset has to be in the way of the others.
        let quic = QuicConfig { send_window: 20_000, ..QuicConfig::default() };
        let client = Endpoint::bind(LOOPBACK.parse().unwrap(), None, &quic).unwrap();
        let (one, primary) = servers.connect(&client).await;
        let mut held = open_with_a_byte(&one, 4).await;
        assert_eq!(one.stats().quic_streams.open, 1);
        for stream in &mut held[1..] {
            stream.write_chunk(object(0..7_000)).await.unwrap();
        }
        held[1].reset(7).unwrap();
        held[2].finish().unwrap();
        held[0].write_chunk(object(0..50_000)).await.unwrap();
        held[0].finish().unwrap();
        held[3].finish().unwrap();
        for at in 0..4 {
            let mut stream = primary.session().accept_uni().await.unwrap();
            let read = stream.read_to_end(1 << 20).await;
            match at {
                1 => assert!(matches!(read, Err(kwik::ReadToEndError::Read(ReadError::Reset(7))))),
                0 => assert_eq!(read.unwrap().len(), 50_001),
                _ => assert_eq!(read.unwrap().len(), 7_001),
            }
        }
        settled(&one, primary.session()).await;
    })
    .await;
}

/// Several tasks write several streams each, in parts of any size, with ends of any kind between
/// them; each stream is its own pattern.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_one_stream_shows_in_another() {
    within(async {
        for ratio in [1, 4, 7] {
            let (session, primary, _servers) = pair_of_ratio(ratio).await;
            let far = primary.session().clone();
            let reading = tokio::spawn(async move {
                let mut readers = Vec::new();
                for _ in 0..8 * 12 {
                    let mut stream = far.accept_uni().await.unwrap();
                    readers.push(tokio::spawn(async move {
                        // Where a stream's bytes begin in the object, it says first.
                        let mut start = [0; 8];
                        stream.read_exact(&mut start).await.unwrap();
                        let start = u64::from_be_bytes(start);
                        let read = stream.read_to_end(1 << 20).await.unwrap();
                        assert!(read == object(start..start + read.len() as u64));
                        read.len()
                    }));
                }
                let mut total = 0;
                for reader in readers {
                    total += reader.await.unwrap();
                }
                total
            });
            let mut writers = Vec::new();
            for task in 0..8u64 {
                let session = session.clone();
                writers.push(tokio::spawn(write_patterns(session, Rng(task * 31 + ratio))));
            }
            let mut written = 0;
            for writer in writers {
                written += writer.await.unwrap();
            }
            assert_eq!(reading.await.unwrap(), written);
            settled(&session, primary.session()).await;
        }
    })
    .await;
}

async fn write_patterns(session: Session, mut rng: Rng) -> usize {
    let mut total = 0;
    let mut streams = Vec::new();
    for _ in 0..12 {
        let mut stream = session.open_uni().await.unwrap();
        stream.set_priority(rng.below(3) as i32).unwrap();
        let start = rng.below(1 << 40);
        stream.write_all(&start.to_be_bytes()).await.unwrap();
        streams.push((stream, start));
    }
    for _ in 0..60 {
        let at = rng.below(12) as usize;
        let (stream, start) = &mut streams[at];
        let len = if rng.below(4) == 0 { rng.below(30_000) } else { rng.below(100) };
        let data = object(*start..*start + len);
        *start += len;
        total += data.len();
        let parts = data.len() / (1 + rng.below(5) as usize) + 1;
        let mut parts: Vec<Bytes> = data.chunks(parts).map(Bytes::copy_from_slice).collect();
        stream.write_all_chunks(&mut parts).await.unwrap();
        if rng.below(10) == 0 {
            stream.set_priority(rng.below(3) as i32).unwrap();
        }
    }
    total
}

#[tokio::test]
async fn priorities_are_those_of_quinn_and_have_names() {
    within(async {
        let (one, two, _kept) = pair().await;
        let mut stream = one.open_uni().await.unwrap();
        assert_eq!(stream.priority(), Ok(0));
        stream.set_priority(Priority::Critical.into()).unwrap();
        assert_eq!(stream.priority(), Ok(2));
        stream.write_all(b"x").await.unwrap();
        stream.set_priority(i32::MIN).unwrap();
        stream.write_all(b"y").await.unwrap();
        assert_eq!(one.stats().quic_streams.opened, 2, "only equal priorities share");
        stream.finish().unwrap();
        assert!(stream.priority().is_err() && stream.set_priority(0).is_err());
        let mut far = two.accept_uni().await.unwrap();
        assert_eq!(far.read_to_end(2).await.unwrap(), b"xy");
    })
    .await;
}

/// A link to `server` that carries some 4 MB/s towards the client and queues little: where to dial.
async fn slow_link(server: SocketAddr) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind(LOOPBACK).await.unwrap());
    let far = Arc::new(UdpSocket::bind(LOOPBACK).await.unwrap());
    let address = near.local_addr().unwrap();
    let (queue, mut queued) = mpsc::channel::<Vec<u8>>(64);
    let dialer = Arc::new(Mutex::new(None));
    let (from, known, out) = (near.clone(), dialer.clone(), far.clone());
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, peer)) = from.recv_from(&mut buffer).await {
            *known.lock().unwrap() = Some(peer);
            out.send_to(&buffer[..len], server).await.ok();
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, _)) = far.recv_from(&mut buffer).await {
            // A queue that is full drops, as a router's does.
            queue.try_send(buffer[..len].to_vec()).ok();
        }
    });
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(1)).await;
            for _ in 0..4 {
                let Ok(datagram) = queued.try_recv() else { break };
                let peer = dialer.lock().unwrap().unwrap();
                near.send_to(&datagram, peer).await.ok();
            }
        }
    });
    address
}

/// Bulk on streams and under leases has filled all that QUIC takes of it; an urgent message leaves
/// before most of what was written earlier.
#[tokio::test]
async fn an_urgent_message_overtakes_bulk_of_streams_and_leases() {
    within(async {
        const WINDOW: u64 = 1024 * 1024;
        let quic = QuicConfig { send_window: WINDOW, ..QuicConfig::default() };
        let config = ServerConfig { quic, ..ServerConfig::new(identity(0)) };
        let servers = Servers { primary: server(config), edges: Vec::new() };
        let link = slow_link(servers.primary.local_addr().unwrap()).await;
        let client = client();
        let config = ClientConfig::pinned(identity(0).fingerprint());
        let dial = async { client.connect_with(config, link, "").unwrap().await.unwrap() };
        let accept = async {
            match servers.primary.accept().await.unwrap().accept_any().await.unwrap() {
                kwik::Accepted::Primary(primary) => primary,
                kwik::Accepted::Secondary(_) => panic!("a client came as a secondary path"),
            }
        };
        let (session, primary) = tokio::join!(dial, accept);
        let far = primary.session().clone();
        let mut urgent = far.open_uni().await.unwrap();
        urgent.set_priority(Priority::High.into()).unwrap();
        urgent.write_all(b"0").await.unwrap();
        let mut urgent_far = session.accept_uni().await.unwrap();
        urgent_far.read_exact(&mut [0]).await.unwrap();
        let read = Arc::new(AtomicU64::new(0));
        for at in 0..6 {
            let mut stream = far.open_uni().await.unwrap();
            if at % 2 == 0 {
                let extent = stream.reserve(64 << 20).unwrap();
                let (_, writer) = primary.lease_own(stream.id(), extent).unwrap();
                tokio::spawn(fill(writer));
            }
            tokio::spawn(async move {
                let frame = object(0..50_000);
                while stream.write_chunk(frame.clone()).await.is_ok() {}
            });
            let mut stream = session.accept_uni().await.unwrap();
            let read = read.clone();
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
                    read.fetch_add(chunk.bytes.len() as u64, SeqCst);
                }
            });
        }
        while far.stats().unacknowledged < WINDOW / 2 {
            sleep(Duration::from_millis(5)).await;
        }
        let mut passed = Vec::new();
        for round in 1..=20u8 {
            sleep(Duration::from_millis(7)).await;
            let (earlier, before) = (far.stats().unacknowledged, read.load(SeqCst));
            urgent.write_all(&[round]).await.unwrap();
            let mut answer = [0];
            urgent_far.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[0], round);
            passed.push(earlier.saturating_sub(read.load(SeqCst) - before));
        }
        // What a lost datagram held up is not counted against it: the better half.
        passed.sort_unstable();
        assert!(passed[10] > WINDOW / 4, "bytes written earlier that arrived later: {passed:?}");
        session.close(0, b"");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_allows_few_quic_streams_has_them_shared() {
    within(async {
        let quic = QuicConfig { max_uni_streams: 2, ..QuicConfig::default() };
        let config = ServerConfig { quic, ..ServerConfig::new(identity(0)) };
        let servers = Servers { primary: server(config), edges: Vec::new() };
        let (session, primary) = servers.connect(&client()).await;
        serve_echo(primary.session().clone());
        let mut streams = Vec::new();
        for at in 0..40u8 {
            let (mut send, recv) = session.open_bi().await.unwrap();
            send.set_priority(i32::from(at % 3)).unwrap();
            send.write_all(&[at; 100]).await.unwrap();
            streams.push((send, recv));
        }
        for (at, (_, recv)) in streams.iter_mut().enumerate() {
            let mut answer = [0; 100];
            recv.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [at as u8; 100]);
        }
        assert_eq!(session.stats().quic_streams.open, 2);
    })
    .await;
}
