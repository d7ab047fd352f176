//! What paths of known links teach their models.

use super::*;

const MS: Duration = Duration::from_millis(1);

/// Asked for `bytes` over a link of `rate` and `rtt`, and has them, packet by packet.
fn bring(model: &mut PathModel, now: &mut Instant, bytes: u64, rate: u64, rtt: Duration) {
    model.on_rtt(rtt);
    model.on_activated(bytes, *now);
    *now += rtt;
    let mut left = bytes;
    while left > 0 {
        let packet = left.min(PACKET);
        model.on_received(packet, packet, *now);
        *now += time_for(packet, rate);
        left -= packet;
    }
}

#[test]
fn a_path_of_which_nothing_is_known_brings_a_window_in_a_round_trip() {
    let now = crate::test_now();
    let mut model = PathModel::new(now);
    model.on_rtt(20 * MS);
    assert_eq!(model.arrival(FIRST_WINDOW, now), 20 * MS);
    // Of the next ones a burst comes at once, and the rest spread over the round trip.
    assert_eq!(model.arrival(2 * FIRST_WINDOW, now), 40 * MS);
    assert_eq!(model.arrival(3 * FIRST_WINDOW, now), 48 * MS);
    assert_eq!(model.arrival(7 * FIRST_WINDOW, now), 72 * MS);
    assert!(model.capacity(20 * MS, now) >= FIRST_WINDOW * 8 / 9);
    assert_eq!(model.capacity(19 * MS, now), 0);
}

#[test]
fn what_exceeds_a_window_comes_a_round_trip_after_that_window_began() {
    let mut now = crate::test_now();
    let mut model = PathModel::new(now);
    model.on_rtt(100 * MS);
    model.on_activated(200_000, now);
    now += 100 * MS;
    // More than a first window, and its last packet late: it begins no flight of its own.
    model.on_received(FIRST_WINDOW + PACKET, FIRST_WINDOW + PACKET, now);
    model.on_received(PACKET, PACKET, now + 20 * MS);
    now += 30 * MS;
    assert!(model.delivery(PACKET, now) >= 70 * MS, "{:?}", model.delivery(PACKET, now));
    assert!(model.delivery(PACKET, now) < 100 * MS, "{:?}", model.delivery(PACKET, now));
}

#[test]
fn the_first_packets_tell_what_the_link_carries() {
    let mut now = crate::test_now();
    let mut model = PathModel::new(now);
    bring(&mut model, &mut now, 12_000, 125_000, 20 * MS);
    let link = model.link_rate();
    assert!((115_000..=135_000).contains(&link), "{link}");
    assert!(model.arrival(125_000, now) >= 900 * MS);
}

#[test]
fn what_is_asked_for_comes_before_what_is_asked_for_later() {
    let mut now = crate::test_now();
    let mut model = PathModel::new(now);
    for _ in 0..30 {
        bring(&mut model, &mut now, 100_000, 1_000_000, 10 * MS);
    }
    let before = model.arrival(10_000, now);
    model.on_activated(500_000, now);
    assert!(model.arrival(10_000, now) >= before + 400 * MS);
    model.on_cancelled(500_000);
    assert!(model.arrival(10_000, now) >= before + 400 * MS, "cancelled bytes still come");
    model.on_dropped(500_000);
    assert!(model.arrival(10_000, now) <= before + MS);
}

#[test]
fn samples_of_a_path_that_ran_dry_never_lower_its_rate() {
    let mut now = crate::test_now();
    let mut model = PathModel::new(now);
    for _ in 0..30 {
        bring(&mut model, &mut now, 100_000, 1_000_000, 10 * MS);
    }
    let rate = model.rate().unwrap();
    for _ in 0..30 {
        bring(&mut model, &mut now, 3_000, 1_000_000, 10 * MS);
        now += 100 * MS;
    }
    assert!(model.rate().unwrap() >= rate);
}

#[test]
fn a_slow_path_is_asked_for_little() {
    let mut now = crate::test_now();
    let mut model = PathModel::new(now);
    for _ in 0..20 {
        bring(&mut model, &mut now, 12_000, 25_000, 10 * MS);
    }
    assert_eq!(model.piece_len(), limits::MIN_PIECE);
    assert!(model.target() <= 4 * limits::MIN_PIECE, "{}", model.target());
    assert!(model.patience() >= 150 * MS, "packets are 58 ms apart");
}

#[test]
fn a_silence_is_explained_by_loss_only_where_few_packets_are_under_way() {
    let mut now = crate::test_now();
    let mut model = PathModel::new(now);
    model.on_rtt(20 * MS);
    // The first window may be lost, and three probes after it: 85, 170 and 340 ms later.
    assert_eq!(model.loss_explains(limits::DEAD_AFTER, now), (20 + 85 * 15) * MS);
    bring(&mut model, &mut now, 400_000, 12_500, 20 * MS);
    assert_eq!(model.loss_explains(limits::DEAD_AFTER, now), (20 + 65 * 15) * MS);
    let mut model = PathModel::new(now);
    bring(&mut model, &mut now, 4_000_000, 1_250_000, 20 * MS);
    assert_eq!(model.loss_explains(limits::DEAD_AFTER, now), Duration::ZERO);
    let mut model = PathModel::new(now);
    model.on_rtt(500 * MS);
    assert_eq!(model.loss_explains(limits::DEAD_AFTER, now), limits::DEAD_AFTER);
}
