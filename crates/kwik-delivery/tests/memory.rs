//! What requests for huge objects, and answers that nobody asked for, hold on the heap.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    alloc::System,
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use common::{MIB, connect, identity, name, start_in};
use kwik::{Accepted, ClientConfig, Endpoint, PrimarySession, ServerConfig};
use kwik_delivery::{
    AtOnce, Client, FetchError, Found, Progress, Request, Response, Source,
    limits::{GROUP_SIZE, MAX_OBJECT, MAX_REQUESTS, PAGE_GROUPS},
};
use prost::Message;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tempfile::tempdir;
use tokio::time::{sleep, timeout};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test at a time: the heap is everybody's.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Bytes on the heap.
fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Watches the heap: its peak above what it was.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watch {
    fn start() -> Self {
        let (stop, baseline) = (Arc::new(AtomicBool::new(false)), live());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Relaxed) {
                peak = peak.max(live());
                std::thread::sleep(Duration::from_micros(200));
            }
            peak.saturating_sub(baseline)
        });
        Self { stop, thread }
    }

    fn stop(self) -> usize {
        self.stop.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

/// The value of a whole subtree of `leaves` groups whose values are all `leaf`.
fn subtree(leaf: [u8; 32], leaves: u64) -> [u8; 32] {
    assert!(leaves.is_power_of_two());
    (0..leaves.ilog2()).fold(leaf, |value, _| merge_subtrees_non_root(&value, &value, Mode::Hash))
}

/// The root of a tree of `leaves` groups whose values are all `leaf`.
fn root(leaf: [u8; 32], leaves: u64) -> blake3::Hash {
    let half = subtree(leaf, leaves / 2);
    merge_subtrees_root(&half, &half, Mode::Hash)
}

/// An entry of the catalogue, as the file begins with it.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(bytes = "bytes", tag = "3")]
    root: Bytes,
    #[prost(string, tag = "4")]
    state: String,
    #[prost(bytes = "bytes", tag = "5")]
    pages: Bytes,
}

/// What stands above the pages of an object whose groups have zeros for values, and its root.
fn above(size: u64) -> (Bytes, blake3::Hash) {
    let groups = size / GROUP_SIZE;
    if groups <= PAGE_GROUPS {
        return (Bytes::new(), root([0; 32], groups));
    }
    let (page, pages) = (subtree([0; 32], PAGE_GROUPS), groups / PAGE_GROUPS);
    (page.repeat(usize::try_from(pages).unwrap()).into(), root(page, pages))
}

/// A sparse file that counts as hashed, with zeros for values: nobody shall read so much for a
/// test, and who does not read the object does not notice.
fn publish(folder: &Path, catalogue: &Path, object: &str, size: u64) {
    let path = folder.join(object);
    fs::File::create(&path).unwrap().set_len(size).unwrap();
    let meta = fs::metadata(&path).unwrap();
    let (modified, changed) =
        ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    let state = format!(
        "{:x}-{:x}-{:x}-{:x}-{:x}-{:x}-{:x}",
        meta.dev(),
        meta.ino(),
        meta.len(),
        modified.0,
        modified.1,
        changed.0,
        changed.1
    );
    let (pages, root) = above(size);
    let root = Bytes::copy_from_slice(root.as_bytes());
    let entry = Entry { name: object.to_owned(), size, root, state, pages };
    let hash = *blake3::hash(&entry.encode_to_vec()).as_bytes();
    let head = [&entry.encode_length_delimited_to_vec()[..], &hash].concat();
    let key = blake3::hash(object.as_bytes()).to_hex();
    let file = fs::File::create(catalogue.join(key.as_str())).unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.set_len(head.len() as u64 + size / GROUP_SIZE * 32).unwrap();
}

/// Four sessions of sixteen requests each, which are answered and whose objects nobody reads: the
/// heap of both ends at its peak, above what it was before the requests.
async fn requests(object: &str, size: u64) -> usize {
    let (folder, state) = (tempdir().unwrap(), tempdir().unwrap());
    fs::create_dir(state.path().join("catalogue")).unwrap();
    publish(folder.path(), &state.path().join("catalogue"), object, size);
    let source = Source::folder(folder.path()).unwrap();
    let policy = |server: kwik_delivery::Server| server.with_join_policy(AtOnce);
    let servers = [start_in(state.into(), 0, source, Vec::new(), policy)];
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(&servers).await);
    }
    let (watch, before) = (Watch::start(), live());
    let mut held = Vec::new();
    for client in &clients {
        for _ in 0..MAX_REQUESTS {
            let (mut send, mut recv) = client.session().open_bi().await.unwrap();
            send.write_all(&Request::whole(name(object)).encode()).await.unwrap();
            send.finish().unwrap();
            let answer = recv.read_chunk(100, true).await.unwrap().unwrap();
            let answer = Response::decode(&mut answer.bytes[..].into()).unwrap();
            assert!(matches!(answer, Some(Response::Found(found)) if found.size == size));
            held.push((send, recv));
        }
    }
    // What is sent fills its windows meanwhile.
    sleep(Duration::from_millis(500)).await;
    let held = live().saturating_sub(before);
    println!(
        "64 requests of {} MiB: {} KiB, {} at the peak",
        size >> 20,
        held >> 10,
        watch.stop() >> 10
    );
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_huge_objects_hold_no_more_than_those_of_small_ones() {
    let _turn = TURN.lock().await;
    // The first time some is held for good.
    requests("small", 128 << 20).await;
    let small = requests("small", 128 << 20).await;
    for size in [32 << 30, MAX_OBJECT] {
        let huge = requests("huge", size).await;
        // For each request a page, what stands above all pages, and two blocks that are sent, of
        // which the small ones hold some too. With an outboard for each request they held 600 MB
        // more for an object of 20 GB, and 32 GB for the larger one of these.
        let most = 4 * MAX_REQUESTS * 2 * (128 + 512) * 1024;
        assert!(huge <= small + most, "{huge} bytes beside {small}, for {size}");
    }
}

/// Bytes of an outboard that nobody asked for.
const UNASKED: usize = 512 * MIB;

/// What a primary says too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// After the outline of the largest object.
    Outline,
    /// After a page.
    Page,
    /// As a page's size.
    PageSize,
}

async fn say_too_much(primary: &PrimarySession, says: Says) -> Option<()> {
    let (above, root) = above(MAX_OBJECT);
    loop {
        let (mut send, mut recv) = primary.session().accept_bi().await.ok()?;
        let request = recv.read_to_end(MIB).await.ok()?;
        let request = Request::decode(&mut request.as_slice().into()).unwrap().unwrap();
        let is_whole = matches!(request.part, kwik_delivery::Part::Whole);
        let (message, first) = match request.part {
            kwik_delivery::Part::Whole => {
                let mut stream = primary.session().open_uni().await.ok()?;
                let (name, stream_id) = (request.name, stream.id().as_u64());
                let found = Found::new(name, MAX_OBJECT, root, stream_id);
                // A block and more: its page is asked for.
                tokio::spawn(async move {
                    stream.write_all(&vec![0; 3 * MIB]).await.ok();
                    std::future::pending::<()>().await;
                });
                (Response::Found(found), above.clone())
            }
            _ if says == Says::PageSize => {
                let size = UNASKED as u64;
                (Response::Page { size }, Bytes::new())
            }
            _ => (Response::Page { size: 128 * 1024 }, vec![0; 128 * 1024].into()),
        };
        tokio::spawn(async move {
            send.write_all(&message.encode()).await.ok()?;
            send.write_all(&first).await.ok()?;
            if is_whole && says != Says::Outline {
                // It has no more to say until the object has come.
                std::future::pending::<()>().await;
            }
            let zeros = Bytes::from(vec![0; MIB]);
            for _ in 0..UNASKED / MIB {
                send.write_chunk(zeros.clone()).await.ok()?;
            }
            send.finish().ok()
        });
    }
}

async fn fetch_from(says: Says) -> usize {
    let endpoint =
        Endpoint::server(ServerConfig::new(identity(0)), "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { return };
        say_too_much(&primary, says).await;
    });
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = ClientConfig::pinned(identity(0).fingerprint());
    let session = endpoint.connect_with(config, address, "").unwrap().await.unwrap();
    let client = Client::new(session).with_patience(Duration::from_secs(1));
    let watch = Watch::start();
    let object = name("x");
    let fetching = async {
        let fetch = client.fetch(&object).await?;
        fetch.write_to(Box::new(io::sink()), &Progress::default()).await
    };
    let error = timeout(Duration::from_secs(60), fetching).await.expect("it ends").unwrap_err();
    assert!(matches!(error, FetchError::Answer(_)), "{says:?}: {error}");
    let peak = watch.stop();
    println!("{says:?}: {} KiB, {error}", peak >> 10);
    serving.abort();
    peak
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outboard_that_nobody_asked_for_is_not_taken() {
    let _turn = TURN.lock().await;
    for says in [Says::Outline, Says::Page, Says::PageSize] {
        let peak = fetch_from(says).await;
        // The windows of both ends; the outboard of which it says that it has so many bytes is 32
        // times as large.
        assert!(peak <= 16 * MIB, "{says:?}: {peak} bytes");
    }
}

/// One client that asks for the same range again and again, and one that asks for none of the
/// object: neither leaves anything behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_range_asked_for_without_end_holds_nothing_more() {
    let _turn = TURN.lock().await;
    let object = common::content(20 * MIB);
    let servers = [common::start(0, common::source(&[("x", object)]), Vec::new())];
    let client = connect(&servers).await;
    let ask = async |range: std::ops::Range<u64>| {
        let part = kwik_delivery::Part::Range { root: None, range: range.clone() };
        let request = Request { name: name("x"), part }.encode();
        let (mut send, mut recv) = client.session().open_bi().await.unwrap();
        send.write_all(&request).await.unwrap();
        send.finish().unwrap();
        if !range.is_empty() {
            let mut stream = client.session().accept_uni().await.unwrap();
            let data = stream.read_to_end(MIB).await.unwrap();
            assert_eq!(data.len() as u64, range.end - range.start);
        }
        recv.read_to_end(MIB).await.unwrap();
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        for _ in 0..600 {
            ask(GROUP_SIZE..2 * GROUP_SIZE).await;
            ask(0..0).await;
        }
        held.push(live());
    }
    println!("after each 1,200 requests: {} KiB", held[2].saturating_sub(held[1]) >> 10);
    // What was there once is there for good; the rest is some blocks that wait to be sent.
    assert!(held[2] <= held[1] + MIB, "{held:?}");
}

/// From the file into the buffer that is sent, and no copy more (4.7): a read takes the heap of its
/// bytes once. What is sent is that buffer itself.
#[tokio::test]
async fn a_local_object_is_read_into_the_buffer_that_is_sent() {
    const READS: u64 = 64;
    let _turn = TURN.lock().await;
    let folder = tempdir().unwrap();
    let size = READS * GROUP_SIZE;
    fs::write(folder.path().join("x"), common::content(usize::try_from(size).unwrap())).unwrap();
    let object = Source::folder(folder.path()).unwrap().open(&name("x")).await.unwrap();
    object.read(0..GROUP_SIZE).await.unwrap();
    let before = HEAP.stats().bytes_allocated;
    for at in 0..READS {
        let data = object.read(at * GROUP_SIZE..(at + 1) * GROUP_SIZE).await.unwrap();
        // The only one who has it: it is handed on as it is.
        assert!(data.is_unique());
    }
    let allocated = (HEAP.stats().bytes_allocated - before) as u64;
    println!("{allocated} bytes allocated to read {size}");
    assert!(allocated < size + size / 20, "{allocated} bytes allocated to read {size}");
}
