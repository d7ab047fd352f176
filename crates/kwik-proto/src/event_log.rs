//! The last events of a kind, for any number of readers, each at its own pace.

use std::collections::VecDeque;

/// Keeps the last `limit` events.
#[derive(Debug)]
pub struct EventLog<T> {
    events: VecDeque<T>,
    limit: usize,
    /// Number of the event after the last.
    next: u64,
}

/// Where a reader of an [`EventLog`] is; by default, before all that ever came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCursor {
    next: u64,
    missed: u64,
}

impl LogCursor {
    /// Events that were dropped before this reader took them.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl<T: Clone> EventLog<T> {
    /// Without any event.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { events: VecDeque::new(), limit, next: 0 }
    }

    /// Adds an event; the oldest makes room.
    pub fn push(&mut self, event: T) {
        if self.events.len() == self.limit {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.next += 1;
    }

    /// A reader of what comes from now on.
    #[must_use]
    pub fn subscribe(&self) -> LogCursor {
        LogCursor { next: self.next, missed: 0 }
    }

    /// A reader's next event.
    pub fn poll(&self, cursor: &mut LogCursor) -> Option<T> {
        let first = self.next - self.events.len() as u64;
        if cursor.next < first {
            cursor.missed += first - cursor.next;
            cursor.next = first;
        }
        let index = usize::try_from(cursor.next - first).ok()?;
        let event = self.events.get(index)?.clone();
        cursor.next += 1;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_takes_all_that_it_is_not_too_slow_for() {
        let mut log = EventLog::new(3);
        log.push(0);
        let (mut one, mut two) = (log.subscribe(), log.subscribe());
        (1..=2).for_each(|event| log.push(event));
        assert_eq!(
            (log.poll(&mut one), log.poll(&mut one), log.poll(&mut one)),
            (Some(1), Some(2), None)
        );
        (3..=6).for_each(|event| log.push(event));
        assert_eq!((log.poll(&mut one), one.missed()), (Some(4), 1));
        assert_eq!((log.poll(&mut two), two.missed()), (Some(4), 3));
        assert_eq!(
            (log.poll(&mut two), log.poll(&mut two), log.poll(&mut two)),
            (Some(5), Some(6), None)
        );
    }
}
