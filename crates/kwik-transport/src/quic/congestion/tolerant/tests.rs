//! The rule, round by round.

use super::*;

const MTU: u64 = 1200;
const FLOOR: Duration = Duration::from_millis(50);

/// A sender whose window does not grow, round by round.
struct World {
    tolerant: Tolerant,
    now: Instant,
}

impl World {
    /// In slow start, with a window of so many packets.
    fn new(packets: u64) -> Self {
        let now = Instant::now();
        let mut tolerant = Tolerant::new(now, 1200);
        tolerant.rule = Rule::Start(Start { window: packets * MTU, slower: None });
        Self { tolerant, now }
    }

    fn packets(&self) -> u64 {
        self.tolerant.window() / MTU
    }

    /// A window of packets takes `rtt`; so many of them are lost.
    fn round(&mut self, rtt: Duration, lost: u64) {
        let (sent, window) = (self.now, self.packets());
        self.now += rtt;
        self.tolerant.acked.bytes = window.saturating_sub(lost) * MTU;
        self.tolerant.acked.newest = Some(sent);
        self.tolerant.on_end_acks(self.now, 0, false, None);
        if lost > 0 {
            self.tolerant.on_congestion_event(self.now, sent, false, lost * MTU);
        }
    }
}

#[test]
fn what_is_lost_by_chance_is_not_answered() {
    let mut world = World::new(200);
    for round in 0..50 {
        world.round(FLOOR, u64::from(round > 3) * 2);
    }
    assert_eq!(world.packets(), 200);
    assert_eq!(world.tolerant.stats().state, CongestionState::SlowStart);
}

#[test]
fn a_full_queue_is_answered_and_chance_beside_it_is_not() {
    let mut world = World::new(200);
    for _ in 0..50 {
        world.round(FLOOR, 2);
    }
    // The queue grows and loses no more than before.
    for queue in 0..40 {
        world.round(FLOOR + Duration::from_millis(queue), 2);
    }
    assert_eq!(world.packets(), 200);
    world.round(FLOOR * 2, 0);
    world.round(FLOOR * 2, 12);
    assert_eq!(world.packets(), 140);
    let stats = world.tolerant.stats();
    assert_eq!((stats.window, stats.state), (140 * MTU, CongestionState::Avoidance));
    assert_eq!((stats.answered, stats.by_chance), (Some(1), Some(90 * 2 * MTU)));
    assert_eq!(stats.least_rtt, Some(FLOOR));
}

#[test]
fn much_more_than_chance_is_answered_but_not_twice_where_that_changes_nothing() {
    let mut world = World::new(200);
    for _ in 0..10 {
        world.round(FLOOR, 0);
    }
    for _ in 0..20 {
        let lost = world.packets() * 3 / 10;
        world.round(FLOOR, lost);
    }
    assert_eq!(world.packets(), 140);
    // Once that is over for long, as much is too much again.
    for _ in 0..100 {
        world.round(FLOOR, 0);
    }
    world.round(FLOOR, 42);
    assert_eq!(world.packets(), 97);
}

/// A slow link whose queue holds three packets lost a third of them, for ever.
#[test]
fn who_has_few_packets_under_way_answers_each_loss() {
    let mut world = World::new(14);
    world.round(FLOOR, 6);
    assert_eq!(world.packets(), 9);
    for _ in 0..3 {
        world.round(FLOOR, 0);
    }
    world.round(FLOOR, 1);
    assert_eq!(world.packets(), 6);
}

#[test]
fn slow_start_slows_down_when_a_queue_shows_and_goes_on_when_it_goes() {
    let mut start = Start { window: 100 * MTU, slower: None };
    let mut round = Round::new(Instant::now());
    (round.rtt, round.samples) = (Some(FLOOR * 3 / 2), RISE_SAMPLES - 1);
    start.on_rtt(FLOOR, &round);
    assert!(start.slower.is_none(), "too few samples");
    round.samples += 1;
    start.on_rtt(FLOOR, &round);
    assert!(start.slower.is_some());
    assert!(!start.on_round(FLOOR));
    assert!(start.slower.is_none(), "it was none");
    start.on_rtt(FLOOR, &round);
    let over = (0..SLOWER_ROUNDS).map(|_| start.on_round(FLOOR * 2)).collect::<Vec<_>>();
    assert_eq!(over, [false, false, false, false, true]);
}

#[test]
fn a_link_that_falls_silent_begins_with_two_packets() {
    let mut world = World::new(100);
    world.round(FLOOR, 0);
    let sent = world.now;
    world.now += FLOOR * 10;
    world.tolerant.on_congestion_event(world.now, sent, true, 50 * MTU);
    assert_eq!(world.packets(), 2);
    // More of what was lost then says nothing of the window now.
    world.tolerant.on_congestion_event(world.now, sent, true, 50 * MTU);
    assert_eq!(world.tolerant.most, 100 * MTU);
}
