//! What verifies an object.

use std::fmt;

use blake3::Hash;
use bytes::Bytes;
use futures_util::future::try_join;

use crate::{
    InvalidOutboard, Object, ObjectName, SourceError, Verifier,
    limits::{GROUP_SIZE, MAX_OBJECT, MAX_READ},
    offload::offload,
    tree,
};

/// What verifies an object: its size, its BLAKE3 hash, and the chaining values of its groups.
#[derive(Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The object's name.
    pub name: ObjectName,
    /// Its size in bytes.
    pub size: u64,
    /// Its BLAKE3 hash, the same as `b3sum` prints.
    pub root: Hash,
    /// 32 bytes for each 64 KiB group in order; empty when there is one group or none.
    pub outboard: Bytes,
}

impl Manifest {
    /// Checks the outboard and makes it the verifier of the object.
    ///
    /// # Errors
    /// When the outboard does not belong to size and root.
    pub fn verifier(&self) -> Result<Verifier, InvalidOutboard> {
        Verifier::new(self.size, self.root, self.outboard.clone())
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Manifest");
        debug.field("name", &self.name).field("size", &self.size).field("root", &self.root);
        debug.finish_non_exhaustive()
    }
}

/// Reads and hashes the whole of `object`, hashing one piece while the next is read; holds two
/// pieces and the outboard. Cancel safety: nothing is kept of it.
///
/// # Errors
/// When the object cannot be read, changes meanwhile, or is larger than [`MAX_OBJECT`].
pub async fn hash_object(object: &Object) -> Result<Manifest, SourceError> {
    let stat = object.stat();
    if stat.size > MAX_OBJECT {
        return Err(SourceError::TooLarge { name: stat.name.clone(), size: stat.size });
    }
    let manifest =
        |root, outboard| Manifest { name: stat.name.clone(), size: stat.size, root, outboard };
    let mut piece = object.read(0..MAX_READ.min(stat.size)).await?;
    if stat.size <= GROUP_SIZE {
        return Ok(manifest(blake3::hash(&piece), Bytes::new()));
    }
    let mut outboard = Vec::new();
    let mut start = 0;
    while !piece.is_empty() {
        let end = start + piece.len() as u64;
        let hashing = async { Ok(offload(move || values(start / GROUP_SIZE, &piece)).await) };
        let reading = object.read(end..end.saturating_add(MAX_READ).min(stat.size));
        let (hashed, next) = try_join(hashing, reading).await?;
        outboard.extend_from_slice(&hashed);
        (start, piece) = (end, next);
    }
    let outboard = Bytes::from(outboard);
    let above = outboard.clone();
    let root = offload(move || tree::root(&above)).await;
    Ok(manifest(root, outboard))
}

/// The chaining values of the groups of `piece`, whose first is `index`.
fn values(index: u64, piece: &[u8]) -> Vec<u8> {
    // Pieces are whole groups but for the object's last.
    let group = usize::try_from(GROUP_SIZE).expect("invariant: 64 KiB");
    let groups = (index..).zip(piece.chunks(group));
    groups.flat_map(|(index, group)| tree::group_value(index, group)).collect()
}
