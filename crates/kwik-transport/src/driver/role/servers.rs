//! What primaries and secondaries do for the driver.

use std::time::{Instant, SystemTime};

use bytes::Bytes;
use kwik_proto::ack::{ArrivedPackets, SharedSent};
use kwik_proto::path::PathStatus;
use kwik_proto::session::{Activity, PrimarySession, SecondarySession};
use kwik_proto::stats::SessionStats;
use kwik_proto::stream::{Delivered, Destination, ReceivedBytes, SharedRecv, StreamTable};
use kwik_proto::wire::DataOptions;
use kwik_proto::wire::control::{AuthenticationRequest, RawPacketTransmission, Resume};
use kwik_proto::{CodedError, Config, ConfigError, PathId, SessionId, StreamId};

use crate::quic::Figures;

use super::{Role, StreamRole, delivered, joining};

impl Role for PrimarySession {
    fn handle_resume(
        &mut self,
        request: &AuthenticationRequest,
        exporter: &[u8; 32],
        m: &Resume,
        now: Instant,
    ) -> Result<(Bytes, u64), CodedError> {
        self.handle_resume(request, exporter, m, now)
    }

    fn session_id(&self) -> Option<SessionId> {
        Some(self.id())
    }

    fn totals(&self, now: Instant) -> Option<SessionStats> {
        Some(self.stats(now))
    }

    fn delivered(&self) -> Vec<(Delivered, Option<SharedRecv>)> {
        delivered(self.streams())
    }

    fn kept(&self) -> u64 {
        self.kept()
    }

    fn end_lost(&mut self, _: Instant) {
        self.end_lost();
    }

    fn activity(&self) -> Option<Activity> {
        Some(self.activity())
    }

    fn sent(&self) -> SharedSent {
        self.sent()
    }

    fn data_options(&self, _: PathId) -> Option<DataOptions> {
        Some(self.data_options())
    }

    fn on_packets(
        &mut self,
        _: PathId,
        arrived: &ArrivedPackets,
        now: Instant,
    ) -> Result<(), CodedError> {
        self.on_packets(arrived, now)
    }

    fn destination(&self, _: PathId, id: StreamId) -> Result<Destination, CodedError> {
        self.streams().destination(PathId::PRIMARY, id)
    }

    fn receiving(
        &mut self,
        _: PathId,
        id: StreamId,
        now: Instant,
    ) -> Result<Option<SharedRecv>, CodedError> {
        self.streams_mut().receiving(PathId::PRIMARY, id, now)
    }

    fn on_received(&mut self, _: PathId, id: StreamId, _: ReceivedBytes, now: Instant) {
        self.on_received(id, now);
    }

    fn on_figures(&mut self, _: PathId, figures: Figures, _: Instant) {
        self.on_rtt(figures.rtt);
        self.on_quic_packets(figures.packets);
    }

    fn renew_grant(&mut self, path: PathId, now: Instant, wall: SystemTime) {
        self.renew_grant(path, now, wall);
    }
}

impl StreamRole for PrimarySession {
    fn streams(&self) -> &StreamTable {
        self.streams()
    }

    fn streams_mut(&mut self) -> &mut StreamTable {
        self.streams_mut()
    }

    fn on_consumed(&mut self, id: StreamId, now: Instant) {
        self.on_consumed(id, now);
    }

    fn stop(&mut self, id: StreamId, code: u64, _: Instant) {
        self.stop(id, code);
    }

    fn stats(&self, now: Instant) -> SessionStats {
        self.stats(now)
    }

    fn is_established(&self) -> bool {
        true
    }

    fn joining(&self) -> Vec<(PathId, PathStatus)> {
        joining(self.paths().all())
    }

    fn set_config(&mut self, config: Config, now: Instant) -> Result<(), ConfigError> {
        self.set_config(config, now)
    }
}

impl Role for SecondarySession {
    fn session_id(&self) -> Option<SessionId> {
        Some(self.id())
    }

    fn activity(&self) -> Option<Activity> {
        Some(self.activity())
    }

    fn on_figures(&mut self, _: PathId, figures: Figures, _: Instant) {
        self.on_quic_packets(figures.packets);
    }

    fn sent(&self) -> SharedSent {
        self.sent()
    }

    fn takes_raw(&self) -> bool {
        self.takes_raw()
    }

    fn handle_raw(&mut self, packet: &RawPacketTransmission) -> Result<(), CodedError> {
        self.handle_raw(packet)
    }
}
