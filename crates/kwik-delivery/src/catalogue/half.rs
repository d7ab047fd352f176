//! What was hashed of a large object before its server ended.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use blake3::Hash;
use prost::Message;

use crate::{
    ObjectStat,
    limits::{HASH_SIZE, KEPT_GROUPS},
    request::name_bytes,
    tree, wire,
};

/// Bytes of a record: the chaining values of some groups, and a hash of them.
const RECORD: usize = KEPT_GROUPS * HASH_SIZE + HASH_SIZE;

/// The chaining values so far, in a file beside the object's entry in the catalogue: first a hash
/// of what the object is, then records in order. Each record's hash covers the former and its
/// place, so that what is damaged, torn or another state's is hashed again. As long as the object's
/// outboard.
#[derive(Debug)]
pub(super) struct Half {
    path: PathBuf,
    /// None where it cannot be kept: then hashing begins anew after the next start.
    file: Option<File>,
    identity: Hash,
    /// Records before this one are there.
    next: u64,
    /// Whether those that are there are still being read.
    reading: bool,
    values: Vec<u8>,
}

impl Half {
    /// Opens, or begins, the one beside the entry at `path`. Blocks shortly.
    pub(super) fn open(path: &Path, stat: &ObjectStat) -> Self {
        let path = path.with_extension("half");
        let entry = wire::CatalogueEntry {
            name: name_bytes(&stat.name),
            size: stat.size,
            state: stat.state.clone(),
            ..Default::default()
        };
        let identity = blake3::hash(&entry.encode_to_vec());
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).and_then(|file| begin(&file, &identity).map(|()| file));
        let file = file.inspect_err(|error| {
            tracing::debug!(error = %error, "half-done hashing is not kept");
        });
        let values = Vec::with_capacity(RECORD);
        Self { path, file: file.ok(), identity, next: 0, reading: true, values }
    }

    /// Values that an earlier server had computed and that come next; none once there are no more.
    /// Every one of `size` bytes but the last group's may be.
    pub(super) fn earlier(&mut self, size: u64) -> Option<Vec<u8>> {
        let groups = KEPT_GROUPS as u64;
        // The last group is hashed anew: then it shows that the object is still there.
        let within = (self.next + 1) * groups < tree::groups(size);
        let found = if self.reading && within { self.read() } else { None };
        match found {
            Some(values) => {
                self.next += 1;
                Some(values)
            }
            None => {
                self.reading = false;
                None
            }
        }
    }

    fn read(&self) -> Option<Vec<u8>> {
        let mut record = vec![0; RECORD];
        self.file.as_ref()?.read_exact_at(&mut record, self.place()).ok()?;
        let (values, hash) = record.split_at(RECORD - HASH_SIZE);
        let fits = self.hash(values) == Hash::from_slice(hash).ok()?;
        fits.then(|| values.to_vec())
    }

    /// Keeps values that follow those before.
    pub(super) fn put(&mut self, mut values: &[u8]) {
        while !values.is_empty() {
            let room = RECORD - HASH_SIZE - self.values.len();
            let (now, later) = values.split_at(room.min(values.len()));
            self.values.extend_from_slice(now);
            values = later;
            if self.values.len() == RECORD - HASH_SIZE {
                self.write();
            }
        }
    }

    fn write(&mut self) {
        let hash = self.hash(&self.values);
        self.values.extend_from_slice(hash.as_bytes());
        // Small and buffered by the system: 514 bytes for each MiB that was hashed.
        let kept = |file: &File| file.write_all_at(&self.values, self.place());
        if let Some(Err(error)) = self.file.as_ref().map(kept) {
            tracing::debug!(%error, "half-done hashing is not kept");
            self.file = None;
        }
        self.values.clear();
        self.next += 1;
    }

    /// The object is hashed, or not as it was any more.
    pub(super) fn remove(self) {
        fs::remove_file(self.path).ok();
    }

    fn place(&self) -> u64 {
        HASH_SIZE as u64 + self.next * RECORD as u64
    }

    fn hash(&self, values: &[u8]) -> Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.identity.as_bytes()).update(&self.next.to_le_bytes()).update(values);
        hasher.finalize()
    }
}

/// Leaves what is of this object in this state, and nothing else.
fn begin(file: &File, identity: &Hash) -> io::Result<()> {
    let mut found = [0; HASH_SIZE];
    let same = file.read_exact_at(&mut found, 0).is_ok() && found == *identity.as_bytes();
    if !same {
        file.set_len(0)?;
        file.write_all_at(identity.as_bytes(), 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{ObjectName, limits::GROUP_SIZE};

    const GROUPS: u64 = KEPT_GROUPS as u64;

    fn stat(state: &str) -> ObjectStat {
        let name = ObjectName::new("x").unwrap();
        let size = 10 * GROUPS * GROUP_SIZE;
        ObjectStat { name, size, modified: SystemTime::UNIX_EPOCH, mode: None, state: state.into() }
    }

    fn earlier(half: &mut Half, stat: &ObjectStat) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| half.earlier(stat.size)).collect()
    }

    fn record(number: u8) -> Vec<u8> {
        vec![number; KEPT_GROUPS * HASH_SIZE]
    }

    #[test]
    fn what_is_whole_and_of_the_same_state_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let (path, stat) = (folder.path().join("entry"), stat("a"));
        let mut half = Half::open(&path, &stat);
        assert_eq!(half.earlier(stat.size), None);
        for number in 0..3 {
            // In parts as they come, the last of which is not whole yet.
            record(number).chunks(512).for_each(|part| half.put(part));
        }
        half.put(&[9; 100]);
        drop(half);

        let mut half = Half::open(&path, &stat);
        assert_eq!(earlier(&mut half, &stat), [record(0), record(1), record(2)]);
        half.put(&record(3));
        // One that is another, two that stand in each other's place, one that is cut: each ends it.
        let whole = fs::read(path.with_extension("half")).unwrap();
        let at = |number: usize| HASH_SIZE + number * RECORD;
        let mut swapped = whole.clone();
        swapped[at(1)..at(3)].rotate_left(RECORD);
        for (bytes, left) in
            [(whole.clone(), 4), (swapped, 1), (whole[..whole.len() - 1].to_vec(), 3)]
        {
            fs::write(path.with_extension("half"), bytes).unwrap();
            assert_eq!(earlier(&mut Half::open(&path, &stat), &stat).len(), left);
        }
        for number in 0..4 {
            let mut flipped = whole.clone();
            flipped[at(number) + 77] ^= 1;
            fs::write(path.with_extension("half"), flipped).unwrap();
            assert_eq!(earlier(&mut Half::open(&path, &stat), &stat).len(), number);
        }
    }

    #[test]
    fn another_state_begins_anew_and_the_end_is_always_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("entry");
        let mut half = Half::open(&path, &stat("a"));
        for number in 0..10 {
            half.put(&record(number));
        }
        let kept = |state| earlier(&mut Half::open(&path, &stat(state)), &stat(state)).len();
        assert_eq!(kept("a"), 9);
        assert_eq!((kept("b"), kept("a")), (0, 0));
        Half::open(&path, &stat("a")).remove();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        // Where nothing can be kept, nothing is.
        let mut half = Half::open(Path::new("/no/such/entry"), &stat("a"));
        half.put(&record(0));
        assert_eq!(half.earlier(stat("a").size), None);
    }
}
