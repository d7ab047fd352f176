//! What became of each request.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{Fingerprint, ObjectName, Part};

/// A request that was answered, or was not.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Access {
    /// Whose it was.
    pub client: SocketAddr,
    /// The key by which it named itself, where a [`Door`](crate::Door) lets clients in.
    pub key: Option<Fingerprint>,
    /// What was asked for; none when the request made no sense.
    pub name: Option<ObjectName>,
    /// What of it.
    pub part: AccessPart,
    /// Bytes of the object, once it was opened.
    pub size: Option<u64>,
    /// Bytes that this server sent itself; its edges sent the rest.
    pub sent: u64,
    /// From the request to the end of what it asked for.
    pub took: Duration,
    /// Why it did not come whole.
    pub outcome: Result<(), String>,
}

/// What of an object was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessPart {
    /// All of it.
    Whole,
    /// What is in it, as it is a folder; without a name, all that is served.
    List,
    /// A range of it, to go on after a loss.
    Range,
    /// Hashes of a part of it.
    Hashes,
    /// A part that came wrong, once more.
    Repair,
}

impl AccessPart {
    pub(super) const fn of(part: &Part) -> Self {
        match part {
            Part::Whole | Part::Inline { .. } => Self::Whole,
            Part::Range { .. } => Self::Range,
            Part::Page { .. } => Self::Hashes,
            Part::Repair(_) => Self::Repair,
        }
    }
}

/// Whom to tell of requests.
#[derive(Clone)]
pub(super) struct AccessLog(pub(super) Arc<dyn Fn(&Access) + Send + Sync>);

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

/// What is known of a request while it is answered.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// One more than the size.
    size: AtomicU64,
    sent: AtomicU64,
}

impl Record {
    pub(super) fn on_opened(&self, size: u64) {
        self.size.store(size.saturating_add(1), Relaxed);
    }

    pub(super) fn on_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size.load(Relaxed).checked_sub(1)
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}
