//! The writing handle.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use kwik_proto::presentation::BackpressureReason;
use kwik_proto::stream::{self, SharedSend};
use kwik_proto::sync::lock;
use kwik_proto::wire::StreamKind;
use kwik_proto::{Code, StreamId, limits};
use tokio::io::AsyncWrite;

use crate::driver::{Delivery, FrameWriter};
use crate::quic::{self, ClosedStream, ConnectionError};

use super::{Handle, WriteError};

/// Writes a logical stream. Dropping it finishes the stream, as in quinn.
pub struct SendStream {
    handle: Handle,
    half: SharedSend,
    /// None once the stream has ended.
    writer: Option<FrameWriter>,
    /// Once it was finished.
    delivery: Option<Delivery>,
    /// The backpressure that [`Self::backpressure_changed`] told last.
    told: Option<BackpressureReason>,
}

impl SendStream {
    pub(super) fn new(handle: Handle, half: SharedSend) -> Self {
        let shared = &handle.shared;
        let writer = Some(FrameWriter::new(shared, StreamKind::Data));
        Self { handle, half, writer, delivery: None, told: None }
    }

    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.handle.id
    }

    /// Writes some of `buf`; how much. Cancel safe: nothing was written unless it completed.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, WriteError> {
        std::future::poll_fn(|cx| self.poll_write_slice(cx, buf)).await
    }

    /// Writes all of `buf`. Not cancel safe: a part may have been written.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write_all(&mut self, mut buf: &[u8]) -> Result<(), WriteError> {
        while !buf.is_empty() {
            let written = std::future::poll_fn(|cx| self.poll_write_slice(cx, buf)).await?;
            buf = &buf[written..];
        }
        Ok(())
    }

    /// Writes all of `chunk` without copying it. Not cancel safe.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write_chunk(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.write_all_chunks(&mut [chunk]).await
    }

    /// Writes some of `chunks` without copying; those written become empty, one written in part keeps its
    /// rest. Cancel safe: what is left in `chunks` was not written.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Written, WriteError> {
        let mut written = Written { bytes: 0, chunks: 0 };
        let Some(at) = chunks.iter().position(|chunk| !chunk.is_empty()) else {
            return Ok(Written { bytes: 0, chunks: chunks.len() });
        };
        let chunk = &mut chunks[at];
        written.bytes = std::future::poll_fn(|cx| self.poll_write_chunk(cx, chunk)).await?;
        written.chunks = at + usize::from(chunk.is_empty());
        Ok(written)
    }

    /// Writes all of `chunks`, which become empty. Not cancel safe, but what is left was not written.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write_all_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        for chunk in chunks {
            while !chunk.is_empty() {
                std::future::poll_fn(|cx| self.poll_write_chunk(cx, chunk)).await?;
            }
        }
        Ok(())
    }

    /// Moves the cursor past an extent that leases fill, and no write; the extent. On a primary, see
    /// [`PrimarySession::lease`](crate::PrimarySession::lease).
    ///
    /// # Errors
    /// The stream has ended, or would grow too long.
    pub fn reserve(&mut self, len: u64) -> Result<Range<u64>, WriteError> {
        Ok(lock(&self.half).reserve(len)?)
    }

    /// Nothing more will be written. Does not wait until the peer has it.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let Some(mut writer) = self.writer.take() else { return Err(ClosedStream) };
        let finished = lock(&self.half).finish();
        let final_size = match finished {
            Ok(size) => size,
            // As in quinn: harmless to who has nothing more to say.
            Err(stream::WriteError::Stopped(_)) => return Ok(()),
            Err(_) => return Err(ClosedStream),
        };
        let id = self.handle.id;
        // A connection that is lost is told to who reads or writes, and to who waits for the session's end.
        writer.push(id, final_size, Bytes::new(), (true, true)).ok();
        self.delivery = Some(writer.finish());
        self.handle.shared.drive(|machine, _| machine.streams().retire(id));
        Ok(())
    }

    /// Gives the stream up; the peer's reader gets `code`. What was not delivered may never be.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn reset(&mut self, code: u64) -> Result<(), ClosedStream> {
        if self.writer.take().is_none() {
            return Err(ClosedStream);
        }
        let id = self.handle.id;
        self.handle.shared.drive(|machine, _| machine.streams().reset(id, code));
        Ok(())
    }

    /// Why the peer asks to slow down, if it does: of this stream, or of the whole session (8.3). Writing
    /// waits by itself once the credit that the peer granted is used up.
    #[must_use]
    pub fn backpressure(&self) -> Option<BackpressureReason> {
        let own = lock(&self.half).backpressure();
        own.or_else(|| self.handle.shared.look(|machine| machine.streams().backpressure()))
    }

    /// Waits until [`Self::backpressure`] is not what this call returned last, nothing at first. Cancel
    /// safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn backpressure_changed(
        &mut self,
    ) -> Result<Option<BackpressureReason>, ConnectionError> {
        std::future::poll_fn(|cx| {
            self.handle.waiters.wait_writable(cx.waker());
            let reason = self.backpressure();
            if reason != std::mem::replace(&mut self.told, reason) {
                return Poll::Ready(Ok(reason));
            }
            match self.handle.shared.close_reason() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Waits until the peer stops the stream: its code; or, of a finished stream, until the peer has everything that was
    /// written here: none. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn stopped(&mut self) -> Result<Option<u64>, ConnectionError> {
        std::future::poll_fn(|cx| self.poll_stopped(cx)).await
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, ConnectionError>> {
        self.handle.waiters.wait_writable(cx.waker());
        if let Some(code) = lock(&self.half).stopped() {
            // A client says so of a stream that servers brought whole.
            return Poll::Ready(Ok(Some(code).filter(|code| *code != Code::NoError.as_u64())));
        }
        if let Some(delivery) = &mut self.delivery
            && let Poll::Ready(Ok(outcome)) = delivery.poll(cx)
        {
            return Poll::Ready(Ok(outcome));
        }
        match self.handle.shared.close_reason() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }

    fn poll_write_slice(
        &mut self,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        let range = ready!(self.poll_commit(cx, buf.len()))?;
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.push(range.start, Bytes::copy_from_slice(&buf[..len]))?;
        Poll::Ready(Ok(len))
    }

    fn poll_write_chunk(
        &mut self,
        cx: &mut Context<'_>,
        chunk: &mut Bytes,
    ) -> Poll<Result<usize, WriteError>> {
        let range = ready!(self.poll_commit(cx, chunk.len()))?;
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.push(range.start, chunk.split_to(len))?;
        Poll::Ready(Ok(len))
    }

    /// Waits until the last frame is with QUIC and the peer grants credit, and commits to a frame.
    fn poll_commit(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<Range<u64>, WriteError>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(WriteError::ClosedStream));
        };
        if let Err(error) = ready!(writer.poll_flush(cx)) {
            return Poll::Ready(Err(self.lost(error)));
        }
        let want = want.min(limits::MAX_PACKET_PAYLOAD) as u64;
        let mut range = lock(&self.half).commit(want)?;
        if range.is_empty() && want > 0 {
            self.handle.waiters.wait_writable(cx.waker());
            // Credit may have come before the waker was in place.
            range = lock(&self.half).commit(want)?;
            if range.is_empty() {
                return match self.handle.shared.close_reason() {
                    Some(error) => Poll::Ready(Err(error.into())),
                    None => Poll::Pending,
                };
            }
        }
        Poll::Ready(Ok(range))
    }

    fn push(&mut self, offset: u64, payload: Bytes) -> Result<(), WriteError> {
        let Some(writer) = self.writer.as_mut().filter(|_| !payload.is_empty()) else {
            return Ok(());
        };
        let pushed = writer.push(self.handle.id, offset, payload, (false, true));
        pushed.map_err(|error| self.lost(error))
    }

    fn lost(&self, error: quic::WriteError) -> WriteError {
        WriteError::from_quic(error, self.handle.shared.close_reason())
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendStream").field("id", &self.handle.id).finish_non_exhaustive()
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        // An error means that it has ended already.
        self.finish().ok();
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_slice(cx, buf).map_err(Into::into)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writer) = &mut self.writer else { return Poll::Ready(Ok(())) };
        let flushed = ready!(writer.poll_flush(cx));
        Poll::Ready(flushed.map_err(|error| self.lost(error).into()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.finish().ok();
        Poll::Ready(Ok(()))
    }
}

/// What [`SendStream::write_chunks`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub bytes: usize,
    /// Chunks that were written whole.
    pub chunks: usize,
}
