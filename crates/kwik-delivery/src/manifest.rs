//! What verifies an object.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use blake3::Hash;
use bytes::Bytes;
use futures_util::future::try_join;
use tokio::{sync::watch, task::yield_now, time::timeout};

use crate::{
    InvalidOutboard, Object, ObjectName, Outline, SourceError, Verifier,
    limits::{GIVE_WAY_FOR, GROUP_SIZE, HASH_SIZE, MAX_OBJECT, MAX_READ, PAGE_GROUPS},
    offload::{offload, offload_read},
    tree,
};

/// One version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The object's name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// Its BLAKE3 hash, the same as `b3sum` prints.
    pub root: Hash,
}

/// A manifest with the outboard that goes with it: in memory when that is one page, else in a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Published {
    manifest: Manifest,
    /// One value a page; empty when there is one page or none.
    above: Bytes,
    pages: Pages,
}

/// Where the pages of an outboard are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pages {
    /// All of it.
    Memory(Bytes),
    /// In the file at `path`, from `start` on.
    File { path: PathBuf, start: u64 },
}

impl Published {
    pub(crate) fn new(manifest: Manifest, above: Bytes, pages: Pages) -> Self {
        Self { manifest, above, pages }
    }

    /// Which version it is.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What a client gets first: the only page, or what stands above all.
    pub(crate) fn first(&self) -> Bytes {
        match &self.pages {
            Pages::Memory(outboard) if self.above.is_empty() => outboard.clone(),
            _ => self.above.clone(),
        }
    }

    /// Bytes that it takes in memory.
    pub(crate) fn size_in_memory(&self) -> usize {
        match &self.pages {
            Pages::Memory(outboard) => self.above.len() + outboard.len(),
            Pages::File { .. } => self.above.len(),
        }
    }

    /// What makes verifiers of its pages.
    ///
    /// # Errors
    /// When the values above the pages are not the root's.
    pub fn outline(&self) -> Result<Outline, InvalidOutboard> {
        Outline::new(self.manifest.size, self.manifest.root, self.above.clone())
    }

    /// Page `index`, checked. Cancel safe.
    ///
    /// # Errors
    /// When there is none, or it cannot be read or is damaged.
    pub async fn page(&self, index: u64) -> Result<(Verifier, Bytes), PageError> {
        let range = tree::page_range(self.manifest.size, index);
        let values = match &self.pages {
            Pages::Memory(outboard) => outboard.slice(position(range.start)..position(range.end)),
            Pages::File { path, start } => {
                let (path, range) = (path.clone(), start + range.start..start + range.end);
                offload_read(move || read_at(&File::open(path)?, range)).await?
            }
        };
        Ok((self.outline()?.page(index, values.clone())?, values))
    }
}

/// Why a page of a published outboard cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// It cannot be read.
    #[error("cannot read the catalogue: {0}")]
    Read(#[from] io::Error),
    /// It is not what was published.
    #[error("the catalogue is damaged: {0}")]
    Damaged(#[from] InvalidOutboard),
}

fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut data = vec![0; position(range.end - range.start)];
    file.read_exact_at(&mut data, range.start)?;
    Ok(data.into())
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// How far the hashing of an object is, and whether it can wait.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) hashed: AtomicU64,
    /// Of these, bytes that an earlier server had hashed.
    pub(crate) taken_over: AtomicU64,
    /// Nobody asked for it yet.
    pub(crate) ahead: AtomicBool,
    /// Objects that are hashed for somebody who asked.
    pub(crate) urgent: Option<watch::Receiver<usize>>,
}

impl Meter {
    async fn give_way(&self) {
        let Some(urgent) = &self.urgent else { return };
        let mut urgent = urgent.clone();
        while self.ahead.load(Ordering::Relaxed) && *urgent.borrow_and_update() > 0 {
            // Somebody may ask for this one meanwhile.
            drop(timeout(GIVE_WAY_FOR, urgent.changed()).await);
        }
    }
}

/// Reads and hashes the whole of `object`, hashing one piece while the next is read; holds two
/// pieces and the outboard. Cancel safety: nothing is kept of it.
///
/// # Errors
/// When the object cannot be read, changes meanwhile, or is larger than [`MAX_OBJECT`].
pub async fn hash_object(object: &Object) -> Result<Published, SourceError> {
    hash_counted(object, &Meter::default()).await
}

/// As [`hash_object`], and counts in `meter`.
pub(crate) async fn hash_counted(object: &Object, meter: &Meter) -> Result<Published, SourceError> {
    let mut outboard = InMemory(Vec::new());
    let (manifest, above) = hash_pages(object, meter, &mut outboard).await?;
    Ok(Published::new(manifest, above, Pages::Memory(outboard.0.into())))
}

/// Where the outboard goes, as it comes. Calls are short.
pub(crate) trait Outboard {
    /// Whole values that were computed before and come next, such that no part crosses a page and
    /// they end with a read; none when there are none, or no more.
    fn earlier(&mut self) -> Option<Vec<u8>>;

    /// Takes whole values that follow, and cross no page.
    fn put(&mut self, values: &[u8]);
}

struct InMemory(Vec<u8>);

impl Outboard for InMemory {
    fn earlier(&mut self) -> Option<Vec<u8>> {
        None
    }

    fn put(&mut self, values: &[u8]) {
        self.0.extend_from_slice(values);
    }
}

/// Hashes `object` as [`hash_object`] does, and hands over the outboard as it comes. Counts in
/// `meter`, and gives way as that says. What the outboard has already is not hashed again.
pub(crate) async fn hash_pages(
    object: &Object,
    meter: &Meter,
    outboard: &mut impl Outboard,
) -> Result<(Manifest, Bytes), SourceError> {
    let stat = object.stat();
    if stat.size > MAX_OBJECT {
        return Err(SourceError::TooLarge { name: stat.name.clone(), size: stat.size });
    }
    let manifest = |root| Manifest { name: stat.name.clone(), size: stat.size, root };
    if stat.size <= GROUP_SIZE {
        let piece = object.read(0..stat.size).await?;
        object.check_unchanged().await?;
        return Ok((manifest(blake3::hash(&piece)), Bytes::new()));
    }
    let (mut page, mut above) = (Vec::new(), Vec::new());
    let mut start = 0;
    while let Some(part) = outboard.earlier() {
        start += part.len() as u64 / HASH_SIZE as u64 * GROUP_SIZE;
        add(&mut page, &mut above, &part, start < stat.size);
        // Others have their turn: of a large object it is much.
        yield_now().await;
    }
    if start > 0 {
        let name = kwik::escape(&stat.name);
        tracing::info!(%name, stat.size, hashed = start, "hashing goes on from an earlier start");
    }
    meter.taken_over.store(start, Ordering::Relaxed);
    meter.hashed.store(start, Ordering::Relaxed);
    let mut piece = object.read(start..start.saturating_add(MAX_READ).min(stat.size)).await?;
    while !piece.is_empty() {
        let end = start + piece.len() as u64;
        let hashing = async { Ok(offload(move || values(start / GROUP_SIZE, &piece)).await) };
        let reading = object.read(end..end.saturating_add(MAX_READ).min(stat.size));
        let (part, next) = try_join(hashing, reading).await?;
        outboard.put(&part);
        add(&mut page, &mut above, &part, !next.is_empty());
        meter.hashed.store(end, Ordering::Relaxed);
        meter.give_way().await;
        (start, piece) = (end, next);
    }
    object.check_unchanged().await?;
    if above.is_empty() {
        return Ok((manifest(tree::root(&page)), Bytes::new()));
    }
    above.extend_from_slice(&tree::subtree(&page));
    Ok((manifest(tree::root(&above)), above.into()))
}

/// Adds `part` to a page, and the page that is full to what stands above, if more comes.
fn add(page: &mut Vec<u8>, above: &mut Vec<u8>, part: &[u8], more: bool) {
    page.extend_from_slice(part);
    if page.len() as u64 == PAGE_GROUPS * HASH_SIZE as u64 && more {
        above.extend_from_slice(&tree::subtree(page));
        page.clear();
    }
}

/// The chaining values of the groups of `piece`, whose first is `index`.
fn values(index: u64, piece: &[u8]) -> Vec<u8> {
    // Pieces are whole groups but for the object's last.
    let group = usize::try_from(GROUP_SIZE).expect("invariant: 64 KiB");
    let groups = (index..).zip(piece.chunks(group));
    groups.flat_map(|(index, group)| tree::group_value(index, group)).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crate::Source;

    use super::*;

    #[tokio::test]
    async fn what_is_hashed_ahead_gives_way_until_somebody_asks_for_it() {
        let name = ObjectName::new("x").unwrap();
        let source = Source::memory([(name.clone(), vec![7; 3_000_000].into())]);
        let object = source.open(&name).await.unwrap();
        let root = hash_object(&object).await.unwrap().manifest().root;
        for asks in [false, true] {
            let (urgents, waiting) = watch::channel(1);
            let (hashed, ahead) = (AtomicU64::new(0), AtomicBool::new(true));
            let urgent = Some(waiting);
            let meter = Arc::new(Meter { hashed, ahead, urgent, ..Meter::default() });
            let (counted, object) = (Arc::clone(&meter), object.clone());
            let hashing = tokio::spawn(async move { hash_counted(&object, &counted).await });
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(!hashing.is_finished());
            if asks {
                meter.ahead.store(false, Ordering::Relaxed);
            } else {
                urgents.send_replace(0);
            }
            assert_eq!(hashing.await.unwrap().unwrap().manifest().root, root);
        }
    }
}
