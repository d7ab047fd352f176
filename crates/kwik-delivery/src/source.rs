//! Where a server's objects come from.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
#[cfg(feature = "object_store")]
use object_store::ObjectStore;

use crate::{
    Attributes, List, Listed, ObjectName,
    limits::{MAX_DEPTH, MAX_INLINE, MAX_PACK_SIZE},
    offload::offload,
};

mod descriptors;
mod error;
mod folder;
mod listing;
mod object;
mod roots;
#[cfg(feature = "object_store")]
mod store;

pub use error::SourceError;
use error::unreadable;
use folder::Folder;
pub(crate) use object::Small;
pub use object::{Object, ObjectStat};
use roots::Roots;

/// A set of objects: a folder, a single file, a few in memory, or an object store.
#[derive(Debug, Clone)]
pub struct Source(Kind);

/// What of a source cannot be served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Folders that cannot be read.
    pub unreadable: Unserved,
    /// Files and folders whose names are no objects'.
    pub unnamed: Unserved,
}

/// Things of one kind that were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unserved {
    /// How many.
    pub count: usize,
    /// One of them, and what is wrong with it.
    pub example: Option<String>,
}

/// What a pack has room for yet.
#[derive(Debug, Clone, Copy)]
struct Room(u64);

impl Room {
    const fn new() -> Self {
        Self(MAX_PACK_SIZE)
    }

    fn take(&mut self, object: Option<&Object>) -> Option<Small> {
        let small = object?.read_small(self.0.min(MAX_INLINE))?;
        self.0 -= small.data.len() as u64;
        Some(small)
    }
}

impl Unserved {
    fn note(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        self.example.get_or_insert_with(example);
    }
}

#[derive(Debug, Clone)]
enum Kind {
    Folder(Arc<Folder>),
    Memory(Arc<BTreeMap<ObjectName, Object>>),
    Roots(Arc<Roots>),
    #[cfg(feature = "object_store")]
    Store(Arc<dyn ObjectStore>),
}

impl Source {
    /// Its only object, if it is made of one.
    fn only(&self) -> Option<ObjectName> {
        match &self.0 {
            Kind::Folder(folder) => folder.only.clone(),
            Kind::Memory(objects) if objects.len() == 1 => objects.keys().next().cloned(),
            _ => None,
        }
    }

    /// The files below the folder `path`, but for hidden ones; when `path` is a file, that one
    /// under its own name. Symbolic links that lead out are not followed; whoever may write to the
    /// folder while it is served could still swap a link in between, and is trusted. Blocks
    /// shortly: for start-up.
    ///
    /// # Errors
    /// When `path` cannot be read or its file name is no object's name.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        let given = path.as_ref();
        let place = || given.display().to_string();
        let path = given.canonicalize().map_err(|error| unreadable(place(), error))?;
        if path.is_dir() {
            return Ok(Self(Kind::Folder(Folder::new(path, None).into())));
        }
        let name = given.file_name().unwrap_or_default().as_bytes();
        let name = ObjectName::new(name).map_err(|error| unreadable(place(), error))?;
        let metadata = path.metadata().map_err(|error| unreadable(place(), error))?;
        if !metadata.is_file() {
            return Err(unreadable(place(), "it is neither a folder nor a file"));
        }
        Ok(Self(Kind::Folder(Folder::new(path, Some(name)).into())))
    }

    /// All that is in `file`, by this name. Nobody may change the file any more: it is read as it
    /// is, and not looked at for changes.
    ///
    /// # Errors
    /// When the file does not say its size.
    pub fn held(name: ObjectName, file: File) -> Result<Self, SourceError> {
        let place = name.to_string();
        let object = Object::held(name.clone(), file).map_err(|error| unreadable(place, error))?;
        Ok(Self(Kind::Memory(Arc::new([(name, object)].into()))))
    }

    /// Several sources: the objects of each lie in a folder of its name, and a file alone has that
    /// name itself.
    ///
    /// # Errors
    /// When a name is no folder's, or two sources have the same.
    pub fn several(
        sources: impl IntoIterator<Item = (ObjectName, Self)>,
    ) -> Result<Self, SourceError> {
        Ok(Self(Kind::Roots(Roots::new(sources)?.into())))
    }

    /// Shows nothing of the folder `secret` and what is in it, or of that file, whatever names lead
    /// there: a server's state has its key. Blocks shortly: for start-up.
    ///
    /// # Errors
    /// When `secret` is not there, or has all that is served in it.
    pub fn excluding(mut self, secret: impl AsRef<Path>) -> Result<Self, SourceError> {
        let secret = secret.as_ref();
        let place = || secret.display().to_string();
        if let Kind::Roots(roots) = self.0 {
            return Ok(Self(Kind::Roots(roots.try_map(|root| root.excluding(secret))?.into())));
        }
        if let Kind::Folder(folder) = &mut self.0 {
            let folder = Arc::make_mut(folder);
            folder.exclude(secret).map_err(|error| unreadable(place(), error))?;
            if folder.is_secret_itself() {
                let reason = "it lies in the server's own state, which has its secret key";
                return Err(unreadable(folder.root.display().to_string(), reason));
            }
        }
        Ok(self)
    }

    /// Shows files and folders whose names begin with a dot, too.
    #[must_use]
    pub fn with_hidden(mut self, shown: bool) -> Self {
        if let Kind::Roots(roots) = &self.0 {
            return Self(Kind::Roots(roots.map(|root| root.with_hidden(shown)).into()));
        }
        if let Kind::Folder(folder) = &mut self.0 {
            Arc::make_mut(folder).hidden = shown;
        }
        self
    }

    /// A hidden file or folder that is there, as far as a short look finds one. Blocks shortly: for
    /// start-up.
    #[must_use]
    pub fn find_hidden(&self) -> Option<PathBuf> {
        match &self.0 {
            Kind::Folder(folder) if folder.only.is_none() => folder.find_hidden(),
            Kind::Roots(roots) => roots.find_hidden(),
            _ => None,
        }
    }

    /// What of a folder cannot be served, as far as a short look finds it. Cancel safe.
    pub async fn survey(&self) -> Survey {
        match &self.0 {
            Kind::Folder(folder) if folder.only.is_none() => {
                let folder = Arc::clone(folder);
                offload(move || folder.survey()).await
            }
            Kind::Roots(roots) => Box::pin(roots.survey()).await,
            _ => Survey::default(),
        }
    }

    /// A few objects held in memory.
    #[must_use]
    pub fn memory(objects: impl IntoIterator<Item = (ObjectName, Bytes)>) -> Self {
        let objects = objects.into_iter();
        let objects = objects.map(|(name, data)| (name.clone(), Object::in_memory(name, data)));
        Self(Kind::Memory(Arc::new(objects.collect())))
    }

    /// The objects of any store. Needs the feature `object_store`.
    #[cfg(feature = "object_store")]
    #[must_use]
    pub fn store(store: Arc<dyn ObjectStore>) -> Self {
        Self(Kind::Store(store))
    }

    /// What is known of `name`. Cancel safe.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn head(&self, name: &ObjectName) -> Result<ObjectStat, SourceError> {
        Ok(self.open(name).await?.stat().clone())
    }

    /// Opens `name` in its present state. Cancel safe.
    ///
    /// # Errors
    /// When there is no such object here, or it cannot be read.
    pub async fn open(&self, name: &ObjectName) -> Result<Object, SourceError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, name) = (Arc::clone(folder), name.clone());
                let descriptors = Arc::clone(&folder.descriptors);
                let _turn = descriptors.turn().await;
                offload(move || folder.open(name)).await
            }
            Kind::Memory(objects) => {
                let object = objects.get(name).cloned();
                object.ok_or_else(|| SourceError::NotFound { name: name.clone(), why: None })
            }
            Kind::Roots(roots) => Box::pin(roots.open(name)).await,
            #[cfg(feature = "object_store")]
            Kind::Store(store) => {
                let (stat, stored) = store::open(name, Arc::clone(store)).await?;
                Ok(Object::in_store(stat, stored))
            }
        }
    }

    /// All of each of these that is small, as far as they go into one pack. Cancel safe.
    pub(crate) async fn small(&self, names: Vec<Option<ObjectName>>) -> Vec<Option<Small>> {
        if let Kind::Folder(folder) = &self.0 {
            let folder = Arc::clone(folder);
            let descriptors = Arc::clone(&folder.descriptors);
            let _turn = descriptors.turn().await;
            let read = move || {
                let (mut room, mut seen) = (Room::new(), BTreeMap::new());
                let mut open = |name: Option<ObjectName>| folder.open_beside(name?, &mut seen);
                names.into_iter().map(|name| room.take(open(name).as_ref())).collect()
            };
            return offload(read).await;
        }
        let (mut room, mut found) = (Room::new(), Vec::new());
        for name in names {
            let object = match name {
                Some(name) => self.open(&name).await.ok(),
                None => None,
            };
            let mut read = room;
            let (small, left) = offload(move || (read.take(object.as_ref()), read)).await;
            room = left;
            found.push(small);
        }
        found
    }

    /// Up to `most` entries of what `list` asks for, which are the last of an answer. Symbolic
    /// links to folders are not entered. Cancel safe.
    ///
    /// # Errors
    /// When there is no such folder or it cannot be read, or it is none of files or in memory.
    pub async fn page(&self, list: &List, most: usize) -> Result<Listed, SourceError> {
        Ok(self.page_and_rest(list, most).await?.0)
    }

    /// What is known of it beside what is in it.
    async fn attributes(&self) -> Attributes {
        match &self.0 {
            Kind::Folder(folder) => {
                let folder = Arc::clone(folder);
                offload(move || folder.attributes()).await
            }
            _ => Attributes::default(),
        }
    }

    /// As [`page`](Self::page), and how much was left out behind the last entry.
    async fn page_and_rest(&self, list: &List, most: usize) -> Result<(Listed, u64), SourceError> {
        match &self.0 {
            Kind::Folder(folder) => {
                let (folder, list) = (Arc::clone(folder), list.clone());
                offload(move || folder.page(&list, most)).await
            }
            Kind::Memory(objects) => Ok((listing::page_in_memory(objects, list, most)?, 0)),
            Kind::Roots(roots) => Box::pin(roots.page(list, most)).await,
            #[cfg(feature = "object_store")]
            Kind::Store(_) => Err(SourceError::CannotList),
        }
    }

    /// Up to `limit` objects, sorted within each folder. Symbolic links to folders are not
    /// entered; names that are no object's are left out. Cancel safe.
    ///
    /// # Errors
    /// When the folder or the store cannot be read; folders in it that cannot are left out.
    pub async fn list(&self, limit: usize) -> Result<Vec<ObjectName>, SourceError> {
        match &self.0 {
            Kind::Folder(folder) => {
                if let Some(name) = &folder.only {
                    return Ok(std::iter::once(name.clone()).take(limit).collect());
                }
                let folder = Arc::clone(folder);
                offload(move || {
                    let mut names = Vec::new();
                    folder.list(&folder.root, MAX_DEPTH, limit, &mut names).map(|()| names)
                })
                .await
            }
            Kind::Memory(objects) => Ok(objects.keys().take(limit).cloned().collect()),
            Kind::Roots(roots) => Box::pin(roots.list(limit)).await,
            #[cfg(feature = "object_store")]
            Kind::Store(store) => store::list(store, limit).await,
        }
    }
}
