//! Writes frames to a QUIC stream of their own, without copying payload.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::StreamId;
use kwik_proto::wire::{FrameHeader, StreamKind, data};

use crate::quic::{self, Connection, ConnectionError, Runtime};

type Opening =
    Pin<Box<dyn Future<Output = Result<quic::SendStream, ConnectionError>> + Send + Sync>>;

enum State {
    /// No frame was written yet.
    Unopened,
    /// Waiting for the peer to allow a QUIC stream.
    Opening(Opening),
    Open(quic::SendStream),
    /// Finished, reset or lost.
    Closed,
}

/// Frames of one logical stream or lease on one QUIC stream, which is opened with the first of them. Holds
/// at most one frame that QUIC has not taken yet.
pub(crate) struct FrameWriter {
    connection: Connection,
    state: State,
    kind: StreamKind,
    /// Header, payload and what follows it that are still to be written.
    pending: [Bytes; 3],
    headers: BytesMut,
    finish: bool,
}

impl FrameWriter {
    pub(crate) fn new(connection: Connection, kind: StreamKind) -> Self {
        Self {
            connection,
            state: State::Unopened,
            kind,
            pending: [const { Bytes::new() }; 3],
            headers: BytesMut::new(),
            finish: false,
        }
    }

    /// Nothing was written yet, or is to be.
    pub(crate) fn is_unopened(&self) -> bool {
        matches!(self.state, State::Unopened)
    }

    /// Appends a data frame. The one before must have been flushed.
    pub(crate) fn push(&mut self, stream: StreamId, offset: u64, payload: Bytes, fin: bool) {
        let header = FrameHeader { stream_id: stream.as_u64(), offset, len: payload.len() };
        self.push_with(payload, |out| data::encode_packet_header(out, &header, fin));
    }

    /// Appends what `header` encodes and the payload behind it. What was pushed before must have been flushed.
    pub(crate) fn push_with(&mut self, payload: Bytes, header: impl FnOnce(&mut BytesMut)) {
        debug_assert!(self.pending.iter().all(Bytes::is_empty), "invariant: flushed before");
        if matches!(self.state, State::Unopened) {
            self.kind.encode(&mut self.headers);
            let connection = self.connection.clone();
            self.state = State::Opening(Box::pin(async move { connection.open_uni().await }));
        }
        header(&mut self.headers);
        self.pending = [self.headers.split().freeze(), payload, Bytes::new()];
    }

    /// Appends the last bytes of all behind what is pending.
    pub(crate) fn push_last(&mut self, bytes: Bytes) {
        self.pending[2] = bytes;
    }

    /// Hands everything pending to QUIC. The task is woken when it can go on.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), quic::WriteError>> {
        loop {
            match &mut self.state {
                State::Opening(opening) => {
                    let opened = ready!(opening.as_mut().poll(cx));
                    self.state = opened.map_or(State::Closed, State::Open);
                }
                State::Open(stream) => {
                    if self.pending.iter().all(Bytes::is_empty) {
                        if std::mem::take(&mut self.finish) {
                            // An error means that the peer stopped it: there is no one to tell.
                            stream.finish().ok();
                            self.state = State::Closed;
                        }
                        return Poll::Ready(Ok(()));
                    }
                    let written = ready!(stream.poll_write_chunks(cx, &mut self.pending));
                    if let Err(error) = written {
                        self.state = State::Closed;
                        return Poll::Ready(Err(error));
                    }
                }
                State::Unopened => return Poll::Ready(Ok(())),
                State::Closed if self.pending.iter().all(Bytes::is_empty) => {
                    return Poll::Ready(Ok(()));
                }
                State::Closed => {
                    let lost = self.connection.close_reason();
                    return Poll::Ready(Err(lost.map_or(
                        quic::WriteError::ClosedStream,
                        quic::WriteError::ConnectionLost,
                    )));
                }
            }
        }
    }

    /// Hands over what QUIC takes at once.
    pub(crate) fn flush_now(&mut self) -> Poll<Result<(), quic::WriteError>> {
        self.poll_flush(&mut Context::from_waker(Waker::noop()))
    }

    /// Ends the QUIC stream once everything pending is written, in a task if it does not go at once.
    pub(crate) fn finish(mut self, runtime: &Runtime) {
        self.finish = true;
        if self.flush_now().is_pending() {
            runtime.spawn(async move {
                let flushed = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
                if let Err(error) = flushed {
                    tracing::debug!(%error, "a stream's last bytes were not written");
                }
            });
        }
    }

    /// Gives the QUIC stream up; what was not delivered is not sent any more.
    pub(crate) fn reset(mut self, code: u64) {
        if let State::Open(stream) = &mut self.state {
            stream.reset(code).ok();
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        // QUIC would finish the stream inside the frame, which breaks the protocol.
        if let State::Open(stream) = &mut self.state
            && !self.pending.iter().all(Bytes::is_empty)
        {
            stream.reset(0).ok();
        }
    }
}
