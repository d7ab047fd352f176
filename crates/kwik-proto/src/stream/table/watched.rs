//! Backpressure told to the peer and by it (8.3), gaps that last (8.4), and figures of live
//! streams.

use std::time::Instant;

use crate::presentation::BackpressureReason;
use crate::stats::{RecvStats, SendStats, SessionStats, StreamMap, StreamStats};
use crate::stream::{Copies, GapNotice, Halves, StreamWake};
use crate::sync::lock;
use crate::wire::control::{Backpressure, StreamCreateNotification};
use crate::{Code, CodedError, StreamId};

use super::StreamTable;

impl StreamTable {
    /// A batch of a stream's bytes came and was put into its receiving half.
    pub fn on_received(&mut self, id: StreamId, now: Instant) {
        self.look(id, now);
        self.tell_credit_if_used(id);
    }

    /// A stream received something, or was read: looks at what it holds.
    pub(super) fn look(&mut self, id: StreamId, now: Instant) {
        self.watch.on_active(id, now);
        self.judge(id, now);
    }

    /// Tells the peer when backpressure of a stream, or of the session, changed.
    pub(super) fn judge(&mut self, id: StreamId, now: Instant) {
        let Some(recv) = self.streams.get(&id).and_then(|entry| entry.halves.recv.clone()) else {
            return;
        };
        let allowance = self.window.allowance(id);
        let change = self.watch.look(id, &lock(&recv), allowance, &self.config, now);
        let lifted = change.is_some_and(|change| change.reason.is_none());
        self.outputs.messages.extend(change.map(|change| change.message()));
        self.look_at_session();
        if lifted {
            self.grant(id);
        }
    }

    /// Looks at what all streams hold, and tells the peer when backpressure changed.
    pub(super) fn look_at_session(&mut self) {
        let session = self.watch.backpressure().session().map(|(reason, _)| reason);
        let memory = match session {
            Some(BackpressureReason::MemoryPressure) => !self.window.is_eased(),
            _ => self.window.is_pressed(),
        };
        let change = self.watch.look_at_session(&self.window.status(), memory, &self.config);
        self.outputs.messages.extend(change.map(|change| change.message()));
    }

    /// Under memory pressure, looks from time to time whether it is over.
    pub(super) fn look_at_memory(&mut self, now: Instant) {
        if self.watch.is_look_due(now) {
            self.look_at_session();
        }
    }

    /// A stream's reader leaves bytes lying: lending it more would only let it hold more.
    pub(super) fn is_slow(&self, id: StreamId) -> bool {
        let reason = self.watch.backpressure().stream(id).map(|(reason, _)| reason);
        reason == Some(BackpressureReason::SlowConsumer)
    }

    /// The peer opened a stream, or tells of one that its data has opened, what it is (8.5).
    pub(super) fn on_created(
        &mut self,
        m: &StreamCreateNotification,
        now: Instant,
    ) -> Result<(), CodedError> {
        let id = m.stream_id;
        if id.initiator() == self.side {
            let context = format!("{id} is not the peer's to open");
            return Err(CodedError::new(Code::InvalidStreamRole, context));
        }
        let max_buffer = m.metadata.max_buffer();
        let halves = self.touch_with(id, max_buffer, now)?;
        self.describe_below(id);
        let Some(recv) = halves.and_then(|halves| halves.recv) else { return Ok(()) };
        if !lock(&recv).set_metadata(&m.metadata) {
            let context = "metadata of a stream that contradicts what was said before";
            return Err(CodedError::new(Code::MetadataProtocolViolation, context));
        }
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.max_buffer = max_buffer.unwrap_or(u64::MAX);
            entry.buffer = entry.buffer.min(entry.max_buffer);
        }
        self.outputs.wakes.push(StreamWake::Readable(id));
        Ok(())
    }

    /// Of streams with something to say their opener says it in their order, so nothing is to come
    /// of those below.
    fn describe_below(&mut self, id: StreamId) {
        let kind = &mut self.kinds[id.dir() as usize];
        if id.index() <= kind.described {
            return;
        }
        let lowest = StreamId::new(id.initiator(), id.dir(), kind.described);
        kind.described = id.index();
        for (below, entry) in self.streams.range(lowest..id) {
            let alike = below.initiator() == id.initiator() && below.dir() == id.dir();
            if let Some(recv) = entry.halves.recv.as_ref().filter(|_| alike)
                && lock(recv).describe()
            {
                self.outputs.wakes.push(StreamWake::Readable(*below));
            }
        }
    }

    /// The peer asks to slow down, or need not be spared any more.
    pub(super) fn on_backpressure(
        &mut self,
        m: &Backpressure,
        now: Instant,
    ) -> Result<(), CodedError> {
        let Backpressure { stream_id, reason } = *m;
        let Some(id) = stream_id else {
            if std::mem::replace(&mut self.backpressure, reason) != reason {
                let writing = self.streams.iter().filter(|(_, entry)| entry.halves.send.is_some());
                self.outputs.wakes.extend(writing.map(|(id, _)| StreamWake::Writable(*id)));
            }
            return Ok(());
        };
        self.check_role(id, self.side)?;
        if let Some(Halves { send: Some(send), .. }) = self.touch(id, now)? {
            lock(&send).on_backpressure(reason);
            self.outputs.wakes.push(StreamWake::Writable(id));
        }
        Ok(())
    }

    /// Why the peer asks to slow down writing all streams, if it does.
    #[must_use]
    pub fn backpressure(&self) -> Option<BackpressureReason> {
        self.backpressure
    }

    /// When [`StreamTable::take_gap`] or [`StreamTable::take_messages`] may have something.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let gap = self.watch.poll_timeout(self.config.gap_timeout());
        gap.into_iter().chain(self.notices.due()).chain(self.cleanup_at()).min()
    }

    /// The next gap that has kept a reader waiting for the gap timeout; each is told once.
    pub fn take_gap(&mut self, now: Instant) -> Option<GapNotice> {
        self.watch.take_gap(self.config.gap_timeout(), now)
    }

    /// What of a session's figures its streams know.
    #[must_use]
    pub fn stats(&self, now: Instant) -> SessionStats {
        SessionStats {
            streams: self.streams.len(),
            window: self.window.size(),
            granted: self.window.lent(),
            held: self.watch.held(),
            backpressure: self.watch.backpressure().stats(now),
            gaps: self.watch.reported(),
            aggregation: self.watch.aggregation(),
            ..SessionStats::default()
        }
    }

    /// Figures of every live stream.
    #[must_use]
    pub fn stream_stats(&self) -> Vec<StreamStats> {
        self.streams.values().map(|entry| self.stats_of(&entry.halves)).collect()
    }

    /// Where each part of a stream is that this side reads.
    #[must_use]
    pub fn stream_map(&self, id: StreamId) -> Option<StreamMap> {
        let recv = self.streams.get(&id)?.halves.recv.as_ref()?;
        Some(lock(recv).map())
    }

    fn stats_of(&self, halves: &Halves) -> StreamStats {
        let id = halves.id;
        let recv = halves.recv.as_ref().map(|recv| {
            let recv = lock(recv);
            let Copies { duplicates, conflicts } = recv.copies();
            RecvStats {
                buffer: recv.usage(),
                allowance: self.window.allowance(id),
                max_allowance: self.buffer_of(id),
                granted: recv.max_data(),
                final_size: recv.final_size(),
                duplicates,
                conflicts,
                contradicted: recv.contradicted().to_vec(),
                sources: recv.sources().to_vec(),
                backpressure: self.watch.backpressure().stream(id),
                gap: self.watch.gap(id),
                awaited_from: recv.awaited_from(),
                times: self.watch.times(id),
            }
        });
        let send = halves.send.as_ref().map(|send| {
            let send = lock(send);
            SendStats {
                written: send.cursor(),
                credit: send.credit(),
                backpressure: send.backpressure().or(self.backpressure),
            }
        });
        StreamStats { id, recv, send }
    }
}
