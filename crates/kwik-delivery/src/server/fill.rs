//! Writing what a client has activated of a lease.

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::join;
use kwik::LeaseWriter;

use crate::{Object, limits::MAX_SEND};

/// Writes from `object` what the client activates, until the lease is over. Gives the lease up
/// when the object cannot be read.
pub(super) async fn fill(mut lease: LeaseWriter, object: &Object) {
    if let Err(reason) = write_activated(&mut lease, object).await {
        tracing::warn!(reason, "lease given up");
        lease.abandon(&reason);
    }
}

/// Reads one block ahead, so that disk and network do not wait for each other.
async fn write_activated(lease: &mut LeaseWriter, object: &Object) -> Result<(), String> {
    let mut ahead = None;
    while let Some(piece) = lease.activated().await.map_err(|error| error.to_string())? {
        // What was read ahead is of no use when its piece was cancelled.
        let fits = |(start, _): &(u64, Bytes)| *start == piece.start;
        let data = match ahead.take().filter(fits) {
            Some((_, data)) => data,
            None => read(object, block(piece.clone())).await?,
        };
        let end = piece.start + data.len() as u64;
        let following = if end < piece.end {
            block(end..piece.end)
        } else {
            lease.queued().into_iter().nth(1).map_or(0..0, block)
        };
        let start = following.start;
        let (written, following) = join(lease.write_chunk(data), read(object, following)).await;
        written.map_err(|error| error.to_string())?;
        ahead = Some((start, following?)).filter(|(_, data)| !data.is_empty());
    }
    Ok(())
}

/// The first block of a piece.
fn block(piece: Range<u64>) -> Range<u64> {
    piece.start..piece.end.min(piece.start.saturating_add(MAX_SEND))
}

async fn read(object: &Object, range: Range<u64>) -> Result<Bytes, String> {
    object.read(range).await.map_err(|error| error.to_string())
}
