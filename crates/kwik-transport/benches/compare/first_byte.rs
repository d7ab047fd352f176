//! How long a new session takes to its first byte: dial, open, 64 bytes out, the echo's first back.

use std::time::Instant;

use bytes::Bytes;

use super::common::{
    Bare, Bed, Kwik, Metric, Recv, Report, Send, Session, Stack, median, serve_echo,
};

const SESSIONS: usize = 50;

pub fn run(report: &mut Report, bed: &Bed) {
    let metrics = [Metric::ratio("time to first byte", "ms").at_most(1.2)];
    report.compare("new session", metrics, || [dial::<Kwik>(bed)], || [dial::<Bare>(bed)]);
}

/// The median, in milliseconds.
fn dial<S: Stack>(bed: &Bed) -> f64 {
    let server = bed.serve::<S, _>(serve_echo);
    let client = bed.client::<S>();
    bed.run(async move {
        let mut times = Vec::new();
        for _ in 0..SESSIONS {
            let start = Instant::now();
            let session = S::connect(&client, S::address(&server)).await;
            let (mut send, mut recv) = session.open_bi().await;
            assert!(send.write_chunk(Bytes::from_static(&[7; 64])).await);
            assert!(recv.read_chunk(usize::MAX).await.is_some());
            times.push(start.elapsed().as_secs_f64() * 1e3);
            session.close();
        }
        S::wait_idle(&client).await;
        median(&times)
    })
}
