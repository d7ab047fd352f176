//! A complete part file becomes its target.

use std::{
    fs::{self, File, Metadata},
    io::{self, ErrorKind, Seek},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::atomic::Ordering,
};

use rustix::{
    fs::{CWD, OFlags, RenameFlags, fchown, renameat_with},
    io::Errno,
    process::{Gid, Uid},
};

use super::{PartError, PartFile};
use crate::Attributes;

impl PartFile {
    /// Makes it durable and gives it its name, or writes it over the target.
    pub(crate) fn complete(&self, attributes: Attributes) -> Result<(), PartError> {
        self.put_in_place(attributes).map_err(|source| self.error(source))
    }

    fn put_in_place(&self, attributes: Attributes) -> io::Result<()> {
        self.file.sync_all()?;
        let target = &self.place.target;
        let existing = target.symlink_metadata().ok().filter(Metadata::is_file);
        if let Some(existing) = existing.filter(|_| self.place.replace) {
            let elsewhere = self.part.parent() != target.parent();
            let other_owner = !self.adopt_owner(&existing);
            if elsewhere || other_owner || existing.nlink() > 1 || has_attributes(target) {
                match open_over(target) {
                    Ok(over) => return self.write_over(&over, attributes),
                    Err(error) if elsewhere || error.kind() != ErrorKind::PermissionDenied => {
                        return Err(error);
                    }
                    // Write-protected, and to be replaced all the same.
                    Err(_) => {}
                }
            }
        }
        if let Some(mode) = self.mode {
            self.file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        // Behind the bytes stands what is known of them: killed from here on, it is found complete
        // by its length.
        let size = self.lock().size;
        if self.file.metadata()?.len() != size {
            self.file.set_len(size)?;
            self.file.sync_all()?;
        }
        // Nothing is written any more that would change its time.
        self.place.keep(&self.file, attributes)?;
        if self.place.replace {
            fs::rename(&self.part, target)?;
        } else {
            rename_new(&self.part, target)?;
        }
        self.finished.store(true, Ordering::Relaxed);
        sync_folder(target)
    }

    /// Gives it the owner of the file that it replaces: whether it has that now.
    fn adopt_owner(&self, existing: &Metadata) -> bool {
        let Ok(own) = self.file.metadata() else { return false };
        let differs = |own: u32, wanted: u32| (own != wanted).then_some(wanted);
        let user = differs(own.uid(), existing.uid());
        let group = differs(own.gid(), existing.gid());
        (user, group) == (None, None)
            || fchown(&self.file, user.map(Uid::from_raw), group.map(Gid::from_raw)).is_ok()
    }

    /// As `cp` does: the target stays the file that it is, with its owner, its other names and
    /// whatever else it has. Killed meanwhile, the next one does it again.
    fn write_over(&self, mut target: &File, attributes: Attributes) -> io::Result<()> {
        let size = self.lock().size;
        let mut part = &self.file;
        part.rewind()?;
        let copied = io::copy(&mut io::Read::take(part, size), &mut target)?;
        if copied != size {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        target.set_len(size)?;
        self.place.keep(target, attributes)?;
        target.sync_all()?;
        self.finished.store(true, Ordering::Relaxed);
        fs::remove_file(&self.part)
    }
}

/// A file that is written over. A link that took its name meanwhile is not followed.
fn open_over(target: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(target)
}

/// Whether a file has attributes that a new one would not, as access lists are.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn has_attributes(target: &Path) -> bool {
    let mut names = [0; 4096];
    match rustix::fs::listxattr(target, &mut names[..]) {
        Ok(length) => {
            let mut names = names[..length].split(|byte| *byte == 0);
            // A label that the system gives by itself.
            names.any(|name| !name.is_empty() && name != b"security.selinux")
        }
        Err(error) => error == Errno::RANGE,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn has_attributes(_: &Path) -> bool {
    false
}

/// Renames, but replaces nothing.
fn rename_new(part: &Path, target: &Path) -> io::Result<()> {
    match renameat_with(CWD, part, CWD, target, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        renamed => return Ok(renamed?),
    }
    // File systems that cannot may know hard links at least.
    match fs::hard_link(part, target) {
        Ok(()) => fs::remove_file(part),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
        Err(_) if target.symlink_metadata().is_ok() => Err(ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(part, target),
    }
}

/// A file's name, too, shall survive a crash. An empty parent is the current folder.
pub(super) fn sync_folder(target: &Path) -> io::Result<()> {
    let folder = target.parent().filter(|path| !path.as_os_str().is_empty());
    match File::open(folder.unwrap_or(Path::new("."))).and_then(|file| file.sync_all()) {
        // One that may be written and not read, or a file system that cannot: the file is there,
        // and whole.
        Err(error) if is_serious(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_serious(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported
    )
}
