//! Objects of any object store.

use std::{
    ops::Range,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, path::Path,
};

use crate::{ObjectName, SourceError, limits::MAX_STATE, partial};

use super::{ObjectStat, error::unreadable};

/// One object of a store.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

/// The object `name` of a store in its present state.
pub(super) async fn open(
    name: &ObjectName,
    store: Arc<dyn ObjectStore>,
) -> Result<(ObjectStat, Stored), SourceError> {
    if partial::is_part_name(name.file_name()) {
        return Err(SourceError::NotFound { name: name.clone(), why: None });
    }
    let Some(text) = name.to_str() else {
        return Err(SourceError::NotFound { name: name.clone(), why: None });
    };
    let path = Path::parse(text).map_err(|error| unreadable(name.to_string(), error))?;
    let meta = store.head(&path).await.map_err(|error| failure(name, error))?;
    let state = state_of(&meta);
    if state.len() > MAX_STATE {
        return Err(unreadable(name.to_string(), "its entity tag is too long"));
    }
    let modified = meta.last_modified.into();
    let stat = ObjectStat { name: name.clone(), size: meta.size, modified, mode: None, state };
    Ok((stat, Stored { store, path }))
}

/// Up to `limit` names.
pub(super) async fn list(
    store: &Arc<dyn ObjectStore>,
    limit: usize,
) -> Result<Vec<ObjectName>, SourceError> {
    use futures_util::StreamExt;
    let named = async |meta: ObjectMeta| Ok(ObjectName::new(meta.location.to_string()).ok());
    let names = store.list(None).try_filter_map(named).take(limit).try_collect().await;
    names.map_err(|error| unreadable("the object store".into(), error))
}

impl Stored {
    /// Reads `range`, if the object still is what `stat` says.
    pub(super) async fn read(
        &self,
        stat: &ObjectStat,
        range: Range<u64>,
    ) -> Result<Bytes, SourceError> {
        let length = range.end - range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..Default::default() };
        let failed = |error| failure(&stat.name, error);
        let result = self.store.get_opts(&self.path, options).await.map_err(failed)?;
        let same = state_of(&result.meta) == stat.state;
        let data = if same { result.bytes().await.map_err(failed)? } else { Bytes::new() };
        if data.len() as u64 == length {
            Ok(data)
        } else {
            Err(SourceError::Changed { name: stat.name.clone() })
        }
    }
}

fn failure(name: &ObjectName, error: Error) -> SourceError {
    match error {
        Error::NotFound { .. } => SourceError::NotFound { name: name.clone(), why: None },
        Error::Precondition { .. } => SourceError::Changed { name: name.clone() },
        other => unreadable(name.to_string(), other),
    }
}

fn state_of(meta: &ObjectMeta) -> String {
    meta.e_tag.clone().unwrap_or_else(|| {
        let modified = SystemTime::from(meta.last_modified).duration_since(UNIX_EPOCH);
        format!("{:x}-{:x}", meta.size, modified.unwrap_or_default().as_nanos())
    })
}
