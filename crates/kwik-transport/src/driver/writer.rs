//! Writes data frames to a QUIC stream of their own, without copying payload.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use kwik_proto::StreamId;
use kwik_proto::wire::{FrameHeader, StreamKind, data};
use tokio::sync::oneshot;

use crate::quic::{self, Connection, ConnectionError, Runtime};

type Opening =
    Pin<Box<dyn Future<Output = Result<quic::SendStream, ConnectionError>> + Send + Sync>>;

enum State {
    /// No frame was written yet.
    Unopened,
    /// Waiting for the peer to allow a QUIC stream.
    Opening(Opening),
    Open(quic::SendStream),
    /// A task hands the pending frame over and then gives the writer back.
    Away(oneshot::Receiver<Box<FrameWriter>>),
    /// Finished, reset or lost.
    Closed,
}

/// Frames of one logical stream or lease on one QUIC stream, which is opened with the first of them. Holds
/// at most one frame that QUIC has not taken yet.
pub(crate) struct FrameWriter {
    connection: Connection,
    state: State,
    /// Header and payload that are still to be written.
    pending: [Bytes; 2],
    headers: BytesMut,
    finish: bool,
}

impl FrameWriter {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            state: State::Unopened,
            pending: [Bytes::new(), Bytes::new()],
            headers: BytesMut::new(),
            finish: false,
        }
    }

    /// Appends a frame. The one before must have been flushed.
    pub(crate) fn push(&mut self, stream: StreamId, offset: u64, payload: Bytes, fin: bool) {
        debug_assert!(self.pending.iter().all(Bytes::is_empty), "invariant: flushed before");
        if matches!(self.state, State::Unopened) {
            StreamKind::Data.encode(&mut self.headers);
            let connection = self.connection.clone();
            self.state = State::Opening(Box::pin(async move { connection.open_uni().await }));
        }
        let header = FrameHeader { stream_id: stream.as_u64(), offset, len: payload.len() };
        data::encode_packet_header(&mut self.headers, &header, fin);
        self.pending = [self.headers.split().freeze(), payload];
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
                State::Away(back) => match ready!(Pin::new(back).poll(cx)) {
                    Ok(writer) => {
                        let finish = self.finish;
                        *self = *writer;
                        self.finish = finish;
                    }
                    // The runtime has ended.
                    Err(_) => self.state = State::Closed,
                },
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

    /// Has everything pending handed to QUIC though nobody polls, in a task if it does not go at once.
    pub(crate) fn flush_in_background(&mut self, runtime: &Runtime) {
        if self.flush_now().is_ready() || matches!(self.state, State::Away(_)) {
            return;
        }
        let (mut give_back, back) = oneshot::channel();
        let mut absent = Self::new(self.connection.clone());
        absent.state = State::Away(back);
        let mut writer = Box::new(std::mem::replace(self, absent));
        runtime.spawn(async move {
            let flushed = std::future::poll_fn(|cx| {
                if give_back.poll_closed(cx).is_ready() {
                    return Poll::Ready(false);
                }
                // An error repeats for whoever writes next.
                writer.poll_flush(cx).map(|_| true)
            });
            if flushed.await {
                give_back.send(writer).ok();
            }
        });
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
