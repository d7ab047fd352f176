//! How far a fetch is.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::partial::Begun;

/// How far a fetch is; to be looked at while it runs, also over several sessions.
#[derive(Debug, Default)]
pub struct Progress {
    verified: AtomicU64,
    received: AtomicU64,
    /// What the primary has hashed of the object, and its size; both 0 when it need not.
    hashed: [AtomicU64; 2],
    /// What was verified again of what an earlier fetch left, and how much that is.
    checked: [AtomicU64; 2],
    takeover: OnceLock<Takeover>,
    /// In microseconds.
    longest_stall: AtomicU64,
    /// A full block waits to be verified and written.
    writing: AtomicBool,
}

/// What became of bytes that an earlier fetch left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Takeover {
    /// They are used.
    Kept {
        /// Bytes that are the object's.
        bytes: u64,
        /// Bytes that should have been, and are fetched again.
        damaged: u64,
    },
    /// They are another version's: the object is fetched anew.
    OtherVersion,
}

impl Progress {
    /// Bytes that are verified and written, those of an earlier fetch among them.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.verified.load(Ordering::Relaxed)
    }

    /// Bytes of the object that came from servers, verified or not.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// What the primary has hashed of the object before it can answer, and the object's size; none
    /// when it did not say so.
    #[must_use]
    pub fn hashed(&self) -> Option<(u64, u64)> {
        pair(&self.hashed)
    }

    /// What was verified again of the bytes that an earlier fetch left, and how many they are; none
    /// when there are none.
    #[must_use]
    pub fn checked(&self) -> Option<(u64, u64)> {
        pair(&self.checked)
    }

    /// What became of bytes that an earlier fetch left; none when there were none, or when that is
    /// not known yet.
    #[must_use]
    pub fn takeover(&self) -> Option<Takeover> {
        self.takeover.get().copied()
    }

    /// The longest wait for a next byte of the object, from its first on.
    #[must_use]
    pub fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.longest_stall.load(Ordering::Relaxed))
    }

    /// What came waits to be verified and written: the output is slower than the servers.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    pub(crate) fn set_writing(&self, writing: bool) {
        self.writing.store(writing, Ordering::Relaxed);
    }

    pub(crate) fn on_hashed(&self, hashed: u64, size: u64) {
        self.hashed[0].store(hashed.min(size), Ordering::Relaxed);
        self.hashed[1].store(size, Ordering::Relaxed);
    }

    pub(crate) fn on_checked(&self, checked: u64, of: u64) {
        self.checked[0].store(checked.min(of), Ordering::Relaxed);
        self.checked[1].store(of, Ordering::Relaxed);
    }

    /// A fetch begins with so many verified bytes, of so many that were claimed to be.
    pub(crate) fn on_begun(&self, begun: Begun, verified: u64, claimed: u64) {
        self.verified.store(verified, Ordering::Relaxed);
        let takeover = match begun {
            Begun::TakesOver => {
                Takeover::Kept { bytes: verified, damaged: claimed.saturating_sub(verified) }
            }
            // What was never said to be there is not damaged.
            Begun::Finds if verified > 0 => Takeover::Kept { bytes: verified, damaged: 0 },
            Begun::Anew => Takeover::OtherVersion,
            Begun::Fresh | Begun::Finds | Begun::GoesOn => return,
        };
        // What the first one said holds.
        self.takeover.set(takeover).ok();
    }

    pub(crate) fn on_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn on_verified(&self, bytes: u64) {
        self.verified.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn on_stall(&self, stall: Duration) {
        let micros = u64::try_from(stall.as_micros()).unwrap_or(u64::MAX);
        self.longest_stall.fetch_max(micros, Ordering::Relaxed);
    }
}

fn pair(values: &[AtomicU64; 2]) -> Option<(u64, u64)> {
    let [part, of] = values.each_ref().map(|value| value.load(Ordering::Relaxed));
    (of > 0).then_some((part, of))
}
