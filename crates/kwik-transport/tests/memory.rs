//! What peers that waste cost their victim: its live heap stays within the bound of its windows, and what
//! goes beyond the rules is cut off with its code (8.2, 3.3).
//!
//! The victim's heap is counted by an allocator of this test binary. The attacker runs in a process of its
//! own: the same binary, told by the environment which attack it is.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]
#![allow(clippy::cast_precision_loss, reason = "figures")]

mod common;

use std::alloc::System;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::hostile::{self, Peer, frame, numbered};
use common::{address, client, echo, identity, serve_echo, server};
use kwik::{Code, ConnectionError, Endpoint, RecvStream, ServerConfig, Session};
use kwik_proto::wire::pb::control as pb;
use kwik_proto::wire::pb::data::DataFrame;
use kwik_proto::wire::{ControlMessage, StreamKind};
use kwik_proto::{Dir, Side, StreamId, limits};
use prost::Message as _;
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One attack at a time: the heap is everybody's.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

const WINDOW: usize = 4 * 1024 * 1024;
const RECEIVE_WINDOW: usize = 2 * 1024 * 1024;
/// The bound of design §5: the session's window, its path's QUIC window, 2 MiB, and 10 %.
const BOUND: usize = (WINDOW + RECEIVE_WINDOW + limits::MAX_PINNED) * 11 / 10;

const ATTACK: &str = "KWIK_ATTACK";
const VICTIM: &str = "KWIK_VICTIM";

/// Bytes on the heap.
fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Watches the heap: its peak above what it was.
struct Watch {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
    baseline: usize,
}

impl Watch {
    fn start() -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, highest) = (stop.clone(), peak.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Relaxed) {
                highest.fetch_max(live(), Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { stop, peak, thread, baseline: live() }
    }

    fn stop(self) -> usize {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        self.peak.load(Relaxed).saturating_sub(self.baseline)
    }
}

/// A server with small windows.
fn victim() -> Endpoint {
    let mut config = ServerConfig::new(identity(0));
    let window = WINDOW as u64;
    config.settings.set_initial_window(window).unwrap().set_max_window(window).unwrap();
    config.quic.receive_window = RECEIVE_WINDOW as u64;
    server(config)
}

/// How the victim's application treats a stream of the attacker's.
#[derive(Clone, Copy)]
enum Reader {
    Reads,
    Holds,
    /// Holds every stream but the first.
    ReadsTheFirst,
}

async fn read(mut stream: RecvStream) {
    while let Ok(Some(_)) = stream.read_chunk(usize::MAX, true).await {}
}

async fn serve(session: Session, reader: Reader) {
    let mut held = Vec::new();
    while let Ok(stream) = session.accept_uni().await {
        match reader {
            Reader::Reads => drop(tokio::spawn(read(stream))),
            Reader::ReadsTheFirst if stream.id().index() == 0 => drop(tokio::spawn(read(stream))),
            Reader::Holds | Reader::ReadsTheFirst => held.push(stream),
        }
    }
}

/// Runs an attack in a process of its own, which checks how it ends.
async fn run_attacker(attack: &'static str, address: SocketAddr) {
    let run = tokio::task::spawn_blocking(move || {
        let this = std::env::current_exe().unwrap();
        let args = ["--exact", "attacker", "--ignored", "--nocapture"];
        let address = address.to_string();
        Command::new(this).args(args).env(ATTACK, attack).env(VICTIM, address).output()
    });
    let output = run.await.unwrap().unwrap();
    let said = [output.stderr, output.stdout].concat();
    assert!(output.status.success(), "{attack}: {}", String::from_utf8_lossy(&said));
}

/// An honest session with a victim, whose application serves every other session as `reader` says.
async fn scene(reader: Reader) -> (Endpoint, Endpoint, Session) {
    let (endpoint, own) = (victim(), client());
    let config = kwik::ClientConfig::pinned(endpoint.fingerprint().unwrap());
    let dialing = own.connect_with(config, address(&endpoint), "").unwrap();
    let accepting = async { endpoint.accept().await.unwrap().await.unwrap() };
    let (honest, served) = tokio::join!(dialing, accepting);
    let honest = honest.unwrap();
    serve_echo(served);
    echo(&honest).await;
    let accepted = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepted.accept().await {
            tokio::spawn(async move {
                if let Ok(session) = incoming.await {
                    serve(session, reader).await;
                }
            });
        }
    });
    (endpoint, own, honest)
}

/// Runs an attack on a victim with an honest session beside it.
async fn suffer(attack: &'static str, reader: Reader) {
    let _turn = TURN.lock().await;
    let (endpoint, _own, honest) = scene(reader).await;
    let address = address(&endpoint);

    let watch = Watch::start();
    run_attacker(attack, address).await;
    let peak = watch.stop();
    println!("{attack}: {peak} bytes of {BOUND} at the peak");
    assert!(peak <= BOUND, "{attack}: {peak} bytes on the heap, more than {BOUND}");
    echo(&honest).await;
    endpoint.close(0, b"");
    endpoint.wait_idle().await;
}

macro_rules! attacks {
    ($($(#[$doc:meta])* $name:ident: $reader:expr;)*) => {
        $($(#[$doc])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            suffer(stringify!($name), $reader).await;
        })*

        const ATTACKS: &[(&str, Reader)] = &[$((stringify!($name), $reader)),*];

        /// The other side of all the others, in a process of its own.
        #[tokio::test]
        #[ignore = "started by the others"]
        async fn attacker() {
            let (Ok(attack), Ok(address)) = (std::env::var(ATTACK), std::env::var(VICTIM)) else { return };
            let mut attacker = Attacker::join(address.parse().unwrap()).await;
            match attack.as_str() {
                $(stringify!($name) => tokio::time::timeout(Duration::from_secs(60), attacker.$name())
                    .await
                    .expect("the attack hangs"),)*
                other => panic!("no attack {other}"),
            }
        }
    };
}

attacks! {
    fragments_with_gaps_are_cut_off: Reader::Holds;
    gaps_in_many_streams_are_cut_off_together: Reader::Holds;
    half_a_million_fragments_that_fit_cost_little: Reader::Reads;
    gaps_all_over_the_window_cost_no_more: Reader::Holds;
    a_byte_withheld_for_ever_holds_the_window_and_no_more: Reader::Holds;
    slices_that_pin_receive_buffers_are_copied: Reader::ReadsTheFirst;
    a_million_empty_frames_are_cut_off: Reader::Reads;
    a_million_empty_packets_are_cut_off: Reader::Reads;
    opening_and_resetting_leaves_nothing: Reader::Reads;
    a_moving_final_size_is_cut_off: Reader::Holds;
    data_beyond_the_credit_is_cut_off: Reader::Holds;
    streams_beyond_the_limit_are_cut_off: Reader::Holds;
}

/// A peer that keeps to the handshake, and to what its attack asks of it.
struct Attacker {
    peer: Peer,
    data: quinn::SendStream,
    credit: BTreeMap<u64, u64>,
    streams: u64,
}

fn uni(index: u64) -> u64 {
    StreamId::new(Side::Client, Dir::Uni, index).as_u64()
}

impl Attacker {
    async fn join(address: SocketAddr) -> Self {
        let peer = Peer::join(&hostile::dialer(), address).await;
        let mut data = peer.connection.open_uni().await.unwrap();
        let mut kind = BytesMut::new();
        StreamKind::Data.encode(&mut kind);
        data.write_all(&kind).await.unwrap();
        Self { peer, data, credit: BTreeMap::new(), streams: limits::MAX_STREAMS }
    }

    /// Sends a packet of these frames; false once the victim has had enough.
    async fn send(&mut self, frames: Vec<DataFrame>) -> bool {
        let packet = numbered(frames);
        self.data.write_all(&packet.encode_length_delimited_to_vec()).await.is_ok()
    }

    /// Takes a control frame; whether it was a heartbeat.
    async fn hear(&mut self) -> bool {
        match self.peer.hear().await {
            ControlMessage::MaxStreamData(m) => {
                self.credit.insert(m.stream_id, m.maximum);
            }
            ControlMessage::MaxStreams(m) if m.unidirectional => self.streams = m.maximum,
            ControlMessage::Heartbeat(_) => return true,
            _ => {}
        }
        false
    }

    /// Opens a stream: the credit that it gets, which may be its floor.
    async fn open(&mut self, index: u64) -> u64 {
        self.peer
            .say(ControlMessage::StreamCreateNotification(pb::StreamCreateNotification {
                logical_stream_id: uni(index),
                ..<_>::default()
            }))
            .await;
        let ping = pb::Heartbeat { sequence: index, reply: false };
        self.peer.say(ControlMessage::Heartbeat(ping)).await;
        while !self.hear().await {}
        *self.credit.entry(uni(index)).or_insert(WINDOW as u64 / (6 * limits::MAX_STREAMS))
    }

    async fn wait_for_credit(&mut self, index: u64, end: u64) {
        while self.credit.get(&uni(index)).is_none_or(|credit| *credit < end) {
            self.hear().await;
        }
    }

    /// Sends a byte at each of these offsets of a stream.
    async fn send_bytes(&mut self, index: u64, offsets: impl Iterator<Item = u64>) -> bool {
        let mut offsets = offsets.peekable();
        while offsets.peek().is_some() {
            let some = offsets.by_ref().take(limits::MAX_PACKET_FRAMES);
            let one = |at| frame(uni(index), at, &b"x"[..], false);
            if !self.send(some.map(one).collect()).await {
                return false;
            }
        }
        true
    }

    async fn fragments_with_gaps_are_cut_off(&mut self) {
        self.open(0).await;
        self.send_bytes(0, (1..1_000_000).step_by(2)).await;
        self.peer.expect(Code::SecondaryStreamOverflow, "a gap too many").await;
    }

    async fn gaps_in_many_streams_are_cut_off_together(&mut self) {
        let most = limits::MAX_GAPS as u64;
        for index in 0..=limits::MAX_RUNS as u64 / (most - 1) {
            self.open(index).await;
            self.send_bytes(index, (1..2 * most - 1).step_by(2)).await;
        }
        self.peer.expect(Code::SecondaryStreamOverflow, "a run too many").await;
    }

    async fn half_a_million_fragments_that_fit_cost_little(&mut self) {
        self.open(0).await;
        for block in (0..500_000).step_by(2000) {
            let end = block + 2000;
            self.wait_for_credit(0, end).await;
            let offsets = (block + 1..end).step_by(2).chain((block..end).step_by(2));
            assert!(self.send_bytes(0, offsets).await);
        }
        self.leave().await;
    }

    async fn gaps_all_over_the_window_cost_no_more(&mut self) {
        // As many gaps as the session may have, spread over all that is granted, of large writes.
        for index in 0..16 {
            let end = self.open(index).await;
            let mut at = 1;
            while at + 1200 < end {
                let part = frame(uni(index), at, vec![7; 1199], false);
                assert!(self.send(vec![part]).await);
                at += 1200;
            }
        }
        self.leave().await;
    }

    async fn a_byte_withheld_for_ever_holds_the_window_and_no_more(&mut self) {
        for index in 0..limits::MAX_STREAMS {
            let end = self.open(index).await;
            let mut at = 1;
            while at < end {
                let next = end.min(at + 60_000);
                let part = frame(uni(index), at, vec![7; (next - at) as usize], false);
                assert!(self.send(vec![part]).await);
                at = next;
            }
        }
        self.leave().await;
    }

    async fn slices_that_pin_receive_buffers_are_copied(&mut self) {
        const KEPT: u64 = 1100;
        const READ: u64 = 30_000;
        self.open(0).await;
        let mut at = 0;
        for index in 1..=16 {
            let end = self.open(index).await;
            for kept in (0..end - KEPT).step_by(KEPT as usize) {
                self.wait_for_credit(0, at + READ).await;
                let slice = frame(uni(index), kept, vec![7; KEPT as usize], false);
                let rest = frame(uni(0), at, vec![7; READ as usize], false);
                assert!(self.send(vec![slice, rest]).await);
                at += READ;
            }
        }
        self.leave().await;
    }

    async fn a_million_empty_frames_are_cut_off(&mut self) {
        self.open(0).await;
        for _ in 0..1_000_000 / limits::MAX_PACKET_FRAMES {
            let frames = vec![frame(uni(0), 0, Bytes::new(), false); limits::MAX_PACKET_FRAMES];
            if !self.send(frames).await {
                break;
            }
        }
        self.peer.expect(Code::LimitExceeded, "empty frames").await;
    }

    async fn a_million_empty_packets_are_cut_off(&mut self) {
        self.open(0).await;
        for _ in 0..1_000_000 {
            if !self.send(Vec::new()).await {
                break;
            }
        }
        self.peer.expect(Code::LimitExceeded, "empty packets").await;
    }

    async fn opening_and_resetting_leaves_nothing(&mut self) {
        for index in 0..20_000 {
            while index >= self.streams {
                self.hear().await;
            }
            let reset = pb::StreamReset { stream_id: uni(index), code: 1, final_size: 0 };
            self.peer.say(ControlMessage::StreamReset(reset)).await;
        }
        self.peer.ping().await;
    }

    async fn a_moving_final_size_is_cut_off(&mut self) {
        for size in [10, 11] {
            let reset = pb::StreamReset { stream_id: uni(0), code: 1, final_size: size };
            self.peer.say(ControlMessage::StreamReset(reset)).await;
        }
        self.peer.expect(Code::OffsetMismatch, "a final size that moved").await;
    }

    async fn data_beyond_the_credit_is_cut_off(&mut self) {
        let mut end = self.open(0).await;
        while self.send(vec![frame(uni(0), end, vec![7; 60_000], false)]).await {
            end += 60_000;
        }
        self.peer.expect(Code::OffsetMismatch, "data beyond the credit").await;
    }

    async fn streams_beyond_the_limit_are_cut_off(&mut self) {
        for index in 0..=limits::MAX_STREAMS {
            self.send(vec![frame(uni(index), 0, &b"x"[..], false)]).await;
        }
        self.peer.expect(Code::StreamCreateFailed, "a stream beyond the limit").await;
    }

    /// All was within the rules: waits until it has arrived, and goes.
    async fn leave(&mut self) {
        self.data.finish().unwrap();
        self.data.stopped().await.unwrap();
        self.peer.ping().await;
    }
}

#[tokio::test]
async fn an_endpoint_whose_budget_is_spent_takes_no_new_sessions() {
    let _turn = TURN.lock().await;
    let (endpoint, own, honest) = scene(Reader::Reads).await;
    endpoint.set_memory_budget(0);
    let config = kwik::ClientConfig::pinned(endpoint.fingerprint().unwrap());
    let late = own.connect_with(config.clone(), address(&endpoint), "").unwrap().await.unwrap();
    let ConnectionError::ApplicationClosed { code, .. } = late.closed().await else {
        panic!("the session is not refused")
    };
    assert_eq!(Code::from_u64(code), Some(Code::LimitExceeded));
    // Those that there are go on, on their floors.
    echo(&honest).await;
    endpoint.set_memory_budget(limits::MEMORY_BUDGET);
    let next = own.connect_with(config, address(&endpoint), "").unwrap().await.unwrap();
    next.open_uni().await.unwrap().write_all(b"welcome").await.unwrap();
    assert!(next.close_reason().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_under_memory_pressure_go_on_with_little() {
    const BUDGET: u64 = 100_000;
    // Loans stop at 80 %; what comes on top are the floors of four streams.
    const MOST: u64 = BUDGET / 5 * 4 + 4 * 7000;
    const LEN: usize = 3_000_000;
    let _turn = TURN.lock().await;
    let servers = common::Servers::new(0);
    let own = client();
    own.set_memory_budget(BUDGET);
    let (session, primary) = servers.connect(&own).await;
    let server = primary.session().clone();
    let mut writers = Vec::new();
    for _ in 0..4 {
        let mut send = server.open_uni().await.unwrap();
        writers.push(tokio::spawn(async move {
            send.write_all(&vec![7; LEN]).await.unwrap();
            send.finish().unwrap();
            send.stopped().await.ok();
        }));
    }
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut recv = session.accept_uni().await.unwrap();
        readers.push(tokio::spawn(async move { recv.read_to_end(LEN).await.unwrap().len() }));
        assert!(own.memory_granted() <= MOST, "{}", own.memory_granted());
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), LEN);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(own.memory_granted() <= MOST);
    drop((session, server, primary));
    own.wait_idle().await;
}

/// Bytes that a session echoes in a second, and in a second of this process's time on processors:
/// what is left where the attacker runs on a machine of its own.
async fn goodput(session: &Session) -> [f64; 2] {
    let used = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
    };
    let before = used();
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    let writer = tokio::spawn(async move {
        let frame = Bytes::from(vec![7; 64 * 1024]);
        while send.write_chunk(frame.clone()).await.is_ok() {}
    });
    let end = tokio::time::Instant::now() + Duration::from_secs(1);
    let mut bytes = 0;
    while let Ok(read) = tokio::time::timeout_at(end, recv.read_chunk(usize::MAX, true)).await {
        bytes += read.unwrap().map_or(0, |chunk| chunk.bytes.len() as u64);
    }
    writer.abort();
    let bytes = bytes as f64;
    [bytes, bytes / (used() - before).as_secs_f64()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: needs a machine to itself, with a core for the attacker"]
async fn an_honest_session_keeps_its_goodput_beside_each_attack() {
    for (attack, reader) in ATTACKS {
        let _turn = TURN.lock().await;
        let (endpoint, _own, honest) = scene(*reader).await;
        let mut ratios = [vec![], vec![]];
        for _ in 0..5 {
            let alone = goodput(&honest).await;
            let address = address(&endpoint);
            let attacks = tokio::spawn(async move {
                loop {
                    run_attacker(attack, address).await;
                }
            });
            let beside = goodput(&honest).await;
            attacks.abort();
            for (at, ratios) in ratios.iter_mut().enumerate() {
                ratios.push(beside[at] / alone[at]);
            }
        }
        let [all, own] = ratios.map(|mut ratios| {
            ratios.sort_by(f64::total_cmp);
            ratios[2] * 100.0
        });
        println!("{attack}: {all:.0} % of the goodput without it, {own:.0} % by processor time");
    }
}
