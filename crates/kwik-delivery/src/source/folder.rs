//! A folder, or a file alone, and what of it is shown.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use kwik::escape;
use unicode_normalization::UnicodeNormalization;

use crate::{
    InvalidName, ObjectName, SourceError,
    limits::{MAX_DEPTH, MAX_LOOKED_AT},
    partial,
};

use super::{
    Object, Survey,
    descriptors::Descriptors,
    error::{file_error, unreadable},
};

/// The files of a state folder that have secret keys, a server's and a client's, and how long
/// those are.
const KEYS: [&str; 2] = ["identity", "client-identity"];
const KEY_SIZE: u64 = 32;

/// Where files are, and what is not shown of it.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// Canonical path; symbolic links that lead out of it are not followed.
    pub(super) root: PathBuf,
    /// Exactly one object: the file at `root`.
    pub(super) only: Option<ObjectName>,
    /// Shows files and folders whose names begin with a dot.
    pub(super) hidden: bool,
    secrets: Vec<Secret>,
    pub(super) descriptors: Arc<Descriptors>,
}

/// Folders that were looked at while one request is answered: where each really is; none when it
/// is not there, or nothing of it is shown.
pub(super) type Seen = BTreeMap<PathBuf, Option<PathBuf>>;

/// A folder, or a file, of which nothing is shown, whatever names lead there.
#[derive(Debug, Clone)]
struct Secret {
    path: PathBuf,
    identity: (u64, u64),
}

impl Folder {
    pub(super) fn new(root: PathBuf, only: Option<ObjectName>) -> Self {
        let descriptors = Descriptors::new();
        Self { root, only, hidden: false, secrets: Vec::new(), descriptors }
    }

    /// Shows nothing of the folder `path`, which exists.
    pub(super) fn exclude(&mut self, path: &Path) -> io::Result<()> {
        let path = path.canonicalize()?;
        let metadata = path.metadata()?;
        self.secrets.push(Secret { path, identity: (metadata.dev(), metadata.ino()) });
        Ok(())
    }

    /// Whether all of it is a secret.
    pub(super) fn is_secret_itself(&self) -> bool {
        self.is_secret(&self.root)
    }

    /// Opens the regular file of this name if it lies within, after symbolic links.
    pub(super) fn open(&self, name: ObjectName) -> Result<Object, SourceError> {
        let canonical = self.canonical(&name)?;
        Object::in_folder(name, &canonical, &self.descriptors)
    }

    /// Opens as [`Self::open`] does. Of the folders that it has looked at it takes notes in `seen`:
    /// of many files in one folder, that is looked at once.
    pub(super) fn open_beside(&self, name: ObjectName, seen: &mut Seen) -> Option<Object> {
        let path = name.under(&self.root);
        let Some(parent) = path.parent().filter(|_| self.only.is_none()) else {
            return self.open(name).ok();
        };
        if !seen.contains_key(parent) {
            let canonical = parent.canonicalize().ok().filter(|parent| !self.is_secret(parent));
            seen.insert(parent.to_path_buf(), canonical);
        }
        let file = seen.get(parent)?.as_ref()?.join(name.file_name());
        let metadata = file.symlink_metadata().ok()?;
        if !metadata.is_file() {
            // A link, say.
            return self.open(name).ok();
        }
        if self.hides_name(&name, &file).is_some() || self.is_secret_here(&file, &metadata) {
            return None;
        }
        Object::in_folder(name, &file, &self.descriptors).ok()
    }

    /// Where a file, or a folder, of this name is, after symbolic links, if it lies within.
    pub(super) fn canonical(&self, name: &ObjectName) -> Result<PathBuf, SourceError> {
        let not_found = |why| SourceError::NotFound { name: name.clone(), why: Some(why) };
        let path = match &self.only {
            None => name.under(&self.root),
            Some(only) if only == name => self.root.clone(),
            Some(_) => return Err(not_found("one file alone is served")),
        };
        let canonical = match path.canonicalize() {
            Ok(canonical) => canonical,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(match self.other_spelling(name) {
                    Some(other) => {
                        let (name, other) = (name.clone(), other.in_link());
                        SourceError::OtherSpelling { name, other }
                    }
                    None => file_error(name, error),
                });
            }
            Err(error) => return Err(file_error(name, error)),
        };
        match self.hides(name, &canonical) {
            Some(why) => Err(not_found(why)),
            None => Ok(canonical),
        }
    }

    /// What the symbolic link at `place`, which lies within, leads to, if that may be seen.
    pub(super) fn behind_link(&self, place: &Path) -> Option<Metadata> {
        let canonical = place.canonicalize().ok()?;
        let name = self.name_of(place)?.ok()?;
        if self.shows(&name, &canonical) { canonical.metadata().ok() } else { None }
    }

    /// Whether the folder or the file at the canonical `path` is a secret; what is above it is
    /// none.
    pub(super) fn is_secret_here(&self, path: &Path, metadata: &Metadata) -> bool {
        let identity = (metadata.dev(), metadata.ino());
        self.secrets.iter().any(|secret| secret.path == path || secret.identity == identity)
            || if metadata.is_dir() { has_key(path) } else { is_key(path) }
    }

    /// An object whose name has the same letters, composed another way: people see no difference.
    fn other_spelling(&self, name: &ObjectName) -> Option<ObjectName> {
        let text = name.to_str().filter(|text| !text.is_ascii())?;
        let spellings = [text.nfc().collect::<String>(), text.nfd().collect()];
        spellings.iter().filter(|other| **other != text).find_map(|other| {
            let other = ObjectName::new(other).ok()?;
            let canonical = other.under(&self.root).canonicalize().ok()?;
            self.shows(&other, &canonical).then_some(other)
        })
    }

    /// Whether the file `name`, which lies at the canonical path `path`, may be seen.
    fn shows(&self, name: &ObjectName, path: &Path) -> bool {
        self.hides(name, path).is_none()
    }

    /// Why that file may not be seen.
    fn hides(&self, name: &ObjectName, path: &Path) -> Option<&'static str> {
        let secret = || self.is_secret(path).then_some("it lies in the state of a server");
        self.hides_name(name, path).or_else(secret)
    }

    /// The same, as far as its names say so.
    fn hides_name(&self, name: &ObjectName, path: &Path) -> Option<&'static str> {
        // A file that was named by itself was meant, whatever it is called.
        let hidden = self.only.is_none() && !self.hidden;
        let dotted = |part: &[u8]| part.starts_with(b".");
        let Ok(inside) = path.strip_prefix(&self.root) else {
            return Some("a symbolic link leads out of the folder");
        };
        let leads_to_hidden =
            inside.iter().any(|part| part.as_encoded_bytes().first() == Some(&b'.'));
        if partial::is_part_name(name.file_name()) {
            return Some("it is an unfinished download");
        }
        if hidden && (name.segments().any(dotted) || leads_to_hidden) {
            return Some("it is hidden, and --hidden was not given");
        }
        None
    }

    /// Whether `path`, or a folder above it, is one of which nothing is shown: by what it is, not
    /// by its name, so that other names and mounts of it do not help. Nor is what any other server
    /// has for its secret key.
    fn is_secret(&self, path: &Path) -> bool {
        let mut inside = path.ancestors().take_while(|above| above.starts_with(&self.root));
        if inside.any(has_key) {
            return true;
        }
        !self.secrets.is_empty()
            && path.ancestors().any(|above| {
                let identity = above.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
                // What cannot be looked at might be.
                let is = |secret: &Secret| {
                    secret.path == above
                        || identity.as_ref().map_or(true, |id| *id == secret.identity)
                };
                self.secrets.iter().any(is)
            })
    }

    /// The name of what is at `path`; none outside.
    fn name_of(&self, path: &Path) -> Option<Result<ObjectName, InvalidName>> {
        let inside = path.strip_prefix(&self.root).ok()?;
        Some(ObjectName::new(inside.as_os_str().as_bytes()))
    }

    /// Up to `limit` objects; adds them to `names`.
    pub(super) fn list(
        &self,
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
            let Some(name) = self.name_of(&path).and_then(Result::ok) else { continue };
            if is_folder {
                if depth > 0 && self.shows(&name, &path) {
                    // One folder that cannot be read is no reason to do without the others.
                    if let Err(error) = self.list(&path, depth - 1, limit, names) {
                        tracing::warn!(error = %escape(error), "a folder is left out");
                    }
                }
            } else if path
                .canonicalize()
                .is_ok_and(|path| self.shows(&name, &path) && path.is_file())
            {
                names.push(name);
            }
        }
        Ok(())
    }

    /// What of it cannot be served, as far as a look at [`MAX_LOOKED_AT`] files and folders finds.
    pub(super) fn survey(&self) -> Survey {
        let mut survey = Survey::default();
        let mut folders = vec![(self.root.clone(), 0)];
        let mut looked_at = 0;
        while let Some((folder, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    survey.unreadable.note(|| format!("{}: {error}", folder.display()));
                    continue;
                }
            };
            for entry in entries.flatten() {
                looked_at += 1;
                if looked_at > MAX_LOOKED_AT {
                    return survey;
                }
                let path = entry.path();
                let Ok(inside) = path.strip_prefix(&self.root) else { continue };
                let first = entry.file_name().as_encoded_bytes().first().copied();
                if first == Some(b'.') && !self.hidden || self.is_secret(&path) {
                    continue;
                }
                if let Err(error) = ObjectName::new(inside.as_os_str().as_bytes()) {
                    survey.unnamed.note(|| format!("{}: {error}", inside.display()));
                }
                if depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push((path, depth + 1));
                }
            }
        }
        survey
    }

    /// A hidden file or folder that is there, among the first few that are looked at.
    pub(super) fn find_hidden(&self) -> Option<PathBuf> {
        let mut folders = vec![self.root.clone()];
        let mut looked_at = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                looked_at += 1;
                if looked_at > MAX_LOOKED_AT {
                    return None;
                }
                let path = entry.path();
                let is_part = partial::is_part_name(&entry.file_name());
                let dotted = entry.file_name().as_encoded_bytes().first() == Some(&b'.');
                if dotted && !is_part && !self.is_secret(&path) {
                    return path.strip_prefix(&self.root).ok().map(Path::to_path_buf);
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                }
            }
        }
        None
    }
}

/// Whether a file is a key, or a folder has one.
fn has_key(path: &Path) -> bool {
    is_key(path) || KEYS.iter().any(|key| is_key(&path.join(key)))
}

/// Whether a file is a server's secret key, as far as it looks like one: what this server has for
/// its own is told by what it is, but another's state may lie in what is served, too.
fn is_key(path: &Path) -> bool {
    path.file_name().is_some_and(|name| KEYS.iter().any(|key| name == *key))
        && path.symlink_metadata().is_ok_and(|metadata| {
            let for_owner_alone = metadata.mode() & 0o077 == 0;
            metadata.is_file() && metadata.len() == KEY_SIZE && for_owner_alone
        })
}
