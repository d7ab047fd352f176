//! Live heap of KWIK next to bare quinn's, both ends together, as the allocator counts it.
//!
//! `cargo bench -p kwik-transport --bench memory -- [--json FILE] [--rounds N] [NAMES...]`
#![allow(missing_docs, unreachable_pub, dead_code, reason = "a bench")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are rounded anyway"
)]

#[path = "../common/mod.rs"]
mod common;

use std::alloc::System;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use common::heap::{KIB, echo, idle, live, settled};
use common::{
    Bare, Bed, Kwik, Metric, Options, Recv, Report, Send, Session, Stack, read_all, serve_echo,
    write_all,
};
use kwik::Accepted;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SESSIONS: usize = 1000;
const PATHS: usize = 100;
const OPEN_STREAMS: usize = 64;
const CLOSED_STREAMS: usize = 100_000;

fn main() {
    let mut report = Report::new(Options::parse());
    let bed = Bed::new(report.options.settings.clone());
    report.bench("memory", |report| {
        let session = [Metric::ratio("live heap", "KiB a session").at_most(1.2)];
        let sessions = "1,000 idle sessions of one path";
        report.compare(
            sessions,
            session,
            || [idle::<Kwik>(&bed, SESSIONS)],
            || [idle::<Bare>(&bed, SESSIONS)],
        );
        let path = [Metric::alone("live heap", "KiB a path")];
        report.measure("100 sessions get a second path", path, || [second_paths(&bed)]);
        let stream = [Metric::ratio("live heap", "KiB a stream")];
        let case = "64 open streams, used both ways";
        report.compare(case, stream, || [open::<Kwik>(&bed)], || [open::<Bare>(&bed)]);
        let closed = [Metric::alone("growth", "KiB").at_most(64.0)];
        report.measure("100,000 streams used and closed", closed, || [growth::<Kwik>(&bed)]);
        let peak = [Metric::ratio("peak heap", "MiB")];
        let bytes = report.options.mib << 20;
        let case = "a download of one stream";
        report.compare(
            case,
            peak,
            || [peak_heap::<Kwik>(&bed, bytes)],
            || [peak_heap::<Bare>(&bed, bytes)],
        );
    });
    report.finish();
}

/// What one more path takes, of a client, its primary and an edge.
fn second_paths(bed: &Bed) -> f64 {
    let [primary, edge] = [0, 1].map(|number| {
        let _inside = bed.servers[usize::from(number)].enter();
        common::kwik::server(&bed.settings, number)
    });
    let client = bed.client::<Kwik>();
    bed.run(async move {
        let mut sessions = Vec::with_capacity(PATHS);
        for _ in 0..PATHS {
            let dial = Kwik::connect(&client, primary.local_addr().unwrap());
            let accept = async { primary.accept().await.unwrap().accept_any().await.unwrap() };
            let (session, Accepted::Primary(served)) = tokio::join!(dial, accept) else {
                panic!("not a client")
            };
            sessions.push((session, served));
        }
        let before = settled().await;
        let mut edges = Vec::with_capacity(PATHS);
        for (_, served) in &sessions {
            let added = served.add_path(edge.local_addr().unwrap(), edge.fingerprint().unwrap());
            let accept = async { edge.accept().await.unwrap().accept_any().await.unwrap() };
            let (added, accepted) = tokio::join!(added, accept);
            added.unwrap();
            edges.push(accepted);
        }
        let after = settled().await;
        sessions.iter().for_each(|(session, _)| session.close(0, b""));
        Kwik::wait_idle(&client).await;
        (after - before) / KIB / PATHS as f64
    })
}

/// What a stream takes that has carried a message each way and stays open.
fn open<S: Stack>(bed: &Bed) -> f64 {
    let server = bed.serve::<S, _>(serve_echo);
    let client = bed.client::<S>();
    bed.run(async move {
        let session = S::connect(&client, S::address(&server)).await;
        echo(&session).await;
        let before = settled().await;
        let mut streams = Vec::with_capacity(OPEN_STREAMS);
        for _ in 0..OPEN_STREAMS {
            let (mut send, mut recv) = session.open_bi().await;
            assert!(send.write_chunk(Bytes::from_static(&[7; 64])).await);
            assert!(recv.read_chunk(usize::MAX).await.is_some());
            streams.push((send, recv));
        }
        let after = settled().await;
        session.close();
        S::wait_idle(&client).await;
        (after - before) / KIB / OPEN_STREAMS as f64
    })
}

/// How much of the heap streams leave behind.
fn growth<S: Stack>(bed: &Bed) -> f64 {
    let server = bed.serve::<S, _>(serve_echo);
    let client = bed.client::<S>();
    bed.run(async move {
        let session = S::connect(&client, S::address(&server)).await;
        for _ in 0..CLOSED_STREAMS / 100 {
            echo(&session).await;
        }
        let before = settled().await;
        for _ in 0..CLOSED_STREAMS {
            echo(&session).await;
        }
        let after = settled().await;
        session.close();
        S::wait_idle(&client).await;
        (after - before) / KIB
    })
}

/// The most that was live at once while a session read one stream.
fn peak_heap<S: Stack>(bed: &Bed, bytes: usize) -> f64 {
    let server = bed.serve::<S, _>(move |session| async move {
        let mut stream = session.open_uni().await.unwrap();
        write_all(&mut stream, bytes).await;
        session.closed().await;
    });
    let client = bed.client::<S>();
    let over = Arc::new(AtomicBool::new(false));
    // What the run before leaves is freed by then.
    let before = bed.run(settled());
    let watch = {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut peak = before;
            while !over.load(Relaxed) {
                peak = peak.max(live());
                std::thread::sleep(Duration::from_micros(100));
            }
            peak
        })
    };
    bed.run(async move {
        let session = S::connect(&client, S::address(&server)).await;
        let mut stream = session.accept_uni().await.unwrap();
        assert_eq!(read_all(&mut stream).await, bytes);
        session.close();
        S::wait_idle(&client).await;
    });
    over.store(true, Relaxed);
    (watch.join().unwrap() - before) / KIB / KIB
}
