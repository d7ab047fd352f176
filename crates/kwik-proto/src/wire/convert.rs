//! Between what travels and types of ours, and the bounds of every field that a peer controls.

use std::ops::Range;

use prost::Message;

use super::WireError;
use super::pb::control::ByteRange;
use crate::auth::Signature;
use crate::limits::{MAX_GAPS, MAX_OFFSET, MAX_TEXT};
use crate::{PathId, SessionId, StreamId};

type Result<T> = std::result::Result<T, WireError>;

/// A message of ours. Nothing outside `wire` sees the protobuf of it.
pub(super) trait Convert: Sized {
    /// How it travels.
    type Proto: Message + Default;

    /// As it travels.
    fn to_proto(&self) -> Self::Proto;

    /// As it came; refuses a field out of its bounds.
    fn from_proto(m: Self::Proto) -> Result<Self>;
}

/// A number that QUIC's 62 bits must hold: offsets, error codes.
pub(super) fn number(value: u64) -> Result<u64> {
    if value > MAX_OFFSET { Err(WireError::Invalid("a number over 62 bits")) } else { Ok(value) }
}

pub(super) fn stream_id(value: u64) -> Result<StreamId> {
    number(value).map(StreamId::from_u64)
}

/// `[offset, offset + len)` lies within what a stream can hold.
pub(super) fn extent(offset: u64, len: u64) -> Result<()> {
    let end = offset.checked_add(len).ok_or(WireError::Invalid("an offset"))?;
    number(end).map(drop)
}

/// The highest id must fit 62 bits (RFC 9000 section 4.6).
pub(super) fn stream_count(streams: u64) -> Result<u64> {
    if streams > 1 << 60 { Err(WireError::Invalid("a number of streams")) } else { Ok(streams) }
}

/// The original messages have ids of paths as decimal text.
pub(super) fn path_id(text: &str) -> Result<PathId> {
    text.parse().map(PathId).map_err(|_| WireError::Invalid("a path id"))
}

/// Of the path that the connection implies already: absent in what this build sends.
pub(super) fn implied_path_id(text: &str) -> Result<()> {
    if text.is_empty() { Ok(()) } else { path_id(text).map(drop) }
}

pub(super) fn session_id(text: &str) -> Result<SessionId> {
    text.parse().map_err(|_| WireError::Invalid("a session id"))
}

pub(super) fn range(start: u64, end: u64) -> Result<Range<u64>> {
    if start > end { Err(WireError::Invalid("a range")) } else { Ok(start..number(end)?) }
}

pub(super) fn ranges(ranges: Vec<ByteRange>) -> Result<Vec<Range<u64>>> {
    count("ranges", ranges.len(), MAX_GAPS as u64)?;
    ranges.into_iter().map(|r| range(r.start, r.end)).collect()
}

pub(super) fn ranges_to_proto(ranges: &[Range<u64>]) -> Vec<ByteRange> {
    ranges.iter().map(|r| ByteRange { start: r.start, end: r.end }).collect()
}

pub(super) fn count(what: &'static str, found: usize, limit: u64) -> Result<()> {
    let found = found as u64;
    if found > limit { Err(WireError::TooLarge { what, found, limit }) } else { Ok(()) }
}

pub(super) fn text(text: String) -> Result<String> {
    WireError::check("a text", text.len() as u64, MAX_TEXT)?;
    Ok(text)
}

/// Absent, or of the one length that its algorithm has.
pub(super) fn exact<const N: usize>(bytes: &[u8], what: &'static str) -> Result<Option<[u8; N]>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes.try_into().map(Some).map_err(|_| WireError::Invalid(what))
}

pub(super) fn signature(bytes: &[u8], what: &'static str) -> Result<Option<Signature>> {
    Ok(exact(bytes, what)?.map(Signature))
}

/// Of a value that is absent, no bytes.
pub(super) fn bytes_of(value: Option<&impl AsRef<[u8]>>) -> bytes::Bytes {
    value.map_or_else(Default::default, |value| bytes::Bytes::copy_from_slice(value.as_ref()))
}

/// Generated accessors read an unknown value as the first one, which may mean success.
pub(super) fn known<T: TryFrom<i32>>(value: i32, what: &'static str) -> Result<T> {
    value.try_into().map_err(|_| WireError::Invalid(what))
}
