//! Where a server's objects come from.

use std::{
    fs::{self, File, Metadata},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, memory::InMemory};

use crate::{
    ObjectName,
    limits::{MAX_DEPTH, MAX_READ, MAX_STATE},
    offload::offload,
    partial,
};

/// A set of objects: a folder, a single file, or an object store.
#[derive(Debug, Clone)]
pub struct Source(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// Canonical path; symbolic links that lead out of it are not followed.
    Folder(Arc<Path>),
    /// Exactly one object: the file at this canonical path.
    File(ObjectName, Arc<Path>),
    Store(Arc<dyn ObjectStore>),
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStat {
    /// Its name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// When it was modified last.
    pub modified: SystemTime,
    /// Opaque; differs once size or modification time differ. At most
    /// [`MAX_STATE`] bytes.
    pub state: String,
}

/// One object in one state: reads fail once its content changed.
#[derive(Debug, Clone)]
pub struct Object {
    stat: ObjectStat,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    File(Arc<File>),
    Store(Arc<dyn ObjectStore>, object_store::path::Path),
}

impl Source {
    /// The files below the folder `path`; when `path` is a file, that one under its own name.
    /// Symbolic links that lead out are not followed; whoever may write to the folder while it is
    /// served could still swap a link in between, and is trusted. Blocks shortly: for start-up.
    ///
    /// # Errors
    /// When `path` cannot be read or its file name is no object's name.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let given = path.as_ref();
        let place = || given.display().to_string();
        let path = given.canonicalize().map_err(|error| unreadable(place(), error))?;
        if path.is_dir() {
            return Ok(Self(Kind::Folder(path.into())));
        }
        let name = given.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = ObjectName::new(name).map_err(|error| unreadable(place(), error))?;
        let metadata = path.metadata().map_err(|error| unreadable(place(), error))?;
        if !metadata.is_file() {
            return Err(unreadable(place(), "it is neither a folder nor a file"));
        }
        Ok(Self(Kind::File(name, path.into())))
    }

    /// A few objects held in memory.
    ///
    /// # Errors
    /// When a name is none that the store takes.
    pub async fn memory(
        objects: impl IntoIterator<Item = (ObjectName, Bytes)>,
    ) -> Result<Self, SourceError> {
        let store = InMemory::new();
        for (name, data) in objects {
            let put = store.put_opts(&store_path(&name)?, data.into(), Default::default()).await;
            put.map_err(|error| unreadable(name.to_string(), error))?;
        }
        Ok(Self::store(Arc::new(store)))
    }

    /// The objects of any store.
    #[must_use]
    pub fn store(store: Arc<dyn ObjectStore>) -> Self {
        Self(Kind::Store(store))
    }

    /// What is known of `name`. Cancel safe.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn head(&self, name: &ObjectName) -> Result<ObjectStat, SourceError> {
        Ok(self.open(name).await?.stat)
    }

    /// Opens `name` in its present state. Cancel safe.
    ///
    /// # Errors
    /// When there is no such object here, or it cannot be read.
    pub async fn open(&self, name: &ObjectName) -> Result<Object, SourceError> {
        let not_found = || SourceError::NotFound { name: name.clone() };
        if partial::is_part_name(name.file_name()) {
            return Err(not_found());
        }
        let (root, path) = match &self.0 {
            Kind::Folder(root) => (Arc::clone(root), name.under(root)),
            Kind::File(only, path) if only == name => (Arc::clone(path), path.to_path_buf()),
            Kind::File(..) => return Err(not_found()),
            Kind::Store(store) => return Object::in_store(name, Arc::clone(store)).await,
        };
        let name = name.clone();
        offload(move || Object::in_folder(name, &root, &path)).await
    }

    /// Up to `limit` objects, sorted within each folder. Symbolic links to folders are not
    /// entered; names that are no object's are left out. Cancel safe.
    ///
    /// # Errors
    /// When a folder or the store cannot be read.
    pub async fn list(&self, limit: usize) -> Result<Vec<ObjectName>, SourceError> {
        match &self.0 {
            Kind::Folder(root) => {
                let root = Arc::clone(root);
                offload(move || {
                    let mut names = Vec::new();
                    list_folder(&root, &root, MAX_DEPTH, limit, &mut names).map(|()| names)
                })
                .await
            }
            Kind::File(name, _) => Ok(std::iter::once(name.clone()).take(limit).collect()),
            Kind::Store(store) => {
                let names = store.list(None).try_filter_map(async |meta: ObjectMeta| {
                    Ok(ObjectName::new(meta.location.as_ref()).ok())
                });
                let names = names.take(limit).try_collect().await;
                names.map_err(|error| unreadable("the object store".into(), error))
            }
        }
    }
}

impl Object {
    /// What is known of it.
    #[must_use]
    pub const fn stat(&self) -> &ObjectStat {
        &self.stat
    }

    /// Reads `range` whole. Cancel safe.
    ///
    /// # Errors
    /// When the object changed since it was opened, cannot be read, or `range` is longer than
    /// [`MAX_READ`] or beyond the object's end.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes, SourceError> {
        let name = &self.stat.name;
        let length = range.end.checked_sub(range.start);
        let Some(length) = length.filter(|n| *n <= MAX_READ && range.end <= self.stat.size) else {
            return Err(SourceError::OutOfRange { name: name.clone(), range });
        };
        if length == 0 {
            return Ok(Bytes::new());
        }
        match &self.body {
            Body::File(file) => {
                let (file, stat) = (Arc::clone(file), self.stat.clone());
                offload(move || read_file(&file, &stat, range.start, length)).await
            }
            Body::Store(store, path) => {
                let options =
                    GetOptions { range: Some(GetRange::Bounded(range)), ..Default::default() };
                let failed = |error| store_error(name, error);
                let result = store.get_opts(path, options).await.map_err(failed)?;
                let same = state_of(&result.meta) == self.stat.state;
                let data = if same { result.bytes().await.map_err(failed)? } else { Bytes::new() };
                if data.len() as u64 == length {
                    Ok(data)
                } else {
                    Err(SourceError::Changed { name: name.clone() })
                }
            }
        }
    }

    /// Opens the regular file `path` if it lies within `root`, both after symbolic links.
    fn in_folder(name: ObjectName, root: &Path, path: &Path) -> Result<Self, SourceError> {
        let failed = |error| file_error(&name, error);
        let path = path.canonicalize().map_err(failed)?;
        // Checked before opening: opening a pipe would wait for its writer.
        if !path.starts_with(root) || !path.metadata().map_err(failed)?.is_file() {
            return Err(SourceError::NotFound { name });
        }
        let file = File::open(&path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let modified = metadata.modified().map_err(failed)?;
        let state = file_state(&metadata);
        let stat = ObjectStat { name, size: metadata.len(), modified, state };
        Ok(Self { stat, body: Body::File(Arc::new(file)) })
    }

    async fn in_store(name: &ObjectName, store: Arc<dyn ObjectStore>) -> Result<Self, SourceError> {
        let path = store_path(name)?;
        let options = GetOptions { head: true, ..Default::default() };
        let result = store.get_opts(&path, options).await;
        let meta = result.map_err(|error| store_error(name, error))?.meta;
        let state = state_of(&meta);
        if state.len() > MAX_STATE {
            return Err(unreadable(name.to_string(), "its entity tag is too long"));
        }
        let modified = meta.last_modified.into();
        let stat = ObjectStat { name: name.clone(), size: meta.size, modified, state };
        Ok(Self { stat, body: Body::Store(store, path) })
    }
}

fn read_file(file: &File, stat: &ObjectStat, at: u64, length: u64) -> Result<Bytes, SourceError> {
    let changed = || SourceError::Changed { name: stat.name.clone() };
    let mut data = vec![0; usize::try_from(length).expect("invariant: at most MAX_READ")];
    file.read_exact_at(&mut data, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => changed(),
        _ => file_error(&stat.name, error),
    })?;
    let metadata = file.metadata().map_err(|error| file_error(&stat.name, error))?;
    if file_state(&metadata) == stat.state { Ok(data.into()) } else { Err(changed()) }
}

fn file_state(metadata: &Metadata) -> String {
    let (inode, size) = (metadata.ino(), metadata.len());
    format!("{inode:x}-{size:x}-{:x}-{:x}", metadata.mtime(), metadata.mtime_nsec())
}

fn state_of(meta: &ObjectMeta) -> String {
    meta.e_tag.clone().unwrap_or_else(|| {
        let modified = SystemTime::from(meta.last_modified).duration_since(UNIX_EPOCH);
        format!("{:x}-{:x}", meta.size, modified.unwrap_or_default().as_nanos())
    })
}

fn list_folder(
    root: &Path,
    folder: &Path,
    depth: usize,
    limit: usize,
    names: &mut Vec<ObjectName>,
) -> Result<(), SourceError> {
    let failed = |error| unreadable(folder.display().to_string(), error);
    let entries = fs::read_dir(folder).map_err(failed)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed)?;
    paths.sort_unstable();
    for path in paths {
        if names.len() >= limit {
            break;
        }
        let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
        let Some(name) = relative.and_then(|name| ObjectName::new(name).ok()) else {
            continue;
        };
        if is_folder && depth > 0 {
            list_folder(root, &path, depth - 1, limit, names)?;
        } else if !is_folder && is_listed(root, &path, &name) {
            names.push(name);
        }
    }
    Ok(())
}

/// Whether `path` is a regular file, links included, that does not lead out of `root`.
fn is_listed(root: &Path, path: &Path, name: &ObjectName) -> bool {
    !partial::is_part_name(name.file_name())
        && path.canonicalize().is_ok_and(|path| path.starts_with(root) && path.is_file())
}

fn store_path(name: &ObjectName) -> Result<object_store::path::Path, SourceError> {
    let path = object_store::path::Path::parse(name.as_str());
    path.map_err(|error| unreadable(name.to_string(), error))
}

fn unreadable(
    place: String,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> SourceError {
    SourceError::Unreadable { place, source: source.into() }
}

fn file_error(name: &ObjectName, error: io::Error) -> SourceError {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound};
    match error.kind() {
        NotFound | NotADirectory | InvalidFilename => SourceError::NotFound { name: name.clone() },
        _ => unreadable(name.to_string(), error),
    }
}

fn store_error(name: &ObjectName, error: object_store::Error) -> SourceError {
    match error {
        object_store::Error::NotFound { .. } => SourceError::NotFound { name: name.clone() },
        object_store::Error::Precondition { .. } => SourceError::Changed { name: name.clone() },
        other => unreadable(name.to_string(), other),
    }
}

/// Why a source could not give an object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No such object here; links that lead out of the folder count as none.
    #[error("no object {name} here: check its name")]
    NotFound {
        /// Which.
        name: ObjectName,
    },
    /// It is there and cannot be read.
    #[error("cannot read {place}: {source}")]
    Unreadable {
        /// Which object or path.
        place: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It changed since it was opened.
    #[error("object {name} changed while it was read: open it again")]
    Changed {
        /// Which.
        name: ObjectName,
    },
    /// Larger than [`MAX_OBJECT`](crate::limits::MAX_OBJECT).
    #[error("object {name} has {size} bytes, more than 1 TiB: split it")]
    TooLarge {
        /// Which.
        name: ObjectName,
        /// Its bytes.
        size: u64,
    },
    /// A read of more than [`MAX_READ`] bytes or beyond the object's end.
    #[error("bytes {} to {} of object {name} are not one read", range.start, range.end)]
    OutOfRange {
        /// Which.
        name: ObjectName,
        /// What was asked for.
        range: Range<u64>,
    },
}
