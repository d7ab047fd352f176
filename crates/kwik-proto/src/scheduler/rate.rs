//! How much each path is asked for, and in what portions (docs/scheduling.md).
//!
//! Each path is kept busy for a little longer than a round trip: enough that its congestion window
//! can open, not so much that a stalled path holds back what the reader needs next. The session picks
//! *what* (the lowest missing range), this module *how much*.

use std::time::{Duration, Instant};

use crate::limits;

/// How long a path's outstanding bytes last beyond its round trips, in round trips and at most: what
/// servers, links and the reader hesitate. On short paths more would only fill memory, which costs
/// the processor's caches more than an idle moment costs the path.
const SLACK: (u32, Duration, Duration) = (4, Duration::from_millis(4), Duration::from_millis(50));
/// What a lost packet's repetition may wait in queues.
const QUEUED: Duration = Duration::from_millis(50);
/// A piece lasts about this long, so that a stall moves little.
const PIECE_TIME: Duration = Duration::from_millis(20);
/// Arrived bytes that are progress, and not just acknowledgements and heartbeats.
const PROGRESS: u64 = 8 * 1024;
/// The least time that bytes are measured over.
const SHORTEST: Duration = Duration::from_millis(5);
/// Rounds without growth of a quarter that end the start-up.
const FLAT_ROUNDS: u8 = 3;
/// A rate below half of what was measured is believed after this, and two rounds: a lost packet's repetition
/// makes a round or so look slow.
const SLUMP: Duration = Duration::from_millis(100);
/// What a path that became slow would need longer for is better brought by others: until then the window
/// gives those something else to do.
const LAG: Duration = Duration::from_millis(350);
/// Bounds how long a path rests: 50 ms * 2^6.
const MAX_STRIKES: u32 = 6;

/// One path's measured rate, and what it has been asked for.
#[derive(Debug)]
pub struct PathSchedule {
    rtt: Duration,
    min_rtt: Duration,
    /// Bytes a second, once measured.
    rate: Option<u64>,
    outstanding: u64,
    /// Bytes that others were asked for and that this path may still send.
    stale: u64,
    received: u64,
    /// What the path's connection has received in all, where the driver says.
    arrived: Option<u64>,
    /// What it had received when it last showed progress.
    arrived_before: u64,
    /// Bytes since the current round began, and when that was.
    round: (u64, Instant),
    /// Nothing has come since it was asked after a pause: the round begins with the first bytes, lest it
    /// measure the round trip.
    waiting: bool,
    /// Bytes that came since the path last had nothing to do, and when it got something.
    busy: (u64, Instant),
    /// The path ran dry during this round, so the round measures us and not the path.
    dry: bool,
    flat_rounds: u8,
    /// Since when its rate is below half of what was measured, and what the last such round brought.
    slump: Option<(Instant, u64)>,
    /// It has become far slower, and has not worked off yet what it was asked for before.
    slow: bool,
    last_progress: Instant,
    last_heard: Instant,
    /// When it last brought something, or was asked after a pause.
    last_brought: Instant,
    /// When its connection last received anything at all, be it an acknowledgement.
    last_arrived: Instant,
    /// How often in a row it fell silent, and until when it gets nothing new for that.
    strikes: u32,
    rest_until: Option<Instant>,
}

impl PathSchedule {
    /// A path of which nothing is known.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            rtt: Duration::ZERO,
            min_rtt: Duration::MAX,
            rate: None,
            outstanding: 0,
            stale: 0,
            received: 0,
            arrived: None,
            arrived_before: 0,
            round: (0, now),
            waiting: true,
            busy: (0, now),
            dry: true,
            flat_rounds: 0,
            slump: None,
            slow: false,
            last_progress: now,
            last_heard: now,
            last_brought: now,
            last_arrived: now,
            strikes: 0,
            rest_until: None,
        }
    }

    /// Notes the path's smoothed round-trip time.
    pub fn on_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
        self.min_rtt = self.min_rtt.min(rtt);
    }

    /// Notes bytes asked of the path.
    pub fn on_activated(&mut self, bytes: u64, now: Instant) {
        if self.outstanding == 0 {
            self.last_progress = now;
            self.last_heard = now;
            self.last_brought = now;
            self.waiting = true;
            self.busy = (0, now);
        }
        self.outstanding += bytes;
    }

    /// Notes that bytes asked for will not come.
    pub fn on_released(&mut self, bytes: u64) {
        self.outstanding = self.outstanding.saturating_sub(bytes);
        self.dry |= self.is_dry();
    }

    /// Notes bytes that others were asked for instead. They count against what it is asked for next until they
    /// have come, or it said that they will not.
    pub fn on_cancelled(&mut self, bytes: u64) {
        self.stale += bytes;
        self.on_released(bytes);
    }

    /// Notes bytes that others were asked for and that will not come.
    pub fn on_dropped(&mut self, bytes: u64) {
        self.stale = self.stale.saturating_sub(bytes);
        self.slow &= self.stale > 0;
        self.dry |= self.is_dry();
    }

    /// It has nothing to send.
    fn is_dry(&self) -> bool {
        self.outstanding + self.stale == 0
    }

    /// Notes a sign of life, which need not be progress.
    pub fn on_alive(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// It fell silent: it rests, twice as long each time, lest a server that answers but sends nothing
    /// gets what the reader needs next over and over.
    pub fn on_suspect(&mut self, now: Instant) {
        self.strikes = (self.strikes + 1).min(MAX_STRIKES);
        self.rest_until = Some(now + limits::SUSPECT_AFTER * (1 << self.strikes));
    }

    /// It spoke again: what is still outstanding gets another chance.
    pub fn on_recovered(&mut self, now: Instant) {
        self.last_progress = now;
    }

    /// It was dead and spoke: what was measured before holds no more.
    pub fn on_revived(&mut self, now: Instant) {
        (self.rate, self.flat_rounds, self.stale) = (None, 0, 0);
        (self.strikes, self.rest_until) = (0, None);
        (self.round, self.waiting, self.busy) = ((0, now), true, (0, now));
    }

    /// Until when it gets nothing new.
    #[must_use]
    pub fn rest_until(&self) -> Option<Instant> {
        self.rest_until
    }

    /// It has rested enough.
    pub fn end_rest(&mut self) {
        self.rest_until = None;
    }

    /// Notes bytes that came, `asked` of them outstanding until now.
    pub fn on_received(&mut self, bytes: u64, asked: u64, now: Instant) {
        self.last_progress = now;
        self.last_heard = now;
        self.last_brought = now;
        (self.strikes, self.rest_until) = (0, None);
        self.received += bytes;
        self.arrived_before = self.arrived.unwrap_or(0);
        self.outstanding = self.outstanding.saturating_sub(asked);
        self.on_dropped(bytes.saturating_sub(asked));
        self.dry |= self.is_dry();
        self.busy.0 += asked;
        if self.is_dry() {
            self.end_busy(now);
        }
        if std::mem::take(&mut self.waiting) {
            self.round = (0, now);
        } else if self.arrived.is_none() {
            self.measure(bytes, now);
        }
    }

    /// Notes how many bytes the path's connection has received in all. Streams hold back what came behind
    /// a lost packet and then give it up at once; what arrives measures the path without such bursts, and shows
    /// progress while a lost packet is repeated.
    pub fn on_arrived(&mut self, total: u64, now: Instant) {
        if total.saturating_sub(self.arrived_before) >= PROGRESS {
            self.arrived_before = total;
            self.last_progress = now;
            self.last_heard = now;
            self.last_brought = now;
        }
        if self.arrived.is_none_or(|before| before < total) {
            self.last_arrived = now;
        }
        if let Some(before) = self.arrived.replace(total)
            && !self.waiting
        {
            self.measure(total.saturating_sub(before), now);
        }
    }

    fn measure(&mut self, bytes: u64, now: Instant) {
        self.round.0 += bytes;
        let lasted = now.saturating_duration_since(self.round.1);
        if lasted >= self.base_rtt().max(Duration::from_millis(20)) {
            self.end_round(lasted, now);
            self.round = (0, now);
            self.dry = self.is_dry();
        }
    }

    /// The path brought all it was asked for: it is at least as fast as that took, round trip and all. Else one
    /// that was measured too low, and so gets little at a time, would stay there.
    fn end_busy(&mut self, now: Instant) {
        // A burst out of a buffer may come in no time: it shall not read as a rate.
        let lasted = now.saturating_duration_since(self.busy.1).max(SHORTEST);
        let least = rate_of(self.busy.0, lasted);
        if self.rate.is_none_or(|rate| least > rate) {
            self.rate = Some(least);
        }
    }

    fn end_round(&mut self, lasted: Duration, now: Instant) {
        let sample = rate_of(self.round.0, lasted);
        let Some(rate) = self.rate else {
            self.rate = Some(sample);
            return;
        };
        let grew = sample > rate + rate / 4;
        self.flat_rounds = if grew { 0 } else { self.flat_rounds.saturating_add(1) };
        if grew && self.is_starting() {
            // Slow start doubles in a round trip: an average would hold it back.
            self.rate = Some(sample);
        } else if sample >= rate {
            self.rate = Some(rate / 2 + sample / 2);
        } else if !self.dry {
            self.rate = Some(
                self.slumped(sample, now - lasted, now).unwrap_or(rate - rate / 4 + sample / 4),
            );
        }
        if self.dry || sample > rate / 2 {
            self.slump = None;
        }
    }

    /// The rate of a path that has become far slower, once that is sure: an average would take long to notice.
    fn slumped(&mut self, sample: u64, began: Instant, now: Instant) -> Option<u64> {
        if sample > self.rate? / 2 {
            return None;
        }
        let (since, before) = self.slump.unwrap_or((began, u64::MAX));
        self.slump = Some((since, sample));
        self.slow |= before < u64::MAX && now >= since + SLUMP;
        (before < u64::MAX && now >= since + SLUMP).then_some(sample.max(before))
    }

    /// Its congestion window may still be opening.
    fn is_starting(&self) -> bool {
        self.flat_rounds < FLAT_ROUNDS
    }

    /// The round trip without what waits in queues: what is outstanding says that already.
    fn base_rtt(&self) -> Duration {
        if self.min_rtt == Duration::MAX { self.rtt } else { self.min_rtt }
    }

    /// How many bytes may be outstanding.
    fn target(&self) -> u64 {
        let Some(rate) = self.rate else { return 4 * limits::MIN_PIECE };
        let base = self.base_rtt();
        let round_trips = if self.is_starting() { base * 2 } else { base * 5 / 4 };
        let (times, least, most) = SLACK;
        let slack = (base * times).clamp(least, most);
        bytes_in(rate, round_trips + slack).max(4 * limits::MIN_PIECE)
    }

    /// How many more bytes to ask for; 0 while it has enough.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.target().saturating_sub(self.outstanding + self.stale)
    }

    /// It has become slow, and what it was asked for before that is still to come.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// How long nothing of a stream need come while a lost packet of it is repeated.
    #[must_use]
    pub fn repair_time(&self) -> Duration {
        self.patience() + QUEUED
    }

    /// How much of what it was asked for it should go on to bring, if it is too slow for the rest.
    #[must_use]
    pub fn kept(&self) -> Option<u64> {
        let rate = self.rate.filter(|_| !self.is_starting())?;
        let kept = self.target().max(bytes_in(rate, LAG));
        (self.outstanding > 0 && self.outstanding + self.stale > kept * 3 / 2).then_some(kept)
    }

    /// Size of its next piece.
    #[must_use]
    pub fn piece_len(&self) -> u64 {
        let len = self.rate.map_or(limits::MIN_PIECE, |rate| bytes_in(rate, PIECE_TIME));
        let len = len.clamp(limits::MIN_PIECE, limits::MAX_PIECE);
        len / limits::MIN_PIECE * limits::MIN_PIECE
    }

    /// When it becomes suspect unless it speaks; none while nothing is asked of it.
    #[must_use]
    pub fn suspect_at(&self) -> Option<Instant> {
        // Once bytes come, what waits in queues makes no gap between them.
        (self.outstanding > 0).then(|| self.last_progress + self.patience())
    }

    fn patience(&self) -> Duration {
        let rtt = if self.waiting { self.rtt } else { self.base_rtt() };
        limits::SUSPECT_AFTER.max(rtt * 5 / 4)
    }

    /// When it counts as dead unless it speaks.
    #[must_use]
    pub fn dead_at(&self) -> Instant {
        self.last_heard + limits::DEAD_AFTER.max(self.rtt * 3)
    }

    /// When it loses its leases unless it brings something, though it may live; none while nothing is asked.
    #[must_use]
    pub fn stalled_at(&self) -> Option<Instant> {
        let patience = limits::STALLED_AFTER.max(self.rtt * 3);
        (self.outstanding > 0).then(|| self.last_brought + patience)
    }

    /// Its connection receives something.
    #[must_use]
    pub fn is_reachable(&self, now: Instant) -> bool {
        self.last_arrived.max(self.last_heard) + limits::DEAD_AFTER.max(self.rtt * 3) > now
    }

    /// When anything was last heard of it.
    #[must_use]
    pub fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// When it last brought something, or was asked after a pause.
    #[must_use]
    pub fn last_brought(&self) -> Instant {
        self.last_brought
    }

    /// How long what was asked of it goes on to come, had all been sent already.
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        self.backlog(0).saturating_sub(self.base_rtt())
    }

    /// How long the path needs for what it has been asked, and `more` bytes. One that was never measured is
    /// taken to be fast, so that it is tried.
    #[must_use]
    pub fn backlog(&self, more: u64) -> Duration {
        let Some(rate) = self.rate else { return self.base_rtt() };
        let bytes = (self.outstanding + self.stale).saturating_add(more);
        self.base_rtt() + Duration::from_micros(bytes.saturating_mul(1_000_000) / rate.max(1))
    }

    /// Smoothed round-trip time.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    /// Measured rate in bytes a second.
    #[must_use]
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Bytes asked for and not come.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Bytes that came.
    #[must_use]
    pub fn received(&self) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmeasured_path_gets_small_pieces_and_a_fast_one_large() {
        let now = crate::test_now();
        let mut path = PathSchedule::new(now);
        assert_eq!((path.piece_len(), path.room()), (limits::MIN_PIECE, 4 * limits::MIN_PIECE));
        path.on_rtt(Duration::from_millis(20));
        path.on_activated(1 << 30, now);
        for step in 1..=20 {
            path.on_received(1 << 20, 1 << 20, now + Duration::from_millis(20) * step);
        }
        let rate = path.rate().unwrap();
        assert!((45 << 20..=55 << 20).contains(&rate), "{rate}");
        assert_eq!(path.piece_len(), limits::MAX_PIECE);
    }

    #[test]
    fn a_path_that_was_measured_too_low_recovers_though_it_runs_dry_each_time() {
        let mut now = crate::test_now();
        let mut path = PathSchedule::new(now);
        path.on_activated(1 << 20, now);
        path.on_received(1000, 1000, now);
        now += Duration::from_millis(100);
        path.on_received(1000, 1000, now);
        assert!(path.rate().unwrap() < 100_000);
        path.on_released(path.outstanding());
        let asked = path.room();
        path.on_activated(asked, now);
        now += Duration::from_millis(1);
        path.on_received(asked, asked, now);
        assert!(path.rate().unwrap() >= 50 << 20, "{:?}", path.rate());
    }

    #[test]
    fn a_path_that_always_runs_dry_within_a_round_is_measured_nevertheless() {
        let mut now = crate::test_now();
        let mut path = PathSchedule::new(now);
        let asked = path.room();
        path.on_activated(asked, now);
        now += Duration::from_millis(8);
        path.on_received(asked, asked, now);
        assert_eq!(path.rate(), Some(asked * 125));
    }

    #[test]
    fn a_path_at_a_tenth_of_its_rate_is_found_out_and_has_too_much() {
        let now = crate::test_now();
        let mut path = PathSchedule::new(now);
        let round = Duration::from_millis(60);
        path.on_rtt(round);
        path.on_activated(1 << 30, now);
        path.on_received(1, 1, now);
        path.on_arrived(0, now);
        let mut total = 0;
        let mut pass = |path: &mut PathSchedule, at: u32, bytes| {
            total += bytes;
            path.on_arrived(total, now + round * at);
        };
        (1..=10).for_each(|at| pass(&mut path, at, 600_000));
        path.on_released(path.outstanding() - 1);
        path.on_activated(path.room(), now + round * 10);
        pass(&mut path, 11, 60_000);
        assert!(path.rate().unwrap() > 7_000_000, "one slow round may be a lost packet");
        (12..=13).for_each(|at| pass(&mut path, at, 60_000));
        assert!(path.rate().unwrap() <= 1_100_000, "{:?}", path.rate());
        let kept = path.kept().unwrap();
        assert!((4 * limits::MIN_PIECE..path.outstanding()).contains(&kept));
        let rest = path.outstanding() - kept;
        path.on_cancelled(rest);
        assert!(path.is_slow() && path.room() == 0, "it is busy with what it has");
        path.on_dropped(rest);
        assert!(!path.is_slow() && path.kept().is_none());
        assert!(path.backlog(0) <= LAG + round);
    }

    #[test]
    fn bytes_behind_a_lost_packet_are_progress_and_heartbeats_are_not() {
        let now = crate::test_now();
        let mut path = PathSchedule::new(now);
        path.on_activated(1 << 20, now);
        let later = now + limits::SUSPECT_AFTER / 2;
        path.on_arrived(100, later);
        assert_eq!(path.suspect_at(), Some(now + limits::SUSPECT_AFTER));
        path.on_arrived(PROGRESS, later);
        assert_eq!(path.suspect_at(), Some(later + limits::SUSPECT_AFTER));
    }

    #[test]
    fn silence_makes_a_path_suspect_only_with_something_outstanding() {
        let now = crate::test_now();
        let mut path = PathSchedule::new(now);
        assert_eq!(path.suspect_at(), None);
        path.on_activated(10, now);
        assert_eq!(path.suspect_at(), Some(now + limits::SUSPECT_AFTER));
        path.on_rtt(Duration::from_millis(80));
        assert_eq!(path.suspect_at(), Some(now + Duration::from_millis(100)));
        path.on_received(10, 10, now);
        assert_eq!(path.suspect_at(), None);
    }
}
