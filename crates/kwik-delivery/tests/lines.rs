//! What clients make a server write to its log, however often they ask.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests and their fixtures may panic"
)]

mod common;

use std::{
    fs::{self, File},
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use common::{MIB, connect, name, start};
use kwik::RecvStream;
use kwik_delivery::{Request, Response, Source};
use tempfile::tempdir;
use tokio::time::timeout;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines_with(what: &str) -> usize {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&lines).lines().filter(|line| line.contains(what)).count()
}

/// A file that changes while it is sent, and that a client asks for again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_cannot_be_read_on_fills_no_log() {
    const REQUESTS: usize = 80;
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO);
    log.with_ansi(false).with_writer(|| Log).init();
    let folder = tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, vec![7; 12 * MIB]).unwrap();
    let servers = [start(0, Source::folder(folder.path()).unwrap(), Vec::new())];
    let (client, began) = (connect(&servers).await, Instant::now());
    for request in 0..REQUESTS {
        let (mut send, mut recv) = client.session().open_bi().await.unwrap();
        send.write_all(&Request::whole(name("x")).encode()).await.unwrap();
        send.finish().unwrap();
        let mut answer = bytes::BytesMut::new();
        let found = next(&mut recv, &mut answer).await;
        assert!(matches!(found, Response::Found(_)), "{found:?}");
        while answer.len() < 12 * MIB / 65_536 * 32 {
            answer.extend_from_slice(&recv.read_chunk(MIB, true).await.unwrap().unwrap().bytes);
        }
        answer.clear();
        let mut stream = client.session().accept_uni().await.unwrap();
        stream.read_chunk(1, true).await.unwrap();
        // Its time alone is another: it cannot be read on.
        let time = SystemTime::now() - Duration::from_secs(request as u64 + 1);
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        let rest = async {
            while let Ok(Some(_)) = stream.read_chunk(MIB, true).await {}
            std::future::pending::<()>().await;
        };
        let failed = async {
            tokio::select! {
                failed = next(&mut recv, &mut answer) => failed,
                () = rest => unreachable!("it never ends"),
            }
        };
        let failed = timeout(Duration::from_secs(20), failed).await.expect("it is told");
        assert!(matches!(failed, Response::Failed(_)), "{failed:?}");
        stream.stop(0).ok();
    }
    // Sixty in each minute that it took.
    let most = 60 * (began.elapsed().as_secs() as usize / 60 + 1);
    let given_up = lines_with("lease given up") + lines_with("refused");
    assert!(given_up > 0 && given_up <= most, "{given_up} lines for {REQUESTS} requests");
}

async fn next(recv: &mut RecvStream, buffer: &mut bytes::BytesMut) -> Response {
    loop {
        if let Some(response) = Response::decode(buffer).unwrap() {
            return response;
        }
        buffer.extend_from_slice(&recv.read_chunk(MIB, true).await.unwrap().unwrap().bytes);
    }
}
