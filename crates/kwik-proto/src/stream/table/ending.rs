//! How streams end, and make room for others.

use std::collections::BTreeMap;

use crate::sync::lock;
use crate::wire::PacketFrame;
use crate::wire::control::{ControlMessage, StopSending, StreamReset};
use crate::{Dir, StreamId, limits};

use super::{StreamTable, StreamWake};

impl StreamTable {
    /// Removes a stream whose halves are both over, and makes room for the peer's next one.
    pub fn retire(&mut self, id: StreamId) {
        let lingering = self.streams.len() < limits::MAX_LINGERING;
        let entry = self.streams.get_mut(&id).filter(|entry| !entry.unaccepted);
        let Some(entry) = entry else { return };
        let sent = entry.halves.send.as_ref().is_none_or(|send| lock(send).is_done());
        let (read, quiet) = entry.halves.recv.as_ref().map_or((true, true), |recv| {
            let recv = lock(recv);
            (recv.is_done(), recv.is_quiet())
        });
        if read && !entry.released && entry.halves.recv.is_some() {
            self.release(id);
        }
        let Some(entry) = self.streams.get_mut(&id) else { return };
        // What was finished here and is not acknowledged keeps its entry, and keeps nobody
        // from opening.
        let written = entry.halves.send.as_ref().is_none_or(|send| lock(send).has_ended());
        let counts = std::mem::take(&mut entry.counts);
        entry.counts = counts && !(written && read && quiet && lingering);
        let freed = counts && !entry.counts;
        let over = sent && read && quiet;
        if over {
            if let Some(recv) = &entry.halves.recv {
                // Nobody is told any more; what was not said by now is nothing in particular.
                lock(recv).describe();
            }
            self.streams.remove(&id);
            if self.streams.is_empty() {
                // An empty map would keep room for several.
                self.streams = BTreeMap::new();
            }
            self.notices.on_retired(id);
        }
        if freed || over && counts {
            self.kinds[id.dir() as usize].max_remote += 1;
            self.on_room(id.dir());
        }
    }

    /// Takes the allowance of a stream back, of which nothing more is read.
    pub(super) fn release(&mut self, id: StreamId) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.released = true;
        self.window.close(id);
        self.watch.close(id);
        if id.initiator() == self.side {
            self.local_receiving.count -= 1;
            self.outputs.wakes.push(StreamWake::Openable(Dir::Bi));
        }
        self.look_at_session();
    }

    /// Stops reading a stream: its buffer is dropped, the peer is told; of `code` 62 bits at most.
    pub fn stop(&mut self, id: StreamId, code: u64) {
        let Some(recv) = self.streams.get(&id).and_then(|entry| entry.halves.recv.clone()) else {
            return;
        };
        let tell = {
            let mut recv = lock(&recv);
            let tell = !recv.is_complete();
            recv.stop();
            tell
        };
        if tell {
            self.outputs.messages.push(ControlMessage::StopSending(StopSending {
                stream_id: id,
                code: code.min(limits::MAX_OFFSET),
            }));
        }
        self.retire(id);
    }

    /// Gives up writing a stream; the peer is told the final size, and of `code` 62 bits at most.
    pub fn reset(&mut self, id: StreamId, code: u64) {
        let Some(send) = self.streams.get(&id).and_then(|entry| entry.halves.send.clone()) else {
            return;
        };
        if let Some(final_size) = lock(&send).reset() {
            self.outputs.messages.push(ControlMessage::StreamReset(StreamReset {
                stream_id: id,
                code: code.min(limits::MAX_OFFSET),
                final_size,
            }));
        }
        self.retire(id);
    }

    /// The peer has what these frames carried. Of a stream that is delivered by it
    /// ([`SendHalf::is_delivered`](super::super::SendHalf::is_delivered)), the writer is woken.
    pub fn on_acknowledged(&mut self, frames: &[PacketFrame]) {
        for frame in frames {
            let id = StreamId::from_u64(frame.stream_id);
            let Some(send) = self.streams.get(&id).and_then(|entry| entry.halves.send.as_ref())
            else {
                continue;
            };
            let delivered = {
                let mut send = lock(send);
                send.on_acknowledged(frame.offset..frame.end(), frame.fin);
                send.is_delivered()
            };
            if delivered {
                self.outputs.wakes.push(StreamWake::Writable(id));
                self.retire(id);
            }
        }
    }
}
