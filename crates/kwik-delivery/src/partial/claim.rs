//! A part file's name, and who has it.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf, absolute},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
    process::geteuid,
};

use crate::limits::MAX_LOOKED_AT;

use super::{LONGEST_PROCESS, PartError, PartState, Place, SUFFIX};

/// Hexadecimal digits of a part file's name, where it has some.
const DIGITS: usize = 16;
/// Longest file name of the usual file systems, in bytes.
const MAX_FILE_NAME: usize = 255;
/// Times that a part file may vanish as it is opened: each is another process that ends.
const MAX_TRIES: usize = 16;

/// A part file, open and locked.
pub(super) struct Claimed {
    pub(super) file: File,
    pub(super) part: PathBuf,
    /// Whether nobody else finds it again.
    pub(super) is_random: bool,
}

/// The part file of `place`, made or taken over. Its name follows from the target's: so it is
/// found again, also in a folder that cannot be read or is huge.
pub(super) fn named(place: &Place, mode: Option<u32>) -> Result<Claimed, PartError> {
    let Place { target, other_folder, .. } = place;
    let failed = |source| PartError::from_io(target, source);
    let start = start(target)?;
    let beside = target.with_file_name(format!("{start}{SUFFIX}"));
    remove_dead(target, &random_start(&start));
    match lock_named(target, beside, mode) {
        Err(PartError::Permission { path, source }) => {
            // The file may be written all the same.
            let writable = target.is_file() && File::options().append(true).open(target).is_ok();
            let Some(folder) = other_folder.as_ref().filter(|_| writable) else {
                return Err(PartError::Permission { path, source });
            };
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
            let whole = absolute(target).map_err(failed)?;
            let digits = digits(whole.as_os_str());
            let start = cut(start, digits.len() + 1);
            lock_named(target, folder.join(format!("{start}.{digits}{SUFFIX}")), mode)
        }
        claimed => claimed,
    }
}

fn lock_named(target: &Path, part: PathBuf, mode: Option<u32>) -> Result<Claimed, PartError> {
    let failed = |source| PartError::from_io(target, source);
    for _ in 0..MAX_TRIES {
        let (file, new) = match create_new(&part, mode) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match open(&part) {
                Ok(Some(file)) => (file, false),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                // Somebody else's: it is left alone.
                Ok(None) | Err(_) => return random(target, mode),
            },
            Err(error) => return Err(failed(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let process = process(&file);
                return Err(PartError::InUse { path: target.to_path_buf(), process });
            }
            Err(_) if new => {}
            // Where there are no locks, nothing is taken for dead either.
            Err(_) => return random(target, mode),
        }
        // Another process may have given it its final name, or removed it, before it was locked.
        if is_at(&file, &part).map_err(failed)? {
            return Ok(Claimed { file, part, is_random: false });
        }
    }
    Err(PartError::InUse { path: target.to_path_buf(), process: None })
}

/// A part file with a name that nobody can foresee. Those that processes left which were killed go.
pub(super) fn random(target: &Path, mode: Option<u32>) -> Result<Claimed, PartError> {
    let failed = |source| PartError::from_io(target, source);
    let start = random_start(&start(target)?);
    remove_dead(target, &start);
    loop {
        let mut random = [0; DIGITS / 2];
        getrandom::fill(&mut random).map_err(|error| failed(io::Error::other(error)))?;
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = target.with_file_name(format!("{start}{random}{SUFFIX}"));
        let file = match create_new(&part, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            opened => opened.map_err(failed)?,
        };
        // Where there are no locks, nothing is taken for dead either.
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok();
        if is_at(&file, &part).map_err(failed)? {
            return Ok(Claimed { file, part, is_random: true });
        }
    }
}

/// How the names of a target's part files begin: as its own, but where that is too long, or no
/// text.
fn start(target: &Path) -> Result<String, PartError> {
    // Told now, and not when all is there.
    if let Err(error) = target.symlink_metadata()
        && error.kind() == ErrorKind::InvalidFilename
    {
        return Err(PartError::from_io(target, error));
    }
    let name = target.file_name().filter(|_| !target.is_dir());
    let Some(name) = name else {
        return Err(PartError::TargetIsFolder { path: target.to_path_buf() });
    };
    if let Some(name) = name.to_str()
        && name.len() + 1 + SUFFIX.len() <= MAX_FILE_NAME
    {
        return Ok(format!(".{name}"));
    }
    let short = cut(format!(".{}", name.to_string_lossy()), DIGITS + 1);
    Ok(format!("{short}.{}", digits(name)))
}

/// How those names begin that end with random digits.
fn random_start(start: &str) -> String {
    format!("{}.", cut(start.to_owned(), DIGITS + 1))
}

/// As much of a name as leaves room for `more` bytes and the suffix.
fn cut(mut name: String, more: usize) -> String {
    while name.len() + more + SUFFIX.len() > MAX_FILE_NAME {
        name.pop();
    }
    name
}

fn digits(name: &OsStr) -> String {
    blake3::hash(name.as_bytes()).to_hex()[..DIGITS].to_owned()
}

fn create_new(part: &Path, mode: Option<u32>) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    if let Some(mode) = mode {
        options.mode(mode | 0o200);
    }
    options.open(part)
}

/// Opens one that is there; none when it is not this user's, or no plain file: in a folder for all
/// users, another one may have put it there.
fn open(part: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    options.read(true).write(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(part)?;
    let metadata = file.metadata()?;
    let own = metadata.is_file() && metadata.nlink() <= 1;
    Ok((own && metadata.uid() == geteuid().as_raw()).then_some(file))
}

fn is_at(file: &File, part: &Path) -> io::Result<bool> {
    let (held, there) = (file.metadata()?, part.symlink_metadata());
    Ok(there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())))
}

/// Who writes a part file, as it says itself.
fn process(file: &File) -> Option<u32> {
    if let Ok(Some(state)) = PartState::read(file) {
        return Some(state.process);
    }
    let mut text = String::new();
    file.take(LONGEST_PROCESS).read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// Removes the part files of `target` with random names that no process has open any more.
fn remove_dead(target: &Path, start: &str) {
    let folder = target.parent().filter(|path| !path.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new(".")));
    for entry in entries.into_iter().flatten().flatten().take(MAX_LOOKED_AT) {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(SUFFIX));
        if random.is_none_or(|random| random.len() != DIGITS) {
            continue;
        }
        let Ok(Some(file)) = open(&entry.path()) else { continue };
        if flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::remove_file(entry.path()).ok();
        }
    }
}
