//! What secondaries write without a lease (7.2), and where a source goes on (7.4).

use std::ops::Range;

use crate::stream::SharedRecv;
use crate::{LeaseId, PathId, StreamId};

use super::{Changed, ClientLease, Fill, Ledger};

impl Ledger {
    /// A path writes into a stream without a lease.
    pub(in crate::scheduler) fn add_unleased(
        &mut self,
        id: LeaseId,
        lease: ClientLease,
        recv: SharedRecv,
    ) -> Changed {
        let fill = self.fills.entry(lease.stream).or_insert_with(|| Fill::new(recv));
        fill.add_unleased(lease.path, lease.range.start, id);
        self.leases.insert(id, lease);
        Changed::Takers
    }

    /// What the live pieces of a lease still owe, in bytes.
    pub(super) fn owed_under(&self, path: PathId, id: LeaseId) -> u64 {
        let owed = self.owed_by(path).filter(|(_, piece, _)| piece.lease == id);
        owed.map(|(_, _, rest)| rest.end - rest.start).sum()
    }

    /// Whether the live pieces of a lease owe anything.
    pub(in crate::scheduler) fn owes(&self, path: PathId, id: LeaseId) -> bool {
        self.owed_by(path).any(|(_, piece, _)| piece.lease == id)
    }

    /// The lowest offset of a stream that a path owes, or that is free and that it may be asked
    /// for.
    pub(in crate::scheduler) fn next_of(&mut self, path: PathId, stream: StreamId) -> Option<u64> {
        let owed = self.owed_by(path).filter(|(_, piece, _)| piece.stream == stream);
        let owed = owed.map(|(_, _, rest)| rest.start).min();
        let leases = self.fills.get(&stream)?.leases_of(path);
        let open = leases.filter_map(|id| self.leases.get(&id)).filter(|lease| lease.affords(1));
        let open: Vec<Range<u64>> = open.map(ClientLease::open).collect();
        let fill = self.fills.get_mut(&stream)?;
        let free = open.iter().filter_map(|range| fill.next_free(path, range));
        free.map(|range| range.start).chain(owed).min()
    }

    /// The lowest lease of a path that covers a place.
    pub(in crate::scheduler) fn lease_at(
        &self,
        path: PathId,
        stream: StreamId,
        offset: u64,
    ) -> Option<LeaseId> {
        let mut leases = self.fills.get(&stream)?.leases_of(path);
        let covers = |lease: &ClientLease| lease.range.contains(&offset);
        leases.find(|id| self.leases.get(id).is_some_and(covers))
    }

    /// Whether anybody writes into a stream without a lease.
    pub(in crate::scheduler) fn has_unleased(&self, stream: StreamId) -> bool {
        self.fills.get(&stream).is_some_and(Fill::has_unleased)
    }
}
