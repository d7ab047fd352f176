//! Sources that contradict each other (7.4): whose copy counts, and what is told of it.

use bytes::Bytes;

use super::{Read, ReadError, RecvHalf};
use crate::presentation::ReceiveMemory;
use crate::{
    AggregationFallback as Fallback, Code, Config, ConflictPolicy as Policy, Dir, PathId, PieceId,
    Recovery, Side, StreamId,
};

const A: PathId = PathId(1);
const B: PathId = PathId(2);
const PRIMARY: PathId = PathId::PRIMARY;

fn config(policy: Policy, fallback: Fallback) -> Config {
    let mut recovery = Recovery::default();
    recovery.set_aggregation(fallback).unwrap();
    let mut config = Config::default();
    config.set_conflict_policy(policy).unwrap().set_recovery(recovery);
    config
}

/// A stream of which `first` brought "aaaa....aaaa" from 10 on, and `second` "bbbb" from 12 on.
fn contest(policy: Policy, fallback: Fallback, first: PathId, second: PathId) -> RecvHalf {
    let id = StreamId::new(Side::Server, Dir::Uni, 0);
    let mut recv = RecvHalf::new(id, 1000, std::sync::Arc::new(ReceiveMemory::default()));
    recv.set_policy(&config(policy, fallback));
    for (path, offset, bytes) in [(first, 10, "aaaaaaaa"), (second, 12, "bbab")] {
        if !path.is_primary() {
            recv.add_piece(path, PieceId(0), offset..offset + 20);
        }
        recv.receive(path, offset, Bytes::from_static(bytes.as_bytes())).unwrap();
    }
    recv.receive(PRIMARY, 0, Bytes::from_static(b"0123456789")).unwrap();
    recv
}

fn text(recv: &mut RecvHalf) -> String {
    let mut all = Vec::new();
    while let Ok(Read::Data(data)) = recv.read(100) {
        all.extend_from_slice(&data);
    }
    String::from_utf8(all).unwrap().replacen("0123456789", "", 1)
}

fn origin(recv: &RecvHalf, offset: u64) -> Option<PathId> {
    recv.origin(offset).0
}

#[test]
fn the_first_copy_counts_by_default() {
    let default = Config::default();
    assert_eq!(default.conflict_policy(), Policy::FirstWins);
    let mut recv = contest(Policy::FirstWins, Fallback::default(), A, PRIMARY);
    assert_eq!(origin(&recv, 12), Some(A));
    assert_eq!(text(&mut recv), "aaaaaaaa");
    assert_eq!(recv.copies().conflicts, 3);
    assert_eq!(recv.contradicted(), [(PRIMARY, 3), (A, 3)]);
    assert_eq!(recv.take_dispute(), None);
}

#[test]
fn the_last_copy_counts_as_far_as_it_is_not_read() {
    let mut recv = contest(Policy::LastWins, Fallback::default(), A, B);
    assert_eq!([11, 12, 14, 15].map(|at| origin(&recv, at)), [A, B, A, B].map(Some));
    assert_eq!(recv.read(13), Ok(Read::Data(Bytes::from_static(b"0123456789"))));
    assert_eq!(recv.read(3), Ok(Read::Data(Bytes::from_static(b"aab"))));
    // Of this all is read but the end, which alone is compared.
    recv.add_piece(B, PieceId(9), 10..18);
    let again = recv.receive(B, 10, Bytes::from_static(b"cccccccc")).unwrap();
    assert_eq!((again.twice, again.conflicting), (8, 5));
    assert_eq!(text(&mut recv), "ccccc");
    assert_eq!(recv.consumed(), 18);
}

#[test]
fn the_primarys_copy_counts_whenever_it_comes() {
    let copy =
        |first, second| text(&mut contest(Policy::PrimaryWins, <_>::default(), first, second));
    assert_eq!(copy(A, PRIMARY), "aabbabaa");
    assert_eq!(copy(PRIMARY, A), "aaaaaaaa");
    assert_eq!(copy(A, B), "aaaaaaaa");
    let recv = contest(Policy::PrimaryWins, <_>::default(), A, PRIMARY);
    assert_eq!([11, 12, 14].map(|at| origin(&recv, at)), [A, PRIMARY, A].map(Some));
}

#[test]
fn what_is_rejected_is_dropped_unless_the_primary_brought_it() {
    for fallback in [Fallback::AskAgain, Fallback::IsolateSource] {
        let mut recv = contest(Policy::Reject, fallback, A, B);
        assert!(recv.missing(0..18).eq(std::iter::once(12..16)));
        let dispute = recv.take_dispute().unwrap();
        assert!(dispute.ranges.iter().eq(std::iter::once(12..16)));
        assert_eq!(dispute.suspects, [(B, 12..16), (A, 12..16)]);
        assert!(dispute.reason.ends_with("path 2 contradicts path 1 in 12..16"));
        assert_eq!(text(&mut recv), "aa");
        // What is brought anew is taken, and is its source's.
        recv.add_piece(B, PieceId(9), 12..16);
        recv.receive(B, 12, Bytes::from_static(b"cccc")).unwrap();
        assert_eq!(origin(&recv, 13), Some(B));
        assert_eq!(text(&mut recv), "ccccaa");

        let mut recv = contest(Policy::Reject, fallback, A, PRIMARY);
        let dispute = recv.take_dispute().unwrap();
        assert_eq!((dispute.ranges.bytes(), dispute.suspects), (0, vec![(A, 12..16)]));
        assert_eq!(text(&mut recv), "aabbabaa");
        let mut recv = contest(Policy::Reject, fallback, PRIMARY, A);
        assert_eq!(recv.take_dispute().unwrap().suspects, [(A, 12..16)]);
        assert_eq!(text(&mut recv), "aaaaaaaa");
    }
}

#[test]
fn a_dispute_may_be_ignored_or_end_the_stream() {
    let mut recv = contest(Policy::Reject, Fallback::IgnoreCorrupt, A, B);
    assert_eq!(recv.take_dispute(), None);
    assert_eq!((text(&mut recv).as_str(), recv.copies().conflicts), ("aaaaaaaa", 3));

    let mut recv = contest(Policy::Reject, Fallback::CloseStream, A, B);
    // What came later than the error is of no use: "aa" waits behind it.
    assert_eq!(recv.read(100).unwrap_err(), {
        let context = "server unidirectional stream 0: path 2 contradicts path 1 in 12..16";
        ReadError::Failed(crate::CodedError::new(Code::OffsetMismatch, context))
    });
}
