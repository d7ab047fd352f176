//! What the reader of a stream takes.

use crate::PathId;
use crate::presentation::StreamBuffer;

use super::{Read, ReadError, RecvHalf};

impl RecvHalf {
    /// The next contiguous bytes, at most `max`. A chunk is a slice of what was received: no copy.
    ///
    /// # Errors
    /// When the stream was reset, stopped or has failed; data received before a failure is
    /// read first.
    pub fn read(&mut self, max: usize) -> Result<Read, ReadError> {
        self.unordered = false;
        self.read_with(|buffer| buffer.read(max).map(Read::Data))
    }

    /// Any bytes that are here, the lowest first, at most `max`: their offset comes with them. From
    /// then on, until [`RecvHalf::read`], bytes behind a gap count as readable, and give credit
    /// back when read.
    ///
    /// # Errors
    /// As of [`RecvHalf::read`].
    pub fn read_unordered(&mut self, max: usize) -> Result<(u64, Read), ReadError> {
        self.unordered = true;
        let mut at = 0;
        let read = self.read_with(|buffer| {
            let (offset, data) = buffer.read_unordered(max)?;
            at = offset;
            Some(Read::Data(data))
        })?;
        Ok((at, read))
    }

    /// Who brought the byte at `offset`, which was not read yet, and up to where that holds (8.5).
    /// None when several did, in more places than are kept apart.
    #[must_use]
    pub fn origin(&self, offset: u64) -> (Option<PathId>, u64) {
        self.origins.at(offset)
    }

    fn read_with(
        &mut self,
        read: impl FnOnce(&mut StreamBuffer) -> Option<Read>,
    ) -> Result<Read, ReadError> {
        if let Some(error @ (ReadError::Reset(_) | ReadError::Stopped)) = &self.error {
            self.progress.seen_end = true;
            return Err(error.clone());
        }
        if let Some(data) = read(&mut self.buffer) {
            return Ok(data);
        }
        if let Some(error) = &self.error {
            self.progress.seen_end = true;
            return Err(error.clone());
        }
        if self.final_size == Some(self.buffer.read_position()) {
            self.progress.seen_end = true;
            return Ok(Read::Finished);
        }
        Ok(Read::Blocked)
    }

    /// To be asked after each batch of reads: whether the session should hear of what was read
    /// ([`StreamTable::on_consumed`]): a step was read, or all there is, or the end or the error
    /// was seen. True once for each.
    ///
    /// [`StreamTable::on_consumed`]: crate::stream::StreamTable::on_consumed
    pub fn is_update_due(&mut self) -> bool {
        self.buffer.settle();
        self.origins.drop_before(self.buffer.read_position());
        let read = self.consumed().saturating_sub(self.progress.reported);
        let ended = self.progress.seen_end
            && !std::mem::replace(&mut self.progress.end_reported, self.progress.seen_end);
        // Who has read all there will be comes again, to see the end.
        let all = read > 0 && self.unread() == 0 && !self.is_read_to_end();
        let due = ended || read >= self.progress.step || all;
        if due {
            self.progress.reported += read;
        }
        due
    }
}
