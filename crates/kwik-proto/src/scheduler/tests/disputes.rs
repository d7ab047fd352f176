//! Edges that contradict each other (9.2).

use super::*;
use crate::{AggregationFallback, ConflictPolicy, Recovery};

fn rejecting(fallback: AggregationFallback) -> Fixture {
    let mut fixture = Fixture::new();
    let mut recovery = Recovery::default();
    recovery.set_aggregation(fallback).unwrap();
    let mut config = Config::default();
    config.set_conflict_policy(ConflictPolicy::Reject).unwrap().set_recovery(recovery);
    fixture.streams.set_config(config, fixture.now).unwrap();
    fixture
}

/// A brings zeros and falls silent; B is asked for the rest, and brings it; A's ones come late.
#[test]
fn what_two_edges_dispute_is_asked_of_a_third() {
    let mut fixture = rejecting(AggregationFallback::AskAgain);
    fixture.lease(1, A, 0..64 * KIB);
    fixture.receive(A, 0..4 * KIB);
    fixture.lease(2, B, 0..64 * KIB);
    for _ in 0..10 {
        fixture.pass(SILENT);
        for (path, range) in fixture.activated().into_iter().filter(|(path, _)| *path == B) {
            fixture.receive(path, range);
        }
    }
    assert_eq!(lock(&fixture.recv).missing(0..64 * KIB).next(), None);
    let late = lock(&fixture.recv).receive(A, 4 * KIB, vec![1; 1000].into()).unwrap();
    assert_eq!(late.conflicting, 1000);
    let dispute = lock(&fixture.recv).take_dispute().unwrap();
    let paths: Vec<_> = dispute.suspects.iter().map(|(path, _)| *path).collect();
    assert_eq!(paths, [A, B]);
    let (id, ranges) = (fixture.id, dispute.ranges);
    let now = fixture.now;
    // A's lease was live: it is lost with exactly what is missing.
    assert!(fixture.scheduler.on_disputed(id, &ranges, &paths, &mut fixture.streams, now));
    let sent = fixture.sent();
    let uncovered = sent.iter().find_map(|(_, message)| match message {
        M::Uncovered(m) => Some(m.ranges.clone()),
        _ => None,
    });
    let disputed = std::iter::once(4 * KIB..4 * KIB + 1000).collect();
    assert_eq!(uncovered, Some(disputed), "{sent:?}");
    // Leased anew to another it comes.
    fixture.lease(3, PathId::PRIMARY, 0..64 * KIB);
    assert_eq!(fixture.activated(), [(PathId::PRIMARY, 4 * KIB..4 * KIB + 1000)]);
    fixture.receive(PathId::PRIMARY, 4 * KIB..4 * KIB + 1000);
    assert_eq!(fixture.reports(), [(3, LeaseOutcome::Done)]);
}
