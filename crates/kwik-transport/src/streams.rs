//! A session's streams, with the names and shapes of quinn's (1.1).

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use kwik_proto::stream::{self, Halves, Read, SharedRecv, SharedSend};
use kwik_proto::sync::lock;
use kwik_proto::wire::StreamKind;
use kwik_proto::{Code, CodedError, StreamId, limits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::driver::{Delivery, FrameWriter, Held, StreamRole, StreamWaiters};
use crate::quic::{self, ConnectionError};

use crate::quic::ClosedStream;

pub(crate) type StreamSession = Held<dyn StreamRole>;

/// Why a write failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer reads no more of the stream.
    #[error("the peer stopped the stream with code {0}")]
    Stopped(u64),
    /// The session is over.
    #[error("session lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was finished or reset already.
    #[error("the stream was finished or reset already")]
    ClosedStream,
    /// The stream would grow past 2^62 - 1 bytes.
    #[error("the stream would grow past the largest offset")]
    TooLong,
}

impl From<stream::WriteError> for WriteError {
    fn from(error: stream::WriteError) -> Self {
        match error {
            stream::WriteError::Stopped(code) => Self::Stopped(code),
            stream::WriteError::TooLong => Self::TooLong,
            _ => Self::ClosedStream,
        }
    }
}

impl WriteError {
    /// An error of a QUIC stream, in a session that ended for this reason, if it did.
    pub(crate) fn from_quic(error: quic::WriteError, closed: Option<ConnectionError>) -> Self {
        match error {
            quic::WriteError::Stopped(code) => Self::Stopped(code),
            quic::WriteError::ConnectionLost(lost) => Self::ConnectionLost(closed.unwrap_or(lost)),
            quic::WriteError::ClosedStream => Self::ClosedStream,
        }
    }
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match error {
            WriteError::Stopped(_) => io::ErrorKind::ConnectionReset,
            WriteError::ConnectionLost(_) | WriteError::ClosedStream => io::ErrorKind::NotConnected,
            WriteError::TooLong => io::ErrorKind::FileTooLarge,
        };
        Self::new(kind, error)
    }
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer gave the stream up.
    #[error("the peer reset the stream with code {0}")]
    Reset(u64),
    /// The session is over.
    #[error("session lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was stopped here.
    #[error("the stream was stopped already")]
    ClosedStream,
    /// The stream cannot be completed, for instance since no server is left that could bring the rest.
    #[error("{0}")]
    Failed(CodedError),
}

impl From<stream::ReadError> for ReadError {
    fn from(error: stream::ReadError) -> Self {
        match error {
            stream::ReadError::Reset(code) => Self::Reset(code),
            stream::ReadError::Failed(error) => Self::Failed(error),
            _ => Self::ClosedStream,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match error {
            ReadError::Reset(_) => io::ErrorKind::ConnectionReset,
            ReadError::ConnectionLost(_) | ReadError::ClosedStream => io::ErrorKind::NotConnected,
            ReadError::Failed(_) => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

/// What both handles of a stream hold.
struct Handle {
    shared: StreamSession,
    id: StreamId,
    waiters: Arc<StreamWaiters>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.release_stream(self.id);
    }
}

/// The handles of a stream that was opened or accepted.
pub(crate) fn handles(
    shared: &StreamSession,
    halves: Halves,
) -> (Option<SendStream>, Option<RecvStream>) {
    let handle = || Handle {
        shared: shared.clone(),
        id: halves.id,
        waiters: shared.register_stream(halves.id),
    };
    let send = halves.send.map(|half| SendStream {
        handle: handle(),
        half,
        writer: Some(FrameWriter::new(
            shared.connection.clone(),
            StreamKind::Data,
            &shared.runtime,
        )),
        delivery: None,
    });
    let recv = halves.recv.map(|half| RecvStream { handle: handle(), half, ended: false });
    (send, recv)
}

/// Writes a logical stream. Dropping it finishes the stream, as in quinn.
pub struct SendStream {
    handle: Handle,
    half: SharedSend,
    /// None once the stream has ended.
    writer: Option<FrameWriter>,
    /// Once it was finished.
    delivery: Option<Delivery>,
}

impl SendStream {
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
        writer.push(id, final_size, Bytes::new(), true).ok();
        self.delivery = Some(writer.finish());
        self.handle.shared.drive(|machine, _| machine.streams().retire(id));
        Ok(())
    }

    /// Gives the stream up; the peer's reader gets `code`. What was not delivered may never be.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn reset(&mut self, code: u64) -> Result<(), ClosedStream> {
        let Some(writer) = self.writer.take() else { return Err(ClosedStream) };
        writer.reset(code);
        let id = self.handle.id;
        self.handle.shared.drive(|machine, _| machine.streams().reset(id, code));
        Ok(())
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
        let pushed = writer.push(self.handle.id, offset, payload, false);
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

/// Data of a stream, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// Reads a logical stream in order, whichever servers fill it. Dropping it before the end stops the stream
/// with code 0, as in quinn.
pub struct RecvStream {
    handle: Handle,
    half: SharedRecv,
    /// The end or an error was seen.
    ended: bool,
}

impl RecvStream {
    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.handle.id
    }

    /// Reads some bytes into `buf`: how many, none at the end. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, ReadError> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        let chunk = std::future::poll_fn(|cx| self.poll_next(cx, buf.len())).await?;
        Ok(chunk.map(|chunk| {
            buf[..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
            chunk.bytes.len()
        }))
    }

    /// The next bytes without a copy, at most `max_length` and at least one; none at the end. With `ordered` off any order
    /// is permitted; this version keeps to the right one. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_chunk(
        &mut self,
        max_length: usize,
        _ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        std::future::poll_fn(|cx| self.poll_next(cx, max_length.max(1))).await
    }

    /// Fills `bufs` with the next bytes without a copy: how many were filled, none at the end. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if bufs.is_empty() {
            return Ok(Some(0));
        }
        std::future::poll_fn(|cx| self.poll_chunks(cx, bufs)).await
    }

    /// Everything up to the end. Not cancel safe.
    ///
    /// # Errors
    /// See [`ReadToEndError`]; when there are more than `size_limit` bytes, they are lost.
    pub async fn read_to_end(&mut self, size_limit: usize) -> Result<Vec<u8>, ReadToEndError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.read_chunk(usize::MAX, true).await? {
            if all.len() + chunk.bytes.len() > size_limit {
                return Err(ReadToEndError::TooLong);
            }
            all.extend_from_slice(&chunk.bytes);
        }
        Ok(all)
    }

    /// Reads no more: the peer's writer gets `code`.
    ///
    /// # Errors
    /// The stream has ended already.
    pub fn stop(&mut self, code: u64) -> Result<(), ClosedStream> {
        if std::mem::replace(&mut self.ended, true) {
            return Err(ClosedStream);
        }
        let id = self.handle.id;
        self.handle.shared.drive(|machine, now| machine.stop(id, code, now));
        Ok(())
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Chunk>, ReadError>> {
        let mut bufs = [Bytes::new()];
        let filled = ready!(self.poll_some(cx, &mut bufs, max))?;
        Poll::Ready(Ok(filled.map(|(offset, _)| {
            let [bytes] = bufs;
            Chunk { offset, bytes }
        })))
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        let filled = ready!(self.poll_some(cx, bufs, usize::MAX))?;
        Poll::Ready(Ok(filled.map(|(_, filled)| filled)))
    }

    /// Fills `bufs` with chunks of at most `max` bytes: the first's offset and how many, none at the end.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
        max: usize,
    ) -> Poll<Result<Option<(u64, usize)>, ReadError>> {
        let mut waiting = false;
        loop {
            let (first, filled, due) = {
                let mut half = lock(&self.half);
                let first = half.read_position();
                let mut filled = 0;
                let end = loop {
                    match half.read(max) {
                        Ok(Read::Data(data)) => {
                            bufs[filled] = data;
                            filled += 1;
                            if filled == bufs.len() {
                                break Ok(None);
                            }
                        }
                        Ok(Read::Blocked) => break Ok(None),
                        Ok(Read::Finished) => break Ok(Some(())),
                        Err(error) => break Err(error),
                    }
                };
                if filled == 0 {
                    match end {
                        Ok(None) => {}
                        Ok(Some(())) => {
                            drop(half);
                            return Poll::Ready(self.end(Ok(None)));
                        }
                        Err(error) => {
                            drop(half);
                            return Poll::Ready(self.end(Err(error.into())));
                        }
                    }
                }
                (first, filled, half.is_update_due())
            };
            if due {
                let id = self.handle.id;
                self.handle.shared.drive(|machine, now| machine.on_consumed(id, now));
            }
            if filled > 0 {
                return Poll::Ready(Ok(Some((first, filled))));
            }
            if let Some(error) = self.handle.shared.close_reason() {
                self.ended = true;
                return Poll::Ready(Err(error.into()));
            }
            if waiting {
                return Poll::Pending;
            }
            // Bytes may come before the waker is in place: look once more.
            self.handle.waiters.wait_readable(cx.waker());
            waiting = true;
        }
    }

    /// The end was reached: the session may forget the stream.
    fn end<T>(&mut self, result: Result<T, ReadError>) -> Result<T, ReadError> {
        if !std::mem::replace(&mut self.ended, true) {
            let id = self.handle.id;
            self.handle.shared.drive(|machine, now| machine.on_consumed(id, now));
        }
        result
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvStream").field("id", &self.handle.id).finish_non_exhaustive()
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        // An error means that it has ended already.
        self.stop(0).ok();
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(chunk) = ready!(self.get_mut().poll_next(cx, buf.remaining()))?
        {
            buf.put_slice(&chunk.bytes);
        }
        Poll::Ready(Ok(()))
    }
}

/// Why [`RecvStream::read_to_end`] failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadToEndError {
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// There is more than the limit.
    #[error("the stream is longer than the limit")]
    TooLong,
}
