//! Small files, which are in memory before anything of them is written.

use std::path::Path;

use bytes::Bytes;

use crate::{Attributes, Manifest};

use super::{PartError, PartFile, Place, finish::sync_folder};

/// A file whose bytes are all there, and verified.
#[derive(Debug, Clone)]
pub struct SmallFile {
    /// Where it goes.
    pub place: Place,
    /// What it is.
    pub manifest: Manifest,
    /// What else is known of it.
    pub attributes: Attributes,
    /// All of it.
    pub data: Bytes,
}

impl SmallFile {
    /// By way of a part file, which says what is wrong, if something is.
    fn write(&self) -> Result<(), PartError> {
        let part = PartFile::claim(self.place.clone(), false)?;
        part.begin(&self.manifest)?;
        part.write_verified(0, &self.data)?;
        part.complete(self.attributes)
    }
}

/// Writes all of each of `files`: what became of each, in their order. They are made durable
/// together, so that this takes one turn of the disk for all; each has its name only once its bytes
/// are durable, and the name itself is once [`sync_names`] was called. Nothing of them is left when
/// the process is killed, where the file system can have files without a name. A descriptor is open
/// for each meanwhile. Blocks.
#[must_use]
pub fn write_small(files: &[SmallFile]) -> Vec<Result<(), PartError>> {
    let written = unnamed::write(files);
    let each = files.iter().zip(written);
    each.map(|(file, is_written)| if is_written { Ok(()) } else { file.write() }).collect()
}

/// Makes the names in the folder `folder` durable. Blocks.
///
/// # Errors
/// When the disk fails.
pub fn sync_names(folder: &Path) -> Result<(), PartError> {
    sync_folder(&folder.join("x")).map_err(|source| PartError::from_io(folder, source))
}

/// Files without a name, which get one in the end.
#[cfg(target_os = "linux")]
mod unnamed {
    use std::{
        collections::BTreeMap,
        fs::{self, File},
        io::{self, Write},
        os::{
            fd::AsRawFd,
            unix::fs::{MetadataExt, OpenOptionsExt},
        },
        path::Path,
    };

    use rustix::fs::{AtFlags, CWD, OFlags, fstatfs, linkat, syncfs};

    use super::SmallFile;

    /// So many files of one file system at the least are made durable with all that is in it: with
    /// fewer, each by itself costs less.
    const TOGETHER: usize = 8;
    /// File systems of which that is known to make files durable, by the numbers of statfs(2): ext4
    /// and those before it, XFS, Btrfs, F2FS, bcachefs, overlayfs, tmpfs. FUSE passes nothing on.
    const KNOWN: [i64; 7] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x794c_7630, 0x0102_1994];
    /// Since this version of Linux such a call says when something could not be written.
    const TOLD_SINCE: (u32, u32) = (5, 8);

    /// Whether each of them has its name now.
    pub(super) fn write(files: &[SmallFile]) -> Vec<bool> {
        let filled: Vec<_> = files.iter().map(|file| fill(file).ok().flatten()).collect();
        let durable = make_durable(&filled);
        let each = files.iter().zip(&filled).zip(durable);
        each.map(|((file, filled), durable)| {
            let filled = filled.as_ref().filter(|_| durable);
            filled.is_some_and(|filled| name(filled, &file.place.target).is_ok())
        })
        .collect()
    }

    /// None where a file is there already.
    fn fill(small: &SmallFile) -> io::Result<Option<File>> {
        let target = &small.place.target;
        if target.symlink_metadata().is_ok() {
            return Ok(None);
        }
        let folder = target.parent().filter(|path| !path.as_os_str().is_empty());
        let mut options = File::options();
        options.write(true).mode(0o666).custom_flags(OFlags::TMPFILE.bits().cast_signed());
        let mut file = options.open(folder.unwrap_or(Path::new(".")))?;
        file.write_all(&small.data)?;
        small.place.keep(&file, small.attributes)?;
        Ok(Some(file))
    }

    fn name(file: &File, target: &Path) -> io::Result<()> {
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(linkat(CWD, itself, CWD, target, AtFlags::SYMLINK_FOLLOW)?)
    }

    /// Whether each of them is durable now.
    fn make_durable(files: &[Option<File>]) -> Vec<bool> {
        let mut devices: BTreeMap<u64, Vec<&File>> = BTreeMap::new();
        for file in files.iter().flatten() {
            let Ok(metadata) = file.metadata() else { continue };
            devices.entry(metadata.dev()).or_default().push(file);
        }
        devices.retain(|_, files| files.len() >= TOGETHER && is_known(files[0]));
        devices.retain(|_, files| syncfs(files[0]).is_ok());
        let each = files.iter().map(|file| {
            let Some(file) = file else { return false };
            let together = file.metadata().is_ok_and(|it| devices.contains_key(&it.dev()));
            together || file.sync_all().is_ok()
        });
        each.collect()
    }

    #[allow(clippy::useless_conversion, reason = "of another type on other machines")]
    fn is_known(file: &File) -> bool {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let told = version(&release).is_some_and(|version| version >= TOLD_SINCE);
        told && fstatfs(file).is_ok_and(|status| KNOWN.contains(&i64::from(status.f_type)))
    }

    fn version(release: &str) -> Option<(u32, u32)> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn a_kernel_says_its_version() {
            let version = super::version;
            assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
            assert_eq!(version("5.15-rc2"), Some((5, 15)));
            assert_eq!(version("4.4.0"), Some((4, 4)));
            assert_eq!((version(""), version("x")), (None, None));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod unnamed {
    pub(super) fn write(files: &[super::SmallFile]) -> Vec<bool> {
        vec![false; files.len()]
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        time::{Duration, UNIX_EPOCH},
    };

    use super::*;
    use crate::ObjectName;

    fn small(place: Place, data: &[u8]) -> SmallFile {
        let modified = Some(UNIX_EPOCH + Duration::new(1_000_000_007, 5));
        let attributes = Attributes { modified, mode: Some(0o640) };
        let (name, root) = (ObjectName::new("x").unwrap(), blake3::hash(data));
        let manifest = Manifest { name, size: data.len() as u64, root };
        SmallFile { place, manifest, attributes, data: Bytes::copy_from_slice(data) }
    }

    fn assert_is(target: &Path, small: &SmallFile) {
        assert_eq!(fs::read(target).unwrap(), small.data);
        let metadata = fs::metadata(target).unwrap();
        assert_eq!(metadata.modified().ok(), small.attributes.modified, "{target:?}");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_small_file_is_there_whole_with_what_is_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        let write = |place: Place, data: &[u8]| {
            let small = small(place, data);
            write_small(std::slice::from_ref(&small)).remove(0).map(|()| small)
        };
        for data in [&b"one"[..], b"", b"three"] {
            let written = write(Place::new(&target).with_modes(), data).unwrap();
            assert_is(&target, &written);
            sync_names(folder.path()).unwrap();
        }
        let kept = write(Place::new(&target).without_replacing(), b"four");
        assert!(kept.is_err());
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert!(write(Place::new(folder.path().join("no/x")), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_many_at_once_each_ends_as_it_would_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |number: usize| folder.path().join(number.to_string());
        fs::create_dir(at(3)).unwrap();
        fs::write(at(5), b"replaced").unwrap();
        fs::write(at(7), b"kept").unwrap();
        let place = |number| match number {
            7 => Place::new(at(number)).without_replacing(),
            9 => Place::new(folder.path().join("no/x")),
            _ => Place::new(at(number)).with_modes(),
        };
        let files: Vec<_> =
            (0..40).map(|number| small(place(number), number.to_string().as_bytes())).collect();
        for (number, result) in write_small(&files).into_iter().enumerate() {
            let fails = [3, 7, 9].contains(&number);
            assert_eq!(result.is_err(), fails, "{number}: {result:?}");
            if !fails {
                assert_is(&at(number), &files[number]);
            }
        }
        assert_eq!(fs::read(at(7)).unwrap(), b"kept");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 39);
    }
}
