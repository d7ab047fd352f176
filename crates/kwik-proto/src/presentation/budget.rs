//! What all sessions of an endpoint together may have granted (8.2).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Memory pressure begins at four fifths of the budget (8.3).
const PRESSED: (u64, u64) = (4, 5);

/// Receive credit that the sessions of an endpoint have granted, against a limit.
///
/// Loans beyond the streams' floors stop at 80 % of the limit: sessions then shrink to their floors
/// as their readers read, until the others have given enough back. The rest is for floors, which no
/// stream is denied; an endpoint whose budget is spent takes no new sessions.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicU64,
    granted: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub const fn new(limit: u64) -> Self {
        Self { limit: AtomicU64::new(limit), granted: AtomicU64::new(0) }
    }

    /// The budget in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Changes the budget; what was granted stays so.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Relaxed);
    }

    /// Granted by all sessions, in bytes.
    #[must_use]
    pub fn granted(&self) -> u64 {
        self.granted.load(Relaxed)
    }

    /// Whether sessions have to shrink to their floors (`MemoryPressure`, 8.3).
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.granted() >= self.lendable_limit()
    }

    /// Whether enough is free again that sessions need not be told of pressure: an eighth below its
    /// mark, so that a loan or two does not bring it back at once.
    #[must_use]
    pub fn is_eased(&self) -> bool {
        self.granted() < self.lendable_limit() / 8 * 7
    }

    /// Whether nothing is left for another session.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.granted() >= self.limit()
    }

    fn lendable_limit(&self) -> u64 {
        self.limit() / PRESSED.1 * PRESSED.0
    }

    /// Takes up to `want` for a loan: how much was left.
    pub(super) fn lend(&self, want: u64) -> u64 {
        let limit = self.lendable_limit();
        let lent = |granted: u64| want.min(limit.saturating_sub(granted));
        let take = |granted| (lent(granted) > 0).then(|| granted + lent(granted));
        self.granted.fetch_update(Relaxed, Relaxed, take).map_or(0, lent)
    }

    /// Takes a floor, or what a first stream has beyond it, whatever is left.
    pub(super) fn take(&self, bytes: u64) {
        self.granted.fetch_add(bytes, Relaxed);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        self.granted.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loans_stop_at_the_pressure_mark_and_floors_do_not() {
        let budget = MemoryBudget::new(100);
        assert_eq!((budget.lend(70), budget.is_pressed()), (70, false));
        assert_eq!((budget.lend(70), budget.is_pressed()), (10, true));
        assert_eq!(budget.lend(1), 0);
        budget.take(20);
        assert!(budget.is_spent());
        budget.give_back(21);
        assert!(!budget.is_pressed() && !budget.is_spent() && !budget.is_eased());
        budget.give_back(10);
        assert!(budget.is_eased());
        budget.set_limit(50);
        assert!(budget.is_spent());
    }
}
