//! A manifest in a file: head, hash of the head, outboard.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use blake3::Hash;
use bytes::Bytes;
use prost::Message;

use super::half::Half;
use crate::{
    Manifest, Object, ObjectName, ObjectStat, Outline, PartError, PartFile, Published, SourceError,
    Verifier,
    limits::{HASH_SIZE, MAX_MESSAGE, MAX_OBJECT},
    manifest::{Meter, Outboard, Pages, hash_pages},
    offload::offload,
    request::{check_root, name_bytes, root_bytes},
    tree, wire,
};

/// The manifest in the file at `path`, if it is whole and that of the object in this state.
pub(super) fn load(path: &Path, stat: &ObjectStat) -> Option<Published> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let most = MAX_MESSAGE as u64 + tree::above_size(stat.size.min(MAX_OBJECT));
    let mut head = vec![0; usize::try_from(length.min(most)).ok()?];
    file.read_exact_at(&mut head, 0).ok()?;
    let mut rest = Bytes::from(head);
    let whole = rest.len() as u64;
    let head = prost::decode_length_delimiter(&mut rest).ok()?;
    if rest.len() < head + HASH_SIZE {
        return None;
    }
    let head = rest.split_to(head);
    // Without it a flipped bit in the root of a small object would make that unfetchable.
    if rest.split_to(HASH_SIZE) != blake3::hash(&head).as_bytes()[..] {
        return None;
    }
    let start = whole - rest.len() as u64;
    let outboard = tree::outboard_size(stat.size);
    let entry = wire::CatalogueEntry::decode(head).ok()?;
    let same = entry.name == stat.name.as_bytes() && entry.state == stat.state;
    if !same || entry.size != stat.size || length != start.checked_add(outboard)? {
        return None;
    }
    let root = check_root(&entry.root).ok()?;
    Outline::new(entry.size, root, entry.pages.clone()).ok()?;
    let manifest = Manifest { name: stat.name.clone(), size: entry.size, root };
    let pages = if entry.pages.is_empty() {
        let mut values = vec![0; usize::try_from(outboard).ok()?];
        file.read_exact_at(&mut values, start).ok()?;
        let values = Bytes::from(values);
        Verifier::new(entry.size, root, values.clone()).ok()?;
        Pages::Memory(values)
    } else {
        Pages::File { path: path.to_path_buf(), start }
    };
    Some(Published::new(manifest, entry.pages, pages))
}

/// Writes what is in memory.
pub(super) fn save(path: &Path, published: &Published, state: &str) -> Result<(), PartError> {
    let manifest = published.manifest();
    let head = head(&manifest.name, manifest.size, &manifest.root, state, Bytes::new());
    let length = head.len() as u64;
    let outboard = published.first();
    let file = PartFile::create(path, length + outboard.len() as u64)?;
    file.write_at(0, &head)?;
    file.write_at(length, &outboard)?;
    file.finish()
}

/// Hashes an object of several pages straight into the file at `path`.
pub(super) async fn hash_to_file(
    path: &Path,
    object: &Object,
    meter: &Meter,
) -> Result<Published, HashError> {
    let stat = object.stat();
    let name = &stat.name;
    let zeros = |size| Bytes::from(vec![0; usize::try_from(size).unwrap_or(0)]);
    // As long as the one that is known at the end.
    let draft = head(
        name,
        stat.size,
        &Hash::from_bytes([0; HASH_SIZE]),
        &stat.state,
        zeros(tree::above_size(stat.size)),
    );
    let start = draft.len() as u64;
    let (place, size) = (path.to_path_buf(), start + tree::outboard_size(stat.size));
    let file = std::sync::Arc::new(offload(move || PartFile::create(place, size)).await?);
    let (beside, whose) = (path.to_path_buf(), stat.clone());
    let half = offload(move || Half::open(&beside, &whose)).await;
    let mut outboard = InFile { file: &file, end: start, failed: None, half, size: stat.size };
    let hashed = hash_pages(object, meter, &mut outboard).await;
    let InFile { failed, half, .. } = outboard;
    if matches!(hashed, Ok(_) | Err(SourceError::Changed { .. })) {
        offload(move || half.remove()).await;
    }
    let (manifest, above) = hashed?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    let head = head(name, stat.size, &manifest.root, &stat.state, above.clone());
    let file = std::sync::Arc::into_inner(file).expect("invariant: nobody else has it");
    offload(move || {
        file.write_at(0, &head)?;
        file.finish()
    })
    .await?;
    Ok(Published::new(manifest, above, Pages::File { path: path.to_path_buf(), start }))
}

/// An outboard that goes to a file, and of which another server may take over what there is.
struct InFile<'a> {
    file: &'a PartFile,
    end: u64,
    failed: Option<PartError>,
    half: Half,
    size: u64,
}

impl InFile<'_> {
    fn write(&mut self, values: &[u8]) {
        if self.failed.is_none() {
            // Small and buffered by the system: 512 bytes for each MiB that was hashed.
            self.failed = self.file.write_at(self.end, values).err();
        }
        self.end += values.len() as u64;
    }
}

impl Outboard for InFile<'_> {
    fn earlier(&mut self) -> Option<Vec<u8>> {
        let values = self.half.earlier(self.size)?;
        self.write(&values);
        Some(values)
    }

    fn put(&mut self, values: &[u8]) {
        self.write(values);
        self.half.put(values);
    }
}

/// Why an object could not be hashed into a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum HashError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    File(#[from] PartError),
}

fn head(name: &ObjectName, size: u64, root: &Hash, state: &str, pages: Bytes) -> Vec<u8> {
    let (name, state) = (name_bytes(name), state.to_owned());
    let entry = wire::CatalogueEntry { name, size, root: root_bytes(root), state, pages };
    let encoded = entry.encode_to_vec();
    let hash = blake3::hash(&encoded);
    let mut head = entry.encode_length_delimited_to_vec();
    head.extend_from_slice(hash.as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{Seek, SeekFrom, Write},
        pin::pin,
        sync::atomic::Ordering::Relaxed,
        task::Poll,
    };

    use super::*;
    use crate::{ObjectName, Source};

    #[tokio::test]
    async fn hashing_goes_on_where_an_earlier_server_ended() {
        const SIZE: u64 = 300 * 1024 * 1024 + 5;
        let folder = tempfile::tempdir().unwrap();
        let (served, path) = (folder.path().join("x"), folder.path().join("entry"));
        let mut file = File::create(&served).unwrap();
        // A hole with something in it now and then.
        for at in [0, 7_000_000, 100_000_000, 299_999_999, SIZE - 1] {
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[1]).unwrap();
        }
        let source = Source::folder(&served).unwrap();
        let object = source.open(&ObjectName::new("x").unwrap()).await.unwrap();
        let whole = crate::hash_object(&object).await.unwrap();

        // Given up in the middle, as when a process ends.
        let meter = Meter::default();
        {
            let mut hashing = pin!(hash_to_file(&path, &object, &meter));
            poll_fn(|cx| {
                assert!(hashing.as_mut().poll(cx).is_pending());
                let far = meter.hashed.load(Relaxed) > 100 * 1024 * 1024;
                if far { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        assert!(load(&path, object.stat()).is_none());
        let meter = Meter::default();
        let published = hash_to_file(&path, &object, &meter).await.unwrap();
        assert!(meter.taken_over.load(Relaxed) >= 80 * 1024 * 1024);
        assert_eq!(published.manifest(), whole.manifest());
        for page in 0..2 {
            let (hashed, anew) = (published.page(page).await, whole.page(page).await);
            assert!(hashed.unwrap().1 == anew.unwrap().1, "{page}");
        }
        assert!(load(&path, object.stat()).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else stays");
    }
}
