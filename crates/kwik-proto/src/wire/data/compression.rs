//! Frames as LZ4 blocks, bounded by lengths that are known before.

use crate::wire::WireError;
use bytes::Bytes;

/// What a compressed frame's two fields take, rounded up: less than that is no gain.
const MIN_GAIN: usize = 16;

/// Compresses `plain`, using `buffer`; none when it would not shrink.
pub(super) fn compress<'a>(plain: &[u8], buffer: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let room = lz4_flex::block::get_maximum_output_size(plain.len());
    if buffer.len() < room {
        buffer.resize(room, 0);
    }
    let len = lz4_flex::block::compress_into(plain, buffer).ok()?;
    (len + MIN_GAIN <= plain.len()).then(|| &buffer[..len])
}

/// Decompresses what stands for exactly `len` bytes, a length that was checked.
pub(super) fn decompress(data: &[u8], len: usize) -> Result<Bytes, WireError> {
    let mut plain = vec![0; len];
    match lz4_flex::block::decompress_into(data, &mut plain) {
        Ok(found) if found == len => Ok(plain.into()),
        Ok(_) => Err(WireError::Invalid("an uncompressed length")),
        Err(_) => Err(WireError::Invalid("a compressed frame")),
    }
}
