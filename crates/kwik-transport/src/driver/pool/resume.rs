//! What a pool does when another connection takes the place of its own.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Weak;

use kwik_proto::ack::Lane;
use kwik_proto::sync::lock;
use kwik_proto::wire::{PacketEncoder, StreamKind};

use crate::quic::Connection;

use super::{DataPool, Outgoing};

impl DataPool {
    /// Goes on on another connection: repeats the packets that its peer did not name, and writes
    /// what waited.
    ///
    /// Each QUIC stream repeats its own, before it writes anything new: so the bytes of a lease
    /// keep their order. What QUIC streams have written that are over leaves on the most urgent of
    /// the others, since the peer may allow no more; on one more if none is left.
    pub(in crate::driver) fn resume(&self, connection: &Connection) {
        let (mut streams, opened) = {
            let mut streams = lock(&self.streams);
            streams.connection = connection.clone();
            let ending: Vec<_> = streams.ending.iter().filter_map(Weak::upgrade).collect();
            let open = streams.open.values().cloned();
            let mut all = ending.into_iter().chain(open).collect::<Vec<_>>();
            all.sort_by_key(|stream| Reverse(stream.priority()));
            (all, streams.opened)
        };
        streams.retain(|stream| !stream.is_over());
        let lanes: BTreeSet<_> = streams.iter().map(|stream| stream.lane()).collect();
        let ended = |lane: Lane| lane.0 <= opened && !lanes.contains(&lane);
        let (mut packets, options) = self.gate.unacknowledged(ended);
        for stream in streams {
            stream.resume(connection, &mut packets, &self.runtime);
        }
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
