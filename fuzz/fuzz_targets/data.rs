//! A data stream, in chunks, under any options.
#![no_main]

use bytes::Bytes;
use kwik_proto::limits::MAX_PACKET_PAYLOAD;
use kwik_proto::wire::{DataDecoder, DataEvent, DataOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, bool, Vec<Vec<u8>>)| {
    let (checksum, compression, chunks) = input;
    let mut decoder = DataDecoder::new(DataOptions { checksum, compression });
    let mut payload = 0;
    for chunk in chunks {
        decoder.handle_input(Bytes::from(chunk));
        while let Ok(Some(event)) = decoder.poll() {
            match event {
                DataEvent::Payload(bytes) => payload += bytes.len(),
                DataEvent::PacketEnd { payload: all, .. } => {
                    assert_eq!(std::mem::take(&mut payload), all);
                }
                DataEvent::Frame(_) | DataEvent::FrameEnd { .. } => {}
            }
            assert!(payload <= MAX_PACKET_PAYLOAD);
        }
    }
    drop(decoder.handle_fin());
});
