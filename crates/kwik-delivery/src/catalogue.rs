//! What a server publishes of its objects.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use blake3::Hash;
use kwik::escape;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::interval,
};

use crate::{
    Failure, FailureCode, Object, ObjectName, ObjectStat, PartError, Published, SourceError,
    limits::{
        KEPT_BESIDE, LARGE_OBJECT, MAX_HASHING_LARGE, MAX_HASHING_SMALL, MAX_KEPT, MAX_LOOKUPS,
        SAY_HASHING_EVERY,
    },
    manifest::{Meter, hash_counted},
    offload::{offload, offload_read},
    tree,
};

mod entry;
mod half;

/// The published manifests of a server's objects: one file each under `STATE/catalogue/`, made when
/// the object is first asked for, renewed when its state changes. What cannot be written there is
/// kept in memory, up to [`MAX_KEPT`]. Cheap to clone. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Catalogue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// None when there is no place to write to.
    folder: Option<PathBuf>,
    slots: Mutex<BTreeMap<Key, Slot>>,
    /// What the folder could not take, the oldest first.
    kept: Mutex<VecDeque<(Key, Arc<Published>)>>,
    /// One for objects up to [`LARGE_OBJECT`], one for others: a small one waits behind no large
    /// one.
    hashing: [Semaphore; 2],
    /// Objects that are hashed for somebody who asked.
    urgent: watch::Sender<usize>,
}

/// An object's name and state.
type Key = (ObjectName, String);
type Outcome = Result<Arc<Published>, Arc<CatalogueError>>;

/// An object that is looked up or served now.
#[derive(Debug, Default)]
struct Slot {
    lookup: Weak<Lookup>,
    /// What somebody serves: all who serve it share it.
    published: Weak<Published>,
}

impl Slot {
    fn is_live(&self) -> bool {
        self.lookup.strong_count() > 0 || self.published.strong_count() > 0
    }
}

/// A manifest that is read or made; whoever asks for it meanwhile waits for the same.
#[derive(Debug)]
struct Lookup {
    meter: Meter,
    outcome: watch::Sender<Option<Outcome>>,
}

/// A manifest that was asked for.
#[derive(Debug)]
pub struct Asked {
    size: u64,
    /// None when it was there.
    lookup: Option<Arc<Lookup>>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Asked {
    /// Bytes of the object that were hashed for it, and bytes in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let hashed = self.lookup.as_ref().map(|lookup| lookup.meter.hashed.load(Ordering::Relaxed));
        (hashed.unwrap_or(self.size), self.size)
    }

    /// Waits for it. Cancel safe: once it is being hashed, that goes on without those who asked.
    ///
    /// # Errors
    /// When the object cannot be read or changes.
    pub async fn wait(&mut self) -> Outcome {
        match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            // The runtime is shutting down.
            _ => Err(CatalogueError::Busy.into()),
        }
    }
}

impl Catalogue {
    /// Opens, or creates, the catalogue in the folder `state`. Blocks shortly: for start-up.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(state: impl AsRef<Path>) -> Result<Self, CatalogueError> {
        let folder = state.as_ref().join("catalogue");
        let failed = |source| CatalogueError::State { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        Ok(Self::new(Some(folder)))
    }

    /// A catalogue that is kept in memory alone.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(None)
    }

    fn new(folder: Option<PathBuf>) -> Self {
        let hashing = [MAX_HASHING_SMALL, MAX_HASHING_LARGE].map(Semaphore::new);
        let (slots, kept) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { folder, slots, kept, hashing, urgent: watch::Sender::default() }))
    }

    /// The manifest of `object` in its opened state: read from the catalogue, or hashed and
    /// published. Cancel safe, as [`Asked::wait`] is.
    ///
    /// # Errors
    /// When the object cannot be read or changes, or too many are asked for at once.
    pub async fn manifest(&self, object: &Object) -> Outcome {
        self.ask(object)?.wait().await
    }

    /// Asks for it: [`Asked`] says how far it is.
    ///
    /// # Errors
    /// When too many are asked for at once.
    pub fn ask(&self, object: &Object) -> Result<Asked, CatalogueError> {
        self.look_up(object, false)
    }

    /// Has it made before anybody asks, after all that somebody asked for.
    pub(crate) async fn ahead(&self, object: &Object) -> Outcome {
        self.look_up(object, true)?.wait().await
    }

    fn look_up(&self, object: &Object, ahead: bool) -> Result<Asked, CatalogueError> {
        let stat = object.stat();
        let (key, size) = (key(stat), stat.size);
        let mut slots = self.0.slots();
        if let Some(slot) = slots.get(&key) {
            if let Some(published) = slot.published.upgrade() {
                let outcome = watch::channel(Some(Ok(published))).1;
                return Ok(Asked { size, lookup: None, outcome });
            }
            if let Some(lookup) = slot.lookup.upgrade() {
                if !ahead {
                    lookup.meter.ahead.store(false, Ordering::Relaxed);
                }
                let outcome = lookup.outcome.subscribe();
                return Ok(Asked { size, lookup: Some(lookup), outcome });
            }
        }
        slots.retain(|_, slot| slot.is_live());
        if slots.len() >= MAX_LOOKUPS {
            return Err(CatalogueError::Busy);
        }
        let (sender, outcome) = watch::channel(None);
        let (ahead, urgent) = (AtomicBool::new(ahead), Some(self.0.urgent.subscribe()));
        let meter = Meter { ahead, urgent, ..Meter::default() };
        let lookup = Arc::new(Lookup { meter, outcome: sender });
        let slot = Slot { lookup: Arc::downgrade(&lookup), published: Weak::new() };
        slots.insert(key.clone(), slot);
        drop(slots);
        let (shared, object) = (Arc::clone(&self.0), object.clone());
        let asked = Asked { size, lookup: Some(Arc::clone(&lookup)), outcome };
        // A task of its own: what is hashed is of use to the next who asks, if this one leaves.
        tokio::spawn(async move { shared.find_or_publish(&key, &object, &lookup).await });
        Ok(asked)
    }

    /// The root of an object in this state, if that was published. Cancel safe.
    pub async fn known(&self, stat: &ObjectStat) -> Option<Hash> {
        let served = self.0.slots().get(&key(stat)).and_then(|slot| slot.published.upgrade());
        if let Some(published) = served {
            return Some(published.manifest().root);
        }
        self.0.load(stat).await.map(|published| published.manifest().root)
    }

    /// Forgets what was published of an object in this state, as it does not fit: the next who asks
    /// has it hashed anew. Cancel safe.
    pub async fn forget(&self, stat: &ObjectStat) {
        let key = key(stat);
        self.0.slots().remove(&key);
        self.0.kept().retain(|(other, _)| *other != key);
        let Some(path) = self.0.path(stat) else { return };
        match offload(move || fs::remove_file(path)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "cannot remove an entry of the catalogue");
            }
            _ => {}
        }
    }
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<Key, Slot>> {
        // The map is whole between statements, so a panic elsewhere leaves it usable.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find_or_publish(&self, key: &Key, object: &Object, lookup: &Arc<Lookup>) {
        let outcome = match self.load(object.stat()).await {
            Some(published) => Ok(published),
            None => match self.permit(key, object.stat().size, lookup).await {
                Some(_permit) => {
                    let _counted = Urgent::count(&self.urgent, lookup);
                    let publishing = self.publish(key, object, lookup);
                    reporting(object, lookup, publishing).await.map_err(Arc::new)
                }
                None => return,
            },
        };
        let mut slots = self.slots();
        let is_ours = |slot: &&mut Slot| slot.lookup.as_ptr() == Arc::as_ptr(lookup);
        if let Some(slot) = slots.get_mut(key).filter(is_ours) {
            slot.lookup = Weak::new();
            if let Ok(published) = &outcome {
                slot.published = Arc::downgrade(published);
            }
        }
        lookup.outcome.send_replace(Some(outcome));
    }

    /// Waits for the object's turn to be hashed; none when all who asked for it have left.
    async fn permit(&self, key: &Key, size: u64, lookup: &Lookup) -> Option<Permit<'_>> {
        if lookup.meter.ahead.load(Ordering::Relaxed) {
            return Some(None);
        }
        let turn = self.hashing[usize::from(size > LARGE_OBJECT)].acquire();
        let mut turn = pin!(turn);
        loop {
            tokio::select! {
                permit = &mut turn => return permit.ok().map(Some),
                () = lookup.outcome.closed() => {
                    let mut slots = self.slots();
                    // Somebody may have come since.
                    if lookup.outcome.is_closed() {
                        slots.remove(key);
                        return None;
                    }
                }
            }
        }
    }

    fn path(&self, stat: &ObjectStat) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        Some(folder.join(blake3::hash(stat.name.as_bytes()).to_hex().as_str()))
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Key, Arc<Published>)>> {
        // As for the slots.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was published of an object in this state.
    async fn load(&self, stat: &ObjectStat) -> Option<Arc<Published>> {
        let key = key(stat);
        let kept = self.kept().iter().find(|(other, _)| *other == key).map(|(_, it)| it.clone());
        if kept.is_some() {
            return kept;
        }
        let (path, stat) = (self.path(stat)?, stat.clone());
        offload_read(move || entry::load(&path, &stat)).await.map(Arc::new)
    }

    /// Hashes an object, and writes its manifest where there is a place for it.
    async fn publish(
        &self,
        key: &Key,
        object: &Object,
        lookup: &Lookup,
    ) -> Result<Arc<Published>, CatalogueError> {
        let mut unwritten = None;
        if let Some(path) = self.path(object.stat()) {
            match publish(&path, object, &lookup.meter).await? {
                Ok(published) => return Ok(published),
                Err(Unwritten { error, published }) => {
                    let name = escape(&object.stat().name);
                    tracing::warn!(
                        %name, error = %escape(&error),
                        "cannot write to the catalogue: this object's hashes are kept in memory"
                    );
                    unwritten = published;
                }
            }
        }
        lookup.meter.hashed.store(0, Ordering::Relaxed);
        let published = match unwritten {
            Some(published) => published,
            None => Arc::new(hash_counted(object, &lookup.meter).await?),
        };
        self.keep(key, &published);
        Ok(published)
    }

    fn keep(&self, key: &Key, published: &Arc<Published>) {
        let mut kept = self.kept();
        // Another state of the object is of no use any more.
        kept.retain(|(other, _)| other.0 != key.0);
        kept.push_back((key.clone(), Arc::clone(published)));
        let size = |(key, published): &(Key, Arc<Published>)| {
            KEPT_BESIDE + key.0.as_bytes().len() + key.1.len() + published.size_in_memory()
        };
        while kept.iter().map(size).sum::<usize>() > MAX_KEPT && kept.len() > 1 {
            kept.pop_front();
        }
    }
}

/// None for what is hashed ahead, one after another.
type Permit<'a> = Option<SemaphorePermit<'a>>;

/// Counts an object that is hashed for somebody who asked.
struct Urgent<'a>(&'a watch::Sender<usize>);

impl<'a> Urgent<'a> {
    fn count(urgent: &'a watch::Sender<usize>, lookup: &Lookup) -> Option<Self> {
        let ahead = lookup.meter.ahead.load(Ordering::Relaxed);
        (!ahead).then(|| {
            urgent.send_modify(|count| *count += 1);
            Self(urgent)
        })
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Says how far the hashing of a large object is, as long as `publishing` takes.
async fn reporting<T>(object: &Object, lookup: &Lookup, publishing: impl Future<Output = T>) -> T {
    let ObjectStat { name, size, .. } = object.stat();
    let (name, began) = (escape(name), Instant::now());
    let mut publishing = pin!(publishing);
    let mut ticks = interval(SAY_HASHING_EVERY);
    ticks.tick().await;
    let mut said = false;
    loop {
        tokio::select! {
            published = &mut publishing => {
                if said {
                    let seconds = began.elapsed().as_secs();
                    tracing::info!(%name, size, "hashing took {seconds} s");
                }
                return published;
            }
            _ = ticks.tick() => {
                said = true;
                let hashed = lookup.meter.hashed.load(Ordering::Relaxed);
                let percent = u128::from(hashed) * 100 / u128::from((*size).max(1));
                tracing::info!(%name, size, "hashing: {percent} %");
            }
        }
    }
}

/// It was hashed, perhaps, and could not be written.
struct Unwritten {
    error: PartError,
    published: Option<Arc<Published>>,
}

fn key(stat: &ObjectStat) -> Key {
    (stat.name.clone(), stat.state.clone())
}

/// Hashes an object and writes its manifest to the file at `path`.
async fn publish(
    path: &Path,
    object: &Object,
    meter: &Meter,
) -> Result<Result<Arc<Published>, Unwritten>, CatalogueError> {
    if tree::pages(object.stat().size) > 1 {
        return match entry::hash_to_file(path, object, meter).await {
            Ok(published) => Ok(Ok(Arc::new(published))),
            Err(entry::HashError::Source(error)) => Err(error.into()),
            Err(entry::HashError::File(error)) => Ok(Err(Unwritten { error, published: None })),
        };
    }
    let published = Arc::new(hash_counted(object, meter).await?);
    let (saved, state) = (Arc::clone(&published), object.stat().state.clone());
    let path = path.to_path_buf();
    Ok(match offload(move || entry::save(&path, &saved, &state)).await {
        Ok(()) => Ok(published),
        Err(error) => Err(Unwritten { error, published: Some(published) }),
    })
}

/// Why the catalogue could not give a manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogueError {
    /// The state folder cannot be used.
    #[error(
        "cannot keep the catalogue in {}: {source}: choose another state folder",
        path.display()
    )]
    State {
        /// The catalogue's folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More than [`MAX_LOOKUPS`] objects are asked for at once.
    #[error("more than {MAX_LOOKUPS} objects are asked for at once: ask again later")]
    Busy,
    /// The object cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// What a client is told: nothing of the server's own paths.
impl From<&CatalogueError> for Failure {
    fn from(error: &CatalogueError) -> Self {
        match error {
            CatalogueError::Source(error) => error.into(),
            CatalogueError::Busy => Self { code: FailureCode::Busy, message: error.to_string() },
            CatalogueError::State { .. } => {
                Self { code: FailureCode::Other, message: "the server's state is broken".into() }
            }
        }
    }
}
