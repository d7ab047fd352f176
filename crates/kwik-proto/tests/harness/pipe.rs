//! Ordered pipes between two machines, and the links that delay them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::wire::control::RawPacketTransmission;
use kwik_proto::wire::{ControlDecoder, DataDecoder, DataOptions};
use kwik_proto::{PathId, StreamId};

use crate::rng::Rng;

/// Which end a pipe leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Toward {
    Client,
    Server,
}

/// One path's connection: its pipes share delay, rate, pauses and death.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) delay: Duration,
    jitter: u64,
    /// Bytes a second, each way.
    pub(crate) rate: u64,
    busy_until: [Instant; 2],
    /// Nothing arrives before.
    pub(crate) paused_until: Instant,
    /// Nothing arrives any more, and nobody is told.
    pub(crate) cut: bool,
}

impl Link {
    /// A steady one.
    pub(crate) fn steady(delay: Duration, rate: u64, now: Instant) -> Self {
        let jitter = 0;
        Self { delay, jitter, rate, busy_until: [now; 2], paused_until: now, cut: false }
    }

    pub(crate) fn random(rng: &mut Rng, now: Instant) -> Self {
        Self {
            delay: rng.micros(200..=60_000),
            jitter: rng.pick(&[0, 100, 5_000, 40_000]),
            rate: rng.pick(&[200_000, 2_000_000, 10_000_000, 100_000_000]),
            busy_until: [now; 2],
            paused_until: now,
            cut: false,
        }
    }

    /// When bytes sent now arrive.
    pub(crate) fn send(
        &mut self,
        bytes: usize,
        toward: Toward,
        rng: &mut Rng,
        now: Instant,
    ) -> Instant {
        let busy = &mut self.busy_until[toward as usize];
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / self.rate);
        *busy = (*busy).max(now) + takes;
        *busy + self.delay + rng.micros(0..=self.jitter)
    }

    /// When the queue before the link is short enough for a writer to go on.
    pub(crate) fn ready(&self, toward: Toward) -> Instant {
        self.busy_until[toward as usize] - Duration::from_millis(10)
    }
}

/// What is written at once: a header and the payload behind it.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
}

/// An ordered stream of bytes, as one QUIC stream direction is.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(crate) path: PathId,
    pub(crate) toward: Toward,
    pub(crate) chunks: VecDeque<Chunk>,
    pub(crate) last_due: Instant,
    pub(crate) sink: Sink,
}

/// What reads at the far end.
#[derive(Debug)]
pub(crate) enum Sink {
    Control(ControlDecoder),
    Data { decoder: Box<DataDecoder>, stream: StreamId, at: u64 },
    Raw(VecDeque<RawPacketTransmission>),
}

impl Pipe {
    pub(crate) fn new(path: PathId, toward: Toward, sink: Sink, now: Instant) -> Self {
        Self { path, toward, chunks: VecDeque::new(), last_due: now, sink }
    }
}

impl Sink {
    pub(crate) fn control() -> Self {
        Self::Control(ControlDecoder::new())
    }

    pub(crate) fn data() -> Self {
        Self::Data {
            decoder: DataDecoder::new(DataOptions::default()).into(),
            stream: StreamId::from_u64(0),
            at: 0,
        }
    }
}
