//! Writing what a client has activated of a lease.

use std::{
    ops::Range,
    pin::{Pin, pin},
};

use bytes::Bytes;
use futures_util::future::join;
use kwik::{LeaseWriter, WriteError, escape};

use super::pace::Pace;
use crate::{Failure, Object, SourceError};

/// Why an edge gives a lease up, and a primary takes no request, at its end.
pub(super) const STOPPING: &str = "the server is shutting down";

/// Writes from `object`, from `offset` on, what the client activates, until the lease is over.
/// `on_written` is told how many bytes were written each time. Gives the lease up when the object
/// cannot be read: why, which the operator has to be told. All leases share the `pace`. Once `stop`
/// says why, it gives up what was not written yet.
pub(super) async fn fill(
    mut lease: LeaseWriter,
    object: &Object,
    offset: u64,
    pace: &Pace,
    stop: impl Future<Output = String>,
    on_written: impl Fn(u64),
) -> Result<(), SourceError> {
    let written = write_activated(&mut lease, object, offset, pace, pin!(stop), on_written).await;
    let Err(error) = written else { return Ok(()) };
    match error {
        Error::Source(error) => {
            lease.abandon(&Failure::from(&error).message);
            Err(error)
        }
        error => {
            let name = escape(&object.stat().name);
            tracing::debug!(%name, reason = %escape(&error), "lease over");
            lease.abandon(&error.to_string());
            Ok(())
        }
    }
}

/// Why a lease is not filled to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{0}")]
    Stopped(String),
}

/// Reads one block ahead, so that disk and network do not wait for each other.
async fn write_activated(
    lease: &mut LeaseWriter,
    object: &Object,
    offset: u64,
    pace: &Pace,
    mut stop: Pin<&mut impl Future<Output = String>>,
    on_written: impl Fn(u64),
) -> Result<(), Error> {
    let read = async |range: Range<u64>| {
        let range = range.start.saturating_add(offset)..range.end.saturating_add(offset);
        object.read(range).await
    };
    let block = |piece: Range<u64>| first_block(piece, pace.block());
    let mut ahead = None;
    loop {
        let piece = tokio::select! {
            biased;
            why = &mut stop => return Err(Error::Stopped(why)),
            piece = lease.activated() => piece?,
        };
        let Some(piece) = piece else { return Ok(()) };
        // What was read ahead is of no use when its piece was cancelled.
        let fits = |(start, _): &(u64, Bytes)| *start == piece.start;
        let data = match ahead.take().filter(fits) {
            Some((_, data)) => data,
            None => read(block(piece.clone())).await?,
        };
        let length = data.len() as u64;
        let end = piece.start + length;
        let following = if end < piece.end {
            block(end..piece.end)
        } else {
            lease.queued().into_iter().nth(1).map_or(0..0, block)
        };
        let start = following.start;
        let following =
            async { if following.is_empty() { Ok(Bytes::new()) } else { read(following).await } };
        let (written, following) = join(lease.write_chunk(data), following).await;
        written?;
        on_written(length);
        // Once it is written: its piece might be cancelled while it waits.
        pace.pay(length).await;
        ahead = Some((start, following?)).filter(|(_, data)| !data.is_empty());
    }
}

/// The first block of a piece, of `most` bytes.
fn first_block(piece: Range<u64>, most: u64) -> Range<u64> {
    piece.start..piece.end.min(piece.start.saturating_add(most))
}
