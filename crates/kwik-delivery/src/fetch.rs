//! The receiving side: an object, verified before it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    ops::Range,
    path::Path,
    sync::{
        Arc, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kwik::{
    ClosedStream, ConnectionError, PathId, ReadError, RecvStream, Session, StreamId, WriteError,
    escape,
};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    Failure, Found, InvalidMessage, InvalidOutboard, Manifest, ObjectName, Outline, Part,
    PartError, PartFile, Request, Response, Verifier,
    limits::{MAX_MESSAGE, PATIENCE},
    offload::offload,
    pump::{Sink, pump},
    repair::{Liars, Mender},
};

/// Fetches objects over a session. Cheap to clone. Needs a tokio runtime with time.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    /// Streams that came before their answers were read: at most as many as the peer may open.
    arrived: Mutex<BTreeMap<StreamId, RecvStream>>,
    /// Who lied in this session: at most as many as it has paths.
    liars: std::sync::Mutex<Liars>,
}

/// What a fetch waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The primary's answer.
    Answer,
    /// The hashes that verify the object.
    Outboard,
    /// The stream that carries it.
    Stream,
    /// Its next bytes.
    Object,
    /// Bytes that did not verify, once more.
    Again,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "the server's answer",
            Self::Outboard => "the object's hashes",
            Self::Stream => "the object's stream",
            Self::Object => "the object's next bytes",
            Self::Again => "bytes that are fetched again",
        })
    }
}

/// An answer, and the stream on which more may follow.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    recv: RecvStream,
    /// What of it came already.
    buffer: BytesMut,
}

impl Client {
    /// On a session with a primary.
    #[must_use]
    pub fn new(session: Session) -> Self {
        let shared = Shared { session, arrived: Mutex::default(), liars: Default::default() };
        Self { shared: Arc::new(shared), patience: PATIENCE }
    }

    /// Gives a fetch up once it has made no progress for so long: [`PATIENCE`] by default.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub(crate) const fn patience(&self) -> Duration {
        self.patience
    }

    /// Its session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.shared.session
    }

    /// Who sent other bytes than an object's in this session: their paths and addresses.
    #[must_use]
    pub fn liars_found(&self) -> Vec<(PathId, String)> {
        self.liars().clone().into_iter().collect()
    }

    pub(crate) fn liars(&self) -> MutexGuard<'_, Liars> {
        // The map is whole between statements, so a panic elsewhere leaves it usable.
        self.shared.liars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a path leads.
    pub(crate) fn address(&self, path: PathId) -> String {
        if path.is_primary() {
            return self.session().remote_address().to_string();
        }
        let paths = self.session().stats().paths;
        let found = paths.into_iter().find(|stats| stats.id == path);
        found.map_or_else(|| format!("path {path}"), |stats| stats.address)
    }

    /// The paths that the session has now.
    pub(crate) fn paths(&self) -> BTreeSet<PathId> {
        self.session().stats().paths.into_iter().map(|path| path.id).collect()
    }

    /// Asks for an object; its bytes begin to arrive with the answer. Cancel safety: when dropped,
    /// the object's stream may stay until the session ends.
    ///
    /// # Errors
    /// When the primary refuses, answers nonsense or nothing, or the session ends.
    pub async fn fetch(&self, name: &ObjectName) -> Result<Fetch, FetchError> {
        self.fetch_with(name, &Progress::default()).await
    }

    /// As [`fetch`](Self::fetch), and tells `progress` of what the primary has to do first. Cancel
    /// safety: as there.
    ///
    /// # Errors
    /// As there.
    pub async fn fetch_with(
        &self,
        name: &ObjectName,
        progress: &Progress,
    ) -> Result<Fetch, FetchError> {
        let mut answer = self.ask_with(name, Part::Whole, progress).await?;
        let found = match &answer.response {
            Response::Found(found) => found.clone(),
            other => return Err(other.clone().unexpected()),
        };
        if found.name != *name {
            return Err(FetchError::Answer(InvalidMessage::Malformed));
        }
        let first = self.read_outboard(&mut answer, found.outboard_size()).await?;
        let recv = self.stream(StreamId::from_u64(found.stream_id)).await?;
        let Found { name, size, root, .. } = found;
        let (outline, page) = match Outline::new(size, root, Bytes::new()) {
            Ok(outline) => {
                let page = outline.page(0, first)?;
                (outline, Some(page))
            }
            // Several pages: they are asked for as they are needed.
            Err(_) => (Outline::new(size, root, first)?, None),
        };
        let mender =
            Mender { client: self.clone(), manifest: Arc::new(Manifest { name, size, root }) };
        Ok(Fetch { mender, outline, page, recv, answer })
    }

    /// Page `index` of an outboard that has several.
    pub(crate) async fn page(
        &self,
        manifest: &Manifest,
        outline: &Outline,
        index: u64,
    ) -> Result<Verifier, FetchError> {
        let part = Part::Page { root: manifest.root, index };
        let mut answer = self.ask(&manifest.name, part).await?;
        let size = match answer.response {
            Response::Page { size } => size,
            other => return Err(other.unexpected()),
        };
        let values = self.read_outboard(&mut answer, size).await?;
        Ok(outline.page(index, values)?)
    }

    pub(crate) async fn ask(&self, name: &ObjectName, part: Part) -> Result<Answer, FetchError> {
        self.ask_with(name, part, &Progress::default()).await
    }

    /// Sends a request and waits for its answer, for as long as the primary says that it works on
    /// that.
    async fn ask_with(
        &self,
        name: &ObjectName,
        part: Part,
        progress: &Progress,
    ) -> Result<Answer, FetchError> {
        let (mut send, mut recv) = self.patiently(Step::Answer, self.session().open_bi()).await??;
        let request = Request { name: name.clone(), part }.encode();
        match self.patiently(Step::Answer, send.write_all(&request)).await? {
            // A server that has read enough: its answer says more.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(error) => return Err(error.into()),
        }
        send.finish()?;
        let mut buffer = BytesMut::new();
        loop {
            match Response::decode(&mut buffer)? {
                Some(Response::Working { hashed, size }) => progress.on_hashed(hashed, size),
                Some(response) => return Ok(Answer { response, recv, buffer }),
                None => {
                    let read = recv.read_chunk(MAX_MESSAGE, true);
                    match self.patiently(Step::Answer, read).await?? {
                        Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
                        None => return Err(FetchError::Answer(InvalidMessage::Malformed)),
                    }
                }
            }
        }
    }

    /// Reads `size` bytes, a page at the most; a wrong length shows in verification.
    async fn read_outboard(&self, answer: &mut Answer, size: u64) -> Result<Bytes, FetchError> {
        let Answer { recv, buffer, .. } = answer;
        while (buffer.len() as u64) < size {
            let read = recv.read_chunk(MAX_MESSAGE, true);
            match self.patiently(Step::Outboard, read).await?? {
                Some(chunk) => buffer.extend_from_slice(&chunk.bytes),
                None => break,
            }
        }
        let end = usize::try_from(size).unwrap_or(usize::MAX).min(buffer.len());
        Ok(buffer.split_to(end).freeze())
    }

    /// The stream `id`, once it has come.
    pub(crate) async fn stream(&self, id: StreamId) -> Result<RecvStream, FetchError> {
        let stream = async {
            loop {
                // Released each time round: others may wait for what came here.
                let mut arrived = self.shared.arrived.lock().await;
                if let Some(stream) = arrived.remove(&id) {
                    return Ok(stream);
                }
                let stream = self.session().accept_uni().await?;
                arrived.insert(stream.id(), stream);
            }
        };
        self.patiently(Step::Stream, stream).await?
    }

    /// Waits for one step of progress.
    pub(crate) async fn patiently<T>(
        &self,
        step: Step,
        waiting: impl Future<Output = T>,
    ) -> Result<T, FetchError> {
        let waited = self.patience;
        timeout(waited, waiting).await.map_err(|_| FetchError::Silent { step, waited })
    }
}

impl Answer {
    /// Waits until the primary says that it cannot go on; for ever when it does not. Cancel safe.
    pub(crate) async fn failure(&mut self) -> FetchError {
        loop {
            match Response::decode(&mut self.buffer) {
                Ok(Some(response)) => return response.unexpected(),
                Ok(None) => match self.recv.read_chunk(MAX_MESSAGE, true).await {
                    Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                    // It has no more to say: the object's stream says what becomes of it.
                    Ok(None) | Err(_) => return std::future::pending().await,
                },
                Err(error) => return error.into(),
            }
        }
    }
}

impl Response {
    /// Why it is no answer to what was asked.
    pub(crate) fn unexpected(self) -> FetchError {
        match self {
            Self::Failed(failure) => FetchError::Refused(failure),
            _ => FetchError::Answer(InvalidMessage::Malformed),
        }
    }
}

/// An object under way.
#[derive(Debug)]
pub struct Fetch {
    pub(crate) mender: Mender,
    pub(crate) outline: Outline,
    /// The verifier of all of it, when its outboard has one page.
    pub(crate) page: Option<Verifier>,
    pub(crate) recv: RecvStream,
    /// What the primary says when it cannot go on.
    pub(crate) answer: Answer,
}

impl Fetch {
    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.mender.manifest
    }

    /// Writes it to `target`, which appears, or is replaced, only when all of it is verified.
    /// Cancel safety: when dropped, nothing is left under either name.
    ///
    /// # Errors
    /// When bytes are missing or only liars could bring them, the session ends, or the file cannot
    /// be written.
    pub async fn save(self, target: &Path, progress: &Progress) -> Result<(), FetchError> {
        let (target, size) = (target.to_path_buf(), self.manifest().size);
        let file = offload(move || PartFile::create(target, size)).await?;
        pump(self, Sink::File(file), progress).await
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
        pump(self, Sink::Writer(output), progress).await
    }
}

/// How far a fetch is; to be looked at while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    verified: AtomicU64,
    /// What the primary has hashed of the object, and its size; both 0 when it need not.
    hashed: [AtomicU64; 2],
    /// In microseconds.
    longest_stall: AtomicU64,
}

impl Progress {
    /// Bytes that are verified and written.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// What the primary has hashed of the object before it can answer, and the object's size; none
    /// when it did not say so.
    #[must_use]
    pub fn hashed(&self) -> Option<(u64, u64)> {
        let [hashed, size] = self.hashed.each_ref().map(|value| value.load(Ordering::Relaxed));
        (size > 0).then_some((hashed, size))
    }

    /// The longest wait for a next byte of the object, from its first on.
    #[must_use]
    pub fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.longest_stall.load(Ordering::Relaxed))
    }

    fn on_hashed(&self, hashed: u64, size: u64) {
        self.hashed[0].store(hashed.min(size), Ordering::Relaxed);
        self.hashed[1].store(size, Ordering::Relaxed);
    }

    pub(crate) fn on_verified(&self, bytes: u64) {
        self.verified.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn on_stall(&self, stall: Duration) {
        let micros = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
        self.longest_stall.fetch_max(micros, Ordering::Relaxed);
    }
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
    /// Nobody is left who could bring a range but those who sent other bytes than the primary
    /// promised.
    #[error(
        "bytes {range:?} came wrong, and no other server can bring them: {} sent other bytes than \
         the object's: tell the servers' owner",
        escape(servers.join(", "))
    )]
    Liars {
        /// What is missing.
        range: Range<u64>,
        /// The addresses of those who lied.
        servers: Vec<String>,
    },
    /// Nothing came for too long.
    #[error("no progress for {} s while waiting for {step}: try again", waited.as_secs())]
    Silent {
        /// What was waited for.
        step: Step,
        /// For how long.
        waited: Duration,
    },
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
