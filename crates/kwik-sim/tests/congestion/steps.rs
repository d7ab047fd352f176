//! Links that change.

use std::time::Duration;

use kwik::CongestionControl::Model;
use kwik_sim::Shape;

use crate::bottleneck::run;
use crate::flow::{Flow, ms};
use crate::seeds::{controls, each, spread};

/// 100, 10 and 100 Mbit/s, ten seconds each: the new rate is used after two.
#[test]
fn rates_that_change_are_followed() {
    let shape = Shape::rate_mbit(100);
    let changes = [(ms(10_000), shape.slowed(10)), (ms(20_000), shape)];
    for control in controls() {
        let all = each(|seed| run(seed, shape, &[Flow::new(*control, ms(50))], 30, &changes));
        let [_, slow, _] = spread(&all, |run| run.mbit(0, 12.0, 20.0));
        let [_, at_once, _] = spread(&all, |run| run.mbit(0, 20.0, 21.0));
        let [_, fast, _] = spread(&all, |run| run.mbit(0, 22.0, 23.0));
        let longest = all.iter().flat_map(|run| &run.queue[2000..4000]).max().unwrap();
        println!(
            "{control:?}: {slow:.1} of 10 Mbit/s, then {at_once:.1} in a second and {fast:.1} \
             after two; queue {longest:?} at most"
        );
        if *control == Model {
            assert!(slow >= 8.5 && fast >= 0.9 * 95.0);
            // The link's queue holds 500 ms, and a packet of 1.2 ms.
            assert!(*longest <= Duration::from_millis(502));
        }
    }
}

#[test]
fn a_round_trip_that_jumps_by_100_ms_is_followed() {
    let shape = Shape::rate_mbit(100);
    let changes = [(ms(10_000), shape.delay(ms(100)))];
    for control in controls() {
        let all = each(|seed| run(seed, shape, &[Flow::new(*control, ms(50))], 20, &changes));
        let [_, then, _] = spread(&all, |run| run.mbit(0, 12.0, 13.0));
        let [_, later, _] = spread(&all, |run| run.mbit(0, 13.0, 20.0));
        println!("{control:?}: {then:.1} Mbit/s two seconds after the jump, then {later:.1}");
        assert!(*control != Model || (then >= 85.0 && later >= 80.0));
    }
}

/// 64 KB a second for five seconds, then bulk.
#[test]
fn who_wrote_little_does_not_start_from_nothing() {
    let shape = Shape::rate_mbit(100);
    for control in controls() {
        let flow = Flow { slowly: Some((64_000, ms(5000))), ..Flow::new(*control, ms(50)) };
        let all = each(|seed| run(seed, shape, &[flow], 10, &[]));
        let [_, first, _] = spread(&all, |run| run.mbit(0, 5.0, 5.5));
        let [_, second, _] = spread(&all, |run| run.mbit(0, 5.5, 6.0));
        println!("{control:?}: {first:.1} Mbit/s in the first half second, then {second:.1}");
        assert!(*control != Model || (first >= 15.0 && second >= 85.0));
    }
}
