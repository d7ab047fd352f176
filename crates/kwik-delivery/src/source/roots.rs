//! Several sources as one.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
};

use super::{Object, Source, SourceError, Survey, Unserved, error::unreadable};
use crate::ObjectName;

/// Sources, each in a folder of its name.
#[derive(Debug)]
pub(super) struct Roots(BTreeMap<String, Source>);

impl Roots {
    pub(super) fn new(
        sources: impl IntoIterator<Item = (String, Source)>,
    ) -> Result<Self, SourceError> {
        let mut roots = BTreeMap::new();
        for (name, source) in sources {
            if ObjectName::new(&name).is_err() || name.contains('/') {
                return Err(unreadable(format!("{name:?}"), "it is no name of a folder"));
            }
            match roots.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(source);
                }
                Entry::Occupied(entry) => {
                    let reason = "two sources have this name: give one of them another, NAME=PATH";
                    return Err(unreadable(entry.key().clone(), reason));
                }
            }
        }
        Ok(Self(roots))
    }

    /// Each as `change` makes it.
    pub(super) fn map(&self, change: impl Fn(Source) -> Source) -> Self {
        Self(self.0.iter().map(|(name, root)| (name.clone(), change(root.clone()))).collect())
    }

    /// The same, which may fail.
    pub(super) fn try_map(
        &self,
        change: impl Fn(Source) -> Result<Source, SourceError>,
    ) -> Result<Self, SourceError> {
        let changed = self.0.iter().map(|(name, root)| Ok((name.clone(), change(root.clone())?)));
        Ok(Self(changed.collect::<Result<_, SourceError>>()?))
    }

    pub(super) async fn open(&self, name: &ObjectName) -> Result<Object, SourceError> {
        let not_found = |why| Err(SourceError::NotFound { name: name.clone(), why });
        let (first, rest) = match name.as_str().split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (name.as_str(), None),
        };
        let Some(root) = self.0.get(first) else { return not_found(None) };
        let inner = match (root.only(), rest) {
            (Some(only), None) => only,
            (None, Some(rest)) => match ObjectName::new(rest) {
                Ok(inner) => inner,
                Err(_) => return not_found(None),
            },
            (Some(_), Some(_)) => return not_found(Some("a file alone is served by this name")),
            (None, None) => return not_found(Some("it is a folder")),
        };
        let opened = root.open(&inner).await.map_err(|error| error.below(first, name))?;
        Ok(opened.renamed(name.clone()))
    }

    /// Up to `limit` objects of all. A source that cannot be read is left out, as a folder in one.
    pub(super) async fn list(&self, limit: usize) -> Result<Vec<ObjectName>, SourceError> {
        let mut names = Vec::new();
        for (folder, root) in &self.0 {
            if root.only().is_some() {
                names.extend(ObjectName::new(folder));
            } else {
                match root.list(limit - names.len()).await {
                    Ok(inner) => names.extend(
                        inner
                            .iter()
                            .filter_map(|name| ObjectName::new(&format!("{folder}/{name}")).ok()),
                    ),
                    Err(error) => {
                        let error = kwik::escape(error);
                        tracing::warn!(%error, "a source is left out");
                    }
                }
            }
            if names.len() >= limit {
                break;
            }
        }
        names.truncate(limit);
        Ok(names)
    }

    pub(super) fn find_hidden(&self) -> Option<PathBuf> {
        let mut found = self.0.iter().filter_map(|(name, root)| {
            root.find_hidden().map(|hidden| PathBuf::from(name).join(hidden))
        });
        found.next()
    }

    pub(super) async fn survey(&self) -> Survey {
        let mut all = Survey::default();
        for root in self.0.values() {
            let Survey { unreadable, unnamed } = root.survey().await;
            add(&mut all.unreadable, unreadable);
            add(&mut all.unnamed, unnamed);
        }
        all
    }
}

fn add(all: &mut Unserved, some: Unserved) {
    all.count += some.count;
    all.example = all.example.take().or(some.example);
}
