//! What a primary sends and receives as data packets: what they are subject to, and what arrived.

use std::time::Instant;

use crate::CodedError;
use crate::ack::{ArrivedPackets, SharedSent};
use crate::sync::lock;
use crate::wire::DataOptions;
use crate::wire::control::Ack;

use super::super::Wake;
use super::PrimarySession;

impl PrimarySession {
    /// The packets sent to the client, for whoever writes.
    #[must_use]
    pub fn sent(&self) -> SharedSent {
        self.data.sent.clone()
    }

    /// What the client's packets are subject to.
    #[must_use]
    pub fn data_options(&self) -> DataOptions {
        self.data.options
    }

    /// Packets of the client came whole.
    ///
    /// # Errors
    /// Their ids cannot be: the session is to be closed.
    pub fn on_packets(&mut self, arrived: &ArrivedPackets, now: Instant) -> Result<(), CodedError> {
        self.data.received.on_arrived(arrived, now)
    }

    /// The client has packets of ours.
    pub(super) fn on_ack(&mut self, m: &Ack, now: Instant) -> Result<(), CodedError> {
        let mut sent = lock(&self.data.sent);
        let before = sent.outstanding();
        let frames = sent.handle_ack(&m.ranges)?;
        if sent.outstanding() < before {
            self.data.moved = now;
        }
        drop(sent);
        self.control.on_acknowledged(m.control_frames)?;
        self.streams.on_acknowledged(&frames);
        self.outputs.wake(Wake::Acknowledged);
        Ok(())
    }
}
