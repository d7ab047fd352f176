//! What may come twice, and why. A byte comes twice if its piece was taken back and is sent all the
//! same, or if the primary sends it unasked while others bring it.
//!
//! So what came twice is never more than what is charged here. Each piece that is taken back is
//! charged with what its writer has sent by then, by estimate; once its end is known, with what has
//! come of it since or will.

use std::time::Instant;

use crate::stats::DuplicateStats;

/// Why a piece was taken back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    /// Another path would have it sooner: so many bytes at most may come all the same.
    Moved(u64),
    /// Its path fell silent.
    Silent,
    /// Its lease is over, or goes on elsewhere.
    Ended,
}

/// What a piece that was taken back may bring twice.
#[derive(Debug)]
pub(super) struct Charge {
    cause: Cause,
    /// How far it had come, and when.
    from: u64,
    since: Instant,
    bytes: u64,
}

impl Charge {
    /// When the piece was taken back.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

/// The charges of all pieces so far, in bytes.
#[derive(Debug, Default)]
pub(super) struct Charges {
    moved: u64,
    silent: u64,
    ended: u64,
    /// The most that moves were allowed.
    budget: u64,
    unasked: u64,
    received: u64,
}

impl Charges {
    fn account(&mut self, cause: Cause) -> &mut u64 {
        match cause {
            Cause::Moved(_) => &mut self.moved,
            Cause::Silent => &mut self.silent,
            Cause::Ended => &mut self.ended,
        }
    }

    /// A piece that had come to `from` and owed so many bytes is taken back.
    pub(super) fn charge(&mut self, cause: Cause, from: u64, owed: u64, since: Instant) -> Charge {
        let bytes = if let Cause::Moved(twice) = cause { twice.min(owed) } else { owed };
        *self.account(cause) += bytes;
        Charge { cause, from, since, bytes }
    }

    /// A piece that was taken back comes to `end` and no further.
    pub(super) fn settle(&mut self, charge: &mut Charge, end: u64) {
        let bytes = end.saturating_sub(charge.from);
        let account = self.account(charge.cause);
        *account = *account - charge.bytes + bytes;
        charge.bytes = bytes;
    }

    /// What moved or silent pieces may still bring twice, where all may bring `budget`.
    pub(super) fn spare(&self, budget: u64) -> u64 {
        budget.saturating_sub(self.moved + self.silent)
    }

    /// Whether a move may bring `twice` bytes twice, where all that moved or was silent may bring
    /// `budget`.
    pub(super) fn allow(&mut self, twice: u64, budget: u64) -> bool {
        let allowed = twice <= self.spare(budget);
        if allowed {
            self.budget = self.budget.max(budget);
        }
        allowed
    }

    /// The primary sends so much unasked that others may bring.
    pub(super) fn on_unasked(&mut self, bytes: u64) {
        // A primary may say so of any range of a stream that nobody reads any more.
        self.unasked = self.unasked.saturating_add(bytes);
    }

    /// So much was here already when it came.
    pub(super) fn on_received(&mut self, twice: u64) {
        self.received += twice;
    }

    /// All of it, where moves have this `budget` by now.
    pub(super) fn stats(&self, budget: u64) -> DuplicateStats {
        DuplicateStats {
            received: self.received,
            moved: self.moved,
            budget: self.budget.max(budget),
            reclaimed: self.silent + self.ended,
            unasked: self.unasked,
        }
    }
}
