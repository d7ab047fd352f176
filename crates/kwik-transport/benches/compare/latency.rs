//! A 64-byte echo on a stream that stands: on an idle session, and beside bulk traffic on another
//! session of the same endpoints.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::common::{
    Bare, Bed, Kwik, Metric, Report, Send, Session, Stack, percentile, read_all, read_exact,
    serve_echo, write_all,
};

const SIZE: usize = 64;
const ECHOES: usize = 5000;
const WARM_UP: usize = 200;
/// Beside bulk on a busy machine an echo may take long; then fewer must do.
const AT_MOST: Duration = Duration::from_secs(4);

pub fn run(report: &mut Report, bed: &Bed) {
    let idle = [
        Metric::difference("echo p50", "µs").at_most(15.0),
        Metric::difference("echo p99", "µs").at_most(40.0),
    ];
    report.compare("idle session", idle, || echo::<Kwik>(bed, false), || echo::<Bare>(bed, false));
    let beside = [Metric::ratio("ping p50", "µs"), Metric::ratio("ping p99", "µs").at_most(1.5)];
    report.compare(
        "beside bulk on another session",
        beside,
        || echo::<Kwik>(bed, true),
        || echo::<Bare>(bed, true),
    );
}

/// p50 and p99 in microseconds.
fn echo<S: Stack>(bed: &Bed, bulk: bool) -> [f64; 2] {
    let server = bed.serve::<S, _>(|session| async move {
        let bulk = session.clone();
        tokio::spawn(async move {
            // Who opens a stream one way asks for as much as comes.
            if bulk.accept_uni().await.is_some()
                && let Some(mut stream) = bulk.open_uni().await
            {
                write_all(&mut stream, usize::MAX).await;
            }
        });
        serve_echo(session).await;
    });
    let client = bed.client::<S>();
    bed.run(async move {
        let beside = S::connect(&client, S::address(&server)).await;
        if bulk {
            let mut ask = beside.open_uni().await.unwrap();
            assert!(ask.write_chunk(Bytes::from_static(b"go")).await);
            ask.finish();
            let mut stream = beside.accept_uni().await.unwrap();
            tokio::spawn(async move { read_all(&mut stream).await });
        }
        let session = S::connect(&client, S::address(&server)).await;
        let mut times = ping(&session).await;
        session.close();
        beside.close();
        S::wait_idle(&client).await;
        [percentile(&mut times, 0.5), percentile(&mut times, 0.99)]
    })
}

async fn ping<S: Session>(session: &S) -> Vec<f64> {
    let (mut send, mut recv) = session.open_bi().await;
    let message = Bytes::from(vec![7; SIZE]);
    let mut times = Vec::with_capacity(ECHOES);
    let begun = Instant::now();
    for round in 0..WARM_UP + ECHOES {
        let start = Instant::now();
        assert!(send.write_chunk(message.clone()).await);
        assert!(read_exact(&mut recv, SIZE).await);
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        if begun.elapsed() > AT_MOST && !times.is_empty() {
            break;
        }
    }
    times
}
