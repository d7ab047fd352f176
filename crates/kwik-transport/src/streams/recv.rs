//! The reading handle.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use kwik_proto::stream::{Read, RecvHalf, SharedRecv, StreamMetadata};
use kwik_proto::sync::lock;
use kwik_proto::{PathId, StreamId};
use tokio::io::{AsyncRead, ReadBuf};

use crate::quic::{ClosedStream, ConnectionError};

use super::error::{ReadError, ReadTimeoutError, ReadToEndError, Stalled};
use super::handle::Handle;

/// A timeout that never ends, and that no clock overflows with: 136 years.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(u32::MAX as u64);

/// Data of a stream, with its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Chunk {
    /// Where it begins.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
    /// The path that brought them (1.2, 8.5); none when several did, and which is not known.
    pub path: Option<PathId>,
}

/// How chunks are taken from a stream.
#[derive(Debug, Clone, Copy)]
enum Taken {
    /// The next ones.
    Ordered,
    /// The next ones, each from one path.
    Sourced,
    /// Any that are here.
    Unordered,
}

impl Taken {
    /// The next chunk's place, and its bytes.
    fn read(
        self,
        half: &mut RecvHalf,
        max: usize,
    ) -> Result<(Chunk, Read), kwik_proto::stream::ReadError> {
        let mut chunk = Chunk { offset: half.read_position(), ..Chunk::default() };
        let read = match self {
            Self::Ordered => half.read(max)?,
            Self::Sourced => {
                let (path, end) = half.origin(chunk.offset);
                chunk.path = path;
                let one = usize::try_from(end - chunk.offset).unwrap_or(usize::MAX);
                half.read(max.min(one))?
            }
            Self::Unordered => {
                let (offset, read) = half.read_unordered(max)?;
                let (path, end) = half.origin(offset);
                let one = |data: &Bytes| offset + data.len() as u64 <= end;
                let one = matches!(&read, Read::Data(data) if one(data));
                chunk = Chunk { offset, path: path.filter(|_| one), ..chunk };
                read
            }
        };
        Ok((chunk, read))
    }
}

impl Chunk {
    /// Copies the bytes to the beginning of `buf`: how many.
    fn copy_to(&self, buf: &mut [u8]) -> usize {
        buf[..self.bytes.len()].copy_from_slice(&self.bytes);
        self.bytes.len()
    }
}

/// Reads a logical stream in order, whichever servers fill it. Dropping it before the end stops the
/// stream with code 0, as in quinn.
pub struct RecvStream {
    handle: Handle,
    half: SharedRecv,
    /// The end or an error was seen.
    ended: bool,
}

impl RecvStream {
    pub(super) fn new(handle: Handle, half: SharedRecv) -> Self {
        Self { handle, half, ended: false }
    }

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
        let chunk = std::future::poll_fn(|cx| self.poll_next(cx, buf.len(), true)).await?;
        Ok(chunk.map(|chunk| chunk.copy_to(buf)))
    }

    /// Reads some bytes into `buf`, or gives up after `timeout`: how many, none at the end.
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`ReadTimeoutError`]; one that timed out says what is missing.
    pub async fn read_timeout(
        &mut self,
        buf: &mut [u8],
        timeout: Duration,
    ) -> Result<Option<usize>, ReadTimeoutError> {
        if buf.is_empty() {
            return Ok(Some(0));
        }
        let chunk = self.read_chunk_timeout(buf.len(), true, timeout).await?;
        Ok(chunk.map(|chunk| chunk.copy_to(buf)))
    }

    /// The next bytes without a copy, at most `max_length` and at least one; none at the end. With
    /// `ordered` off any bytes that are here, the lowest first, which may be mixed with ordered
    /// reading: that steps over what was taken. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_chunk(
        &mut self,
        max_length: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        std::future::poll_fn(|cx| self.poll_next(cx, max_length.max(1), ordered)).await
    }

    /// As [`Self::read_chunk`], but gives up after `timeout`. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadTimeoutError`]; one that timed out says what is missing.
    pub async fn read_chunk_timeout(
        &mut self,
        max_length: usize,
        ordered: bool,
        timeout: Duration,
    ) -> Result<Option<Chunk>, ReadTimeoutError> {
        let runtime = self.handle.shared.runtime.clone();
        let mut timer = runtime.sleep_until(runtime.now() + timeout.min(LONGEST_TIMEOUT));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = self.poll_next(cx, max_length.max(1), ordered) {
                return Poll::Ready(result.map_err(Into::into));
            }
            let timed_out = Pin::new(&mut timer).poll(cx);
            timed_out.map(|()| Err(ReadTimeoutError::TimedOut(self.stalled(timeout))))
        })
        .await
    }

    /// What the stream's opener says of it (8.5), nothing by default; waits until that is here,
    /// which may be a little after the first bytes. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn metadata(&mut self) -> Result<StreamMetadata, ConnectionError> {
        std::future::poll_fn(|cx| {
            self.handle.waiters.wait_readable(cx.waker());
            if let Some(metadata) = lock(&self.half).metadata() {
                return Poll::Ready(Ok(metadata.clone()));
            }
            match self.handle.shared.close_reason() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// What the reader waits for.
    fn stalled(&self, waited: Duration) -> Stalled {
        let half = lock(&self.half);
        let (position, missing) = (half.read_position(), half.blocking_gap());
        Stalled { stream: self.handle.id, position, missing, held: half.held(), waited }
    }

    /// Fills `bufs` with the next bytes without a copy: how many were filled, none at the end.
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if bufs.is_empty() {
            return Ok(Some(0));
        }
        let mut filled = 0;
        let mut put = |chunk: Chunk| {
            bufs[filled] = chunk.bytes;
            filled += 1;
            filled < bufs.len()
        };
        std::future::poll_fn(|cx| self.poll_some(cx, usize::MAX, Taken::Ordered, &mut put)).await
    }

    /// Fills `chunks` with the next bytes, of which each chunk says who brought it: how many were
    /// filled, none at the end. Cancel safe.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_sourced(&mut self, chunks: &mut [Chunk]) -> Result<Option<usize>, ReadError> {
        if chunks.is_empty() {
            return Ok(Some(0));
        }
        let mut filled = 0;
        let mut put = |chunk: Chunk| {
            chunks[filled] = chunk;
            filled += 1;
            filled < chunks.len()
        };
        std::future::poll_fn(|cx| self.poll_some(cx, usize::MAX, Taken::Sourced, &mut put)).await
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
        ordered: bool,
    ) -> Poll<Result<Option<Chunk>, ReadError>> {
        let mut next = None;
        let mut put = |chunk: Chunk| {
            next = Some(chunk);
            false
        };
        let taken = if ordered { Taken::Sourced } else { Taken::Unordered };
        ready!(self.poll_some(cx, max, taken, &mut put))?;
        Poll::Ready(Ok(next))
    }

    /// Hands chunks of at most `max` bytes to `put` while that wants more: how many, none at
    /// the end.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
        taken: Taken,
        put: &mut impl FnMut(Chunk) -> bool,
    ) -> Poll<Result<Option<usize>, ReadError>> {
        let mut waiting = false;
        loop {
            let (filled, due) = {
                let mut half = lock(&self.half);
                let mut filled = 0;
                let end = loop {
                    match taken.read(&mut half, max) {
                        Ok((chunk, Read::Data(bytes))) => {
                            filled += 1;
                            if !put(Chunk { bytes, ..chunk }) {
                                break Ok(None);
                            }
                        }
                        Ok((_, Read::Blocked)) => break Ok(None),
                        Ok((_, Read::Finished)) => break Ok(Some(())),
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
                (filled, half.is_update_due())
            };
            if due {
                let id = self.handle.id;
                self.handle.shared.drive(|machine, now| machine.on_consumed(id, now));
            }
            if filled > 0 {
                return Poll::Ready(Ok(Some(filled)));
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
            && let Some(chunk) = ready!(self.get_mut().poll_next(cx, buf.remaining(), true))?
        {
            buf.put_slice(&chunk.bytes);
        }
        Poll::Ready(Ok(()))
    }
}
