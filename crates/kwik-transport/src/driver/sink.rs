//! Where payload goes that a reader brings: into the streams' receiving halves.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::ack::ArrivedPackets;
use kwik_proto::stream::{Destination, Received, ReceivedBytes, SharedRecv};
use kwik_proto::sync::lock;
use kwik_proto::{Code, CodedError, PathId, StreamId, limits};

use crate::quic::{Connection, Figures, yield_now};

use super::chunks::BATCH;
use super::shared::AnyShared;

/// Frames and packets after which tasks that are ready get a turn.
const TURN_FRAMES: usize = 64;
/// A turn whose frames bring less than this many bytes each is thin: it costs far more than its
/// sender could want, and is to keep nobody else from the processor.
const THIN_FRAME: usize = 16;
/// Thin turns in a row that are followed by a pause. So half a million thin frames a second are
/// read of a QUIC stream, which is more than an application could send in earnest.
const THIN_TURNS: usize = 8;
const THIN_PAUSE: Duration = Duration::from_millis(1);
/// The connection's figures are looked up at most this often.
const FIGURES_INTERVAL: Duration = Duration::from_millis(10);

/// Where the frames go that are being read.
struct Receiver {
    id: StreamId,
    /// None: what comes is drained.
    recv: Option<SharedRecv>,
}

/// What a batch brought to one stream.
struct Batch {
    id: StreamId,
    bytes: ReceivedBytes,
    readable: bool,
    piece_ended: bool,
}

/// What a reader did since tasks that are ready had a turn.
#[derive(Default)]
struct Turn {
    /// Frames and packets.
    frames: usize,
    payload: usize,
    /// Thin turns before this one.
    thin: usize,
}

/// Puts payload into the streams it is for, and tells their sessions and readers once a batch.
pub(super) struct FrameSink<'a> {
    shared: AnyShared,
    path: PathId,
    connection: &'a Connection,
    target: Option<Receiver>,
    offset: u64,
    /// What came since the session was told, the last for the target.
    batches: Vec<Batch>,
    /// Packets that came whole since.
    packets: ArrivedPackets,
    figures_at: Option<Instant>,
    turn: Turn,
    /// Frames and packets since the last one that brought anything.
    empty: usize,
    /// Bytes that were here already.
    twice: u64,
}

impl<'a> FrameSink<'a> {
    pub(super) fn new(shared: AnyShared, path: PathId, connection: &'a Connection) -> Self {
        let packets = ArrivedPackets::default();
        let (batches, turn) = (Vec::new(), Turn::default());
        let (target, offset, figures_at, empty, twice) = (None, 0, None, 0, 0);
        Self {
            shared,
            path,
            connection,
            target,
            offset,
            batches,
            packets,
            figures_at,
            turn,
            empty,
            twice,
        }
    }

    /// One more frame, or packet, which may bring nothing; payload and ends start anew.
    pub(super) fn count_frame(&mut self) -> Result<(), CodedError> {
        self.turn.frames += 1;
        self.empty += 1;
        if self.empty > limits::MAX_EMPTY_FRAMES {
            return Err(CodedError::new(Code::LimitExceeded, "data frames that bring nothing"));
        }
        Ok(())
    }

    /// One more packet that brought something: its frames are counted by themselves.
    pub(super) fn count_packet(&mut self) {
        self.turn.frames += 1;
    }

    /// A packet came whole.
    pub(super) fn note_packet(&mut self, id: u64, payload: u64, fin: bool) {
        self.packets.note(id, payload, fin);
    }

    /// Lets others work once enough was read; for longer after thin turns.
    pub(super) async fn end_turn(&mut self) -> Result<(), CodedError> {
        if self.turn.frames < TURN_FRAMES {
            return Ok(());
        }
        let Turn { frames, payload, thin } = std::mem::take(&mut self.turn);
        self.turn.thin = if payload < THIN_FRAME * frames { thin + 1 } else { 0 };
        if self.turn.thin < THIN_TURNS {
            yield_now().await;
            return Ok(());
        }
        self.turn.thin = 0;
        // What they brought does not wait as well.
        self.flush()?;
        let runtime = &self.shared.runtime;
        runtime.sleep_until(runtime.now() + THIN_PAUSE).await;
        Ok(())
    }

    /// Takes payload for where the last went, or [`Self::aim`] said; leaves the chunks empty.
    pub(super) fn put(&mut self, chunks: &mut [Bytes]) -> Result<(), CodedError> {
        let len = chunks.iter().map(Bytes::len).sum::<usize>();
        self.turn.payload += len;
        self.empty = if len > 0 { 0 } else { self.empty };
        let len = len as u64;
        if let Some(recv) = self.target.as_ref().and_then(|target| target.recv.as_ref()) {
            let received = lock(recv).receive_chunks(self.path, self.offset, chunks);
            match received {
                Ok(received) => {
                    self.twice += received.twice;
                    self.note(len, received);
                }
                Err(error) => {
                    // What came before the violation may be all that a reader waits for.
                    self.note(
                        0,
                        Received { readable: true, piece_ended: true, ..Received::default() },
                    );
                    return Err(error);
                }
            }
        }
        self.offset += len;
        // What nobody wanted is not held either.
        let left = chunks.iter_mut().filter(|chunk| !chunk.is_empty());
        left.for_each(|chunk| *chunk = Bytes::new());
        Ok(())
    }

    /// Bytes that were put and were there already, since this was asked last.
    pub(super) fn take_twice(&mut self) -> u64 {
        std::mem::take(&mut self.twice)
    }

    pub(super) fn put_fin(&mut self) -> Result<(), CodedError> {
        self.empty = 0;
        if let Some(recv) = self.target.as_ref().and_then(|target| target.recv.as_ref()) {
            let received = lock(recv).receive_fin(self.path, self.offset)?;
            self.note(0, received);
        }
        // Nothing follows: the half lives no longer than others need it.
        if let Some(target) = &mut self.target {
            target.recv = None;
        }
        Ok(())
    }

    fn note(&mut self, bytes: u64, received: Received) {
        let Some(id) = self.target.as_ref().map(|target| target.id) else { return };
        if self.batches.last().is_none_or(|batch| batch.id != id) {
            let none =
                Batch { id, bytes: ReceivedBytes::default(), readable: false, piece_ended: false };
            self.batches.push(none);
        }
        if let Some(batch) = self.batches.last_mut() {
            batch.bytes.note(bytes, received);
            batch.readable |= received.readable;
            batch.piece_ended |= received.piece_ended;
        }
    }

    /// Makes `offset` of `id` the place that payload goes to.
    pub(super) fn aim(&mut self, id: StreamId, offset: u64) -> Result<(), CodedError> {
        self.offset = offset;
        if self.target.as_ref().is_some_and(|target| target.id == id && target.recv.is_some()) {
            return Ok(());
        }
        if self.batches.len() >= BATCH {
            self.flush()?;
        }
        let recv = match self.shared.look(|machine| machine.destination(self.path, id))? {
            Destination::Half(recv) => Some(recv),
            Destination::Over => None,
            Destination::Unopened => {
                self.shared.drive(|machine, now| machine.receiving(self.path, id, now))?
            }
        };
        self.target = Some(Receiver { id, recv });
        Ok(())
    }

    /// Tells readers and the session of what was put into streams, and the session of packets.
    pub(super) fn flush(&mut self) -> Result<(), CodedError> {
        self.flush_with(None)
    }

    /// The same, and tells the session first how the connection does.
    fn flush_with(&mut self, figures: Option<Figures>) -> Result<(), CodedError> {
        for batch in self.batches.iter().filter(|batch| batch.readable) {
            self.shared.waiters.streams.wake_reader(batch.id);
        }
        self.batches.retain(|batch| batch.bytes.total > 0 || batch.piece_ended);
        if self.batches.is_empty() && self.packets.is_empty() && figures.is_none() {
            return Ok(());
        }
        if let Some(watch) = self.shared.watch() {
            let bytes = self.batches.iter().map(|batch| batch.bytes.total).sum();
            let conflicting = self.batches.iter().map(|batch| batch.bytes.conflicting).sum();
            watch.on_received(self.path, bytes, conflicting);
        }
        let packets = std::mem::take(&mut self.packets);
        let (path, batches) = (self.path, &mut self.batches);
        self.shared.drive(|machine, now| {
            // Bytes count, whichever connection brought them: they are in their streams, and come
            // no more. Of one that another has replaced the rest does not: the peer was told which
            // packets had come of it, and repeats all others.
            let current = self.shared.is_heeded(path, self.connection);
            if let Some(figures) = figures.filter(|_| current) {
                machine.on_figures(path, figures, now);
            }
            for batch in batches.drain(..) {
                machine.on_received(path, batch.id, batch.bytes, now);
            }
            if packets.is_empty() || !current {
                return Ok(());
            }
            machine.on_packets(path, &packets, now)
        })
    }

    pub(super) fn end_batch(&mut self) -> Result<(), CodedError> {
        let now = self.shared.runtime.now();
        if self.figures_at.is_some_and(|at| now < at + FIGURES_INTERVAL) {
            return self.flush();
        }
        self.figures_at = Some(now);
        let figures = self.connection.figures();
        self.shared.size_window(self.path, figures.rtt, figures.arrived, now);
        self.flush_with(Some(figures))
    }
}
