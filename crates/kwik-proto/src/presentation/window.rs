//! A session's receive window: who may have how much of it in flight or held (8.2).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::id::StreamId;

use super::MemoryBudget;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Dir, Side};
    use crate::limits::{INITIAL_WINDOW, MAX_STREAMS, MAX_WINDOW};
    use proptest::prelude::*;

    fn stream(index: u64) -> StreamId {
        StreamId::new(Side::Server, Dir::Uni, index)
    }

    #[test]
    fn every_stream_gets_its_floor_although_one_borrowed_all_else() {
        let mut window = ReceiveWindow::new(INITIAL_WINDOW, MAX_WINDOW, MAX_STREAMS);
        let floor = INITIAL_WINDOW / (2 * MAX_STREAMS);
        assert_eq!(window.open(stream(0)), Ok(floor));
        let all = window.borrow(stream(0), u64::MAX);
        assert_eq!(window.lendable(), 0);
        for index in 1..MAX_STREAMS {
            assert_eq!(window.open(stream(index)), Ok(floor));
            assert_eq!(window.borrow(stream(index), 1), floor);
        }
        assert_eq!(window.available(), 0);
        assert!((window.utilization() - 1.0).abs() < f64::EPSILON);
        assert_eq!(window.open(stream(0)), Ok(all));
        assert_eq!(window.open(stream(100)), Err(WindowError::TooManyStreams(MAX_STREAMS)));
        assert_eq!(window.release(stream(0), 1), all - 1);
        assert_eq!(window.borrow(stream(1), 7), floor + 1);
        assert_eq!(window.close(stream(0)), all - 1);
        assert_eq!(window.borrow(stream(0), 1), 0);
    }

    #[test]
    fn degenerate_settings_still_give_each_stream_a_byte() {
        assert_eq!(ReceiveWindow::new(0, 0, 0).open(stream(0)), Ok(1));
        let mut window = ReceiveWindow::new(u64::MAX, 0, u64::MAX);
        assert_eq!(window.open(stream(0)), Ok(1));
        assert!(!window.grow());
    }

    #[test]
    fn under_pressure_nothing_is_lent_until_others_give_back() {
        let budget = Arc::new(MemoryBudget::new(1000));
        let mut windows: Vec<_> = (0..2)
            .map(|_| {
                let mut window = ReceiveWindow::new(800, 1600, 4);
                window.set_budget(budget.clone());
                assert_eq!(window.open(stream(0)), Ok(100));
                window
            })
            .collect();
        assert_eq!(windows[0].borrow(stream(0), 400), 500);
        assert_eq!(windows[1].borrow(stream(0), 400), 300);
        assert_eq!((budget.granted(), windows[1].is_pressed()), (800, true));
        assert!(!windows[1].grow());
        assert_eq!(windows[1].open(stream(1)), Ok(100));
        assert_eq!(windows[0].release(stream(0), 300), 200);
        assert!(!windows[1].is_pressed() && windows[1].grow());
        assert_eq!(windows[1].borrow(stream(0), 400), 500);
        windows.pop();
        assert_eq!(budget.granted(), 200);
        windows.clear();
        assert_eq!(budget.granted(), 0);
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Open(u64),
        Borrow(u64, u64),
        Reserve(u64),
        Redeem(u64, u64, u64),
        Release(u64, u64),
        Close(u64),
        Grow,
        Bounds(u64, u64),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            3 => (0..8u64).prop_map(Operation::Open),
            4 => (0..8u64, 0..400u64).prop_map(|(id, n)| Operation::Borrow(id, n)),
            1 => (0..400u64).prop_map(Operation::Reserve),
            2 => (0..8u64, 0..400u64, 0..400u64).prop_map(|(id, r, n)| Operation::Redeem(id, r, n)),
            2 => (0..8u64, 0..400u64).prop_map(|(id, n)| Operation::Release(id, n)),
            2 => (0..8u64).prop_map(Operation::Close),
            1 => Just(Operation::Grow),
            1 => (0..2000u64, 0..4000u64).prop_map(|(least, more)| Operation::Bounds(least, more)),
        ]
    }

    /// The open streams with their loans, summed up anew each time.
    struct Model {
        size: u64,
        floor: u64,
        maximum: u64,
        max_streams: u64,
        reserved: u64,
        open: Vec<(u64, u64)>,
    }

    impl Model {
        /// A size above its maximum follows what comes back.
        fn shrink(&mut self) {
            let taken = self.floor * self.max_streams + self.reserved + self.lent();
            let least = self.maximum.max(taken);
            self.size = self.size.min(least);
        }

        fn lent(&self) -> u64 {
            self.open.iter().map(|(_, loan)| loan).sum()
        }

        fn allowance(&mut self, index: u64, change: impl Fn(u64) -> u64) -> u64 {
            let floor = self.floor;
            self.open.iter_mut().find(|(open, _)| *open == index).map_or(0, |(_, loan)| {
                *loan = change(*loan);
                floor + *loan
            })
        }

        fn apply(&mut self, window: &mut ReceiveWindow, operation: &Operation) {
            let free = self.size - self.floor * self.max_streams - self.reserved - self.lent();
            match *operation {
                Operation::Open(index) => {
                    let is_open = self.open.iter().any(|(open, _)| *open == index);
                    let opened = window.open(stream(index));
                    if !is_open && self.open.len() as u64 == self.max_streams {
                        assert_eq!(opened, Err(WindowError::TooManyStreams(self.max_streams)));
                        return;
                    }
                    if !is_open {
                        self.open.push((index, 0));
                    }
                    assert_eq!(opened, Ok(self.allowance(index, |loan| loan)));
                }
                Operation::Borrow(index, want) => {
                    let allowance = self.allowance(index, |loan| loan + want.min(free));
                    assert_eq!(window.borrow(stream(index), want), allowance);
                }
                Operation::Reserve(amount) => {
                    window.reserve(amount);
                    self.reserved += amount.min(free);
                }
                Operation::Redeem(index, reserved, amount) => {
                    window.redeem(stream(index), reserved, amount);
                    let freed = reserved.min(self.reserved);
                    if self.allowance(index, |loan| loan + amount.min(freed)) > 0 {
                        self.reserved -= freed;
                        self.shrink();
                    }
                }
                Operation::Release(index, amount) => {
                    let allowance = self.allowance(index, |loan| loan.saturating_sub(amount));
                    assert_eq!(window.release(stream(index), amount), allowance);
                    self.shrink();
                }
                Operation::Close(index) => {
                    let had = self.allowance(index, |loan| loan);
                    self.open.retain(|(open, _)| *open != index);
                    assert_eq!(window.close(stream(index)), had);
                    self.shrink();
                }
                Operation::Grow => {
                    let grows = self.size < self.maximum;
                    self.size = self.size.max(self.maximum.min(2 * self.size));
                    assert_eq!(window.grow(), grows);
                }
                Operation::Bounds(least, more) => {
                    window.set_bounds(least, least + more);
                    self.size = self.size.max(least);
                    self.maximum = least + more;
                    self.shrink();
                }
            }
        }

        fn check(&self, window: &ReceiveWindow) {
            let total = self.open.iter().map(|(index, _)| window.allowance(stream(*index))).sum();
            assert!(self.size >= total);
            let floors = self.max_streams * self.floor;
            let status = WindowStatus {
                size: self.size,
                maximum: self.maximum,
                floor: self.floor,
                lent: self.lent(),
                lendable: self.size - floors - self.reserved - self.lent(),
                available: self.size - total,
                streams: self.open.len() as u64,
            };
            assert_eq!(window.status(), status);
        }
    }

    #[test]
    fn an_odd_window_that_is_lent_out_grows_by_what_is_left() {
        // 143 is no multiple of two floors: 73 can be lent, and one more byte once it has grown.
        let (mut window, id) = (ReceiveWindow::new(143, 144, 2), stream(7));
        let (maximum, max_streams, reserved, open) = (144, 2, 0, Vec::new());
        let mut model = Model { size: 143, floor: 35, maximum, max_streams, reserved, open };
        for operation in [Operation::Open(7), Operation::Borrow(7, 73), Operation::Grow] {
            model.apply(&mut window, &operation);
            model.check(&window);
        }
        assert_eq!((window.size(), window.lendable(), window.borrow(id, 9)), (144, 1, 109));
    }

    proptest! {
        #[test]
        fn allowances_never_exceed_the_size_and_nothing_leaks(
            initial in 12..1000u64,
            growth in 0..4000u64,
            max_streams in 1..6u64,
            operations in prop::collection::vec(operation(), 0..80),
        ) {
            let (maximum, floor) = (initial + growth, initial / 2 / max_streams);
            let mut window = ReceiveWindow::new(initial, maximum, max_streams);
            let (size, reserved, open) = (initial, 0, Vec::new());
            let mut model = Model { size, floor, maximum, max_streams, reserved, open };
            for operation in operations {
                model.apply(&mut window, &operation);
                model.check(&window);
            }
            for (index, _) in model.open.drain(..) {
                window.close(stream(index));
            }
            prop_assert_eq!((window.available(), window.lent()), (window.size(), 0));
            let floors = max_streams * floor;
            prop_assert_eq!(window.lendable(), window.size() - floors - model.reserved);
        }
    }
}
