//! Single situations, where it matters how long something takes.

use std::collections::VecDeque;
use std::time::Duration;

use kwik_proto::PathId;

use crate::pipe::Link;
use crate::scenario::{Plan, Segment, StreamPlan};
use crate::world::{Event, World};

const DELAY: Duration = Duration::from_millis(10);

/// A world with one edge for each of `rates`, in bytes a second, that all hold all of one stream of `len`.
fn world(rates: &[u64], len: u64) -> World {
    let mut world = World::steady();
    world.until(Duration::from_secs(2), |world| world.session().id().is_some());
    for _ in rates {
        world.add_edge();
    }
    world.settle();
    let edges = rates.len();
    world.until(Duration::from_secs(2), |world| world.primary.usable.len() > edges);
    for (index, rate) in rates.iter().enumerate() {
        let path = PathId(u32::try_from(index + 1).unwrap());
        let link = Link::steady(DELAY, *rate, world.now);
        world.links.insert(path, link);
        let now = world.now;
        assert!(now > world.started);
        world.session().on_rtt(path, DELAY * 2);
    }
    let stream = StreamPlan {
        bidi: false,
        size: 0,
        client_reset_at: None,
        segments: VecDeque::from([Segment::Extent(len)]),
        stop_at: None,
        sloth: 0,
        may_starve: false,
    };
    world.plan = Plan { streams: vec![stream], everyone: true, ..Plan::default() };
    world.after(Duration::ZERO, Event::Open(0));
    world
}

/// How long the stream takes from now on.
fn finish(world: &mut World) -> Duration {
    let start = world.now;
    world.until(Duration::from_secs(60), World::has_ended);
    world.now - start
}

#[test]
fn a_silent_edge_is_replaced_before_it_counts_as_dead() {
    let mut world = world(&[2_000_000, 2_000_000], 400_000);
    let cut = world.now + Duration::from_millis(60);
    while world.step(cut) {}
    world.links.get_mut(&PathId(1)).unwrap().cut = true;
    let took = finish(&mut world);
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[test]
fn an_edge_that_answers_but_sends_nothing_holds_nobody_up() {
    let mut world = world(&[2_000_000, 2_000_000], 900_000);
    let stall = world.now + Duration::from_millis(60);
    while world.step(stall) {}
    let until = world.now + Duration::from_secs(30);
    world.edges.get_mut(&PathId(1)).unwrap().stalled_until = Some(until);
    let took = finish(&mut world);
    assert!(took < Duration::from_millis(1500), "{took:?}");
}
