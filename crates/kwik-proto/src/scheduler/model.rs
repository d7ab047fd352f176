//! What is known of how fast a path delivers. It answers one question: *when will the next n bytes
//! have come?*
//!
//! A path begins in slow start (RFC 9002 section 7.3.1): its server sends a window of bytes in a
//! round trip, and twice as many in the next, but never faster than its link, which the first train
//! of packets measures. Once its rate stays flat it is steady, and n bytes take n / rate. Bytes
//! that it was asked for before come first.

use std::time::{Duration, Instant};

use crate::limits;

mod link;
mod queue;
mod start;
#[cfg(test)]
mod tests;

use link::Link;
use queue::Queue;
use start::Start;

use super::tuning::{
    ACK_DELAY, COMMITTED, FEW_PACKETS, FIRST_WINDOW, LOST_PROBES, PACKET, PIECE_TIME, ROUND,
    ROUND_BYTES, SLACK, SPACINGS, TRAIN_GAP, UNKNOWN_SPACING, WINDOWS_AHEAD,
};

/// Rounds of slow start that are worth adding up: more bring more than a window of ours takes.
const MAX_ROUNDS: u32 = 20;

/// In slow start a window of bytes comes in each round trip.
#[derive(Debug)]
struct Flight {
    /// When the first of the current one came or will come.
    began: Instant,
    /// How many of it are still to come.
    left: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct PathModel {
    rtt: Duration,
    /// The least round trip seen: what waits in queues is part of what is outstanding already.
    base: Duration,
    /// Delivery rate in bytes a second, once measured.
    rate: Option<u64>,
    link: Link,
    queue: Queue,
    /// Payload that came.
    received: u64,
    /// What the path's connection has received in all, where the driver says.
    arrived: Option<u64>,
    /// Bytes since the current round began, and when that was.
    round: (u64, Instant),
    /// Nothing has come since it was asked after a pause: a round begins with the first bytes, lest
    /// it measure the round trip.
    waiting: bool,
    /// Bytes that came since the path last had nothing to do, and when it got something.
    busy: (u64, Instant),
    /// The path ran dry during this round, so the round measures us and not the path.
    dry: bool,
    start: Start,
    flight: Flight,
    /// What it is asked for comes within this: longer, and the window fills behind it.
    horizon: Duration,
    /// When the next byte is expected.
    due: Instant,
}

impl PathModel {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rtt: Duration::ZERO,
            base: Duration::MAX,
            rate: None,
            link: Link::new(now),
            queue: Queue::default(),
            received: 0,
            arrived: None,
            round: (0, now),
            waiting: true,
            busy: (0, now),
            dry: true,
            start: Start::default(),
            flight: Flight { began: now, left: FIRST_WINDOW },
            horizon: Duration::MAX,
            due: now,
        }
    }

    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
        self.base = self.base.min(rtt);
    }

    /// How long it may be busy with what it is asked for.
    pub(super) fn set_horizon(&mut self, horizon: Duration) {
        self.horizon = horizon;
    }

    /// It is asked for more.
    pub(super) fn on_activated(&mut self, bytes: u64, now: Instant) {
        if self.queue.is_dry() {
            self.due = now + self.base_rtt();
            self.flight = Flight { began: self.due, left: self.window() };
        }
        if self.queue.outstanding() == 0 {
            self.waiting = true;
            self.busy = (0, now);
        }
        self.queue.ask(bytes);
    }

    /// Bytes asked for will not come.
    pub(super) fn on_released(&mut self, bytes: u64) {
        self.queue.release(bytes);
        self.dry |= self.queue.is_dry();
    }

    /// Others are asked for these bytes instead. They hold up what it is asked for next until they
    /// have come, or its server said that they will not.
    pub(super) fn on_cancelled(&mut self, bytes: u64) {
        self.queue.cancel(bytes);
        self.dry |= self.queue.is_dry();
    }

    /// Cancelled bytes came, or will not.
    pub(super) fn on_dropped(&mut self, bytes: u64) {
        self.queue.drop_stale(bytes);
        self.dry |= self.queue.is_dry();
    }

    /// It was dead and speaks again: what was measured before holds no more.
    pub(super) fn on_revived(&mut self, now: Instant) {
        (self.rate, self.link, self.start) = (None, Link::new(now), Start::default());
        self.queue.drop_stale(u64::MAX);
        (self.round, self.waiting, self.busy) = ((0, now), true, (0, now));
        self.due = now;
    }

    /// Bytes came, `asked` of them outstanding until now.
    pub(super) fn on_received(&mut self, bytes: u64, asked: u64, now: Instant) {
        if now >= self.flight.began + self.base_rtt() {
            self.flight = Flight { began: now, left: self.window() };
        }
        self.flight.left = self.flight.left.saturating_sub(bytes);
        self.received += bytes;
        self.queue.release(asked);
        self.on_dropped(bytes.saturating_sub(asked));
        self.busy.0 += asked;
        self.due = now;
        if self.waiting {
            self.link.begin(now);
        } else {
            self.link.on_received(bytes, now);
        }
        if self.queue.is_dry() {
            self.end_busy(now);
        }
        if std::mem::take(&mut self.waiting) {
            self.round = (0, now);
        } else if self.arrived.is_none() {
            self.measure(bytes, now);
        }
    }

    /// What the path's connection has received in all. Streams hold back what came behind a lost
    /// packet and then give it up at once; what arrives measures the path without such bursts.
    pub(super) fn on_arrived(&mut self, total: u64, now: Instant) {
        if let Some(before) = self.arrived.replace(total)
            && !self.waiting
        {
            self.measure(total.saturating_sub(before), now);
        }
    }

    fn measure(&mut self, bytes: u64, now: Instant) {
        self.round.0 += bytes;
        let lasted = now.saturating_duration_since(self.round.1);
        if lasted >= self.base_rtt().max(ROUND) && self.round.0 >= ROUND_BYTES {
            self.end_round(lasted);
            self.round = (0, now);
            self.dry = self.queue.is_dry();
        }
    }

    fn end_round(&mut self, lasted: Duration) {
        let sample = rate_of(self.round.0, lasted);
        let Some(rate) = self.rate else {
            // What it brought while it had nothing to do is no measure of what it can.
            self.rate = Some(sample);
            self.start.on_round(sample);
            return;
        };
        if sample < rate && self.dry {
            return;
        }
        let grew = self.start.on_round(sample);
        self.rate = Some(if grew && self.is_starting() {
            // Slow start doubles in a round trip: an average would hold it back.
            sample
        } else if sample >= rate {
            rate / 2 + sample / 2
        } else {
            rate - rate / 4 + sample / 4
        });
    }

    /// The path brought all it was asked for: it is at least as fast as that took, round trip and
    /// all. Else one that was measured too low, and so gets little at a time, would stay there.
    fn end_busy(&mut self, now: Instant) {
        // A burst out of a buffer may come in no time: it shall not read as a rate.
        let least = self.base_rtt().max(TRAIN_GAP);
        let sample = rate_of(self.busy.0, now.saturating_duration_since(self.busy.1).max(least));
        if self.rate.is_some_and(|rate| sample > rate) {
            self.rate = Some(sample);
        }
    }

    /// Its server's congestion window may still be opening.
    pub(super) fn is_starting(&self) -> bool {
        !self.start.is_over()
    }

    /// The round trip without what waits in queues.
    pub(super) fn base_rtt(&self) -> Duration {
        if self.base == Duration::MAX { self.rtt } else { self.base }
    }

    /// What its server may send in a round trip of slow start.
    fn window(&self) -> u64 {
        FIRST_WINDOW + self.received
    }

    /// What lies between two packets.
    pub(super) fn spacing(&self) -> Duration {
        // In slow start a window comes at once: its average says nothing of its packets.
        let rate = if self.is_starting() { self.link.rate().or(self.rate) } else { self.rate };
        let most = UNKNOWN_SPACING / SPACINGS;
        rate.map_or(most, |rate| time_for(PACKET, rate).min(UNKNOWN_SPACING))
    }

    /// How long nothing may come before the path is silent, as far as its spacing tells.
    pub(super) fn patience(&self) -> Duration {
        let rtt = if self.waiting { self.rtt } else { self.base_rtt() };
        // At the end of slow start much is lost at once, and repeated in turns.
        let probe = if self.is_starting() { rtt * 2 + 2 * ACK_DELAY } else { rtt * 5 / 4 };
        probe + self.spacing() * SPACINGS
    }

    /// How long nothing may come, and be but lost packets: where few are under way, or nothing has
    /// come yet and all of the first window may be lost. Else no longer than [`Self::patience`].
    pub(super) fn loss_explains(&self, most: Duration, now: Instant) -> Duration {
        // RFC 9002 sections 5.3 and 6.2.1, with a variation of a quarter of the round trip, and of
        // half before the second is measured.
        let probe = match self.rate_by_now(now) {
            None => self.rtt * 3 + ACK_DELAY,
            Some(rate) if time_for(FEW_PACKETS * PACKET, rate) > self.rtt => {
                self.rtt * 2 + ACK_DELAY
            }
            Some(_) => return Duration::ZERO,
        };
        (self.rtt + probe * ((1 << LOST_PROBES) - 1)).min(most)
    }

    /// The rate once slow start is over.
    fn steady(&self, now: Instant) -> Option<u64> {
        self.rate_by_now(now).filter(|_| !self.is_starting())
    }

    /// The measured rate. A round that takes longer than it would at that rate, and than silence
    /// may last, has shown already that it is less.
    fn rate_by_now(&self, now: Instant) -> Option<u64> {
        let rate = self.rate?;
        if self.waiting || self.dry {
            return Some(rate);
        }
        let (came, began) = self.round;
        let most = came + ROUND_BYTES + bytes_in(rate, self.patience());
        Some(rate.min(rate_of(most, now.saturating_duration_since(began))))
    }

    /// How long `bytes` more come for, from now or from when the first of them is due.
    fn transfer(&self, bytes: u64, now: Instant) -> Duration {
        if let Some(rate) = self.steady(now) {
            return time_for(bytes, rate);
        }
        let Flight { began, left: here } = self.flight;
        let Some(left) = bytes.checked_sub(here) else {
            return time_for(bytes, self.pace(self.window()));
        };
        // What is under way first, then a window that is twice as large with each round trip.
        let next = (began + self.base_rtt()).saturating_duration_since(now.max(self.due));
        let here_comes = time_for(here, self.pace(self.window()));
        next.max(here_comes) + self.rounds(left, self.window() + here)
    }

    /// How long `bytes` come for in slow start that has come to this window.
    fn rounds(&self, mut bytes: u64, mut window: u64) -> Duration {
        let link = self.link_rate();
        let mut time = Duration::ZERO;
        for _ in 0..MAX_ROUNDS {
            if bytes <= window {
                break;
            }
            time += self.base_rtt().max(time_for(window, link));
            bytes -= window;
            window *= 2;
        }
        // What its server sends at once comes at the link's rate.
        let burst = bytes.min(FIRST_WINDOW);
        time + time_for(burst, link).max(time_for(bytes - burst, self.pace(window)))
    }

    /// The rate at which its server spreads a window over a round trip, and its link carries it.
    fn pace(&self, window: u64) -> u64 {
        rate_of(window * 5 / 4, self.base_rtt()).min(self.link_rate())
    }

    /// What its link may carry.
    fn link_rate(&self) -> u64 {
        self.link.rate().unwrap_or(u64::MAX).max(self.rate.unwrap_or(0))
    }

    /// Until the next byte comes.
    fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// How long from now until the first `bytes` of what it was asked for have come.
    pub(super) fn delivery(&self, bytes: u64, now: Instant) -> Duration {
        self.wait(now) + self.transfer(self.queue.stale() + bytes, now)
    }

    /// How long from now until all it was asked for and `more` bytes have come.
    pub(super) fn arrival(&self, more: u64, now: Instant) -> Duration {
        if self.queue.is_dry() {
            return self.base_rtt() + self.fresh(more);
        }
        let queued = self.queue.len() + more;
        let queued = self.wait(now) + self.transfer(queued, now);
        // The request travels to the server, and its first bytes back.
        let steady = self.steady(now);
        queued.max(self.base_rtt() + time_for(more, steady.unwrap_or(self.link_rate())))
    }

    /// How long `bytes` come for after a pause.
    fn fresh(&self, bytes: u64) -> Duration {
        if let Some(rate) = self.rate.filter(|_| !self.is_starting()) {
            return time_for(bytes, rate);
        }
        self.rounds(bytes, self.window())
    }

    /// How many bytes more it could bring within `time` from now.
    pub(super) fn capacity(&self, time: Duration, now: Instant) -> u64 {
        // Times rise with bytes, so halving finds the most that come in time.
        if self.arrival(limits::MIN_PIECE, now) > time {
            return 0;
        }
        if let Some(rate) = self.steady(now) {
            let queue = self.wait(now) + time_for(self.queue.len(), rate);
            return bytes_in(rate, time.saturating_sub(queue.max(self.base_rtt())));
        }
        let (mut fits, mut late) = (limits::MIN_PIECE, limits::MAX_WINDOW);
        while late > fits * 9 / 8 {
            let middle = fits + (late - fits) / 2;
            if self.arrival(middle, now) <= time {
                fits = middle;
            } else {
                late = middle;
            }
        }
        fits
    }

    /// What it brings in so much time.
    pub(super) fn in_time(&self, time: Duration) -> u64 {
        self.rate.map_or(0, |rate| bytes_in(rate, time))
    }

    /// How far its times may be off: by what its server and its link hesitate.
    pub(super) fn uncertainty(&self) -> Duration {
        self.base_rtt() / 4 + self.spacing() * 2 + TRAIN_GAP
    }

    /// How many bytes may be outstanding: enough that its congestion window can open, not so much
    /// that a stalled path holds back what the reader needs next.
    fn target(&self) -> u64 {
        let base = self.base_rtt();
        let (times, least, most) = SLACK;
        let slack = (base * times).clamp(least, most);
        let target = match self.rate {
            Some(rate) if !self.is_starting() => bytes_in(rate, base * 5 / 4 + slack),
            // A window under way and the next, so that the server never lacks bytes to send, as far
            // as its link, what the rate can have grown to since it was measured, and the session's
            // window carry them.
            measured => {
                let most = self.horizon.max(base * 2);
                let link = bytes_in(self.link_rate(), (base * 2 + slack).min(most));
                let grown = |rate| bytes_in(rate, ((base + ROUND) * 4 + slack).min(most));
                (2 * self.window()).min(link).min(measured.map_or(u64::MAX, grown))
            }
        };
        target.max(2 * limits::MIN_PIECE)
    }

    /// It may be asked for a piece more.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < self.target()
    }

    /// Size of its next piece.
    pub(super) fn piece_len(&self) -> u64 {
        let measured = self.rate.map_or(0, |rate| bytes_in(rate, PIECE_TIME));
        let len = if self.is_starting() { measured.max(self.window() / 3) } else { measured };
        let len = len.min(self.target() / 2);
        let len = len.clamp(limits::MIN_PIECE, limits::MAX_PIECE);
        len / limits::MIN_PIECE * limits::MIN_PIECE
    }

    /// Of `bytes` that lie behind the first `ahead` of the queue, how many its server has given to
    /// QUIC by now: no cancellation calls them back.
    pub(super) fn committed(&self, ahead: u64, bytes: u64) -> u64 {
        let window = match self.rate {
            Some(rate) if !self.is_starting() => 2 * bytes_in(rate, self.base_rtt()),
            _ => self.window(),
        };
        (WINDOWS_AHEAD * window + COMMITTED).saturating_sub(ahead).min(bytes)
    }

    /// Smoothed round-trip time.
    pub(super) fn rtt(&self) -> Duration {
        self.rtt
    }

    /// Measured rate in bytes a second.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    pub(super) fn outstanding(&self) -> u64 {
        self.queue.outstanding()
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }
}

/// Bytes a second.
fn rate_of(bytes: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1_000_000) / micros
}

fn bytes_in(rate: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    u64::try_from(u128::from(rate) * u128::from(micros) / 1_000_000).unwrap_or(u64::MAX)
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX / 4).min(u64::MAX / 4))
}
