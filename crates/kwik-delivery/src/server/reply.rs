//! How an answer leaves, alone or beside what it is about.

use bytes::Bytes;
use futures_util::future::join;
use kwik::SendStream;

use crate::Object;

use super::{
    access::Record,
    extent::Extent,
    unanswered::{Unanswered, write},
};

/// Sends all of an answer.
pub(super) async fn reply(
    send: &mut SendStream,
    parts: impl IntoIterator<Item = Bytes>,
) -> Result<(), String> {
    write_all(send, parts).await?;
    send.finish().map_err(|error| error.to_string())
}

async fn write_all(
    send: &mut SendStream,
    parts: impl IntoIterator<Item = Bytes>,
) -> Result<(), String> {
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        write(send, part).await?;
    }
    Ok(())
}

/// Answers, and delivers. The answer's stream stays open until that is done: a failure is told
/// there.
pub(super) async fn deliver_beside(
    record: &Record,
    send: &mut SendStream,
    parts: impl IntoIterator<Item = Bytes>,
    extent: Extent<'_>,
    object: &Object,
) -> Result<(), Unanswered> {
    let answered = write_all(send, parts);
    let (answered, delivered) = join(answered, extent.deliver(object, record)).await;
    answered?;
    delivered?;
    send.finish().map_err(|error| error.to_string())?;
    Ok(())
}
