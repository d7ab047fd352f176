//! Both parts of acknowledgement under any sequence of packets and acknowledgements.
#![no_main]

use std::time::{Duration, Instant};

use kwik_proto::ack::{ArrivedPackets, KeptFrames, Lane, ReceivedPackets, SentPackets};
use kwik_proto::limits::MAX_ACK_RANGES;
use kwik_proto::wire::DataOptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<(u8, u64, u16)>| {
    let mut sent = SentPackets::new(DataOptions::default());
    let mut received = ReceivedPackets::new();
    let mut now = Instant::now();
    let mut last = 0;
    for (step, first, len) in steps {
        let len = u64::from(len);
        match step % 4 {
            0 if sent.has_room() => last = sent.on_sent(len, KeptFrames::default(), Lane(first)),
            1 => {
                let mut arrived = ArrivedPackets::default();
                (0..len % 64).for_each(|at| arrived.note(first.saturating_add(at), len, false));
                drop(received.on_arrived(&arrived, now));
            }
            2 => {
                let before = sent.outstanding();
                let result = sent.handle_ack(&[first..=first.saturating_add(len)]);
                assert!(result.is_ok() == (first > 0 && first.saturating_add(len) <= last));
                assert!(sent.outstanding() <= before);
            }
            _ => {
                now += Duration::from_millis(len % 100);
                while let Some(ack) = received.poll_ack(now) {
                    assert!((1..=MAX_ACK_RANGES).contains(&ack.ranges.len()));
                }
                assert!(received.poll_timeout().is_none_or(|due| due > now));
            }
        }
    }
});
