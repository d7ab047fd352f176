//! What peers that waste cost their victim: its live heap stays within the bound of its windows,
//! and what goes beyond the rules is cut off with its code (8.2, 3.3).
//!
//! The victim's heap is counted by an allocator of this test binary. The attacker runs in a process
//! of its own: the same binary, told by the environment which attack it is.

#![allow(clippy::disallowed_methods, reason = "tests run on tokio itself")]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test code")]
#![allow(clippy::cast_precision_loss, reason = "figures")]

mod attacker;
#[path = "../common/mod.rs"]
mod common;
mod goodput;
#[path = "../common/heap.rs"]
mod heap;

use std::future::Future;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use attacker::Attacker;
use common::{address, client, echo, identity, serve_echo};
use heap::{TURN, Watch};
use kwik::{Code, ConnectionError, Endpoint, RecvStream, ServerConfig, Session};
use kwik_proto::limits;

const WINDOW: usize = 4 * 1024 * 1024;
const RECEIVE_WINDOW: usize = 2 * 1024 * 1024;
/// The bound of docs/protocol.md#memory: the session's window, its path's QUIC window, 2 MiB, and
/// 10 %.
const BOUND: usize = (WINDOW + RECEIVE_WINDOW + limits::MAX_PINNED) * 11 / 10;

/// What one kind of streams gets of the window at the least: its floors are a third of one half,
/// and the other half is lent, but for what is kept for streams to come.
const GRANTED: u64 = WINDOW as u64 / 2;

const ATTACK: &str = "KWIK_ATTACK";
const VICTIM: &str = "KWIK_VICTIM";
/// Set: the attacker dials again whenever its attack has ended, until it is killed.
const AGAIN: &str = "KWIK_AGAIN";
/// What an attacker says after each attack, and a victim once it can be dialed.
const DONE: &str = "-- done";

/// A server with small windows.
fn victim(address: SocketAddr) -> Endpoint {
    let mut config = ServerConfig::new(identity(0));
    let window = WINDOW as u64;
    config.settings.set_initial_window(window).unwrap().set_max_window(window).unwrap();
    // For those who ask.
    config.settings.set_checksum(true).unwrap();
    config.quic.receive_window = RECEIVE_WINDOW as u64;
    // Off unless asked for.
    config.quic.datagram_receive_buffer = 256 * 1024;
    Endpoint::server(config, address).unwrap()
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

/// Echoes the streams of the first session, and serves every other one as `reader` says.
async fn serve_all(endpoint: Endpoint, reader: Reader) {
    serve_echo(endpoint.accept().await.unwrap().await.unwrap());
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            if let Ok(session) = incoming.await {
                serve(session, reader).await;
            }
        });
    }
}

/// The honest session, a victim's first.
async fn dial(own: &Endpoint, victim: SocketAddr) -> Session {
    let config = kwik::ClientConfig::pinned(identity(0).fingerprint());
    let honest = own.connect_with(config, victim, "").unwrap().await.unwrap();
    echo(&honest).await;
    honest
}

/// An honest session with a victim, whose application serves every other session as `reader` says.
async fn scene(reader: Reader) -> (Endpoint, Endpoint, Session) {
    let (endpoint, own) = (victim(common::LOOPBACK.parse().unwrap()), client());
    tokio::spawn(serve_all(endpoint.clone(), reader));
    let honest = dial(&own, address(&endpoint)).await;
    (endpoint, own, honest)
}

/// The next one's heap begins when nothing of this one is left.
fn suffer_alone(attack: &'static str, reader: Reader, least: u64) {
    let _turn = TURN.blocking_lock();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(suffer(attack, reader, least));
}

/// Runs an attack on a victim with an honest session beside it, which is to make it hold
/// `least` bytes.
async fn suffer(attack: &'static str, reader: Reader, least: u64) {
    let (endpoint, _own, honest) = scene(reader).await;
    let address = address(&endpoint);

    let watch = Watch::start();
    run_attacker(attack, address).await;
    let peak = watch.stop();
    println!("{attack}: {peak} bytes of {BOUND} at the peak");
    assert!(peak as u64 >= least, "{attack}: {peak} bytes are no attack");
    assert!(peak <= BOUND, "{attack}: {peak} bytes on the heap, more than {BOUND}");
    echo(&honest).await;
    endpoint.close(0, b"");
    endpoint.wait_idle().await;
}

macro_rules! attacks {
    ($($name:ident: $reader:expr $(, $least:expr)?;)*) => {
        $(#[test]
        fn $name() {
            suffer_alone(stringify!($name), $reader, 0 $(+ $least)?);
        })*

        const ATTACKS: &[(&str, Reader)] = &[$((stringify!($name), $reader)),*];

        /// The other side of all the others, in a process of its own.
        #[tokio::test]
        #[ignore = "started by the others"]
        async fn attacker() {
            let (attack, address) = (std::env::var(ATTACK), std::env::var(VICTIM));
            let (Ok(attack), Ok(address)) = (attack, address) else { return };
            let address = address.parse().unwrap();
            let attack = move || {
                let attack = attack.clone();
                async move {
                let mut attacker = Attacker::join(address).await;
                match attack.as_str() {
                    $(stringify!($name) => attacker.$name().await,)*
                    other => panic!("no attack {other}"),
                }
                }
            };
            attack_once_or_again(attack).await;
        }
    };
}

/// Runs an attack, which checks how it ends; again and again if it is told to, whatever comes
/// of it.
async fn attack_once_or_again<F>(attack: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let ended = tokio::spawn(tokio::time::timeout(Duration::from_secs(60), attack())).await;
        if std::env::var_os(AGAIN).is_none() {
            return ended.unwrap().expect("the attack hangs");
        }
        if ended.is_ok() {
            println!("{DONE}");
        }
    }
}

attacks! {
    fragments_with_gaps_are_cut_off: Reader::Holds;
    gaps_in_many_streams_are_cut_off_together: Reader::Holds;
    half_a_million_fragments_that_fit_cost_little: Reader::Reads;
    gaps_all_over_the_window_cost_no_more: Reader::Holds, GRANTED;
    a_byte_withheld_for_ever_holds_the_window_and_no_more: Reader::Holds, GRANTED;
    answers_that_nobody_reads_are_cut_off: Reader::Holds, GRANTED;
    slices_that_pin_receive_buffers_are_copied: Reader::ReadsTheFirst, GRANTED / 2;
    packets_that_wait_for_their_checksum_pin_nothing: Reader::ReadsTheFirst;
    datagrams_that_nobody_reads_pin_nothing: Reader::Reads;
    a_million_empty_frames_are_cut_off: Reader::Reads;
    a_million_empty_packets_are_cut_off: Reader::Reads;
    opening_and_resetting_leaves_nothing: Reader::Reads;
    a_moving_final_size_is_cut_off: Reader::Holds;
    data_beyond_the_credit_is_cut_off: Reader::Holds;
    streams_beyond_the_limit_are_cut_off: Reader::Holds;
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
    // Loans stop at 80 %; what comes on top is what four streams may carry before anything is said.
    const MOST: u64 = BUDGET / 5 * 4 + 4 * limits::FIRST_STREAM_DATA;
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
