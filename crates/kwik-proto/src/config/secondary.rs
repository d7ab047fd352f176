//! Secondary streams (7.2, 7.5), at the client that receives them and at the secondary that opens
//! them.

use std::time::Duration;

use crate::limits;

/// Where a secondary may write with a stream of its own (7.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
#[non_exhaustive]
pub enum SecondaryWrites {
    /// Under a lease of the primary alone. What else opens is stopped with
    /// `KWIK_SECONDARY_STREAM_ISOLATION`.
    #[default]
    Leased,
    /// Into any stream of the primary that is open, from any offset on, as far as the client asks
    /// for it. The primary is not asked: for sessions whose secondaries are trusted as it is.
    Open,
}

settings! {
    /// Secondary streams (7.5), as their receiver bounds them; `streams_per_path` and `writes`
    /// bound a secondary's own as well. All change live.
    #[derive(Copy)]
    SecondaryStreamConfig;
    /// Whether a secondary needs a lease.
    writes, set_writes: SecondaryWrites = SecondaryWrites::Leased,
        SecondaryWrites::Leased..=SecondaryWrites::Open;
    /// Secondary streams that one path may have open at once; 100. One more is stopped with
    /// `KWIK_LIMIT_EXCEEDED`, and its lease is lost. A secondary opens 64 at the most.
    streams_per_path, set_streams_per_path: usize = limits::MAX_QUIC_STREAMS as usize,
        1..=limits::MAX_QUIC_STREAMS as usize;
    /// A secondary stream that owes bytes and brings none for so long is stopped with
    /// `KWIK_AGGREGATION_TIMEOUT`, and its lease is lost; 30 s.
    stream_timeout, set_stream_timeout: Duration = limits::MAX_ANSWER_TIME,
        Duration::from_millis(10)..=limits::MAX_STREAM_TIMEOUT;
    /// One that has not said for so long where it writes is stopped with
    /// `KWIK_METADATA_PROTOCOL_VIOLATION`; 30 s.
    metadata_timeout, set_metadata_timeout: Duration = limits::MAX_ANSWER_TIME,
        Duration::from_millis(10)..=limits::MAX_STREAM_TIMEOUT;
    /// Bytes that one secondary stream may be asked for and not have brought; 32 MiB.
    buffer_size, set_buffer_size: u64 = limits::MAX_WINDOW, limits::MIN_PIECE..=limits::MAX_OFFSET;
    /// Data frames of a secondary stream that are put together before the session looks at them,
    /// at the most; 64. Fewer: others learn sooner what they need not bring. More: less work.
    batch_size, set_batch_size: usize = limits::SECONDARY_BATCH, 1..=limits::MAX_PACKET_FRAMES;
}
