//! The sending half of a stream: a write cursor, the peer's credit, and extents left to leases.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::limits;
use crate::presentation::BackpressureReason;
use crate::range::RangeSet;

/// A sending half, shared by the session and the writer's byte path.
pub type SharedSend = Arc<Mutex<SendHalf>>;

/// Why nothing more can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The peer reads no more of it.
    #[error("the peer stopped the stream with code {0}")]
    Stopped(u64),
    /// The stream was finished or reset here.
    #[error("the stream was finished or reset already")]
    Closed,
    /// Offsets end at 2^62 - 1.
    #[error("the stream would grow past the largest offset")]
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    Reset,
    Stopped(u64),
}

/// What is known of a stream that this side writes.
#[derive(Debug)]
pub struct SendHalf {
    cursor: u64,
    max_data: u64,
    /// Up to where leases of the primary's own path have let it send unasked.
    unasked_until: u64,
    state: State,
    /// Why the peer asks to slow down.
    backpressure: Option<BackpressureReason>,
    /// Reserved extents whose delivery no lease has reported yet.
    undelivered: RangeSet,
    /// Everything ever reserved: where leases may lie.
    reserved: RangeSet,
    /// Plain data that the peer has acknowledged.
    acknowledged: RangeSet,
    fin_acknowledged: bool,
}

impl SendHalf {
    pub(crate) fn new(max_data: u64) -> Self {
        Self {
            cursor: 0,
            max_data,
            unasked_until: 0,
            state: State::Open,
            backpressure: None,
            undelivered: RangeSet::new(),
            reserved: RangeSet::new(),
            acknowledged: RangeSet::new(),
            fin_acknowledged: false,
        }
    }

    /// Where the next plain write or reservation begins; after the end, the final size.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// How many bytes of plain data the peer grants beyond the cursor.
    #[must_use]
    pub fn credit(&self) -> u64 {
        self.max_data.saturating_sub(self.cursor)
    }

    fn check_open(&self) -> Result<(), WriteError> {
        match self.state {
            State::Open => Ok(()),
            State::Stopped(code) => Err(WriteError::Stopped(code)),
            State::Finished | State::Reset => Err(WriteError::Closed),
        }
    }

    /// Commits up to `want` bytes of plain data; the range granted, empty without credit.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn commit(&mut self, want: u64) -> Result<Range<u64>, WriteError> {
        self.check_open()?;
        let start = self.cursor;
        self.cursor += want.min(self.credit());
        Ok(start..self.cursor)
    }

    /// Moves the cursor past an extent that leases fill: plain writes go on behind it.
    ///
    /// # Errors
    /// When the stream has ended or would grow too long.
    pub fn reserve(&mut self, len: u64) -> Result<Range<u64>, WriteError> {
        self.check_open()?;
        let end = self.cursor.checked_add(len).filter(|end| *end <= limits::MAX_OFFSET);
        let extent = self.cursor..end.ok_or(WriteError::TooLong)?;
        self.cursor = extent.end;
        self.reserved.insert(extent.clone());
        self.undelivered.insert(extent.clone());
        Ok(extent)
    }

    /// Ends the stream at the cursor: the final size.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn finish(&mut self) -> Result<u64, WriteError> {
        self.check_open()?;
        self.state = State::Finished;
        Ok(self.cursor)
    }

    /// Gives the stream up: the final size that the peer is told. None when it has ended already.
    pub fn reset(&mut self) -> Option<u64> {
        (self.state != State::Reset).then(|| {
            self.state = State::Reset;
            self.undelivered = RangeSet::new();
            self.cursor
        })
    }

    /// The peer's code, if it stopped the stream.
    #[must_use]
    pub fn stopped(&self) -> Option<u64> {
        match self.state {
            State::Stopped(code) => Some(code),
            State::Open | State::Finished | State::Reset => None,
        }
    }

    /// Whether `range` lies within reserved extents, so that a lease may fill it.
    #[must_use]
    pub fn is_reserved(&self, range: &Range<u64>) -> bool {
        let writable = matches!(self.state, State::Open | State::Finished);
        writable && self.reserved.contains_range(range)
    }

    /// How much of a lease of its own path leaves unasked: what a stream may carry before anything
    /// is said, and each byte once, lest nobody can tell under which lease it came.
    pub(crate) fn take_unasked(&mut self, lease: &Range<u64>) -> u64 {
        let end = limits::FIRST_STREAM_DATA.min(lease.end);
        if lease.start < self.unasked_until || end <= lease.start {
            return 0;
        }
        self.unasked_until = end;
        end - lease.start
    }

    /// The offset up to which the reader grants data.
    pub(crate) fn max_data(&self) -> u64 {
        self.max_data
    }

    pub(crate) fn on_max_data(&mut self, maximum: u64) -> bool {
        let raised = maximum > self.max_data;
        self.max_data = self.max_data.max(maximum);
        raised
    }

    /// Why the peer asks to slow down writing this stream, if it does (8.3).
    #[must_use]
    pub fn backpressure(&self) -> Option<BackpressureReason> {
        self.backpressure
    }

    pub(crate) fn on_backpressure(&mut self, reason: Option<BackpressureReason>) {
        self.backpressure = reason;
    }

    pub(crate) fn on_stopped(&mut self, code: u64) {
        if matches!(self.state, State::Open | State::Finished) {
            self.state = State::Stopped(code);
            self.undelivered = RangeSet::new();
        }
    }

    pub(crate) fn on_delivered(&mut self, range: Range<u64>) {
        self.undelivered.remove(range);
    }

    /// A plain frame has arrived.
    pub(crate) fn on_acknowledged(&mut self, range: Range<u64>, fin: bool) {
        self.acknowledged.insert(range);
        self.fin_acknowledged |= fin;
    }

    /// Nothing more will be written.
    pub(crate) fn has_ended(&self) -> bool {
        self.state != State::Open
    }

    /// It was finished, and not given up since.
    pub(crate) fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// How much of its beginning the peer has: what it has acknowledged, and what leases brought.
    pub(crate) fn acknowledged(&self) -> u64 {
        let given_up = matches!(self.state, State::Reset | State::Stopped(_));
        let mut end = 0;
        loop {
            let acknowledged = self.acknowledged.first_missing_from(end).start;
            if given_up {
                // Of leases nothing is known any more.
                return acknowledged;
            }
            // What is reserved and not among what is missing was brought.
            let leased = self.reserved.first_missing_from(acknowledged).start;
            let missing = self.undelivered.intersection(acknowledged..leased).next();
            let brought = missing.map_or(leased, |missing| missing.start);
            if brought == end {
                return end;
            }
            end = brought;
        }
    }

    /// Plain bytes that the peer has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.cursor - self.reserved.bytes() - self.acknowledged.bytes()
    }

    /// It was finished, and the peer has all of it: what was written and what leases brought.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        let written = self.fin_acknowledged && self.unacknowledged() == 0;
        self.state == State::Finished && written && self.undelivered.is_empty()
    }

    /// Nothing is left to do: it was delivered or given up.
    pub(crate) fn is_done(&self) -> bool {
        match self.state {
            State::Open => false,
            State::Finished => self.is_delivered(),
            State::Reset | State::Stopped(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_writes_stay_within_credit_and_reservations_need_none() {
        let mut half = SendHalf::new(10);
        assert_eq!(half.commit(8), Ok(0..8));
        assert_eq!(half.reserve(100), Ok(8..108));
        assert_eq!(half.commit(1), Ok(108..108));
        assert!(half.on_max_data(110));
        assert_eq!(half.commit(5), Ok(108..110));
        assert!(half.is_reserved(&(8..108)) && !half.is_reserved(&(7..9)));
        assert_eq!(half.finish(), Ok(110));
        half.on_delivered(8..50);
        assert_eq!(half.acknowledged(), 0);
        half.on_acknowledged(0..8, false);
        assert_eq!(half.acknowledged(), 50);
        half.on_delivered(50..108);
        assert_eq!(half.acknowledged(), 108);
        assert!(!half.is_done());
        half.on_acknowledged(110..110, true);
        assert!(!half.is_done());
        half.on_acknowledged(108..110, false);
        assert_eq!(half.acknowledged(), 110);
        assert!(half.is_done());
        assert_eq!(half.commit(1), Err(WriteError::Closed));
    }

    #[test]
    fn offsets_end_where_those_of_quic_do() {
        let mut half = SendHalf::new(0);
        assert!(half.reserve(limits::MAX_OFFSET).is_ok());
        assert_eq!(half.reserve(1), Err(WriteError::TooLong));
    }
}
