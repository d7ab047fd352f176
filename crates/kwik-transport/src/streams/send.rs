//! The writing handle.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use kwik_proto::presentation::BackpressureReason;
use kwik_proto::stream::{self, SharedSend, WriterKind};
use kwik_proto::sync::lock;
use kwik_proto::{Code, StreamId};
use tokio::io::AsyncWrite;

use crate::driver::{FrameWriter, Room};
use crate::quic::{self, ClosedStream, ConnectionError};

use super::error::WriteError;
use super::handle::Handle;

/// Writes a logical stream. Dropping it finishes the stream, as in quinn.
pub struct SendStream {
    handle: Handle,
    half: SharedSend,
    /// None once the stream has ended.
    writer: Option<FrameWriter>,
    /// The backpressure that [`Self::backpressure_changed`] told last.
    told: Option<BackpressureReason>,
}

impl SendStream {
    pub(super) fn new(handle: Handle, half: SharedSend) -> Self {
        let writer = Some(FrameWriter::new(&handle.shared.pool, WriterKind::Sharing));
        Self { handle, half, writer, told: None }
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

    /// Writes some of `chunks` without copying; those written become empty, one written in
    /// part keeps its rest. Small ones leave together. Cancel safe: what is left in `chunks`
    /// was not written.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Written, WriteError> {
        std::future::poll_fn(|cx| self.poll_write_chunks(cx, chunks)).await
    }

    /// Writes all of `chunks`, which become empty. Not cancel safe, but what is left was
    /// not written.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn write_all_chunks(&mut self, mut chunks: &mut [Bytes]) -> Result<(), WriteError> {
        while !chunks.is_empty() {
            let written = self.write_chunks(chunks).await?;
            chunks = &mut chunks[written.chunks..];
        }
        Ok(())
    }

    /// Higher goes first, as in quinn; 0 at the start, [`Priority`](crate::Priority) names
    /// some. Streams of equal priority take turns. What was written before may still leave as
    /// it would have.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.writer.as_ref().ok_or(ClosedStream)?.set_priority(priority);
        Ok(())
    }

    /// See [`Self::set_priority`].
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn priority(&self) -> Result<i32, ClosedStream> {
        Ok(self.writer.as_ref().ok_or(ClosedStream)?.priority())
    }

    /// Moves the cursor past an extent that leases fill, and no write; the extent. On a primary,
    /// see [`PrimarySession::lease`](crate::PrimarySession::lease).
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
        // A connection that is lost is told to who reads or writes, and to who waits for the
        // session's end.
        writer.push(id, final_size, [Bytes::new()], true).ok();
        // Its opener may get room for another; one of our own is over once it is acknowledged.
        if self.handle.accepted {
            self.handle.shared.drive(|machine, _| machine.streams_mut().retire(id));
        }
        Ok(())
    }

    /// Gives the stream up; the peer's reader gets `code`. What was not delivered may never be.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn reset(&mut self, code: u64) -> Result<(), ClosedStream> {
        let Some(mut writer) = self.writer.take() else { return Err(ClosedStream) };
        writer.discard();
        let id = self.handle.id;
        self.handle.shared.drive(|machine, _| machine.streams_mut().reset(id, code));
        Ok(())
    }

    /// Why the peer asks to slow down, if it does: of this stream, or of the whole session (8.3).
    /// Writing waits by itself once the credit that the peer granted is used up.
    #[must_use]
    pub fn backpressure(&self) -> Option<BackpressureReason> {
        let own = lock(&self.half).backpressure();
        own.or_else(|| self.handle.shared.look(|machine| machine.streams().backpressure()))
    }

    /// Waits until [`Self::backpressure`] is not what this call returned last, nothing at first.
    /// Cancel safe.
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

    /// Waits until the peer stops the stream: its code; or, of a finished stream, until the peer
    /// has everything that was written here: none. Cancel safe.
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
        if lock(&self.half).is_delivered() {
            return Poll::Ready(Ok(None));
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
        let room = ready!(self.poll_ready(cx))?;
        let range = ready!(self.poll_commit(cx, buf.len().min(room.bytes)))?;
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        if len > 0 {
            self.push(range.start, [Bytes::copy_from_slice(&buf[..len])])?;
        }
        Poll::Ready(Ok(len))
    }

    fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        chunks: &mut [Bytes],
    ) -> Poll<Result<Written, WriteError>> {
        if chunks.iter().all(Bytes::is_empty) {
            return Poll::Ready(Ok(Written { bytes: 0, chunks: chunks.len() }));
        }
        let room = ready!(self.poll_ready(cx))?;
        let filled = chunks.iter().filter(|chunk| !chunk.is_empty()).take(room.frames);
        let want = filled.map(Bytes::len).fold(0, usize::saturating_add).min(room.bytes);
        let range = ready!(self.poll_commit(cx, want))?;
        let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut left = bytes;
        let parts = chunks.iter_mut().map_while(|chunk| {
            let part = chunk.split_to(chunk.len().min(left));
            left -= part.len();
            (left > 0 || !part.is_empty()).then_some(part)
        });
        let parts = parts.filter(|part| !part.is_empty());
        self.push(range.start, parts)?;
        let written = chunks.iter().take_while(|chunk| chunk.is_empty()).count();
        Poll::Ready(Ok(Written { bytes, chunks: written }))
    }

    /// Waits until one more frame may wait to leave: how many bytes, and in how many parts.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<Room, WriteError>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(WriteError::ClosedStream));
        };
        let ready = ready!(writer.poll_ready(cx));
        Poll::Ready(ready.map_err(|error| self.lost(error)))
    }

    /// Waits until the peer grants credit, and commits to a frame.
    fn poll_commit(
        &mut self,
        cx: &mut Context<'_>,
        want: usize,
    ) -> Poll<Result<Range<u64>, WriteError>> {
        let want = want as u64;
        let commit = |half: &SharedSend| {
            let mut half = lock(half);
            let before = half.unacknowledged();
            half.commit(want).map(|range| (range, before))
        };
        let (mut range, mut before) = commit(&self.half)?;
        if range.is_empty() && want > 0 {
            self.handle.waiters.wait_writable(cx.waker());
            // Credit may have come before the waker was in place.
            (range, before) = commit(&self.half)?;
            if range.is_empty() {
                return match self.handle.shared.close_reason() {
                    Some(error) => Poll::Ready(Err(error.into())),
                    None => Poll::Pending,
                };
            }
        }
        if let Some(writer) = &mut self.writer {
            writer.on_unacknowledged(before, range.end - range.start);
        }
        Poll::Ready(Ok(range))
    }

    fn push(
        &mut self,
        offset: u64,
        parts: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), WriteError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let pushed = writer.push(self.handle.id, offset, parts, false);
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
