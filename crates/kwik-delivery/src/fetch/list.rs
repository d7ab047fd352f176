//! Asking what is in a folder. What a primary says is checked before anybody acts on it: where it
//! leads, its order, and that nothing comes twice.

use std::cmp::Ordering;

use crate::{
    Client, Entry, EntryKind, FetchError, List, Listed, ObjectName, Progress, Response, in_order,
    limits::{MAX_DEPTH, MAX_ENTRIES, MAX_LISTED},
};

/// What is in a folder, some of it at a time: over as many sessions as it takes.
#[derive(Debug, Clone)]
pub struct Listing {
    list: List,
    /// The folders that what comes next may lie in, from the outermost on.
    folders: Vec<ObjectName>,
    count: u64,
    left_out: u64,
    /// The folder that was asked for is a file.
    is_file: bool,
    done: bool,
}

/// What a primary said of a folder that cannot be so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidListing {
    /// It lies somewhere else than what was asked for.
    #[error("{name} does not lie in the folder that was asked for")]
    Elsewhere {
        /// Which.
        name: ObjectName,
    },
    /// It came before, or something that stands behind it.
    #[error("{name} comes twice, or out of order")]
    Order {
        /// Which.
        name: ObjectName,
    },
    /// What it should lie in is no folder that was told.
    #[error("{name} lies in no folder of those that came before")]
    NoFolder {
        /// Which.
        name: ObjectName,
    },
    /// Folders within folders without an end.
    #[error("{name} lies too deep")]
    Depth {
        /// Which.
        name: ObjectName,
    },
    /// More entries than asked for, or than any folder has.
    #[error("it has too many entries")]
    Count,
    /// There is more, it says, and nothing of it comes.
    #[error("it does not go on")]
    Stuck,
}

impl Listing {
    /// Of a folder, or of all that is served; with what is in folders within it.
    #[must_use]
    pub fn new(folder: Option<ObjectName>, recursive: bool) -> Self {
        let list = List { folder, recursive, after: None };
        let (folders, count, left_out) = (Vec::new(), 0, 0);
        Self { list, folders, count, left_out, is_file: false, done: false }
    }

    /// Whether all has come.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether what was asked for is a file, once anything came.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.is_file
    }

    /// Files and folders that the server met and does not serve, as far as it came.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Entries that came.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The next entries, a few thousand at the most. After a failure it may be asked again, also
    /// over another session: it goes on behind the last that came. Cancel safe.
    ///
    /// # Errors
    /// When the primary refuses, says what cannot be so, or the session ends.
    pub async fn page(&mut self, client: &Client) -> Result<Vec<Entry>, FetchError> {
        let mut answer = client.ask_for(self.list.encode(), &Progress::default()).await?;
        let mut next = self.clone();
        let mut page = Vec::new();
        loop {
            match std::mem::replace(&mut answer.response, Response::Noted) {
                Response::Listed(listed) => {
                    let last = listed.last;
                    page.extend(next.take(listed, page.len())?);
                    if last {
                        *self = next;
                        return Ok(page);
                    }
                }
                other => return Err(other.unexpected()),
            }
            answer = client.more(answer).await?;
        }
    }

    /// Checks what came behind `before` entries of this answer.
    fn take(&mut self, listed: Listed, before: usize) -> Result<Vec<Entry>, InvalidListing> {
        let Listed { entries, last, more, left_out } = listed;
        for entry in &entries {
            self.check(entry)?;
        }
        let came = before + entries.len();
        if came > MAX_LISTED || self.count > MAX_ENTRIES {
            return Err(InvalidListing::Count);
        }
        if !last && entries.is_empty() || more && came == 0 {
            return Err(InvalidListing::Stuck);
        }
        self.left_out = self.left_out.saturating_add(left_out);
        self.done = last && !more;
        Ok(entries)
    }

    fn check(&mut self, entry: &Entry) -> Result<(), InvalidListing> {
        let name = entry.name.clone();
        if self.is_file {
            return Err(InvalidListing::Count);
        }
        let follows = |after: &ObjectName| in_order(after, &name) == Ordering::Less;
        if self.list.after.as_ref().is_some_and(|after| !follows(after)) {
            return Err(InvalidListing::Order { name });
        }
        if self.list.folder.as_ref() == Some(&name) {
            if self.count > 0 || entry.size().is_none() {
                return Err(InvalidListing::Elsewhere { name });
            }
            self.is_file = true;
        } else {
            self.check_place(&name)?;
        }
        if entry.kind == EntryKind::Folder && self.list.recursive {
            self.folders.push(name.clone());
        }
        self.count += 1;
        self.list.after = Some(name);
        Ok(())
    }

    /// It has to lie in what was asked for and, below that, in a folder that was told.
    fn check_place(&mut self, name: &ObjectName) -> Result<(), InvalidListing> {
        let name_of = || name.clone();
        let within = match &self.list.folder {
            Some(folder) => name.within(folder),
            None => Some(name_of()),
        };
        let within = within.ok_or_else(|| InvalidListing::Elsewhere { name: name_of() })?;
        let depth = within.segments().count();
        if depth > MAX_DEPTH + 1 {
            return Err(InvalidListing::Depth { name: name_of() });
        }
        // Names are in order: what was left is not entered again.
        self.folders.truncate(depth - 1);
        let parent = self.folders.last().cloned();
        let is_there = self.folders.len() == depth - 1 && (depth == 1 || name.parent() == parent);
        if is_there { Ok(()) } else { Err(InvalidListing::NoFolder { name: name_of() }) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::Attributes;

    fn name(text: &str) -> ObjectName {
        ObjectName::new(text).unwrap()
    }

    /// A folder's name ends with `/`.
    fn entry(text: &str) -> Entry {
        let (text, kind) = match text.strip_suffix('/') {
            Some(text) => (text, EntryKind::Folder),
            None => (text, EntryKind::File { size: 1 }),
        };
        Entry { name: name(text), kind, attributes: Attributes::default() }
    }

    fn listed(entries: Vec<Entry>) -> Listed {
        Listed { entries, last: true, ..Listed::default() }
    }

    fn take(folder: &str, recursive: bool, names: &[&str]) -> Result<Listing, InvalidListing> {
        let folder = (!folder.is_empty()).then(|| name(folder));
        let mut listing = Listing::new(folder, recursive);
        listing.take(listed(names.iter().map(|text| entry(text)).collect()), 0)?;
        Ok(listing)
    }

    #[test]
    fn what_a_primary_says_of_a_folder_is_checked() {
        use InvalidListing::{Count, Elsewhere, NoFolder, Order};
        assert!(take("", true, &["a", "b/", "b/c/", "b/c/d", "b/e", "c"]).is_ok());
        assert!(take("", false, &["a", "b/", "c"]).is_ok());
        assert!(take("f", true, &["f/a", "f/b/", "f/b/c"]).is_ok());
        assert!(take("f", true, &[]).is_ok());
        assert!(take("f", true, &["f"]).is_ok_and(|listing| listing.is_file()));
        let at = |text: &str| name(text);
        for (folder, recursive, names, wrong) in [
            ("", true, &["a", "a"][..], Order { name: at("a") }),
            ("", true, &["b", "a"], Order { name: at("a") }),
            ("", true, &["b/", "b/c", "b/"], Order { name: at("b") }),
            ("", true, &["a/b"], NoFolder { name: at("a/b") }),
            ("", true, &["a", "a/b"], NoFolder { name: at("a/b") }),
            ("", true, &["a/", "b/", "b/c/d"], NoFolder { name: at("b/c/d") }),
            ("", true, &["a/", "b", "c/d"], NoFolder { name: at("c/d") }),
            ("", false, &["a/", "a/b"], NoFolder { name: at("a/b") }),
            ("f", true, &["g"], Elsewhere { name: at("g") }),
            ("f", true, &["f.x"], Elsewhere { name: at("f.x") }),
            ("f", true, &["f/"], Elsewhere { name: at("f") }),
            ("f", true, &["f", "f/a"], Count),
        ] {
            assert_eq!(take(folder, recursive, names).unwrap_err(), wrong, "{names:?}");
        }
        let deep = |depth: usize| {
            let folders: Vec<_> =
                (1..=depth).map(|depth| ["d"; 200][..depth].join("/") + "/").collect();
            let folders: Vec<_> = folders.iter().map(String::as_str).collect();
            take("", true, &folders)
        };
        assert!(deep(MAX_DEPTH).is_ok());
        assert!(matches!(deep(MAX_DEPTH + 2), Err(InvalidListing::Depth { .. })));
    }

    #[test]
    fn a_primary_cannot_keep_a_client_for_ever() {
        let mut listing = Listing::new(None, true);
        let more = Listed { last: true, more: true, ..Listed::default() };
        assert_eq!(listing.take(more, 0), Err(InvalidListing::Stuck));
        assert_eq!(listing.take(Listed::default(), 0), Err(InvalidListing::Stuck));
        let flood = (0..=MAX_LISTED).map(|number| entry(&format!("{number:09}"))).collect();
        assert_eq!(listing.clone().take(listed(flood), 0), Err(InvalidListing::Count));
        listing.count = MAX_ENTRIES;
        assert_eq!(listing.take(listed(vec![entry("x")]), 0), Err(InvalidListing::Count));
    }

    proptest! {
        /// Whatever comes, what is let through leads to a tree of its own within the folder.
        #[test]
        fn what_is_let_through_is_a_tree(
            names in vec(("f(/[ab]){0,3}|[a-g]", any::<bool>()), 0..12),
            sorted: bool,
            recursive: bool,
            within: bool,
        ) {
            let mut entries: Vec<_> = names
                .iter()
                .map(|(text, folder)| entry(&format!("{text}{}", if *folder { "/" } else { "" })))
                .collect();
            if sorted {
                entries.sort_by(|one, other| in_order(&one.name, &other.name));
                entries.dedup_by(|one, other| one.name == other.name);
            }
            let folder = within.then(|| name("f"));
            let mut listing = Listing::new(folder.clone(), recursive);
            let Ok(taken) = listing.take(listed(entries), 0) else { return Ok(()) };
            let mut tree = BTreeMap::new();
            for entry in &taken {
                let parent = entry.name.parent();
                let is_root = parent == folder || (listing.is_file() && taken.len() == 1);
                let told = parent.is_some_and(|parent| tree.get(&parent) == Some(&None));
                prop_assert!(is_root || told && recursive, "{taken:?}");
                prop_assert_eq!(tree.insert(entry.name.clone(), entry.size()), None);
            }
        }
    }
}
