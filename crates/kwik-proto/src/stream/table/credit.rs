//! What receiving streams are granted (docs/protocol.md#credit).
//!
//! A receiving half is granted what its reader has consumed plus the stream's
//! allowance, and the window keeps the sum of all allowances within its size. So the invariant is:
//! for every stream, `max_data - consumed <= allowance`, and over all streams,
//! `sum(allowance) <= size`; what all peers together may make us hold is never more than the
//! window, in whatever order it comes and is read. An allowance starts at the floor that nobody
//! else can borrow, so every stream moves whatever the others do; that of the first streams of a
//! kind is larger, so that they start as fast as QUIC: their loans are reserved before the peer is
//! told that it may open them so, and again for later ones as streams end. It grows from the shared
//! half as its reader consumes, up to the stream's buffer, which doubles for readers that keep up.
//! Credit that was told to a peer is never taken back: an allowance shrinks only by what was read
//! and not granted again.

use std::time::{Duration, Instant};

use crate::sync::lock;
use crate::wire::control::{ControlMessage, MaxStreamData};
use crate::{Dir, StreamId, limits};

use super::{ReadMeasure, StreamTable};

/// One in this many bytes of what the window lends is left for streams that have less than an
/// even part.
const SPARE: u64 = 8;
/// Steps of credit that a stream is told of at once, where they are no more than a sixteenth of
/// its allowance.
const MAX_STEPS: u64 = 4;

impl StreamTable {
    /// Asks for `more` allowance from the shared half, and tells the peer of what came.
    pub(super) fn grow_allowance(&mut self, id: StreamId, more: u64) {
        self.window.borrow(id, more.min(self.borrowable(id)));
        self.grant(id);
    }

    /// Keeps loans for the streams that the peer may open next, as far as there is room: it is
    /// about to be told.
    pub(super) fn reserve_first(&mut self, dir: Dir) {
        let loan = limits::FIRST_STREAM_DATA.saturating_sub(self.grants.floor);
        let pressed = self.window.is_pressed();
        let kind = &mut self.kinds[dir as usize];
        kind.first_remote = kind.first_remote.max(kind.next_remote);
        while kind.first_remote < kind.next_remote + self.first_streams
            && self.window.lendable() >= loan
            && !pressed
        {
            self.window.reserve(loan);
            kind.first_remote += 1;
        }
    }

    /// Lets a stream that could use more have all that is free, growing its buffer and the window
    /// when its reader keeps up. True when its limit rose.
    pub fn widen(&mut self, id: StreamId) -> bool {
        let Some(recv) = self.streams.get(&id).and_then(|entry| entry.halves.recv.clone()) else {
            return false;
        };
        if self.is_slow(id) {
            return false;
        }
        let allowance = self.window.allowance(id);
        let (before, keeps_up) = {
            let recv = lock(&recv);
            (recv.max_data(), recv.unread() * 4 <= allowance)
        };
        if keeps_up {
            self.make_room(id, allowance);
        }
        self.grow_allowance(id, u64::MAX);
        lock(&recv).max_data() > before
    }

    /// Doubles what keeps a stream from more than its `allowance`: its buffer, or the window.
    fn make_room(&mut self, id: StreamId, allowance: u64) {
        let least = allowance + self.step(allowance);
        if let Some(entry) = self.streams.get_mut(&id).filter(|entry| entry.buffer < least) {
            let most = self.config.max_stream_buffer().min(entry.max_buffer);
            entry.buffer = entry.buffer.saturating_mul(2).min(most).max(entry.buffer);
        }
        let (_, spare) = self.shares();
        if self.window.lendable() < spare + self.config.slide_step() {
            self.window.grow();
        }
    }

    /// What is worth telling of a stream with this allowance: each time costs a datagram, and one
    /// that acknowledges it.
    fn step(&self, allowance: u64) -> u64 {
        let step = self.config.slide_step();
        let steps = (allowance / 16 / step).clamp(1, MAX_STEPS);
        (step * steps).min(allowance / 4).max(1)
    }

    /// Grants what was consumed and the allowance permit, in steps.
    pub(super) fn grant(&mut self, id: StreamId) {
        let Some(recv) = self.streams.get(&id).and_then(|entry| entry.halves.recv.as_ref()) else {
            return;
        };
        let allowance = self.window.allowance(id);
        let mut recv = lock(recv);
        let limit = (recv.consumed() + allowance).min(limits::MAX_OFFSET);
        let step = self.step(allowance);
        let threshold = self.config.stream_threshold();
        let pressed = self.watch.backpressure().withholds(id, recv.held(), allowance, threshold);
        if pressed || recv.is_complete() || limit < recv.max_data() + step {
            return;
        }
        recv.set_max_data(limit, step);
        if self.notices.holds_credit(id) {
            return;
        }
        self.outputs
            .messages
            .push(ControlMessage::MaxStreamData(MaxStreamData { stream_id: id, maximum: limit }));
    }

    /// The application read from a stream: slide its window, and widen it by what it took in a
    /// round trip (`rtt`), or to twice as much when that was a quarter of it: so credit keeps ahead
    /// of a sender that sends twice as much with each round trip.
    pub fn on_consumed(&mut self, id: StreamId, now: Instant, rtt: Duration) {
        self.look(id, now);
        self.give_back(id, now);
        let slow = self.is_slow(id);
        let Some(entry) = self.streams.get_mut(&id) else { return };
        let Some(recv) = &entry.halves.recv else { return };
        let consumed = lock(recv).consumed();
        let allowance = self.window.allowance(id);
        let ReadMeasure { consumed: since, at } = entry.measured;
        let (taken, elapsed) = (consumed.saturating_sub(since), now.saturating_duration_since(at));
        let round = rtt.max(Duration::from_millis(1));
        if elapsed >= round {
            entry.measured = ReadMeasure { consumed, at: now };
            let fast = elapsed.as_nanos() * u128::from(allowance)
                <= 4 * round.as_nanos() * u128::from(taken);
            if !slow {
                self.grow_allowance(id, if fast { allowance } else { taken });
            }
            // First its buffer may keep it from as much, then the window.
            for _ in 0..2 {
                let short = (2 * allowance).saturating_sub(self.window.allowance(id));
                if fast && !slow && short > 0 {
                    self.make_room(id, allowance);
                    self.grow_allowance(id, short);
                }
            }
        }
        self.grant(id);
        self.retire(id);
    }

    /// A stream that has more than its even part returns what was read before it is granted again,
    /// until others find the spare part of the window. Under memory pressure all that it borrowed
    /// is returned.
    fn give_back(&mut self, id: StreamId, now: Instant) {
        let Some(recv) = self.streams.get(&id).and_then(|entry| entry.halves.recv.as_ref()) else {
            return;
        };
        let (even, spare) = self.shares();
        let allowance = self.window.allowance(id);
        let short = spare.saturating_sub(self.window.lendable());
        let recalled = self.is_slow(id) && self.recalls(now);
        let more = if self.window.is_pressed() || recalled {
            allowance.saturating_sub(self.grants.floor)
        } else {
            // What settings took away since.
            let status = self.window.status();
            let over = status.size.saturating_sub(status.maximum);
            let over = over.max(allowance.saturating_sub(self.buffer_of(id)));
            allowance.saturating_sub(even).min(short).max(over)
        };
        if more > 0 {
            let recv = lock(recv);
            let granted = recv.max_data() - recv.consumed();
            self.window.release(id, more.min(allowance.saturating_sub(granted)));
        }
    }

    /// How much a stream may borrow within its buffer: all there is up to its even part, beyond it
    /// all but the spare part.
    fn borrowable(&self, id: StreamId) -> u64 {
        let (even, spare) = self.shares();
        let allowance = self.window.allowance(id);
        let fair = even.saturating_sub(allowance);
        let room = self.buffer_of(id).saturating_sub(allowance);
        let free = self.window.lendable().saturating_sub(spare);
        let pressed = self.watch.backpressure().session().is_some();
        room.min(if pressed { fair } else { fair.max(free) })
    }

    /// What a stream's allowance may be.
    pub(super) fn buffer_of(&self, id: StreamId) -> u64 {
        self.streams.get(&id).map_or(0, |entry| entry.buffer)
    }

    /// A stream's even part of the window, and the part that is left for those that have less; a
    /// stream that is alone has all.
    fn shares(&self) -> (u64, u64) {
        let status = self.window.status();
        let shared = status.lendable + status.lent;
        let spare = if status.streams > 1 { shared / SPARE } else { 0 };
        (status.floor + shared / status.streams.max(1), spare)
    }
}
