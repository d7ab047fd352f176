//! Files that stay open while they are served, as many as the process can spare.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::limits::{DESCRIPTORS_SHARE, MAX_READS};

/// The files of a source that are open: at most a share of what the process may have. Whoever needs
/// one more takes that of the reader that has waited longest, which opens its own again when it
/// goes on.
#[derive(Debug)]
pub(super) struct Descriptors {
    limit: usize,
    /// In the order of their last opening.
    open: Mutex<VecDeque<Weak<OpenFile>>>,
    reads: Semaphore,
}

/// A file that is served; closed when its last reader is gone, or another needs its descriptor.
#[derive(Debug)]
pub(super) struct OpenFile {
    path: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    descriptors: Arc<Descriptors>,
}

impl Descriptors {
    pub(super) fn new() -> Arc<Self> {
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        Self::with_limit((most / DESCRIPTORS_SHARE).saturating_sub(MAX_READS).max(1))
    }

    pub(super) fn with_limit(limit: usize) -> Arc<Self> {
        let reads = Semaphore::new(MAX_READS);
        Arc::new(Self { limit, open: Mutex::default(), reads })
    }

    /// Waits for the turn to read.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.reads.acquire().await.ok()
    }

    /// Takes note that `file` is open, and closes others if those are too many.
    fn on_opened(&self, file: &Arc<OpenFile>) {
        let mut open = lock(&self.open);
        open.retain(|other| other.upgrade().is_some_and(|other| lock(&other.file).is_some()));
        open.push_back(Arc::downgrade(file));
        while open.len() > self.limit {
            let Some(oldest) = open.pop_front().and_then(|oldest| oldest.upgrade()) else {
                continue;
            };
            lock(&oldest.file).take();
        }
    }

    #[cfg(test)]
    pub(super) fn open_now(&self) -> usize {
        let open = lock(&self.open);
        open.iter().filter_map(Weak::upgrade).filter(|file| lock(&file.file).is_some()).count()
    }
}

impl OpenFile {
    pub(super) fn new(path: PathBuf, descriptors: Arc<Descriptors>) -> Arc<Self> {
        Arc::new(Self { path, file: Mutex::default(), descriptors })
    }

    pub(super) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// The open file; opens it when need be, which `check` may refuse.
    pub(super) fn file<E: From<io::Error>>(
        self: &Arc<Self>,
        check: impl FnOnce(&File) -> Result<(), E>,
    ) -> Result<Arc<File>, E> {
        if let Some(file) = &*lock(&self.file) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(File::open(&self.path)?);
        check(&file)?;
        *lock(&self.file) = Some(Arc::clone(&file));
        self.descriptors.on_opened(self);
        Ok(file)
    }
}

/// What the locks guard is whole between statements, so a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_open_file_is_closed_for_another_and_opens_again() {
        let folder = tempfile::tempdir().unwrap();
        let descriptors = Descriptors::with_limit(3);
        let files: Vec<_> = (0..10)
            .map(|number| {
                let path = folder.path().join(number.to_string());
                std::fs::write(&path, b"x").unwrap();
                OpenFile::new(path, Arc::clone(&descriptors))
            })
            .collect();
        for file in files.iter().chain(&files) {
            file.file::<io::Error>(|_| Ok(())).unwrap();
            assert!(descriptors.open_now() <= 3);
        }
        assert_eq!(descriptors.open_now(), 3);
        drop(files);
        assert_eq!(descriptors.open_now(), 0);
    }
}
