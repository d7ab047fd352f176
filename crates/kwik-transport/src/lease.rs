//! Leases as a server's application sees them: one to give, one to write for.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kwik_proto::lease::{IssuedLease, SharedWriter};
use kwik_proto::session::{Mapped, PrimarySession as Primary, SecondarySession as Secondary};
use kwik_proto::stream::WriterKind;
use kwik_proto::sync::lock;
use kwik_proto::{LeaseId, StreamId};
use tokio::sync::Notify;

use crate::driver::{DataPool, FrameWriter, Held};
use crate::mapped::SecondaryStream;
use crate::quic::{self, ConnectionError};
use crate::streams::WriteError;

/// A lease that a primary gave. Dropping it does not end it.
#[derive(Debug)]
pub struct Lease {
    shared: Held<Primary>,
    id: LeaseId,
    /// From the first wait for its end on.
    ended: Option<Arc<Notify>>,
}

impl Lease {
    pub(crate) fn new(shared: Held<Primary>, id: LeaseId) -> Self {
        Self { shared, id, ended: None }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Waits until it is over: how, and what its path brought. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn outcome(&mut self) -> Result<IssuedLease, ConnectionError> {
        let Self { shared, id, ended } = self;
        let notify = ended.get_or_insert_with(|| shared.waiters.lease_ends.register(*id));
        let issued = || shared.look(|machine| machine.issued(*id).cloned());
        let ended = || issued().filter(|lease| lease.outcome.is_some());
        shared.wait_for(notify, ended).await
    }

    /// Takes it back: no more is asked for under it, and its outcome is
    /// [`LeaseOutcome::Stopped`](crate::LeaseOutcome::Stopped).
    pub fn revoke(&self) {
        self.shared.drive(|machine, now| machine.revoke(self.id, now));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ended.is_some() {
            self.shared.waiters.lease_ends.release(self.id);
        }
        self.shared.drive(|machine, _| machine.forget(self.id));
    }
}

/// Which session a writer belongs to.
#[derive(Clone)]
pub(crate) enum WriterSession {
    Primary(Held<Primary>),
    Secondary(Held<Secondary>),
}

impl WriterSession {
    fn close_reason(&self) -> Option<ConnectionError> {
        match self {
            Self::Primary(shared) => shared.close_reason(),
            Self::Secondary(shared) => shared.close_reason(),
        }
    }

    fn pool(&self) -> &Arc<DataPool> {
        match self {
            Self::Primary(shared) => &shared.pool,
            Self::Secondary(shared) => &shared.pool,
        }
    }

    fn register(&self, lease: LeaseId) -> Arc<Notify> {
        match self {
            Self::Primary(shared) => shared.waiters.writers.register(lease),
            Self::Secondary(shared) => shared.waiters.writers.register(lease),
        }
    }

    fn release(&self, lease: LeaseId, reason: &str) {
        match self {
            Self::Primary(shared) => {
                shared.waiters.writers.release(lease);
                shared.drive(|machine, now| machine.abandon(lease, reason, now));
            }
            Self::Secondary(shared) => {
                shared.waiters.writers.release(lease);
                shared.drive(|machine, now| machine.abandon(lease, reason, now));
            }
        }
    }
}

/// Writes for a lease: exactly what the client has activated, in the order in which it wants it.
/// Dropping it gives the lease up; the client asks others for the rest.
///
/// ```no_run
/// # use kwik::{LeaseWriter, WriteError};
/// # async fn serve(mut writer: LeaseWriter, object: bytes::Bytes) -> Result<(), WriteError> {
/// while let Some(piece) = writer.activated().await? {
///     let bytes = piece.start as usize..(piece.end as usize).min(piece.start as usize + 65536);
///     writer.write_chunk(object.slice(bytes)).await?;
/// }
/// # Ok(()) }
/// ```
pub struct LeaseWriter {
    session: WriterSession,
    half: SharedWriter,
    lease: LeaseId,
    activated: Arc<Notify>,
    frames: FrameWriter,
    /// Where the application writes next: what it was told last, and how far it came since.
    cursor: Option<u64>,
    abandoned: Option<String>,
    /// A secondary stream writes for the lease now.
    given_away: bool,
}

impl LeaseWriter {
    pub(crate) fn new(session: WriterSession, half: SharedWriter) -> Self {
        let lease = lock(&half).lease();
        let activated = session.register(lease);
        let frames = FrameWriter::new(session.pool(), WriterKind::Fixed);
        Self {
            session,
            half,
            lease,
            activated,
            frames,
            cursor: None,
            abandoned: None,
            given_away: false,
        }
    }

    /// The stream it writes into.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        lock(&self.half).stream()
    }

    /// The range it may be asked for.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        lock(&self.half).range()
    }

    /// The primary's command for this application.
    #[must_use]
    pub fn command(&self) -> Bytes {
        lock(&self.half).command().clone()
    }

    /// Waits until something is to be written: the rest of the piece that is due. None once the
    /// lease is over. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn activated(&mut self) -> Result<Option<Range<u64>>, WriteError> {
        loop {
            {
                let half = lock(&self.half);
                if let Some(range) = half.next() {
                    self.cursor = Some(range.start);
                    return Ok(Some(range));
                }
                if half.is_ended() {
                    return Ok(None);
                }
            }
            if let Some(error) = self.session.close_reason() {
                return Err(error.into());
            }
            self.activated.notified().await;
        }
    }

    /// Goes on as a secondary stream from `offset` on (7.2). Gives the writer back when something
    /// was written already, the lease does not cover the offset, the path has too many, or this is
    /// a primary.
    ///
    /// # Errors
    /// See above; nothing has changed.
    #[allow(clippy::result_large_err, reason = "the writer comes back as it was")]
    pub fn into_stream(mut self, offset: u64) -> Result<SecondaryStream, Self> {
        let WriterSession::Secondary(shared) = &self.session else { return Err(self) };
        let shared = shared.clone();
        if self.abandoned.is_some() || !self.frames.is_unopened() {
            return Err(self);
        }
        let mapped = shared.drive(|machine, now| machine.map_writer(&self.half, offset, now));
        let Ok(id) = mapped else {
            return Err(self);
        };
        self.given_away = true;
        let mapped = Mapped { id, writer: self.half.clone() };
        Ok(SecondaryStream::new(shared, mapped, offset))
    }

    /// Everything that is activated now, in order: what to read ahead.
    #[must_use]
    pub fn queued(&self) -> Vec<Range<u64>> {
        lock(&self.half).queued().collect()
    }

    /// Writes the bytes from where [`Self::activated`] said, without a copy; another write goes on
    /// after them. Bytes whose piece ended or was cancelled meanwhile are dropped: ask
    /// [`Self::activated`] where to go on. Not cancel safe: a part may have been written.
    ///
    /// # Errors
    /// The session is over.
    pub async fn write_chunk(&mut self, mut chunk: Bytes) -> Result<(), WriteError> {
        let frames = &mut self.frames;
        let Some(mut at) = self.cursor else { return Ok(()) };
        let session = &self.session;
        let lost = |error: quic::WriteError| WriteError::from_quic(error, session.close_reason());
        while !chunk.is_empty() {
            let ready = std::future::poll_fn(|cx| frames.poll_ready(cx)).await;
            let room = ready.map_err(lost)?;
            let want = chunk.len().min(room.bytes) as u64;
            let (stream, committed) = {
                let mut half = lock(&self.half);
                let here = half.next().is_some_and(|range| range.start == at);
                (half.stream(), if here { half.commit(want) } else { None })
            };
            // The piece ended, or was cancelled: the rest is not wanted.
            let Some((range, ends)) = committed else { return Ok(()) };
            at = range.end;
            self.cursor = Some(at);
            let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            // On the primary's own path a fin would end the stream.
            let fin = ends && matches!(session, WriterSession::Secondary(_));
            frames.push(stream, range.start, [chunk.split_to(len)], fin).map_err(lost)?;
        }
        Ok(())
    }

    /// Gives the lease up, and says why.
    pub fn abandon(mut self, reason: &str) {
        self.abandoned = Some(reason.to_owned());
    }
}

impl Drop for LeaseWriter {
    fn drop(&mut self) {
        if self.given_away {
            return;
        }
        self.session.release(self.lease, self.abandoned.as_deref().unwrap_or("writer dropped"));
    }
}

impl fmt::Debug for LeaseWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseWriter").field("lease", &self.lease).finish_non_exhaustive()
    }
}
