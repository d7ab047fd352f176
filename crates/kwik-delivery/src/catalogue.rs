//! What a server publishes of its objects.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{OnceCell, Semaphore};

use crate::{
    Failure, FailureCode, Manifest, Object, ObjectStat, PartError, PartFile, SourceError, Verifier,
    hash_object,
    limits::{MAX_HASHING, MAX_LOOKUPS, MAX_MESSAGE, MAX_OBJECT},
    offload::offload,
    request::{check_root, root_bytes},
    tree, wire,
};

/// The published manifests of a server's objects: one file each under `STATE/catalogue/`, made
/// when the object is first asked for, renewed when its size or modification time changes.
#[derive(Debug)]
pub struct Catalogue {
    folder: PathBuf,
    lookups: Mutex<BTreeMap<Key, Weak<Lookup>>>,
    hashing: Semaphore,
}

/// An object's name and state.
type Key = (String, String);
/// Who asks for one object at the same time waits for the same result.
type Lookup = OnceCell<Arc<Manifest>>;

impl Catalogue {
    /// Opens, or creates, the catalogue in the folder `state`. Blocks shortly: for start-up.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(state: impl AsRef<Path>) -> Result<Self, CatalogueError> {
        let folder = state.as_ref().join("catalogue");
        let failed = |source| CatalogueError::State { path: folder.clone(), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        let hashing = Semaphore::new(MAX_HASHING);
        Ok(Self { folder, lookups: Mutex::default(), hashing })
    }

    /// The manifest of `object` in its opened state: read from the catalogue, or hashed and
    /// published. Cancel safety: what is not finished is done again by the next who asks; another
    /// who waits for it takes over.
    ///
    /// # Errors
    /// When the object cannot be read or changes, or too many are asked for at once.
    pub async fn manifest(&self, object: &Object) -> Result<Arc<Manifest>, CatalogueError> {
        let lookup = self.lookup(object.stat()).ok_or(CatalogueError::Busy)?;
        let manifest = lookup.get_or_try_init(|| self.find_or_publish(object)).await?;
        Ok(Arc::clone(manifest))
    }

    fn lookup(&self, stat: &ObjectStat) -> Option<Arc<Lookup>> {
        let key = (stat.name.to_string(), stat.state.clone());
        // The map is whole between statements, so a panic elsewhere leaves it usable.
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = lookups.get(&key).and_then(Weak::upgrade) {
            return Some(lookup);
        }
        lookups.retain(|_, lookup| lookup.strong_count() > 0);
        if lookups.len() >= MAX_LOOKUPS {
            return None;
        }
        let lookup = Arc::default();
        lookups.insert(key, Arc::downgrade(&lookup));
        Some(lookup)
    }

    async fn find_or_publish(&self, object: &Object) -> Result<Arc<Manifest>, CatalogueError> {
        let path = self.path(object.stat());
        let (place, stat) = (path.clone(), object.stat().clone());
        if let Some(manifest) = offload(move || load(&place, &stat)).await {
            return Ok(Arc::new(manifest));
        }
        let permit = self.hashing.acquire().await;
        let manifest = Arc::new(hash_object(object).await?);
        drop(permit);
        let (saved, state) = (Arc::clone(&manifest), object.stat().state.clone());
        // Delivery goes on without it; the next request hashes again.
        if let Err(error) = offload(move || save(&path, &saved, state)).await {
            tracing::warn!(name = %manifest.name, %error, "cannot publish in the catalogue");
        }
        Ok(manifest)
    }

    fn path(&self, stat: &ObjectStat) -> PathBuf {
        self.folder.join(blake3::hash(stat.name.as_str().as_bytes()).to_hex().as_str())
    }
}

/// The manifest in the file at `path`, if it is whole and that of the object in this state.
fn load(path: &Path, stat: &ObjectStat) -> Option<Manifest> {
    let most = tree::outboard_size(stat.size.min(MAX_OBJECT)) + MAX_MESSAGE as u64;
    if path.metadata().ok()?.len() > most {
        return None;
    }
    let mut file = Bytes::from(fs::read(path).ok()?);
    let length = prost::decode_length_delimiter(&mut file).ok()?;
    if length > file.len() {
        return None;
    }
    let entry = wire::CatalogueEntry::decode(file.split_to(length)).ok()?;
    let same = entry.name == stat.name.as_str() && entry.state == stat.state;
    if !same || entry.size != stat.size {
        return None;
    }
    let root = check_root(&entry.root).ok()?;
    Verifier::new(entry.size, root, file.clone()).ok()?;
    Some(Manifest { name: stat.name.clone(), size: entry.size, root, outboard: file })
}

fn save(path: &Path, manifest: &Manifest, state: String) -> Result<(), PartError> {
    let root = root_bytes(&manifest.root);
    let entry =
        wire::CatalogueEntry { name: manifest.name.to_string(), size: manifest.size, root, state };
    let head = entry.encode_length_delimited_to_vec();
    let length = head.len() as u64;
    let file = PartFile::create(path, length + manifest.outboard.len() as u64)?;
    file.write_at(0, &head)?;
    file.write_at(length, &manifest.outboard)?;
    file.finish()
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
