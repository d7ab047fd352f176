//! Edges that live and bring nothing, in all ways; and those that may come back.

use std::collections::VecDeque;

use super::super::tuning::{PROGRESS, WORTH};
use super::*;

const STEP: Duration = Duration::from_millis(100);

/// Time passes, and both edges answer heartbeats, and each `Cancel` if they are `honest`. What the
/// primary is told of leases.
fn silence(f: &mut Fixture, time: Duration, honest: bool) -> Vec<(u64, LeaseOutcome)> {
    let mut reports = Vec::new();
    let mut asked = std::collections::BTreeMap::new();
    let end = f.now + time;
    while f.now < end {
        f.pass(STEP);
        [PathId::PRIMARY, A, B].into_iter().for_each(|path| f.scheduler.on_alive(path, f.now));
        for (path, message) in f.sent() {
            match message {
                M::Activate(m) => drop(asked.insert((path, m.piece_id), m.range.start)),
                M::LeaseReport(m) => reports.push((m.lease_id.0, m.outcome)),
                M::Cancel(m) if honest => {
                    let start = asked[&(path, m.piece_id)];
                    f.stopped(path, m.lease_id.0, m.piece_id.0, start);
                }
                _ => {}
            }
        }
    }
    reports
}

#[test]
fn a_lease_given_anew_to_a_path_that_left_all_unanswered_is_lost() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.handle_revoke(LeaseId(1), f.now);
    silence(&mut f, limits::STALLED_AFTER / 2, false);
    f.lease(2, A, 0..KIB);
    assert_eq!(f.activated(), [], "its own piece has not stopped yet");
    assert_eq!(silence(&mut f, limits::STALLED_AFTER - STEP, false), []);
    assert_eq!(silence(&mut f, 2 * STEP, false), [(2, LeaseOutcome::Lost)]);
}

#[test]
fn two_silent_paths_do_not_hand_a_piece_back_and_forth_for_ever() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.lease(2, B, 0..KIB);
    let mut reports = silence(&mut f, 4 * limits::STALLED_AFTER, true);
    reports.sort_by_key(|(lease, _)| *lease);
    assert_eq!(reports, [(1, LeaseOutcome::Lost), (2, LeaseOutcome::Lost)]);
}

#[test]
fn a_path_that_brings_something_between_silences_keeps_its_lease() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..16 * KIB);
    for part in 0..8 {
        assert_eq!(silence(&mut f, limits::STALLED_AFTER / 2, false), []);
        f.receive(A, part * WORTH..(part + 1) * WORTH);
    }
}

/// A byte now and then is no more than silence.
#[test]
fn a_path_that_trickles_loses_its_lease() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..16 * KIB);
    let mut reports = Vec::new();
    for byte in 0..8 {
        reports.extend(silence(&mut f, limits::STALLED_AFTER / 6, false));
        f.receive(A, byte..byte + 1);
    }
    assert_eq!(reports, [(1, LeaseOutcome::Lost)]);
}

/// What arrives and brings nothing is no more than life.
#[test]
fn a_path_that_pads_and_brings_nothing_loses_its_lease() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..16 * KIB);
    let mut reports = Vec::new();
    for packet in 1..200 {
        f.scheduler.on_arrived(A, packet * PROGRESS, f.now);
        reports.extend(silence(&mut f, STEP, false));
    }
    assert_eq!(reports, [(1, LeaseOutcome::Lost)]);
}

/// A primary may lease to paths that there are not, without end: nothing of them is kept.
#[test]
fn leases_of_paths_that_there_are_not_leave_nothing() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    for number in 0..1_000 {
        f.lease(2 + u64::from(number), PathId(100 + number), 0..KIB);
    }
    let fill = f.scheduler.ledger.fill(f.id).unwrap();
    assert_eq!((fill.brought.len(), f.scheduler.leases()), (1, 1));
}

/// A server may be stuck with one stream and bring all others: who waits for that one hears of it.
#[test]
fn a_stream_that_its_only_server_lets_lie_beside_others_is_leased_anew() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.turn_to_another_stream();
    f.lease(2, A, 0..1 << 20);
    let (mut asked, mut reports) = (VecDeque::new(), Vec::new());
    for _ in 0..80 {
        f.pass(STEP);
        for (_, message) in f.sent() {
            match message {
                M::Activate(m) if m.lease_id == LeaseId(2) => asked.push_back(m.range),
                M::LeaseReport(m) => reports.push((m.lease_id.0, m.outcome)),
                _ => {}
            }
        }
        asked.pop_front().into_iter().for_each(|range| f.receive(A, range));
    }
    assert_eq!(reports, [(1, LeaseOutcome::Lost)]);
}

#[test]
fn a_stream_that_is_whole_does_not_wait_for_an_edge_that_answers_no_cancel() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.lease(2, B, 0..KIB);
    assert_eq!(f.activated(), [(A, 0..KIB)]);
    f.pass(SILENT);
    f.receive(B, 0..KIB);
    lock(&f.recv).receive_fin(PathId::PRIMARY, KIB).unwrap();
    while !matches!(lock(&f.recv).read(1 << 20), Ok(Read::Finished)) {}
    f.scheduler.on_consumed(f.id, &mut f.streams, f.now);
    assert_eq!((f.scheduler.pieces(), f.streams.iter().count()), (1, 1));
    silence(&mut f, limits::STALLED_AFTER / 2, false);
    assert_eq!(f.streams.iter().count(), 1, "it may still come");
    silence(&mut f, limits::STALLED_AFTER, false);
    assert_eq!((f.scheduler.pieces(), f.streams.iter().count()), (0, 0));
    let duplicates = f.scheduler.duplicates();
    assert_eq!((duplicates.received, duplicates.reclaimed), (0, 0));
    assert_eq!(f.receive_untold(A, 0..KIB).asked, 0, "what comes late harms nobody");
}

/// Whether the stream has failed.
fn failed(f: &Fixture) -> bool {
    matches!(lock(&f.recv).read(1), Err(ReadError::Failed(_)))
}

#[test]
fn the_time_for_which_a_lost_path_is_dialed_does_not_count_against_a_reader() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.lose_path(A, &mut f.streams, f.now);
    silence(&mut f, 2 * limits::AGGREGATION_TIMEOUT, false);
    assert!(!failed(&f));
    [PathInput::Dialed, PathInput::Connected]
        .into_iter()
        .for_each(|input| f.scheduler.on_path(A, input));
    f.scheduler.open_path(A, f.now);
    silence(&mut f, limits::AGGREGATION_TIMEOUT - STEP, false);
    assert!(!failed(&f), "the primary has as long as ever to lease what is missing");
    silence(&mut f, 2 * STEP, false);
    assert!(failed(&f));
}

#[test]
fn a_path_that_does_not_come_back_keeps_no_reader_for_ever() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.lose_path(A, &mut f.streams, f.now);
    silence(&mut f, limits::RETURN_TIMEOUT - STEP, false);
    assert!(!failed(&f));
    silence(&mut f, limits::AGGREGATION_TIMEOUT + 2 * STEP, false);
    assert!(failed(&f));
}

#[test]
fn a_dead_path_that_speaks_again_gives_the_primary_time() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    while f.scheduler.leases() > 0 {
        f.pass(STEP);
        f.scheduler.on_alive(PathId::PRIMARY, f.now);
    }
    for _ in 0..80 {
        f.pass(STEP);
        f.scheduler.on_alive(PathId::PRIMARY, f.now);
    }
    assert!(!failed(&f));
    f.scheduler.on_alive(A, f.now);
    f.lease(2, A, 0..KIB);
    f.receive(A, 0..KIB);
    assert!(matches!(lock(&f.recv).read(1 << 20), Ok(Read::Data(_))));
}

#[test]
fn a_primary_that_is_heard_again_has_as_long_as_ever() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..KIB);
    f.scheduler.handle_revoke(LeaseId(1), f.now);
    f.stopped(A, 1, 0, 0);
    let silent = f.now + limits::AGGREGATION_TIMEOUT * 3 / 2;
    while f.now < silent {
        f.pass(STEP);
    }
    f.scheduler.on_alive(PathId::PRIMARY, f.now);
    silence(&mut f, limits::AGGREGATION_TIMEOUT - STEP, false);
    assert!(!failed(&f));
    silence(&mut f, 2 * STEP, false);
    assert!(failed(&f));
}

#[test]
fn a_silence_that_loss_explains_moves_no_more_than_may_come_twice_and_what_a_reader_awaits() {
    let mut f = Fixture::new();
    f.lease(1, A, 0..64 * KIB);
    let asked = f.activated().len();
    let taken = |f: &mut Fixture| {
        f.sent().iter().filter(|(path, m)| *path == A && matches!(m, M::Cancel(_))).count()
    };
    f.pass(SILENT);
    f.lease(2, B, 0..64 * KIB);
    let soon = taken(&mut f);
    assert!((1..asked).contains(&soon), "{soon} of {asked}");
    f.now += 2 * SILENT;
    f.receive(B, 0..KIB);
    f.pass(Duration::ZERO);
    assert_eq!(taken(&mut f), asked - soon);
}
