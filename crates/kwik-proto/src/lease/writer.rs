//! The writing side of leases: on a secondary, and on the primary for its own path.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::sync::lock;
use crate::wire::control::{self, ControlMessage};
use crate::{Code, CodedError, LeaseId, PieceId, StreamId, limits, wire::clip};

/// A lease's writer, shared by the session and the application's byte path.
pub type SharedWriter = Arc<Mutex<Writer>>;

#[derive(Debug)]
struct QueuedPiece {
    id: PieceId,
    next: u64,
    end: u64,
    /// Nobody asked for it: it leaves as far as the stream's credit goes.
    unasked: bool,
}

/// What the holder of a lease may write now: the pieces that the client activated, in their order.
#[derive(Debug)]
pub struct Writer {
    lease: LeaseId,
    stream: StreamId,
    range: Range<u64>,
    command: Bytes,
    queue: VecDeque<QueuedPiece>,
    /// Up to where the stream's credit lets it send what nobody asked for.
    granted: u64,
    budget: u64,
    /// The client, the primary or this side ended it.
    ended: bool,
    /// The client knows where a secondary stream goes on: what it does not ask for now,
    /// others bring.
    settled: bool,
    /// The client asks where a secondary stream writes.
    asked_again: bool,
}

impl Writer {
    /// Which lease.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// The stream it writes into.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// The range it may be asked for.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The primary's opaque command for the application.
    #[must_use]
    pub fn command(&self) -> &Bytes {
        &self.command
    }

    /// No more will be asked of it.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// What is to be written next, as far as it is activated.
    #[must_use]
    pub fn next(&self) -> Option<Range<u64>> {
        self.queued().next()
    }

    /// Everything that is activated and not written, in order.
    pub fn queued(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.queue.iter().map(|piece| self.due(piece)).filter(|due| !due.is_empty())
    }

    /// What of a piece may be sent now.
    fn due(&self, piece: &QueuedPiece) -> Range<u64> {
        piece.next..if piece.unasked { piece.end.min(self.granted) } else { piece.end }
    }

    /// Takes the next bytes to write, at most `max`: from then on they count as sent, and the
    /// caller owes them to the wire. True with the range when it ends a piece.
    pub fn commit(&mut self, max: u64) -> Option<(Range<u64>, bool)> {
        let at = self.queue.iter().position(|piece| !self.due(piece).is_empty())?;
        self.commit_piece(at, max)
    }

    fn commit_piece(&mut self, at: usize, max: u64) -> Option<(Range<u64>, bool)> {
        let due = self.due(self.queue.get(at)?);
        let piece = self.queue.get_mut(at)?;
        let len = max.min(due.end - due.start).min(self.budget);
        let range = piece.next..piece.next + len;
        piece.next = range.end;
        self.budget -= len;
        let ends = piece.next == piece.end;
        if ends {
            self.queue.remove(at);
        }
        (len > 0).then_some((range, ends))
    }

    /// The lowest activated range that begins at or after `offset`: what a writer that never
    /// goes back sends next. While the client does not know yet where that is, only one that
    /// begins there.
    #[must_use]
    pub fn next_from(&self, offset: u64) -> Option<Range<u64>> {
        let wanted = |at: u64| at == offset || (self.settled && at > offset);
        let ahead = self.queue.iter().filter(|piece| wanted(piece.next));
        ahead.min_by_key(|piece| piece.next).map(|piece| piece.next..piece.end)
    }

    /// [`Writer::commit`] of the piece that goes on exactly at `offset`.
    pub fn commit_at(&mut self, offset: u64, max: u64) -> Option<Range<u64>> {
        let at = self.queue.iter().position(|piece| piece.next == offset)?;
        self.commit_piece(at, max).map(|(range, _)| range)
    }

    pub(crate) fn set_settled(&mut self, settled: bool) {
        self.settled = settled;
    }

    pub(crate) fn ask_again(&mut self) {
        self.asked_again = true;
    }

    /// Whether the client asks to be told again where the secondary stream writes; once.
    pub fn take_asked_again(&mut self) -> bool {
        std::mem::take(&mut self.asked_again)
    }

    /// The client knows where this writer goes on.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    fn activate(&mut self, id: PieceId, range: Range<u64>) -> Result<(), CodedError> {
        let Range { start, end } = range;
        if start >= end || start < self.range.start || end > self.range.end {
            let context = format!("lease {}: activation of {range:?} outside it", self.lease);
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        let due: u64 = self.queue.iter().map(|piece| piece.end - piece.next).sum();
        if self.queue.len() >= limits::MAX_PIECES || due + (end - start) > self.budget {
            let context = format!("lease {}: more activated than its budget", self.lease);
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        self.queue.push_back(QueuedPiece { id, next: start, end, unasked: false });
        Ok(())
    }

    /// Ends a piece early: the offset it was sent up to. None when it was sent whole already.
    fn cancel(&mut self, id: PieceId) -> Option<u64> {
        let at = self.queue.iter().position(|piece| piece.id == id)?;
        self.queue.remove(at).map(|piece| piece.next)
    }

    fn end(&mut self) -> VecDeque<QueuedPiece> {
        self.ended = true;
        std::mem::take(&mut self.queue)
    }
}

/// The piece of a lease that nobody has to ask for.
fn unasked(lease: &control::Lease) -> Option<QueuedPiece> {
    let (next, end) = (lease.range.start, lease.range.start + lease.unasked);
    (lease.unasked > 0).then(|| QueuedPiece {
        id: PieceId::unasked(lease.lease_id),
        next,
        end,
        unasked: true,
    })
}

/// All leases that this side writes for one session.
#[derive(Debug, Default)]
pub struct WriterTable {
    writers: BTreeMap<LeaseId, SharedWriter>,
    last_piece: Option<PieceId>,
}

impl WriterTable {
    /// Adds a lease.
    ///
    /// # Errors
    /// It is malformed, known already, or one too many.
    pub fn insert(&mut self, lease: &control::Lease) -> Result<SharedWriter, CodedError> {
        let id = lease.lease_id;
        let range = lease.range.clone();
        if range.is_empty() || range.end > limits::MAX_OFFSET {
            let context = format!("lease {id} of {range:?} is no range of a stream");
            return Err(CodedError::new(Code::OffsetMismatch, context));
        }
        if self.writers.contains_key(&id) {
            let context = format!("lease {id} came twice");
            return Err(CodedError::new(Code::StreamMappingConflict, context));
        }
        if self.writers.len() >= limits::MAX_LEASES {
            return Err(CodedError::new(Code::LimitExceeded, "too many leases"));
        }
        let budget = lease.max_bytes.min(limits::lease_budget(range.end - range.start));
        let writer = SharedWriter::new(Mutex::new(Writer {
            lease: id,
            stream: lease.stream_id,
            range,
            command: lease.command.clone(),
            queue: unasked(lease).into_iter().collect(),
            granted: 0,
            budget,
            ended: false,
            settled: true,
            asked_again: false,
        }));
        self.writers.insert(id, writer.clone());
        Ok(writer)
    }

    /// Adds what this side writes without a lease, from `offset` of a stream on (7.2), as far as
    /// the client asks for it.
    ///
    /// # Errors
    /// There are as many leases as may be.
    pub fn insert_unleased(
        &mut self,
        id: LeaseId,
        stream: StreamId,
        offset: u64,
    ) -> Result<SharedWriter, CodedError> {
        let range = offset..limits::MAX_OFFSET;
        let lease = control::Lease {
            lease_id: id,
            stream_id: stream,
            max_bytes: u64::MAX,
            range,
            ..Default::default()
        };
        self.insert(&lease)
    }

    /// The stream's reader grants data up to `maximum`; the lease that has something to send by it.
    pub fn on_granted(&self, stream: StreamId, maximum: u64) -> impl Iterator<Item = LeaseId> {
        self.writers.iter().filter_map(move |(id, writer)| {
            let mut writer = lock(writer);
            let own = writer.stream == stream && maximum > writer.granted;
            let before = writer.next();
            if own {
                writer.granted = maximum;
            }
            (own && writer.next() != before).then_some(*id)
        })
    }

    /// Queues a piece. When its lease has ended meanwhile, the answer that nothing was sent.
    ///
    /// # Errors
    /// The client asks for what the lease does not allow.
    pub fn handle_activate(
        &mut self,
        m: &control::Activate,
    ) -> Result<Option<ControlMessage>, CodedError> {
        let (id, piece) = (m.lease_id, m.piece_id);
        if self.last_piece.is_some_and(|last| piece <= last) {
            return Err(CodedError::new(Code::InvalidFrame, "piece ids must rise"));
        }
        self.last_piece = Some(piece);
        let Some(writer) = self.writers.get(&id) else {
            return Ok(Some(stopped(id, piece, m.range.start)));
        };
        lock(writer).activate(piece, m.range.clone()).map(|()| None)
    }

    /// Ends a piece early; the answer for the client, none when the piece was sent whole.
    pub fn handle_cancel(&mut self, m: &control::Cancel) -> Option<ControlMessage> {
        let (id, piece) = (m.lease_id, m.piece_id);
        let sent_until = lock(self.writers.get(&id)?).cancel(piece)?;
        Some(stopped(id, piece, sent_until))
    }

    /// This side gives a lease up: where each of its pieces ends, and that no more will come.
    pub fn abandon(&mut self, id: LeaseId, reason: &str) -> Vec<ControlMessage> {
        let Some(pieces) = self.handle_revoke(id) else { return Vec::new() };
        // First, so that the client does not ask this lease again for what the pieces leave.
        let abandoned = ControlMessage::Stopped(control::Stopped {
            lease_id: id,
            abandoned: true,
            reason: clip(reason).to_owned(),
            ..Default::default()
        });
        std::iter::once(abandoned).chain(pieces).collect()
    }

    /// The lease is over for its client or its primary: where each of its pieces ends. None when
    /// it was not live.
    pub fn handle_revoke(&mut self, id: LeaseId) -> Option<Vec<ControlMessage>> {
        let writer = self.writers.remove(&id)?;
        let pieces = lock(&writer).end();
        Some(pieces.into_iter().map(|piece| stopped(id, piece.id, piece.next)).collect())
    }

    /// Ends all of them, when the path is gone.
    pub fn end_all(&mut self) -> Vec<LeaseId> {
        let ids: Vec<_> = self.writers.keys().copied().collect();
        for writer in std::mem::take(&mut self.writers).values() {
            lock(writer).end();
        }
        ids
    }

    /// A live lease's writer.
    #[must_use]
    pub fn writer(&self, id: LeaseId) -> Option<&SharedWriter> {
        self.writers.get(&id)
    }

    /// Live leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writers.len()
    }

    /// No lease is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writers.is_empty()
    }

    /// Something is activated and not written yet.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.writers.values().any(|writer| lock(writer).next().is_some())
    }
}

fn stopped(lease_id: LeaseId, piece_id: PieceId, sent_until: u64) -> ControlMessage {
    let stopped = control::Stopped { lease_id, piece_id, sent_until, ..Default::default() };
    ControlMessage::Stopped(stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abandoned_lease_says_so_before_it_gives_its_pieces_back() {
        let mut table = WriterTable::default();
        let lease = control::Lease { range: 0..100, max_bytes: 100, ..Default::default() };
        let writer = table.insert(&lease).unwrap();
        for piece_id in [0, 1].map(PieceId) {
            let activate = control::Activate { piece_id, range: 0..50, ..Default::default() };
            assert_eq!(table.handle_activate(&activate), Ok(None));
        }
        assert_eq!(lock(&writer).commit(10), Some((0..10, false)));
        let answers = table.abandon(LeaseId(0), &"ä".repeat(limits::MAX_TEXT));
        let stopped = answers.into_iter().map(|message| match message {
            ControlMessage::Stopped(m) => (m.abandoned, m.sent_until),
            other => panic!("{other:?}"),
        });
        assert_eq!(stopped.collect::<Vec<_>>(), [(true, 0), (false, 10), (false, 0)]);
        assert!(table.is_empty() && lock(&writer).is_ended());
    }
}
