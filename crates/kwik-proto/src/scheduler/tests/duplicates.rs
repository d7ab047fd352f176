//! What comes twice, and what is charged for it.

use super::*;

/// A path is asked for a piece, falls silent, and another brings it.
fn taken_back() -> Fixture {
    let mut f = Fixture::new();
    f.lease(1, A, 0..4 * KIB);
    f.lease(2, B, 0..4 * KIB);
    assert_eq!(f.activated(), [(A, 0..4 * KIB)]);
    f.receive(A, 0..KIB);
    f.pass(SILENT);
    assert_eq!(f.activated(), [(B, KIB..4 * KIB)]);
    assert_eq!(f.scheduler.duplicates().reclaimed, 3 * KIB);
    f.receive(B, KIB..4 * KIB);
    f
}

fn assert_charged(f: &Fixture, received: u64, reclaimed: u64) {
    let duplicates = f.scheduler.duplicates();
    assert_eq!((duplicates.received, duplicates.reclaimed), (received, reclaimed));
}

#[test]
fn a_piece_that_was_taken_back_is_charged_with_what_of_it_came() {
    let mut f = taken_back();
    f.receive(A, KIB..4 * KIB);
    assert_charged(&f, 3 * KIB, 3 * KIB);
}

#[test]
fn what_a_writer_did_not_send_is_given_back() {
    let mut f = taken_back();
    f.receive(A, KIB..2 * KIB);
    f.stopped(A, 1, 0, 3 * KIB);
    assert_charged(&f, KIB, 2 * KIB);
    f.receive(A, 2 * KIB..3 * KIB);
    assert_charged(&f, 2 * KIB, 2 * KIB);
}

#[test]
fn what_a_lost_path_did_not_bring_is_given_back() {
    let mut f = taken_back();
    f.receive(A, KIB..2 * KIB);
    f.scheduler.remove_path(A, &mut f.streams, f.now);
    assert_charged(&f, KIB, KIB);
}

/// The primary's own lease, of which more leaves unasked than its stream may carry.
fn starved(f: &mut Fixture) -> u64 {
    let credit = lock(&f.recv).max_data();
    f.take(f.own_lease(0..2 * credit, 2 * credit));
    credit
}

#[test]
fn what_waits_for_credit_does_not_leave_unasked() {
    let mut f = Fixture::new();
    let credit = starved(&mut f);
    let piece_id = PieceId::unasked(LeaseId(0));
    let cancel = M::Cancel(control::Cancel { lease_id: LeaseId(0), piece_id });
    assert!(f.sent().contains(&(PathId::PRIMARY, cancel)));
    // The primary knew of less credit; the rest is asked for, and it does not rest for that.
    f.stopped(PathId::PRIMARY, 0, piece_id.0, credit / 2);
    f.receive(PathId::PRIMARY, 0..credit / 2);
    let asked = f.activated();
    assert_eq!(asked[0].1.start, credit / 2, "{asked:?}");
    assert_charged(&f, 0, 0);
}

#[test]
fn what_leaves_unasked_beside_others_is_charged() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..4 * KIB);
    let credit = starved(&mut f);
    assert_eq!(f.scheduler.duplicates().unasked, credit);
    f.receive(A, 0..4 * KIB);
    f.receive(PathId::PRIMARY, 0..credit);
    assert_eq!(f.scheduler.duplicates().received, 4 * KIB);
}

/// Each such lease is reported at once, so that no number of leases bounds what they add up to.
#[test]
fn a_primary_may_say_to_send_more_unasked_than_there_are_numbers() {
    let mut f = Fixture::new();
    lock(&f.recv).stop();
    for id in 1..=9 {
        let most = f.own_lease(0..limits::MAX_OFFSET, limits::MAX_OFFSET);
        f.take(control::Lease { lease_id: LeaseId(id), ..most });
    }
    assert_eq!(f.scheduler.duplicates().unasked, u64::MAX);
}
