//! The receiving half of a stream: what may arrive, what has arrived, what was read.
//!
//! Path 0 writes plainly up to `max_data`. Every other byte needs a *piece*: an activation that
//! this side gave to one path. A path delivers each piece in order from its start, so admission is
//! one comparison: the bytes continue at the cursor of a live piece of that path, or they break the
//! protocol.
//!
//! Each offset is charged once, whoever it was granted to: `max_data` bounds plain writes and
//! pieces alike. What a stream is charged is `max_data` less the bytes that its reader has taken
//! ([`RecvHalf::consumed`]). Read in order, that is the right edge of what is granted less the read
//! position; read in any order, it is what is held and what is granted and has not come. A piece
//! that is cancelled or stolen changes nothing of it, so its offsets are free for another path at
//! once, and a second copy is charged to nobody.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::presentation::{BufferError, BufferUsage, ReceiveMemory, StreamBuffer, total};
use crate::{Code, CodedError, PathId, PieceId, StreamId, limits};

use super::StreamMetadata;

mod conflicts;
mod origins;
mod pieces;
mod reading;
mod received;

use conflicts::Conflicts;
pub use conflicts::Dispute;
use origins::Origins;
use pieces::Pieces;
pub use pieces::{Piece, PieceEnd};
pub use received::{Copies, Received, ReceivedBytes};

/// A receiving half, shared by the session and the byte path.
pub type SharedRecv = Arc<Mutex<RecvHalf>>;

/// The outcome of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// The next bytes.
    Data(Bytes),
    /// Nothing contiguous is here yet.
    Blocked,
    /// The end of the stream.
    Finished,
}

/// Why a read fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The peer gave the stream up.
    #[error("the peer reset the stream with code {0}")]
    Reset(u64),
    /// It was stopped here.
    #[error("the stream was stopped")]
    Stopped,
    /// No server could bring the missing bytes in time, or the stream broke.
    #[error("{0}")]
    Failed(CodedError),
}

/// What the reader has seen, and what the session was told of that.
#[derive(Debug, Default)]
struct ReadProgress {
    /// The end or the error was handed to the reader.
    seen_end: bool,
    /// The session was told of that.
    end_reported: bool,
    /// The session is told of reading in steps of this size.
    step: u64,
    /// How far it was told last.
    reported: u64,
}

/// What is known of a stream that this side reads.
#[derive(Debug)]
pub struct RecvHalf {
    id: StreamId,
    buffer: StreamBuffer,
    /// What its opener says of it; none until that is here.
    metadata: Option<Box<StreamMetadata>>,
    max_data: u64,
    final_size: Option<u64>,
    error: Option<ReadError>,
    pieces: Pieces,
    /// Where the last of the leases seen ends.
    promised: u64,
    copies: Copies,
    /// Who brought how many of its bytes first.
    sources: Vec<(PathId, u64)>,
    /// Who brought those that were not read yet.
    origins: Origins,
    /// Who contradicted whom, and what follows.
    conflicts: Conflicts,
    /// Paths whose bytes are thrown away: the stream is complete, and they were given up.
    discarded: BTreeSet<PathId>,
    /// The reader takes any chunk, not just the next.
    unordered: bool,
    progress: ReadProgress,
}

impl RecvHalf {
    pub(crate) fn new(id: StreamId, max_data: u64, memory: Arc<ReceiveMemory>) -> Self {
        Self {
            id,
            buffer: StreamBuffer::new(memory),
            metadata: None,
            max_data,
            final_size: None,
            error: None,
            pieces: Pieces::default(),
            promised: 0,
            copies: Copies::default(),
            sources: Vec::new(),
            origins: Origins::default(),
            conflicts: Conflicts::default(),
            discarded: BTreeSet::new(),
            unordered: false,
            progress: ReadProgress { step: 1, ..ReadProgress::default() },
        }
    }

    /// Takes bytes that `path` brought for `offset`; [`receive_chunks`](Self::receive_chunks)
    /// of one.
    ///
    /// # Errors
    /// As there.
    pub fn receive(
        &mut self,
        path: PathId,
        offset: u64,
        data: Bytes,
    ) -> Result<Received, CodedError> {
        self.receive_chunks(path, offset, &mut [data])
    }

    /// Takes bytes that `path` brought for `offset` and what follows; of the chunks it leaves
    /// what it has no use for. They may go on from one piece to the next, and from plain data to
    /// a piece.
    ///
    /// # Errors
    /// The path broke the protocol and is to be closed with the error's code: data outside a
    /// lease or an activation, beyond credit or the final size, or too many gaps. What precedes
    /// that is taken.
    pub fn receive_chunks(
        &mut self,
        path: PathId,
        mut offset: u64,
        chunks: &mut [Bytes],
    ) -> Result<Received, CodedError> {
        let range = offset..offset.saturating_add(total(chunks));
        if range.is_empty() || self.discarded.contains(&path) {
            return Ok(Received::default());
        }
        // Mostly one piece, or plain data, takes all of them.
        if let Ok((piece, end)) = self.admit(path, &range)
            && end == range.end
            && self.final_size.is_none_or(|size| end <= size)
        {
            return self.receive_part(path, range, chunks, piece);
        }
        let mut all = Received::default();
        for mut data in chunks.iter_mut().map(std::mem::take) {
            while !data.is_empty() {
                let range = offset..offset.saturating_add(data.len() as u64);
                let admitted = self.admit(path, &range);
                if admitted.is_err() {
                    self.note_offence(path, range);
                }
                let (piece, end) = admitted?;
                let part = data.split_to(usize::try_from(end - offset).unwrap_or(usize::MAX));
                all.add(self.receive_part(path, offset..end, &mut [part], piece)?);
                offset = end;
            }
        }
        Ok(all)
    }

    fn receive_part(
        &mut self,
        path: PathId,
        range: Range<u64>,
        chunks: &mut [Bytes],
        piece: Option<PieceId>,
    ) -> Result<Received, CodedError> {
        if self.final_size.is_some_and(|size| range.end > size) {
            return Err(self.mismatch("data beyond the final size", range.end));
        }
        // Only bytes that are kept move the cursor: what is not must be asked of another path.
        let open = self.error.is_none();
        let stored =
            if open { self.store(path, range.start, chunks)? } else { Received::default() };
        let (asked, piece_ended) = piece.map_or((0, false), |id| self.advance(path, id, &range));
        Ok(Received { piece_ended, asked, ..stored })
    }

    /// Buffers data: whether the reader has something to do; how much of it was here already, and
    /// differed.
    fn store(
        &mut self,
        path: PathId,
        offset: u64,
        chunks: &mut [Bytes],
    ) -> Result<Received, CodedError> {
        let before = self.buffer.contiguous_end();
        let range = offset..offset.saturating_add(total(chunks));
        if !path.is_primary() && self.error.is_none() {
            self.buffer.missing(range.clone()).for_each(|new| self.origins.note(new, path));
        }
        let (mut new, mut conflicts) = (0, Vec::new());
        let mut received = Received::default();
        match self.buffer.write_chunks_noting(offset, chunks, &mut conflicts) {
            Ok(written) => {
                new = written.new;
                (received.twice, received.conflicting) = (written.duplicate, written.conflicting);
                self.note_source(path, new);
                self.copies.duplicates += written.duplicate;
                self.copies.conflicts += written.conflicting;
            }
            Err(BufferError::Closed) => {}
            Err(error) => {
                self.origins.doubt(&range);
                let context = format!("{}: {error}", self.id);
                return Err(CodedError::new(Code::SecondaryStreamOverflow, context));
            }
        }
        received.readable =
            if self.unordered { new > 0 } else { self.buffer.contiguous_end() > before };
        if !conflicts.is_empty() {
            received.readable |= self.settle_conflicts(path, &conflicts)?;
        }
        Ok(received)
    }

    fn note_source(&mut self, path: PathId, bytes: u64) {
        if let Some((_, brought)) = self.sources.iter_mut().find(|(known, _)| *known == path) {
            *brought += bytes;
        } else if bytes > 0 && self.sources.len() < limits::MAX_SOURCES {
            self.sources.push((path, bytes));
        }
    }

    /// The paths that brought its bytes, each with how many it brought first.
    #[must_use]
    pub fn sources(&self) -> &[(PathId, u64)] {
        &self.sources
    }

    /// Moves a piece's cursor: bytes that were waited for, and whether the piece is over.
    fn advance(&mut self, path: PathId, id: PieceId, range: &Range<u64>) -> (u64, bool) {
        let Some(piece) = self.pieces.live.get_mut(&(path, id)) else { return (0, false) };
        piece.cursor = range.end;
        let asked = if piece.cancelled { 0 } else { range.end - range.start };
        let over = piece.cursor == piece.end;
        if over {
            self.pieces.live.remove(&(path, id));
            self.pieces.ended.push(PieceEnd { path, piece: id, at: range.end });
        }
        (asked, over)
    }

    /// Notes the end of a frame that carried `fin`, at `end`. Path 0's is the stream's end; another
    /// path's ends its piece, which its bytes have told already.
    ///
    /// # Errors
    /// The final size contradicts what is known.
    pub fn receive_fin(&mut self, path: PathId, end: u64) -> Result<Received, CodedError> {
        if !path.is_primary() {
            return Ok(Received::default());
        }
        self.set_final_size(end)?;
        Ok(Received { readable: true, ..Received::default() })
    }

    fn set_final_size(&mut self, size: u64) -> Result<(), CodedError> {
        let moved = self.final_size.is_some_and(|known| known != size);
        let least = self.promised.max(self.buffer.write_end());
        if moved || size < least || size > limits::MAX_OFFSET {
            return Err(self.mismatch("the final size moved or lies before data", size));
        }
        self.final_size = Some(size);
        Ok(())
    }

    fn mismatch(&self, what: &str, at: u64) -> CodedError {
        CodedError::new(Code::OffsetMismatch, format!("{}: {what} (offset {at})", self.id))
    }

    /// Checks that `path` may bring the first bytes of `range`: up to where, and the piece that
    /// they continue, none for plain data.
    fn admit(
        &self,
        path: PathId,
        range: &Range<u64>,
    ) -> Result<(Option<PieceId>, u64), CodedError> {
        let mut end = range.end;
        for (id, piece) in self.pieces_of(path).filter(|(_, piece)| piece.cursor < piece.end) {
            if piece.cursor == range.start {
                return Ok((Some(id), range.end.min(piece.end)));
            }
            if range.contains(&piece.cursor) {
                end = end.min(piece.cursor);
            }
        }
        if !path.is_primary() {
            let context = format!("{}: path {path} wrote {range:?} unasked", self.id);
            return Err(CodedError::new(Code::SecondaryStreamIsolation, context));
        }
        if end > self.max_data {
            return Err(self.mismatch("data beyond the granted credit", end));
        }
        Ok((None, end))
    }

    fn pieces_of(&self, path: PathId) -> impl Iterator<Item = (PieceId, &Piece)> {
        let pieces = self.pieces.live.range((path, PieceId(0))..=(path, PieceId(u64::MAX)));
        pieces.map(|((_, id), piece)| (*id, piece))
    }

    /// Bytes that the application has read, in any order.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.buffer.taken()
    }

    /// How far the application has read in order.
    #[must_use]
    pub fn read_position(&self) -> u64 {
        self.buffer.read_position()
    }

    /// The first offset that has not come (7.4).
    #[must_use]
    pub fn contiguous_end(&self) -> u64 {
        self.buffer.contiguous_end()
    }

    /// Bytes, gaps and positions of the buffer (8.1).
    #[must_use]
    pub fn usage(&self) -> BufferUsage {
        self.buffer.usage()
    }

    /// Bytes that arrived twice.
    #[must_use]
    pub fn copies(&self) -> Copies {
        self.copies
    }

    /// The final size, once known.
    #[must_use]
    pub fn final_size(&self) -> Option<u64> {
        self.final_size
    }

    /// The offset up to which data is granted.
    #[must_use]
    pub fn max_data(&self) -> u64 {
        self.max_data
    }

    /// Bytes that wait for the reader, in the order in which it reads.
    #[must_use]
    pub fn unread(&self) -> u64 {
        if self.unordered { self.buffer.held() } else { self.buffer.contiguous() }
    }

    /// What its opener says of it (8.5); none until that is here.
    #[must_use]
    pub fn metadata(&self) -> Option<&StreamMetadata> {
        self.metadata.as_deref()
    }

    /// Takes what its opener says; false when that contradicts what was said before.
    pub(crate) fn set_metadata(&mut self, metadata: &StreamMetadata) -> bool {
        let known = self.metadata.get_or_insert_with(|| Box::new(metadata.clone()));
        **known == *metadata
    }

    /// Nothing will be said of it that was not said yet; true when that was not known.
    pub(crate) fn describe(&mut self) -> bool {
        let open = self.metadata.is_none();
        self.metadata.get_or_insert_default();
        open
    }

    /// Bytes received and not yet read.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.buffer.held()
    }

    /// What the reader waits for while bytes behind it are here.
    #[must_use]
    pub fn blocking_gap(&self) -> Option<Range<u64>> {
        if self.error.is_some() || self.unread() > 0 {
            return None;
        }
        self.buffer.next_gap()
    }

    pub(crate) fn set_max_data(&mut self, maximum: u64, step: u64) {
        self.max_data = self.max_data.max(maximum);
        self.progress.step = step;
    }

    pub(crate) fn on_reset(&mut self, code: u64, final_size: u64) -> Result<(), CodedError> {
        // Its end is known to be whole: the reset came too late to matter.
        let whole = self.is_complete();
        self.set_final_size(final_size)?;
        if !whole {
            self.end_with(ReadError::Reset(code));
        }
        Ok(())
    }

    /// Ends reading with an error; what is buffered is dropped unless it can still be read.
    pub(crate) fn fail(&mut self, error: ReadError) {
        if self.error.is_none() && !self.is_read_to_end() {
            self.end_with(error);
        }
    }

    /// Ends reading with an error; what is buffered is dropped.
    pub(crate) fn drop_all(&mut self, error: ReadError) {
        self.fail(error);
        self.buffer.close();
        self.origins = Origins::default();
    }

    /// Nobody reads any more, whatever has come or will.
    pub(crate) fn stop(&mut self) {
        self.fail(ReadError::Stopped);
        self.progress.seen_end = true;
    }

    fn end_with(&mut self, error: ReadError) {
        if !matches!(error, ReadError::Failed(_)) {
            self.buffer.close();
            self.origins = Origins::default();
        }
        self.error = Some(error);
    }

    /// All bytes up to the end have arrived, or none are wanted any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.error.is_some() || self.final_size == Some(self.buffer.contiguous_end())
    }

    fn is_read_to_end(&self) -> bool {
        self.final_size == Some(self.buffer.read_position())
    }

    /// The reader needs nothing more: it saw the end or the error, or stopped the stream.
    pub(crate) fn is_done(&self) -> bool {
        self.progress.seen_end || self.is_read_to_end()
    }

    /// Why it cannot be read any more, if it cannot.
    pub(crate) fn failure(&self) -> Option<&ReadError> {
        self.error.as_ref()
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// No piece is under way on any path, and the session knows of all that ended.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pieces.live.is_empty() && self.pieces.ended.is_empty()
    }
}
