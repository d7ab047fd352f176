//! Small files, which are in memory before anything of them is written.

use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use crate::{Attributes, Manifest};

use super::{PartError, PartFile, Place, finish::sync_folder};

/// Writes all of a file whose bytes are verified already. It has its name only once its bytes are
/// durable; its name is once [`sync_names`] was called. Nothing of it is left when the process is
/// killed, where the file system can have files without a name. Blocks.
///
/// # Errors
/// As those of [`PartFile`].
pub fn write_small(
    place: &Place,
    manifest: &Manifest,
    attributes: Attributes,
    data: &[u8],
) -> Result<(), PartError> {
    if place.target.symlink_metadata().is_err() && write_unnamed(place, attributes, data).is_ok() {
        return Ok(());
    }
    // Whatever kept it from that, this says what is wrong, if something is.
    let part = PartFile::claim(place.clone(), false)?;
    part.begin(manifest)?;
    part.write_verified(0, data)?;
    part.complete(attributes)
}

/// Makes the names in the folder `folder` durable. Blocks.
///
/// # Errors
/// When the disk fails.
pub fn sync_names(folder: &Path) -> Result<(), PartError> {
    sync_folder(&folder.join("x")).map_err(|source| PartError::from_io(folder, source))
}

/// In a file without a name, which gets one in the end.
#[cfg(target_os = "linux")]
fn write_unnamed(place: &Place, attributes: Attributes, data: &[u8]) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD, OFlags, linkat};

    let folder = place.target.parent().filter(|path| !path.as_os_str().is_empty());
    let mut options = File::options();
    options.write(true).mode(0o666).custom_flags(OFlags::TMPFILE.bits().cast_signed());
    let mut file = options.open(folder.unwrap_or(Path::new(".")))?;
    file.write_all(data)?;
    place.keep(&file, attributes)?;
    file.sync_all()?;
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, itself, CWD, &place.target, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn write_unnamed(_: &Place, _: Attributes, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
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

    #[test]
    fn a_small_file_is_there_whole_with_what_is_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x");
        let modified = Some(UNIX_EPOCH + Duration::new(1_000_000_007, 5));
        let attributes = Attributes { modified, mode: Some(0o640) };
        let write = |place: Place, data: &[u8]| {
            let (name, root) = (ObjectName::new("x").unwrap(), blake3::hash(data));
            let manifest = Manifest { name, size: data.len() as u64, root };
            write_small(&place, &manifest, attributes, data)
        };
        for (round, data) in [&b"one"[..], b"", b"three"].into_iter().enumerate() {
            write(Place::new(&target).with_modes(), data).unwrap();
            assert_eq!(fs::read(&target).unwrap(), data);
            let metadata = fs::metadata(&target).unwrap();
            assert_eq!(metadata.modified().ok(), modified, "{round}");
            assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
            sync_names(folder.path()).unwrap();
        }
        let kept = write(Place::new(&target).without_replacing(), b"four");
        assert!(kept.is_err());
        assert_eq!(fs::read(&target).unwrap(), b"three");
        assert!(write(Place::new(folder.path().join("no/x")), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
