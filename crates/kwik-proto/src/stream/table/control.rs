//! What the peer says of streams.

use std::time::Instant;

use crate::sync::lock;
use crate::wire::control::ControlMessage;
use crate::{CodedError, limits};

use super::{Halves, StreamTable, StreamWake};

impl StreamTable {
    /// Handles what the peer says of streams. True when `message` was of that kind.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_control(
        &mut self,
        message: &ControlMessage,
        now: Instant,
    ) -> Result<bool, CodedError> {
        match message {
            ControlMessage::StreamCreateNotification(m) => {
                self.on_created(m, now)?;
            }
            ControlMessage::StreamReset(m) => {
                let id = m.stream_id;
                self.check_role(id, !self.side)?;
                if let Some(Halves { recv: Some(recv), .. }) = self.touch(id, now)? {
                    lock(&recv).on_reset(m.code, m.final_size)?;
                    self.look(id, now);
                    self.outputs.wakes.push(StreamWake::Readable(id));
                }
            }
            ControlMessage::StopSending(m) => {
                let id = m.stream_id;
                self.check_role(id, self.side)?;
                if let Some(Halves { send: Some(send), .. }) = self.touch(id, now)? {
                    lock(&send).on_stopped(m.code);
                    self.outputs.wakes.push(StreamWake::Writable(id));
                    self.retire(id);
                }
            }
            ControlMessage::MaxStreamData(m) => {
                let id = m.stream_id;
                self.check_role(id, self.side)?;
                if let Some(Halves { send: Some(send), .. }) = self.touch(id, now)?
                    && lock(&send).on_max_data(m.maximum)
                {
                    self.outputs.wakes.push(StreamWake::Writable(id));
                }
            }
            ControlMessage::MaxStreams(m) => {
                let kind = &mut self.kinds[m.dir as usize];
                let live = limits::MAX_STREAMS + kind.next_local;
                kind.max_local = kind.max_local.max(m.maximum.min(live));
                kind.first_local = kind.first_local.max(m.first_streams);
                self.outputs.wakes.push(StreamWake::Openable(m.dir));
            }
            ControlMessage::Backpressure(m) => self.on_backpressure(m, now)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}
