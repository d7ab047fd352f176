//! What a pool does when another connection takes the place of its own.

use std::collections::BTreeSet;
use std::sync::Weak;

use kwik_proto::sync::lock;
use kwik_proto::wire::{PacketEncoder, StreamKind};

use crate::quic::Connection;

use super::{DataPool, Outgoing};

impl DataPool {
    /// Goes on on another connection: repeats the packets that its peer did not name, and writes
    /// what waited.
    ///
    /// Each QUIC stream repeats its own, before it writes anything new: so the bytes of a lease
    /// keep their order. Those of QUIC streams that have ended are repeated on one more.
    pub(in crate::driver) fn resume(&self, connection: &Connection) {
        let (streams, opened) = {
            let mut streams = lock(&self.streams);
            streams.connection = connection.clone();
            let ending: Vec<_> = streams.ending.iter().filter_map(Weak::upgrade).collect();
            let open = streams.open.values().cloned();
            (ending.into_iter().chain(open).collect::<Vec<_>>(), streams.opened)
        };
        let lanes = streams.iter().filter_map(|stream| stream.resume(connection, &self.runtime));
        let lanes: BTreeSet<_> = lanes.collect();
        let ended = |lane: kwik_proto::ack::Lane| lane.0 <= opened && !lanes.contains(&lane);
        let (packets, options) = self.gate.unacknowledged(ended);
        if !packets.is_empty() {
            // Ahead of all that is newer, but for control frames.
            let mut out = Outgoing::new(connection.clone(), StreamKind::Data, i32::MAX - 1);
            let mut encoder = PacketEncoder::new();
            for (id, frames) in packets {
                encoder.encode(id, &frames, options, out.pending());
            }
            self.runtime.spawn(async move {
                std::future::poll_fn(|cx| out.poll_flush(cx)).await;
                if !out.is_over() {
                    out.end();
                }
            });
        }
        self.on_acknowledged();
    }
}
