//! The reading handle.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use kwik_proto::StreamId;
use kwik_proto::stream::{Read, SharedRecv};
use kwik_proto::sync::lock;
use tokio::io::{AsyncRead, ReadBuf};

use crate::quic::ClosedStream;

use super::{Handle, ReadError, ReadToEndError};

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
