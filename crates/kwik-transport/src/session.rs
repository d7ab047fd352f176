//! The session that applications see: quinn's `Connection`, whatever number of servers is
//! behind it.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::auth::Fingerprint;
use kwik_proto::bottleneck::{Bottleneck, Snapshot};
use kwik_proto::stats::{ScheduleStats, SessionStats, StreamMap, StreamStats};
use kwik_proto::stream::StreamMetadata;
use kwik_proto::sync::lock;
use kwik_proto::{Config, ConfigError, Dir, StreamId};

use crate::driver::{MarkPair, StreamRole};
use crate::quic::{ConnectionError, QuicStats, SendDatagramError};
use crate::streams::{RecvStream, SendStream, StreamSession, handles};

/// One session with a primary server, on either side. Cheap to clone. It is closed with code 0 when
/// its last handle is dropped, where streams, leases and their writers are handles too: as in
/// quinn, what was not delivered then may be lost.
///
/// Names, arguments and errors are those of quinn's `Connection`. What a session has more (paths,
/// leases) shows on a server's [`PrimarySession`](crate::PrimarySession) alone (1.3).
#[derive(Clone)]
pub struct Session {
    shared: StreamSession,
}

impl Session {
    pub(crate) fn new(shared: StreamSession) -> Self {
        Self { shared }
    }

    /// What drives it.
    pub(crate) fn shared(&self) -> &StreamSession {
        &self.shared
    }

    /// Opens a bidirectional stream; waits while the peer's limit is reached. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.open(Dir::Bi).await.map(both)
    }

    /// Opens a unidirectional stream; waits while the peer's limit is reached. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        self.open(Dir::Uni).await.map(sending)
    }

    /// Opens a bidirectional stream of which the peer is told `metadata` (8.5); waits as
    /// [`Self::open_bi`] does. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn open_bi_with(
        &self,
        metadata: StreamMetadata,
    ) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.open_with(Dir::Bi, metadata).await.map(both)
    }

    /// Opens a unidirectional stream of which the peer is told `metadata` (8.5); waits as
    /// [`Self::open_uni`] does. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn open_uni_with(
        &self,
        metadata: StreamMetadata,
    ) -> Result<SendStream, ConnectionError> {
        self.open_with(Dir::Uni, metadata).await.map(sending)
    }

    /// Opens a bidirectional stream if that needs no waiting.
    ///
    /// # Errors
    /// The session is over.
    pub fn try_open_bi(&self) -> Result<Option<(SendStream, RecvStream)>, ConnectionError> {
        Ok(self.try_open(Dir::Bi, &StreamMetadata::default())?.map(both))
    }

    /// Opens a unidirectional stream if that needs no waiting.
    ///
    /// # Errors
    /// The session is over.
    pub fn try_open_uni(&self) -> Result<Option<SendStream>, ConnectionError> {
        Ok(self.try_open(Dir::Uni, &StreamMetadata::default())?.map(sending))
    }

    /// The next bidirectional stream of the peer. Streams of secondaries never show here (7.1).
    /// Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.accept(Dir::Bi).await.map(both)
    }

    /// The next unidirectional stream of the peer. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        self.accept(Dir::Uni).await.map(receiving)
    }

    fn try_open(
        &self,
        dir: Dir,
        metadata: &StreamMetadata,
    ) -> Result<Option<Handles>, ConnectionError> {
        if let Some(error) = self.shared.close_reason() {
            return Err(error);
        }
        let halves =
            self.shared.drive(|machine, now| machine.streams_mut().open_with(dir, metadata, now));
        let handles = halves.map(|halves| handles(&self.shared, halves, false));
        if let Some((Some(send), _)) = &handles {
            send.set_priority(metadata.priority().into())
                .expect("invariant: a stream that was opened just now has not ended");
        }
        Ok(handles)
    }

    async fn open(&self, dir: Dir) -> Result<Handles, ConnectionError> {
        self.wait_open(dir, &StreamMetadata::default()).await
    }

    async fn open_with(
        &self,
        dir: Dir,
        mut metadata: StreamMetadata,
    ) -> Result<Handles, ConnectionError> {
        metadata.set_created_at(self.shared.runtime.wall_clock());
        self.wait_open(dir, &metadata).await
    }

    async fn wait_open(
        &self,
        dir: Dir,
        metadata: &StreamMetadata,
    ) -> Result<Handles, ConnectionError> {
        let open = || self.try_open(dir, metadata).transpose();
        self.shared.wait_for(self.shared.openable(dir), open).await?
    }

    async fn accept(&self, dir: Dir) -> Result<Handles, ConnectionError> {
        // Accepting may make room for the peer's next stream.
        let next = || self.shared.drive(|machine, _| machine.streams_mut().accept(dir));
        let halves = self.shared.wait_for(self.shared.acceptable(dir), next).await?;
        Ok(handles(&self.shared, halves, true))
    }

    /// Sends an unreliable datagram to the peer, where both sides have turned datagrams on
    /// ([`QuicConfig::datagram_receive_buffer`](crate::QuicConfig::datagram_receive_buffer)). While
    /// the session has no connection it is lost, as any datagram may be.
    ///
    /// # Errors
    /// See [`SendDatagramError`].
    pub fn send_datagram(&self, data: Bytes) -> Result<(), SendDatagramError> {
        match self.shared.connection().send_datagram(data) {
            Err(SendDatagramError::ConnectionLost(_)) => {
                self.close_reason().map_or(Ok(()), |error| Err(error.into()))
            }
            sent => sent,
        }
    }

    /// The next unreliable datagram of the peer; none comes where datagrams are off. Cancel safe.
    ///
    /// # Errors
    /// The session is over.
    pub async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        match &self.shared.datagrams {
            Some(datagrams) => self.shared.wait_for(datagrams.arrived(), || datagrams.pop()).await,
            None => Err(self.closed().await),
        }
    }

    /// The largest datagram that fits now; none when the peer takes none.
    #[must_use]
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.shared.connection().max_datagram_size()
    }

    /// Closes the session and every path of it at once; what was not delivered may be lost. While
    /// the primary is away it is dialed for up to
    /// [`FAREWELL_TIME`](kwik_proto::limits::FAREWELL_TIME), only to hear of that, as long as the
    /// endpoint is there and is not closed: [`Endpoint::wait_idle`](crate::Endpoint::wait_idle)
    /// waits for that.
    pub fn close(&self, error_code: u64, reason: &[u8]) {
        self.shared.close(error_code, reason);
    }

    /// Whether the primary has answered that it knows of the end, after [`Self::close`]. QUIC says
    /// it once and nobody repeats it, so that this may stay false.
    #[must_use]
    pub fn is_end_heard(&self) -> bool {
        self.shared.connection().is_end_heard()
    }

    /// Waits until the session is over: why. Cancel safe.
    pub async fn closed(&self) -> ConnectionError {
        self.shared.closed().await
    }

    /// Why the session is over, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.shared.close_reason()
    }

    /// Smoothed round-trip time to the primary.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.shared.connection().rtt()
    }

    /// Figures of the session and its paths.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        let stats = self.with_figures(|machine, now| machine.stats(now));
        self.with_connections(stats)
    }

    /// All figures of the session at one time: what [`Bottleneck::of`] judges.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.with_figures(|machine, now| Snapshot {
            at: now,
            established: machine.is_established(),
            session: machine.stats(now),
            streams: machine.streams().stream_stats(),
            schedule: machine.schedule_stats(now),
            joining: machine.joining(),
        });
        snapshot.session = self.with_connections(snapshot.session);
        snapshot
    }

    /// What keeps the session from being faster (8.8): in the time since this was last asked, of
    /// 250 ms at the least, or since its begin. Its text is one sentence.
    ///
    /// ```
    /// # async fn look(session: &kwik::Session) {
    /// println!("limited by {}", session.blocked_on());
    /// # }
    /// ```
    #[must_use]
    pub fn blocked_on(&self) -> Bottleneck {
        self.judged().1
    }

    /// All figures, and what they say. At a primary its own path has the rate at which it sends.
    #[must_use]
    pub fn judged(&self) -> (Snapshot, Bottleneck) {
        let mut snapshot = self.snapshot();
        let bottleneck = MarkPair::judge(&mut lock(&self.shared.marks), &mut snapshot);
        (snapshot, bottleneck)
    }

    pub(crate) fn each_connection(&self, each: impl FnMut(&QuicStats)) {
        self.shared.each_connection(each);
    }

    /// Looks at the machine once it knows the figures of its connections.
    fn with_figures<R>(&self, look: impl FnOnce(&dyn StreamRole, Instant) -> R) -> R {
        let figures = self.shared.figures();
        self.shared.drive(|machine, now| {
            for (path, figures) in figures {
                machine.on_figures(path, figures, now);
            }
            look(machine, now)
        })
    }

    fn with_connections(&self, mut stats: SessionStats) -> SessionStats {
        stats.quic_streams = self.shared.pool.quic_streams();
        for path in &mut stats.paths {
            let Some(connection) = self.shared.connection_of(path.id) else { continue };
            let udp = connection.udp_bytes();
            (path.udp_sent, path.udp_received) = (udp.sent, udp.received);
            path.congestion = Some(connection.congestion_stats());
        }
        stats
    }

    /// Why each path of a client's session has what it has: what is known of it, what it was asked
    /// for, and what was decided last. Empty at a server.
    #[must_use]
    pub fn schedule_stats(&self) -> Vec<ScheduleStats> {
        let now = self.shared.runtime.now();
        self.shared.look(|machine| machine.schedule_stats(now))
    }

    /// Figures of every live stream: buffers, gaps, credit, backpressure (10.1).
    #[must_use]
    pub fn stream_stats(&self) -> Vec<StreamStats> {
        self.shared.look(|machine| machine.streams().stream_stats())
    }

    /// Where each part of a stream that this side reads is; none where there is no such stream.
    #[must_use]
    pub fn stream_map(&self, stream: StreamId) -> Option<StreamMap> {
        self.shared.look(|machine| machine.streams().stream_map(stream))
    }

    /// The settings in force (8.8).
    #[must_use]
    pub fn config(&self) -> Config {
        self.shared.look(|machine| machine.streams().config().clone())
    }

    /// Goes on with other settings: what was granted stays so, the rest takes effect at once (8.8).
    ///
    /// # Errors
    /// They contradict each other, or one of them is agreed on when a session starts; nothing has
    /// changed then.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        let new = config.clone();
        self.shared.drive(|machine, now| machine.set_config(config, now))?;
        self.shared.pool.configure(&new);
        Ok(())
    }

    /// The peer's address.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.shared.connection().remote_address()
    }

    /// UDP payload of the largest packets that got through to the peer so far, in bytes: it grows
    /// from 1,200 within some round trips.
    #[must_use]
    pub fn path_mtu(&self) -> u16 {
        self.shared.connection().path_mtu()
    }

    /// The server's key, at a client.
    #[must_use]
    pub fn peer_fingerprint(&self) -> Option<Fingerprint> {
        self.shared.connection().peer_key()
    }
}

type Handles = (Option<SendStream>, Option<RecvStream>);

fn both((send, recv): Handles) -> (SendStream, RecvStream) {
    const BOTH: &str = "invariant: both sides of a bidirectional stream write and read it";
    (send.expect(BOTH), recv.expect(BOTH))
}

fn sending((send, _): Handles) -> SendStream {
    send.expect("invariant: the opener of a unidirectional stream writes it")
}

fn receiving((_, recv): Handles) -> RecvStream {
    recv.expect("invariant: the accepter of a unidirectional stream reads it")
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("remote", &self.remote_address()).finish_non_exhaustive()
    }
}
