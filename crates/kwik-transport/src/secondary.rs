//! A server's part in a session whose primary is another server (1.4): it writes for leases, and
//! opens nothing.

use bytes::Bytes;
use kwik_proto::mapping::Mapping;
use kwik_proto::session::SecondarySession as Machine;
use kwik_proto::{Config, ConfigError, PathId, SessionId, StreamId};

use crate::driver::Held;
use crate::lease::{LeaseWriter, WriterSession};
use crate::mapped::{OpenStreamError, SecondaryStream};
use crate::quic::{ConnectionError, QuicStats};

/// One path of somebody's session, at the secondary it leads to. Cheap to clone; the path is closed
/// with code 0 when its last handle is dropped, where lease writers are handles too.
#[derive(Debug, Clone)]
pub struct SecondarySession {
    shared: Held<Machine>,
}

impl SecondarySession {
    pub(crate) fn new(shared: Held<Machine>) -> Self {
        Self { shared }
    }

    /// The session that it serves.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.shared.look(|machine| machine.id())
    }

    pub(crate) fn each_connection(&self, each: impl FnMut(&QuicStats)) {
        self.shared.each_connection(each);
    }

    /// Which of the session's paths it is.
    #[must_use]
    pub fn path(&self) -> PathId {
        self.shared.look(|machine| machine.path())
    }

    /// The next lease of the primary that the client activated. Cancel safe.
    ///
    /// # Errors
    /// The path is over.
    pub async fn accept_lease(&self) -> Result<LeaseWriter, ConnectionError> {
        let next = || self.shared.drive(|machine, _| machine.accept_lease());
        let writer = self.shared.wait_for(&self.shared.waiters.leases, next).await?;
        Ok(LeaseWriter::new(WriterSession::Secondary(self.shared.clone()), writer))
    }

    /// Opens a stream that writes into `stream` of the client from `offset` on (7.2). Waits until
    /// the primary has leased this path a range that covers it, and that neither
    /// [`Self::accept_lease`] nor another stream has taken. Cancel safe.
    ///
    /// # Errors
    /// See [`OpenStreamError`].
    pub async fn open_stream(
        &self,
        stream: StreamId,
        offset: u64,
    ) -> Result<SecondaryStream, OpenStreamError> {
        let shared = &self.shared;
        let open = || shared.drive(|machine, now| machine.open_stream(stream, offset, now));
        let opened = shared.wait_for(&shared.waiters.leases, || open().transpose()).await?;
        let mapped = opened.map_err(|_| OpenStreamError::TooMany)?;
        Ok(SecondaryStream::new(shared.clone(), mapped, offset))
    }

    /// Opens a stream that writes into `stream` of the client from `offset` on, without a lease
    /// (7.2), as far as the client asks for it. Waits until the client has taken it, which it does
    /// where [`SecondaryWrites::Open`](kwik_proto::SecondaryWrites::Open) is set and the primary
    /// has opened that stream; tries again as
    /// [`Recovery::mapping`](kwik_proto::Recovery::mapping) says. Cancel safe.
    ///
    /// # Errors
    /// See [`OpenStreamError`].
    pub async fn open_unleased(
        &self,
        stream: StreamId,
        offset: u64,
    ) -> Result<SecondaryStream, OpenStreamError> {
        let shared = &self.shared;
        let mut attempt = 0;
        loop {
            let retry = shared.look(|machine| machine.config().recovery().mapping());
            let opened = shared.drive(|machine, now| machine.open_unleased(stream, offset, now));
            let mapped = opened.map_err(|_| OpenStreamError::TooMany)?;
            let mut opened = SecondaryStream::new(shared.clone(), mapped, offset);
            if opened.is_taken(shared.runtime.now() + retry.timeout()).await? {
                return Ok(opened);
            }
            drop(opened);
            if attempt >= retry.retries() {
                return Err(OpenStreamError::Refused(attempt + 1));
            }
            shared.runtime.sleep_until(shared.runtime.now() + retry.wait(attempt)).await;
            attempt += 1;
        }
    }

    /// Asks the client where this server goes on in a stream, of which it has written all before
    /// `offset` (7.4): at the lowest offset that it may bring, that is missing, and that no other
    /// server was asked for; at `offset` if there is none. Cancel safe.
    ///
    /// # Errors
    /// The path is over, or too many questions are open.
    pub async fn sync_offset(&self, stream: StreamId, offset: u64) -> Result<u64, OpenStreamError> {
        let shared = &self.shared;
        let asked = shared.drive(|machine, now| machine.request_sync(stream, offset, now));
        asked.map_err(|_| OpenStreamError::TooMany)?;
        let answer = || shared.drive(|machine, _| machine.take_sync(stream));
        Ok(shared.wait_for(&shared.waiters.secondary, answer).await?)
    }

    /// The settings in force (8.8).
    #[must_use]
    pub fn config(&self) -> Config {
        self.shared.look(|machine| machine.config().clone())
    }

    /// Goes on with other settings (8.8).
    ///
    /// # Errors
    /// They contradict each other, or one of them is agreed on when a session starts; nothing has
    /// changed then.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        self.shared.drive(|machine, _| machine.set_config(config))
    }

    /// The open secondary streams and where they write (7.3).
    #[must_use]
    pub fn mappings(&self) -> Vec<Mapping> {
        self.shared.look(|machine| machine.mappings().cloned().collect())
    }

    /// The next raw packet of the primary (6.1). Cancel safe.
    ///
    /// # Errors
    /// The path is over.
    pub async fn recv_raw(&self) -> Result<Bytes, ConnectionError> {
        let next = || self.shared.drive(|machine, _| machine.recv_raw());
        let packet = self.shared.wait_for(&self.shared.waiters.raw, next).await?;
        // There is room for one more.
        self.shared.waiters.raw.notify_waiters();
        Ok(packet)
    }

    /// Leaves the session; the client asks others for what is missing.
    pub fn close(&self, error_code: u64, reason: &[u8]) {
        self.shared.close(error_code, reason);
    }

    /// Waits until the path is over: why. Cancel safe.
    pub async fn closed(&self) -> ConnectionError {
        self.shared.closed().await
    }
}
