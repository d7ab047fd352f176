//! What a buffer may take of memory, and how it ends.

use super::super::memory::RECEIVE_BUFFER;
use super::super::run::Run;
use super::*;

fn byte(offset: u64) -> Bytes {
    Bytes::from(vec![pattern(offset)])
}

fn drain(buffer: &mut StreamBuffer) -> Vec<u8> {
    std::iter::from_fn(|| buffer.read(usize::MAX)).flatten().collect()
}

fn footprint(buffer: &StreamBuffer) -> usize {
    buffer.all_runs().map(Run::footprint).sum()
}

#[test]
fn tiny_fragments_cost_bounded_memory_in_any_order() {
    const COUNT: u64 = 200_000;
    // Alternating: as far ahead as the gaps allow, then what is between.
    let step = 2 * MAX_GAPS as u64;
    let alternating = (0..COUNT).step_by(2 * MAX_GAPS).flat_map(|start| {
        let end = (start + step).min(COUNT);
        (start + 1..end).step_by(2).chain((start..end).step_by(2))
    });
    let orders: [Box<dyn Iterator<Item = u64>>; 3] =
        [Box::new(0..COUNT), Box::new((0..COUNT).rev()), Box::new(alternating)];
    for order in orders {
        let mut buffer = StreamBuffer::default();
        for (count, offset) in order.enumerate() {
            buffer.write(offset, byte(offset)).unwrap();
            if count % 1000 == 999 {
                check_bounds(&buffer);
                // Twice the bytes, and for each run a queue and a smallest block.
                assert!(footprint(&buffer) <= 2 * (count + 1) + 64 * 48 + buffer.runs() * 320);
            }
        }
        assert_eq!((buffer.held(), buffer.runs(), buffer.gap_count()), (COUNT, 1, 0));
        let data = drain(&mut buffer);
        assert!((0..).zip(&data).all(|(at, held)| *held == pattern(at)));
        assert_eq!(data.len() as u64, COUNT);
        assert!(footprint(&buffer) <= 64 * 48, "queues shrink when they empty");
    }
}

#[test]
fn large_and_in_order_chunks_are_not_copied() {
    let mut buffer = StreamBuffer::default();
    let large = Bytes::from(vec![1; COPY_BLOCK]);
    let small = Bytes::from(vec![2; 1000]);
    buffer.write(COPY_BLOCK as u64, large.clone()).unwrap();
    buffer.write(0, large.clone()).unwrap();
    buffer.write(2 * COPY_BLOCK as u64, small.clone()).unwrap();
    let mut out = [const { Bytes::new() }; 8];
    assert_eq!(buffer.read_chunks(&mut out), 3);
    for (read, written) in out.iter().zip([&large, &large, &small]) {
        assert_eq!(read.as_ptr(), written.as_ptr());
    }
    assert_eq!(buffer.pinned(), 0);
}

/// A receive buffer with slices of `len` in it, each after a header.
fn batch(len: usize) -> Vec<Bytes> {
    let all = Bytes::from(vec![7; RECEIVE_BUFFER]);
    (0..RECEIVE_BUFFER / (len + 50))
        .map(|at| all.slice(at * (len + 50)..).slice(50..50 + len))
        .collect()
}

#[test]
fn slices_of_one_receive_buffer_pin_it_once() {
    let mut buffer = StreamBuffer::default();
    let slices = batch(1400);
    let mut at = 0;
    for slice in &slices {
        buffer.write(at, slice.clone()).unwrap();
        at += slice.len() as u64;
        assert_eq!(buffer.pinned() as u64, RECEIVE_BUFFER as u64 - at);
    }
    // Another one, of which most is elsewhere.
    buffer.write(at, batch(1400)[3].clone()).unwrap();
    assert_eq!(buffer.pinned() as u64, 2 * RECEIVE_BUFFER as u64 - at - 1400);
    for slice in &slices {
        assert_eq!(buffer.read(usize::MAX).unwrap().as_ptr(), slice.as_ptr());
    }
    assert_eq!(buffer.pinned(), RECEIVE_BUFFER - 1400);
    buffer.read(700).unwrap();
    assert_eq!(buffer.pinned(), RECEIVE_BUFFER - 700);
    buffer.read(usize::MAX).unwrap();
    assert_eq!(buffer.pinned(), 0);
}

#[test]
fn where_datagrams_lie_in_memory_makes_no_difference() {
    let buffer = || StreamBuffer::new(Arc::new(ReceiveMemory::of_datagrams()));
    let (mut together, mut apart) = (buffer(), buffer());
    for (at, slice) in (0..).step_by(1400).zip(&batch(1400)) {
        together.write(at, slice.clone()).unwrap();
        apart.write(at, Bytes::copy_from_slice(slice)).unwrap();
        assert_eq!(together.pinned(), apart.pinned());
        assert_eq!(together.pinned() as u64, (at / 1400 + 1) * 100);
    }
}

#[test]
fn buffers_of_a_session_together_pin_no_more_than_the_bound() {
    let memory = Arc::new(ReceiveMemory::default());
    let mut buffers: Vec<_> = (0..20).map(|_| StreamBuffer::new(memory.clone())).collect();
    // Slices that pin a receive buffer each, in order and ahead of gaps: those too many are copied.
    for round in 0..40 {
        for (index, buffer) in buffers.iter_mut().enumerate() {
            let at = 3000 * (round + u64::try_from(index % 2).unwrap());
            buffer.write(at, batch(1500)[0].clone()).unwrap();
            assert!(memory.pinned() <= MAX_PINNED);
        }
    }
    assert!(memory.pinned() > MAX_PINNED / 2);
    buffers.truncate(10);
    buffers[0].close();
    let left: usize = buffers.iter().map(StreamBuffer::pinned).sum();
    assert_eq!(memory.pinned(), left);
    drop(buffers);
    assert_eq!((memory.pinned(), memory.runs()), (0, 0));
}

#[test]
fn what_reading_leaves_of_receive_buffers_is_copied_beyond_the_bound() {
    let memory = Arc::new(ReceiveMemory::default());
    let mut buffers: Vec<_> = (0..64).map(|_| StreamBuffer::new(memory.clone())).collect();
    for buffer in &mut buffers {
        let slices = batch(1400);
        for (at, slice) in (0..).step_by(1400).zip(&slices) {
            buffer.write(at, slice.clone()).unwrap();
        }
        while buffer.held() > 1400 {
            buffer.read(1400).unwrap();
        }
        buffer.settle();
        assert!(memory.pinned() <= MAX_PINNED);
        check_bounds(buffer);
    }
    for buffer in &mut buffers {
        let held = usize::try_from(buffer.held()).unwrap();
        assert_eq!(drain(buffer), vec![7; held]);
        buffer.settle();
    }
    assert_eq!(memory.pinned(), 0);
}

#[test]
fn small_slices_are_copied_ahead_and_when_the_reader_lags() {
    let mut buffer = StreamBuffer::default();
    let small = Bytes::from(vec![2; 1000]);
    buffer.write(5000, small.clone()).unwrap();
    assert_eq!(buffer.pinned(), 0);
    let mut buffer = StreamBuffer::default();
    for at in 0..100 {
        buffer.write(at * 1000, small.clone()).unwrap();
    }
    assert!(buffer.pinned() <= MAX_PINNED);
    assert!(footprint(&buffer) <= 2 * 100_000);
    check_bounds(&buffer);
    assert_eq!(drain(&mut buffer), vec![2; 100_000]);
}

#[test]
fn runs_of_a_session_are_bounded_together() {
    let memory = Arc::new(ReceiveMemory::default());
    let mut buffers: Vec<_> = (0..5).map(|_| StreamBuffer::new(memory.clone())).collect();
    for index in 0..MAX_RUNS {
        buffers[index % 4].write(2 * (index / 4) as u64 + 1, byte(0)).unwrap();
    }
    assert_eq!(memory.runs(), MAX_RUNS);
    assert_eq!(buffers[4].write(1, byte(0)), Err(BufferError::TooManyRuns));
    // Data in order goes on, and what fills a gap makes room.
    buffers[4].write(0, byte(0)).unwrap();
    buffers[0].write(0, byte(0)).unwrap();
    buffers[4].write(2, byte(0)).unwrap();
    assert_eq!(buffers[4].write(4, byte(0)), Err(BufferError::TooManyRuns));
}

#[test]
fn gaps_are_bounded() {
    let mut buffer = StreamBuffer::default();
    for index in 0..MAX_GAPS as u64 {
        buffer.write(2 * index + 1, byte(0)).unwrap();
    }
    let beyond = 2 * MAX_GAPS as u64 + 1;
    assert_eq!(buffer.write(beyond, byte(0)), Err(BufferError::TooManyGaps));
    assert_eq!((buffer.gap_count(), buffer.held()), (MAX_GAPS, MAX_GAPS as u64));
    // Neither growing a run nor filling a gap is refused.
    buffer.write(beyond - 1, byte(0)).unwrap();
    buffer.write(0, byte(0)).unwrap();
    buffer.write(beyond + 1, byte(0)).unwrap();
}

#[test]
fn runs_are_bounded_although_reading_leaves_no_gap_between_them() {
    let mut buffer = StreamBuffer::default();
    let mut refused = None;
    // Downwards in pairs: the lower byte is read at once, the upper stays a run of its own.
    for offset in (0..4 * MAX_GAPS as u64).rev().step_by(2) {
        let held = buffer.held();
        if let Err(error) = buffer.write(offset - 1, byte(0)) {
            refused = Some(error);
            break;
        }
        assert_eq!(buffer.read_unordered(1).unwrap().0, offset - 1);
        assert_eq!((buffer.held(), buffer.gap_count()), (held, 1));
        if offset > 2 && buffer.write(offset - 2, byte(0)).is_err() {
            refused = Some(BufferError::TooManyGaps);
            break;
        }
    }
    assert_eq!(refused, Some(BufferError::TooManyGaps));
    assert!(buffer.runs() <= MAX_GAPS + 1);
}

#[test]
fn offsets_end_where_quic_ends() {
    let mut buffer = StreamBuffer::default();
    assert_eq!(buffer.write(MAX_OFFSET, byte(0)), Err(BufferError::OffsetTooLarge));
    assert_eq!(buffer.write(u64::MAX, byte(0)), Err(BufferError::OffsetTooLarge));
    buffer.write(MAX_OFFSET - 1, byte(0)).unwrap();
    assert_eq!(buffer.write_end(), MAX_OFFSET);
}

#[test]
fn the_first_copy_wins_and_a_different_one_is_a_conflict() {
    let mut buffer = StreamBuffer::default();
    buffer.write(2, Bytes::from_static(b"cd")).unwrap();
    let written = buffer.write(0, Bytes::from_static(b"abXdef")).unwrap();
    assert_eq!(written, Stored { new: 4, duplicate: 2, conflicting: 1 });
    assert_eq!(drain(&mut buffer), b"abcdef");
    // What was read can no longer be compared.
    let written = buffer.write(0, Bytes::from_static(b"zz")).unwrap();
    assert_eq!(written, Stored { new: 0, duplicate: 2, conflicting: 0 });
}

#[test]
fn unordered_reads_count_as_received_and_ordered_ones_step_over_them() {
    let mut buffer = StreamBuffer::default();
    buffer.write(2, Bytes::from_static(b"cd")).unwrap();
    assert_eq!(buffer.read_unordered(9), Some((2, Bytes::from_static(b"cd"))));
    assert_eq!(buffer.write(2, Bytes::from_static(b"cd")).unwrap().duplicate, 2);
    buffer.write(4, Bytes::from_static(b"ef")).unwrap();
    assert_eq!((buffer.read(9), buffer.gap_count()), (None, 1));
    buffer.write(0, Bytes::from_static(b"ab")).unwrap();
    assert_eq!((buffer.contiguous(), buffer.contiguous_end()), (4, 6));
    assert_eq!(buffer.read(9), Some(Bytes::from_static(b"ab")));
    assert_eq!(buffer.read_position(), 4);
    assert_eq!(buffer.read(9), Some(Bytes::from_static(b"ef")));
}

#[test]
fn closing_drops_everything() {
    let mut buffer = StreamBuffer::default();
    buffer.write(0, Bytes::from_static(b"ab")).unwrap();
    buffer.write(9, Bytes::from_static(b"xy")).unwrap();
    assert_eq!(buffer.read(1), Some(Bytes::from_static(b"a")));
    buffer.close();
    assert!(buffer.is_closed());
    assert_eq!((buffer.held(), buffer.runs(), buffer.gap_count()), (0, 0, 0));
    assert_eq!((buffer.read(9), buffer.read_unordered(9)), (None, None));
    assert_eq!(buffer.read_position(), 1);
    assert_eq!(buffer.write(1, byte(0)), Err(BufferError::Closed));
}
