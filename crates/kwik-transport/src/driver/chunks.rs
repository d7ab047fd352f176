//! Chunks of a QUIC stream, read several at once.

use bytes::Bytes;

use crate::quic::{ReadError, RecvStream};

/// Chunks that are read at once: one lock and one wake a batch.
pub(super) const BATCH: usize = 64;
/// Room for chunks at the start: most streams are short, and wait most of the time.
const FIRST_BATCH: usize = 4;

/// Room for chunks, which [`next_batch`] makes larger when it was not enough.
pub(super) fn first_batch() -> Vec<Bytes> {
    vec![Bytes::new(); FIRST_BATCH]
}

/// The next chunks: how many, 0 at the stream's end. None when its connection is lost or it was
/// reset: what that means is told on the control stream.
pub(super) async fn next_batch(stream: &mut RecvStream, chunks: &mut Vec<Bytes>) -> Option<usize> {
    match stream.read_chunks(chunks).await {
        Ok(filled) => {
            let filled = filled.unwrap_or(0);
            if filled == chunks.len() {
                chunks.resize(BATCH, Bytes::new());
            }
            Some(filled)
        }
        Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => None,
        Err(error) => {
            tracing::debug!(%error, "a data stream cannot be read");
            None
        }
    }
}
