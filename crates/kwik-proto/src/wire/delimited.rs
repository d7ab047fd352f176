//! Messages behind a varint length, assembled whole; for all that is not bulk data.

use super::{WireError, varint::VarintReader};
use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::encode_varint;

/// Cuts a stream into messages of at most `limit` bytes. Holds one chunk and one partial message.
#[derive(Debug)]
pub(super) struct DelimitedReader {
    limit: usize,
    input: Bytes,
    prefix: VarintReader,
    /// Length of the message that is being assembled.
    length: Option<usize>,
    partial: BytesMut,
    failed: Option<WireError>,
}

impl DelimitedReader {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            input: Bytes::new(),
            prefix: VarintReader::default(),
            length: None,
            partial: BytesMut::new(),
            failed: None,
        }
    }

    pub(super) fn handle_input(&mut self, input: Bytes) {
        if self.failed.is_none() {
            assert!(self.input.is_empty(), "poll until None before the next input");
            self.input = input;
        }
    }

    /// The next message as `decode` reads it; an error of either repeats ever after.
    pub(super) fn poll<T>(
        &mut self,
        decode: impl FnOnce(Bytes) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.assemble().and_then(|message| message.map(decode).transpose());
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.input.clear();
            self.partial = BytesMut::new();
        }
        result
    }

    /// Whether the stream may end here.
    pub(super) fn handle_fin(&self) -> Result<(), WireError> {
        let idle = self.length.is_none() && self.prefix.is_idle() && self.input.is_empty();
        if idle { Ok(()) } else { Err(WireError::Truncated) }
    }

    fn assemble(&mut self) -> Result<Option<Bytes>, WireError> {
        let length = match self.length {
            Some(length) => length,
            None => match self.prefix.read(&mut self.input)? {
                Some(length) => self.begin(length)?,
                None => return Ok(None),
            },
        };
        let missing = length - self.partial.len();
        if self.input.len() < missing {
            self.partial.extend_from_slice(&self.input);
            self.input.clear();
            return Ok(None);
        }
        self.length = None;
        let rest = self.input.split_to(missing);
        if self.partial.is_empty() {
            return Ok(Some(rest));
        }
        self.partial.extend_from_slice(&rest);
        Ok(Some(self.partial.split().freeze()))
    }

    fn begin(&mut self, length: u64) -> Result<usize, WireError> {
        WireError::check("a message", length, self.limit)?;
        let length = usize::try_from(length).map_err(|_| WireError::Overrun)?;
        self.length = Some(length);
        Ok(length)
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.partial.capacity()
    }
}

/// Appends `message` behind its length.
pub(super) fn encode(message: &impl Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(length + 10);
    encode_varint(length as u64, out);
    // `encode_raw` cannot fail: `BytesMut` grows.
    message.encode_raw(out);
}

/// A field that no message has, set to 0: every decoder skips it.
const PADDING: &[u8] = &[0xc0, 0x3e, 0x00];

/// `message` as the payload of a frame, never empty: an empty one is refused, because a frame
/// without type and payload would read as the type numbered 0. All-default messages (stream 0 is
/// one's first stream) are padded with field 1000.
pub(super) fn payload(message: &impl Message) -> Bytes {
    let encoded = message.encode_to_vec();
    if encoded.is_empty() { Bytes::from_static(PADDING) } else { encoded.into() }
}
