//! How many streams are opened, written, echoed and ended in a second, some tens at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

use super::common::{
    Bare, Bed, Kwik, Meter, Metric, Recv, Report, Send, Session, Stack, read_exact, serve_echo,
};

const STREAMS: usize = 10_000;
const AT_ONCE: usize = 64;
const SIZE: usize = 64;

pub fn run(report: &mut Report, bed: &Bed) {
    let metrics = [
        Metric::ratio("streams", "1/s").at_least(1.0),
        Metric::ratio("processor time", "µs a stream"),
        Metric::ratio("wire", "bytes a stream"),
    ];
    report.compare("10,000 echoes", metrics, || echo::<Kwik>(bed), || echo::<Bare>(bed));
}

fn echo<S: Stack>(bed: &Bed) -> [f64; 3] {
    let server = bed.serve::<S, _>(serve_echo);
    let client = bed.client::<S>();
    bed.run(async move {
        let session = S::connect(&client, S::address(&server)).await;
        let meter = Meter::start();
        let begun = Arc::new(AtomicUsize::new(0));
        let tasks = std::iter::repeat_with(|| {
            let (session, begun) = (session.clone(), begun.clone());
            tokio::spawn(async move {
                while begun.fetch_add(1, Relaxed) < STREAMS {
                    let (mut send, mut recv) = session.open_bi().await;
                    assert!(send.write_chunk(Bytes::from_static(&[7; SIZE])).await);
                    send.finish();
                    assert!(read_exact(&mut recv, SIZE).await);
                    assert!(recv.read_chunk(usize::MAX).await.is_none());
                }
            })
        });
        for task in tasks.take(AT_ONCE).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        let (seconds, cpu) = meter.stop();
        let udp = session.udp_bytes();
        session.close();
        S::wait_idle(&client).await;
        let streams = STREAMS as f64;
        [streams / seconds, cpu * 1e6 / streams, udp as f64 / streams]
    })
}
