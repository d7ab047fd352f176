//! An object's extent of a stream, leased to every path that can bring it.

use std::{collections::BTreeMap, future::pending, ops::Range, pin::pin};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, poll, stream::FuturesUnordered};
use kwik::{
    IssuedLease, Lease, LeaseOutcome, PathId, PathInfo, PrimarySession, SendStream, StreamId,
    escape,
};

use crate::{EdgeCommand, Failure, FailureCode, Object, SourceError, server::fill::fill};

use super::{access::Record, serving::Serving, unanswered::Unanswered};

/// How a lease of a path ended; none with the session.
type Ended = (PathId, Option<IssuedLease>);

/// What one object, or a range of it, needs while it is delivered. The primary's own path holds a
/// lease over all of it, and so does each edge: whatever one of them loses, the others may bring
/// already.
pub(super) struct Extent<'a> {
    serving: &'a Serving<'a>,
    stream: StreamId,
    range: Range<u64>,
    command: EdgeCommand,
    encoded: Bytes,
    excluded: &'a [PathId],
    /// Paths that have had their lease, and how often they had died by then. One that died since
    /// has lost it; one that gave it up does not get another.
    leased: BTreeMap<PathId, u32>,
    leases: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl<'a> Extent<'a> {
    /// Makes the whole of `stream` the extent of `length` bytes of the object, from the command's
    /// offset on. None of `excluded` is to bring any.
    pub(super) fn reserve(
        serving: &'a Serving<'a>,
        stream: &mut SendStream,
        length: u64,
        command: EdgeCommand,
        excluded: &'a [PathId],
    ) -> Result<Self, String> {
        let range = stream.reserve(length).map_err(|error| error.to_string())?;
        stream.finish().map_err(|error| error.to_string())?;
        Ok(Self {
            serving,
            stream: stream.id(),
            range,
            encoded: command.encode(),
            command,
            excluded,
            leased: BTreeMap::from([(PathId::PRIMARY, 0)]),
            leases: FuturesUnordered::new(),
        })
    }

    fn primary(&self) -> &'a PrimarySession {
        self.serving.primary
    }

    /// Leases it to all paths, present and to come, and fills the primary's own lease, until all
    /// of it has arrived or nobody wants it any more.
    ///
    /// # Errors
    /// When nobody is left to bring it: the client may be told why.
    pub(super) async fn deliver(
        mut self,
        object: &Object,
        record: &Record,
    ) -> Result<(), Unanswered> {
        if self.range.is_empty() {
            return Ok(());
        }
        let offset = self.command.offset;
        let foreign = self.excluded.contains(&PathId::PRIMARY);
        // Edges may join for it.
        let want = self.serving.demand.want(self.range.end - self.range.start, foreign);
        let own = if foreign {
            None
        } else {
            let leased = self.primary().lease_own(self.stream, self.range.clone());
            let (own, writer) = leased.map_err(|error| error.to_string())?;
            self.watch(PathId::PRIMARY, own);
            Some(writer)
        };
        let pace = &self.serving.server.pace;
        let mut filled = own.is_none();
        let mut why = None;
        let mut filling = pin!(async {
            let writer = own?;
            let written = |bytes| {
                want.on_written(bytes);
                record.on_sent(bytes);
            };
            let error = fill(writer, object, offset, pace, pending(), written).await.err()?;
            self.serving.server.log_given_up(object, &error);
            Some(error)
        });
        loop {
            let mut changed = pin!(self.primary().path_changed());
            // Listening before looking: no change falls in between.
            if poll!(changed.as_mut()).is_ready() {
                continue;
            }
            self.lease_to_edges();
            tokio::select! {
                error = &mut filling, if !filled => (filled, why) = (true, error),
                ended = self.leases.next() => {
                    let Some((path, Some(lease))) = ended else {
                        return Err("the session ended, or no server is left".to_owned().into());
                    };
                    match &lease.outcome {
                        // Each lease is over all of it: what holds for one holds for all.
                        Some(LeaseOutcome::Done | LeaseOutcome::Stopped) => return Ok(()),
                        _ => self.on_lost(path, &lease),
                    }
                    if self.leases.is_empty() {
                        return Err(nobody(why.as_ref()));
                    }
                }
                () = changed => {}
            }
        }
    }

    /// A path gave its lease up, or died.
    fn on_lost(&self, path: PathId, lease: &IssuedLease) {
        let Some(edge) = self.serving.edge(path) else { return };
        let quarantine = &self.serving.server.quarantine;
        if lease.reason.is_empty() || !quarantine.may_say(edge.fingerprint) {
            return;
        }
        let (name, reason) = (escape(&self.command.name), escape(&lease.reason));
        let (fingerprint, edge) = (edge.fingerprint, self.serving.address(path));
        tracing::warn!(%edge, %fingerprint, %name, %reason, "an edge brings nothing");
    }

    fn lease_to_edges(&mut self) {
        for PathInfo { id: path, deaths, .. } in self.primary().leasable_paths() {
            if self.excluded.contains(&path) || self.serving.is_quarantined(path) {
                continue;
            }
            if self.leased.insert(path, deaths).is_some_and(|before| before == deaths) {
                continue;
            }
            let (range, command) = (self.range.clone(), self.encoded.clone());
            match self.primary().lease(self.stream, range, path, command) {
                Ok(lease) => self.watch(path, lease),
                Err(error) => {
                    // It is tried again when a path changes: one that is being dialed takes few.
                    self.leased.remove(&path);
                    tracing::debug!(%path, %error, "no lease for a path");
                }
            }
        }
    }

    fn watch(&mut self, path: PathId, mut lease: Lease) {
        self.leases.push(Box::pin(async move { (path, lease.outcome().await.ok()) }));
    }
}

/// What a client is told when no server is left: why the primary is none.
fn nobody(why: Option<&SourceError>) -> Unanswered {
    why.map_or_else(
        || {
            let message = "no server is left that could bring the object".to_owned();
            Failure { code: FailureCode::NoSource, message }.into()
        },
        Unanswered::from,
    )
}
