//! The merging socket: its policy, over a socket that fails when told, and over loopback.

mod train;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use kwik_proto::sync::lock;
use proptest::prelude::*;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit},
};
use tokio::task::yield_now;

use super::train::MAX_BYTES;
use super::*;

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7);
const OTHER: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 7);
const SEGMENT: usize = 1452;
const GSO: usize = 64;
static ZEROS: [u8; 2 * MAX_BYTES] = [0; 2 * MAX_BYTES];

/// `bytes` for [`PEER`] in datagrams of `segment`.
fn of(bytes: usize, segment: usize) -> Transmit<'static> {
    Transmit {
        destination: PEER,
        ecn: Some(EcnCodepoint::Ect0),
        contents: &ZEROS[..bytes],
        segment_size: (bytes > segment).then_some(segment),
        src_ip: None,
    }
}

fn full(segments: usize) -> Transmit<'static> {
    of(segments * SEGMENT, SEGMENT)
}

/// One datagram, as it left or arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Datagram {
    ecn: Option<EcnCodepoint>,
    contents: Vec<u8>,
}

fn datagrams(transmit: &Transmit<'_>) -> Vec<Datagram> {
    let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
    let datagram = |contents: &[u8]| Datagram { ecn: transmit.ecn, contents: contents.to_vec() };
    transmit.contents.chunks(segment).map(datagram).collect()
}

type Sent = BTreeMap<SocketAddr, Vec<Datagram>>;

/// A socket that keeps what is sent and fails as it is told.
#[derive(Debug)]
struct Fake {
    sent: Mutex<Sent>,
    sends: AtomicUsize,
    /// Sends that there is room for.
    room: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
    segments: AtomicUsize,
    /// The next send of several datagrams fails and ends segmentation.
    halts: AtomicBool,
    /// The next send fails.
    fails: AtomicBool,
    /// A send of several datagrams takes until this is free.
    gate: Mutex<()>,
}

impl Fake {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sent: Mutex::default(),
            sends: AtomicUsize::new(0),
            room: AtomicUsize::new(usize::MAX),
            waiting: Mutex::default(),
            segments: AtomicUsize::new(GSO),
            halts: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            gate: Mutex::default(),
        })
    }

    fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::Relaxed);
        lock(&self.waiting).drain(..).for_each(Waker::wake);
    }

    fn sends(&self) -> usize {
        self.sends.load(Ordering::Relaxed)
    }
}

impl AsyncUdpSocket for Fake {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(FakePoller(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.room.load(Ordering::Relaxed) == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room.fetch_sub(1, Ordering::Relaxed);
        if self.fails.swap(false, Ordering::Relaxed) {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        }
        let datagrams = datagrams(transmit);
        if datagrams.len() > 1 && self.halts.swap(false, Ordering::Relaxed) {
            self.segments.store(1, Ordering::Relaxed);
            return Ok(());
        }
        let _gate = (datagrams.len() > 1).then(|| lock(&self.gate));
        assert!(datagrams.len() <= self.max_transmit_segments());
        assert!(transmit.contents.len() <= MAX_BYTES);
        self.sends.fetch_add(1, Ordering::Relaxed);
        lock(&self.sent).entry(transmit.destination).or_default().extend(datagrams);
        Ok(())
    }

    fn poll_recv(
        &self,
        _cx: &mut Context<'_>,
        _bufs: &mut [IoSliceMut<'_>],
        _meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(PEER)
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct FakePoller(Arc<Fake>);

impl UdpPoller for FakePoller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.room.load(Ordering::Relaxed) > 0 {
            return Poll::Ready(Ok(()));
        }
        lock(&self.0.waiting).push(cx.waker().clone());
        Poll::Pending
    }
}

/// A merging socket over a fake one, its flusher waiting.
async fn over_fake() -> (Arc<MergingSocket>, Arc<Fake>) {
    let fake = Fake::new();
    let socket = MergingSocket::spawn(Arc::clone(&fake) as _, &Runtime::tokio());
    yield_now().await;
    (socket, fake)
}

/// Comes back after the tasks that are ready, as a connection's driver does.
async fn turn() {
    let mut woken = false;
    poll_fn(|cx| {
        if woken {
            return Poll::Ready(());
        }
        woken = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[tokio::test]
async fn sends_of_two_turns_of_a_driver_leave_as_one() {
    let (socket, fake) = over_fake().await;
    let (done, driven) = tokio::sync::oneshot::channel();
    Runtime::tokio().spawn(async move {
        socket.try_send(&full(10)).unwrap();
        socket.try_send(&full(10)).unwrap();
        turn().await;
        socket.try_send(&full(10)).unwrap();
        socket.try_send(&full(10)).unwrap();
        done.send(()).unwrap();
    });
    driven.await.unwrap();
    assert_eq!((lock(&fake.sent)[&PEER].len(), fake.sends()), (40, 1));
}

#[tokio::test]
async fn lone_full_transmit_leaves_after_one_turn() {
    let (socket, fake) = over_fake().await;
    socket.try_send(&full(10)).unwrap();
    assert_eq!(fake.sends(), 0);
    // The flusher's turn to see it, and the one to send it.
    yield_now().await;
    yield_now().await;
    assert_eq!(lock(&fake.sent)[&PEER].len(), 10);
}

#[tokio::test]
async fn what_finds_no_room_is_kept_and_leaves_when_there_is_some() {
    let (socket, fake) = over_fake().await;
    fake.set_room(0);
    for _ in 0..4 {
        socket.try_send(&full(10)).unwrap();
    }
    // Whatever comes behind it is refused, before and after the flusher's turns.
    for _ in 0..3 {
        for next in [full(10), full(1)] {
            assert_eq!(socket.try_send(&next).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        yield_now().await;
    }
    assert!(lock(&fake.sent).is_empty());
    fake.set_room(usize::MAX);
    yield_now().await;
    assert_eq!(lock(&fake.sent)[&PEER].len(), 40);
    assert_eq!(fake.sends(), 1);
}

#[tokio::test]
async fn loss_of_segmentation_costs_no_datagram() {
    let (socket, fake) = over_fake().await;
    fake.halts.store(true, Ordering::Relaxed);
    fake.set_room(20);
    for _ in 0..4 {
        socket.try_send(&full(10)).unwrap();
    }
    assert_eq!(socket.max_transmit_segments(), 1);
    assert_eq!(lock(&fake.sent)[&PEER].len(), 19);
    fake.set_room(usize::MAX);
    socket.try_send(&of(64, 64)).unwrap();
    let sizes: Vec<_> = lock(&fake.sent)[&PEER].iter().map(|sent| sent.contents.len()).collect();
    assert_eq!(sizes, [vec![SEGMENT; 40], vec![64]].concat());
}

#[tokio::test]
async fn error_of_a_deferred_send_is_nobody_elses() {
    let (socket, fake) = over_fake().await;
    socket.try_send(&full(10)).unwrap();
    fake.fails.store(true, Ordering::Relaxed);
    let elsewhere = Transmit { destination: OTHER, ..full(10) };
    socket.try_send(&elsewhere).unwrap();
    yield_now().await;
    yield_now().await;
    let sent = lock(&fake.sent);
    assert_eq!((sent.get(&PEER), sent[&OTHER].len()), (None, 10));
}

#[tokio::test]
async fn single_datagram_elsewhere_waits_for_no_other_send() {
    let (socket, fake) = over_fake().await;
    socket.try_send(&full(10)).unwrap();
    let gate = lock(&fake.gate);
    let (done, sent) = std::sync::mpsc::channel();
    let (bulk, ping) = (Arc::clone(&socket), Arc::clone(&socket));
    let (begun, begins) = std::sync::mpsc::channel();
    let held = std::thread::spawn(move || {
        begun.send(()).unwrap();
        bulk.try_send(&full(1)).unwrap();
    });
    begins.recv().unwrap();
    while socket.state.try_lock().is_ok() {
        std::thread::yield_now();
    }
    std::thread::spawn(move || {
        ping.try_send(&Transmit { destination: OTHER, ..of(64, SEGMENT) }).unwrap();
        done.send(()).unwrap();
    });
    sent.recv_timeout(Duration::from_secs(60)).expect("it waits for the other");
    drop(gate);
    held.join().unwrap();
    let sent = lock(&fake.sent);
    assert_eq!((sent[&PEER].len(), sent[&OTHER].len()), (11, 1));
}

#[tokio::test]
async fn dropped_socket_sends_what_waits_and_ends_its_task() {
    let (socket, fake) = over_fake().await;
    socket.try_send(&full(10)).unwrap();
    drop(socket);
    assert_eq!(lock(&fake.sent)[&PEER].len(), 10);
    yield_now().await;
    assert_eq!(Arc::strong_count(&fake), 1);
}

/// One step of a random run.
#[derive(Debug, Clone)]
enum Step {
    Send { peer: u16, segments: usize, segment: usize, tail: usize, ecn: u8 },
    Turn,
    Room(usize),
    Halt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let segments = prop_oneof![3 => Just(10), 1 => 1..=10_usize];
    let segment = prop_oneof![4 => Just(1200_usize), 1 => 100..1400_usize];
    let tail = prop_oneof![3 => Just(0_usize), 1 => 1..100_usize];
    let send = (0..2_u16, segments, segment, tail, prop_oneof![5 => Just(2_u8), 1 => 0..4_u8])
        .prop_map(|(peer, segments, segment, tail, ecn)| Step::Send {
            peer,
            segments,
            segment,
            tail,
            ecn,
        });
    let step = prop_oneof![
        16 => send,
        3 => Just(Step::Turn),
        2 => prop_oneof![0..3_usize, Just(1_000_000)].prop_map(Step::Room),
        1 => Just(Step::Halt),
    ];
    prop::collection::vec(step, 0..100)
}

/// Bytes that no other transmit has.
fn contents(number: usize, len: usize) -> Vec<u8> {
    number.to_be_bytes().into_iter().cycle().take(len).collect()
}

proptest! {
    #[test]
    fn every_datagram_leaves_once_in_order_with_its_mark(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (accepted, sent) = runtime.block_on(async {
            let (socket, fake) = over_fake().await;
            let mut accepted = Sent::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Send { peer, segments, segment, tail, ecn } => {
                        // As quinn: no more datagrams in one transmit than the socket takes.
                        let most = socket.max_transmit_segments();
                        let len = (segments.min(most) * segment - tail).max(1);
                        let transmit = Transmit {
                            destination: SocketAddr::new(PEER.ip(), peer),
                            ecn: EcnCodepoint::from_bits(ecn),
                            contents: &contents(number, len),
                            segment_size: (len > segment).then_some(segment),
                            src_ip: None,
                        };
                        if socket.try_send(&transmit).is_ok() {
                            let peer = accepted.entry(transmit.destination).or_default();
                            peer.extend(datagrams(&transmit));
                        }
                    }
                    Step::Turn => yield_now().await,
                    Step::Room(sends) => fake.set_room(sends),
                    Step::Halt => fake.segments.store(1, Ordering::Relaxed),
                }
            }
            fake.set_room(usize::MAX);
            yield_now().await;
            yield_now().await;
            let sent = lock(&fake.sent).clone();
            (accepted, sent)
        });
        prop_assert_eq!(accepted, sent);
    }
}

/// Receives `total` bytes on `socket`.
async fn receive(socket: &PlainSocket, total: usize) -> Vec<Datagram> {
    let mut buffer = vec![0; 64 * 1024 * BATCH_SIZE];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let (mut received, mut bytes) = (Vec::new(), 0);
    while bytes < total {
        let mut bufs: Vec<_> = buffer.chunks_mut(64 * 1024).map(IoSliceMut::new).collect();
        let filled = poll_fn(|cx| socket.poll_recv(cx, &mut bufs, &mut metas)).await.unwrap();
        for (meta, buf) in metas[..filled].iter().zip(&bufs) {
            let datagram =
                |contents: &[u8]| Datagram { ecn: meta.ecn, contents: contents.to_vec() };
            received.extend(buf[..meta.len].chunks(meta.stride).map(datagram));
            bytes += meta.len;
        }
    }
    received
}

fn bound(ip: IpAddr) -> (PlainSocket, SocketAddr) {
    let socket = std::net::UdpSocket::bind((ip, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (PlainSocket::new(socket).unwrap(), address)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let runtime = Runtime::tokio();
    let late = runtime.sleep_until(runtime.now() + Duration::from_secs(20));
    tokio::select! {
        output = future => output,
        () = late => panic!("a wake-up was lost"),
    }
}

fn merging(ip: IpAddr) -> Arc<MergingSocket> {
    MergingSocket::spawn(Arc::new(bound(ip).0), &Runtime::tokio())
}

#[tokio::test]
async fn lone_full_transmit_arrives_without_another_call() {
    for ip in [PEER.ip(), OTHER.ip()] {
        let (socket, (receiver, destination)) = (merging(ip), bound(ip));
        let transmit = Transmit { destination, ..full(10) };
        socket.try_send(&transmit).unwrap();
        let received = soon(receive(&receiver, transmit.contents.len())).await;
        assert_eq!(received, datagrams(&transmit));
    }
}

/// Random bursts over loopback, from a seed, to three receivers, one of them over IPv6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bursts_arrive_once_in_order_with_mark_and_size() {
    let sockets = [merging(PEER.ip()), merging(OTHER.ip())];
    let receivers = [bound(PEER.ip()), bound(PEER.ip()), bound(OTHER.ip())];
    let mut state = 1_u64;
    let mut random = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from((state >> 33) % bound).unwrap()
    };
    for number in 0..200 {
        let mut expected = [Vec::new(), Vec::new(), Vec::new()];
        // Few enough for the default buffers of the receivers.
        for part in 0..5 {
            let to = random(3);
            let segments = if random(3) > 0 { 10 } else { 1 + random(9) };
            let segment = [1200, 1200, 1200, 1452, 50 + random(1000)][random(5)];
            let len = segments * segment - [0, 0, random(40)][random(3)];
            let transmit = Transmit {
                destination: receivers[to].1,
                ecn: [Some(EcnCodepoint::Ect0), Some(EcnCodepoint::Ce)][random(8) / 7],
                contents: &contents(number * 5 + part, len),
                segment_size: (len > segment).then_some(segment),
                src_ip: None,
            };
            while sockets[to / 2].try_send(&transmit).is_err() {
                yield_now().await;
            }
            expected[to].extend(datagrams(&transmit));
        }
        for ((receiver, _), expected) in receivers.iter().zip(expected) {
            let total = expected.iter().map(|sent| sent.contents.len()).sum();
            let received = soon(receive(receiver, total)).await;
            assert!(received == expected, "burst {number}");
        }
    }
}

#[tokio::test]
async fn queue_longer_than_a_batch_is_read_to_its_end() {
    let (receiver, address) = bound(PEER.ip());
    let sender = std::net::UdpSocket::bind((PEER.ip(), 0)).unwrap();
    for _ in 0..3 {
        let total = 2 * BATCH_SIZE + 1;
        for _ in 0..total {
            sender.send_to(&[1; 8], address).unwrap();
        }
        assert_eq!(soon(receive(&receiver, 8 * total)).await.len(), total);
    }
}

/// Each datagram is sent as the receiver may be about to find the queue empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_datagram_is_left_unread() {
    let (receiver, address) = bound(PEER.ip());
    let sender = std::net::UdpSocket::bind((PEER.ip(), 0)).unwrap();
    let (permits, mut granted) = tokio::sync::mpsc::channel::<()>(4);
    Runtime::tokio().spawn(async move {
        while granted.recv().await.is_some() {
            sender.send_to(&[1; 8], address).unwrap();
        }
    });
    soon(async {
        for _ in 0..4 {
            permits.send(()).await.unwrap();
        }
        for _ in 0..20_000 {
            receive(&receiver, 8).await;
            permits.send(()).await.unwrap();
        }
    })
    .await;
}
