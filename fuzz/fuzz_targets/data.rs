//! A data stream, in chunks.
#![no_main]

use bytes::Bytes;
use kwik_proto::wire::{DataDecoder, DataOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|chunks: Vec<Vec<u8>>| {
    let mut decoder = DataDecoder::new(DataOptions::default());
    for chunk in chunks {
        decoder.handle_input(Bytes::from(chunk));
        while let Ok(Some(_)) = decoder.poll() {}
    }
    drop(decoder.handle_fin());
});
