//! Every bound of delivery, with its reason.

/// Version of the delivery protocol that this build speaks.
pub const DELIVERY_VERSION: u32 = 1;
/// Bytes of a group: what is verified, blamed and fetched again as one.
pub const GROUP_SIZE: u64 = 64 * 1024;
/// Bytes of one chaining value or root.
pub const HASH_SIZE: usize = 32;
/// Largest object: its outboard, which both sides hold in memory, stays at 512 MiB.
pub const MAX_OBJECT: u64 = 1 << 40;
/// Largest single read from a source: large enough for full disk speed, small enough to bound
/// what a slow peer keeps in memory.
pub const MAX_READ: u64 = 1024 * 1024;
/// Bytes of an object's name.
pub const MAX_NAME: usize = 1024;
/// Bytes of a host name (RFC 1035 section 2.3.4).
pub const MAX_HOST: usize = 253;
/// Bytes of a request or response without its length prefix: refused from the prefix alone.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Bytes of a failure's text.
pub const MAX_TEXT: usize = 512;
/// Bytes of a source's word for an object's state (an entity tag, say).
pub const MAX_STATE: usize = 256;
/// Objects whose manifests are looked up at once; more are told that the server is busy.
pub const MAX_LOOKUPS: usize = 1024;
/// Objects hashed at once: hashing is bound by memory and disk, and leaves cores for sending.
pub const MAX_HASHING: usize = 2;
/// Requests of one session that are answered at once; more wait on their streams.
pub const MAX_REQUESTS: usize = 16;
/// Leases of one session that an edge fills at once; each holds two blocks at the most.
pub const MAX_FILLS: usize = 64;
/// A block read for sending: enough for full disk speed, half of the largest piece.
pub const MAX_SEND: u64 = 512 * 1024;
/// A block verified and written as one.
pub const WRITE_BLOCK: usize = 1024 * 1024;
/// Blocks of one download that wait to be verified and written.
pub const WRITE_QUEUE: usize = 4;
/// Received slices taken from a stream at once.
pub const READ_BATCH: usize = 64;
/// Folders within folders that a listing enters.
pub const MAX_DEPTH: usize = 64;

const _: () = {
    assert!(GROUP_SIZE.is_power_of_two() && GROUP_SIZE >= 1024); // whole BLAKE3 chunks
    assert!(MAX_SEND <= MAX_READ);
    assert!((WRITE_BLOCK as u64).is_multiple_of(GROUP_SIZE));
    assert!(MAX_READ.is_multiple_of(GROUP_SIZE));
    assert!(MAX_OBJECT / GROUP_SIZE * (HASH_SIZE as u64) <= 512 * 1024 * 1024);
    assert!(MAX_NAME + MAX_TEXT + MAX_STATE + 256 <= MAX_MESSAGE);
};
