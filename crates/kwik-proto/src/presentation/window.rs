//! A session's receive window: who may have how much of it in flight or held (8.2).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::id::StreamId;

use super::MemoryBudget;

#[cfg(test)]
mod tests;

/// Why a stream got no part of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// As many streams as the window has floors for are open.
    #[error("all {0} stream floors of the receive window are taken: close a stream first")]
    TooManyStreams(u64),
}

/// A window's figures (8.2), in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowStatus {
    /// The window's size.
    pub size: u64,
    /// The size that it may grow to.
    pub maximum: u64,
    /// What every open stream has of its own.
    pub floor: u64,
    /// Lent beyond the floors.
    pub lent: u64,
    /// What can still be lent; the window is full at 0.
    pub lendable: u64,
    /// Granted to no stream, floors of streams to come included.
    pub available: u64,
    /// Number of open streams.
    pub streams: u64,
}

/// A ledger of a session's receive credit (8.2); the bytes are elsewhere.
///
/// Half of the window at its start is divided into floors, one for each of `max_streams` streams,
/// lent to nobody else; the rest is lent to open streams as they ask. A stream's allowance is its
/// floor plus what it borrowed, and bounds what it may have granted and not read. Some of the rest
/// may be reserved for loans to streams to come.
///
/// Invariant: the allowances of the open streams never exceed the size. At most `max_streams`
/// streams are open, so their floors take at most `max_streams * floor`, and loans, with what is
/// reserved, take at most `size - max_streams * floor`, which together is the size. Growing adds to
/// the second term alone, and the size shrinks no further than what is lent or reserved; closing a
/// stream gives both parts back, so with no stream open all of the size is available.
#[derive(Debug)]
pub struct ReceiveWindow {
    size: u64,
    maximum: u64,
    max_streams: u64,
    floor: u64,
    /// What each open stream borrowed.
    loans: BTreeMap<StreamId, u64>,
    /// Sum of `loans`.
    lent: u64,
    /// Kept for loans to streams to come.
    reserved: u64,
    /// What all sessions of the endpoint share.
    budget: Option<Arc<MemoryBudget>>,
}

impl ReceiveWindow {
    /// A window of `initial` bytes that may grow to `maximum`, for `max_streams` streams at once.
    /// It has at least one stream, a floor of at least one byte and a maximum of at least its
    /// size, whatever is asked.
    #[must_use]
    pub fn new(initial: u64, maximum: u64, max_streams: u64) -> Self {
        let max_streams = max_streams.clamp(1, u64::MAX / 2);
        let size = initial.max(2 * max_streams);
        let (maximum, floor) = (maximum.max(size), size / 2 / max_streams);
        let (loans, lent, reserved) = (BTreeMap::new(), 0, 0);
        Self { size, maximum, max_streams, floor, loans, lent, reserved, budget: None }
    }

    /// Keeps up to `amount` of what can be lent for streams to come: [`Self::redeem`].
    pub fn reserve(&mut self, amount: u64) {
        self.reserved += amount.min(self.lendable());
    }

    /// Frees `reserved` of what is, and lends `stream`, which is open, up to `amount` of that,
    /// whatever the budget says.
    pub fn redeem(&mut self, stream: StreamId, reserved: u64, amount: u64) {
        let Some(loan) = self.loans.get_mut(&stream) else {
            return;
        };
        let freed = reserved.min(self.reserved);
        let amount = amount.min(freed);
        self.reserved -= freed;
        *loan += amount;
        self.lent += amount;
        if let Some(budget) = &self.budget {
            budget.take(amount);
        }
        self.shrink();
    }

    /// Counts what is granted against the budget of all sessions too.
    pub fn set_budget(&mut self, budget: Arc<MemoryBudget>) {
        budget.take(self.granted());
        if let Some(former) = self.budget.replace(budget) {
            former.give_back(self.granted());
        }
    }

    /// Whether the endpoint's budget forbids loans and asks for them back (`MemoryPressure`, 8.3).
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.is_pressed())
    }

    /// Whether the endpoint's budget, once pressed, is free enough again.
    #[must_use]
    pub fn is_eased(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.is_eased())
    }

    /// Changes the size's bounds: a smaller window grows to `least` at once, a larger one shrinks
    /// to `maximum` as loans come back. The floors stay as they are.
    pub fn set_bounds(&mut self, least: u64, maximum: u64) {
        self.size = self.size.max(least);
        self.maximum = maximum.max(least);
        self.shrink();
    }

    fn shrink(&mut self) {
        let least = self.maximum.max(self.size - self.lendable());
        self.size = self.size.min(least);
    }

    /// Opens `stream` with the floor; returns its allowance. A stream that is open stays as it is.
    ///
    /// # Errors
    ///
    /// [`WindowError::TooManyStreams`] when `max_streams` others are open.
    pub fn open(&mut self, stream: StreamId) -> Result<u64, WindowError> {
        if self.streams() == self.max_streams && !self.loans.contains_key(&stream) {
            return Err(WindowError::TooManyStreams(self.max_streams));
        }
        let loan = match self.loans.entry(stream) {
            Entry::Occupied(loan) => *loan.get(),
            Entry::Vacant(entry) => {
                if let Some(budget) = &self.budget {
                    budget.take(self.floor);
                }
                *entry.insert(0)
            }
        };
        Ok(self.floor + loan)
    }

    /// Lends `stream` up to `want` more; returns its allowance, 0 unless it is open.
    pub fn borrow(&mut self, stream: StreamId, want: u64) -> u64 {
        let free = want.min(self.lendable());
        let Some(loan) = self.loans.get_mut(&stream) else {
            return 0;
        };
        let granted = self.budget.as_ref().map_or(free, |budget| budget.lend(free));
        *loan += granted;
        self.lent += granted;
        self.floor + *loan
    }

    /// Takes back up to `amount` of what `stream` borrowed; returns its allowance, 0 unless it is
    /// open. The caller gives back only what was not granted to a peer, or was read since.
    pub fn release(&mut self, stream: StreamId, amount: u64) -> u64 {
        let Some(loan) = self.loans.get_mut(&stream) else {
            return 0;
        };
        let returned = amount.min(*loan);
        *loan -= returned;
        let allowance = self.floor + *loan;
        self.lent -= returned;
        self.give_back(returned);
        allowance
    }

    /// What `stream` may have granted and not read: 0 unless it is open.
    #[must_use]
    pub fn allowance(&self, stream: StreamId) -> u64 {
        self.loans.get(&stream).map_or(0, |loan| self.floor + loan)
    }

    /// Closes `stream` and takes its allowance back; returns how much that was.
    pub fn close(&mut self, stream: StreamId) -> u64 {
        let Some(loan) = self.loans.remove(&stream) else {
            return 0;
        };
        self.lent -= loan;
        self.give_back(self.floor + loan);
        self.floor + loan
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(budget) = &self.budget {
            budget.give_back(bytes);
        }
        self.shrink();
    }

    /// Doubles the size, up to the maximum; returns whether it grew. Under memory pressure it
    /// does not.
    pub fn grow(&mut self) -> bool {
        let size = self.size.saturating_mul(2).min(self.maximum);
        let grows = size > self.size && !self.is_pressed();
        if grows {
            self.size = size;
        }
        grows
    }

    /// The window's size.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What every open stream has of its own.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.floor
    }

    /// Lent beyond the floors.
    #[must_use]
    pub const fn lent(&self) -> u64 {
        self.lent
    }

    /// What can still be lent; the window is full at 0.
    #[must_use]
    pub const fn lendable(&self) -> u64 {
        self.size - self.max_streams * self.floor - self.reserved - self.lent
    }

    /// Granted to no stream, floors of streams to come included.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.size - self.granted()
    }

    /// Granted share of the size, from 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for thresholds and displays")]
    pub fn utilization(&self) -> f64 {
        (self.size - self.available()) as f64 / self.size as f64
    }

    /// All figures at once.
    #[must_use]
    pub fn status(&self) -> WindowStatus {
        WindowStatus {
            size: self.size,
            maximum: self.maximum,
            floor: self.floor(),
            lent: self.lent,
            lendable: self.lendable(),
            available: self.available(),
            streams: self.streams(),
        }
    }

    fn streams(&self) -> u64 {
        self.loans.len() as u64
    }

    /// The sum of all allowances.
    fn granted(&self) -> u64 {
        self.streams() * self.floor + self.lent
    }
}

impl Drop for ReceiveWindow {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.granted());
        }
    }
}
