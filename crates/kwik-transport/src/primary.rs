//! A server's session whose primary it is: streams, and the control plane that its client never
//! sees (1.3).

use std::net::SocketAddr;
use std::ops::Range;

use bytes::Bytes;
use kwik_proto::auth::Fingerprint;
use kwik_proto::lease::IssuedLease;
use kwik_proto::path::{PathEvent, PathInfo, PathStatus};
use kwik_proto::session::{Blamed, PrimarySession as Machine, RelayReport, Uncovered};
use kwik_proto::{CodedError, LeaseId, LogCursor, PathId, SessionId, StreamId, escape};

use crate::driver::Held;
use crate::lease::{Lease, LeaseWriter, WriterSession};
use crate::quic::ConnectionError;
use crate::session::Session;

/// A path could not be made or is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The client could not make it: why.
    #[error("the client could not make the path: {}", escape(.0))]
    Failed(String),
    /// It cannot be asked for, or does not exist.
    #[error("{0}")]
    Refused(CodedError),
    /// The session is over.
    #[error("session lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
}

/// A session of which this server is the primary. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PrimarySession {
    shared: Held<Machine>,
    session: Session,
}

impl PrimarySession {
    pub(crate) fn new(shared: Held<Machine>) -> Self {
        Self { session: Session::new(shared.streams()), shared }
    }

    /// Its streams.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.look(|machine| machine.id())
    }

    /// What [`ServerConfig::authenticator`](crate::ServerConfig::authenticator) said of its client.
    #[must_use]
    pub fn admitted_as(&self) -> Bytes {
        self.shared.look(|machine| machine.admitted_as().clone())
    }

    /// Has the client make a path to the secondary with this key at this address (2.2). Fails when
    /// the client does not answer within [`limits::ANSWER_TIMEOUT`]. Not cancel safe: the path may
    /// still come.
    ///
    /// [`limits::ANSWER_TIMEOUT`]: kwik_proto::limits::ANSWER_TIMEOUT
    ///
    /// # Errors
    /// See [`PathError`].
    pub async fn add_path(
        &self,
        address: SocketAddr,
        edge: Fingerprint,
    ) -> Result<PathId, PathError> {
        // Grants are the one thing of KWIK that needs the wall clock.
        let wall = self.shared.runtime.wall_clock();
        let address = address.to_string();
        let added = self.shared.drive(|machine, now| machine.add_path(&address, edge, now, wall));
        let path = added.map_err(PathError::Refused)?;
        let settled = || {
            let info = self.path(path)?;
            match info.status {
                // Leaving already: it ends as dead.
                PathStatus::Connecting | PathStatus::Disconnecting => None,
                _ if info.ended => Some(Err(PathError::Failed(info.reason))),
                _ => Some(Ok(path)),
            }
        };
        self.shared.wait_for(&self.shared.waiters.paths, settled).await?
    }

    /// Has the client leave a path once it brought what it was asked for (2.3). Not cancel safe: it
    /// leaves anyway.
    ///
    /// # Errors
    /// The path is unknown or dead; the primary's own cannot be removed.
    pub async fn remove_path(&self, path: PathId) -> Result<(), PathError> {
        let asked = self.shared.drive(|machine, now| machine.remove_path(path, now));
        asked.map_err(PathError::Refused)?;
        let lives = |info: PathInfo| !info.ended;
        let gone = || (!self.path(path).is_some_and(lives)).then_some(());
        Ok(self.shared.wait_for(&self.shared.waiters.paths, gone).await?)
    }

    /// Gives a path up at once and for good (2.4).
    ///
    /// # Errors
    /// The path is unknown or dead; the primary's own cannot be given up.
    pub fn mark_dead(&self, path: PathId) -> Result<(), CodedError> {
        self.shared.drive(|machine, now| machine.mark_dead(path, now))
    }

    fn path(&self, path: PathId) -> Option<PathInfo> {
        let all = self.all_paths();
        all.into_iter().find(|info| info.id == path)
    }

    /// Paths that carry data.
    #[must_use]
    pub fn active_paths(&self) -> Vec<PathInfo> {
        self.shared.look(|machine| machine.paths().active())
    }

    /// Paths that may be given leases: those that carry data, and those that the client is dialing,
    /// whose leases wait with it, at most 64 each, and are lost if the path is never made.
    #[must_use]
    pub fn leasable_paths(&self) -> Vec<PathInfo> {
        self.shared.look(|machine| machine.paths().leasable())
    }

    /// Paths that died.
    #[must_use]
    pub fn dead_paths(&self) -> Vec<PathInfo> {
        self.shared.look(|machine| machine.paths().dead())
    }

    /// Every path since the session began.
    #[must_use]
    pub fn all_paths(&self) -> Vec<PathInfo> {
        self.shared.look(|machine| machine.paths().all())
    }

    /// What happens to paths from now on, with reasons and figures (2.5). Each reader gets all of
    /// it, the last [`limits::MAX_PATH_EVENTS`] when it is slow.
    ///
    /// [`limits::MAX_PATH_EVENTS`]: kwik_proto::limits::MAX_PATH_EVENTS
    #[must_use]
    pub fn path_events(&self) -> PathEvents {
        let cursor = self.shared.look(|machine| machine.path_events());
        PathEvents { shared: self.shared.clone(), cursor }
    }

    /// Missing ranges that no live lease covers, from now on. Leased anew they still come;
    /// else their reader fails 5 s later. A lease that is lost says the same of its own range
    /// as its outcome.
    #[must_use]
    pub fn uncovered(&self) -> UncoveredEvents {
        let cursor = self.shared.look(|machine| machine.uncovered());
        UncoveredEvents { shared: self.shared.clone(), cursor }
    }

    /// Which secondaries the client isolates from now on, and for what (9.2). Their servers are
    /// leased nothing in this session again, and no path is made to them.
    #[must_use]
    pub fn blamed(&self) -> BlamedEvents {
        let cursor = self.shared.look(|machine| machine.blamed());
        BlamedEvents { shared: self.shared.clone(), cursor }
    }

    /// Waits until a path is added or changes its status after this was called; for ever once the
    /// session is over. So make it, look at [`Self::all_paths`], then await it. Cancel safe.
    pub fn path_changed(&self) -> impl Future<Output = ()> + Send {
        self.shared.waiters.paths.notified()
    }

    /// Leases a reserved range of a stream to a path; `command` is for the application there. A
    /// path that is still being dialed takes leases too ([`Self::leasable_paths`]): they travel
    /// with the order to dial, and cost no round trip of their own.
    ///
    /// # Errors
    /// The range was not reserved, the stream is over, the path is unknown or dead, or a bound is
    /// reached: `KWIK_LIMIT_EXCEEDED` also while 4 MiB have not left for the client.
    pub fn lease(
        &self,
        stream: StreamId,
        range: Range<u64>,
        path: PathId,
        command: Bytes,
    ) -> Result<Lease, CodedError> {
        let leased =
            self.shared.drive_own(|machine, now| machine.lease(stream, range, path, command, now));
        let (id, _) = leased?;
        Ok(Lease::new(self.shared.clone(), id))
    }

    /// Leases a reserved range of a stream to the primary itself.
    ///
    /// # Errors
    /// As [`Self::lease`].
    #[expect(clippy::missing_panics_doc, reason = "never, by the invariant")]
    pub fn lease_own(
        &self,
        stream: StreamId,
        range: Range<u64>,
    ) -> Result<(Lease, LeaseWriter), CodedError> {
        let path = PathId::PRIMARY;
        let none = Bytes::new();
        let leased =
            self.shared.drive_own(|machine, now| machine.lease(stream, range, path, none, now));
        let (id, writer) = leased?;
        let lease = Lease::new(self.shared.clone(), id);
        let writer = writer.expect("invariant: a lease of the primary's own path has a writer");
        let session = WriterSession::Primary(self.shared.clone());
        Ok((lease, LeaseWriter::new(session, writer)))
    }

    /// The leases that are not over, the lowest id first.
    #[must_use]
    pub fn leases(&self) -> Vec<(LeaseId, IssuedLease)> {
        self.shared
            .look(|machine| machine.leases().map(|(id, lease)| (id, lease.clone())).collect())
    }

    /// Sends an uninterpreted packet to the server at the end of a path, through the client (6.1).
    /// Its number, which [`Self::relay_report`] names.
    ///
    /// # Errors
    /// `KWIK_PACKET_TOO_LARGE`, `KWIK_PATH_NOT_FOUND`, `KWIK_PATH_DEAD`; `KWIK_LIMIT_EXCEEDED`
    /// while 4 MiB have not left for the client.
    pub fn send_raw(&self, path: PathId, data: Bytes) -> Result<u64, CodedError> {
        self.shared.drive_own(|machine, now| machine.send_raw(path, data, now))
    }

    /// What became of a raw packet; the oldest reports are dropped when nobody takes them.
    /// Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn relay_report(&self) -> Result<RelayReport, ConnectionError> {
        let next = || self.shared.drive(|machine, _| machine.take_relay_report());
        self.shared.wait_for(&self.shared.waiters.raw, next).await
    }
}

/// A reader of what happens to a session's paths.
#[derive(Debug)]
pub struct PathEvents {
    shared: Held<Machine>,
    cursor: LogCursor,
}

impl PathEvents {
    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn next(&mut self) -> Result<PathEvent, ConnectionError> {
        let Self { shared, cursor } = self;
        let next = || shared.look(|machine| machine.poll_path_event(cursor));
        shared.wait_for(&shared.waiters.paths, next).await
    }

    /// Events that were dropped because they were not taken in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.cursor.missed()
    }
}

/// A reader of which secondaries a session's client isolates.
#[derive(Debug)]
pub struct BlamedEvents {
    shared: Held<Machine>,
    cursor: LogCursor,
}

impl BlamedEvents {
    /// The next one. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn next(&mut self) -> Result<Blamed, ConnectionError> {
        let Self { shared, cursor } = self;
        let next = || shared.look(|machine| machine.poll_blamed(cursor));
        shared.wait_for(&shared.waiters.paths, next).await
    }

    /// Notices that were dropped because they were not taken in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.cursor.missed()
    }
}

/// A reader of what nobody may bring.
#[derive(Debug)]
pub struct UncoveredEvents {
    shared: Held<Machine>,
    cursor: LogCursor,
}

impl UncoveredEvents {
    /// The next stream with what is missing of it. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn next(&mut self) -> Result<Uncovered, ConnectionError> {
        let Self { shared, cursor } = self;
        let next = || shared.look(|machine| machine.poll_uncovered(cursor));
        shared.wait_for(&shared.waiters.uncovered, next).await
    }

    /// Notices that were dropped because they were not taken in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.cursor.missed()
    }
}
