//! What servers hold: each object has its own bytes, which anyone can make from its tag.

use std::sync::LazyLock;

use bytes::Bytes;

/// Prime, so that objects do not repeat in step with frames.
const PERIOD: u64 = 65_521;

static TABLE: LazyLock<Bytes> = LazyLock::new(|| {
    let byte = |at: u64| {
        let mixed = (at % PERIOD).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((mixed ^ (mixed >> 29)) >> 32) as u8
    };
    (0..2 * PERIOD).map(byte).collect::<Vec<_>>().into()
});

/// Bytes from `at` of the object called `tag`: `len` of them, or as many as come in one piece.
pub(crate) fn content(tag: u64, at: u64, len: u64) -> Bytes {
    let start = (tag.wrapping_mul(40_503) % PERIOD + at) % PERIOD;
    TABLE.slice(start as usize..(start + len.min(PERIOD)) as usize)
}

/// Checks that `bytes` are what is at `at`.
pub(crate) fn check(tag: u64, mut at: u64, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let part = content(tag, at, bytes.len() as u64);
        assert!(bytes[..part.len()] == part, "wrong bytes from {at} on in object {tag}");
        at += part.len() as u64;
        bytes = &bytes[part.len()..];
    }
}
