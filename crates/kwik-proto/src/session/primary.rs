//! A primary's session: it owns the streams, adds paths and leases ranges to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ack::{ReceivedPackets, SentPackets, SharedSent};
use crate::auth::{Fingerprint, Identity, PublicKey, sign_raw};
use crate::control::ControlQueue;
use crate::lease::{LeaseIssuer, WriterTable};
use crate::path::{PathEvent, PathStatus, PathTable};
use crate::stats::{PacketCounts, PathStats, SessionStats};
use crate::stream::StreamTable;
use crate::sync::lock;
use crate::wire::DataOptions;
use crate::wire::control::{self, ControlMessage};
use crate::{
    Code, CodedError, Config, ConfigError, EventLog, PathId, SessionId, Side, StreamId, limits,
};

mod blame;
mod leases;
mod packets;

mod paths;

mod renewal;
mod resume;

use paths::Edge;
use resume::Home;

use super::{
    Action, Activity, Machine, Outputs, Wake, heartbeat_reply, packet_report, session_close,
    wrong_role,
};

/// Bytes of a stream that are missing at the client and that no live lease covers (5.4). Leased
/// anew they still come; else the reader there fails after [`limits::AGGREGATION_TIMEOUT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// The stream.
    pub stream: StreamId,
    /// What is missing, in order; at most [`limits::MAX_GAPS`] ranges.
    pub ranges: Vec<Range<u64>>,
}

/// A secondary that the client isolated, with what it did (9.2). Its server is leased nothing in
/// this session again. It is the client's word alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blamed {
    /// Its path, which has ended.
    pub path: PathId,
    /// Its key.
    pub server: Fingerprint,
    /// Where it wrote what it may not, or what another contradicts; none where it was no byte of a
    /// stream.
    pub place: Option<(StreamId, Range<u64>)>,
    /// What it did, in the client's words as they came.
    pub reason: String,
}

/// What became of a raw packet, as the client reports it (6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayReport {
    /// As [`PrimarySession::send_raw`] returned it.
    pub sequence: u64,
    /// The path it was for.
    pub path: PathId,
    /// None when it went on its way.
    pub error: Option<Code>,
}

/// What the application may read of what happened.
#[derive(Debug)]
struct Events {
    paths: EventLog<PathEvent>,
    uncovered: EventLog<Uncovered>,
    blamed: EventLog<Blamed>,
    relay_reports: VecDeque<RelayReport>,
}

/// The data packets of the primary's own path.
#[derive(Debug)]
struct DataPlane {
    sent: SharedSent,
    received: ReceivedPackets,
    /// What they are subject to.
    options: DataOptions,
    /// When payload last moved on any path, as far as is known here.
    moved: Instant,
}

/// How the primary's own connection does.
#[derive(Debug, Clone, Copy, Default)]
struct ConnectionFigures {
    rtt: Duration,
    packets: PacketCounts,
}

/// Who the client is.
#[derive(Debug)]
struct Client {
    key: Fingerprint,
    /// What the authenticator said of it.
    admitted_as: Bytes,
}

/// The state machine of a primary, for one client.
#[derive(Debug)]
pub struct PrimarySession {
    id: SessionId,
    identity: Arc<Identity>,
    client: Client,
    /// The client's connection.
    home: Home,
    paths: PathTable,
    /// The secondaries behind the paths that have not ended.
    edges: BTreeMap<PathId, Edge>,
    /// The servers that are leased nothing any more.
    isolated: BTreeSet<Fingerprint>,
    events: Events,
    control: ControlQueue,
    streams: StreamTable,
    issuer: LeaseIssuer,
    writers: WriterTable,
    data: DataPlane,
    connection: ConnectionFigures,
    outputs: Outputs,
}

impl PrimarySession {
    pub(super) fn new(
        id: SessionId,
        identity: Arc<Identity>,
        client_key: PublicKey,
        config: &Config,
        peer: &control::AuthenticationRequest,
        now: Instant,
    ) -> Self {
        let options = config.data_options().and(peer.data);
        let mut control = ControlQueue::keeping(now);
        let response = control::AuthenticationResponse {
            result: Ok(id),
            limits: Some(config.stream_limits()),
            data: options,
        };
        control.push(&ControlMessage::AuthenticationResponse(response), now);
        let mut paths = PathTable::default();
        let added = paths.add(String::new(), now);
        debug_assert_eq!(added, Ok(PathId::PRIMARY));
        paths.set(PathId::PRIMARY, PathStatus::Active, "", now);
        let mut streams = StreamTable::new(Side::Server, config);
        streams.handle_limits(&peer.limits.unwrap_or_default());
        Self {
            id,
            identity,
            client: Client { key: client_key.fingerprint(), admitted_as: Bytes::new() },
            home: Home::default(),
            paths,
            edges: BTreeMap::new(),
            isolated: BTreeSet::new(),
            events: Events {
                paths: EventLog::new(limits::MAX_PATH_EVENTS),
                uncovered: EventLog::new(limits::MAX_UNCOVERED_EVENTS),
                blamed: EventLog::new(limits::MAX_PATH_EVENTS),
                relay_reports: VecDeque::new(),
            },
            control,
            streams,
            issuer: LeaseIssuer::default(),
            writers: WriterTable::default(),
            data: DataPlane {
                sent: SharedSent::new(SentPackets::new(options).into()),
                received: ReceivedPackets::new(),
                options,
                moved: now,
            },
            connection: ConnectionFigures::default(),
            outputs: Outputs::default(),
        }
    }

    /// The same, whose client was admitted as this.
    pub(super) fn with_admission(mut self, admitted_as: Bytes) -> Self {
        self.client.admitted_as = admitted_as;
        self
    }

    /// What the authenticator said of the client.
    #[must_use]
    pub fn admitted_as(&self) -> &Bytes {
        &self.client.admitted_as
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The session's streams.
    #[must_use]
    pub fn streams(&self) -> &StreamTable {
        &self.streams
    }

    /// Streams: open, accept, reset. Stop with [`PrimarySession::stop`].
    pub fn streams_mut(&mut self) -> &mut StreamTable {
        &mut self.streams
    }

    /// All paths since the session began (2.4).
    #[must_use]
    pub fn paths(&self) -> &PathTable {
        &self.paths
    }

    /// Whether anything is open, and when payload last moved.
    #[must_use]
    pub fn activity(&self) -> Activity {
        let open = self.streams.iter().next().is_some() || self.issuer.iter().next().is_some();
        Activity { open, moved: self.data.moved }
    }

    /// Figures of the session; of its paths what the client last said.
    #[must_use]
    pub fn stats(&self, now: Instant) -> SessionStats {
        let paths = self.paths.active().into_iter().map(|info| PathStats {
            figures: self.figures(info.id, now),
            data: info.id.is_primary().then_some(self.data.options),
            id: info.id,
            address: info.address,
            status: info.status,
            congestion: None,
            udp_sent: 0,
            udp_received: 0,
            secondary: Default::default(),
        });
        let (unacknowledged, sent) = {
            let sent = lock(&self.data.sent);
            (sent.outstanding(), sent.total())
        };
        SessionStats {
            resumptions: self.home.resumptions(),
            paths: paths.collect(),
            leases: self.issuer.iter().count(),
            unacknowledged,
            sent,
            ..self.streams.stats(now)
        }
    }

    /// Sends an uninterpreted packet to the server at the end of a path (6.1); its sequence number.
    ///
    /// # Errors
    /// [`Code::PacketTooLarge`], [`Code::PathNotFound`], [`Code::PathDead`].
    pub fn send_raw(&mut self, path: PathId, data: Bytes, now: Instant) -> Result<u64, CodedError> {
        self.check_secondary(path)?;
        if !self.paths.is_usable(path) {
            return Err(CodedError::new(Code::PathDead, format!("path {path} is not active")));
        }
        if data.len() > limits::MAX_RAW_PACKET {
            let context = format!("a raw packet is at most {} bytes", limits::MAX_RAW_PACKET);
            return Err(CodedError::new(Code::PacketTooLarge, context));
        }
        let sequence = self.issuer.next_sequence(path);
        let signature = sign_raw(&self.identity, self.id, path, sequence, &data);
        self.send(
            &ControlMessage::RawPacketTransmission(control::RawPacketTransmission {
                data,
                target_path_id: path,
                sequence,
                signature: Some(signature),
            }),
            now,
        );
        Ok(sequence)
    }

    /// The next report on a raw packet ([`Wake::Raw`]); the oldest are dropped when nobody
    /// takes them.
    pub fn take_relay_report(&mut self) -> Option<RelayReport> {
        self.events.relay_reports.pop_front()
    }

    /// Payload of a stream came and was put into its receiving half.
    pub fn on_received(&mut self, stream: StreamId, now: Instant) {
        self.data.moved = now;
        self.streams.on_received(stream, now);
    }

    /// Goes on with other settings (8.8).
    ///
    /// # Errors
    /// See [`StreamTable::set_config`].
    pub fn set_config(&mut self, config: Config, now: Instant) -> Result<(), ConfigError> {
        self.streams.set_config(config, now)
    }

    /// The application read from a stream ([`crate::stream::RecvHalf::is_update_due`]).
    pub fn on_consumed(&mut self, stream: StreamId, now: Instant) {
        self.streams.on_consumed(stream, now, self.connection.rtt);
    }

    /// The connection's smoothed round-trip time.
    pub fn on_rtt(&mut self, rtt: Duration) {
        self.connection.rtt = rtt;
    }

    /// QUIC packets of the connection; the client is told.
    pub fn on_quic_packets(&mut self, packets: PacketCounts) {
        self.connection.packets = packets;
    }

    /// The application reads a stream no more.
    pub fn stop(&mut self, stream: StreamId, code: u64) {
        self.streams.stop(stream, code);
    }

    fn send(&mut self, message: &ControlMessage, now: Instant) {
        self.control.push(message, now);
        if self.control.is_fuller_than(limits::MAX_ANSWERS_QUEUED) {
            let context = "the client reads its control stream too slowly";
            self.end_with(&CodedError::new(Code::LimitExceeded, context));
        }
    }

    fn on_control(&mut self, message: ControlMessage, now: Instant) -> Result<(), CodedError> {
        match message {
            ControlMessage::AddPathResponse(m) => self.on_path_added(m, now),
            ControlMessage::RemovePathResponse(m) => self.on_path_removed(&m, now),
            ControlMessage::PathReport(m) => self.on_path_report(&m, now),
            ControlMessage::Uncovered(m) => self.on_uncovered(m),
            ControlMessage::Blamed(m) => self.on_blamed(m),
            ControlMessage::PathStatusNotification(m) => self.on_path_status(&m, now),
            ControlMessage::LeaseReport(m) => self.on_report(&m, now)?,
            ControlMessage::Activate(m) => match self.writers.handle_activate(&m)? {
                Some(answer) => self.send(&answer, now),
                None => self.outputs.wake(Wake::Writer(m.lease_id)),
            },
            ControlMessage::Cancel(m) => {
                if let Some(answer) = self.writers.handle_cancel(&m) {
                    self.send(&answer, now);
                }
            }
            ControlMessage::RelayReport(m) => {
                if self.events.relay_reports.len() >= limits::MAX_RAW_QUEUED {
                    self.events.relay_reports.pop_front();
                }
                let error = Code::from_u64(m.code).filter(|_| m.code != 0);
                let (sequence, path) = (m.sequence, m.path_id);
                self.events.relay_reports.push_back(RelayReport { sequence, path, error });
                self.outputs.wake(Wake::Raw);
            }
            ControlMessage::Ack(m) => self.on_ack(&m, now)?,
            ControlMessage::Heartbeat(m) => {
                if let Some(reply) = heartbeat_reply(&m) {
                    self.send(&reply, now);
                    self.send(&packet_report(PathId::PRIMARY, self.connection.packets), now);
                }
            }
            ControlMessage::SessionClose(m) => {
                self.outputs.closed_by_peer(m.code, m.reason);
                self.end(0, Bytes::new());
            }
            ControlMessage::Unknown(_) => {}
            message => {
                if !self.streams.handle_control(&message, now)? {
                    return Err(wrong_role(&message));
                }
                if let ControlMessage::MaxStreamData(m) = message {
                    self.grant_unasked(m.stream_id);
                }
            }
        }
        Ok(())
    }

    fn end_with(&mut self, error: &CodedError) {
        self.end(error.code.as_u64(), error.to_string().into());
    }

    fn end(&mut self, code: u64, reason: Bytes) {
        for lease in self.writers.end_all() {
            self.outputs.wake(Wake::Writer(lease));
        }
        self.outputs.close(code, reason);
    }
}

impl Machine for PrimarySession {
    fn handle_control(&mut self, path: PathId, message: ControlMessage, now: Instant) {
        if self.outputs.closed {
            return;
        }
        self.paths.on_active(path, now);
        self.home.receipts.on_handled(&message, now);
        if let Err(error) = self.on_control(message, now) {
            self.handle_violation(path, &error, now);
        }
    }

    fn handle_violation(&mut self, _: PathId, error: &CodedError, _: Instant) {
        self.end_with(error);
    }

    fn handle_path_lost(&mut self, _: PathId, _: &str, now: Instant) {
        self.on_home_lost(now);
    }

    // The client's heartbeats keep the path alive; acknowledgements leave with what is
    // transmitted next.
    fn handle_timeout(&mut self, now: Instant) {
        while let Some(gap) = self.streams.take_gap(now) {
            self.outputs.actions.push_back(Action::Gap(gap));
        }
        self.streams.clean_up(now);
        if self.end_if_lost(now) {
            return;
        }
        self.give_up_unanswered(now);
        self.renew_due(now);
    }

    fn close(&mut self, code: u64, reason: Bytes, now: Instant) {
        if self.outputs.closed {
            return;
        }
        self.control.push(&session_close(code, &reason), now);
        self.end(code, reason);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(PathId, Bytes)> {
        for message in self.streams.take_messages(now) {
            self.outputs.tell_of(&message);
            self.send(&message, now);
        }
        for wake in self.streams.take_wakes() {
            self.outputs.wake(Wake::Stream(wake));
        }
        while let Some(mut ack) = self.data.received.poll_ack(now) {
            ack.control_frames = self.home.receipts.tell_news();
            self.control.push(&ControlMessage::Ack(ack), now);
        }
        if self.home.receipts.is_due(now) {
            let control_frames = self.home.receipts.tell();
            let ack = control::Ack { control_frames, ..<_>::default() };
            self.control.push(&ControlMessage::Ack(ack), now);
        }
        self.control.take().map(|bytes| (PathId::PRIMARY, bytes))
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.outputs.take_action()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let timeouts =
            self.data.received.poll_timeout().into_iter().chain(self.streams.poll_timeout());
        let paths = self.next_unanswered().into_iter().chain(self.next_renewal());
        let timeouts = timeouts.chain(self.home.poll_timeout());
        timeouts.chain(paths).min().filter(|_| !self.outputs.closed)
    }
}
