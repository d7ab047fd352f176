//! What a secondary says on a secondary stream, by hand.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use kwik_proto::wire::control::Lease;
use kwik_proto::wire::secondary::{
    MappingOperation, SecondaryStreamClose, SecondaryStreamData, SecondaryStreamOpen,
    StreamMappingUpdate, encode_secondary,
};
use kwik_proto::wire::{SecondaryEvent, StreamKind};

use super::object;

pub fn open(lease: &Lease, offset: u64) -> SecondaryEvent {
    SecondaryEvent::Open(SecondaryStreamOpen {
        secondary_stream_id: 1,
        target_kwik_stream_id: lease.stream_id,
        initial_offset: offset,
        lease_id: lease.lease_id,
    })
}

pub fn data(lease: &Lease, range: Range<u64>) -> SecondaryEvent {
    SecondaryEvent::Data(SecondaryStreamData {
        secondary_stream_id: 1,
        kwik_stream_id: lease.stream_id,
        offset: range.start,
        data: object(range),
        ..Default::default()
    })
}

pub fn update(lease: &Lease, offset: u64) -> SecondaryEvent {
    SecondaryEvent::Update(StreamMappingUpdate {
        secondary_stream_id: 1,
        kwik_stream_id: lease.stream_id,
        operation: MappingOperation::Update,
        lease_id: lease.lease_id,
        offset,
    })
}

pub fn close(lease: &Lease, final_offset: u64) -> SecondaryEvent {
    SecondaryEvent::Close(SecondaryStreamClose {
        secondary_stream_id: 1,
        kwik_stream_id: lease.stream_id,
        final_offset,
        ..Default::default()
    })
}

pub fn encode(events: &[SecondaryEvent]) -> Bytes {
    let mut out = BytesMut::new();
    StreamKind::Secondary.encode(&mut out);
    events.iter().for_each(|event| encode_secondary(event, &mut out));
    out.freeze()
}
