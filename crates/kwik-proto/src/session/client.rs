//! The client's session: one face for the application, several paths behind it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ack::{ReceivedPackets, SentPackets, SharedSent};
use crate::auth::{DialPolicy, Identity, prove};
use crate::control::ControlQueue;
use crate::mapping::MappingTable;
use crate::path::{Health, PathEvent, PathInfo, PathInput, PathState, PathStatus, PathTable};
use crate::scheduler::{Scheduler, SchedulerEvent};
use crate::stats::{PacketCounts, PathFigures};
use crate::stream::{ReceivedBytes, StreamTable};
use crate::wire::control::{AuthenticationRequest, ControlMessage, PathStatusNotification};
use crate::wire::{DataOptions, clip};
use crate::{Code, CodedError, Config, ConfigError, PathId, SessionId, Side, StreamId, limits};

mod control;
mod disputes;
mod mapped;
mod packets;
mod paths;
mod redial;
mod reports;
mod resume;
mod stats;

use paths::Dialing;
use redial::DialTarget;
use reports::Reports;
pub use resume::ResumeAttempt;
use resume::Resumption;

use packets::wanted;

use super::{Action, Machine, Outputs, SessionEvent, Wake, session_close};

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Settings of the session.
    pub settings: Config,
    /// Where a primary may send this client (docs/protocol.md#trust).
    pub dial: DialPolicy,
    /// Opaque credentials for the primary's authenticator; at most [`limits::MAX_CREDENTIALS`].
    pub credentials: Bytes,
    /// Whether raw packets of the primary are forwarded to secondaries.
    pub relay_raw: bool,
    /// How long the primary is dialed for this session once its connection is lost
    /// ([`limits::RESUME_TIME`]). None: the session ends with its connection.
    pub resume_time: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            settings: Config::default(),
            dial: DialPolicy::default(),
            credentials: Bytes::new(),
            relay_raw: true,
            resume_time: limits::RESUME_TIME,
        }
    }
}

#[derive(Debug)]
struct ClientPath {
    control: ControlQueue,
    received: ReceivedPackets,
    /// What the packets of its server are subject to, once that is known.
    options: Option<DataOptions>,
    /// When a handshake that is still under way has failed, or a lost path is dialed again.
    deadline: Instant,
    /// When its connection stood last.
    connected: Instant,
    /// How to reach it; none of the primary, which is not dialed again.
    target: Option<DialTarget>,
    health: Health,
    /// What its server told of its packets.
    packets: PacketCounts,
}

/// The state machine of a client.
#[derive(Debug)]
pub struct ClientSession {
    config: ClientConfig,
    key: Identity,
    dialing: Dialing,
    id: Option<SessionId>,
    paths: PathTable,
    /// Boxed, as the map makes room for several at once.
    links: BTreeMap<PathId, Box<ClientPath>>,
    streams: StreamTable,
    scheduler: Scheduler,
    mappings: MappingTable,
    /// When they are looked at next.
    mappings_at: Instant,
    reports: Reports,
    /// The packets of path 0; a client sends none on others.
    sent: SharedSent,
    /// The connection of path 0.
    home: Resumption,
    outputs: Outputs,
}

impl ClientSession {
    /// A session over a connection to `primary`; its first flight waits to be transmitted. `key` is
    /// a fresh identity of this session alone.
    #[must_use]
    pub fn new(config: ClientConfig, key: Identity, primary: SocketAddr, now: Instant) -> Self {
        let mut paths = PathTable::default();
        let added = paths.add(primary.to_string(), now);
        debug_assert_eq!(added, Ok(PathId::PRIMARY));
        let mut control = ControlQueue::keeping(now);
        let request = AuthenticationRequest {
            session_id: None,
            credentials: config.credentials.clone(),
            protocol_version: limits::PROTOCOL_VERSION,
            client_key: Some(key.public_key()),
            path_id: PathId::PRIMARY,
            proof: None,
            limits: Some(config.settings.stream_limits()),
            data: wanted(&config),
        };
        control.push(&ControlMessage::AuthenticationRequest(request), now);
        let deadline = now + limits::INTRODUCTION_TIMEOUT;
        let link = ClientPath::new(&config, control, deadline, None, now);
        // A server that takes no checksums passes over them; what it has not agreed to take is
        // not sent.
        let options = DataOptions { compression: false, ..wanted(&config) };
        let mut scheduler = Scheduler::default();
        scheduler.add_path(PathId::PRIMARY, now);
        scheduler.on_path(PathId::PRIMARY, PathInput::Connected);
        let home = Resumption::new(config.resume_time, now);
        Self {
            streams: StreamTable::new(Side::Client, &config.settings),
            config,
            key,
            dialing: Dialing::new(primary.ip()),
            id: None,
            paths,
            links: BTreeMap::from([(PathId::PRIMARY, link.into())]),
            scheduler,
            mappings: MappingTable::default(),
            mappings_at: now,
            reports: Reports::new(now),
            sent: SharedSent::new(SentPackets::new(options).into()),
            home,
            outputs: Outputs::default(),
        }
    }

    /// The session's id, once the primary has answered.
    #[must_use]
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// The session's streams.
    #[must_use]
    pub fn streams(&self) -> &StreamTable {
        &self.streams
    }

    /// Streams: open, accept, reset. Stop with [`ClientSession::stop`].
    pub fn streams_mut(&mut self) -> &mut StreamTable {
        &mut self.streams
    }

    /// All paths since the session began.
    #[must_use]
    pub fn paths(&self) -> Vec<PathInfo> {
        self.paths.all()
    }

    /// The connection of a path that [`Action::Dial`] asked for stands: authenticate on it.
    /// `exporter` is its exported keying material ([`crate::auth::EXPORTER_LABEL`]). False when
    /// nobody wants the path any more: the connection is to be closed.
    pub fn handle_connected(&mut self, path: PathId, exporter: &[u8; 32], now: Instant) -> bool {
        let (Some(id), Some(link)) = (self.id, self.links.get_mut(&path)) else { return false };
        let Some(target) = &link.target else { return false };
        if self.outputs.closed || self.scheduler.state(path) != Some(PathState::Dialing) {
            return false;
        }
        let request = AuthenticationRequest {
            session_id: Some(id),
            credentials: target.grant.clone(),
            protocol_version: limits::PROTOCOL_VERSION,
            client_key: Some(self.key.public_key()),
            path_id: path,
            proof: Some(prove(&self.key, exporter, id, path)),
            limits: None,
            data: wanted(&self.config),
        };
        self.scheduler.on_path(path, PathInput::Connected);
        (link.connected, link.deadline) = (now, now + limits::HANDSHAKE_TIMEOUT);
        // Frames are numbered for each connection.
        link.control = ControlQueue::new(now);
        link.received = ReceivedPackets::new();
        link.control.push(&ControlMessage::AuthenticationRequest(request), now);
        true
    }

    /// Payload of a stream came over a path and was put into its receiving half.
    pub fn on_received(
        &mut self,
        path: PathId,
        stream: StreamId,
        bytes: ReceivedBytes,
        now: Instant,
    ) {
        self.paths.on_active(path, now);
        self.streams.on_received(stream, now);
        self.scheduler.on_received(path, stream, bytes, &mut self.streams, now);
        if bytes.conflicting > 0 {
            self.settle_dispute(stream, now);
        }
    }

    /// A path's smoothed round-trip time, as its connection measures it.
    pub fn on_rtt(&mut self, path: PathId, rtt: Duration) {
        if let Some(link) = self.links.get_mut(&path)
            && self.scheduler.state(path) == Some(PathState::Authenticating)
        {
            link.on_rtt(rtt);
        }
        self.scheduler.on_rtt(path, rtt);
    }

    /// What a path's connection has received in all, in bytes; measures its rate.
    pub fn on_arrived(&mut self, path: PathId, total: u64, now: Instant) {
        let total = self.total_arrived(path, total, now);
        self.scheduler.on_arrived(path, total, now);
        let schedule = self.scheduler.path(path).filter(|schedule| schedule.outstanding() > 0);
        if let (Some(rate), Some(link)) =
            (schedule.and_then(|schedule| schedule.rate()), self.links.get_mut(&path))
        {
            link.health.on_goodput(rate, now);
        }
    }

    /// The application read from a stream ([`crate::stream::RecvHalf::is_update_due`]).
    pub fn on_consumed(&mut self, stream: StreamId, now: Instant) {
        let rtt = self.scheduler.path(PathId::PRIMARY).map_or(Duration::ZERO, |path| path.rtt());
        self.streams.on_consumed(stream, now, rtt);
        self.scheduler.on_consumed(stream, &mut self.streams, now);
    }

    /// Goes on with other settings (8.8).
    ///
    /// # Errors
    /// See [`StreamTable::set_config`].
    pub fn set_config(&mut self, config: Config, now: Instant) -> Result<(), ConfigError> {
        self.streams.set_config(config, now)?;
        self.scheduler.on_credit();
        Ok(())
    }

    /// The application reads a stream no more.
    pub fn stop(&mut self, stream: StreamId, code: u64, now: Instant) {
        // What has come already ends leases as done: afterwards nobody knows.
        self.scheduler.settle_ended(stream, &mut self.streams, now);
        self.streams.stop(stream, code);
        self.scheduler.on_stream_ended(stream, &mut self.streams, now);
    }

    fn send(&mut self, path: PathId, message: &ControlMessage, now: Instant) {
        let Some(link) = self.links.get_mut(&path) else { return };
        link.control.push(message, now);
        if link.control.is_overfull() {
            let error = CodedError::new(
                Code::LimitExceeded,
                "the peer reads its control stream too slowly",
            );
            self.handle_violation(path, &error, now);
        }
    }

    /// Tells the primary and the application of a path's status; `report` is how it does.
    fn notify(
        &mut self,
        path: PathId,
        status: PathStatus,
        reason: &str,
        report: Option<PathFigures>,
        now: Instant,
    ) {
        let ended = self.paths.has_ended(path);
        let event =
            PathEvent { path, status, reason: clip(reason).to_owned(), figures: report, ended };
        self.outputs.tell(SessionEvent::Path(event));
        let message = ControlMessage::PathStatusNotification(PathStatusNotification {
            path_id: path,
            status,
            reason: clip(reason).to_owned(),
            report,
            ended,
        });
        self.send(PathId::PRIMARY, &message, now);
        self.outputs.wake(Wake::Path(path));
    }

    /// Takes note of what is to be told of a path: its status, when that is news.
    fn note_status(&mut self, path: PathId, reason: &str, now: Instant) -> Option<PathStatus> {
        let (state, link) = (self.scheduler.state(path)?, self.links.get(&path)?);
        let status = state.status(link.was_open(), link.health.is_degraded());
        self.paths.set(path, status, reason, now).then_some(status)
    }

    /// The same, and tells the primary.
    fn tell_status(&mut self, path: PathId, reason: &str, now: Instant) {
        if let Some(status) = self.note_status(path, reason, now) {
            self.notify(path, status, reason, self.figures(path, now), now);
        }
    }

    /// Takes what the planes have queued.
    fn flush(&mut self, now: Instant) {
        loop {
            let messages = self.streams.take_messages(now);
            self.scheduler.schedule(&mut self.streams, now);
            let mut events = self.scheduler.take_events();
            self.reports.reasons.complete(&mut events);
            if messages.is_empty() && events.is_empty() {
                break;
            }
            for message in messages {
                self.outputs.tell_of(&message);
                self.send(PathId::PRIMARY, &message, now);
            }
            events.into_iter().for_each(|event| self.on_scheduler_event(event, now));
        }
        for wake in self.streams.take_wakes() {
            self.outputs.wake(Wake::Stream(wake));
        }
    }

    fn on_scheduler_event(&mut self, event: SchedulerEvent, now: Instant) {
        match event {
            SchedulerEvent::Send(path, message) => {
                self.outputs.tell_of(&message);
                self.send(path, &message, now);
            }
            SchedulerEvent::Suspect(path) => {
                if let Some(schedule) = self.scheduler.path(path) {
                    let after = now.saturating_duration_since(schedule.last_brought());
                    self.outputs.tell(SessionEvent::Switched { path, after });
                }
                if let Some(link) = self.links.get_mut(&path) {
                    link.health.on_suspect(now);
                    self.judge(path, now);
                }
            }
            SchedulerEvent::Recovered(path) => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.health.on_recovered();
                    self.judge(path, now);
                }
            }
            SchedulerEvent::Dead(path) => self.on_silent(path, now),
            SchedulerEvent::Revived(path) => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.health = Health::new(now);
                }
                self.tell_status(path, "it speaks again", now);
            }
            SchedulerEvent::Drained(path) => {
                // The notice of its end says what it brought in all.
                self.end_path(path, &CodedError::new(Code::NoError, "removed"), now);
                self.answer_remove_path(path, Ok(()), now);
            }
            SchedulerEvent::LeaseEnded(path, stream, lease) => {
                self.on_lease_ended(path, stream, lease, now);
            }
            SchedulerEvent::Failed(stream) => {
                let wake = crate::stream::StreamWake::Readable(stream);
                self.outputs.wake(Wake::Stream(wake));
            }
        }
    }
}

impl Machine for ClientSession {
    fn handle_control(&mut self, path: PathId, message: ControlMessage, now: Instant) {
        if self.outputs.closed {
            return;
        }
        if let Some(link) = self.links.get_mut(&path) {
            link.control.on_heard();
        }
        if path.is_primary() {
            self.home.on_heard(now);
            self.home.receipts.on_handled(&message, now);
        }
        if let Err(error) = self.on_control(path, message, now) {
            self.handle_violation(path, &error, now);
        }
    }

    fn handle_violation(&mut self, path: PathId, error: &CodedError, now: Instant) {
        if path.is_primary() {
            self.outputs.close_with(error);
        } else if self.scheduler.state(path).is_some_and(PathState::is_connected) {
            self.end_violator(path, error, now);
        }
    }

    fn handle_path_lost(&mut self, path: PathId, reason: &str, now: Instant) {
        let error = CodedError::new(Code::PathDead, reason);
        if path.is_primary() {
            self.on_home_lost(&error, now);
        } else {
            self.lose_path(path, &error, now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let is_open = |path| self.scheduler.state(path).is_some_and(PathState::is_open);
        let late =
            self.links.iter().filter(|(path, link)| link.deadline <= now && !is_open(**path));
        for path in late.map(|(path, _)| *path).collect::<Vec<_>>() {
            self.on_late(path, now);
        }
        for path in self.links.keys().copied().collect::<Vec<_>>() {
            let interval = self.heartbeat_interval(path);
            if let (Some(interval), Some(link)) = (interval, self.links.get_mut(&path)) {
                link.control.beat(interval, now);
            }
        }
        while let Some(gap) = self.streams.take_gap(now) {
            self.scheduler.on_gap(gap.stream, now);
            self.outputs.actions.push_back(Action::Gap(gap));
        }
        self.scheduler.handle_timeout(&mut self.streams, now);
        self.handle_resumption(now);
        for path in self.links.keys().copied().collect::<Vec<_>>() {
            self.judge(path, now);
        }
        if let Some(stream) = self.streams.clean_up(now) {
            self.scheduler.on_stream_ended(stream, &mut self.streams, now);
        }
        self.check_mappings(now);
        self.report_paths(now);
    }

    fn close(&mut self, code: u64, reason: Bytes, now: Instant) {
        if self.outputs.closed {
            return;
        }
        let close = session_close(code, &reason);
        for link in self.links.values_mut() {
            link.control.push(&close, now);
        }
        self.outputs.close(code, reason);
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(PathId, Bytes)> {
        self.flush(now);
        self.acknowledge(now);
        self.note_expected(now);
        self.links.iter_mut().find_map(|(path, link)| Some((*path, link.control.take()?)))
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.outputs.take_action()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.iter().map(|(path, link)| {
            let beat =
                self.heartbeat_interval(*path).map(|every| link.control.heartbeat_due(every));
            match self.scheduler.state(*path) {
                Some(state) if state.is_open() => beat.unwrap_or(link.deadline),
                _ => beat.map_or(link.deadline, |beat| beat.min(link.deadline)),
            }
        });
        let acks = self.links.values().filter_map(|link| link.received.poll_timeout());
        let acks = acks.chain(self.home.receipts.poll_timeout()).chain(self.resumption_timeout());
        let health = self.links.values().filter_map(|link| link.health.poll_timeout());
        let report = self.scheduler.pieces() > 0;
        let links = links.chain(acks).chain(health).chain(report.then_some(self.reports.due));
        let links = links.chain(self.next_mapping_check());
        let planes = self.scheduler.poll_timeout().into_iter().chain(self.streams.poll_timeout());
        links.chain(planes).min().filter(|_| !self.outputs.closed)
    }
}
