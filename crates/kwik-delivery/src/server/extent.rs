//! An object's extent of a stream, leased to every path that can bring it.

use std::{collections::BTreeMap, ops::Range, pin::pin};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, poll, stream::FuturesUnordered};
use kwik::{Lease, LeaseOutcome, PathId, PathInfo, PrimarySession, SendStream, StreamId};

use crate::{EdgeCommand, Object, server::fill::fill};

/// How a lease ended; none with the session.
type Outcome = Option<LeaseOutcome>;

/// What one object needs while it is delivered. The primary's own path holds a lease over all of
/// it, and so does each edge: whatever one of them loses, the others may bring already.
pub(super) struct Extent<'a> {
    primary: &'a PrimarySession,
    stream: StreamId,
    range: Range<u64>,
    command: Bytes,
    /// Paths that have had their lease, and how often they had died by then. One that died since has lost it;
    /// one that gave it up does not get another.
    leased: BTreeMap<PathId, u32>,
    leases: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl<'a> Extent<'a> {
    /// Makes the whole of `stream` the extent of the object.
    pub(super) fn reserve(
        primary: &'a PrimarySession,
        stream: &mut SendStream,
        command: &EdgeCommand,
    ) -> Result<Self, String> {
        let range = stream.reserve(command.size).map_err(|error| error.to_string())?;
        stream.finish().map_err(|error| error.to_string())?;
        Ok(Self {
            primary,
            stream: stream.id(),
            range,
            command: command.encode(),
            leased: BTreeMap::from([(PathId::PRIMARY, 0)]),
            leases: FuturesUnordered::new(),
        })
    }

    /// Leases it to all paths, present and to come, and fills the primary's own lease, until all
    /// of it has arrived or nobody wants it any more.
    pub(super) async fn deliver(mut self, object: &Object) -> Result<(), String> {
        if self.range.is_empty() {
            return Ok(());
        }
        let (own, writer) = self
            .primary
            .lease_own(self.stream, self.range.clone())
            .map_err(|error| error.to_string())?;
        self.watch(own);
        let mut filling = pin!(fill(writer, object));
        let mut filled = false;
        loop {
            let mut changed = pin!(self.primary.path_changed());
            // Listening before looking: no change falls in between.
            if poll!(changed.as_mut()).is_ready() {
                continue;
            }
            self.lease_to_edges();
            tokio::select! {
                () = &mut filling, if !filled => filled = true,
                Some(outcome) = self.leases.next() => match outcome {
                    // Each lease is over all of it: what holds for one holds for all.
                    Some(LeaseOutcome::Done | LeaseOutcome::Stopped) => return Ok(()),
                    Some(LeaseOutcome::Lost(_)) if !self.leases.is_empty() => {}
                    Some(LeaseOutcome::Lost(_)) => return Err("no server can bring it".into()),
                    None => return Err("the session ended".into()),
                },
                () = changed => {}
            }
        }
    }

    fn lease_to_edges(&mut self) {
        for PathInfo { id: path, deaths, .. } in self.primary.active_paths() {
            if self.leased.insert(path, deaths).is_some_and(|before| before == deaths) {
                continue;
            }
            let (range, command) = (self.range.clone(), self.command.clone());
            match self.primary.lease(self.stream, range, path, command) {
                Ok(lease) => self.watch(lease),
                Err(error) => tracing::debug!(%path, %error, "no lease for a path"),
            }
        }
    }

    fn watch(&mut self, mut lease: Lease) {
        let outcome = async move { lease.outcome().await.ok()?.outcome };
        self.leases.push(Box::pin(outcome));
    }
}
