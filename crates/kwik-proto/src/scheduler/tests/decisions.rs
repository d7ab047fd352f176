//! Why paths have what they have: one situation for each reason.

use super::*;
use crate::stats::{Decision, ScheduleStats};

fn explained(f: &Fixture, path: PathId) -> ScheduleStats {
    let mut all = f.scheduler.explain(f.now).into_iter();
    all.find(|schedule| schedule.path == path).unwrap()
}

fn decision(f: &Fixture, path: PathId) -> Option<Decision> {
    explained(f, path).decision
}

#[test]
fn asked() {
    let mut f = Fixture::new();
    assert_eq!(decision(&f, A), None);
    f.lease(1, A, 0..KIB);
    let explained = explained(&f, A);
    assert_eq!(explained.decision, Some(Decision::Asked));
    assert_eq!((explained.pieces, explained.outstanding), (1, KIB));
    let stream = &explained.streams[0];
    assert_eq!((stream.stream, stream.pieces, stream.outstanding), (f.id, 1, KIB));
    assert_eq!(stream.decision, Decision::Asked);
}

#[test]
fn unasked() {
    let mut f = Fixture::new();
    f.take(f.own_lease(0..KIB, KIB));
    assert_eq!(decision(&f, PathId::PRIMARY), Some(Decision::Unasked));
}

#[test]
fn left_to_others() {
    let mut f = Fixture::new();
    f.lease_near_and_far(0..64 * KIB);
    f.deal();
    assert_eq!(decision(&f, A), Some(Decision::Asked));
    assert_eq!(decision(&f, B), Some(Decision::LeftToOthers));
}

#[test]
fn silent_and_expedited() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.lease(2, B, 0..KIB);
    f.pass(SILENT);
    let silent = explained(&f, A);
    assert_eq!((silent.decision, silent.moved_out), (Some(Decision::Silent), KIB));
    assert_eq!(silent.streams[0].outstanding, 0);
    assert_eq!(decision(&f, B), Some(Decision::Expedited), "its reader waits for it");
    f.receive(B, 0..KIB);
    f.receive(A, 0..KIB);
    assert_eq!((explained(&f, A).twice, explained(&f, B).twice), (KIB, 0));
}

#[test]
fn moved_and_took_over() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..16 * KIB);
    f.lease(2, B, 0..16 * KIB);
    f.receive(A, 0..4 * KIB);
    flow(&mut f, A, limits::SUSPECT_AFTER + SILENT);
    assert_eq!(decision(&f, A), Some(Decision::Moved));
    assert_eq!(decision(&f, B), Some(Decision::TookOver));
    let (from, to) = (explained(&f, A), explained(&f, B));
    assert!(to.moved_in >= 4 * KIB);
    assert_eq!(from.moved_out, to.moved_in);
}

#[test]
fn over_budget() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..16 * KIB);
    f.lease(2, B, 0..16 * KIB);
    f.receive(A, 0..4 * KIB);
    f.scheduler.ledger.charges.charge(Cause::Silent, 0, 1 << 40, f.now);
    flow(&mut f, A, limits::SUSPECT_AFTER + SILENT);
    assert_eq!(decision(&f, A), Some(Decision::OverBudget));
}

#[test]
fn returned_and_lost() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..4 * KIB);
    for (piece, why) in [Decision::Returned, Decision::Returned, Decision::Lost].iter().enumerate()
    {
        f.stopped(A, 1, piece as u64, 0);
        assert_eq!(decision(&f, A), Some(*why));
        f.pass(Duration::from_secs(1));
    }
}

#[test]
fn lost() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.pass(limits::DEAD_AFTER);
    assert_eq!(decision(&f, A), Some(Decision::Lost));
}

#[test]
fn streams_that_are_over_are_not_explained() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    lock(&f.recv).receive_fin(PathId::PRIMARY, KIB).unwrap();
    f.receive(A, 0..KIB);
    while !matches!(lock(&f.recv).read(1 << 20), Ok(Read::Finished)) {}
    f.scheduler.on_consumed(f.id, &mut f.streams, f.now);
    assert_eq!(explained(&f, A).streams, []);
}
