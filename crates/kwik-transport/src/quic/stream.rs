//! QUIC streams: payload moves as `Bytes`, without a copy.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
};

use bytes::Bytes;

#[cfg(test)]
use super::ConnectionError;
use super::{ClosedStream, ReadError, WriteError, varint};

/// What a write took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuicWritten {
    /// Bytes.
    pub(crate) bytes: usize,
    /// Buffers taken whole; they are empty now.
    pub(crate) chunks: usize,
}

impl From<quinn::Written> for QuicWritten {
    fn from(written: quinn::Written) -> Self {
        Self { bytes: written.bytes, chunks: written.chunks }
    }
}

/// Data of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its place in the QUIC stream.
    pub(crate) offset: u64,
    /// The data: a slice of a received batch, so it can pin up to 64 KiB.
    pub(crate) bytes: Bytes,
}

/// The sending half of a QUIC stream. Dropping it finishes the stream.
#[derive(Debug)]
pub(crate) struct SendStream(quinn::SendStream);

impl SendStream {
    pub(super) fn new(inner: quinn::SendStream) -> Self {
        Self(inner)
    }

    /// Writes as much of `bufs` as credit allows, at least a byte. Buffers taken whole become
    /// empty, one taken in part keeps its rest.
    ///
    /// Cancel safe: nothing was written unless it completed.
    pub(crate) async fn write_chunks(
        &mut self,
        bufs: &mut [Bytes],
    ) -> Result<QuicWritten, WriteError> {
        self.0.write_chunks(bufs).await.map(Into::into).map_err(WriteError::from_quic)
    }

    /// [`Self::write_chunks`] as a poll: when pending, the task is woken once the stream takes
    /// data again. Only the last task that polled is woken.
    pub(crate) fn poll_write_chunks(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<QuicWritten, WriteError>> {
        // The future has no state: its waker is kept by the connection and outlives it.
        pin!(self.write_chunks(bufs)).poll(cx)
    }

    /// Writes all of `bufs`, which become empty.
    ///
    /// Not cancel safe, but what is left in `bufs` was not written.
    #[cfg(test)]
    pub(crate) async fn write_all_chunks(&mut self, bufs: &mut [Bytes]) -> Result<(), WriteError> {
        self.0.write_all_chunks(bufs).await.map_err(WriteError::from_quic)
    }

    /// Writes all of `buf`. Not cancel safe.
    pub(crate) async fn write_chunk(&mut self, buf: Bytes) -> Result<(), WriteError> {
        self.0.write_chunk(buf).await.map_err(WriteError::from_quic)
    }

    /// Nothing more will be written.
    pub(crate) fn finish(&mut self) -> Result<(), ClosedStream> {
        self.0.finish().map_err(|_| ClosedStream)
    }

    /// Gives the stream up: nothing more is sent or repeated.
    #[cfg(test)]
    pub(crate) fn reset(&mut self, code: u64) -> Result<(), ClosedStream> {
        self.0.reset(varint(code)).map_err(|_| ClosedStream)
    }

    /// Higher goes first; 0 at the start.
    pub(crate) fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.0.set_priority(priority).map_err(|_| ClosedStream)
    }

    /// Waits until the peer stops the stream (its code) or has acknowledged all of a finished
    /// one (`None`). Cancel safe.
    #[cfg(test)]
    pub(crate) fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<u64>, ConnectionError>> + Send + Sync + 'static {
        let stopped = self.0.stopped();
        async move {
            match stopped.await {
                Ok(code) => Ok(code.map(quinn::VarInt::into_inner)),
                Err(quinn::StoppedError::ConnectionLost(error)) => {
                    Err(ConnectionError::from_quic(error))
                }
                // Early data is never sent.
                Err(quinn::StoppedError::ZeroRttRejected) => Ok(None),
            }
        }
    }
}

/// The receiving half of a QUIC stream. Dropping it stops the stream with code 0.
#[derive(Debug)]
pub(crate) struct RecvStream(quinn::RecvStream);

impl RecvStream {
    pub(super) fn new(inner: quinn::RecvStream) -> Self {
        Self(inner)
    }

    /// The next data, at most `max` bytes, or `None` at the end; any data when not `ordered`.
    /// Cancel safe.
    pub(crate) async fn read_chunk(
        &mut self,
        max: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        let chunk = self.0.read_chunk(max, ordered).await.map_err(ReadError::from_quic)?;
        Ok(chunk.map(|chunk| Chunk { offset: chunk.offset, bytes: chunk.bytes }))
    }

    /// The next data in order into `bufs`: how many were filled, or `None` at the end.
    /// Cancel safe.
    pub(crate) async fn read_chunks(
        &mut self,
        bufs: &mut [Bytes],
    ) -> Result<Option<usize>, ReadError> {
        self.0.read_chunks(bufs).await.map_err(ReadError::from_quic)
    }

    /// Takes no more data; what was received is dropped.
    pub(crate) fn stop(&mut self, code: u64) -> Result<(), ClosedStream> {
        self.0.stop(varint(code)).map_err(|_| ClosedStream)
    }
}
