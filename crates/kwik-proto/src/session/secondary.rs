//! A secondary's session: it writes what leases and activations allow, and opens nothing.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::ack::{SentPackets, SharedSent};
use crate::auth::{Admitted, LeaseFields, RelayVerifier};
use crate::control::ControlQueue;
use crate::lease::{SharedWriter, WriterTable};
use crate::stats::PacketCounts;
use crate::sync::lock;
use crate::wire::DataOptions;
use crate::wire::control::{self, ControlMessage};
use crate::{Code, CodedError, Config, ConfigError, LeaseId, PathId, SessionId, limits};

mod mapped;

pub use mapped::Mapped;
use mapped::OwnStreams;

use super::{
    Action, Activity, Machine, Outputs, Wake, heartbeat_reply, packet_report, session_close,
    wrong_role,
};

/// Raw packets of the primary that wait to be read.
#[derive(Debug, Default)]
struct RawPackets {
    waiting: VecDeque<Bytes>,
    bytes: usize,
}

impl RawPackets {
    fn has_room(&self, bytes: usize) -> bool {
        let bytes = self.bytes + bytes;
        self.waiting.len() < limits::MAX_RAW_QUEUED && bytes <= limits::MAX_RAW_QUEUED_BYTES
    }

    fn push(&mut self, packet: Bytes) {
        self.bytes += packet.len();
        self.waiting.push_back(packet);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let packet = self.waiting.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }
}

/// The state machine of a secondary, for one client.
#[derive(Debug)]
pub struct SecondarySession {
    id: SessionId,
    path: PathId,
    control: ControlQueue,
    verifier: RelayVerifier,
    writers: WriterTable,
    offered: VecDeque<SharedWriter>,
    own: OwnStreams,
    config: Config,
    raw: RawPackets,
    /// QUIC packets of the connection.
    packets: PacketCounts,
    /// When payload last moved.
    moved: Instant,
    sent: SharedSent,
    outputs: Outputs,
}

impl SecondarySession {
    /// `options` is what both ends want of the path's packets.
    pub(super) fn new(
        admitted: &Admitted,
        options: DataOptions,
        config: &Config,
        now: Instant,
    ) -> Self {
        let mut control = ControlQueue::new(now);
        let response = control::AuthenticationResponse {
            result: Ok(admitted.session),
            limits: None,
            data: options,
        };
        control.push(&ControlMessage::AuthenticationResponse(response), now);
        Self {
            id: admitted.session,
            path: admitted.path,
            control,
            verifier: RelayVerifier::new(admitted.primary, admitted.session, admitted.path),
            writers: WriterTable::default(),
            offered: VecDeque::new(),
            own: OwnStreams::default(),
            config: config.clone(),
            raw: RawPackets::default(),
            packets: PacketCounts::default(),
            moved: now,
            sent: SharedSent::new(SentPackets::new(options).into()),
            outputs: Outputs::default(),
        }
    }

    /// The session it serves.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The settings in force (8.8).
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Goes on with other settings.
    ///
    /// # Errors
    /// See [`Config::check_change`].
    pub fn set_config(&mut self, config: Config) -> Result<(), ConfigError> {
        self.config.check_change(&config)?;
        self.config = config;
        Ok(())
    }

    /// Which of the session's paths this is.
    #[must_use]
    pub fn path(&self) -> PathId {
        self.path
    }

    /// The packets sent to the client, for whoever writes.
    #[must_use]
    pub fn sent(&self) -> SharedSent {
        self.sent.clone()
    }

    /// Checks signatures and sequence; outlives this connection when the path is dialed again.
    #[must_use]
    pub fn verifier(&self) -> &RelayVerifier {
        &self.verifier
    }

    /// The same, to go on with the sequence of an earlier connection.
    pub fn verifier_mut(&mut self) -> &mut RelayVerifier {
        &mut self.verifier
    }

    /// The next lease offered by the primary ([`Wake::LeaseOffered`]).
    pub fn accept_lease(&mut self) -> Option<SharedWriter> {
        self.offered.pop_front()
    }

    /// QUIC packets of the connection; the client is told.
    pub fn on_quic_packets(&mut self, packets: PacketCounts) {
        self.packets = packets;
    }

    /// Whether a lease is live, and when payload last moved.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity { open: !self.writers.is_empty(), moved: self.moved }
    }

    /// Live leases.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.writers.len()
    }

    /// The next raw packet of the primary ([`Wake::Raw`]).
    pub fn recv_raw(&mut self) -> Option<Bytes> {
        self.raw.pop()
    }

    /// Whether one more raw packet finds room, whatever its size.
    #[must_use]
    pub fn takes_raw(&self) -> bool {
        self.raw.has_room(limits::MAX_RAW_PACKET)
    }

    /// The application gives a lease up: others will be asked for what is missing.
    pub fn abandon(&mut self, lease: LeaseId, reason: &str, now: Instant) {
        for message in self.writers.abandon(lease, reason) {
            self.control.push(&message, now);
        }
    }

    /// A raw packet came on the path's raw stream, and [`Self::takes_raw`] holds.
    ///
    /// # Errors
    /// It is forged or replayed, or there is no room: the path is to be closed.
    pub fn handle_raw(&mut self, m: &control::RawPacketTransmission) -> Result<(), CodedError> {
        if self.outputs.closed {
            return Ok(());
        }
        let signature = m.signature.as_ref().map_or(&[][..], AsRef::as_ref);
        let verified = self.verifier.verify_raw(m.sequence, &m.data, signature);
        verified.map_err(|error| CodedError::new(error.code(), error.to_string()))?;
        if !self.raw.has_room(m.data.len()) {
            return Err(CodedError::new(Code::LimitExceeded, "raw packets are not taken"));
        }
        self.raw.push(m.data.clone());
        self.outputs.wake(Wake::Raw);
        Ok(())
    }

    fn on_control(&mut self, message: ControlMessage, now: Instant) -> Result<(), CodedError> {
        match message {
            ControlMessage::Lease(m) => self.on_lease(&m)?,
            ControlMessage::Activate(m) => match self.writers.handle_activate(&m)? {
                Some(answer) => self.control.push(&answer, now),
                None => self.outputs.wake(Wake::Writer(m.lease_id)),
            },
            ControlMessage::Cancel(m) => {
                if let Some(answer) = self.writers.handle_cancel(&m) {
                    self.control.push(&answer, now);
                }
            }
            ControlMessage::Revoke(m) => {
                let id = m.lease_id;
                for answer in self.writers.handle_revoke(id).unwrap_or_default() {
                    self.control.push(&answer, now);
                }
                self.outputs.wake(Wake::Writer(id));
            }
            ControlMessage::StreamMappingUpdate(m) => self.on_mapping_update(&m, now),
            ControlMessage::OffsetSyncResponse(m) => self.on_offset_sync(&m)?,
            ControlMessage::Ack(m) => {
                // What leases wrote is not kept: the client reports what of it is missing.
                let mut sent = lock(&self.sent);
                let before = sent.outstanding();
                sent.handle_ack(&m.ranges)?;
                if sent.outstanding() < before {
                    self.moved = now;
                }
                drop(sent);
                self.outputs.wake(Wake::Acknowledged);
            }
            ControlMessage::Heartbeat(m) => {
                if let Some(reply) = heartbeat_reply(&m) {
                    self.control.push(&reply, now);
                    self.control.push(&packet_report(self.path, self.packets), now);
                }
            }
            ControlMessage::SessionClose(m) => {
                self.outputs.closed_by_peer(m.code, m.reason);
                self.end(0, Bytes::new());
            }
            ControlMessage::Unknown(_) | ControlMessage::Backpressure(_) => {}
            message => return Err(wrong_role(&message)),
        }
        if self.control.is_overfull() {
            let context = "the peer reads its control stream too slowly";
            return Err(CodedError::new(Code::LimitExceeded, context));
        }
        Ok(())
    }

    fn on_lease(&mut self, m: &control::Lease) -> Result<(), CodedError> {
        let fields = LeaseFields {
            lease_id: m.lease_id,
            stream_id: m.stream_id,
            start: m.range.start,
            end: m.range.end,
            max_bytes: m.max_bytes,
            command: &m.command,
        };
        let signature = m.signature.as_ref().map_or(&[][..], AsRef::as_ref);
        let verified = self.verifier.verify_lease(m.sequence, &fields, signature);
        verified.map_err(|error| CodedError::new(error.code(), error.to_string()))?;
        let writer = self.writers.insert(m)?;
        if self.offered.len() >= limits::MAX_LEASES {
            // Live ones are fewer: the rest has ended while nobody took it.
            self.offered.retain(|writer| !lock(writer).is_ended());
        }
        self.offered.push_back(writer);
        self.outputs.wake(Wake::LeaseOffered);
        Ok(())
    }

    fn end(&mut self, code: u64, reason: Bytes) {
        for lease in self.writers.end_all() {
            self.outputs.wake(Wake::Writer(lease));
        }
        self.outputs.wake(Wake::LeaseOffered);
        self.outputs.wake(Wake::Raw);
        self.outputs.close(code, reason);
    }
}

impl Machine for SecondarySession {
    fn handle_control(&mut self, path: PathId, message: ControlMessage, now: Instant) {
        if self.outputs.closed {
            return;
        }
        if let Err(error) = self.on_control(message, now) {
            self.handle_violation(path, &error, now);
        }
    }

    fn handle_violation(&mut self, _: PathId, error: &CodedError, _: Instant) {
        self.end(error.code.as_u64(), error.to_string().into());
    }

    fn handle_path_lost(&mut self, path: PathId, reason: &str, now: Instant) {
        self.handle_violation(path, &CodedError::new(Code::PathDead, reason), now);
    }

    // The client's heartbeats keep the path alive; there is nothing to time here.
    fn handle_timeout(&mut self, _: Instant) {}

    fn close(&mut self, code: u64, reason: Bytes, now: Instant) {
        if self.outputs.closed {
            return;
        }
        self.control.push(&session_close(code, &reason), now);
        self.end(code, reason);
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<(PathId, Bytes)> {
        self.control.take().map(|bytes| (self.path, bytes))
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.outputs.take_action()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
