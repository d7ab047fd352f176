//! The live heap, as the allocator counts it: of binaries whose global one is
//! `INSTRUMENTED_SYSTEM`.

use std::time::Duration;

use bytes::Bytes;
use stats_alloc::INSTRUMENTED_SYSTEM;

use super::{Bed, Send, Session, Stack, read_all, serve_echo};

pub const KIB: f64 = 1024.0;
/// Until what a handshake or a closed connection needed is gone.
const SETTLE: Duration = Duration::from_millis(500);

/// Bytes that are allocated and not freed.
pub fn live() -> f64 {
    let stats = INSTRUMENTED_SYSTEM.stats();
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

pub async fn settled() -> f64 {
    tokio::time::sleep(SETTLE).await;
    live()
}

/// KiB of both ends together that an idle session takes: one that has carried an echo.
pub fn idle<S: Stack>(bed: &Bed, count: usize) -> f64 {
    let server = bed.serve::<S, _>(serve_echo);
    let client = bed.client::<S>();
    bed.run(async move {
        echo(&S::connect(&client, S::address(&server)).await).await;
        let before = settled().await;
        let mut sessions = Vec::with_capacity(count);
        for _ in 0..count {
            let session = S::connect(&client, S::address(&server)).await;
            echo(&session).await;
            sessions.push(session);
        }
        let after = settled().await;
        sessions.iter().for_each(Session::close);
        S::wait_idle(&client).await;
        (after - before) / KIB / count as f64
    })
}

pub async fn echo(session: &impl Session) {
    let (mut send, mut recv) = session.open_bi().await;
    assert!(send.write_chunk(Bytes::from_static(&[7; 64])).await);
    send.finish();
    assert_eq!(read_all(&mut recv).await, 64);
}
