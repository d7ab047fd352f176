//! What a path has to send.

/// Bytes that a path was asked for, and that it may send all the same.
#[derive(Debug, Default)]
pub(super) struct Queue {
    outstanding: u64,
    stale: u64,
}

impl Queue {
    /// It is asked for so much.
    pub(super) fn ask(&mut self, bytes: u64) {
        self.outstanding += bytes;
    }

    /// Bytes that it was asked for came, or will not.
    pub(super) fn release(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
    }

    /// Others are asked for these instead.
    pub(super) fn cancel(&mut self, bytes: u64) {
        self.stale += bytes;
        self.release(bytes);
    }

    /// Cancelled bytes came, or will not.
    pub(super) fn drop_stale(&mut self, bytes: u64) {
        self.stale = self.stale.saturating_sub(bytes);
    }

    /// Bytes asked for and not come.
    pub(super) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Bytes that others were asked for and that this path may still send.
    pub(super) fn stale(&self) -> u64 {
        self.stale
    }

    /// All of them.
    pub(super) fn len(&self) -> u64 {
        self.outstanding + self.stale
    }

    /// It has nothing to send.
    pub(super) fn is_dry(&self) -> bool {
        self.len() == 0
    }
}
