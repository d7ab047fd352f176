//! A session's receive window: who may have how much of it in flight or held (8.2).

use std::collections::BTreeMap;

use crate::id::StreamId;

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
/// Half of the window is divided into floors, one for each of `max_streams` streams, lent to
/// nobody else; the rest is lent to open streams as they ask. A stream's allowance is its floor
/// plus what it borrowed, and bounds what it may have granted and not read.
///
/// Invariant: the allowances of the open streams never exceed the size. At most `max_streams`
/// streams are open, so their floors take at most `max_streams * floor`, and loans take at most
/// `size - max_streams * floor`, which together is the size. Growing keeps this, as it makes
/// neither term smaller; closing a stream gives both parts back, so with no stream open all of
/// the size is available.
#[derive(Debug)]
pub struct ReceiveWindow {
    size: u64,
    maximum: u64,
    max_streams: u64,
    /// What each open stream borrowed.
    loans: BTreeMap<StreamId, u64>,
    /// Sum of `loans`.
    lent: u64,
}

impl ReceiveWindow {
    /// A window of `initial` bytes that may grow to `maximum`, for `max_streams` streams at once.
    /// It has at least one stream, a floor of at least one byte and a maximum of at least its
    /// size, whatever is asked.
    #[must_use]
    pub fn new(initial: u64, maximum: u64, max_streams: u64) -> Self {
        let max_streams = max_streams.clamp(1, u64::MAX / 2);
        let size = initial.max(2 * max_streams);
        let maximum = maximum.max(size);
        Self { size, maximum, max_streams, loans: BTreeMap::new(), lent: 0 }
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
        let loan = *self.loans.entry(stream).or_default();
        Ok(self.floor() + loan)
    }

    /// Lends `stream` up to `want` more; returns its allowance, 0 unless it is open.
    pub fn borrow(&mut self, stream: StreamId, want: u64) -> u64 {
        let granted = want.min(self.lendable());
        let floor = self.floor();
        let Some(loan) = self.loans.get_mut(&stream) else {
            return 0;
        };
        *loan += granted;
        self.lent += granted;
        floor + *loan
    }

    /// Takes back up to `amount` of what `stream` borrowed; returns its allowance, 0 unless it is
    /// open. The caller gives back only what was not granted to a peer, or was read since.
    pub fn release(&mut self, stream: StreamId, amount: u64) -> u64 {
        let floor = self.floor();
        let Some(loan) = self.loans.get_mut(&stream) else {
            return 0;
        };
        let returned = amount.min(*loan);
        *loan -= returned;
        self.lent -= returned;
        floor + *loan
    }

    /// What `stream` may have granted and not read: 0 unless it is open.
    #[must_use]
    pub fn allowance(&self, stream: StreamId) -> u64 {
        self.loans.get(&stream).map_or(0, |loan| self.floor() + loan)
    }

    /// Closes `stream` and takes its allowance back; returns how much that was.
    pub fn close(&mut self, stream: StreamId) -> u64 {
        let Some(loan) = self.loans.remove(&stream) else {
            return 0;
        };
        self.lent -= loan;
        self.floor() + loan
    }

    /// Doubles the size, up to the maximum, and the floors with it; returns whether it grew. The
    /// allowance of every open stream rises by the difference of the floors.
    pub fn grow(&mut self) -> bool {
        let size = self.size.saturating_mul(2).min(self.maximum);
        std::mem::replace(&mut self.size, size) < size
    }

    /// The window's size.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// What every open stream has of its own.
    #[must_use]
    pub const fn floor(&self) -> u64 {
        self.size / 2 / self.max_streams
    }

    /// Lent beyond the floors.
    #[must_use]
    pub const fn lent(&self) -> u64 {
        self.lent
    }

    /// What can still be lent; the window is full at 0.
    #[must_use]
    pub const fn lendable(&self) -> u64 {
        self.size - self.max_streams * self.floor() - self.lent
    }

    /// Granted to no stream, floors of streams to come included.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.size - self.streams() * self.floor() - self.lent
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

    #[derive(Debug, Clone)]
    enum Operation {
        Open(u64),
        Borrow(u64, u64),
        Release(u64, u64),
        Close(u64),
        Grow,
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            3 => (0..8u64).prop_map(Operation::Open),
            4 => (0..8u64, 0..400u64).prop_map(|(id, n)| Operation::Borrow(id, n)),
            2 => (0..8u64, 0..400u64).prop_map(|(id, n)| Operation::Release(id, n)),
            2 => (0..8u64).prop_map(Operation::Close),
            1 => Just(Operation::Grow),
        ]
    }

    /// The open streams with their loans, summed up anew each time.
    struct Model {
        size: u64,
        maximum: u64,
        max_streams: u64,
        open: Vec<(u64, u64)>,
    }

    impl Model {
        fn floor(&self) -> u64 {
            self.size / (2 * self.max_streams)
        }

        fn lent(&self) -> u64 {
            self.open.iter().map(|(_, loan)| loan).sum()
        }

        fn allowance(&mut self, index: u64, change: impl Fn(u64) -> u64) -> u64 {
            let floor = self.floor();
            self.open.iter_mut().find(|(open, _)| *open == index).map_or(0, |(_, loan)| {
                *loan = change(*loan);
                floor + *loan
            })
        }

        fn apply(&mut self, window: &mut ReceiveWindow, operation: &Operation) {
            let free = self.size - self.floor() * self.max_streams - self.lent();
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
                Operation::Release(index, amount) => {
                    let allowance = self.allowance(index, |loan| loan.saturating_sub(amount));
                    assert_eq!(window.release(stream(index), amount), allowance);
                }
                Operation::Close(index) => {
                    let had = self.allowance(index, |loan| loan);
                    self.open.retain(|(open, _)| *open != index);
                    assert_eq!(window.close(stream(index)), had);
                }
                Operation::Grow => {
                    let grows = self.size < self.maximum;
                    self.size = self.maximum.min(2 * self.size);
                    assert_eq!(window.grow(), grows);
                }
            }
        }

        fn check(&self, window: &ReceiveWindow) {
            let total = self.open.iter().map(|(index, _)| window.allowance(stream(*index))).sum();
            assert!(self.size >= total);
            let floors = self.max_streams * self.floor();
            let status = WindowStatus {
                size: self.size,
                maximum: self.maximum,
                floor: self.floor(),
                lent: self.lent(),
                lendable: self.size - floors - self.lent(),
                available: self.size - total,
                streams: self.open.len() as u64,
            };
            assert_eq!(window.status(), status);
        }
    }

    proptest! {
        #[test]
        fn allowances_never_exceed_the_size_and_nothing_leaks(
            initial in 12..1000u64,
            growth in 0..4000u64,
            max_streams in 1..6u64,
            operations in prop::collection::vec(operation(), 0..80),
        ) {
            let maximum = initial + growth;
            let mut window = ReceiveWindow::new(initial, maximum, max_streams);
            let mut model = Model { size: initial, maximum, max_streams, open: Vec::new() };
            for operation in operations {
                model.apply(&mut window, &operation);
                model.check(&window);
            }
            for (index, _) in model.open {
                window.close(stream(index));
            }
            prop_assert_eq!((window.available(), window.lent()), (window.size(), 0));
        }
    }
}
