//! What a client sends and receives as data packets: what they are subject to, and what arrived.

use std::time::Instant;

use crate::ack::{ArrivedPackets, SharedSent};
use crate::sync::lock;
use crate::wire::DataOptions;
use crate::wire::control::Ack;
use crate::wire::control::ControlMessage;
use crate::{CodedError, PathId};

use super::super::Wake;
use super::{ClientConfig, ClientSession};

/// What this client would like its paths' packets to be.
pub(super) fn wanted(config: &ClientConfig) -> DataOptions {
    config.settings.data_options()
}

impl ClientSession {
    /// The packets sent on path 0, for whoever writes there.
    #[must_use]
    pub fn sent(&self) -> SharedSent {
        self.sent.clone()
    }

    /// What the packets that come on a path are subject to. None as long as its server has not
    /// answered, and it matters: then read none of them ([`Wake::Path`]).
    #[must_use]
    pub fn data_options(&self, path: PathId) -> Option<DataOptions> {
        self.links.get(&path).map_or(Some(DataOptions::default()), |link| link.options)
    }

    /// Packets came whole over a path.
    ///
    /// # Errors
    /// Their ids cannot be: the path is to be closed.
    pub fn on_packets(
        &mut self,
        path: PathId,
        arrived: &ArrivedPackets,
        now: Instant,
    ) -> Result<(), CodedError> {
        if path.is_primary() {
            self.home.on_payload(now);
        }
        let Some(link) = self.links.get_mut(&path) else { return Ok(()) };
        link.received.on_arrived(arrived, now)
    }

    /// The primary has packets of ours.
    pub(super) fn on_ack(&mut self, m: &Ack) -> Result<(), CodedError> {
        let frames = lock(&self.sent).handle_ack(&m.ranges)?;
        if let Some(link) = self.links.get_mut(&PathId::PRIMARY) {
            link.control.on_acknowledged(m.control_frames)?;
        }
        self.streams.on_acknowledged(&frames);
        self.outputs.wake(Wake::Acknowledged);
        Ok(())
    }

    /// Tells each path's server what came from it, where that is due.
    pub(super) fn acknowledge(&mut self, now: Instant) {
        for (path, link) in &mut self.links {
            while let Some(mut ack) = link.received.poll_ack(now) {
                if path.is_primary() {
                    ack.control_frames = self.home.receipts.tell_news();
                }
                link.control.push(&ControlMessage::Ack(ack), now);
            }
        }
        if self.home.receipts.is_due(now)
            && let Some(link) = self.links.get_mut(&PathId::PRIMARY)
        {
            let control_frames = self.home.receipts.tell();
            link.control.push(&ControlMessage::Ack(Ack { control_frames, ..<_>::default() }), now);
        }
    }
}
