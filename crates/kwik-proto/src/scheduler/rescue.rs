//! What a reader waits for is judged by itself (docs/scheduling.md). A path may bring much and still hold a
//! reader up: behind a lost packet that takes long to be repeated, or at a server that is stuck
//! with one stream.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::stream::StreamTable;
use crate::sync::lock;
use crate::{LeaseId, PathId, PieceId, StreamId, limits};

use super::{Scheduler, Theft};

/// Readers are looked at this often at the least, while something is asked for: what they wait for
/// changes without notice.
const LOOK_AT_LEAST: Duration = Duration::from_millis(25);
/// ... and not more often than this, as it takes a look at every stream.
const LOOK_AT_MOST: Duration = Duration::from_millis(5);

/// What a reader waits for.
struct Awaited {
    since: Instant,
    owner: PathId,
    piece: PieceId,
    /// What its owner still owes of the piece.
    range: Range<u64>,
}

impl Scheduler {
    /// When a reader may have waited for too long.
    pub(super) fn rescue_at(&self) -> Option<Instant> {
        self.look_at.filter(|_| self.pieces() > 0)
    }

    /// Moves what readers have waited for too long to the paths that have it first. True when
    /// something moved.
    pub(super) fn rescue(&mut self, now: Instant) -> bool {
        if self.look_at.is_some_and(|at| now < at) {
            return false;
        }
        let (mut next, mut moved) = (now + LOOK_AT_LEAST, false);
        for stream in self.fills.keys().copied().collect::<Vec<_>>() {
            let Some(awaited) = self.awaited(stream, now) else { continue };
            match self.find_rescue(stream, &awaited, now) {
                Ok(theft) => moved |= self.take_over(theft, now),
                Err(at) => next = next.min(at),
            }
        }
        self.look_at = Some(next.max(now + LOOK_AT_MOST));
        moved
    }

    /// The piece whose next byte is the one that the reader of a stream waits for.
    fn awaited(&mut self, stream: StreamId, now: Instant) -> Option<Awaited> {
        let fill = self.fills.get_mut(&stream)?;
        let recv = lock(&fill.recv);
        let at = recv.awaited()?;
        let (_, since) = *fill.awaits.insert(match fill.awaits {
            Some(known) if known.0 == at => known,
            _ => (at, now),
        });
        let (owner, piece) = recv.owner_of(at)?;
        let range = recv.piece(owner, piece).map(|piece| piece.cursor..piece.end)?;
        Some(Awaited { since, owner, piece, range })
    }

    /// Who is to bring what a reader waits for instead of its owner; else when to ask again. A path
    /// has failed its reader that should have brought a piece by now, with nothing of the stream
    /// coming from there for longer than a lost packet's repetition takes; or that will have it
    /// later than another, and the reader waits.
    fn find_rescue(
        &self,
        stream: StreamId,
        awaited: &Awaited,
        now: Instant,
    ) -> Result<Theft, Instant> {
        let never = now + LOOK_AT_LEAST;
        let &Awaited { since, owner, piece, ref range } = awaited;
        let path = self.paths.get(&owner).ok_or(never)?;
        let due = path.pieces.get(&piece).ok_or(never)?.due;
        let brought = self.fills.get(&stream).and_then(|fill| fill.brought.get(&owner));
        let overdue = due.max(*brought.unwrap_or(&due) + path.schedule.repair_time());
        let impatient = since + limits::SUSPECT_AFTER;
        if now < overdue.min(impatient) {
            return Err(overdue.min(impatient));
        }
        let (thief, lease, takes) = self.first_with(stream, range, Some(owner)).ok_or(never)?;
        let failed = now >= overdue || due > now + takes;
        if !failed || !self.may_double(&path.schedule, range.end - range.start) {
            return Err(if now < overdue { overdue } else { never });
        }
        Ok(Theft { thief, owner, piece, lease })
    }

    /// Asks for what the reader of a stream waits for, if nobody was asked for it, on the path that
    /// has it first, be it busy or not.
    pub(super) fn hurry(&mut self, stream: StreamId, streams: &mut StreamTable, now: Instant) {
        let Some(fill) = self.fills.get(&stream) else { return };
        let Some(at) = fill.awaited_free() else { return };
        if let Some((path, ..)) = self.first_with(stream, &(at..at + 1), None) {
            self.activate_in(stream, path, streams, now);
        }
    }

    /// The path other than `except` that would have a range first, however much it was asked for,
    /// its lease, and how long that takes.
    fn first_with(
        &self,
        stream: StreamId,
        range: &Range<u64>,
        except: Option<PathId>,
    ) -> Option<(PathId, LeaseId, Duration)> {
        let able = self.paths.iter().filter(|(id, path)| {
            Some(**id) != except && path.is_healthy() && path.pieces.len() < limits::MAX_PIECES
        });
        let leases = able.filter_map(|(id, path)| {
            let lease = self.lease_for(*id, stream, range)?;
            Some((path.schedule.backlog(range.end - range.start), *id, lease))
        });
        leases.min().map(|(takes, id, lease)| (id, lease, takes))
    }
}
