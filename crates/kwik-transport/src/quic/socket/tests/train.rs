//! Which transmits join.

use super::super::train::{Admission, Train};
use super::*;

/// A train to which `transmits` were admitted, each sent when it was complete.
fn train(transmits: &[Transmit<'_>]) -> Train {
    let mut train = Train::default();
    for transmit in transmits {
        let admission = train.admit(transmit, GSO);
        assert!(matches!(admission, Admission::Start | Admission::Extend), "{admission:?}");
        train.push(transmit, admission);
    }
    train
}

#[test]
fn full_transmits_join_until_no_other_fits() {
    let mut waiting = train(&[full(10), full(10), full(10)]);
    assert_eq!(waiting.admit(&full(10), GSO), Admission::Complete);
    waiting.push(&full(10), Admission::Complete);
    assert!(waiting.is_complete());
    assert_eq!(waiting.admit(&full(10), GSO), Admission::Start);
    let sent = waiting.next(GSO).unwrap();
    assert_eq!((sent.contents.len(), sent.segment_size), (40 * SEGMENT, Some(SEGMENT)));
    waiting.advance(40 * SEGMENT);
    assert!(waiting.is_empty());
}

#[test]
fn kernel_limit_of_segments_holds() {
    let mut waiting = train(&[of(2_000, 100), of(2_000, 100)]);
    assert_eq!(waiting.admit(&of(2_000, 100), 64), Admission::Complete);
    assert_eq!(waiting.admit(&of(2_000, 100), 59), Admission::Start);
}

#[test]
fn end_of_a_burst_completes_the_train() {
    for last in [full(1), full(9), of(700, SEGMENT), of(9 * SEGMENT + 700, SEGMENT)] {
        assert_eq!(train(&[full(10)]).admit(&last, GSO), Admission::Complete);
    }
}

#[test]
fn nothing_waits_that_could_have_been_longer() {
    let mut idle = Train::default();
    for lone in [full(1), of(64, SEGMENT), of(10 * SEGMENT - 1, SEGMENT)] {
        assert_eq!(idle.admit(&lone, GSO), Admission::Pass);
    }
    assert_eq!(idle.admit(&full(7), GSO), Admission::Pass);
    assert_eq!(idle.admit(&full(10), GSO), Admission::Start);
}

#[test]
fn other_datagrams_follow_the_train() {
    let probe = of(SEGMENT + 1, SEGMENT + 1);
    let source = Transmit { src_ip: Some(PEER.ip()), ..full(1) };
    let marked = Transmit { ecn: None, ..full(1) };
    for next in [probe, source, marked, of(9_000, 1200), of(0, 0)] {
        assert_eq!(train(&[full(10)]).admit(&next, GSO), Admission::Follow);
    }
    let marked = Transmit { ecn: None, ..full(10) };
    assert_eq!(train(&[full(10)]).admit(&marked, GSO), Admission::Start);
}

#[test]
fn small_sends_elsewhere_pass_the_train_and_long_ones_replace_it() {
    let small = Transmit { destination: OTHER, ..of(64, SEGMENT) };
    let long = Transmit { destination: OTHER, ..full(10) };
    assert_eq!(train(&[full(10)]).admit(&small, GSO), Admission::Pass);
    assert_eq!(train(&[full(10)]).admit(&long, GSO), Admission::Start);
}

#[test]
fn without_segmentation_nothing_waits_and_the_train_is_cut_up() {
    assert_eq!(Train::default().admit(&full(10), 1), Admission::Pass);
    let mut waiting = train(&[full(10)]);
    assert_eq!(waiting.admit(&full(1), 1), Admission::Follow);
    let sent = waiting.next(1).unwrap();
    assert_eq!((sent.contents.len(), sent.segment_size), (SEGMENT, None));
    waiting.advance(SEGMENT);
    assert_eq!(waiting.admit(&full(10), GSO), Admission::Start);
    assert_eq!(waiting.next(GSO).unwrap().contents.len(), 9 * SEGMENT);
}
