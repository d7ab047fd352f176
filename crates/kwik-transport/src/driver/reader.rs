//! Reads one unidirectional QUIC stream of a peer, whatever its kind.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::ack::ArrivedPackets;
use kwik_proto::stream::{Destination, Received, SharedRecv};
use kwik_proto::sync::lock;
use kwik_proto::wire::{DataDecoder, DataEvent, KindDecoder, RawDecoder, StreamKind, WireError};
use kwik_proto::{Code, CodedError, PathId, StreamId, limits};

use crate::quic::{Connection, Figures, ReadError, RecvStream};

use super::path::Reading;
use super::{AnyShared, secondary, yield_now};

/// Chunks that are read at once: one lock and one wake a batch.
const BATCH: usize = 64;
/// Room for chunks at the start: most streams are short, and wait most of the time.
const FIRST_BATCH: usize = 4;
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

/// Reads `stream` to its end. A violation closes the path.
#[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
pub(super) fn run(
    shared: AnyShared,
    path: PathId,
    connection: Connection,
    mut stream: RecvStream,
    reading: Reading,
) -> impl Future<Output = ()> {
    async move {
        let result = read_kind(&shared, path, &connection, &mut stream, reading).await;
        if let Err(error) = result {
            tracing::debug!(%path, %error, "violation on a data stream");
            shared.drive(|machine, now| machine.handle_violation(path, &error, now));
        }
    }
}

fn violation(error: &WireError) -> CodedError {
    CodedError::new(error.code(), error.to_string())
}

async fn read_kind(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    stream: &mut RecvStream,
    reading: Reading,
) -> Result<(), CodedError> {
    let mut chunks = first_batch();
    let mut kind = KindDecoder::new();
    loop {
        let Some(filled) = next_batch(stream, &mut chunks).await else { return Ok(()) };
        if filled == 0 {
            return Ok(());
        }
        let mut rest = chunks[..filled].iter_mut().map(std::mem::take);
        while let Some(mut chunk) = rest.next() {
            let Some(kind) = kind.poll(&mut chunk).map_err(|error| violation(&error))? else {
                continue;
            };
            let first = [chunk].into_iter().chain(rest).collect::<Vec<_>>();
            return match kind {
                StreamKind::Data => read_data(shared, path, connection, stream, first).await,
                StreamKind::Raw => read_raw(shared, stream, first, reading).await,
                StreamKind::Secondary if shared.look(|machine| machine.takes_secondary(path)) => {
                    secondary::read(shared, path, connection, stream, first).await
                }
                StreamKind::Secondary | StreamKind::Unknown(_) => {
                    // Of a later version, or not for this role: nothing of it is wanted.
                    stream.stop(0).ok();
                    Ok(())
                }
            };
        }
    }
}

/// Room for chunks, which [`next_batch`] makes larger when it was not enough.
pub(super) fn first_batch() -> Vec<Bytes> {
    vec![Bytes::new(); FIRST_BATCH]
}

/// The next chunks: how many, 0 at the stream's end. None when its connection is lost or it was
/// reset: what that means is told on the control stream.
pub(super) async fn next_batch(stream: &mut RecvStream, chunks: &mut Vec<Bytes>) -> Option<usize> {
    match stream.read_chunks(chunks).await {
        Ok(filled) => {
            let filled = filled.unwrap_or(0);
            if filled == chunks.len() {
                chunks.resize(BATCH, Bytes::new());
            }
            Some(filled)
        }
        Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => None,
        Err(error) => {
            tracing::debug!(%error, "a data stream cannot be read");
            None
        }
    }
}

async fn read_raw(
    shared: &AnyShared,
    stream: &mut RecvStream,
    first: Vec<Bytes>,
    reading: Reading,
) -> Result<(), CodedError> {
    let mut reading = Some(reading);
    let mut decoder = RawDecoder::new();
    let mut chunks = first_batch();
    let mut batch = first;
    loop {
        for chunk in batch.drain(..) {
            decoder.handle_input(chunk);
            while let Some(packet) = decoder.poll().map_err(|error| violation(&error))? {
                let room = || shared.look(|machine| machine.takes_raw().then_some(()));
                if room().is_none() {
                    // The application may never make any: that does not keep the end from it.
                    reading.take();
                }
                if shared.wait_for(&shared.waiters.raw, room).await.is_err() {
                    return Ok(());
                }
                shared.drive(|machine, _| machine.handle_raw(&packet))?;
            }
        }
        let Some(filled) = next_batch(stream, &mut chunks).await else { return Ok(()) };
        if filled == 0 {
            return decoder.handle_fin().map_err(|error| violation(&error));
        }
        batch.extend(chunks[..filled].iter_mut().map(std::mem::take));
    }
}

async fn read_data(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    stream: &mut RecvStream,
    mut first: Vec<Bytes>,
) -> Result<(), CodedError> {
    // A client whose server has not answered yet knows that with the change of the path's status.
    let options = || shared.look(|machine| machine.data_options(path));
    let Ok(options) = shared.wait_for(&shared.waiters.paths, options).await else { return Ok(()) };
    let sink = Sink::new(shared.clone(), path);
    let mut reader = DataReader { sink, decoder: DataDecoder::new(options) };
    reader.handle_batch(connection, &mut first).await?;
    let mut chunks = first_batch();
    while let Some(filled) = next_batch(stream, &mut chunks).await {
        if filled == 0 {
            return reader.decoder.handle_fin().map_err(|error| violation(&error));
        }
        reader.handle_batch(connection, &mut chunks[..filled]).await?;
    }
    Ok(())
}

/// Where the frames go that are being read.
struct Target {
    id: StreamId,
    /// None: what comes is drained.
    recv: Option<SharedRecv>,
}

/// What a batch brought to one stream.
struct Batch {
    id: StreamId,
    bytes: u64,
    asked: u64,
    readable: bool,
    piece_ended: bool,
}

struct DataReader {
    sink: Sink,
    decoder: DataDecoder,
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

impl DataReader {
    async fn handle_batch(
        &mut self,
        connection: &Connection,
        mut batch: &mut [Bytes],
    ) -> Result<(), CodedError> {
        let mut handled = Ok(());
        while !batch.is_empty() && handled.is_ok() {
            // Most of bulk is chunks that a frame goes on behind.
            let inside = self.decoder.handle_payload(batch);
            let (now, later) = batch.split_at_mut(inside.max(1));
            handled = if inside > 0 { self.sink.put(now) } else { self.handle_chunk(&mut now[0]) };
            batch = later;
            if handled.is_ok() {
                handled = self.sink.end_turn().await;
            }
        }
        // What came before a violation counts.
        handled.and(self.sink.end_batch(connection))
    }

    fn handle_chunk(&mut self, chunk: &mut Bytes) -> Result<(), CodedError> {
        self.decoder.handle_input(std::mem::take(chunk));
        while let Some(event) = self.decoder.poll().map_err(|error| violation(&error))? {
            match event {
                DataEvent::Frame(header) => {
                    self.sink.count_frame()?;
                    self.sink.aim(StreamId::from_u64(header.stream_id), header.offset)?;
                }
                DataEvent::Payload(data) => self.sink.put(&mut [data])?,
                DataEvent::FrameEnd { fin: true } => self.sink.put_fin()?,
                DataEvent::FrameEnd { fin: false } => {}
                DataEvent::PacketEnd { id, payload, fin } => {
                    if payload == 0 && !fin {
                        self.sink.count_frame()?;
                    } else {
                        self.sink.turn.frames += 1;
                    }
                    self.sink.packets.note(id, payload as u64, fin);
                }
            }
        }
        Ok(())
    }
}

/// Puts payload into the streams it is for, and tells their sessions and readers once a batch.
pub(super) struct Sink {
    shared: AnyShared,
    path: PathId,
    target: Option<Target>,
    offset: u64,
    /// What came since the session was told, the last for the target.
    batches: Vec<Batch>,
    /// Packets that came whole since.
    packets: ArrivedPackets,
    figures_at: Option<Instant>,
    turn: Turn,
    /// Frames and packets since the last one that brought anything.
    empty: usize,
}

impl Sink {
    pub(super) fn new(shared: AnyShared, path: PathId) -> Self {
        let packets = ArrivedPackets::default();
        let (batches, turn) = (Vec::new(), Turn::default());
        let (target, offset, figures_at, empty) = (None, 0, None, 0);
        Self { shared, path, target, offset, batches, packets, figures_at, turn, empty }
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
                Ok(received) => self.note(len, received),
                Err(error) => {
                    // What came before the violation may be all that a reader waits for.
                    self.note(0, Received { readable: true, piece_ended: true, asked: 0 });
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

    fn put_fin(&mut self) -> Result<(), CodedError> {
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
            let none = Batch { id, bytes: 0, asked: 0, readable: false, piece_ended: false };
            self.batches.push(none);
        }
        if let Some(batch) = self.batches.last_mut() {
            batch.bytes += bytes;
            batch.asked += received.asked;
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
        self.target = Some(Target { id, recv });
        Ok(())
    }

    /// Tells readers and the session of what was put into streams, and the session of packets.
    pub(super) fn flush(&mut self) -> Result<(), CodedError> {
        self.flush_with(None)
    }

    /// The same, and tells the session first how the connection does.
    fn flush_with(&mut self, figures: Option<Figures>) -> Result<(), CodedError> {
        for batch in self.batches.iter().filter(|batch| batch.readable) {
            if let Some(waiters) = self.shared.stream_waiters(batch.id) {
                waiters.wake_reader();
            }
        }
        self.batches.retain(|batch| batch.bytes > 0 || batch.piece_ended);
        if self.batches.is_empty() && self.packets.is_empty() && figures.is_none() {
            return Ok(());
        }
        let packets = std::mem::take(&mut self.packets);
        let (path, batches) = (self.path, &mut self.batches);
        self.shared.drive(|machine, now| {
            if let Some(figures) = figures {
                machine.on_figures(path, figures, now);
            }
            for batch in batches.drain(..) {
                machine.on_received(path, batch.id, (batch.bytes, batch.asked), now);
            }
            if packets.is_empty() { Ok(()) } else { machine.on_packets(path, &packets, now) }
        })
    }

    pub(super) fn end_batch(&mut self, connection: &Connection) -> Result<(), CodedError> {
        let now = self.shared.runtime.now();
        if self.figures_at.is_some_and(|at| now < at + FIGURES_INTERVAL) {
            return self.flush();
        }
        self.figures_at = Some(now);
        let figures = connection.figures();
        self.shared.size_window(self.path, figures.rtt, figures.arrived, now);
        self.flush_with(Some(figures))
    }
}
