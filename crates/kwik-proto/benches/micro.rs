//! What the data plane does for each packet, lease and write.
//!
//! `cargo bench -p kwik-proto`
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench")]
#![allow(clippy::cast_possible_truncation, reason = "small constants")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use kwik_proto::lease::LeaseIssuer;
use kwik_proto::limits::{MAX_LEASES, MAX_PATHS, MAX_SECONDARY_STREAMS};
use kwik_proto::mapping::{MappingTable, Place};
use kwik_proto::presentation::StreamBuffer;
use kwik_proto::wire::control::{Priority, StreamCreateNotification, StreamMetadata, StreamType};
use kwik_proto::wire::data::{DataDecoder, DataOptions, PacketEncoder, PacketFrame};
use kwik_proto::wire::secondary::{SecondaryStreamOpen, encode_secondary};
use kwik_proto::wire::{ControlDecoder, ControlMessage, SecondaryDecoder, SecondaryEvent, control};
use kwik_proto::{Dir, LeaseId, PathId, Side, StreamId};

/// A datagram's worth.
const CHUNK: u64 = 1200;

fn stream(index: u64) -> StreamId {
    StreamId::new(Side::Server, Dir::Uni, index)
}

/// The header of a frame of 64 KiB, out and in again.
fn header(c: &mut Criterion) {
    let payload = Bytes::from(vec![7; 64 * 1024]);
    let mut encoder = PacketEncoder::new();
    let (mut out, mut packet_id) = (Vec::new(), 0);
    let mut decoder = DataDecoder::new(DataOptions::default());
    c.bench_function("data frame/encode and decode", |b| {
        b.iter(|| {
            packet_id += 1;
            let payload = payload.clone();
            let frame = PacketFrame { stream_id: 4003, offset: 5_000_000_000, payload, fin: false };
            encoder.encode(packet_id, &[black_box(frame)], DataOptions::default(), &mut out);
            for input in out.drain(..) {
                decoder.handle_input(input);
                while let Some(event) = decoder.poll().unwrap() {
                    black_box(event);
                }
            }
        });
    });
}

/// A packet that waits for its checksum, as datagrams bring it.
fn checksum(c: &mut Criterion) {
    let options = DataOptions { checksum: true, compression: false };
    let payload = Bytes::from(vec![7; 64 * 1024]);
    let frame = PacketFrame { stream_id: 4003, offset: 5_000_000_000, payload, fin: false };
    let mut out = Vec::new();
    PacketEncoder::new().encode(1, &[frame], options, &mut out);
    let packet = Bytes::from(out.concat());
    let mut decoder = DataDecoder::new(options);
    c.bench_function("data packet/decode with a checksum", |b| {
        b.iter(|| {
            for at in (0..packet.len()).step_by(CHUNK as usize) {
                decoder.handle_input(packet.slice(at..packet.len().min(at + CHUNK as usize)));
                while let Some(event) = decoder.poll().unwrap() {
                    black_box(event);
                }
            }
        });
    });
}

/// What opens a mapped stream, and what says of a stream what it is; out and in again.
fn described(c: &mut Criterion) {
    let open = SecondaryEvent::Open(SecondaryStreamOpen {
        secondary_stream_id: 4003,
        target_kwik_stream_id: stream(1),
        initial_offset: 5_000_000_000,
        lease_id: LeaseId(1),
    });
    let mut decoder = SecondaryDecoder::new();
    c.bench_function("metadata/secondary stream", |b| {
        b.iter(|| {
            let mut out = BytesMut::new();
            encode_secondary(black_box(&open), &mut out);
            decoder.handle_input(out.freeze());
            while let Some(event) = decoder.poll().unwrap() {
                black_box(event);
            }
        });
    });

    let mut about = StreamMetadata::new();
    about.set_stream_type(StreamType::Control).set_priority(Priority::High);
    about.set_max_buffer(1 << 20);
    about.set_created_at(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    for key in ["name", "content-type"] {
        about.set_property(key, "x").unwrap();
    }
    let notice = ControlMessage::StreamCreateNotification(StreamCreateNotification {
        stream_id: stream(1000),
        metadata: about,
    });
    let (mut frame_id, mut decoder) = (0, ControlDecoder::new());
    c.bench_function("metadata/stream", |b| {
        b.iter(|| {
            let mut out = BytesMut::new();
            control::encode(frame_id, black_box(&notice), &mut out);
            frame_id += 1;
            decoder.handle_input(out.freeze());
            while let Some(message) = decoder.poll_frame().unwrap() {
                black_box(message);
            }
        });
    });
}

/// As many of each as there may be.
fn lookups(c: &mut Criterion) {
    let mut leases = LeaseIssuer::default();
    for _ in 0..MAX_LEASES {
        leases.issue(stream(1), PathId(1), 0..1000, Bytes::new()).unwrap();
    }
    let mut at = 0;
    let mut next = move |count: u64| {
        // A step that visits all, far apart.
        at = (at + 1_000_003) % count;
        at
    };
    c.bench_function("lookup/lease", |b| {
        b.iter(|| black_box(leases.lease(LeaseId(next(MAX_LEASES as u64)))));
    });

    let mut mappings = MappingTable::default();
    for path in 1..MAX_PATHS as u32 {
        for id in 0..MAX_SECONDARY_STREAMS as u64 {
            let place = Place { stream: stream(id), lease: LeaseId(id), offset: 0 };
            mappings
                .open((PathId(path), id), place, true, MAX_SECONDARY_STREAMS, Instant::now())
                .unwrap();
        }
    }
    c.bench_function("lookup/mapping", |b| {
        b.iter(|| {
            let at = next(MAX_SECONDARY_STREAMS as u64);
            black_box(mappings.get((PathId(1 + at as u32 % (MAX_PATHS as u32 - 1)), at)))
        });
    });
}

fn empty() -> StreamBuffer {
    StreamBuffer::new(Arc::default())
}

/// One write and one read, with the gaps that out of order means.
fn buffer(c: &mut Criterion) {
    let data = Bytes::from(vec![7; CHUNK as usize]);
    c.bench_function("buffer/in order", |b| {
        let (mut buffer, mut offset) = (empty(), 0);
        b.iter(|| {
            buffer.write(offset, data.clone()).unwrap();
            offset += CHUNK;
            black_box(buffer.read(usize::MAX))
        });
    });
    let mut group = c.benchmark_group("buffer/out of order");
    for gaps in [1, 10, 100, 1000] {
        group.throughput(criterion::Throughput::Elements(2 * gaps));
        group.bench_function(BenchmarkId::from_parameter(gaps), |b| {
            b.iter_batched_ref(empty, |buffer| fill(buffer, gaps, &data), BatchSize::SmallInput);
        });
    }
}

/// A gap that is made, filled and read over, while there are others far ahead.
fn gap(c: &mut Criterion) {
    let data = Bytes::from(vec![7; CHUNK as usize]);
    let mut group = c.benchmark_group("buffer/a gap before");
    for gaps in [1, 10, 100, 1000] {
        let (mut buffer, mut at) = (empty(), 0);
        for gap in 0..gaps {
            buffer.write((1 << 50) + 2 * gap * CHUNK, data.clone()).unwrap();
        }
        group.bench_function(BenchmarkId::from_parameter(gaps), |b| {
            b.iter(|| {
                buffer.write(at + CHUNK, data.clone()).unwrap();
                buffer.write(at, data.clone()).unwrap();
                while let Some(read) = buffer.read(usize::MAX) {
                    black_box(read);
                }
                at += 2 * CHUNK;
                assert_eq!(buffer.read_position(), at);
            });
        });
    }
}

/// Every other chunk first, from the last to the first, then those between: reads all.
fn fill(buffer: &mut StreamBuffer, gaps: u64, data: &Bytes) {
    for gap in (0..gaps).rev() {
        buffer.write((2 * gap + 1) * CHUNK, data.clone()).unwrap();
    }
    // In an order of their own: 7 divides none of the counts.
    for gap in 0..gaps {
        buffer.write(2 * (gap * 7 % gaps) * CHUNK, data.clone()).unwrap();
    }
    while let Some(read) = buffer.read(usize::MAX) {
        black_box(read);
    }
    assert_eq!(buffer.read_position(), 2 * gaps * CHUNK);
}

criterion_group!(benches, header, checksum, described, lookups, buffer, gap);
criterion_main!(benches);
