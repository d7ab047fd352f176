//! What is in a folder: some of it at a time, in order, in bounded memory however much it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt, ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use kwik::escape;

use crate::{
    Attributes, Entry, EntryKind, List, Listed, ObjectName, SourceError, in_order,
    limits::MAX_DEPTH, partial,
};

use super::{
    Object,
    error::{file_error, unreadable},
    folder::Folder,
};

/// All that was asked for is there, or as much as was wanted.
enum Step {
    GoOn,
    Full,
}

impl Folder {
    /// Up to `most` entries of what `list` asks for, and how much was left out behind the last.
    pub(super) fn page(&self, list: &List, most: usize) -> Result<(Listed, u64), SourceError> {
        if self.only.is_none() && self.is_secret_itself() {
            let reason = "it lies in the state of a server";
            return Err(unreadable(self.root.display().to_string(), reason));
        }
        let mut walk =
            Walk { folder: self, recursive: list.recursive, most, page: last(), left_out: 0 };
        let (name, path) = match (&self.only, &list.folder) {
            (Some(only), None) => (Some(only), self.root.clone()),
            (_, None) => (None, self.root.clone()),
            (_, Some(name)) => (Some(name), self.path_of(name)?),
        };
        let after = list.after.as_ref().map(|after| match &list.folder {
            Some(folder) => after.within(folder),
            None => Some(after.clone()),
        });
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Err(failed(name, &path, error)),
        };
        if let Some(name) = name.filter(|_| metadata.is_file()) {
            if after.is_none() {
                let kind = EntryKind::File { size: metadata.len() };
                walk.page.entries.push(entry(name.clone(), kind, &metadata));
            }
            return Ok((walk.page, 0));
        }
        if !metadata.is_dir() {
            let why = Some("it is neither a folder nor a regular file");
            let name = name.or(list.folder.as_ref());
            return Err(match name {
                Some(name) => SourceError::NotFound { name: name.clone(), why },
                None => unreadable(path.display().to_string(), "it is no folder any more"),
            });
        }
        let after = after.flatten();
        let after: Vec<_> = after.iter().flat_map(ObjectName::segments).collect();
        let depth = list.folder.as_ref().map_or(0, |folder| folder.segments().count());
        let Some(depth) = MAX_DEPTH.checked_sub(depth) else { return Ok((walk.page, 0)) };
        let first = walk.read(&path, after.first().copied());
        let first = first.map_err(|error| failed(name, &path, error))?;
        walk.go_through(&path, list.folder.as_ref(), &after, depth, first);
        let behind = walk.page.left_out - walk.left_out;
        Ok((walk.page, behind))
    }

    /// What is known of the folder, or the file, itself.
    pub(super) fn attributes(&self) -> Attributes {
        self.root.symlink_metadata().as_ref().map(attributes).unwrap_or_default()
    }

    /// Where a folder, or a file, is, if it may be seen.
    fn path_of(&self, name: &ObjectName) -> Result<PathBuf, SourceError> {
        if self.only.as_ref() == Some(name) {
            return Ok(self.root.clone());
        }
        if self.only.is_some() {
            let why = Some("one file alone is served");
            return Err(SourceError::NotFound { name: name.clone(), why });
        }
        self.canonical(name)
    }
}

/// A walk through a folder.
struct Walk<'a> {
    folder: &'a Folder,
    recursive: bool,
    most: usize,
    page: Listed,
    /// What was left out before the last entry: what stands behind it is met again.
    left_out: u64,
}

/// The first names of a folder, in order.
struct Names {
    names: BTreeSet<OsString>,
    /// There are more behind them.
    truncated: bool,
}

impl Walk<'_> {
    /// The first names of a folder from `from` on, as many as a page could take. Those of hidden
    /// files and of unfinished downloads are none.
    fn read(&self, path: &Path, from: Option<&[u8]>) -> io::Result<Names> {
        // One more says whether the page is all, and another one stands for `from`.
        let room = self.most - self.page.entries.len() + 2;
        let (mut names, mut truncated) = (BTreeSet::new(), false);
        for found in fs::read_dir(path)? {
            let name = found?.file_name();
            let hidden = !self.folder.hidden && name.as_bytes().starts_with(b".");
            let before = from.is_some_and(|from| name.as_bytes() < from);
            if hidden || before || partial::is_part_name(&name) {
                continue;
            }
            names.insert(name);
            if names.len() > room {
                names.pop_last();
                truncated = true;
            }
        }
        Ok(Names { names, truncated })
    }

    /// Adds what is in the folder at the canonical `path`, whose first names are known, behind
    /// `after`.
    fn go_through(
        &mut self,
        path: &Path,
        folder: Option<&ObjectName>,
        after: &[&[u8]],
        depth: usize,
        mut first: Names,
    ) -> Step {
        let mut after = after;
        loop {
            let mut last = None;
            for name in first.names {
                let is_begun = after.first().is_some_and(|begun| *begun == name.as_bytes());
                let within = if is_begun { &after[1..] } else { &[] };
                if let Step::Full = self.add(path, folder, &name, is_begun.then_some(within), depth)
                {
                    return Step::Full;
                }
                last = Some(name);
            }
            let Some(last) = last.filter(|_| first.truncated) else { return Step::GoOn };
            // What was left out made room for more.
            let Ok(mut next) = self.read(path, Some(last.as_bytes())) else {
                self.page.left_out += 1;
                return Step::GoOn;
            };
            next.names.remove(&last);
            (first, after) = (next, &[]);
        }
    }

    /// Adds one name of a folder and, where that is asked for, what is in it. `begun` is what of it
    /// was told before.
    fn add(
        &mut self,
        path: &Path,
        folder: Option<&ObjectName>,
        name: &OsStr,
        begun: Option<&[&[u8]]>,
        depth: usize,
    ) -> Step {
        let place = path.join(name);
        let Some((place, metadata)) = self.look(&place, begun.is_some()) else {
            return Step::GoOn;
        };
        let mut whole = folder.map_or_else(Vec::new, |folder| [folder.as_bytes(), b"/"].concat());
        whole.extend_from_slice(name.as_bytes());
        let Ok(name) = ObjectName::new(OsString::from_vec(whole).as_bytes()) else {
            self.page.left_out += 1;
            return Step::GoOn;
        };
        if metadata.is_file() {
            let kind = EntryKind::File { size: metadata.len() };
            return match begun {
                None => self.push(entry(name, kind, &metadata)),
                Some(_) => Step::GoOn,
            };
        }
        if !self.recursive {
            return match begun {
                None => self.push(entry(name, EntryKind::Folder, &metadata)),
                Some(_) => Step::GoOn,
            };
        }
        let after = begun.unwrap_or_default();
        // Of one that is told only now, the page may have no room any more.
        let from = after.first().copied();
        let read =
            if depth == 0 { Err(io::ErrorKind::Other.into()) } else { self.read(&place, from) };
        if begun.is_none() {
            let kind = if read.is_ok() { EntryKind::Folder } else { EntryKind::Unreadable };
            if let Step::Full = self.push(entry(name.clone(), kind, &metadata)) {
                return Step::Full;
            }
        }
        match read {
            Ok(first) => self.go_through(&place, Some(&name), after, depth - 1, first),
            Err(error) => {
                // One folder that cannot be read is no reason to do without the others.
                let place = escape(place.display()).to_string();
                tracing::warn!(folder = %place, error = %escape(error), "a folder is left out");
                Step::GoOn
            }
        }
    }

    /// What is at `place`, behind a symbolic link, if that can be fetched; counts what cannot.
    fn look(&mut self, place: &Path, told: bool) -> Option<(PathBuf, Metadata)> {
        // Gone meanwhile, most likely.
        let metadata = place.symlink_metadata().ok()?;
        if self.folder.is_secret_here(place, &metadata) {
            return None;
        }
        if metadata.is_dir() {
            return Some((place.to_path_buf(), metadata));
        }
        let found =
            if metadata.is_symlink() { self.folder.behind_link(place) } else { Some(metadata) };
        let file = found.filter(Metadata::is_file);
        if file.is_none() && !told {
            self.page.left_out += 1;
        }
        file.map(|metadata| (place.to_path_buf(), metadata))
    }

    fn push(&mut self, entry: Entry) -> Step {
        if self.page.entries.len() == self.most {
            self.page.more = true;
            self.page.left_out = self.left_out;
            return Step::Full;
        }
        self.page.entries.push(entry);
        self.left_out = self.page.left_out;
        Step::GoOn
    }
}

/// Up to `most` entries of objects in memory.
pub(super) fn page_in_memory(
    objects: &BTreeMap<ObjectName, Object>,
    list: &List,
    most: usize,
) -> Result<Listed, SourceError> {
    let mut found = BTreeMap::new();
    for (name, object) in objects {
        let file = || Entry {
            name: name.clone(),
            kind: EntryKind::File { size: object.stat().size },
            attributes: object.stat().attributes(),
        };
        if list.folder.as_ref() == Some(name) {
            found.insert(name.as_bytes().to_vec(), file());
            continue;
        }
        let rest = match &list.folder {
            Some(folder) => name.within(folder),
            None => Some(name.clone()),
        };
        let Some(rest) = rest else { continue };
        let mut parts = rest.segments().count();
        if list.recursive || parts == 1 {
            found.insert(name.as_bytes().to_vec(), file());
        }
        let mut parent = name.parent();
        while let Some(folder) = parent.filter(|_| parts > 1) {
            parts -= 1;
            parent = folder.parent();
            let (kind, attributes) = (EntryKind::Folder, Attributes::default());
            if list.recursive || parts == 1 {
                let key = folder.as_bytes().to_vec();
                found.insert(key, Entry { name: folder, kind, attributes });
            }
        }
    }
    if let Some(folder) = list.folder.as_ref().filter(|_| found.is_empty()) {
        return Err(SourceError::NotFound { name: folder.clone(), why: None });
    }
    let mut entries: Vec<_> = found.into_values().collect();
    entries.sort_by(|one, other| in_order(&one.name, &other.name));
    if let Some(after) = &list.after {
        entries.retain(|entry| in_order(&entry.name, after).is_gt());
    }
    let more = entries.len() > most;
    entries.truncate(most);
    Ok(Listed { entries, more, ..last() })
}

pub(super) fn last() -> Listed {
    Listed { last: true, ..Listed::default() }
}

fn entry(name: ObjectName, kind: EntryKind, metadata: &Metadata) -> Entry {
    Entry { name, kind, attributes: attributes(metadata) }
}

fn attributes(metadata: &Metadata) -> Attributes {
    Attributes { modified: metadata.modified().ok(), mode: Some(metadata.mode() & 0o777) }
}

fn failed(name: Option<&ObjectName>, path: &Path, error: io::Error) -> SourceError {
    match name {
        Some(name) => file_error(name, error),
        None => unreadable(path.display().to_string(), error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::{collection::btree_set, prelude::*};

    use super::*;

    /// All that is in a folder, in pages of `most`: folders with `/` behind their names.
    fn all(folder: &Folder, list: &List, most: usize) -> (Vec<String>, u64) {
        let (mut list, mut names, mut left_out) = (list.clone(), Vec::new(), 0);
        loop {
            let (page, _) = folder.page(&list, most).unwrap();
            assert!(page.last && page.entries.len() <= most);
            left_out += page.left_out;
            list.after = page.entries.last().map(|entry| entry.name.clone());
            names.extend(page.entries.iter().map(|entry| match entry.kind {
                EntryKind::File { .. } => entry.name.to_string(),
                EntryKind::Folder => format!("{}/", entry.name),
                EntryKind::Unreadable => format!("{}!", entry.name),
            }));
            if !page.more {
                return (names, left_out);
            }
        }
    }

    fn list(folder: &str, recursive: bool) -> List {
        let folder = (!folder.is_empty()).then(|| ObjectName::new(folder).unwrap());
        List { folder, recursive, after: None }
    }

    #[test]
    fn what_is_not_served_is_not_listed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root").canonicalize().unwrap_or(place.path().join("root"));
        let make = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        };
        for name in ["a", "d/e/f", "d/.g", ".h/i", "secret/key", "d/.x.kwik-part", "t/u"] {
            make(name);
        }
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(place.path().join("outside"), b"x").unwrap();
        for (to, link) in [
            ("../outside", "out"),
            ("a", "in"),
            (".h/i", "hidden"),
            ("secret/key", "key"),
            ("d", "folder"),
            ("nowhere", "dangling"),
        ] {
            symlink(to, root.join(link)).unwrap();
        }
        let root = root.canonicalize().unwrap();
        let mut folder = Folder::new(root.clone(), None);
        folder.exclude(&root.join("secret")).unwrap();
        let expected = ["a", "d/", "d/e/", "d/e/f", "empty/", "in", "t/", "t/u"];
        for most in [1, 2, 3, 100] {
            let (names, left_out) = all(&folder, &list("", true), most);
            assert_eq!(names, expected, "{most}");
            assert_eq!(left_out, 5);
            assert_eq!(all(&folder, &list("", false), most).0, ["a", "d/", "empty/", "in", "t/"]);
            assert_eq!(all(&folder, &list("d", true), most).0, ["d/e/", "d/e/f"]);
            assert_eq!(all(&folder, &list("a", true), most).0, ["a"]);
            assert!(all(&folder, &list("empty", true), most).0.is_empty());
        }
        for hidden in ["none", ".h", "out", "secret", "d/.g", "dangling"] {
            assert!(folder.page(&list(hidden, true), 10).is_err(), "{hidden}");
        }
        let alone = Folder::new(root.join("a"), Some(ObjectName::new("a").unwrap()));
        assert_eq!(all(&alone, &list("", true), 3).0, ["a"]);
        assert_eq!(all(&alone, &list("a", true), 3).0, ["a"]);
        assert!(alone.page(&list("d", true), 10).is_err());
    }

    #[test]
    fn no_servers_key_is_listed_nor_what_lies_beside_it() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        for name in ["state/identity", "client/client-identity", "identity2", "own/word"] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, [7; 32]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        fs::write(root.join("state/catalogue"), b"x").unwrap();
        fs::hard_link(root.join("own/word"), root.join("elsewhere")).unwrap();
        let mut folder = Folder::new(root.clone(), None);
        folder.exclude(&root.join("own/word")).unwrap();
        assert_eq!(all(&folder, &list("", true), 9), (vec!["identity2".into(), "own/".into()], 0));
        for hidden in ["state", "client", "own/word", "elsewhere"] {
            assert!(folder.page(&list(hidden, true), 10).is_err(), "{hidden}");
        }
        // One that came since the server began.
        fs::rename(root.join("state/identity"), root.join("identity")).unwrap();
        assert!(folder.page(&list("", true), 10).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn pages_of_any_size_make_the_whole(
            names in btree_set("[ab.]{1,2}(/[ab]{1,2}){0,3}", 0..16),
            most in 1..6_usize,
        ) {
            let place = tempfile::tempdir().unwrap();
            let root = place.path().canonicalize().unwrap();
            for name in &names {
                // Some are in the way of others, and some are no names.
                let path = root.join(name);
                if ObjectName::new(name).is_ok()
                    && fs::create_dir_all(path.parent().unwrap()).is_ok()
                {
                    fs::write(path, b"x").ok();
                }
            }
            let mut folder = Folder::new(root, None);
            folder.hidden = true;
            let whole = all(&folder, &list("", true), 1000).0;
            let paged = all(&folder, &list("", true), most).0;
            prop_assert_eq!(&paged, &whole);
            let files = whole.iter().filter(|name| !name.ends_with('/')).count();
            let mut flat = Vec::new();
            folder.list(&folder.root, MAX_DEPTH, 1000, &mut flat).unwrap();
            prop_assert_eq!(files, flat.len());
        }
    }
}
