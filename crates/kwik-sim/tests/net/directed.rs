//! Single situations that random scenarios found.

use std::time::Duration;

use kwik::Config;
use kwik_sim::Shape;

use crate::cluster::{Kind, Request};
use crate::scenario::{Fault, Fetch, Scenario, ms};

/// One server at 20 Mbit/s and 40 ms, one small fetch, and that.
pub(crate) fn alone(faults: Vec<(Duration, Fault)>) -> Scenario {
    let link = Shape::rate_mbit(20).delay(ms(20));
    let request = Request { kind: Kind::Plain, tag: 1, len: 40_000 };
    Scenario {
        links: vec![[link, link]],
        fetches: vec![Fetch { request, at: ms(0), pace: None }],
        faults,
        settings: Config::default(),
        limit: Duration::from_secs(60),
        lossy: false,
        hostile: None,
        idle: Duration::from_secs(30),
    }
}

#[test]
fn a_silence_of_ten_seconds_within_the_handshake_costs_no_session() {
    // Before the client's first flight arrives, within it, and when the server's answer leaves.
    for at in [0, 30, 65, 85] {
        let faults = vec![(ms(at), Fault::Cut(0)), (ms(at + 10_000), Fault::Mend(0))];
        for fault in [Fault::Cut(0), Fault::CutDown(0), Fault::CutUp(0)] {
            let mut faults = faults.clone();
            faults[0].1 = fault;
            let outcome = alone(faults).run(1);
            let (at, result) = &outcome.fetched[0];
            // QUIC's handshake probes wait twice as long each time; nothing else is waited for.
            let fine = result.is_ok() && *at < ms(22_000);
            assert!(fine, "{fault:?}: {result:?} at {at:?}");
        }
    }
}

#[test]
fn a_link_that_was_cut_amid_a_transfer_is_used_as_soon_as_it_is_back() {
    // An acknowledgement comes eleven seconds late, which QUIC takes for a round trip. What was
    // sent meanwhile fills the window, so that neither data nor acknowledgements leave.
    let up = Shape::rate_mbit(1).delay(ms(27)).queue(ms(35));
    let down = Shape::rate_mbit(5).delay(ms(45)).queue(ms(62));
    let request = Request { kind: Kind::Plain, tag: 1, len: 200_000 };
    for cut in [1_600, 1_650, 1_668, 1_700, 1_750] {
        let scenario = Scenario {
            links: vec![[up, down]],
            fetches: vec![Fetch { request, at: ms(1_256), pace: None }],
            ..alone(vec![(ms(cut), Fault::Cut(0)), (ms(12_279), Fault::Mend(0))])
        };
        let (at, result) = &scenario.run(1).fetched[0];
        assert!(result.is_ok() && *at < ms(25_000), "cut at {cut}: {result:?} at {at:?}");
    }
}

#[test]
fn a_silence_shorter_than_the_idle_timeout_ends_when_the_link_is_back() {
    // QUIC's probes are ten seconds apart by then, and more.
    for kind in [Kind::Plain, Kind::Leased, Kind::Upload] {
        for silence in [10_000, 15_000, 20_000, 25_000, 28_000] {
            let request = Request { kind, tag: 1, len: 4_000_000 };
            let faults = vec![(ms(500), Fault::Cut(0)), (ms(500 + silence), Fault::Mend(0))];
            let fetches = vec![Fetch { request, at: ms(0), pace: None }];
            let outcome = Scenario { fetches, ..alone(faults) }.run(1);
            let (at, result) = &outcome.fetched[0];
            let fine = result.is_ok() && *at < ms(silence + 5_000);
            assert!(fine, "{kind:?}, {silence} ms: {result:?} at {at:?}");
        }
    }
}

#[test]
fn a_handshake_without_an_answer_for_long_is_begun_anew() {
    // QUIC's server would repeat its answer after 20 and after 40 s.
    let faults = vec![(ms(10), Fault::CutUp(0)), (ms(21_500), Fault::Mend(0))];
    let (at, result) = &alone(faults).run(1).fetched[0];
    assert!(result.is_ok() && *at < ms(25_000), "{result:?} at {at:?}");
}

#[test]
fn the_end_of_a_handshake_that_is_lost_after_a_silence_costs_no_session() {
    // What the server's first answer says of the round trip is as long as the silence.
    let faults = vec![
        (ms(0), Fault::Freeze(0)),
        (ms(11_761), Fault::Thaw(0)),
        (ms(11_775), Fault::CutDown(0)),
        (ms(11_850), Fault::Mend(0)),
    ];
    let (at, result) = &alone(faults).run(1).fetched[0];
    assert!(result.is_ok() && *at < ms(16_000), "{result:?} at {at:?}");
}

#[test]
fn an_address_that_changes_within_the_handshake_costs_no_session() {
    for rate in [1, 20] {
        for at in (1..200).step_by(3) {
            let link = Shape::rate_mbit(rate).delay(ms(20));
            let faults = vec![(ms(at), Fault::Rebind)];
            let scenario = Scenario { links: vec![[link, link]], ..alone(faults) };
            let (ended, result) = &scenario.run(1).fetched[0];
            let fine = result.is_ok() && *ended < ms(10_000);
            assert!(fine, "{rate} Mbit/s, moved at {at}: {result:?} at {ended:?}");
        }
    }
}

#[test]
fn the_end_of_a_handshake_that_comes_from_another_address_costs_no_session() {
    // The client has what it needs after 264 ms. What it sends then is lost, and what it repeats
    // comes from elsewhere, where QUIC's server takes nothing as long as the handshake lasts.
    let up = Shape::rate_mbit(5).delay(ms(93));
    let down = Shape::rate_mbit(50).delay(ms(169));
    for cut in (0..400).step_by(20) {
        for moved in [400, 728, 1_400] {
            let faults = vec![
                (ms(cut), Fault::Cut(0)),
                (ms(moved), Fault::Rebind),
                (ms(1_498), Fault::Mend(0)),
            ];
            let scenario = Scenario { links: vec![[up, down]], ..alone(faults) };
            let (ended, result) = &scenario.run(1).fetched[0];
            let fine = result.is_ok() && *ended < ms(10_000);
            assert!(fine, "cut at {cut}, moved at {moved}: {result:?} at {ended:?}");
        }
    }
}

#[test]
fn edges_behind_a_round_trip_of_two_seconds_join() {
    // Behind the primary's too, where the client's own link is the long one.
    for primary in [20, 1_000] {
        for edge in [500, 1_000, 1_400] {
            let [near, far] = [primary, edge].map(|delay| Shape::rate_mbit(20).delay(ms(delay)));
            let request = Request { kind: Kind::LeasedToEdges, tag: 1, len: 100_000 };
            let scenario = Scenario {
                links: vec![[near, near], [far, far]],
                fetches: vec![Fetch { request, at: ms(12_000), pace: None }],
                ..alone(Vec::new())
            };
            let (at, result) = &scenario.run(1).fetched[0];
            assert!(result.is_ok(), "{primary} and {edge} ms: {result:?} at {at:?}");
        }
    }
}

#[test]
fn links_that_are_cut_for_half_of_each_second_end_no_stream() {
    let [near, far] = [Shape::rate_mbit(20).delay(ms(20)), Shape::rate_mbit(5).delay(ms(60))];
    for phase in [0, 130, 370] {
        // Edges alone bring it; the primary's own link is cut too, or is not.
        for first in [0, 1] {
            let cuts = (first..3).flat_map(|server| {
                // Once all are there.
                let start = 1_500 + phase + 170 * server as u64;
                (0..40).flat_map(move |second| {
                    let at = start + 1_000 * second;
                    [(ms(at), Fault::Cut(server)), (ms(at + 500), Fault::Mend(server))]
                })
            });
            let mut faults: Vec<_> = cuts.collect();
            faults.sort_by_key(|(at, _)| *at);
            let request = Request { kind: Kind::LeasedToEdges, tag: 1, len: 4_000_000 };
            let scenario = Scenario {
                links: vec![[near, near], [far, far], [far, far]],
                fetches: vec![Fetch { request, at: ms(2_000), pace: None }],
                ..alone(faults)
            };
            let (at, result) = &scenario.run(1).fetched[0];
            assert!(
                result.is_ok(),
                "from {phase} ms, servers from {first} on: {result:?} at {at:?}"
            );
        }
    }
}
