//! Packets that we encode, decoded again: the same frames.
#![no_main]

use bytes::Bytes;
use kwik_proto::limits::{MAX_PACKET_FRAMES, MAX_PACKET_PAYLOAD};
use kwik_proto::wire::{DataDecoder, DataEvent, DataOptions, PacketEncoder, PacketFrame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, u64, Vec<(u32, u32, Vec<u8>, bool)>, Vec<u8>)| {
    let (checksum, compression, id, frames, cuts) = input;
    let options = DataOptions { checksum, compression };
    let frames: Vec<PacketFrame> = frames
        .into_iter()
        .take(MAX_PACKET_FRAMES)
        .map(|(stream_id, offset, payload, fin)| PacketFrame {
            stream_id: stream_id.into(),
            offset: offset.into(),
            payload: payload.into(),
            fin,
        })
        .collect();
    let total: usize = frames.iter().map(|frame| frame.payload.len()).sum();
    if total > MAX_PACKET_PAYLOAD {
        return;
    }
    let mut out = Vec::new();
    PacketEncoder::new().encode(id, &frames, options, &mut out);
    let mut rest = Bytes::from(out.concat());
    let mut decoder = DataDecoder::new(options);
    let (mut found, mut end) = (Vec::new(), None);
    for cut in cuts.into_iter().map(usize::from).chain([usize::MAX]) {
        decoder.handle_input(rest.split_to(cut.min(rest.len())));
        while let Some(event) = decoder.poll().expect("what we encode is valid") {
            match event {
                DataEvent::Payload(bytes) => found.extend_from_slice(&bytes),
                DataEvent::PacketEnd { id, payload, .. } => end = Some((id, payload)),
                DataEvent::Frame(_) | DataEvent::FrameEnd { .. } => {}
            }
        }
    }
    let sent: Vec<u8> = frames.iter().flat_map(|frame| frame.payload.to_vec()).collect();
    assert!(sent == found && end == Some((id, total)));
    decoder.handle_fin().expect("a whole packet");
});
