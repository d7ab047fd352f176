//! When the producers of a session are asked to slow down, why, and for how long (8.3).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::StreamId;
use crate::limits::ESCALATION_STREAMS;
use crate::wire::control::{self, ControlMessage};

pub use crate::wire::control::BackpressureReason;

/// What changed, for who produces: a stream's reason or the session's, none when it was lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackpressureChange {
    /// Of which stream; none: of the session.
    pub stream: Option<StreamId>,
    /// Why it is to slow down; none: it need not any more.
    pub reason: Option<BackpressureReason>,
}

impl BackpressureChange {
    /// The notice to the peer.
    #[must_use]
    pub fn message(self) -> ControlMessage {
        let Self { stream: stream_id, reason } = self;
        ControlMessage::Backpressure(control::Backpressure { stream_id, reason })
    }
}

/// How often one reason has held, and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReasonStats {
    /// How often it began.
    pub count: u64,
    /// How long it held in all, what holds now included.
    pub total: Duration,
}

/// Backpressure of a session as its receiver applies it (8.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackpressureStats {
    /// Why the session as a whole is under it now.
    pub session: Option<BackpressureReason>,
    /// How many streams are under it now.
    pub streams: usize,
    /// How often the session as a whole came under it.
    pub escalations: u64,
    /// See [`BackpressureReason::BufferFull`], of streams and session.
    pub buffer_full: ReasonStats,
    /// See [`BackpressureReason::SlowConsumer`], of streams and session.
    pub slow_consumer: ReasonStats,
    /// See [`BackpressureReason::WindowFull`].
    pub window_full: ReasonStats,
    /// See [`BackpressureReason::MemoryPressure`].
    pub memory_pressure: ReasonStats,
}

impl BackpressureStats {
    fn of(&mut self, reason: BackpressureReason) -> &mut ReasonStats {
        match reason {
            BackpressureReason::BufferFull => &mut self.buffer_full,
            BackpressureReason::SlowConsumer => &mut self.slow_consumer,
            BackpressureReason::WindowFull => &mut self.window_full,
            BackpressureReason::MemoryPressure => &mut self.memory_pressure,
        }
    }
}

/// What one stream holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLoad {
    /// Received and not yet read; 0 once nothing more will come.
    pub held: u64,
    /// Those of `held` that can be read in order now.
    pub contiguous: u64,
    /// What the stream may have granted and not read: the current size of its buffer.
    pub size: u64,
}

/// What all streams of a session hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionLoad {
    /// Bytes received and not yet read.
    pub held: u64,
    /// Bytes that its open streams could have granted and not read: the window without the floors
    /// of streams to come.
    pub size: u64,
    /// Open streams that receive.
    pub streams: usize,
    /// The endpoint's memory is nearly all granted.
    pub memory: bool,
}

/// Something under pressure: why, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pressed {
    reason: BackpressureReason,
    since: Instant,
}

/// Derives backpressure from what streams hold (8.3).
///
/// A stream comes under it when it holds `threshold` of its size, and is free again below two
/// thirds of that, so that a reader that goes on always finds bytes while new credit travels. While
/// it lasts the reason may turn from [`BufferFull`](BackpressureReason::BufferFull) to
/// [`SlowConsumer`](BackpressureReason::SlowConsumer), when the missing bytes came and nobody
/// reads, but not back: at most three changes each time.
///
/// The session comes under it when the endpoint's memory is nearly all granted, when all its
/// streams together hold `threshold` of what they may, or when half of them, and at least
/// [`ESCALATION_STREAMS`], are under it themselves, in this order of precedence; of the last two
/// each is over at two thirds or half of where it begins.
#[derive(Debug, Default)]
pub struct Backpressure {
    streams: BTreeMap<StreamId, Pressed>,
    session: Option<Pressed>,
    window_full: bool,
    escalated: bool,
    /// What is over; the rest is in `streams` and `session`.
    stats: BackpressureStats,
}

impl Backpressure {
    /// Looks at a stream. What changed, if anything.
    pub fn on_stream(
        &mut self,
        id: StreamId,
        load: StreamLoad,
        threshold: f64,
        now: Instant,
    ) -> Option<BackpressureChange> {
        let former = self.streams.get(&id).copied();
        let readable = load.contiguous * 2 >= load.held;
        let reason = match former.map(|pressed| pressed.reason) {
            None if load.held == 0 || load.held < share(load.size, threshold) => None,
            Some(_) if load.held < lift_at(load.size, threshold) => None,
            Some(BackpressureReason::SlowConsumer) => former.map(|pressed| pressed.reason),
            _ if readable => Some(BackpressureReason::SlowConsumer),
            _ => Some(BackpressureReason::BufferFull),
        };
        let pressed = self.stats.turn(former, reason, now)?;
        match pressed {
            Some(pressed) => self.streams.insert(id, pressed),
            None => self.streams.remove(&id),
        };
        Some(BackpressureChange { stream: Some(id), reason })
    }

    /// A stream is over: nobody is told.
    pub fn on_closed(&mut self, id: StreamId, now: Instant) {
        let former = self.streams.remove(&id);
        self.stats.turn(former, None, now);
    }

    /// Looks at the session as a whole, after its streams. What changed, if anything.
    pub fn on_session(
        &mut self,
        load: SessionLoad,
        threshold: f64,
        now: Instant,
    ) -> Option<BackpressureChange> {
        self.window_full = if self.window_full {
            load.held >= lift_at(load.size, threshold)
        } else {
            load.held > 0 && load.held >= share(load.size, threshold)
        };
        let many = (load.streams / 2).max(ESCALATION_STREAMS);
        self.escalated = self.streams.len() >= if self.escalated { many / 2 } else { many };
        let reason = if load.memory {
            Some(BackpressureReason::MemoryPressure)
        } else if self.window_full {
            Some(BackpressureReason::WindowFull)
        } else {
            self.escalated.then(|| self.prevailing())
        };
        let former = self.session;
        self.session = self.stats.turn(former, reason, now)?;
        self.stats.escalations += u64::from(former.is_none());
        Some(BackpressureChange { stream: None, reason })
    }

    /// Why most of the streams under pressure are.
    fn prevailing(&self) -> BackpressureReason {
        let slow = |pressed: &&Pressed| pressed.reason == BackpressureReason::SlowConsumer;
        if self.streams.values().filter(slow).count() * 2 >= self.streams.len() {
            BackpressureReason::SlowConsumer
        } else {
            BackpressureReason::BufferFull
        }
    }

    /// Why a stream itself is under it, and since when.
    #[must_use]
    pub fn stream(&self, id: StreamId) -> Option<(BackpressureReason, Instant)> {
        self.streams.get(&id).map(|pressed| (pressed.reason, pressed.since))
    }

    /// Why the session as a whole is under it, and since when.
    #[must_use]
    pub fn session(&self) -> Option<(BackpressureReason, Instant)> {
        self.session.map(|pressed| (pressed.reason, pressed.since))
    }

    /// Whether a stream gets no further credit: it is under pressure, and its figures would not
    /// lift it.
    #[must_use]
    pub fn withholds(&self, id: StreamId, held: u64, size: u64, threshold: f64) -> bool {
        self.streams.contains_key(&id) && held >= lift_at(size, threshold)
    }

    /// All figures at once.
    #[must_use]
    pub fn stats(&self, now: Instant) -> BackpressureStats {
        let mut stats = self.stats;
        for pressed in self.streams.values().chain(&self.session) {
            stats.of(pressed.reason).total += now.saturating_duration_since(pressed.since);
        }
        stats.session = self.session.map(|pressed| pressed.reason);
        stats.streams = self.streams.len();
        stats
    }
}

impl BackpressureStats {
    /// Accounts for a turn from `former` to `reason`: what holds from now on, none when nothing
    /// changed.
    #[expect(clippy::option_option, reason = "whether it changed, and to what")]
    fn turn(
        &mut self,
        former: Option<Pressed>,
        reason: Option<BackpressureReason>,
        now: Instant,
    ) -> Option<Option<Pressed>> {
        if former.map(|pressed| pressed.reason) == reason {
            return None;
        }
        if let Some(former) = former {
            self.of(former.reason).total += now.saturating_duration_since(former.since);
        }
        if let Some(reason) = reason {
            self.of(reason).count += 1;
        }
        Some(reason.map(|reason| Pressed { reason, since: now }))
    }
}

/// Where pressure begins.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a threshold between 0 and a size"
)]
fn share(size: u64, threshold: f64) -> u64 {
    (size as f64 * threshold) as u64
}

/// Below what it ends.
fn lift_at(size: u64, threshold: f64) -> u64 {
    (share(size, threshold) / 3 * 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::BackpressureReason::{BufferFull, MemoryPressure, SlowConsumer, WindowFull};
    use super::*;
    use crate::id::{Dir, Side};
    use proptest::prelude::*;

    const STREAM: f64 = 0.75;
    const WINDOW: f64 = 0.8;

    fn id(index: u64) -> StreamId {
        StreamId::new(Side::Server, Dir::Uni, index)
    }

    fn load(held: u64, contiguous: u64) -> StreamLoad {
        StreamLoad { held, contiguous, size: 1000 }
    }

    #[test]
    fn a_stream_is_pressed_at_its_threshold_and_free_below_two_thirds_of_it() {
        let (mut state, start) = (Backpressure::default(), crate::test_now());
        let at = |millis| start + Duration::from_millis(millis);
        let mut look = |held, contiguous, millis| {
            let change = state.on_stream(id(0), load(held, contiguous), STREAM, at(millis));
            change.map(|change| change.reason)
        };
        assert_eq!(look(749, 0, 0), None);
        assert_eq!(look(750, 100, 1), Some(Some(BufferFull)));
        assert_eq!(look(800, 100, 2), None);
        assert_eq!(look(800, 700, 3), Some(Some(SlowConsumer)));
        assert_eq!(look(800, 100, 4), None, "it does not turn back");
        assert_eq!(look(500, 0, 5), None);
        assert_eq!(look(499, 499, 9), Some(None));
        let stats = state.stats(at(99));
        assert_eq!((stats.buffer_full.count, stats.slow_consumer.count), (1, 1));
        assert_eq!(stats.buffer_full.total, Duration::from_millis(2));
        assert_eq!(stats.slow_consumer.total, Duration::from_millis(6));
    }

    #[test]
    fn many_pressed_streams_press_the_session_and_memory_goes_before() {
        let (mut state, now) = (Backpressure::default(), crate::test_now());
        let many = ESCALATION_STREAMS as u64;
        let all =
            SessionLoad { held: 1, size: 1000, streams: 2 * ESCALATION_STREAMS, memory: false };
        for index in 0..many {
            assert_eq!(state.on_session(all, WINDOW, now), None);
            assert!(state.on_stream(id(index), load(900, 900), STREAM, now).is_some());
        }
        let session = |state: &mut Backpressure, all| {
            state.on_session(all, WINDOW, now).map(|change| change.reason)
        };
        assert_eq!(session(&mut state, all), Some(Some(SlowConsumer)));
        let full = SessionLoad { held: 800, ..all };
        assert_eq!(session(&mut state, full), Some(Some(WindowFull)));
        let memory = SessionLoad { memory: true, ..full };
        assert_eq!(session(&mut state, memory), Some(Some(MemoryPressure)));
        let eased = SessionLoad { held: 531, ..all };
        assert_eq!(session(&mut state, eased), Some(Some(SlowConsumer)));
        for index in 0..many {
            state.on_stream(id(index), load(0, 0), STREAM, now);
        }
        assert_eq!(session(&mut state, eased), Some(None));
        assert_eq!(state.stats(now).escalations, 1);
    }

    /// The same rules with nothing kept but what happened: intervals, by stream.
    #[derive(Default)]
    struct Model {
        /// Stream (none: session), reason, beginning, end.
        log: Vec<(Option<u64>, BackpressureReason, Instant, Option<Instant>)>,
        full: bool,
        escalated: bool,
    }

    impl Model {
        fn current(&self, stream: Option<u64>) -> Option<BackpressureReason> {
            let open = self.log.iter().find(|(of, _, _, end)| *of == stream && end.is_none());
            open.map(|(_, reason, ..)| *reason)
        }

        fn pressed(&self) -> Vec<BackpressureReason> {
            let open = self.log.iter().filter(|(of, _, _, end)| of.is_some() && end.is_none());
            open.map(|(_, reason, ..)| *reason).collect()
        }

        fn turn(
            &mut self,
            stream: Option<u64>,
            reason: Option<BackpressureReason>,
            now: Instant,
        ) -> Option<BackpressureChange> {
            if self.current(stream) == reason {
                return None;
            }
            let open = self.log.iter_mut().find(|(of, _, _, end)| *of == stream && end.is_none());
            open.into_iter().for_each(|entry| entry.3 = Some(now));
            self.log.extend(reason.map(|reason| (stream, reason, now, None)));
            Some(BackpressureChange { stream: stream.map(id), reason })
        }

        fn stream(
            &mut self,
            index: u64,
            load: StreamLoad,
            now: Instant,
        ) -> Option<BackpressureChange> {
            let former = self.current(Some(index));
            let begin = load.size * 3 / 4;
            let level = if former.is_some() { (begin / 3 * 2).max(1) } else { begin.max(1) };
            let reason = if load.held < level {
                None
            } else if former == Some(SlowConsumer) || load.contiguous * 2 >= load.held {
                Some(SlowConsumer)
            } else {
                Some(BufferFull)
            };
            self.turn(Some(index), reason, now)
        }

        fn session(&mut self, load: SessionLoad, now: Instant) -> Option<BackpressureChange> {
            let begin = load.size * 4 / 5;
            let level = if self.full { begin / 3 * 2 } else { begin };
            self.full = load.held >= level.max(1);
            let many = (load.streams / 2).max(ESCALATION_STREAMS);
            let pressed = self.pressed();
            self.escalated = pressed.len() >= if self.escalated { many / 2 } else { many };
            let slow = pressed.iter().filter(|reason| **reason == SlowConsumer).count();
            let reason = match (load.memory, self.full, self.escalated) {
                (true, ..) => Some(MemoryPressure),
                (_, true, _) => Some(WindowFull),
                (.., true) if slow * 2 >= pressed.len() => Some(SlowConsumer),
                (.., true) => Some(BufferFull),
                _ => None,
            };
            self.turn(None, reason, now)
        }

        fn reason(&self, reason: BackpressureReason, now: Instant) -> ReasonStats {
            let own = self.log.iter().filter(|(_, of, ..)| *of == reason);
            let total = own.clone().map(|(.., begin, end)| end.unwrap_or(now) - *begin).sum();
            ReasonStats { count: own.count() as u64, total }
        }
    }

    #[derive(Debug, Clone)]
    enum Look {
        Stream(u64, StreamLoad),
        Session(SessionLoad),
    }

    fn look() -> impl Strategy<Value = Look> {
        let sizes = prop_oneof![Just(0u64), Just(4), Just(1000)];
        let stream =
            (0..8u64, 0..1200u64, 0..=4u64, sizes).prop_map(|(index, held, part, size)| {
                let held = held.min(size * 6 / 5);
                Look::Stream(index, StreamLoad { held, contiguous: held * part / 4, size })
            });
        let session = (0..1000u64, 1..20usize, prop::bool::weighted(0.1));
        let session = session.prop_map(|(held, streams, memory)| {
            Look::Session(SessionLoad { held, size: 1000, streams, memory })
        });
        prop_oneof![3 => stream, 1 => session]
    }

    proptest! {
        #[test]
        fn agrees_with_a_log_of_intervals(
            looks in prop::collection::vec((look(), 0..50u64), 0..200),
        ) {
            let (mut state, mut model) = (Backpressure::default(), Model::default());
            let mut now = crate::test_now();
            for (look, later) in looks {
                now += Duration::from_millis(later);
                let (change, expected) = match look {
                    Look::Stream(index, load) => (
                        state.on_stream(id(index), load, STREAM, now),
                        model.stream(index, load, now),
                    ),
                    Look::Session(load) => {
                        (state.on_session(load, WINDOW, now), model.session(load, now))
                    }
                };
                prop_assert_eq!(change, expected);
                let expected = BackpressureStats {
                    session: model.current(None),
                    streams: model.pressed().len(),
                    escalations: state.stats(now).escalations,
                    buffer_full: model.reason(BufferFull, now),
                    slow_consumer: model.reason(SlowConsumer, now),
                    window_full: model.reason(WindowFull, now),
                    memory_pressure: model.reason(MemoryPressure, now),
                };
                prop_assert_eq!(state.stats(now), expected);
            }
        }
    }
}
