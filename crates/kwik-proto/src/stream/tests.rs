//! Ends of streams: each is seen once, and leaves nothing behind.

use std::time::Duration;

use bytes::Bytes;

use super::{Destination, Read, ReadError, Received, RecvHalf, SharedRecv, StreamTable};
use crate::sync::lock;
use crate::wire::control::{self, ControlMessage};
use crate::{Code, Config, Dir, PathId, PieceId, Side, StreamId, limits};

const ID: StreamId = StreamId::new(Side::Server, Dir::Uni, 0);

fn table() -> (StreamTable, SharedRecv) {
    let mut table = StreamTable::new(Side::Client, &Config::default());
    let recv = table.receiving(PathId::PRIMARY, ID, crate::test_now()).unwrap().unwrap();
    assert_eq!(table.accept(Dir::Uni).map(|halves| halves.id), Some(ID));
    (table, recv)
}

fn reset(table: &mut StreamTable, final_size: u64) {
    let reset = control::StreamReset { stream_id: ID, code: 5, final_size };
    let now = crate::test_now();
    assert_eq!(table.handle_control(&ControlMessage::StreamReset(reset), now), Ok(true));
}

fn assert_clean(table: &StreamTable) {
    assert_eq!(table.iter().count(), 0);
    assert_eq!((table.window().available(), table.window().lent()), (table.window().size(), 0));
}

#[test]
fn an_end_behind_the_last_byte_is_told_although_nothing_more_was_read() {
    let (mut table, recv) = table();
    lock(&recv).receive(PathId::PRIMARY, 0, Bytes::from_static(b"ab")).unwrap();
    assert!(matches!(lock(&recv).read(10), Ok(Read::Data(_))));
    assert!(lock(&recv).is_update_due());
    table.on_consumed(ID, crate::test_now(), Duration::ZERO);
    assert!(lock(&recv).receive_fin(PathId::PRIMARY, 2).unwrap().readable);
    assert_eq!(lock(&recv).read(10), Ok(Read::Finished));
    assert!(lock(&recv).is_update_due());
    assert!(!lock(&recv).is_update_due());
    table.on_consumed(ID, crate::test_now(), Duration::ZERO);
    assert_clean(&table);
}

/// 1.2, 8.5.
#[test]
fn a_stream_knows_which_paths_brought_its_bytes() {
    let (table, recv) = table();
    let edge = PathId(1);
    {
        let mut recv = lock(&recv);
        recv.add_piece(edge, PieceId(0), 2..6);
        recv.receive(PathId::PRIMARY, 0, Bytes::from_static(b"ab")).unwrap();
        recv.receive(edge, 2, Bytes::from_static(b"cdef")).unwrap();
        // What comes twice was brought by the first.
        recv.receive(PathId::PRIMARY, 0, Bytes::from_static(b"abc")).ok();
    }
    let stats = table.stream_stats().pop().and_then(|stats| stats.recv).unwrap();
    assert_eq!(stats.sources, [(PathId::PRIMARY, 2), (edge, 4)]);
}

#[test]
fn a_reset_before_the_first_byte_is_no_empty_stream() {
    let (mut table, recv) = table();
    reset(&mut table, 0);
    assert_eq!(lock(&recv).read(10), Err(ReadError::Reset(5)));
    assert!(lock(&recv).is_update_due());
    table.on_consumed(ID, crate::test_now(), Duration::ZERO);
    assert_clean(&table);
}

#[test]
fn a_reset_after_all_has_come_changes_nothing() {
    let (mut table, recv) = table();
    lock(&recv).receive(PathId::PRIMARY, 0, Bytes::from_static(b"ab")).unwrap();
    lock(&recv).receive_fin(PathId::PRIMARY, 2).unwrap();
    reset(&mut table, 2);
    assert_eq!(lock(&recv).read(10), Ok(Read::Data(Bytes::from_static(b"ab"))));
    assert_eq!(lock(&recv).read(10), Ok(Read::Finished));
}

#[test]
fn a_reader_may_stop_a_stream_that_was_reset() {
    let (mut table, _) = table();
    reset(&mut table, 3);
    table.stop(ID, 1);
    assert_clean(&table);
}

#[test]
fn only_the_primary_opens_streams() {
    let (mut table, _) = table();
    let now = crate::test_now();
    let next = StreamId::new(Side::Server, Dir::Uni, 1);
    let error = table.receiving(PathId(1), next, now).unwrap_err();
    assert_eq!(error.code, Code::SecondaryStreamIsolation);
    let own = table.open(Dir::Uni, now).unwrap().id;
    let error = table.receiving(PathId::PRIMARY, own, now).unwrap_err();
    assert_eq!(error.code, Code::InvalidStreamRole);
    table.stop(ID, 1);
    assert!(matches!(table.receiving(PathId(1), ID, now), Ok(None)), "drained");
}

#[test]
fn to_look_for_a_destination_opens_nothing() {
    let mut table = StreamTable::new(Side::Server, &Config::default());
    let (now, id) = (crate::test_now(), StreamId::new(Side::Client, Dir::Uni, 1));
    let find = |table: &StreamTable, path| table.destination(path, id);
    assert!(matches!(find(&table, PathId::PRIMARY), Ok(Destination::Unopened)));
    assert!(find(&table, PathId(1)).is_err(), "only the primary's path opens streams");
    assert_eq!(table.iter().count(), 0);
    assert!(table.receiving(PathId::PRIMARY, id, now).unwrap().is_some());
    assert!(matches!(find(&table, PathId(1)), Ok(Destination::Half(_))));
    assert_eq!(std::iter::from_fn(|| table.accept(Dir::Uni)).count(), 2);
    table.stop(id, 1);
    assert!(matches!(find(&table, PathId(1)), Ok(Destination::Over)));
}

#[test]
fn streams_that_nobody_accepted_count_against_the_limit_although_they_are_over() {
    let mut config = Config::default();
    config.set_max_streams_bidi(8).unwrap();
    let mut table = StreamTable::new(Side::Server, &config);
    let now = crate::test_now();
    for index in 0..8 {
        let id = StreamId::new(Side::Client, Dir::Bi, index);
        let recv = table.receiving(PathId::PRIMARY, id, now).unwrap().unwrap();
        lock(&recv).receive_fin(PathId::PRIMARY, 0).unwrap();
        let stop = control::StopSending { stream_id: id, code: 0 };
        table.handle_control(&ControlMessage::StopSending(stop), now).unwrap();
    }
    let ninth = StreamId::new(Side::Client, Dir::Bi, 8);
    assert!(table.receiving(PathId::PRIMARY, ninth, now).is_err());
    assert_eq!(std::iter::from_fn(|| table.accept(Dir::Bi)).count(), 8);
    assert!(table.receiving(PathId::PRIMARY, ninth, now).is_ok());
}

#[test]
fn bytes_that_are_refused_move_no_cursor() {
    let (_, recv) = table();
    let mut recv = lock(&recv);
    let path = PathId(1);
    let most = limits::MAX_GAPS as u64;
    for index in 0..=most {
        let at = 2 * index + 1;
        recv.add_piece(path, PieceId(index), at..at + 1);
        let result = recv.receive(path, at, Bytes::from_static(b"x"));
        assert_eq!(result.is_ok(), index < most, "{result:?}");
    }
    let piece = recv.piece(path, PieceId(most)).unwrap();
    assert_eq!(piece.cursor, 2 * most + 1, "it is still owed");
}

#[test]
fn short_streams_cost_no_control_messages_but_one_for_many() {
    let (mut now, config) = (crate::test_now(), Config::default());
    let mut client = StreamTable::new(Side::Client, &config);
    let mut server = StreamTable::new(Side::Server, &config);
    client.handle_limits(&config.stream_limits());
    let mut told = Vec::new();
    for _ in 0..50 {
        let halves = client.open(Dir::Uni, now).unwrap();
        lock(halves.send.as_ref().unwrap()).commit(1).unwrap();
        assert_eq!(client.take_messages(now), []);
        let recv = server.receiving(PathId::PRIMARY, halves.id, now).unwrap().unwrap();
        server.accept(Dir::Uni).unwrap();
        lock(&recv).receive(PathId::PRIMARY, 0, Bytes::from_static(b"a")).unwrap();
        lock(&recv).receive_fin(PathId::PRIMARY, 1).unwrap();
        server.on_received(halves.id, now);
        while !matches!(lock(&recv).read(10), Ok(Read::Finished)) {}
        server.on_consumed(halves.id, now, Duration::ZERO);
        told.extend(server.take_messages(now));
    }
    assert_eq!(told.len(), 3, "{told:?}");
    now += limits::NOTICE_DELAY;
    // What is left over is told in the end, and that is the limit.
    let rest = server.take_messages(now);
    let maximum = limits::MAX_STREAMS + 50;
    let first_streams = config.stream_limits().first_streams + 50;
    let max = control::MaxStreams { dir: Dir::Uni, maximum, first_streams };
    assert_eq!(rest, [ControlMessage::MaxStreams(max)]);
    assert_eq!(server.poll_timeout(), None);
    assert!(matches!(client.take_messages(now)[..], [ControlMessage::StreamCreateNotification(_)]));
}

#[test]
fn an_idle_stream_is_announced_with_those_below_and_long_ones_get_credit_at_once() {
    let (now, config) = (crate::test_now(), Config::default());
    let mut client = StreamTable::new(Side::Client, &config);
    client.handle_limits(&config.stream_limits());
    for _ in 0..3 {
        client.open(Dir::Bi, now).unwrap();
    }
    assert_eq!(client.take_messages(now), []);
    let due = client.poll_timeout().unwrap();
    let told = client.take_messages(due);
    let opened: Vec<_> = told
        .iter()
        .filter_map(|message| match message {
            ControlMessage::StreamCreateNotification(m) => Some(m.stream_id.as_u64()),
            _ => None,
        })
        .collect();
    assert_eq!(opened, [StreamId::new(Side::Client, Dir::Bi, 2).as_u64()]);
    assert_eq!(told.len(), 4, "and the credit of each: {told:?}");
    let mut server = StreamTable::new(Side::Server, &config);
    let id = StreamId::new(Side::Client, Dir::Uni, 0);
    let recv = server.receiving(PathId::PRIMARY, id, now).unwrap().unwrap();
    let floor = usize::try_from(lock(&recv).max_data()).unwrap();
    assert_eq!(server.take_messages(now), []);
    let half = usize::try_from(config.stream_limits().initial_max_stream_data / 2).unwrap();
    assert!(half < floor);
    lock(&recv).receive(PathId::PRIMARY, 0, vec![0; half].into()).unwrap();
    server.on_received(id, now);
    assert!(matches!(server.take_messages(now)[..], [ControlMessage::MaxStreamData(_)]));
}

#[test]
fn a_stream_under_backpressure_is_granted_nothing_until_its_reader_has_caught_up() {
    let (mut table, recv) = table();
    let now = crate::test_now();
    let granted = lock(&recv).max_data();
    table.take_messages(now);
    table.take_messages(now + limits::NOTICE_DELAY);
    let held = granted / 5 * 4;
    let data = Bytes::from(vec![0; usize::try_from(held).unwrap()]);
    lock(&recv).receive(PathId::PRIMARY, 0, data).unwrap();
    table.on_received(ID, now);
    table.on_received(ID, now);
    let notice = |reason| {
        ControlMessage::Backpressure(control::Backpressure { stream_id: Some(ID), reason })
    };
    let pressed = notice(Some(control::BackpressureReason::SlowConsumer));
    assert_eq!(table.take_messages(now), [pressed], "it is told once");
    let read = |table: &mut StreamTable, len: u64| {
        let read = lock(&recv).read(usize::try_from(len).unwrap()).unwrap();
        assert!(matches!(read, Read::Data(data) if data.len() as u64 == len));
        table.on_consumed(ID, now, Duration::ZERO);
        table.take_messages(now)
    };
    // More than a step was read, and more than half of the buffer is still full.
    assert_eq!(read(&mut table, granted / 10 * 3 - 1), []);
    assert_eq!(lock(&recv).max_data(), granted);
    let eased = read(&mut table, 5);
    assert!(eased.contains(&notice(None)), "{eased:?}");
    assert!(lock(&recv).max_data() > granted, "and granted what was withheld");
}

#[test]
fn the_first_stream_of_a_kind_fills_quics_first_flight_before_anything_is_said() {
    let (config, now) = (Config::default(), crate::test_now());
    let mut client = StreamTable::new(Side::Client, &config);
    let mut server = StreamTable::new(Side::Server, &config);
    let credit = |table: &mut StreamTable| {
        let streams = [(); 2].map(|()| table.open(Dir::Uni, now).unwrap().send.unwrap());
        streams.map(|send| lock(&send).credit())
    };
    // The server has not said anything yet.
    let first = limits::FIRST_STREAM_DATA;
    let early = [(); 2].map(|()| client.open(Dir::Bi, now).unwrap().send.unwrap());
    let credits = || early.each_ref().map(|send| lock(send).credit());
    assert_eq!(credits(), [first, limits::FIRST_FLIGHT_DATA]);
    let told = [limits::MAX_FIRST_STREAM_DATA, first];
    server.handle_limits(&config.stream_limits());
    assert_eq!(credit(&mut server), told);
    client.handle_limits(&config.stream_limits());
    assert_eq!((credits(), credit(&mut client)), (told, told));
    // What is sent so is taken, in the least window too.
    let mut least = Config::default();
    least.set_max_streams_bidi(8).unwrap().set_max_streams_uni(8).unwrap();
    least.set_initial_window(4 * first).unwrap().set_max_window(4 * first).unwrap();
    let mut table = StreamTable::new(Side::Client, &least);
    for dir in [Dir::Bi, Dir::Uni] {
        let id = StreamId::new(Side::Server, dir, 0);
        let recv = table.receiving(PathId::PRIMARY, id, now).unwrap().unwrap();
        let data = vec![7; usize::try_from(first).unwrap()];
        assert!(lock(&recv).receive(PathId::PRIMARY, 0, data.into()).is_ok());
        assert!(table.window().allowance(id) >= first);
    }
    let window = table.window();
    assert!(window.available() >= 22 * window.floor(), "others keep their floors");
}

#[test]
fn as_many_streams_start_like_the_first_as_loans_are_kept_for() {
    let (config, now) = (Config::default(), crate::test_now());
    let mut client = StreamTable::new(Side::Client, &config);
    let mut server = StreamTable::new(Side::Server, &config);
    client.handle_limits(&config.stream_limits());
    let (first, floor) = (config.stream_limits().first_streams, server.window().floor());
    assert!(first > limits::FIRST_FLIGHT_STREAMS);
    for index in 0..=first {
        let halves = client.open(Dir::Uni, now).unwrap();
        let credit = lock(halves.send.as_ref().unwrap()).credit();
        let told = match index {
            0 => limits::MAX_FIRST_STREAM_DATA,
            _ if index < first => limits::FIRST_STREAM_DATA,
            _ => floor,
        };
        assert_eq!(credit, told);
        let recv = server.receiving(PathId::PRIMARY, halves.id, now).unwrap().unwrap();
        // Nothing else was told, and no more is taken than that, whatever else there may be
        // to lend.
        assert!(lock(&recv).max_data() >= credit);
        assert!(server.window().allowance(halves.id) >= credit);
    }
    assert!(server.take_messages(now).is_empty());
}

/// A reader that takes all at once, and a sender that sends twice as much with each round trip:
/// what it has on its way never exceeds what it was told.
#[test]
fn credit_keeps_ahead_of_slow_start() {
    let (mut table, recv) = table();
    let (mut now, rtt) = (crate::test_now(), Duration::from_millis(50));
    let (mut arrived, mut flight) = (0, 8 * 1024);
    while flight < Config::default().max_stream_buffer() / 4 {
        // Bursts, each of which is read before the next comes.
        for _ in 0..8 {
            now += rtt / 8;
            let burst = vec![7; usize::try_from(flight / 8).unwrap()];
            lock(&recv).receive(PathId::PRIMARY, arrived, burst.into()).unwrap();
            arrived += flight / 8;
            while let Read::Data(_) = lock(&recv).read(1 << 20).unwrap() {}
            table.on_received(ID, now);
            if lock(&recv).is_update_due() {
                table.on_consumed(ID, now, rtt);
            }
            table.take_messages(now);
        }
        flight *= 2;
        let credit = lock(&recv).max_data() - arrived;
        assert!(credit >= flight, "{credit} of {flight}");
    }
}

#[test]
fn a_peer_says_of_a_stream_what_it_is_once() {
    let mut table = StreamTable::new(Side::Client, &Config::default());
    let now = crate::test_now();
    let mut say = |id: StreamId, max_buffer_size| {
        let mut metadata = control::StreamMetadata::new();
        metadata.set_max_buffer(max_buffer_size);
        let m = control::StreamCreateNotification { stream_id: id, metadata };
        let handled = table.handle_control(&ControlMessage::StreamCreateNotification(m), now);
        handled.map_err(|error| error.code)
    };
    assert_eq!(say(ID, 20_000), Ok(true));
    assert_eq!(say(ID, 20_000), Ok(true));
    assert_eq!(say(ID, 30_000), Err(Code::MetadataProtocolViolation));
    let ours = StreamId::new(Side::Client, Dir::Bi, 0);
    assert_eq!(say(ours, 20_000), Err(Code::InvalidStreamRole));
    assert!(table.window().allowance(ID) <= 20_000);
}

#[test]
fn one_frame_may_go_on_from_plain_data_through_several_pieces() {
    let (_, recv) = table();
    let mut recv = lock(&recv);
    recv.add_piece(PathId::PRIMARY, PieceId(0), 2..4);
    recv.add_piece(PathId::PRIMARY, PieceId(1), 4..9);
    let received = recv.receive(PathId::PRIMARY, 0, Bytes::from_static(b"abcdefg")).unwrap();
    assert_eq!((received.asked, received.piece_ended), (5, true));
    assert_eq!(recv.take_ended().len(), 1);
    assert_eq!(recv.progress(PathId::PRIMARY, PieceId(1)), Some(7));
    assert_eq!((recv.unread(), recv.usage().gaps), (7, 0));

    let edge = PathId(1);
    recv.add_piece(edge, PieceId(0), 10..12);
    recv.add_piece(edge, PieceId(1), 12..14);
    assert_eq!(recv.receive(edge, 10, Bytes::from_static(b"klmn")).unwrap().asked, 4);
    recv.add_piece(edge, PieceId(2), 14..15);
    let beyond = recv.receive(edge, 14, Bytes::from_static(b"op"));
    assert_eq!(beyond.unwrap_err().code, Code::SecondaryStreamIsolation);
}

#[test]
fn chunks_that_come_together_are_admitted_as_one_by_one() {
    let chunks = ["ab", "cd", "", "efg", "hi"].map(|chunk| Bytes::from_static(chunk.as_bytes()));
    let pieces = |recv: &SharedRecv| {
        let mut recv = lock(recv);
        recv.add_piece(PathId::PRIMARY, PieceId(0), 3..5);
        recv.add_piece(PathId::PRIMARY, PieceId(1), 5..40);
    };
    // From plain data through two pieces, then within one, then over its end.
    for (offset, final_size) in [(0, None), (5, None), (5, Some(14)), (5, Some(13))] {
        let ((_, whole), (_, each)) = (table(), table());
        for recv in [&whole, &each] {
            pieces(recv);
            if let Some(size) = final_size {
                lock(recv).receive_fin(PathId::PRIMARY, size).unwrap();
            }
        }
        let all = lock(&whole).receive_chunks(PathId::PRIMARY, offset, &mut chunks.clone());
        let mut sum = Ok(Received::default());
        let mut at = offset;
        for chunk in chunks.clone() {
            let len = chunk.len() as u64;
            sum = sum.and_then(|mut sum| {
                let next = lock(&each).receive(PathId::PRIMARY, at, chunk)?;
                sum.readable |= next.readable;
                sum.piece_ended |= next.piece_ended;
                sum.asked += next.asked;
                Ok(sum)
            });
            at += len;
        }
        assert_eq!(all, sum, "from {offset}");
        let (whole, each) = (lock(&whole), lock(&each));
        assert_eq!(whole.usage(), each.usage());
        for piece in [PieceId(0), PieceId(1)] {
            let progress = |recv: &RecvHalf| recv.progress(PathId::PRIMARY, piece);
            assert_eq!(progress(&whole), progress(&each));
        }
    }
}
