//! Several sources as one.

use std::{
    collections::{BTreeMap, btree_map::Entry as Place},
    path::PathBuf,
};

use super::{
    Object, Source, SourceError, Survey, Unserved,
    error::{IS_FOLDER, unreadable},
    listing,
};
use crate::{Entry, EntryKind, List, Listed, ObjectName, limits::MAX_DEPTH};

/// Why there is nothing below a source that is a file.
const ALONE: &str = "a file alone is served by this name";

/// Sources, each in a folder of its name, which has one segment.
#[derive(Debug)]
pub(super) struct Roots(BTreeMap<ObjectName, Source>);

impl Roots {
    pub(super) fn new(
        sources: impl IntoIterator<Item = (ObjectName, Source)>,
    ) -> Result<Self, SourceError> {
        let mut roots = BTreeMap::new();
        for (name, source) in sources {
            if name.segments().count() > 1 {
                return Err(unreadable(format!("{name:?}"), "it is no name of a folder"));
            }
            match roots.entry(name) {
                Place::Vacant(place) => {
                    place.insert(source);
                }
                Place::Occupied(place) => {
                    let reason = "two sources have this name: give one of them another, NAME=PATH";
                    return Err(unreadable(place.key().to_string(), reason));
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
        let (first, rest) = split(name);
        let Some(root) = self.0.get(&first) else { return not_found(None) };
        let inner = match (root.only(), rest) {
            (Some(only), None) => only,
            (None, Some(rest)) => rest,
            (Some(_), Some(_)) => return not_found(Some(ALONE)),
            (None, None) => return not_found(Some(IS_FOLDER)),
        };
        let opened = root.open(&inner).await.map_err(|error| error.below(&first, name))?;
        Ok(opened.renamed(name.clone()))
    }

    /// As [`Source::page_and_rest`].
    pub(super) async fn page(
        &self,
        list: &List,
        most: usize,
    ) -> Result<(Listed, u64), SourceError> {
        let Some(name) = &list.folder else { return Ok((self.page_of_all(list, most).await, 0)) };
        let not_found = |why| Err(SourceError::NotFound { name: name.clone(), why });
        let (first, folder) = split(name);
        let Some(root) = self.0.get(&first) else { return not_found(None) };
        if root.only().is_some() {
            if folder.is_some() {
                return not_found(Some(ALONE));
            }
            let mut page = listing::last();
            if list.after.is_none() {
                page.entries.push(entry(&first, root).await?);
            }
            return Ok((page, 0));
        }
        let after = list.after.as_ref().and_then(|after| split(after).1);
        let inner = List { folder, recursive: list.recursive, after };
        below(&first, root, inner, most).await.map_err(|error| error.below(&first, name))
    }

    /// Of all sources. One that cannot be read is told as such, as a folder in one.
    async fn page_of_all(&self, list: &List, most: usize) -> Listed {
        let mut page = listing::last();
        // What was left out behind the last entry is met again.
        let mut behind = 0;
        let begun = list.after.as_ref().map(split);
        for (name, root) in &self.0 {
            let mut after = None;
            match &begun {
                Some((begun, _)) if name < begun => continue,
                Some((begun, rest)) if name == begun => after = Some(rest.clone()),
                _ if page.entries.len() == most => {
                    page.more = true;
                    page.left_out -= behind;
                    break;
                }
                _ => match entry(name, root).await {
                    Ok(entry) => {
                        page.entries.push(entry);
                        behind = 0;
                    }
                    Err(error) => {
                        warn(&error);
                        page.left_out += 1;
                        behind += 1;
                        continue;
                    }
                },
            }
            if !list.recursive || root.only().is_some() {
                continue;
            }
            let (told_now, goes_on) =
                (after.is_none(), after.as_ref().is_some_and(Option::is_some));
            let inner = List { folder: None, recursive: true, after: after.flatten() };
            match below(name, root, inner, most - page.entries.len()).await {
                Ok((listed, rest)) => {
                    behind = if listed.entries.is_empty() { behind + rest } else { rest };
                    page.left_out += listed.left_out;
                    page.entries.extend(listed.entries);
                    if listed.more {
                        page.more = true;
                        page.left_out -= behind;
                        break;
                    }
                }
                Err(error) => {
                    warn(&error);
                    match page.entries.last_mut().filter(|_| told_now) {
                        Some(entry) => entry.kind = EntryKind::Unreadable,
                        // Else that was told before.
                        None => page.left_out += u64::from(goes_on),
                    }
                }
            }
        }
        page
    }

    /// Up to `limit` objects of all. A source that cannot be read is left out, as a folder in one.
    pub(super) async fn list(&self, limit: usize) -> Result<Vec<ObjectName>, SourceError> {
        let mut names = Vec::new();
        for (folder, root) in &self.0 {
            if root.only().is_some() {
                names.push(folder.clone());
            } else {
                match root.list(limit - names.len()).await {
                    Ok(inner) => names.extend(inner.iter().filter_map(|name| join(folder, name))),
                    Err(error) => warn(&error),
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
            root.find_hidden().map(|hidden| PathBuf::from(name.file_name()).join(hidden))
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

fn warn(error: &SourceError) {
    let error = kwik::escape(error);
    tracing::warn!(%error, "a source is left out");
}

/// The first segment, and what follows.
fn split(name: &ObjectName) -> (ObjectName, Option<ObjectName>) {
    let mut first = name.clone();
    while let Some(parent) = first.parent() {
        first = parent;
    }
    let rest = name.within(&first);
    (first, rest)
}

fn join(folder: &ObjectName, name: &ObjectName) -> Option<ObjectName> {
    ObjectName::new([folder.as_bytes(), b"/", name.as_bytes()].concat()).ok()
}

/// A source as an entry of this name.
async fn entry(name: &ObjectName, root: &Source) -> Result<Entry, SourceError> {
    let name = name.clone();
    let Some(only) = root.only() else {
        let attributes = root.attributes().await;
        return Ok(Entry { name, kind: EntryKind::Folder, attributes });
    };
    let list = List { folder: Some(only), ..List::default() };
    let (page, _) = Box::pin(root.page_and_rest(&list, 1)).await?;
    let file = page.entries.into_iter().next().filter(|entry| entry.size().is_some());
    let file = file.ok_or_else(|| SourceError::NotFound { name: name.clone(), why: None })?;
    Ok(Entry { name, ..file })
}

/// What is in a source, as it is told: with the source's name before each. What is too long or too
/// deep with that is left out.
async fn below(
    folder: &ObjectName,
    root: &Source,
    mut list: List,
    most: usize,
) -> Result<(Listed, u64), SourceError> {
    let mut left_out = 0;
    loop {
        let (mut page, behind) = Box::pin(root.page_and_rest(&list, most)).await?;
        let (count, last) = (page.entries.len(), page.entries.last().map(|it| it.name.clone()));
        let named = |entry: Entry| {
            let name = join(folder, &entry.name)?;
            (name.segments().count() <= MAX_DEPTH + 1).then_some(Entry { name, ..entry })
        };
        page.entries = std::mem::take(&mut page.entries).into_iter().filter_map(named).collect();
        left_out += page.left_out + (count - page.entries.len()) as u64;
        match last {
            // A page with nothing in it would be the end.
            Some(last) if page.more && page.entries.is_empty() => list.after = Some(last),
            _ => {
                page.left_out = left_out;
                return Ok((page, behind));
            }
        }
    }
}
