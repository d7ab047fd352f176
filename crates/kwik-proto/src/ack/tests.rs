//! Both parts against sets of ids, and together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::limits::{
    ACK_BYTES, ACK_DELAY, ACK_END_DELAY, ACK_ENDS, MAX_ACK_RANGES, MAX_UNACKED_PACKETS,
};
use crate::test_now;
use crate::wire::control::Ack;
use crate::wire::{ControlMessage, DataOptions, PacketFrame};

const LANE: Lane = Lane(0);

fn sent() -> SentPackets {
    SentPackets::new(DataOptions::default())
}

fn kept(plain: Vec<PacketFrame>) -> KeptFrames {
    KeptFrames { plain, ..<_>::default() }
}

fn frame(stream_id: u64, len: usize) -> PacketFrame {
    PacketFrame { stream_id, offset: 0, payload: vec![0; len].into(), fin: false }
}

fn ack(ranges: &[(u64, u64)]) -> Ack {
    Ack { ranges: ranges.iter().map(|&(first, last)| first..=last).collect(), ..<_>::default() }
}

fn arrived(ids: impl IntoIterator<Item = u64>, bytes: u64, fin: bool) -> ArrivedPackets {
    let mut arrived = ArrivedPackets::default();
    ids.into_iter().for_each(|id| arrived.note(id, bytes, fin));
    arrived
}

fn ids(ack: &Ack) -> Vec<u64> {
    ack.ranges.iter().cloned().flatten().collect()
}

#[test]
fn ids_begin_at_one_and_frames_come_back_once() {
    let mut sent = sent();
    assert_eq!(sent.on_sent(10, kept(vec![frame(4, 10)]), LANE), 1);
    assert_eq!(sent.on_sent(20, KeptFrames::default(), LANE), 2);
    assert_eq!(sent.on_sent(5, kept(vec![frame(8, 5)]), LANE), 3);
    assert_eq!(sent.outstanding(), 35);
    assert_eq!(sent.handle_ack(&ack(&[(2, 3)]).ranges), Ok(vec![frame(8, 5)]));
    assert_eq!(sent.handle_ack(&ack(&[(1, 3)]).ranges), Ok(vec![frame(4, 10)]));
    assert_eq!((sent.outstanding(), sent.on_sent(1, KeptFrames::default(), LANE)), (0, 4));
}

#[test]
fn an_ack_of_what_was_never_sent_is_refused_whole() {
    let mut sent = sent();
    sent.on_sent(10, KeptFrames::default(), LANE);
    for ranges in [&[(1, 2)][..], &[(0, 1)], &[(1, 1), (2, 2)], &[(u64::MAX, u64::MAX)]] {
        assert_eq!(
            sent.handle_ack(&ack(ranges).ranges).unwrap_err().code,
            crate::Code::InvalidFrame
        );
    }
    assert!(sent.handle_ack(&ack(&[(1, 1), (9, 9)]).ranges).is_err());
    assert_eq!(sent.outstanding(), 10);
    assert_eq!((sent.handle_ack(&ack(&[(1, 1)]).ranges), sent.outstanding()), (Ok(vec![]), 0));
}

#[test]
fn a_sender_stops_where_its_receiver_would_refuse() {
    let (mut sent, mut received) = (sent(), ReceivedPackets::new());
    let now = test_now();
    for id in 1..=MAX_UNACKED_PACKETS {
        assert!(sent.has_room());
        assert_eq!(sent.on_sent(1, KeptFrames::default(), LANE), id);
    }
    assert!(!sent.has_room());
    // All but the first.
    received.on_arrived(&arrived(2..=MAX_UNACKED_PACKETS, 0, true), now).unwrap();
    sent.handle_ack(&received.poll_ack(now + ACK_END_DELAY).unwrap().ranges).unwrap();
    assert!(!sent.has_room());
    received.on_arrived(&arrived([1], 0, true), now).unwrap();
    sent.handle_ack(&received.poll_ack(now + ACK_END_DELAY).unwrap().ranges).unwrap();
    assert!(sent.has_room() && sent.outstanding() == 0);
}

#[test]
fn ids_that_cannot_be_are_refused() {
    let now = test_now();
    let refused = |before: &[u64], id: u64| {
        let mut received = ReceivedPackets::new();
        received.on_arrived(&arrived(before.iter().copied(), 1, false), now).unwrap();
        let error = received.on_arrived(&arrived([id], 1, false), now).unwrap_err();
        assert_eq!(error.code, crate::Code::InvalidFrame);
    };
    refused(&[], 0);
    refused(&[], MAX_UNACKED_PACKETS + 1);
    refused(&[], u64::MAX);
    refused(&[1, 2], MAX_UNACKED_PACKETS + 3);
    refused(&[1, 3], 3);
    refused(&[1, 2, 3], 2);
    let mut received = ReceivedPackets::new();
    received.on_arrived(&arrived([1, 2, MAX_UNACKED_PACKETS + 2], 1, false), now).unwrap();
    assert!(received.on_arrived(&arrived([5, 5], 1, false), now).is_err());
}

#[test]
fn acks_are_due_by_bytes_by_time_and_at_ends() {
    let now = test_now();
    let mut received = ReceivedPackets::new();
    assert_eq!((received.poll_timeout(), received.poll_ack(now)), (None, None));
    received.on_arrived(&arrived([1], ACK_BYTES - 1, false), now).unwrap();
    assert_eq!((received.poll_timeout(), received.poll_ack(now)), (Some(now + ACK_DELAY), None));
    let later = now + Duration::from_millis(10);
    received.on_arrived(&arrived([2], 0, false), later).unwrap();
    assert_eq!(received.poll_timeout(), Some(now + ACK_DELAY));
    assert_eq!(ids(&received.poll_ack(now + ACK_DELAY).unwrap()), [1, 2]);
    assert_eq!((received.poll_timeout(), received.poll_ack(now + ACK_DELAY)), (None, None));
    received.on_arrived(&arrived([3], ACK_BYTES, false), later).unwrap();
    assert_eq!(ids(&received.poll_ack(later).unwrap()), [3]);
    received.on_arrived(&arrived([4], 0, true), later).unwrap();
    assert_eq!(
        (received.poll_timeout(), received.poll_ack(later)),
        (Some(later + ACK_END_DELAY), None)
    );
    assert_eq!(ids(&received.poll_ack(later + ACK_END_DELAY).unwrap()), [4]);
    let ends = 5..5 + u64::from(ACK_ENDS);
    ends.clone().for_each(|id| received.on_arrived(&arrived([id], 0, true), later).unwrap());
    assert_eq!(ids(&received.poll_ack(later).unwrap()), ends.collect::<Vec<_>>());
    assert_eq!(received.poll_ack(later + ACK_DELAY), None);
}

#[test]
fn many_ranges_take_several_frames_that_their_receiver_accepts() {
    let now = test_now();
    let mut received = ReceivedPackets::new();
    let odd = (1..=MAX_UNACKED_PACKETS).filter(|id| id % 2 == 1);
    received.on_arrived(&arrived(odd.clone(), 0, true), now).unwrap();
    let mut found = Vec::new();
    while let Some(ack) = received.poll_ack(now + ACK_END_DELAY) {
        assert!(ack.ranges.len() <= MAX_ACK_RANGES);
        let mut out = bytes::BytesMut::new();
        crate::wire::control::encode(0, &ControlMessage::Ack(ack.clone()), &mut out);
        let mut decoder = crate::wire::ControlDecoder::new();
        decoder.handle_input(out.freeze());
        assert_eq!(decoder.poll_frame(), Ok(Some(ControlMessage::Ack(ack.clone()))));
        found.extend(ids(&ack));
    }
    assert_eq!(found, odd.collect::<Vec<_>>());
}

#[test]
fn acknowledging_costs_little_beside_the_payload() {
    let now = test_now();
    let mut received = ReceivedPackets::new();
    received.on_arrived(&arrived(1..=10_000, 0, false), now).unwrap();
    received.on_arrived(&arrived(10_001..=10_004, ACK_BYTES / 4, false), now).unwrap();
    let mut out = bytes::BytesMut::new();
    let ack = ControlMessage::Ack(received.poll_ack(now).unwrap());
    crate::wire::control::encode(10_000, &ack, &mut out);
    assert!(out.len() as u64 * 1000 < ACK_BYTES, "{}", out.len());
}

proptest! {
    /// Packets of several streams arrive in each stream's order, are acknowledged now and then, and
    /// acknowledgements arrive in their order, late.
    #[test]
    fn both_parts_agree_with_sets(
        steps in prop::collection::vec((0u8..6, 0usize..4, 0u64..300_000), 0..200),
    ) {
        let (mut sent, mut received) = (sent(), ReceivedPackets::new());
        let mut now = test_now();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut streams: [Vec<u64>; 4] = Default::default();
        let mut unreported: BTreeSet<u64> = BTreeSet::new();
        let mut acks = Vec::new();
        for (step, stream, bytes) in steps {
            match step {
                0..=2 => {
                    let frame = PacketFrame { payload: Bytes::new(), ..frame(bytes, 0) };
                    let id = sent.on_sent(bytes, kept(vec![frame]), LANE);
                    prop_assert!(model.insert(id, bytes).is_none());
                    streams[stream].push(id);
                }
                3 => {
                    let ids = std::mem::take(&mut streams[stream]);
                    unreported.extend(&ids);
                    received.on_arrived(&arrived(ids, bytes, false), now).unwrap();
                }
                4 => {
                    now += Duration::from_millis(bytes / 10_000);
                    let due = received.poll_timeout().is_some_and(|due| due <= now);
                    let ack = received.poll_ack(now);
                    prop_assert_eq!(due, ack.is_some());
                    for id in ack.iter().flat_map(ids) {
                        prop_assert!(unreported.remove(&id));
                    }
                    prop_assert!(!due || unreported.is_empty());
                    acks.extend(ack);
                }
                _ => {
                    for ack in acks.drain(..) {
                        let frames = sent.handle_ack(&ack.ranges).unwrap();
                        let found: Vec<_> = frames.iter().map(|frame| frame.stream_id).collect();
                        let expected: Vec<_> =
                            ids(&ack).iter().map(|id| model.remove(id).unwrap()).collect();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
            prop_assert_eq!(sent.outstanding(), model.values().sum::<u64>());
        }
    }
}

#[test]
fn an_ack_that_names_the_same_packets_over_and_over_tells_of_each_once() {
    let mut sent = sent();
    let count = crate::limits::MAX_UNACKED_PACKETS;
    for offset in 0..count {
        assert!(sent.has_room());
        sent.on_sent(1, kept(vec![frame(offset, 1)]), LANE);
    }
    assert!(!sent.has_room());
    // The first one stays out, which is what made each range be walked anew.
    let frames = sent.handle_ack(&ack(&vec![(2, count); 10_000]).ranges).unwrap();
    assert_eq!((frames.len() as u64, sent.outstanding()), (count - 1, 1));
    assert!(!sent.has_room(), "the peer refuses ids so far ahead");
    sent.handle_ack(&ack(&[(1, 1)]).ranges).unwrap();
    assert!(sent.has_room());
}

#[test]
fn a_statement_that_leaves_packets_out_forgets_none_of_them() {
    let now = crate::test_now();
    let mut received = ReceivedPackets::new();
    let scattered = crate::limits::MAX_RESUME_RANGES as u64 + 10;
    for id in 1..=scattered {
        received.on_arrived(&arrived(2 * id..=2 * id, 0, false), now).unwrap();
    }
    // All of them are acknowledged, so that none comes again, and one more that is not.
    while received.poll_ack(now + ACK_DELAY).is_some() {}
    let last = 2 * scattered + 2;
    received.on_arrived(&arrived(last..=last, 0, false), now).unwrap();
    let told = received.statement();
    assert_eq!(told.len(), crate::limits::MAX_RESUME_RANGES);
    // What is repeated comes once more, and once only.
    received.on_arrived(&arrived(last..=last, 0, false), now).unwrap();
    received.on_arrived(&arrived(last..=last, 0, false), now).unwrap_err();
    received.on_arrived(&arrived(2..=2, 0, false), now).unwrap_err();
    for id in 0..=scattered {
        received.on_arrived(&arrived(2 * id + 1..=2 * id + 1, 0, false), now).unwrap();
    }
    // Nothing is missing before what follows.
    let next = last + MAX_UNACKED_PACKETS;
    received.on_arrived(&arrived(next..=next, 0, false), now).unwrap();
}
