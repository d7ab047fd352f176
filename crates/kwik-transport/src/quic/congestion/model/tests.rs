//! The model at a link that is itself a model: a rate, a delay, a queue and losses by chance.

use proptest::prelude::*;

use super::*;

const MTU: u64 = 1200;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Debug, Clone, Copy)]
struct Link {
    /// Bytes a second.
    rate: f64,
    delay: Duration,
    /// Bytes.
    queue: f64,
    /// One packet in so many is lost by chance; 0 for none.
    loses: u64,
}

/// A sender with always something to send, and its packets under way.
struct World {
    link: Link,
    model: Model,
    start: Instant,
    now: Duration,
    free_at: Duration,
    /// When it was sent, and when its acknowledgement comes; `None` when it is lost.
    sent: std::collections::VecDeque<(Duration, Option<Duration>)>,
    count: u64,
    delivered: u64,
    overflowed: u64,
}

impl World {
    fn new(link: Link) -> Self {
        let start = Instant::now();
        Self {
            link,
            model: Model::new(start, 1200),
            start,
            now: Duration::ZERO,
            free_at: Duration::ZERO,
            sent: std::collections::VecDeque::new(),
            count: 0,
            delivered: 0,
            overflowed: 0,
        }
    }

    fn in_flight(&self) -> u64 {
        self.sent.len() as u64 * MTU
    }

    fn send(&mut self) {
        while self.in_flight() + MTU < self.model.window() {
            let waits = self.free_at.saturating_sub(self.now).as_secs_f64() * self.link.rate;
            self.count += 1;
            let chance = self.link.loses > 0 && self.count.is_multiple_of(self.link.loses);
            let fits = waits <= self.link.queue;
            self.overflowed += u64::from(!fits);
            let arrives = (fits && !chance).then(|| {
                let takes = Duration::from_secs_f64(MTU as f64 / self.link.rate);
                self.free_at = self.free_at.max(self.now) + takes;
                self.free_at + self.link.delay
            });
            self.sent.push_back((self.now, arrives));
            self.model.on_sent(self.start + self.now, MTU, self.count);
        }
    }

    /// Sends, and takes the next acknowledgement.
    fn step(&mut self) {
        self.send();
        let next = self.sent.iter().position(|(_, arrives)| arrives.is_some());
        let Some(next) = next else {
            // All are lost: a probe finds out.
            self.now += ms(1000);
            let at = self.start + self.now;
            let lost = self.in_flight();
            self.sent.clear();
            self.model.on_congestion_event(at, at, true, lost);
            return;
        };
        let lost = self.sent.drain(..next).next_back();
        let (sent, arrives) = self.sent.pop_front().unwrap();
        self.now = self.now.max(arrives.unwrap());
        self.delivered += MTU;
        let at = self.start + self.now;
        self.model.note_acked(at, self.start + sent, MTU, self.now - sent);
        self.model.on_end_acks(at, self.in_flight() + next as u64 * MTU, false, None);
        if let Some((sent, _)) = lost {
            self.model.on_congestion_event(at, self.start + sent, false, next as u64 * MTU);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    fn used(&mut self, time: Duration) -> f64 {
        let before = self.delivered;
        self.run(time);
        (self.delivered - before) as f64 / time.as_secs_f64() / self.link.rate
    }
}

fn link(mbit: f64, delay: u64, queue_ms: f64) -> Link {
    let rate = mbit * 1e6 / 8.0;
    Link { rate, delay: ms(delay), queue: rate * queue_ms / 1e3, loses: 0 }
}

#[test]
fn a_clean_link_is_full_and_its_queue_short() {
    let mut world = World::new(link(50.0, 40, 40.0));
    world.run(ms(2000));
    let overflowed = world.overflowed;
    assert!(world.used(ms(10_000)) >= 0.98);
    assert_eq!(world.overflowed, overflowed);
    assert!(world.model.path.base() < ms(45), "{:?}", world.model.path.base());
}

#[test]
fn loss_by_chance_is_told_from_a_full_queue() {
    let mut world = World::new(Link { loses: 50, ..link(50.0, 40, 40.0) });
    world.run(ms(2000));
    assert!(world.used(ms(10_000)) >= 0.9);
    let chance = world.model.losses.by_chance();
    assert!((0.015..0.03).contains(&chance), "{chance}");
}

#[test]
fn a_faster_link_is_found() {
    let mut world = World::new(link(10.0, 40, 100.0));
    world.run(ms(5000));
    world.link.rate *= 10.0;
    world.run(ms(2000));
    let used = world.used(ms(2000));
    assert!(used >= 0.9, "{used} of the faster one");
}

/// Round trips that stay long as slow start ends look like a queue that never drains.
#[test]
fn a_queue_that_is_not_ours_is_not_drained_for_ever() {
    let mut world = World::new(link(50.0, 40, 40.0));
    while matches!(world.model.state, State::Startup { .. }) {
        world.step();
    }
    assert!(matches!(world.model.state, State::Drain { .. }), "{:?}", world.model.state);
    world.link.delay = ms(140);
    world.run(ms(1500));
    assert!(!matches!(world.model.state, State::Drain { .. }), "{:?}", world.model.state);
}

#[test]
fn the_window_of_who_sends_little_stays_as_it_began() {
    let start = Instant::now();
    let mut model = Model::new(start, 1200);
    for round in 0..100 {
        let (sent, acked) = (start + ms(round * 100), start + ms(round * 100 + 60 + round % 30));
        model.on_sent(sent, 300, round);
        model.note_acked(acked, sent, 300, ms(60));
        model.on_end_acks(acked, 0, true, None);
        assert_eq!(model.window(), FIRST_WINDOW * MTU);
    }
}

#[test]
fn a_link_that_falls_silent_is_measured_anew() {
    let mut world = World::new(link(50.0, 40, 40.0));
    world.run(ms(3000));
    let at = world.start + world.now;
    world.model.on_congestion_event(at, at, true, world.in_flight());
    assert_eq!(world.model.window(), LEAST_WINDOW * MTU);
    assert!(matches!(world.model.state, State::Startup { .. }));
    world.sent.clear();
    world.run(ms(2000));
    assert!(world.used(ms(2000)) >= 0.95);
}

#[test]
fn states_follow_their_table() {
    use Finding::{Found, Full, Growing, Idle, Nothing, Overflow};
    let up = State::Up { best: 1.0, rounds: 0, share: 0.1 };
    let startup = State::Startup { flat: 0, best: 0.0 };
    let same = |state: State, finding| assert!(state.after_round(finding).is_same(state));
    for (state, finding, next) in [
        (startup, Growing { flat: 2, best: 1.0 }, State::Startup { flat: 2, best: 1.0 }),
        (startup, Growing { flat: 3, best: 1.0 }, State::drain()),
        (startup, Full, State::drain()),
        (State::Drain { rounds: 1 }, Nothing, State::Drain { rounds: 0 }),
        (State::Drain { rounds: 0 }, Nothing, State::Down),
        (State::Cruise { rounds: 2 }, Nothing, State::Cruise { rounds: 1 }),
        (State::Cruise { rounds: 2 }, Idle, State::Cruise { rounds: 2 }),
        (up, Nothing, State::Up { best: 1.0, rounds: 1, share: 0.1 }),
        (up, Found { best: 2.0 }, State::Up { best: 2.0, rounds: 0, share: tuning::PROBE_SHARE }),
        (up, Full, State::Down),
        (State::Crowd { rounds: 3 }, Overflow { delivered: 1 }, State::Crowd { rounds: 2 }),
    ] {
        assert_eq!(state.after_round(finding), next, "{state:?}, {finding:?}");
    }
    let is = |state: State, finding, next| assert!(state.after_round(finding).is_same(next));
    is(State::Cruise { rounds: 0 }, Nothing, up);
    is(State::Crowd { rounds: 0 }, Nothing, State::Yield { before: ms(0) });
    for state in [State::Down, State::Yield { before: ms(50) }] {
        for finding in [Nothing, Idle, Full, Overflow { delivered: 1 }] {
            same(state, finding);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the link: the window is bounded by what the link holds, and something moves. (In a
    /// crowd the window stands still here: the library's CUBIC is not told of acknowledgements.)
    #[test]
    fn any_link_is_used_within_what_it_holds(
        mbit in 0.2f64..200.0,
        delay in 1u64..300,
        queue_ms in 5.0f64..300.0,
        loses in prop::option::of(8u64..2000),
    ) {
        let link = Link { loses: loses.unwrap_or(0), ..link(mbit, delay, queue_ms) };
        let mut world = World::new(link);
        world.run(ms(5000 + 20 * delay));
        let used = world.used(ms(3000 + 10 * delay));
        prop_assert!(used >= 0.05, "{used}");
        let holds = link.rate * (link.delay.as_secs_f64() + queue_ms / 1e3);
        let window = world.model.window() as f64;
        prop_assert!(window <= 4.0 * holds + (12 * MTU) as f64, "{window} of {holds}");
    }
}
