//! What the driver needs of a machine beyond [`Machine`], per role.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use kwik_proto::ack::{ArrivedPackets, SharedSent};
use kwik_proto::mapping::{MappingKey, Verdict};
use kwik_proto::path::{PathInfo, PathStatus};
use kwik_proto::session::{Activity, ClientSession, Machine, ResumeAttempt};
use kwik_proto::stats::{ScheduleStats, SessionStats};
use kwik_proto::stream::{Delivered, Destination, ReceivedBytes, SharedRecv, StreamTable};
use kwik_proto::wire::control::{AuthenticationRequest, RawPacketTransmission, Resume};
use kwik_proto::wire::{DataOptions, SecondaryEvent};
use kwik_proto::{
    Code, CodedError, Config, ConfigError, LeaseId, MetadataRecovery, PathId,
    SecondaryStreamConfig, SessionId, StreamId,
};

use crate::quic::Figures;

mod servers;

fn refused(what: &str) -> CodedError {
    CodedError::new(Code::InvalidStreamRole, format!("{what} for this role"))
}

fn delivered(streams: &StreamTable) -> Vec<(Delivered, Option<SharedRecv>)> {
    let halves = streams.iter().map(|halves| halves.recv.clone());
    streams.delivered().into_iter().zip(halves).collect()
}

fn joining(paths: Vec<PathInfo>) -> Vec<(PathId, PathStatus)> {
    let expected = |path: &PathInfo| {
        matches!(path.status, PathStatus::Connecting | PathStatus::Dead) && !path.ended
    };
    paths.into_iter().filter(expected).map(|path| (path.id, path.status)).collect()
}

/// A machine with its data plane. What a role does not take is a violation by the peer.
pub(crate) trait Role: Machine + 'static {
    /// The packets of the path that is written here.
    fn sent(&self) -> SharedSent;

    /// What the packets that come on a path are subject to; none as long as that is not known.
    fn data_options(&self, _: PathId) -> Option<DataOptions> {
        Some(DataOptions::default())
    }

    /// Packets came whole over a path.
    fn on_packets(&mut self, _: PathId, _: &ArrivedPackets, _: Instant) -> Result<(), CodedError> {
        Err(refused("a data packet"))
    }

    /// Where the payload goes that a data frame names, without opening the stream.
    fn destination(&self, _: PathId, _: StreamId) -> Result<Destination, CodedError> {
        Err(refused("stream data"))
    }

    /// The receiving half that a data frame names, which may open the stream; none when what comes
    /// is to be drained.
    fn receiving(
        &mut self,
        _: PathId,
        _: StreamId,
        _: Instant,
    ) -> Result<Option<SharedRecv>, CodedError> {
        Err(refused("stream data"))
    }

    /// A batch was put into a receiving half.
    fn on_received(&mut self, _: PathId, _: StreamId, _: ReceivedBytes, _: Instant) {}

    /// What a server's session is worth its slot for; none of a client's, which takes none.
    fn activity(&self) -> Option<Activity> {
        None
    }

    /// Why each path has what it has, at a client.
    fn schedule_stats(&self, _: Instant) -> Vec<ScheduleStats> {
        Vec::new()
    }

    /// Which session it is, once that is known.
    fn session_id(&self) -> Option<SessionId>;

    /// What it has counted, where its role counts.
    fn totals(&self, _: Instant) -> Option<SessionStats> {
        None
    }

    /// What was delivered of each of its streams, and what knows how much of that is read.
    fn delivered(&self) -> Vec<(Delivered, Option<SharedRecv>)> {
        Vec::new()
    }

    /// Whether payload came or was acknowledged, as far as its role asks.
    fn bore(&self, _: Instant) -> bool {
        false
    }

    /// Figures of a path's connection.
    fn on_figures(&mut self, _: PathId, _: Figures, _: Instant) {}

    /// A path that the client lost is still wanted.
    fn renew_grant(&mut self, _: PathId, _: Instant, _: SystemTime) {}

    /// A dialed path is connected; false when nobody wants it any more.
    fn handle_connected(&mut self, _: PathId, _: &[u8; 32], _: Instant) -> bool {
        false
    }

    /// A connection to the primary stands that may take path 0 up, with this round-trip time.
    fn begin_resume(&mut self, _: &[u8; 32], _: Duration, _: Instant) -> Option<ResumeAttempt> {
        None
    }

    /// The primary has answered; false when nobody waits for it any more.
    fn handle_resumed(&mut self, _: &Resume, _: Instant) -> bool {
        false
    }

    /// To an attempt there was no answer, or a refusal; true when that ends the session.
    fn on_redial_failed(&mut self, _: u64, _: Option<&CodedError>, _: Instant) -> bool {
        false
    }

    /// How long a connection may take to stand on which the primary is to hear that the session was
    /// closed, if there is need of one.
    fn farewell(&self) -> Option<Duration> {
        None
    }

    /// That connection stands.
    fn begin_farewell(&mut self, _: &[u8; 32], _: Duration) -> Option<ResumeAttempt> {
        None
    }

    /// A client says that this is its session: what it is answered, and the control frame that is
    /// due of it.
    fn handle_resume(
        &mut self,
        _: &AuthenticationRequest,
        _: &[u8; 32],
        _: &Resume,
        _: Instant,
    ) -> Result<(Bytes, u64), CodedError> {
        Err(refused("to take a session up"))
    }

    /// Bytes that it holds for its application and its peer.
    fn kept(&self) -> u64 {
        0
    }

    /// A session without a connection has to make room.
    fn end_lost(&mut self, _: Instant) {}

    /// What became of a raw packet that was to be forwarded.
    fn on_raw_forwarded(&mut self, _: PathId, _: u64, _: Result<(), Code>, _: Instant) {}

    /// Whether one more raw packet finds room; else it waits to be read.
    fn takes_raw(&self) -> bool {
        true
    }

    /// Whether a path may open secondary streams (7.1).
    fn takes_secondary(&self, _: PathId) -> bool {
        false
    }

    /// The limits of secondary streams.
    fn secondary_config(&self) -> SecondaryStreamConfig {
        SecondaryStreamConfig::default()
    }

    /// What follows when a secondary stream breaks its protocol.
    fn metadata_recovery(&self) -> MetadataRecovery {
        MetadataRecovery::default()
    }

    /// The lease under which a path may write at a place.
    fn lease_at(&self, _: PathId, _: StreamId, _: u64) -> Option<LeaseId> {
        None
    }

    /// A secondary stream is to say again where it writes.
    fn request_mapping(&mut self, _: MappingKey, _: Instant) {}

    /// A secondary stream that broke its protocol is given up.
    fn on_metadata_violation(
        &mut self,
        _: PathId,
        _: Option<u64>,
        _: Option<(StreamId, u64)>,
        _: Instant,
    ) {
    }

    /// With which code a secondary stream is to be stopped, if it is.
    fn secondary_stopped(&self, _: MappingKey) -> Option<Code> {
        None
    }

    /// A frame of a secondary stream other than data: what becomes of the stream.
    fn handle_secondary(
        &mut self,
        _: PathId,
        _: &SecondaryEvent,
        _: Instant,
    ) -> Result<Verdict, CodedError> {
        Err(refused("a secondary stream"))
    }

    /// Data of a secondary stream came: how much, how much of it was new, and where it goes on.
    fn on_mapped(&mut self, _: MappingKey, _bytes: (u64, u64), _offset: u64, _: Instant) {}

    /// A secondary stream's QUIC stream has ended.
    fn on_secondary_ended(&mut self, _: MappingKey) {}

    /// A raw packet came on a path's raw stream.
    fn handle_raw(&mut self, _: &RawPacketTransmission) -> Result<(), CodedError> {
        Err(refused("a raw packet"))
    }
}

/// A machine with streams for its application.
pub(crate) trait StreamRole: Role {
    /// Its streams.
    fn streams(&self) -> &StreamTable;

    /// Opens, accepts and resets streams.
    fn streams_mut(&mut self) -> &mut StreamTable;

    /// The application read from a stream.
    fn on_consumed(&mut self, id: StreamId, now: Instant);

    /// The application reads a stream no more.
    fn stop(&mut self, id: StreamId, code: u64, now: Instant);

    /// Figures.
    fn stats(&self, now: Instant) -> SessionStats;

    /// The primary has accepted the client.
    fn is_established(&self) -> bool;

    /// Paths that are being made, or are expected to answer again.
    fn joining(&self) -> Vec<(PathId, PathStatus)>;

    /// Goes on with other settings.
    fn set_config(&mut self, config: Config, now: Instant) -> Result<(), ConfigError>;
}

impl Role for ClientSession {
    fn session_id(&self) -> Option<SessionId> {
        self.id()
    }

    fn totals(&self, now: Instant) -> Option<SessionStats> {
        Some(self.stats(now))
    }

    fn delivered(&self) -> Vec<(Delivered, Option<SharedRecv>)> {
        delivered(self.streams())
    }

    fn bore(&self, now: Instant) -> bool {
        let stats = self.stats(now);
        let came = stats.paths.iter().any(|path| path.figures.received > 0);
        came || stats.sent > stats.unacknowledged
    }

    fn schedule_stats(&self, now: Instant) -> Vec<ScheduleStats> {
        self.schedule_stats(now)
    }

    fn sent(&self) -> SharedSent {
        self.sent()
    }

    fn data_options(&self, path: PathId) -> Option<DataOptions> {
        self.data_options(path)
    }

    fn on_packets(
        &mut self,
        path: PathId,
        arrived: &ArrivedPackets,
        now: Instant,
    ) -> Result<(), CodedError> {
        self.on_packets(path, arrived, now)
    }

    fn destination(&self, path: PathId, id: StreamId) -> Result<Destination, CodedError> {
        self.streams().destination(path, id)
    }

    fn receiving(
        &mut self,
        path: PathId,
        id: StreamId,
        now: Instant,
    ) -> Result<Option<SharedRecv>, CodedError> {
        self.streams_mut().receiving(path, id, now)
    }

    fn on_received(&mut self, path: PathId, id: StreamId, bytes: ReceivedBytes, now: Instant) {
        self.on_received(path, id, bytes, now);
    }

    fn on_figures(&mut self, path: PathId, figures: Figures, now: Instant) {
        self.on_rtt(path, figures.rtt);
        self.on_arrived(path, figures.arrived, now);
    }

    fn handle_connected(&mut self, path: PathId, exporter: &[u8; 32], now: Instant) -> bool {
        self.handle_connected(path, exporter, now)
    }

    fn on_raw_forwarded(
        &mut self,
        path: PathId,
        sequence: u64,
        result: Result<(), Code>,
        now: Instant,
    ) {
        self.on_raw_forwarded(path, sequence, result, now);
    }

    fn begin_resume(
        &mut self,
        exporter: &[u8; 32],
        rtt: Duration,
        now: Instant,
    ) -> Option<ResumeAttempt> {
        self.begin_resume(exporter, rtt, now)
    }

    fn handle_resumed(&mut self, m: &Resume, now: Instant) -> bool {
        self.handle_resumed(m, now)
    }

    fn on_redial_failed(
        &mut self,
        attempt: u64,
        refused: Option<&CodedError>,
        now: Instant,
    ) -> bool {
        self.on_redial_failed(attempt, refused, now)
    }

    fn farewell(&self) -> Option<Duration> {
        self.farewell()
    }

    fn begin_farewell(&mut self, exporter: &[u8; 32], rtt: Duration) -> Option<ResumeAttempt> {
        self.begin_farewell(exporter, rtt)
    }

    fn takes_secondary(&self, path: PathId) -> bool {
        !path.is_primary()
    }

    fn handle_secondary(
        &mut self,
        path: PathId,
        event: &SecondaryEvent,
        now: Instant,
    ) -> Result<Verdict, CodedError> {
        self.handle_secondary(path, event, now)
    }

    fn secondary_config(&self) -> SecondaryStreamConfig {
        self.streams().config().secondary()
    }

    fn metadata_recovery(&self) -> MetadataRecovery {
        self.streams().config().recovery().metadata()
    }

    fn lease_at(&self, path: PathId, stream: StreamId, offset: u64) -> Option<LeaseId> {
        self.lease_at(path, stream, offset)
    }

    fn request_mapping(&mut self, key: MappingKey, now: Instant) {
        self.request_mapping(key, now);
    }

    fn on_metadata_violation(
        &mut self,
        path: PathId,
        id: Option<u64>,
        place: Option<(StreamId, u64)>,
        now: Instant,
    ) {
        self.on_metadata_violation(path, id, place, now);
    }

    fn secondary_stopped(&self, key: MappingKey) -> Option<Code> {
        self.secondary_stopped(key)
    }

    fn on_mapped(&mut self, key: MappingKey, bytes: (u64, u64), offset: u64, now: Instant) {
        self.on_mapped(key, bytes, offset, now);
    }

    fn on_secondary_ended(&mut self, key: MappingKey) {
        self.on_secondary_ended(key);
    }
}

impl StreamRole for ClientSession {
    fn streams(&self) -> &StreamTable {
        self.streams()
    }

    fn streams_mut(&mut self) -> &mut StreamTable {
        self.streams_mut()
    }

    fn on_consumed(&mut self, id: StreamId, now: Instant) {
        self.on_consumed(id, now);
    }

    fn stop(&mut self, id: StreamId, code: u64, now: Instant) {
        self.stop(id, code, now);
    }

    fn stats(&self, now: Instant) -> SessionStats {
        self.stats(now)
    }

    fn is_established(&self) -> bool {
        self.id().is_some()
    }

    fn joining(&self) -> Vec<(PathId, PathStatus)> {
        joining(self.paths())
    }

    fn set_config(&mut self, config: Config, now: Instant) -> Result<(), ConfigError> {
        self.set_config(config, now)
    }
}
