//! What paths were asked for of a stream, and how far they are.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::stats::StreamMap;
use crate::{Code, CodedError, PathId, PieceId, limits};

use super::RecvHalf;

/// Those of a stream, and those that are over and that nobody took note of yet.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub(super) live: BTreeMap<(PathId, PieceId), Piece>,
    pub(super) ended: Vec<PieceEnd>,
}

/// A range that one path was told to bring, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The next offset that the path will bring.
    pub cursor: u64,
    /// Where it ends: what was asked for, or where its writer stopped.
    pub end: u64,
    /// It was cancelled: what still comes is welcome, but nobody waits for it.
    pub cancelled: bool,
}

impl Piece {
    /// What is waited for; none of it once it was cancelled.
    pub(crate) fn owed(&self) -> Option<Range<u64>> {
        (!self.cancelled).then_some(self.cursor..self.end)
    }
}

/// A piece that is over: the last byte due on its path has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceEnd {
    /// The path that carried it.
    pub path: PathId,
    /// Which one.
    pub piece: PieceId,
    /// Up to where it came.
    pub at: u64,
}

impl RecvHalf {
    pub(crate) fn has_live_pieces(&self) -> bool {
        self.pieces.live.values().any(|piece| !piece.cancelled)
    }

    /// Something of `path` may still come.
    pub(crate) fn has_pieces_of(&self, path: PathId) -> bool {
        self.pieces_of(path).next().is_some()
    }

    /// A lease promises bytes before `end`: the stream ends no earlier. Returns up to where all has
    /// come.
    pub(crate) fn promise(&mut self, end: u64) -> u64 {
        self.promised = self.promised.max(end);
        self.buffer.contiguous_end()
    }

    pub(crate) fn missing(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.buffer.missing(range)
    }

    pub(crate) fn add_piece(&mut self, path: PathId, id: PieceId, range: Range<u64>) {
        let piece = Piece { cursor: range.start, end: range.end, cancelled: false };
        self.pieces.live.insert((path, id), piece);
    }

    pub(crate) fn piece(&self, path: PathId, id: PieceId) -> Option<&Piece> {
        self.pieces.live.get(&(path, id))
    }

    /// The byte that the reader waits for, having nothing else to read.
    pub(crate) fn awaited(&self) -> Option<u64> {
        (self.unread() == 0 && !self.is_complete()).then(|| self.buffer.contiguous_end())
    }

    /// Where what came ends, if something before it is missing.
    pub(in crate::stream) fn early_end(&self) -> Option<u64> {
        self.buffer.has_gaps().then(|| self.buffer.write_end())
    }

    /// Where each part of it is.
    pub(crate) fn map(&self) -> StreamMap {
        let (read, end) = (self.buffer.read_position(), self.buffer.write_end());
        let gaps = self.buffer.gaps().take(limits::MAX_GAPS);
        let mut held = Vec::new();
        let mut from = read;
        for gap in gaps.chain(std::iter::once(end..end)) {
            held.extend(self.origins.within(from..gap.start));
            from = gap.end;
        }
        let asked = self.pieces.live.iter().filter_map(|((path, _), piece)| {
            Some((*path, piece.owed().filter(|owed| !owed.is_empty())?))
        });
        let asked = asked.collect();
        StreamMap { read, end, granted: self.max_data(), size: self.final_size(), held, asked }
    }

    /// The path that was asked for the byte that the reader waits for.
    pub(crate) fn awaited_from(&self) -> Option<PathId> {
        let at = self.awaited()?;
        let owes = |piece: &Piece| piece.owed().is_some_and(|owed| owed.contains(&at));
        self.pieces.live.iter().find(|(_, piece)| owes(piece)).map(|((path, _), _)| *path)
    }

    /// How far a piece has come, whether it is under way or has ended and the session was not
    /// told yet.
    pub(crate) fn progress(&self, path: PathId, id: PieceId) -> Option<u64> {
        let ended = || self.pieces.ended.iter().find(|end| end.path == path && end.piece == id);
        self.piece(path, id).map(|piece| piece.cursor).or_else(|| ended().map(|end| end.at))
    }

    /// The lowest part of `range` that `path` may still bring under a cancelled piece. It cannot be
    /// asked for it anew: nobody could tell which piece the bytes belong to.
    pub(crate) fn leftover(&self, path: PathId, range: &Range<u64>) -> Option<Range<u64>> {
        let cancelled = self.pieces_of(path).filter(|(_, piece)| piece.cancelled);
        let rests = cancelled.map(|(_, piece)| piece.cursor..piece.end);
        rests.filter(|r| r.start < range.end && range.start < r.end).min_by_key(|r| r.start)
    }

    /// Cancels a piece; if it was live, what it owed.
    pub(crate) fn cancel_piece(&mut self, path: PathId, id: PieceId) -> Option<Range<u64>> {
        let piece = self.pieces.live.get_mut(&(path, id))?;
        let owed = piece.owed();
        piece.cancelled = true;
        owed
    }

    /// The writer stopped a piece at `sent_until`: it ends there. True when that has come already.
    ///
    /// # Errors
    /// The writer says it sent less than it did, or more than it was asked for.
    pub(crate) fn stop_piece(
        &mut self,
        path: PathId,
        id: PieceId,
        sent_until: u64,
    ) -> Result<bool, CodedError> {
        let Some(piece) = self.pieces.live.get_mut(&(path, id)) else { return Ok(false) };
        if sent_until < piece.cursor || sent_until > piece.end {
            let context = format!("a piece stopped at {sent_until}, outside what was asked");
            return Err(CodedError::new(Code::OffsetSyncFailure, context));
        }
        piece.end = sent_until;
        let over = piece.cursor == piece.end;
        if over {
            self.pieces.live.remove(&(path, id));
        }
        Ok(over)
    }

    /// Forgets the pieces of a path that is gone.
    pub(crate) fn drop_path(&mut self, path: PathId) {
        self.pieces.live.retain(|(owner, _), _| *owner != path);
    }

    /// Forgets the pieces of a path that was given up, and throws away what it still sends.
    pub(crate) fn discard_from(&mut self, path: PathId) {
        self.drop_path(path);
        self.discarded.insert(path);
    }

    pub(crate) fn take_ended(&mut self) -> Vec<PieceEnd> {
        std::mem::take(&mut self.pieces.ended)
    }
}
