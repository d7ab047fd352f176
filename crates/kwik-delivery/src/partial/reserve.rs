//! Room for a file, before anything is fetched for it.

use std::{fs::File, io};

use rustix::fs::{FallocateFlags, fallocate};

/// Makes `file` have `length` bytes, which is as many as it has or more, and has the system reserve
/// room for them where the file system can: a disk that is too small is found out now.
pub(super) fn reserve(file: &File, length: u64) -> io::Result<()> {
    if length > 0 {
        match fallocate(file, FallocateFlags::empty(), 0, length).map_err(io::Error::from) {
            Ok(()) => return Ok(()),
            Err(error) if is_final(&error) => {
                // What it got so far is for others.
                file.set_len(0).ok();
                return Err(error);
            }
            // This file system cannot: the room shows as it is filled.
            Err(_) => {}
        }
    }
    file.set_len(length)
}

/// Makes a hole of `length` bytes from `start` on.
#[cfg(target_os = "linux")]
pub(super) fn punch(file: &File, start: u64, length: u64) -> io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, hole, start, length)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn punch(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn is_final(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge)
}
