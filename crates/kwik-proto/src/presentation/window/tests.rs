//! What is lent to streams, against a naive account.

use proptest::prelude::*;

use super::*;
use crate::id::{Dir, Side};
use crate::limits::{INITIAL_WINDOW, MAX_STREAMS, MAX_WINDOW};

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
