//! Secondary streams: what a secondary opens to write into a stream of the client, explicitly
//! mapped (7.2).

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use kwik_proto::lease::SharedWriter;
use kwik_proto::session::{Mapped, SecondarySession as Machine};
use kwik_proto::sync::lock;
use kwik_proto::wire::secondary::{
    MappingOperation, SecondaryStreamClose, SecondaryStreamOpen, StreamMappingUpdate,
    encode_secondary, encode_secondary_data,
};
use kwik_proto::wire::{SecondaryEvent, StreamKind};
use kwik_proto::{Code, StreamId, limits};
use tokio::sync::Notify;

use crate::driver::{Held, StreamWriter};
use crate::quic::ConnectionError;
use crate::streams::WriteError;

/// A stream that a secondary opened, which writes into a stream of the client from an offset on,
/// one byte after the other (7.2). It writes under a lease, as far as the client has activated
/// it; bytes that the client has from others, or asked others for, are passed over. Dropping it
/// closes it and says that it was not finished; either way the client asks others for what its
/// lease leaves.
pub struct SecondaryStream {
    shared: Held<Machine>,
    id: u64,
    half: SharedWriter,
    activated: Arc<Notify>,
    frames: Option<StreamWriter>,
    offset: u64,
}

impl SecondaryStream {
    pub(crate) fn new(shared: Held<Machine>, mapped: Mapped, offset: u64) -> Self {
        let Mapped { id, writer: half } = mapped;
        let (stream, lease) = {
            let half = lock(&half);
            (half.stream(), half.lease())
        };
        let activated = shared.waiters.writers.register(lease);
        let mut frames =
            StreamWriter::new(shared.connection(), StreamKind::Secondary, &shared.runtime);
        let open = SecondaryEvent::Open(SecondaryStreamOpen {
            secondary_stream_id: id,
            target_kwik_stream_id: stream,
            initial_offset: offset,
            lease_id: lease,
        });
        // An error shows at the first write.
        frames.push_with(Bytes::new(), |out| encode_secondary(&open, out)).ok();
        Self { shared, id, half, activated, frames: Some(frames), offset }
    }

    /// Its number among the streams of this path.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The stream of the client that it writes into.
    #[must_use]
    pub fn kwik_stream_id(&self) -> StreamId {
        lock(&self.half).stream()
    }

    /// The offset in that stream of the next byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the next bytes without a copy; waits until the client wants them. Not cancel safe: a
    /// part may have been written, see [`Self::offset`].
    ///
    /// # Errors
    /// [`WriteError::Stopped`] when the client needs no more here: the lease is over. The session
    /// is over.
    pub async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), WriteError> {
        while !chunk.is_empty() {
            self.flush().await?;
            let next = self.activated().await?;
            let len = chunk.len() as u64;
            let passed = (next - self.offset).min(len);
            chunk.advance(usize::try_from(passed).unwrap_or(usize::MAX));
            self.offset += passed;
            let want = len.min(limits::MAX_PACKET_PAYLOAD as u64);
            let (stream, committed) = {
                let mut half = lock(&self.half);
                let want = want.min(chunk.len() as u64);
                let committed = (want > 0).then(|| half.commit_at(self.offset, want)).flatten();
                (half.stream().as_u64(), committed)
            };
            let range = match committed {
                Some(range) => range,
                // All was passed over: the client has to know that it cannot be asked for.
                None if chunk.is_empty() => self.offset..self.offset,
                // The piece was cancelled meanwhile.
                None => continue,
            };
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            self.push(stream, range.start, chunk.split_to(len))?;
            self.offset = range.end;
            let (id, bytes, offset) = (self.id, len as u64, self.offset);
            self.shared.drive(|machine, now| machine.on_stream_written(id, bytes, offset, now));
        }
        Ok(())
    }

    /// [`Self::write_chunk`] of a copy. Not cancel safe.
    ///
    /// # Errors
    /// As there.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_chunk(Bytes::copy_from_slice(bytes)).await
    }

    /// Goes on elsewhere: at another offset, or in another stream of the client. Waits until a
    /// lease of this path that nobody writes for covers the place; a lease that is left is given
    /// up. Cancel safe until it is mapped, which [`Self::kwik_stream_id`] and [`Self::offset`]
    /// then say.
    ///
    /// # Errors
    /// The session is over.
    pub async fn set_mapping(&mut self, stream: StreamId, offset: u64) -> Result<(), WriteError> {
        self.flush().await?;
        self.settled().await?;
        let shared = self.shared.clone();
        let find =
            || shared.drive(|machine, now| machine.move_stream(self.id, stream, offset, now));
        let writer = shared.wait_for(&shared.waiters.leases, find).await?;
        // One after the other: they may be the same.
        let former = lock(&self.half).lease();
        let lease = lock(&writer).lease();
        if former != lease {
            shared.waiters.writers.release(former);
            self.activated = shared.waiters.writers.register(lease);
        }
        self.half = writer;
        self.offset = offset;
        self.push_place()?;
        self.flush().await
    }

    /// Says where the stream writes from now on.
    fn push_place(&mut self) -> Result<(), WriteError> {
        let (stream, lease) = {
            let half = lock(&self.half);
            (half.stream(), half.lease())
        };
        let update = SecondaryEvent::Update(StreamMappingUpdate {
            secondary_stream_id: self.id,
            kwik_stream_id: stream,
            operation: MappingOperation::Update,
            lease_id: lease,
            offset: self.offset,
        });
        let frames = self.frames.as_mut().ok_or(WriteError::ClosedStream)?;
        frames
            .push_with(Bytes::new(), |out| encode_secondary(&update, out))
            .map_err(|error| WriteError::from_quic(error, self.shared.close_reason()))
    }

    /// Closes it where it is: that offset.
    pub fn finish(mut self) -> u64 {
        self.close("finished");
        self.offset
    }

    /// Waits until the client has taken the stream; false when it does not, or not in time.
    pub(crate) async fn is_taken(&mut self, until: Instant) -> Result<bool, ConnectionError> {
        let runtime = self.shared.runtime.clone();
        let settled = {
            let mut late = pin!(runtime.sleep_until(until));
            let mut settled = pin!(self.settled());
            poll_fn(|cx| match settled.as_mut().poll(cx) {
                Poll::Ready(settled) => Poll::Ready(Some(settled)),
                Poll::Pending => late.as_mut().poll(cx).map(|()| None),
            })
            .await
        };
        match settled {
            None => Ok(false),
            Some(Ok(())) => Ok(!lock(&self.half).is_ended()),
            Some(Err(_)) => match self.shared.close_reason() {
                Some(error) => Err(error),
                None => Ok(false),
            },
        }
    }

    /// Waits until the client knows where the stream is.
    async fn settled(&mut self) -> Result<(), WriteError> {
        loop {
            let mut notified = pin!(self.activated.notified());
            notified.as_mut().enable();
            let (settled, ended) = {
                let half = lock(&self.half);
                (half.is_settled(), half.is_ended())
            };
            if settled || ended {
                return Ok(());
            }
            if let Some(error) = self.shared.close_reason() {
                return Err(error.into());
            }
            notified.await;
        }
    }

    /// Where the next byte that the client wants is; waits until there is one.
    async fn activated(&mut self) -> Result<u64, WriteError> {
        loop {
            let activated = self.activated.clone();
            let mut notified = pin!(activated.notified());
            notified.as_mut().enable();
            let (next, ended, again) = {
                let mut half = lock(&self.half);
                (half.next_from(self.offset), half.is_ended(), half.take_asked_again())
            };
            if again {
                self.push_place()?;
            }
            if let Some(range) = next {
                return Ok(range.start);
            }
            if let Some(error) = self.shared.close_reason() {
                return Err(error.into());
            }
            if ended {
                return Err(WriteError::Stopped(Code::NoError.as_u64()));
            }
            notified.await;
        }
    }

    fn push(&mut self, stream: u64, offset: u64, payload: Bytes) -> Result<(), WriteError> {
        let frames = self.frames.as_mut().ok_or(WriteError::ClosedStream)?;
        let (id, len) = (self.id, payload.len());
        frames
            .push_with(payload, |out| encode_secondary_data(out, id, stream, offset, len))
            .map_err(|error| WriteError::from_quic(error, self.shared.close_reason()))
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        let frames = self.frames.as_mut().ok_or(WriteError::ClosedStream)?;
        poll_fn(|cx| frames.poll_flush(cx))
            .await
            .map_err(|error| WriteError::from_quic(error, self.shared.close_reason()))
    }

    fn close(&mut self, reason: &str) {
        let Some(mut frames) = self.frames.take() else { return };
        let lease = lock(&self.half).lease();
        let close = SecondaryEvent::Close(SecondaryStreamClose {
            secondary_stream_id: self.id,
            kwik_stream_id: self.kwik_stream_id(),
            reason: reason.to_owned(),
            final_offset: self.offset,
        });
        // An error means that nobody reads it.
        frames.push_with(Bytes::new(), |out| encode_secondary(&close, out)).ok();
        drop(frames);
        self.shared.waiters.writers.release(lease);
        self.shared.drive(|machine, now| machine.close_stream(self.id, reason, now));
    }
}

impl Drop for SecondaryStream {
    fn drop(&mut self) {
        self.close("dropped before it was finished");
    }
}

impl fmt::Debug for SecondaryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondaryStream")
            .field("stream", &self.kwik_stream_id())
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// Why a secondary stream was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStreamError {
    /// [`limits::MAX_SECONDARY_STREAMS`] of the path are open, or as many as is set: finish one
    /// first.
    #[error("too many secondary streams are open on this path: finish one first")]
    TooMany,
    /// The client did not take it, in so many attempts.
    #[error(
        "the client took no such stream in {0} attempts: \
         it has to allow writes without a lease, and the primary to open the stream"
    )]
    Refused(u32),
    /// The path is over.
    #[error("path lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
}
