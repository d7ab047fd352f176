//! When paths and streams are given up.

use super::*;

#[test]
fn missing_bytes_that_nobody_may_bring_fail_their_reader() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.handle_revoke(LeaseId(1), f.now);
    f.stopped(A, 1, 0, 0);
    for time in [2, 2, 1].map(Duration::from_secs) {
        f.pass(time);
        f.scheduler.on_alive(PathId::PRIMARY, f.now);
    }
    let error = lock(&f.recv).read(1).unwrap_err();
    assert!(matches!(error, ReadError::Failed(e) if e.code == Code::AggregationTimeout));
}

#[test]
fn a_primary_behind_a_slow_link_has_longer_to_lease_what_is_missing() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.handle_revoke(LeaseId(1), f.now);
    f.stopped(A, 1, 0, 0);
    f.scheduler.on_rtt(PathId::PRIMARY, Duration::from_secs(2));
    let begun = f.now;
    for (second, read) in [(10, Ok(Read::Blocked)), (12, Err(Code::AggregationTimeout))] {
        while f.now < begun + Duration::from_secs(second) {
            f.scheduler.on_alive(PathId::PRIMARY, f.now);
            f.pass(Duration::from_secs(1));
        }
        let found = lock(&f.recv).read(1).map_err(|error| match error {
            ReadError::Failed(error) => error.code,
            other => panic!("{other}"),
        });
        assert_eq!(found, read, "after {second} s");
    }
}

#[test]
fn the_time_that_the_primary_is_silent_does_not_count_against_a_reader() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.handle_revoke(LeaseId(1), f.now);
    for _ in 0..5 {
        f.pass(limits::AGGREGATION_TIMEOUT);
    }
    assert_eq!(lock(&f.recv).read(1), Ok(Read::Blocked));
    assert!(f.scheduler.is_busy(PathId::PRIMARY), "it is to be asked whether it lives");
    f.scheduler.on_alive(PathId::PRIMARY, f.now);
    f.lease(2, B, 0..KIB);
    f.receive(B, 0..KIB);
    assert!(matches!(lock(&f.recv).read(1 << 20), Ok(Read::Data(_))));
}

#[test]
fn a_dead_path_loses_its_leases_and_what_it_sends_late_is_taken() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..4 * KIB);
    f.receive(A, 0..KIB);
    f.pass(limits::DEAD_AFTER);
    assert!(f.scheduler.take_events().contains(&SchedulerEvent::Dead(A)));
    f.lease(2, A, KIB..4 * KIB);
    let lost = M::LeaseReport(control::LeaseReport {
        lease_id: LeaseId(2),
        outcome: LeaseOutcome::Lost,
        ranges: std::iter::once(KIB..4 * KIB).collect(),
        ..Default::default()
    });
    assert!(f.sent().contains(&(PathId::PRIMARY, lost)), "a dead path takes no lease");
    f.pass(2 * limits::DEAD_AFTER);
    assert!(!f.scheduler.take_events().contains(&SchedulerEvent::Dead(A)), "it died once");
    f.receive(A, KIB..2 * KIB);
    assert!(f.scheduler.take_events().contains(&SchedulerEvent::Revived(A)));
    f.lease(3, A, 2 * KIB..4 * KIB);
    assert!(f.reports().is_empty(), "one that lives does");
}

#[test]
fn a_path_that_answers_and_brings_nothing_loses_its_leases() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..4 * KIB);
    f.receive(A, 0..KIB);
    f.sent();
    let step = Duration::from_millis(500);
    let mut passed = Duration::ZERO;
    while passed < limits::STALLED_AFTER {
        assert_eq!(f.reports(), [], "after {passed:?}");
        f.pass(step);
        f.scheduler.on_alive(A, f.now);
        passed += step;
    }
    let sent = f.sent();
    let uncovered = M::Uncovered(control::Uncovered {
        stream_id: f.id,
        ranges: std::iter::once(KIB..4 * KIB).collect(),
    });
    assert!(sent.contains(&(PathId::PRIMARY, uncovered)), "{sent:?}");
}

#[test]
fn a_stream_that_is_whole_does_not_wait_for_a_dead_path() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.pass(limits::DEAD_AFTER);
    f.lease(2, B, 0..KIB);
    f.receive(B, 0..KIB);
    lock(&f.recv).receive_fin(PathId::PRIMARY, KIB).unwrap();
    while !matches!(lock(&f.recv).read(1 << 20), Ok(Read::Finished)) {}
    f.scheduler.on_consumed(f.id, &mut f.streams, f.now);
    assert_eq!(f.streams.iter().count(), 0);
    assert_eq!(f.receive_untold(A, 0..KIB).asked, 0, "what comes late harms nobody");
}

#[test]
fn what_a_dead_path_brought_ends_the_leases_of_others() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..2 * KIB);
    f.lease(2, B, 0..KIB);
    f.receive(A, 0..KIB);
    f.sent();
    f.scheduler.remove_path(A, &mut f.streams, f.now);
    let reports = f.reports();
    assert!(reports.contains(&(2, LeaseOutcome::Done)), "{reports:?}");
    assert!(reports.contains(&(1, LeaseOutcome::Lost)), "{reports:?}");
}

#[test]
fn a_path_that_answers_but_brings_nothing_is_suspected_all_the_same() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.lease(2, B, 0..KIB);
    f.activated();
    f.now += SILENT / 2;
    f.scheduler.on_alive(A, f.now);
    f.pass(SILENT / 2);
    assert_eq!(f.activated(), [(B, 0..KIB)]);
}

#[test]
fn a_path_that_returns_each_piece_rests_and_loses_its_lease_the_third_time() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..4 * KIB);
    for piece in 0..3 {
        assert_eq!(f.activated(), [(A, 0..4 * KIB)], "piece {piece}");
        f.stopped(A, 1, piece, 0);
        assert_eq!(f.activated(), [], "it rests");
        f.pass(Duration::from_secs(1));
    }
    assert_eq!(f.scheduler.leases(), 0);
}

/// 9.2.
#[test]
fn the_primary_is_told_anew_of_what_is_missing_as_often_as_is_set() {
    for restarts in [0, 2] {
        let mut f = Fixture::new();
        let mut recovery = crate::Recovery::default();
        recovery.set_restarts(restarts).unwrap();
        let mut config = Config::default();
        config.set_recovery(recovery);
        f.streams.set_config(config, f.now).unwrap();
        f.lease(1, A, 0..KIB);
        f.scheduler.handle_revoke(LeaseId(1), f.now);
        f.stopped(A, 1, 0, 0);
        let (mut told, mut seconds) = (0, 0);
        while lock(&f.recv).read(1) == Ok(Read::Blocked) {
            let sent = f.sent();
            told += sent.iter().filter(|(_, m)| matches!(m, M::Uncovered(_))).count();
            f.pass(Duration::from_secs(1));
            f.scheduler.on_alive(PathId::PRIMARY, f.now);
            seconds += 1;
        }
        assert_eq!((told, seconds), (1 + restarts as usize, 5 * (1 + restarts)));
    }
}
