//! What is leased, what is asked of whom, and what is free: the client's one account of it.
//!
//! A byte under a live lease that has not come is *owed* by exactly one live piece, or it is *free*
//! to be asked for. A piece is live until its last byte comes, its writer stops it, or it is
//! cancelled: what it owed is free again then. What of a cancelled piece comes all the same is
//! taken, and nobody waits for it.
//!
//! How far a piece has come is known where its bytes are admitted, without the session's lock: in
//! the stream's receiving half, which keeps the places of pieces and nothing else of them.
//!
//! Whatever may give paths more to do returns [`Changed`], which [`Scheduler::note`] alone takes.
//! To ask a path for something is what it does about it, and returns none.
//!
//! [`Scheduler::note`]: super::Scheduler::note

mod entries;
mod fill;
#[cfg(test)]
mod tests;
mod unleased;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use crate::stream::{PieceEnd, SharedRecv, StreamTable};
use crate::sync::lock;
use crate::{Code, CodedError, LeaseId, PathId, PieceId, StreamId};

use super::charges::{Cause, Charges};

pub(super) use entries::{Activation, ClientLease, EndedLease, Finished, Stopped, Taken};
pub(super) use fill::{Fill, Uncovered};

/// What is to be looked at again.
#[must_use = "Scheduler::note has pieces given out anew"]
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changed {
    #[default]
    Nothing,
    /// A path that is at work may have room for more.
    Room,
    /// There may be something for paths that had nothing to do.
    Work,
    /// ... and another path for the pieces of suspects.
    Takers,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    leases: BTreeMap<LeaseId, ClientLease>,
    fills: BTreeMap<StreamId, Fill>,
    pieces: BTreeMap<PathId, BTreeMap<PieceId, Activation>>,
    /// What may come twice.
    pub(super) charges: Charges,
}

/// What it says.
impl Ledger {
    pub(super) fn lease(&self, id: LeaseId) -> Option<&ClientLease> {
        self.leases.get(&id)
    }

    pub(super) fn leases(&self) -> usize {
        self.leases.len()
    }

    /// The leases of a path, in all streams.
    pub(super) fn leases_of(&self, path: PathId) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, lease)| lease.path == path).map(|(id, _)| *id).collect()
    }

    pub(super) fn is_leased(&self, path: PathId) -> bool {
        self.fills.values().any(|fill| fill.leases_of(path).next().is_some())
    }

    /// The leases of a path in one stream.
    pub(super) fn leases_between(&self, path: PathId, stream: StreamId) -> Vec<LeaseId> {
        self.fills.get(&stream).into_iter().flat_map(|fill| fill.leases_of(path)).collect()
    }

    /// The leases of a stream.
    pub(super) fn leases_in(&self, stream: StreamId) -> impl Iterator<Item = &ClientLease> {
        let fill = self.fills.get(&stream).into_iter();
        fill.flat_map(Fill::leases).filter_map(|id| self.leases.get(&id))
    }

    /// Its streams that leases fill.
    pub(super) fn streams(&self) -> impl DoubleEndedIterator<Item = StreamId> {
        self.fills.keys().copied()
    }

    pub(super) fn fill(&self, stream: StreamId) -> Option<&Fill> {
        self.fills.get(&stream)
    }

    pub(super) fn fill_mut(&mut self, stream: StreamId) -> Option<&mut Fill> {
        self.fills.get_mut(&stream)
    }

    pub(super) fn uncovered_streams(&mut self) -> impl Iterator<Item = (StreamId, &mut Uncovered)> {
        self.fills.iter_mut().filter_map(|(id, fill)| Some((*id, fill.uncovered.as_mut()?)))
    }

    pub(super) fn fills(&self) -> impl Iterator<Item = &Fill> {
        self.fills.values()
    }

    /// Pieces of a path that are not over, cancelled ones too.
    pub(super) fn pieces(&self, path: PathId) -> usize {
        self.pieces.get(&path).map_or(0, BTreeMap::len)
    }

    /// ... those of one stream.
    pub(super) fn pieces_in(&self, path: PathId, stream: StreamId) -> usize {
        let pieces = self.pieces.get(&path).into_iter().flat_map(BTreeMap::values);
        pieces.filter(|piece| piece.stream == stream).count()
    }

    /// ... of all paths.
    pub(super) fn all_pieces(&self) -> usize {
        self.pieces.values().map(BTreeMap::len).sum()
    }

    /// The live pieces of a path, and what each still owes.
    pub(super) fn owed_by(
        &self,
        path: PathId,
    ) -> impl Iterator<Item = (PieceId, &Activation, Range<u64>)> {
        let pieces = self.pieces.get(&path).into_iter().flatten();
        pieces.filter_map(move |(id, activation)| {
            let fill = self.fills.get(&activation.stream)?;
            let rest = lock(&fill.recv).piece(path, *id).and_then(|piece| piece.owed())?;
            Some((*id, activation, rest))
        })
    }

    /// The streams of which a path was asked for pieces that were cancelled since and are not over,
    /// and when each was.
    pub(super) fn cancelled(&self, path: PathId) -> impl Iterator<Item = (StreamId, Instant)> {
        let pieces = self.pieces.get(&path).into_iter().flat_map(BTreeMap::values);
        pieces.filter_map(|piece| Some((piece.stream, piece.charge.as_ref()?.since())))
    }

    /// Bytes under leases that nobody was asked for.
    pub(super) fn free(&self) -> u64 {
        self.fills.values().map(Fill::free).sum()
    }

    /// A path's lease under which it may be asked for a range.
    pub(super) fn lease_for(
        &self,
        path: PathId,
        stream: StreamId,
        range: &Range<u64>,
    ) -> Option<LeaseId> {
        let fill = self.fills.get(&stream)?;
        if lock(&fill.recv).leftover(path, range).is_some() {
            return None;
        }
        fill.leases_of(path).find(|id| {
            self.leases.get(id).is_some_and(|lease| {
                let open = lease.open();
                let covers = open.start <= range.start && range.end <= open.end;
                covers && lease.affords(range.end - range.start)
            })
        })
    }

    /// Leases of a stream of which nothing is missing, those that overlap `within` alone.
    pub(super) fn done(&self, stream: StreamId, within: Option<&Range<u64>>) -> Vec<LeaseId> {
        let Some(fill) = self.fills.get(&stream) else { return Vec::new() };
        let touched = |range: &Range<u64>| {
            within.is_none_or(|within| range.start < within.end && within.start < range.end)
        };
        let recv = lock(&fill.recv);
        let end = recv.final_size().unwrap_or(u64::MAX);
        let is_done = |id: &LeaseId| {
            let range = self.leases.get(id).map(ClientLease::open);
            // Of what is written without a lease nobody knows the end before that of the stream.
            let range = range.map(|range| range.start..range.end.min(end));
            range.is_some_and(|r| touched(&r) && recv.missing(r).next().is_none())
        };
        fill.leases().filter(is_done).collect()
    }

    /// The lease's writer brings nothing more: it gave it up or spent it, and no piece is left.
    pub(super) fn is_spent(&self, id: LeaseId) -> bool {
        self.leases.get(&id).is_some_and(|lease| {
            let mut pieces = self.pieces.get(&lease.path).into_iter().flatten();
            !lease.affords(1) && !pieces.any(|(_, piece)| piece.lease == id)
        })
    }

    /// What leases of a stream promised, has not come, and no live one covers.
    pub(super) fn uncovered(&self, stream: StreamId) -> Vec<Range<u64>> {
        let open = self.leases_in(stream).map(ClientLease::open);
        self.fills.get(&stream).map_or_else(Vec::new, |fill| fill.uncovered(open))
    }
}

/// What changes it.
impl Ledger {
    /// Adds a lease of a stream.
    ///
    /// # Errors
    /// Those that were seen of it lie in too many separate places.
    pub(super) fn add_lease(
        &mut self,
        id: LeaseId,
        lease: ClientLease,
        recv: SharedRecv,
    ) -> Result<Changed, CodedError> {
        let fill = self.fills.entry(lease.stream).or_insert_with(|| Fill::new(recv));
        if !fill.add_lease(lease.path, &lease.range, id) {
            let context = format!("leases of {} lie in too many places", lease.stream);
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        self.leases.insert(id, lease);
        Ok(Changed::Takers)
    }

    /// What the primary sends of its own lease without being asked is a piece like any other. What
    /// of it overtook the lease was taken as plain data. Returns how much is still to come, and
    /// whether its writer is to be stopped there: where its stream's credit ends.
    pub(super) fn expect(
        &mut self,
        id: LeaseId,
        unasked: u64,
        due: impl FnOnce(u64) -> Instant,
    ) -> (u64, bool) {
        let Some(lease) = self.leases.get_mut(&id) else { return (0, false) };
        let Some(fill) = self.fills.get_mut(&lease.stream) else { return (0, false) };
        lease.budget = lease.budget.saturating_sub(unasked);
        // Behind that it would wait for credit, and others may be quicker.
        let start = lease.range.start;
        let end = (start + unasked).min(lock(&fill.recv).max_data()).max(start);
        // Where others bring parts of it, nobody could tell by which piece bytes come: all of it
        // is on its way as plain data, and credited now.
        let piece = PieceId::unasked(id);
        let rest = fill.take_rest(start..end, lease.path, piece).unwrap_or(end..end);
        // What is here already may be of others, and still to come.
        self.charges.on_unasked(rest.start - start);
        lease.delivered += rest.start - start;
        let len = rest.end - rest.start;
        if len > 0 {
            let (stream, due) = (lease.stream, due(len));
            let (start, charge, returned) = (rest.start, None, false);
            let activation = Activation { stream, lease: id, start, charge, returned, due };
            self.pieces.entry(lease.path).or_default().insert(piece, activation);
        }
        (len, end < start + unasked)
    }

    /// Takes the lowest part of a stream that is free and that a path may be asked for, about `len`
    /// long.
    pub(super) fn take_next(
        &mut self,
        stream: StreamId,
        path: PathId,
        len: u64,
        streams: &mut StreamTable,
    ) -> Option<Taken> {
        let bound = streams.config().secondary().buffer_size();
        let mut last = None;
        loop {
            last = self.fills.get(&stream)?.next_lease(path, last);
            let (_, id) = last?;
            let Some(lease) = self.leases.get(&id).filter(|lease| lease.affords(1)) else {
                continue;
            };
            let (open, mut len) = (lease.open(), len.min(lease.budget));
            if lease.mapped {
                len = len.min(bound.saturating_sub(self.owed_under(path, id)));
            }
            let fill = self.fills.get_mut(&stream)?;
            // Cancelled pieces of a mapped lease are still to be answered.
            let waits = || lock(&fill.recv).leftover(path, &open).is_some();
            if len == 0 || lease.mapped && waits() {
                continue;
            }
            if let Some(range) = fill.take_next(path, &open, len, streams, stream) {
                return Some(Taken { stream, lease: id, range });
            }
        }
    }

    /// Takes the lowest missing part of `range` under a lease.
    pub(super) fn take(&mut self, id: LeaseId, range: Range<u64>) -> Option<Taken> {
        let stream = self.leases.get(&id)?.stream;
        let range = self.fills.get_mut(&stream)?.take(range)?;
        Some(Taken { stream, lease: id, range })
    }

    /// A path is asked for what was taken.
    pub(super) fn ask(&mut self, path: PathId, piece: PieceId, taken: Taken, due: Instant) {
        let Taken { stream, lease: id, range } = taken;
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(fill) = self.fills.get_mut(&stream) else { return };
        lease.budget -= range.end - range.start;
        if id.is_unleased() {
            lease.asked.insert(range.clone());
        }
        let (start, charge, returned) = (range.start, None, false);
        lock(&fill.recv).add_piece(path, piece, range);
        let activation = Activation { stream, lease: id, start, charge, returned, due };
        self.pieces.entry(path).or_default().insert(piece, activation);
    }

    /// Cancels a live piece, and charges what of it may come twice; its lease, and how much it
    /// owed.
    pub(super) fn cancel(
        &mut self,
        path: PathId,
        piece: PieceId,
        cause: Cause,
        now: Instant,
    ) -> (Option<(LeaseId, u64)>, Changed) {
        let none = (None, Changed::Nothing);
        let activation = self.pieces.get_mut(&path).and_then(|own| own.get_mut(&piece));
        let Some(activation) = activation else { return none };
        let Some(fill) = self.fills.get_mut(&activation.stream) else { return none };
        let Some(owed) = fill.cancel(path, piece) else { return none };
        let freed = owed.end - owed.start;
        activation.charge = Some(self.charges.charge(cause, owed.start, freed, now));
        (Some((activation.lease, freed)), Changed::Work)
    }

    /// A writer says up to where it sent a piece.
    ///
    /// # Errors
    /// It sent more, or was asked for less.
    pub(super) fn stop(
        &mut self,
        path: PathId,
        id: PieceId,
        mut sent_until: u64,
    ) -> Result<(Option<Stopped>, Changed), CodedError> {
        let none = Ok((None, Changed::Nothing));
        let activation = self.pieces.get_mut(&path).and_then(|own| own.get_mut(&id));
        let Some(activation) = activation else { return none };
        let (stream, lease) = (activation.stream, activation.lease);
        let Some(fill) = self.fills.get_mut(&stream) else { return none };
        let (before, over) = {
            let mut recv = lock(&fill.recv);
            let Some(before) = recv.piece(path, id).cloned() else { return none };
            // What the primary sends unasked goes as far as its writer was granted: beyond what was
            // known here, and into what it was asked for since.
            if path.is_primary() && id == PieceId::unasked(lease) {
                sent_until = sent_until.min(before.end);
            }
            if path.is_primary() {
                sent_until = sent_until.max(before.cursor);
            }
            (before, recv.stop_piece(path, id, sent_until)?)
        };
        let (left, live) = (before.end - sent_until, !before.cancelled);
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.budget += left;
        }
        if let Some(charge) = &mut activation.charge {
            self.charges.settle(charge, sent_until);
        }
        if live {
            fill.release(sent_until..before.end);
            activation.returned = true;
        }
        let end = PieceEnd { path, piece: id, at: sent_until };
        let finished = if over { self.finish(&end) } else { None };
        Ok((Some(Stopped { stream, lease, left, live, finished }), Changed::Work))
    }

    /// Takes note of the pieces of a stream that the byte path saw end.
    pub(super) fn settle(&mut self, stream: StreamId) -> (Vec<Finished>, Changed) {
        let ended = self.fills.get(&stream).map(|fill| lock(&fill.recv).take_ended());
        let finished = ended.iter().flatten().filter_map(|end| self.finish(end));
        let finished: Vec<_> = finished.collect();
        let changed = if finished.is_empty() { Changed::Nothing } else { Changed::Work };
        (finished, changed)
    }

    /// Takes a piece off its path, and credits its lease with what came of it.
    fn finish(&mut self, end: &PieceEnd) -> Option<Finished> {
        let activation = self.pieces.get_mut(&end.path)?.remove(&end.piece)?;
        let Activation { stream, lease, start, charge, returned, .. } = activation;
        let whole = !returned && charge.is_none();
        if let Some(mut charge) = charge {
            self.charges.settle(&mut charge, end.at);
        }
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.delivered += end.at - start;
        }
        Some(Finished { path: end.path, stream, lease, range: start..end.at, whole })
    }

    /// The writer at the end of `path` gives a lease up. True when it was its own.
    pub(super) fn close_lease(&mut self, path: PathId, id: LeaseId) -> (bool, Changed) {
        let lease = self.leases.get_mut(&id).filter(|lease| lease.path == path);
        let Some(lease) = lease else { return (false, Changed::Nothing) };
        lease.closing = true;
        (true, Changed::Work)
    }

    /// The writer of a lease is a secondary stream. True when that was known.
    pub(super) fn set_mapped(&mut self, id: LeaseId) -> (bool, Changed) {
        let lease = self.leases.get_mut(&id);
        (lease.is_some_and(|lease| std::mem::replace(&mut lease.mapped, true)), Changed::Work)
    }

    /// The writer of a lease goes on from `offset`, and brings nothing before it. True when it
    /// passed over something that is missing, or has come to the end.
    pub(super) fn set_floor(&mut self, id: LeaseId, offset: u64) -> (bool, Changed) {
        let none = (false, Changed::Nothing);
        let Some(lease) = self.leases.get_mut(&id) else { return none };
        let Some(fill) = self.fills.get(&lease.stream) else { return none };
        let before = std::mem::replace(&mut lease.from, offset.min(lease.range.end));
        let passed = before.min(lease.from)..before.max(lease.from);
        if lease.open().is_empty() || lock(&fill.recv).missing(passed).next().is_some() {
            return (true, Changed::Takers);
        }
        none
    }

    /// Ends a lease, and cancels its pieces.
    pub(super) fn end_lease(&mut self, id: LeaseId, now: Instant) -> (Option<EndedLease>, Changed) {
        let Some(mut lease) = self.leases.remove(&id) else { return (None, Changed::Nothing) };
        let (mut missing, mut freed) = (Vec::new(), 0);
        if let Some(fill) = self.fills.get_mut(&lease.stream) {
            let pieces = self.pieces.get_mut(&lease.path).into_iter().flatten();
            for (piece, activation) in pieces.filter(|(_, piece)| piece.lease == id) {
                let came = lock(&fill.recv).progress(lease.path, *piece);
                lease.delivered += came.map_or(0, |at| at - activation.start);
                if let Some(owed) = fill.cancel(lease.path, *piece) {
                    let len = owed.end - owed.start;
                    let charge = self.charges.charge(Cause::Ended, owed.start, len, now);
                    activation.charge = Some(charge);
                    freed += len;
                }
            }
            fill.remove_lease(lease.path, lease.range.start, id);
            missing = lock(&fill.recv).missing(lease.range.clone()).collect();
            fill.owed |= !missing.is_empty();
            // What it was asked for and leaves without a word is missed.
            if !lease.closing {
                lease.asked.iter().for_each(|asked| fill.promise(asked));
            }
        }
        (Some(EndedLease { lease, missing, freed }), Changed::Work)
    }

    /// A path is gone: what its pieces owed is free.
    pub(super) fn cut_path(&mut self, path: PathId) -> Changed {
        for (id, activation) in self.pieces.remove(&path).into_iter().flatten() {
            let Some(fill) = self.fills.get_mut(&activation.stream) else { continue };
            let Some(cut) = lock(&fill.recv).piece(path, id).cloned() else { continue };
            if let Some(lease) = self.leases.get_mut(&activation.lease) {
                lease.delivered += cut.cursor - activation.start;
            }
            if let Some(mut charge) = activation.charge {
                self.charges.settle(&mut charge, cut.cursor);
            }
            cut.owed().into_iter().for_each(|rest| fill.release(rest));
        }
        for fill in self.fills.values_mut() {
            fill.brought.remove(&path);
            lock(&fill.recv).drop_path(path);
        }
        Changed::Work
    }

    /// Forgets the pieces of a stream that is whole, at a path that may never send them: what it
    /// sends all the same is thrown away. How many bytes they had to bring; none where the stream
    /// is not whole.
    pub(super) fn discard(&mut self, stream: StreamId, path: PathId) -> Option<u64> {
        let fill = self.fills.get(&stream).filter(|fill| fill.is_filled())?;
        let mut left = 0;
        let mut recv = lock(&fill.recv);
        let own = self.pieces.entry(path).or_default();
        own.retain(|id, activation| {
            if activation.stream == stream {
                left += recv.piece(path, *id).map_or(0, |piece| piece.end - piece.cursor);
                if let Some(charge) = &mut activation.charge {
                    self.charges.settle(charge, recv.progress(path, *id).unwrap_or(0));
                }
            }
            activation.stream != stream
        });
        recv.discard_from(path);
        Some(left)
    }

    /// Forgets a stream of which nothing is left to do.
    pub(super) fn forget_idle(&mut self, stream: StreamId) -> Option<Fill> {
        self.fills.get(&stream).filter(|fill| fill.is_idle())?;
        self.fills.remove(&stream)
    }
}
