//! One server sends as much as it can over some streams: the rate, what it costs in processor time,
//! and what the wire carries beyond the payload.

use super::common::{
    Bare, Bed, GIB, Kwik, Meter, Metric, Report, Session, Stack, read_all, write_all,
};

pub fn run(report: &mut Report, bed: &Bed) {
    let bytes = report.options.mib << 20;
    for streams in [1, 4, 16, 64, 256] {
        // One stream in a row is what the merging socket is made for.
        let (least, most) =
            if streams == 1 && bed.settings.quic.merge_sends { (1.25, 0.8) } else { (0.97, 1.05) };
        let metrics = [
            Metric::ratio("throughput", "Gbit/s").at_least(least),
            Metric::ratio("processor time", "s/GiB").at_most(most),
            Metric::difference("wire over payload", "%").at_most(0.5),
        ];
        let case = format!("{streams} stream{}", if streams == 1 { "" } else { "s" });
        report.compare(
            &case,
            metrics,
            || download::<Kwik>(bed, streams, bytes),
            || download::<Bare>(bed, streams, bytes),
        );
    }
}

fn download<S: Stack>(bed: &Bed, streams: usize, bytes: usize) -> [f64; 3] {
    let server = bed.serve::<S, _>(move |session| async move {
        for _ in 0..streams {
            let Some(mut stream) = session.open_uni().await else { return };
            tokio::spawn(async move { write_all(&mut stream, bytes / streams).await });
        }
        session.closed().await;
    });
    let client = bed.client::<S>();
    bed.run(async move {
        let session = S::connect(&client, S::address(&server)).await;
        let meter = Meter::start();
        let mut reads = Vec::new();
        for _ in 0..streams {
            let mut stream = session.accept_uni().await.unwrap();
            reads.push(tokio::spawn(async move { read_all(&mut stream).await }));
        }
        let mut read = 0;
        for task in reads {
            read += task.await.unwrap();
        }
        let (seconds, cpu) = meter.stop();
        assert_eq!(read, bytes);
        let udp = session.udp_bytes();
        session.close();
        S::wait_idle(&client).await;
        figures(seconds, cpu, udp, bytes)
    })
}

/// Gbit/s, processor seconds a GiB, and what went over the wire beyond the payload in percent.
pub fn figures(seconds: f64, cpu: f64, udp: u64, bytes: usize) -> [f64; 3] {
    let bytes = bytes as f64;
    [bytes * 8e-9 / seconds, cpu * GIB / bytes, (udp as f64 / bytes - 1.0) * 100.0]
}
