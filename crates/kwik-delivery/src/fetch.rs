//! The receiving side: an object, verified before it is written.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kwik::{ClosedStream, ConnectionError, ReadError, RecvStream, Session, StreamId, WriteError};
use tokio::sync::Mutex;

use crate::{
    Corrupt, Failure, Found, InvalidMessage, InvalidOutboard, Manifest, ObjectName, PartError,
    PartFile, Request, Response, Verifier,
    limits::MAX_MESSAGE,
    offload::offload,
    pump::{Sink, pump},
};

/// Fetches objects over a session.
#[derive(Debug)]
pub struct Client {
    session: Session,
    /// Streams that came before their answers were read: at most as many as the peer may open.
    arrived: Mutex<BTreeMap<StreamId, RecvStream>>,
}

impl Client {
    /// On a session with a primary.
    #[must_use]
    pub fn new(session: Session) -> Self {
        Self { session, arrived: Mutex::default() }
    }

    /// Its session.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Asks for an object; its bytes begin to arrive with the answer. Cancel safety: when dropped,
    /// the object's stream may stay until the session ends.
    ///
    /// # Errors
    /// When the primary refuses, answers nonsense, or the session ends.
    pub async fn fetch(&self, name: &ObjectName) -> Result<Fetch, FetchError> {
        let (mut send, mut recv) = self.session.open_bi().await?;
        match send.write_all(&Request { name: name.clone() }.encode()).await {
            // A server that has read enough: its answer says more.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(error) => return Err(error.into()),
        }
        send.finish()?;
        let mut buffer = BytesMut::new();
        let found = match read_response(&mut recv, &mut buffer).await? {
            Response::Found(found) => found,
            Response::Failed(failure) => return Err(FetchError::Refused(failure)),
        };
        if found.name != *name {
            return Err(FetchError::Answer(InvalidMessage::Malformed));
        }
        let outboard = read_outboard(&mut recv, buffer, found.outboard_size()).await?;
        let recv = self.stream(StreamId::from_u64(found.stream_id)).await?;
        let Found { name, size, root, .. } = found;
        let manifest = Manifest { name, size, root, outboard };
        let verifier = manifest.verifier()?;
        Ok(Fetch { manifest, verifier, recv })
    }

    /// The stream `id`, once it has come.
    async fn stream(&self, id: StreamId) -> Result<RecvStream, FetchError> {
        loop {
            // Released each time round: others may wait for what came here.
            let mut arrived = self.arrived.lock().await;
            if let Some(stream) = arrived.remove(&id) {
                return Ok(stream);
            }
            let stream = self.session.accept_uni().await?;
            arrived.insert(stream.id(), stream);
        }
    }
}

/// An object under way.
#[derive(Debug)]
pub struct Fetch {
    manifest: Manifest,
    verifier: Verifier,
    recv: RecvStream,
}

impl Fetch {
    /// What it is.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes it to `target`, which appears, or is replaced, only when all of it is verified.
    /// Cancel safety: when dropped, nothing is left under either name.
    ///
    /// # Errors
    /// When bytes are corrupt or missing, the session ends, or the file cannot be written.
    pub async fn save(self, target: &Path, progress: &Progress) -> Result<(), FetchError> {
        let (target, size) = (target.to_path_buf(), self.manifest.size);
        let file = offload(move || PartFile::create(target, size)).await?;
        self.pump(Sink::File(file), progress).await
    }

    /// Writes it to `output` in order, each block once it is verified; `output` may block. When it
    /// fails, what came before is written already. Cancel safety: as when it fails.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub async fn write_to(
        self,
        output: Box<dyn io::Write + Send>,
        progress: &Progress,
    ) -> Result<(), FetchError> {
        self.pump(Sink::Writer(output), progress).await
    }

    async fn pump(self, sink: Sink, progress: &Progress) -> Result<(), FetchError> {
        pump(self.recv, self.verifier, sink, progress).await
    }
}

/// How far a fetch is; to be looked at while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    verified: AtomicU64,
    /// In microseconds.
    longest_stall: AtomicU64,
}

impl Progress {
    /// Bytes that are verified and written.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// The longest wait for a next byte of the object, from its first on.
    #[must_use]
    pub fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.longest_stall.load(Ordering::Relaxed))
    }

    pub(crate) fn on_verified(&self, bytes: u64) {
        self.verified.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn on_stall(&self, stall: Duration) {
        let micros = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
        self.longest_stall.fetch_max(micros, Ordering::Relaxed);
    }
}

async fn read_response(
    recv: &mut RecvStream,
    buffer: &mut BytesMut,
) -> Result<Response, FetchError> {
    loop {
        if let Some(response) = Response::decode(buffer)? {
            return Ok(response);
        }
        match recv.read_chunk(MAX_MESSAGE, true).await? {
            Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
            None => return Err(FetchError::Answer(InvalidMessage::Malformed)),
        }
    }
}

/// Reads up to `size` bytes, of which `buffer` has the first; a wrong length shows in verification.
async fn read_outboard(
    recv: &mut RecvStream,
    mut buffer: BytesMut,
    size: u64,
) -> Result<Bytes, FetchError> {
    while (buffer.len() as u64) < size {
        match recv.read_chunk(MAX_MESSAGE, true).await? {
            Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
            None => break,
        }
    }
    Ok(buffer.freeze())
}

/// Why an object could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The primary does not deliver it.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The primary's answer is malformed.
    #[error("the server's answer cannot be used: {0}")]
    Answer(#[from] InvalidMessage),
    /// The primary's manifest is wrong.
    #[error(transparent)]
    Outboard(#[from] InvalidOutboard),
    /// A server sent other bytes than the primary promised.
    #[error("{0}: a server has another version of the object, or lies")]
    Corrupt(#[from] Corrupt),
    /// The stream has another length than the primary promised.
    #[error("{received} bytes came of an object of {size}: ask again")]
    Length {
        /// What came, counted up to the first byte too many.
        received: u64,
        /// What was promised.
        size: u64,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] PartError),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The session ended.
    #[error(transparent)]
    Session(#[from] ConnectionError),
    /// The object, or the answer, cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The request cannot be sent.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<ClosedStream> for FetchError {
    fn from(_: ClosedStream) -> Self {
        Self::Write(WriteError::ClosedStream)
    }
}
