//! A manifest in a file: head, hash of the head, outboard.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use blake3::Hash;
use bytes::Bytes;
use prost::Message;

use crate::{
    Manifest, Object, ObjectName, ObjectStat, Outline, PartError, PartFile, Published, SourceError,
    Verifier,
    limits::{HASH_SIZE, MAX_MESSAGE, MAX_OBJECT},
    manifest::{Meter, Pages, hash_pages},
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
    let (mut at, mut failed) = (start, None);
    let (failure, end) = (&mut failed, &mut at);
    let put = |values: Vec<u8>| {
        if failure.is_none() {
            // Small and buffered by the system: 512 bytes for each MiB that was hashed.
            *failure = file.write_at(*end, &values).err();
        }
        *end += values.len() as u64;
        std::future::ready(())
    };
    let (manifest, above) = hash_pages(object, meter, put).await?;
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
