//! One object, in one state.

use std::{
    fs::{File, Metadata},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;

#[cfg(feature = "object_store")]
use super::store::Stored;
use super::{
    descriptors::{Descriptors, OpenFile},
    error::{IS_FOLDER, file_error},
};
use crate::{Attributes, ObjectName, SourceError, limits::MAX_READ, offload::offload};

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStat {
    /// Its name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// When it was modified last.
    pub modified: SystemTime,
    /// Who may do what with it, as Unix has it: nine bits; none where there is no such thing.
    pub mode: Option<u32>,
    /// Opaque; differs once its content, size or any of its times may. At most
    /// [`MAX_STATE`](crate::limits::MAX_STATE) bytes.
    pub state: String,
}

impl ObjectStat {
    /// What a client is told beside its size.
    #[must_use]
    pub const fn attributes(&self) -> Attributes {
        Attributes { modified: Some(self.modified), mode: self.mode }
    }
}

/// A small object, read whole.
#[derive(Debug)]
pub(crate) struct Small {
    pub(crate) attributes: Attributes,
    pub(crate) data: Bytes,
}

/// One object in one state: reads fail once its content changed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Object {
    stat: ObjectStat,
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    File(Arc<OpenFile>, Content),
    Memory(Bytes),
    /// A file that has no name, and that nobody else can change.
    Held(Arc<File>),
    #[cfg(feature = "object_store")]
    Store(Stored),
}

/// What tells a file's content apart while it is read. Not its change time, which moves when the
/// file is replaced or linked and can be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Content {
    fn of(metadata: &Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.len(), modified }
    }
}

impl Object {
    /// What is known of it.
    #[must_use]
    pub const fn stat(&self) -> &ObjectStat {
        &self.stat
    }

    /// Whether reading all of it costs some seconds of a disk, and not traffic that is paid for.
    pub(crate) const fn is_near(&self) -> bool {
        match &self.body {
            Body::File(..) | Body::Memory(_) | Body::Held(_) => true,
            #[cfg(feature = "object_store")]
            Body::Store(_) => false,
        }
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
            Body::File(file, content) => {
                let _turn = file.descriptors().turn().await;
                let (file, name, content) = (Arc::clone(file), name.clone(), *content);
                offload(move || read_file(&file, &name, content, range.start, length)).await
            }
            Body::Held(file) => {
                let (file, name) = (Arc::clone(file), name.clone());
                offload(move || read_held(&file, &name, range.start, length)).await
            }
            Body::Memory(data) => {
                // Within what is in memory, so none is too large.
                let at = |at| usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
                Ok(data.slice(at(range.start)..at(range.end)))
            }
            #[cfg(feature = "object_store")]
            Body::Store(stored) => stored.read(&self.stat, range).await,
        }
    }

    /// Looks whether all of it is as it was when it was opened. Cancel safe.
    ///
    /// # Errors
    /// When it is not, or cannot be looked at.
    pub(crate) async fn check_unchanged(&self) -> Result<(), SourceError> {
        // Memory does not change, and each read of a store compares what it can.
        let Body::File(file, content) = &self.body else { return Ok(()) };
        let (file, stat, content) = (Arc::clone(file), self.stat.clone(), *content);
        offload(move || {
            let opened = open(&file, &stat.name, content)?;
            let metadata = opened.metadata().map_err(|error| file_error(&stat.name, error))?;
            let same = file_state(&metadata) == stat.state;
            if same { Ok(()) } else { Err(SourceError::Changed { name: stat.name }) }
        })
        .await
    }

    /// The regular file at `path`, which is canonical. It is opened when it is read.
    pub(super) fn in_folder(
        name: ObjectName,
        path: &Path,
        descriptors: &Arc<Descriptors>,
    ) -> Result<Self, SourceError> {
        let failed = |error| file_error(&name, error);
        // Looked at before opening: opening a pipe would wait for its writer.
        let metadata = path.symlink_metadata().map_err(failed)?;
        if !metadata.is_file() {
            let why = if metadata.is_dir() { IS_FOLDER } else { "it is no regular file" };
            let why = Some(why);
            return Err(SourceError::NotFound { name, why });
        }
        let modified = metadata.modified().map_err(failed)?;
        let (state, size) = (file_state(&metadata), metadata.len());
        let file = OpenFile::new(path.to_path_buf(), Arc::clone(descriptors));
        let content = Content::of(&metadata);
        // Opened now, so that what cannot be read is refused, and what is replaced is read on.
        open(&file, &name, content)?;
        let mode = Some(metadata.mode() & 0o777);
        let stat = ObjectStat { name, size, modified, mode, state };
        Ok(Self { stat, body: Body::File(file, content) })
    }

    /// `data`, which is told from other data by its hash.
    pub(super) fn in_memory(name: ObjectName, data: Bytes) -> Self {
        let state = blake3::hash(&data).to_hex().to_string();
        let (size, modified) = (data.len() as u64, SystemTime::now());
        let stat = ObjectStat { name, size, modified, mode: None, state };
        Self { stat, body: Body::Memory(data) }
    }

    /// Small objects one behind the other, whose hash is `root`; `name` is for people.
    pub(crate) fn packed(name: ObjectName, data: Bytes, root: blake3::Hash) -> Self {
        let (size, state) = (data.len() as u64, root.to_hex().to_string());
        let stat = ObjectStat { name, size, modified: SystemTime::now(), mode: None, state };
        Self { stat, body: Body::Memory(data) }
    }

    /// All of it, if it has no more than `most` bytes and is there without waiting for a network.
    /// Blocks.
    pub(super) fn read_small(&self, most: u64) -> Option<Small> {
        let ObjectStat { name, size, .. } = &self.stat;
        let data = match &self.body {
            _ if *size > most => return None,
            _ if *size == 0 => Bytes::new(),
            Body::File(file, content) => read_file(file, name, *content, 0, *size).ok()?,
            Body::Memory(data) => data.clone(),
            Body::Held(file) => read_held(file, name, 0, *size).ok()?,
            #[cfg(feature = "object_store")]
            Body::Store(_) => return None,
        };
        Some(Small { attributes: self.stat.attributes(), data })
    }

    /// All of a file that has no name any more.
    pub(super) fn held(name: ObjectName, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let (size, modified) = (metadata.len(), metadata.modified()?);
        let stat = ObjectStat { name, size, modified, mode: None, state: file_state(&metadata) };
        Ok(Self { stat, body: Body::Held(file.into()) })
    }

    /// The same by another name.
    pub(super) fn renamed(mut self, name: ObjectName) -> Self {
        self.stat.name = name;
        self
    }

    #[cfg(feature = "object_store")]
    pub(super) const fn in_store(stat: ObjectStat, stored: Stored) -> Self {
        Self { stat, body: Body::Store(stored) }
    }
}

/// The file, which may have been closed since and opened again. Another file at its place is
/// refused.
fn open(
    file: &Arc<OpenFile>,
    name: &ObjectName,
    content: Content,
) -> Result<Arc<File>, SourceError> {
    enum Refused {
        Io(io::Error),
        Changed,
    }
    impl From<io::Error> for Refused {
        fn from(error: io::Error) -> Self {
            Self::Io(error)
        }
    }
    let check = |file: &File| {
        if Content::of(&file.metadata()?) == content { Ok(()) } else { Err(Refused::Changed) }
    };
    file.file(check).map_err(|refused| match refused {
        Refused::Io(error) => file_error(name, error),
        Refused::Changed => SourceError::Changed { name: name.clone() },
    })
}

fn read_file(
    file: &Arc<OpenFile>,
    name: &ObjectName,
    content: Content,
    at: u64,
    length: u64,
) -> Result<Bytes, SourceError> {
    let changed = || SourceError::Changed { name: name.clone() };
    let file = open(file, name, content)?;
    let mut data = vec![0; usize::try_from(length).expect("invariant: at most MAX_READ")];
    file.read_exact_at(&mut data, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => changed(),
        _ => file_error(name, error),
    })?;
    let metadata = file.metadata().map_err(|error| file_error(name, error))?;
    if Content::of(&metadata) == content { Ok(data.into()) } else { Err(changed()) }
}

fn read_held(file: &File, name: &ObjectName, at: u64, length: u64) -> Result<Bytes, SourceError> {
    let mut data = vec![0; usize::try_from(length).expect("invariant: at most MAX_READ")];
    let read = file.read_exact_at(&mut data, at);
    read.map(|()| data.into()).map_err(|error| file_error(name, error))
}

/// The change time too: whoever puts size and modification time back cannot put that back.
fn file_state(metadata: &Metadata) -> String {
    let Content { device, inode, size, modified: (seconds, nanos) } = Content::of(metadata);
    let (changed, changed_nanos) = (metadata.ctime(), metadata.ctime_nsec());
    format!("{device:x}-{inode:x}-{size:x}-{seconds:x}-{nanos:x}-{changed:x}-{changed_nanos:x}")
}
