//! The destination of a download.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kwik_proto::range::RangeSet;

use crate::{
    Attributes, Manifest,
    limits::{GROUP_SIZE, MAX_RANGES, SYNC_LEAST, SYNC_PARTS},
};

mod claim;
mod error;
mod finish;
mod reserve;
mod small;
mod state;

use claim::Claimed;
pub use error::PartError;
use finish::sync_folder;
use reserve::{punch, reserve};
pub use small::{SmallFile, sync_names, write_small};
use state::PartState;

const SUFFIX: &str = ".kwik-part";

/// Whether a file of this name is an unfinished download.
pub(crate) fn is_part_name(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".") && name.ends_with(SUFFIX.as_bytes())
}

/// Where a file goes in the end, and what becomes of one that is there.
#[derive(Debug, Clone)]
pub struct Place {
    target: PathBuf,
    replace: bool,
    sparse: bool,
    modes: bool,
    other_folder: Option<PathBuf>,
}

impl Place {
    /// At `target`, which is replaced when it is there. One that has other names (hard links), an
    /// owner or attributes that a new file could not have is written over instead, once all is
    /// there: so it stays the same file.
    #[must_use]
    pub fn new(target: impl Into<PathBuf>) -> Self {
        Self {
            target: target.into(),
            replace: true,
            sparse: false,
            modes: false,
            other_folder: None,
        }
    }

    /// A file that is there stays: it is an error then.
    #[must_use]
    pub fn without_replacing(self) -> Self {
        Self { replace: false, ..self }
    }

    /// Takes no room for groups of zeros, and reserves none.
    #[must_use]
    pub fn sparse(self) -> Self {
        Self { sparse: true, ..self }
    }

    /// Gives it the mode that its source has.
    #[must_use]
    pub fn with_modes(self) -> Self {
        Self { modes: true, ..self }
    }

    /// For targets that are there, may be written, and lie in a folder that may not be: their bytes
    /// are collected in `folder` meanwhile, which is made when it is needed.
    #[must_use]
    pub fn with_other_folder(self, folder: impl Into<PathBuf>) -> Self {
        Self { other_folder: Some(folder.into()), ..self }
    }

    /// Gives `file`, which is complete, what is known of it. A time that the file system cannot
    /// keep is no reason to do without the file.
    fn keep(&self, file: &File, attributes: Attributes) -> std::io::Result<()> {
        if let Some(mode) = attributes.mode.filter(|_| self.modes) {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        if let Some(modified) = attributes.modified {
            file.set_modified(modified).ok();
        }
        Ok(())
    }
}

/// A file that takes its name only once it is complete. Until then it is a hidden file beside its
/// target, locked, so that what a process left behind that was killed is told apart. Its methods
/// block: call them where blocking is fine. Writes may come from several threads.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    part: PathBuf,
    place: Place,
    /// Of the file that it replaces: who may read that reads this, and nobody else.
    mode: Option<u32>,
    /// Whether it stays for a later one that goes on.
    resumable: bool,
    inner: Mutex<Inner>,
    finished: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    size: u64,
    /// What an earlier one left, or what this one has; none before it has begun anew.
    state: Option<PartState>,
    begun: bool,
    /// What an earlier one says that it has verified.
    claimed: RangeSet,
    /// Bytes written since the last call that made them durable.
    unsynced: u64,
    /// Whether the part file's name is durable, too.
    is_name_synced: bool,
}

/// How a download begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// With nothing.
    Fresh,
    /// With what an earlier one left and said to have verified, to be verified again.
    TakesOver,
    /// With what an earlier one left without a word of what of it is verified.
    Finds,
    /// Where this one was before its session was lost.
    GoesOn,
    /// With nothing, as the bytes that are there are of another version.
    Anew,
}

impl PartFile {
    /// Prepares to write `size` bytes that will become, or replace, `target`. Nothing of it stays
    /// when it is dropped before [`finish`](Self::finish); several may be under way at once.
    ///
    /// # Errors
    /// When `target` is a folder, or a file of that size cannot be created beside it.
    pub fn create(target: impl AsRef<Path>, size: u64) -> Result<Self, PartError> {
        let place = Place::new(target.as_ref());
        let mode = existing_mode(&place.target);
        let claimed = claim::random(&place.target, mode)?;
        let this = Self::with(place, claimed, mode, false);
        this.lock().size = size;
        reserve(&this.file, size).map_err(|source| this.error(source))?;
        Ok(this)
    }

    /// Prepares to write what will go to `place`, and keeps others from that. With `resume` it
    /// takes over what an earlier one left there, and leaves for a later one what it has when it is
    /// dropped; else that goes.
    ///
    /// # Errors
    /// When another process writes the same target, or no file can be written for it.
    pub fn claim(place: Place, resume: bool) -> Result<Self, PartError> {
        let mode = existing_mode(&place.target);
        let claimed = claim::named(&place, mode)?;
        let resumable = resume && !claimed.is_random;
        let this = Self::with(place, claimed, mode, resumable);
        let prepared = this.prepare();
        prepared.map_err(|source| this.error(source))?;
        Ok(this)
    }

    fn with(place: Place, claimed: Claimed, mode: Option<u32>, resumable: bool) -> Self {
        let Claimed { file, part, .. } = claimed;
        let (inner, finished) = (Mutex::default(), AtomicBool::new(false));
        Self { file, part, place, mode, resumable, inner, finished }
    }

    /// Reads what an earlier one left, and says whose it is now.
    fn prepare(&self) -> std::io::Result<()> {
        let mut inner = self.lock();
        let mode = self.file.metadata()?.mode();
        if let Some(wanted) = self.mode.map(|wanted| wanted | 0o200)
            && mode & 0o777 != wanted
        {
            self.file.set_permissions(fs::Permissions::from_mode(wanted))?;
        }
        if self.resumable {
            inner.state = PartState::read(&self.file)?;
        } else {
            self.file.set_len(0)?;
        }
        match &mut inner.state {
            Some(state) => {
                // Whose it is now.
                state.process = std::process::id();
                state.write(&self.file)
            }
            None if self.file.metadata()?.len() == 0 => {
                self.file.write_all_at(std::process::id().to_string().as_bytes(), 0)
            }
            None => Ok(()),
        }
    }

    /// What it has of an object, verified now or before: which, and how many bytes.
    #[must_use]
    pub fn held(&self) -> Option<(Manifest, u64)> {
        let inner = self.lock();
        let state = inner.state.as_ref()?;
        let bytes = held(&inner);
        (bytes > 0).then(|| (state.manifest.clone(), bytes))
    }

    /// Whether it stays when it is dropped before it is complete, for a later one to go on.
    #[must_use]
    pub const fn is_resumable(&self) -> bool {
        self.resumable
    }

    /// Whether anything may be there already, so that the whole object need not be asked for.
    pub(crate) fn may_go_on(&self) -> bool {
        let inner = self.lock();
        // Complete once, but for its name: there is no state any more.
        let bare = || self.file.metadata().is_ok_and(|metadata| metadata.len() > LONGEST_PROCESS);
        self.resumable && if inner.state.is_some() { held(&inner) > 0 } else { bare() }
    }

    /// Makes room for an object, or finds what is there of it.
    pub(crate) fn begin(&self, manifest: &Manifest) -> Result<Begun, PartError> {
        let mut inner = self.lock();
        let size = manifest.size;
        let same =
            |state: &PartState| (state.manifest.size, state.manifest.root) == (size, manifest.root);
        let begun = std::mem::replace(&mut inner.begun, true);
        let had = inner.state.is_some() && held(&inner) > 0;
        let has = self.file.metadata().map_err(|source| self.error(source))?.len();
        let bare = has > LONGEST_PROCESS && (has == size || has == state::length(size));
        match &mut inner.state {
            Some(state) if same(state) && begun => {
                // The session may have been lost while claims were verified.
                let is_claimed = !inner.claimed.is_empty();
                return Ok(if is_claimed { Begun::TakesOver } else { Begun::GoesOn });
            }
            Some(state) if same(state) && self.resumable => {
                state.manifest = manifest.clone();
                let claimed = std::mem::take(&mut state.verified);
                (inner.size, inner.claimed) = (size, claimed);
                return Ok(Begun::TakesOver);
            }
            // Cut to its length already, or with its state damaged.
            None if self.resumable && bare && !begun => {
                self.file.set_len(self.length(size)).map_err(|source| self.error(source))?;
                inner.state = Some(PartState::new(manifest.clone()));
                (inner.size, inner.claimed) = (size, all(size));
                return Ok(Begun::Finds);
            }
            _ => {}
        }
        let mut state = PartState::new(manifest.clone());
        let length = self.length(size);
        // That nothing is verified stands there before there is room that could be taken for bytes.
        let made = self.file.set_len(0).and_then(|()| self.write_down(&mut state));
        let room = if self.place.sparse { File::set_len } else { reserve };
        made.and_then(|()| room(&self.file, length)).map_err(|source| self.error(source))?;
        *inner = Inner { size, state: Some(state), begun: true, ..Inner::default() };
        Ok(if had { Begun::Anew } else { Begun::Fresh })
    }

    /// Whether it says of an object of `size` bytes which of them are verified. One of a few groups
    /// need not: whoever takes it over has hashed them all in no time.
    const fn is_written_down(&self, size: u64) -> bool {
        self.resumable && size >= SYNC_LEAST
    }

    /// How long it is with an object of `size` bytes.
    const fn length(&self, size: u64) -> u64 {
        if self.is_written_down(size) { state::length(size) } else { size }
    }

    /// Not durable before the bytes are, nor need it be: whoever takes it over verifies them.
    fn write_down(&self, state: &mut PartState) -> std::io::Result<()> {
        let wanted = self.is_written_down(state.manifest.size);
        if wanted { state.write(&self.file) } else { Ok(()) }
    }

    /// What an earlier one says that it has verified.
    pub(crate) fn claimed(&self) -> RangeSet {
        self.lock().claimed.clone()
    }

    /// Some of what was claimed is as it should be.
    pub(crate) fn admit(&self, range: std::ops::Range<u64>) {
        if let Some(state) = &mut self.lock().state {
            state.verified.insert(range);
        }
    }

    /// The rest of what was claimed is not. Where there are more ranges than can be written down,
    /// only so many count: each of those between them takes a request.
    pub(crate) fn drop_claims(&self) {
        let mut inner = self.lock();
        inner.claimed = RangeSet::new();
        if let Some(state) = &mut inner.state {
            state.verified = state.verified.iter().take(MAX_RANGES).collect();
        }
    }

    /// Bytes that are verified.
    pub(crate) fn verified(&self) -> u64 {
        self.lock().state.as_ref().map_or(0, |state| state.verified.bytes())
    }

    /// What is missing.
    pub(crate) fn missing(&self) -> Vec<std::ops::Range<u64>> {
        let inner = self.lock();
        match &inner.state {
            Some(state) => state.verified.missing(0..inner.size).collect(),
            None => all(inner.size).iter().collect(),
        }
    }

    /// Reads bytes that are there.
    pub(crate) fn read_at(&self, offset: u64, data: &mut [u8]) -> Result<(), PartError> {
        self.file.read_exact_at(data, offset).map_err(|source| self.error(source))
    }

    /// Writes all of `data` at `offset`.
    ///
    /// # Errors
    /// When `data` ends beyond the size, or the disk is full or failing.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), PartError> {
        let size = self.lock().size;
        let end = offset.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > size) {
            return Err(PartError::OutOfRange { offset, length: data.len(), size });
        }
        self.file.write_all_at(data, offset).map_err(|source| self.error(source))
    }

    /// The same, but for groups of zeros it leaves holes.
    fn write_sparse(&self, offset: u64, data: &[u8]) -> Result<(), PartError> {
        let group = usize::try_from(GROUP_SIZE).expect("invariant: 64 KiB");
        let is_zero = |group: &[u8]| group.iter().all(|byte| *byte == 0);
        let groups: Vec<_> = data.chunks(group).collect();
        let mut start = 0;
        for run in groups.chunk_by(|one, other| is_zero(one) == is_zero(other)) {
            let end = start + run.iter().map(|group| group.len()).sum::<usize>();
            let (place, bytes) = (offset + start as u64, &data[start..end]);
            // What was there before may have been something else.
            if !is_zero(run[0]) || punch(&self.file, place, bytes.len() as u64).is_err() {
                self.write_at(place, bytes)?;
            }
            start = end;
        }
        Ok(())
    }

    /// The same for verified bytes, of which a later one finds written down that they are.
    pub(crate) fn write_verified(&self, offset: u64, data: &[u8]) -> Result<(), PartError> {
        if self.place.sparse {
            self.write_sparse(offset, data)?;
        } else {
            self.write_at(offset, data)?;
        }
        let mut inner = self.lock();
        inner.unsynced += data.len() as u64;
        let Some(state) = &mut inner.state else { return Ok(()) };
        state.verified.insert(offset..offset + data.len() as u64);
        self.write_down(state).map_err(|source| self.error(source))
    }

    /// Whether so much was written that a power cut shall not cost it.
    pub(crate) fn is_sync_due(&self) -> bool {
        let inner = self.lock();
        self.resumable && inner.unsynced >= (inner.size / SYNC_PARTS).max(SYNC_LEAST)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<(), PartError> {
        let mut inner = self.lock();
        inner.unsynced = 0;
        let had_name = std::mem::replace(&mut inner.is_name_synced, true);
        drop(inner);
        let synced = self.file.sync_data();
        let synced = synced.and_then(|()| if had_name { Ok(()) } else { sync_folder(&self.part) });
        synced.map_err(|source| self.error(source))
    }

    /// Makes it durable and gives it its name. The caller has written every byte.
    ///
    /// # Errors
    /// When the disk is full or failing, or the target became a folder, or appeared where it shall
    /// not be replaced.
    pub fn finish(self) -> Result<(), PartError> {
        self.complete(Attributes::default())
    }

    fn error(&self, source: std::io::Error) -> PartError {
        PartError::from_io(&self.place.target, source)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // It is whole between statements, so a panic elsewhere leaves it usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part file that is no longer than this has no more than the number of its process.
const LONGEST_PROCESS: u64 = 20;

fn all(size: u64) -> RangeSet {
    std::iter::once(0..size).collect()
}

fn held(inner: &Inner) -> u64 {
    let mut held = inner.claimed.clone();
    held.extend(inner.state.iter().flat_map(|state| state.verified.iter()));
    held.bytes()
}

impl Drop for PartFile {
    fn drop(&mut self) {
        let kept = self.finished.load(Ordering::Relaxed) || self.may_go_on();
        if !kept && let Err(error) = fs::remove_file(&self.part) {
            tracing::warn!(path = %self.part.display(), %error, "cannot remove a partial file");
        }
    }
}

/// The mode of a regular file at `target`.
fn existing_mode(target: &Path) -> Option<u32> {
    let existing = target.symlink_metadata().ok().filter(fs::Metadata::is_file);
    existing.map(|metadata| metadata.permissions().mode() & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectName;

    /// What a power cut costs is what was written since the last time.
    #[test]
    fn a_twentieth_is_never_written_without_being_made_durable() {
        let folder = tempfile::tempdir().unwrap();
        let data = vec![1; usize::try_from(GROUP_SIZE).unwrap()];
        for groups in [100, 640, 3000] {
            let size = groups * GROUP_SIZE;
            let name = ObjectName::new("x").unwrap();
            let manifest = Manifest { name, size, root: blake3::hash(b"x") };
            let part = PartFile::claim(Place::new(folder.path().join("x")), true).unwrap();
            assert_eq!(part.begin(&manifest).unwrap(), Begun::Fresh);
            let (mut since, mut most, mut syncs) = (0, 0, 0);
            for group in 0..groups {
                part.write_verified(group * GROUP_SIZE, &data).unwrap();
                since += GROUP_SIZE;
                most = most.max(since);
                if part.is_sync_due() {
                    part.sync().unwrap();
                    (since, syncs) = (0, syncs + 1);
                }
            }
            assert!(most <= (size / 20).max(SYNC_LEAST), "{most} of {size}");
            assert!(syncs <= SYNC_PARTS, "{syncs}");
            part.complete(Attributes::default()).unwrap();
        }
    }
}
