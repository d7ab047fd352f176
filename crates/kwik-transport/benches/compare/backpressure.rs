//! What a reader that stops costs others, and how soon its writer stops and goes on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::common::{
    Bare, Bed, Kwik, Meter, Metric, Recv, Report, Send, Session, Stack, frame, read_all,
    read_exact, write_all,
};

/// How long the reader pauses; a write that took half of it was held up.
const PAUSE: Duration = Duration::from_millis(200);
/// Read before the pause, so that windows have grown.
const READ_BEFORE: usize = 64 << 20;

pub fn run(report: &mut Report, bed: &Bed) {
    let bytes = report.options.mib << 20;
    report.compare(
        "an unread stream beside",
        [Metric::ratio("throughput with it, of that without", "%")],
        || [beside_unread::<Kwik>(bed, bytes)],
        || [beside_unread::<Bare>(bed, bytes)],
    );
    report.compare(
        "the reader pauses",
        [
            Metric::difference("until the writer waits", "ms"),
            Metric::difference("until it writes again", "ms"),
        ],
        || pause::<Kwik>(bed),
        || pause::<Bare>(bed),
    );
    let metrics = [
        Metric::alone("until its writer is told", "ms"),
        Metric::alone("until that is lifted", "ms"),
    ];
    report.measure("the reader pauses: backpressure", metrics, || notices(bed));
}

/// The rate of one stream while another of the session is not read, in percent of that without.
fn beside_unread<S: Stack>(bed: &Bed, bytes: usize) -> f64 {
    let [without, with] = [false, true].map(|unread| {
        let server = bed.serve::<S, _>(move |session| async move {
            for bytes in unread.then_some(usize::MAX).into_iter().chain([bytes]) {
                let Some(mut stream) = session.open_uni().await else { return };
                tokio::spawn(async move { write_all(&mut stream, bytes).await });
            }
            session.closed().await;
        });
        let client = bed.client::<S>();
        bed.run(async move {
            let session = S::connect(&client, S::address(&server)).await;
            let meter = Meter::start();
            let left = if unread { session.accept_uni().await } else { None };
            let mut stream = session.accept_uni().await.unwrap();
            assert_eq!(read_all(&mut stream).await, bytes);
            let (seconds, _) = meter.stop();
            session.close();
            S::wait_idle(&client).await;
            drop(left);
            seconds
        })
    });
    without / with * 100.0
}

/// From the reader's last read to the write that is held up, and from its next to that write's end.
fn pause<S: Stack>(bed: &Bed) -> [f64; 2] {
    let (tell, told) = oneshot::channel();
    let tell = Arc::new(Mutex::new(Some(tell)));
    let server = bed.serve::<S, _>(move |session| {
        let tell = tell.lock().unwrap().take();
        async move {
            let mut stream = session.open_uni().await.unwrap();
            let frame = frame();
            let held_up = loop {
                let start = Instant::now();
                if !stream.write_chunk(frame.clone()).await {
                    return;
                }
                if start.elapsed() > PAUSE / 2 {
                    break (start, Instant::now());
                }
            };
            tell.map(|tell| tell.send(held_up));
            while stream.write_chunk(frame.clone()).await {}
        }
    });
    let client = bed.client::<S>();
    bed.run(async move {
        let session = S::connect(&client, S::address(&server)).await;
        let mut stream = session.accept_uni().await.unwrap();
        assert!(read_exact(&mut stream, READ_BEFORE).await);
        let stopped = Instant::now();
        tokio::time::sleep(PAUSE).await;
        let resumed = Instant::now();
        let reading =
            tokio::spawn(async move { while stream.read_chunk(usize::MAX).await.is_some() {} });
        let (held_up, went_on) = told.await.unwrap();
        session.close();
        reading.await.unwrap();
        S::wait_idle(&client).await;
        [milliseconds(held_up - stopped), milliseconds(went_on - resumed)]
    })
}

/// From the reader's last read to the writer's notice, and from its next read to the notice's end.
fn notices(bed: &Bed) -> [f64; 2] {
    let (stop, stopped) = oneshot::channel();
    let (tell, mut told) = mpsc::unbounded_channel();
    let once = Arc::new(Mutex::new(Some((stopped, tell))));
    let server = bed.serve::<Kwik, _>(move |session| {
        let (mut stopped, tell) = once.lock().unwrap().take().unwrap();
        async move {
            let mut stream = session.open_uni().await.unwrap();
            while stopped.try_recv().is_err() {
                write_a_little(&mut stream).await;
            }
            for told in [true, false] {
                while stream.backpressure().is_some() != told {
                    write_a_little(&mut stream).await;
                }
                tell.send(Instant::now()).unwrap();
            }
            session.closed().await;
        }
    });
    let client = bed.client::<Kwik>();
    bed.run(async move {
        let session = Kwik::connect(&client, Kwik::address(&server)).await;
        let mut stream = Session::accept_uni(&session).await.unwrap();
        assert!(read_exact(&mut stream, READ_BEFORE).await);
        let stopped = Instant::now();
        stop.send(()).unwrap();
        let under = told.recv().await.unwrap();
        let resumed = Instant::now();
        let reading = tokio::spawn(async move { read_all(&mut stream).await });
        let lifted = told.recv().await.unwrap();
        Session::close(&session);
        reading.await.unwrap();
        Kwik::wait_idle(&client).await;
        [milliseconds(under - stopped), milliseconds(lifted - resumed)]
    })
}

/// A frame, or a part of it within a millisecond, after which to look for notices.
async fn write_a_little(stream: &mut kwik::SendStream) {
    tokio::time::timeout(Duration::from_millis(1), stream.write_chunk(frame())).await.ok();
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
