//! What the peer is told a moment later, together, or never: short streams need none of it.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::limits::{MAX_STREAMS_BATCH, NOTICE_DELAY};
use crate::sync::lock;
use crate::wire::control::{
    ControlMessage, MaxStreamData, MaxStreams, StreamCreateNotification, StreamMetadata,
};
use crate::{Dir, StreamId};

use super::{RecvHalf, StreamTable};

/// Notices that wait. Bounded by the streams that may be open.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The last stream of each kind that was opened here. Its notice says of those below, too, that
    /// they are open and that nothing is said of them which was not said at once.
    opened: [Option<StreamId>; 2],
    /// Streams whose credit beyond the floor was not told.
    credit: BTreeSet<StreamId>,
    /// Streams of each kind that the peer may open and was not told of.
    streams: [u64; 2],
    due: Option<Instant>,
}

impl Notices {
    fn is_empty(&self) -> bool {
        self.opened == [None; 2] && self.credit.is_empty() && self.streams == [0; 2]
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn on_opened(&mut self, id: StreamId) {
        self.opened[id.dir() as usize] = Some(id);
    }

    /// Keeps what a stream is granted from now on back.
    pub(super) fn hold_credit(&mut self, id: StreamId) {
        self.credit.insert(id);
    }

    pub(super) fn holds_credit(&self, id: StreamId) -> bool {
        self.credit.contains(&id)
    }

    pub(super) fn on_retired(&mut self, id: StreamId) {
        self.credit.remove(&id);
    }
}

impl StreamTable {
    /// The peer may open one more stream of a kind.
    pub(super) fn on_room(&mut self, dir: Dir) {
        self.notices.streams[dir as usize] += 1;
        let maximum = match dir {
            Dir::Bi => self.config.max_streams_bidi(),
            Dir::Uni => self.config.max_streams_uni(),
        };
        if self.notices.streams[dir as usize] * MAX_STREAMS_BATCH >= maximum {
            self.tell_room(dir);
        }
    }

    fn tell_room(&mut self, dir: Dir) {
        if std::mem::take(&mut self.notices.streams[dir as usize]) > 0 {
            self.reserve_first(dir);
            let kind = &self.kinds[dir as usize];
            self.outputs.messages.push(ControlMessage::MaxStreams(MaxStreams {
                dir,
                maximum: kind.max_remote,
                first_streams: kind.first_remote,
            }));
        }
    }

    /// A stream that uses its floor up has to hear of the rest at once.
    pub(super) fn tell_credit_if_used(&mut self, id: StreamId) {
        if !self.notices.holds_credit(id) {
            return;
        }
        let recv = self.streams.get(&id).and_then(|entry| entry.halves.recv.as_ref());
        let used = recv.is_some_and(|recv| {
            let recv = lock(recv);
            recv.consumed() + recv.held() >= self.grants.floor / 2
        });
        if used {
            self.tell_credit(id);
        }
    }

    fn tell_credit(&mut self, id: StreamId) {
        self.notices.credit.remove(&id);
        let recv = self.streams.get(&id).and_then(|entry| entry.halves.recv.as_ref());
        // Its opener may not have heard that it is among the first.
        let wanted = |recv: &RecvHalf| !recv.is_complete() && recv.max_data() > self.grants.floor;
        let Some(recv) = recv.map(|recv| lock(recv)).filter(|recv| wanted(recv)) else { return };
        self.outputs.messages.push(ControlMessage::MaxStreamData(MaxStreamData {
            stream_id: id,
            maximum: recv.max_data(),
        }));
    }

    pub(super) fn announce(&mut self, id: StreamId, metadata: StreamMetadata) {
        self.outputs.messages.push(ControlMessage::StreamCreateNotification(
            StreamCreateNotification { stream_id: id, metadata },
        ));
    }

    /// Queues what has waited long enough.
    pub(super) fn flush_notices(&mut self, now: Instant) {
        if self.notices.is_empty() {
            self.notices.due = None;
            return;
        }
        let due = *self.notices.due.get_or_insert(now + NOTICE_DELAY);
        if now < due {
            return;
        }
        self.notices.due = None;
        for id in std::mem::take(&mut self.notices.opened).into_iter().flatten() {
            self.announce(id, StreamMetadata::default());
        }
        for id in std::mem::take(&mut self.notices.credit) {
            self.tell_credit(id);
        }
        [Dir::Bi, Dir::Uni].into_iter().for_each(|dir| self.tell_room(dir));
    }
}
