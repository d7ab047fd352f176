//! Writes frames to a QUIC stream of their own, without copying payload.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::StreamId;
use kwik_proto::ack::SharedSent;
use kwik_proto::sync::lock;
use kwik_proto::wire::{PacketEncoder, PacketFrame, StreamKind};

use super::Shared;
use crate::quic::{self, Connection, ConnectionError, Runtime, WriteError};

type Opening =
    Pin<Box<dyn Future<Output = Result<quic::SendStream, ConnectionError>> + Send + Sync>>;

type Delivered = Pin<Box<dyn Future<Output = Result<Option<u64>, ConnectionError>> + Send + Sync>>;

enum State {
    /// No frame was written yet.
    Unopened,
    /// Waiting for the peer to allow a QUIC stream.
    Opening(Opening),
    Open(quic::SendStream),
    /// Finished or reset here.
    Ended,
    Failed(WriteError),
}

/// Frames of one logical stream or lease on one QUIC stream, which is opened with the first of them.
///
/// A frame goes to QUIC at once as far as QUIC takes it. A task writes the rest, so that it leaves even if nobody
/// calls the writer again.
pub(crate) struct FrameWriter {
    connection: Connection,
    kind: StreamKind,
    runtime: Runtime,
    sent: SharedSent,
    encoder: PacketEncoder,
    headers: BytesMut,
    /// The task runs.
    flushing: bool,
    frames: Arc<Mutex<Frames>>,
}

/// What the writer and its task share.
struct Frames {
    state: State,
    /// Header and payload of a frame, and the header of the one that ends the stream.
    pending: Vec<Bytes>,
    /// The QUIC stream ends after what is pending.
    finish: bool,
    /// The task, asleep until there is something for it.
    flusher: Option<Waker>,
    /// Who waits until nothing is pending.
    writer: Option<Waker>,
    /// After a finish, until it completes: the peer has it all, or stopped the stream.
    delivered: Option<Delivered>,
}

/// What became of a stream that was finished.
pub(crate) struct Delivery(Arc<Mutex<Frames>>);

impl Delivery {
    /// Waits until the peer has acknowledged everything, or stopped the stream: its code.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, WriteError>> {
        let mut frames = lock(&self.0);
        match &frames.state {
            State::Failed(WriteError::Stopped(code)) => return Poll::Ready(Ok(Some(*code))),
            State::Failed(error) => return Poll::Ready(Err(error.clone())),
            State::Ended => {}
            State::Unopened | State::Opening(_) | State::Open(_) => {
                frames.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        let Some(delivered) = &mut frames.delivered else { return Poll::Ready(Ok(None)) };
        let outcome = ready!(delivered.as_mut().poll(cx));
        if outcome == Ok(None) {
            frames.delivered = None;
        }
        Poll::Ready(outcome.map_err(WriteError::ConnectionLost))
    }
}

impl FrameWriter {
    pub(crate) fn new<M: ?Sized>(shared: &Shared<M>, kind: StreamKind) -> Self {
        let frames = Frames {
            state: State::Unopened,
            pending: Vec::new(),
            finish: false,
            flusher: None,
            writer: None,
            delivered: None,
        };
        Self {
            connection: shared.connection.clone(),
            kind,
            runtime: shared.runtime.clone(),
            sent: shared.sent.clone(),
            encoder: PacketEncoder::new(),
            headers: BytesMut::new(),
            flushing: false,
            frames: Arc::new(frames.into()),
        }
    }

    /// Nothing was written yet, or is to be.
    pub(crate) fn is_unopened(&self) -> bool {
        matches!(lock(&self.frames).state, State::Unopened)
    }

    /// Appends a data frame; a `plain` one is kept until it is acknowledged. What was pushed before should have been
    /// flushed, but for what ends the stream.
    pub(crate) fn push(
        &mut self,
        stream: StreamId,
        offset: u64,
        payload: Bytes,
        (fin, plain): (bool, bool),
    ) -> Result<(), WriteError> {
        let frame = PacketFrame { stream_id: stream.as_u64(), offset, payload, fin };
        let bytes = frame.payload.len() as u64;
        let kept = if plain { vec![frame.clone()] } else { Vec::new() };
        let (id, options) = {
            let mut sent = lock(&self.sent);
            (sent.on_sent(bytes, kept), sent.options())
        };
        let mut chunks = Vec::with_capacity(3);
        self.encoder.encode(id, &[frame], options, &mut chunks);
        self.push_chunks(chunks)
    }

    /// Appends what `header` encodes, and the payload behind it.
    pub(crate) fn push_with(
        &mut self,
        payload: Bytes,
        header: impl FnOnce(&mut BytesMut),
    ) -> Result<(), WriteError> {
        header(&mut self.headers);
        let header = self.headers.split().freeze();
        self.push_chunks([header, payload])
    }

    fn push_chunks(&mut self, chunks: impl IntoIterator<Item = Bytes>) -> Result<(), WriteError> {
        let mut frames = lock(&self.frames);
        if matches!(frames.state, State::Unopened) {
            self.kind.encode(&mut self.headers);
            frames.pending.push(self.headers.split().freeze());
            let connection = self.connection.clone();
            frames.state = State::Opening(Box::pin(async move { connection.open_uni().await }));
        }
        frames.pending.extend(chunks.into_iter().filter(|chunk| !chunk.is_empty()));
        if frames.poll_flush(&mut Context::from_waker(Waker::noop())).is_pending() {
            if let Some(flusher) = &frames.flusher {
                flusher.wake_by_ref();
            }
            if !std::mem::replace(&mut self.flushing, true) {
                let frames = self.frames.clone();
                self.runtime.spawn(std::future::poll_fn(move |cx| lock(&frames).poll_task(cx)));
            }
        }
        frames.result()
    }

    /// Waits until everything pending is with QUIC.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut frames = lock(&self.frames);
        if !frames.pending.is_empty() {
            frames.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(frames.result())
    }

    /// Ends the QUIC stream once everything pending is written.
    pub(crate) fn finish(mut self) -> Delivery {
        self.end();
        Delivery(self.frames.clone())
    }

    /// Ends the QUIC stream where it is. A packet that has its number has to leave, so what is pending still does.
    fn end(&mut self) {
        let mut frames = lock(&self.frames);
        if !std::mem::replace(&mut frames.finish, true) && frames.pending.is_empty() {
            frames.end();
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        self.end();
    }
}

impl Frames {
    /// Writes everything pending, and the end of the stream if that is due.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok(stream) => self.state = State::Open(stream),
                    Err(error) => self.fail(error.into()),
                },
                State::Open(_) if self.pending.is_empty() => {
                    if self.finish {
                        self.end();
                    }
                    return Poll::Ready(());
                }
                State::Open(stream) => {
                    let written = ready!(stream.poll_write_chunks(cx, &mut self.pending));
                    match written {
                        Ok(_) => self.pending.retain(|chunk| !chunk.is_empty()),
                        Err(error) => self.fail(error),
                    }
                }
                State::Unopened | State::Ended | State::Failed(_) => {
                    self.pending.clear();
                    return Poll::Ready(());
                }
            }
        }
    }

    /// The task: flushes whatever comes, until no more can.
    fn poll_task(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.flusher = Some(cx.waker().clone());
        ready!(self.poll_flush(cx));
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        match self.state {
            State::Ended | State::Failed(_) => Poll::Ready(()),
            State::Unopened | State::Opening(_) | State::Open(_) => Poll::Pending,
        }
    }

    fn result(&self) -> Result<(), WriteError> {
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, error: WriteError) {
        self.state = State::Failed(error);
    }

    /// Ends the QUIC stream where it is.
    fn end(&mut self) {
        if let State::Open(stream) = &mut self.state {
            // An error means that it has ended already.
            stream.finish().ok();
            self.delivered = Some(Box::pin(stream.stopped()));
        }
        self.state = State::Ended;
        self.pending.clear();
        if let Some(flusher) = self.flusher.take() {
            flusher.wake();
        }
    }
}
