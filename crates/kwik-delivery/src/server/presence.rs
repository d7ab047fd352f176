//! Who is served now, and how that ends when the server does.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use blake3::Hash;
use kwik::{PrimarySession, SecondarySession};
use tokio::{sync::watch, time};

use crate::limits::DRAIN_QUIET;

/// The sessions of a server, and what they are doing. As many as its endpoints let in.
#[derive(Debug, Default)]
pub(super) struct Presence {
    draining: watch::Sender<bool>,
    /// Changes when a session comes or goes, or has more or less to do.
    changes: watch::Sender<u64>,
    next: AtomicU64,
    primary: Mutex<BTreeMap<u64, Served<PrimarySession>>>,
    secondary: Mutex<BTreeMap<u64, Served<SecondarySession>>>,
}

/// One session, and what it is busy with.
#[derive(Debug)]
struct Served<S> {
    session: S,
    work: usize,
    /// Objects that are fetched, by their hashes: pages of hashes that the client needs, and that
    /// it has asked for. As many as requests are answered at once.
    pages: BTreeMap<[u8; 32], (u64, u64)>,
}

impl<S> Served<S> {
    const fn new(session: S) -> Self {
        Self { session, work: 0, pages: BTreeMap::new() }
    }

    /// Whether the client has all that only its primary can give it.
    fn has_all_pages(&self) -> bool {
        self.pages.values().all(|(needed, asked)| asked >= needed)
    }
}

/// A session's place among those that are served.
#[derive(Debug)]
pub(super) struct Place<'a> {
    presence: &'a Presence,
    number: u64,
}

/// Something that a session is busy with.
#[derive(Debug)]
pub(super) struct Work<'a, 'b>(&'b Place<'a>);

impl Presence {
    pub(super) fn add_primary(&self, session: PrimarySession) -> Place<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.primary).insert(number, Served::new(session));
        self.changed();
        Place { presence: self, number }
    }

    pub(super) fn add_secondary(&self, session: SecondarySession) -> Place<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.secondary).insert(number, Served::new(session));
        self.changed();
        Place { presence: self, number }
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits for the drain to begin.
    pub(super) async fn draining(&self) {
        // The sender lives as long as this does.
        drop(self.draining.subscribe().wait_for(|draining| *draining).await);
    }

    /// Sessions that are busy.
    pub(super) fn busy(&self) -> usize {
        let primary = lock(&self.primary).values().filter(|served| served.work > 0).count();
        primary + lock(&self.secondary).values().filter(|served| served.work > 0).count()
    }

    fn is_empty(&self) -> bool {
        lock(&self.primary).is_empty() && lock(&self.secondary).is_empty()
    }

    /// Waits until every session has ended, or was quiet for [`DRAIN_QUIET`]: a client that asks
    /// for one thing after another is not done in between.
    pub(super) async fn quiet(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if self.is_empty() {
                return;
            }
            let quiet = if self.busy() == 0 { DRAIN_QUIET } else { Duration::MAX };
            if time::timeout(quiet, changes.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Says goodbye to all whom nothing is owed any more, or who would wait for this server alone.
    /// Clients that have other servers to bring the rest, and all hashes to verify it with, are
    /// left without a word: a session that was closed brings nothing. Whether there are any.
    pub(super) fn dismiss(&self, reason: &[u8]) -> bool {
        let mut left = false;
        for served in lock(&self.primary).values() {
            let session = &served.session;
            let others = || session.active_paths().iter().any(|path| !path.id.is_primary());
            if served.work > 0 && served.has_all_pages() && others() {
                left = true;
            } else {
                session.session().close(0, reason);
            }
        }
        lock(&self.secondary).values().for_each(|served| served.session.close(0, reason));
        left
    }

    fn count(&self, number: u64, change: impl Fn(&mut usize)) {
        if let Some(served) = lock(&self.primary).get_mut(&number) {
            change(&mut served.work);
        }
        if let Some(served) = lock(&self.secondary).get_mut(&number) {
            change(&mut served.work);
        }
        self.changed();
    }
}

impl<'a> Place<'a> {
    /// Counts something to do, until it is dropped.
    pub(super) fn work(&self) -> Work<'a, '_> {
        self.presence.count(self.number, |work| *work += 1);
        Work(self)
    }

    /// An object of so many pages is fetched, until it says [`Self::on_fetched`].
    pub(super) fn on_fetching(&self, root: &Hash, pages: u64) {
        // One page comes with the answer.
        if pages > 1 {
            self.with(|served| {
                served.pages.insert(*root.as_bytes(), (pages, 0));
            });
        }
    }

    /// The client has, or will soon have, one more page of an object.
    pub(super) fn on_page(&self, root: &Hash) {
        self.with(|served| {
            if let Some((_, asked)) = served.pages.get_mut(root.as_bytes()) {
                *asked += 1;
            }
        });
    }

    pub(super) fn on_fetched(&self, root: &Hash) {
        self.with(|served| {
            served.pages.remove(root.as_bytes());
        });
    }

    fn with(&self, change: impl FnOnce(&mut Served<PrimarySession>)) {
        if let Some(served) = lock(&self.presence.primary).get_mut(&self.number) {
            change(served);
        }
    }
}

impl Drop for Work<'_, '_> {
    fn drop(&mut self) {
        self.0.presence.count(self.0.number, |work| *work = work.saturating_sub(1));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.presence.primary).remove(&self.number);
        lock(&self.presence.secondary).remove(&self.number);
        self.presence.changed();
    }
}

/// What the locks guard is whole between statements, so a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
