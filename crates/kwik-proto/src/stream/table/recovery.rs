//! A window that is full of bytes that nobody reads (9.2).

use std::time::Instant;

use crate::presentation::BackpressureReason;
use crate::stream::{ReadError, StreamWake};
use crate::sync::lock;
use crate::wire::control::{ControlMessage, StopSending};
use crate::{Code, CodedError, StreamId, WindowRecovery};

use super::StreamTable;

impl StreamTable {
    /// Since when the session has been under backpressure for as long as is borne.
    fn is_overfull(&self, recovery: WindowRecovery, now: Instant) -> bool {
        self.config.recovery().window() == recovery
            && self.overfull_at().is_some_and(|at| at <= now)
    }

    fn overfull_at(&self) -> Option<Instant> {
        let (reason, since) = self.watch.backpressure().session()?;
        if reason == BackpressureReason::MemoryPressure {
            // Of other sessions, perhaps: streams give back what they can anyway.
            return None;
        }
        let since = self.cleaned_at.map_or(since, |at| at.max(since));
        Some(since + self.config.recovery().window_timeout())
    }

    /// Slow streams give back what they borrowed.
    pub(super) fn recalls(&self, now: Instant) -> bool {
        self.is_overfull(WindowRecovery::Reallocate, now)
    }

    /// When [`Self::clean_up`] has something to do.
    pub(super) fn cleanup_at(&self) -> Option<Instant> {
        let cleans = self.config.recovery().window() == WindowRecovery::Cleanup;
        self.overfull_at().filter(|_| cleans)
    }

    /// Gives up the stream that holds most of a window that has been full for too long: which.
    pub fn clean_up(&mut self, now: Instant) -> Option<StreamId> {
        if !self.is_overfull(WindowRecovery::Cleanup, now) {
            return None;
        }
        self.cleaned_at = Some(now);
        let holding = self.streams.iter().filter_map(|(id, entry)| {
            let recv = entry.halves.recv.as_ref().filter(|_| !entry.released)?;
            let pressed = self.watch.backpressure().stream(*id).is_some();
            Some((pressed, lock(recv).held(), *id))
        });
        let (_, held, id) = holding.max().filter(|(_, held, _)| *held > 0)?;
        let recv = self.streams.get(&id).and_then(|entry| entry.halves.recv.clone())?;
        let context = format!("{id}: {held} bytes were not read while the window was full");
        let error = CodedError::new(Code::LimitExceeded, context);
        lock(&recv).drop_all(ReadError::Failed(error));
        self.release(id);
        let code = Code::LimitExceeded.as_u64();
        self.outputs
            .messages
            .push(ControlMessage::StopSending(StopSending { stream_id: id, code }));
        self.outputs.wakes.push(StreamWake::Readable(id));
        Some(id)
    }
}
