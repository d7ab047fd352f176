//! What a server publishes of its objects.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use blake3::Hash;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::{
    Failure, FailureCode, Object, ObjectStat, Published, SourceError, hash_object,
    limits::{LARGE_OBJECT, MAX_HASHING_LARGE, MAX_HASHING_SMALL, MAX_LOOKUPS},
    offload::offload,
    tree,
};

mod entry;

/// The published manifests of a server's objects: one file each under `STATE/catalogue/`, made when
/// the object is first asked for, renewed when its state changes. Cheap to clone. Needs a tokio
/// runtime.
#[derive(Debug, Clone)]
pub struct Catalogue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    slots: Mutex<BTreeMap<Key, Slot>>,
    /// One for objects up to [`LARGE_OBJECT`], one for others: a small one waits behind no large
    /// one.
    hashing: [Semaphore; 2],
}

/// An object's name and state.
type Key = (String, String);
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
    hashed: AtomicU64,
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
        let hashed = self.lookup.as_ref().map(|lookup| lookup.hashed.load(Ordering::Relaxed));
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
        let hashing = [MAX_HASHING_SMALL, MAX_HASHING_LARGE].map(Semaphore::new);
        Ok(Self(Arc::new(Shared { folder, slots: Mutex::default(), hashing })))
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
        let stat = object.stat();
        let (key, size) = (key(stat), stat.size);
        let mut slots = self.0.slots();
        if let Some(slot) = slots.get(&key) {
            if let Some(published) = slot.published.upgrade() {
                let outcome = watch::channel(Some(Ok(published))).1;
                return Ok(Asked { size, lookup: None, outcome });
            }
            if let Some(lookup) = slot.lookup.upgrade() {
                let outcome = lookup.outcome.subscribe();
                return Ok(Asked { size, lookup: Some(lookup), outcome });
            }
        }
        slots.retain(|_, slot| slot.is_live());
        if slots.len() >= MAX_LOOKUPS {
            return Err(CatalogueError::Busy);
        }
        let (sender, outcome) = watch::channel(None);
        let lookup = Arc::new(Lookup { hashed: AtomicU64::new(0), outcome: sender });
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
        let (path, stat) = (self.0.path(stat), stat.clone());
        Some(offload(move || entry::load(&path, &stat)).await?.manifest().root)
    }

    /// Forgets what was published of an object in this state, as it does not fit: the next who asks
    /// has it hashed anew. Cancel safe.
    pub async fn forget(&self, stat: &ObjectStat) {
        self.0.slots().remove(&key(stat));
        let path = self.0.path(stat);
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
        let (path, stat) = (self.path(object.stat()), object.stat().clone());
        let place = path.clone();
        let found = offload(move || entry::load(&place, &stat)).await;
        let outcome = match found {
            Some(published) => Ok(Arc::new(published)),
            None => match self.permit(key, object.stat().size, lookup).await {
                Some(_permit) => publish(&path, object, &lookup.hashed).await.map_err(Arc::new),
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
    async fn permit(&self, key: &Key, size: u64, lookup: &Lookup) -> Option<SemaphorePermit<'_>> {
        let turn = self.hashing[usize::from(size > LARGE_OBJECT)].acquire();
        let mut turn = std::pin::pin!(turn);
        loop {
            tokio::select! {
                permit = &mut turn => return permit.ok(),
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

    fn path(&self, stat: &ObjectStat) -> PathBuf {
        self.folder.join(blake3::hash(stat.name.as_str().as_bytes()).to_hex().as_str())
    }
}

fn key(stat: &ObjectStat) -> Key {
    (stat.name.to_string(), stat.state.clone())
}

/// Hashes an object and writes its manifest to the file at `path`.
async fn publish(
    path: &Path,
    object: &Object,
    hashed: &AtomicU64,
) -> Result<Arc<Published>, CatalogueError> {
    let failed = |error: &dyn std::fmt::Display| {
        let name = &object.stat().name;
        // Delivery goes on without it; the next request hashes again.
        tracing::warn!(name = %kwik::escape(name), %error, "cannot publish in the catalogue");
    };
    if tree::pages(object.stat().size) > 1 {
        match entry::hash_to_file(path, object, hashed).await {
            Ok(published) => return Ok(Arc::new(published)),
            Err(entry::HashError::Source(error)) => return Err(error.into()),
            Err(error @ entry::HashError::File(_)) => failed(&error),
        }
        return Ok(Arc::new(hash_object(object).await?));
    }
    let published = Arc::new(hash_object(object).await?);
    let (saved, state) = (Arc::clone(&published), object.stat().state.clone());
    let path = path.to_path_buf();
    if let Err(error) = offload(move || entry::save(&path, &saved, &state)).await {
        failed(&error);
    }
    Ok(published)
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
