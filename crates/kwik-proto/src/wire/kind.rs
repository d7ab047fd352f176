//! The varint that every unidirectional QUIC stream of KWIK begins with.

use super::{WireError, varint::VarintReader};
use bytes::{Bytes, BytesMut};
use prost::encoding::encode_varint;

/// What a unidirectional QUIC stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Length-delimited data packets: [`data`](super::data).
    Data,
    /// Length-delimited raw packets: [`raw`](super::raw).
    Raw,
    /// An explicitly mapped secondary stream: [`secondary`](super::secondary).
    Secondary,
    /// A kind of a later version: to be stopped, or read and dropped.
    Unknown(u64),
}

impl StreamKind {
    /// Its number on the wire.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        match self {
            Self::Data => 0,
            Self::Raw => 1,
            Self::Secondary => 2,
            Self::Unknown(kind) => kind,
        }
    }

    /// From its number on the wire.
    #[must_use]
    pub const fn from_u64(kind: u64) -> Self {
        match kind {
            0 => Self::Data,
            1 => Self::Raw,
            2 => Self::Secondary,
            _ => Self::Unknown(kind),
        }
    }

    /// Appends the first bytes of a stream of this kind.
    pub fn encode(self, out: &mut BytesMut) {
        encode_varint(self.as_u64(), out);
    }
}

/// Reads the kind of a stream; what follows in the chunk belongs to that kind's decoder.
#[derive(Debug, Default)]
pub struct KindDecoder {
    varint: VarintReader,
}

impl KindDecoder {
    /// Before the first byte of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the kind from the front of `input`; `None` when all of it was taken and more is due.
    ///
    /// # Errors
    /// When the first bytes are no varint.
    pub fn poll(&mut self, input: &mut Bytes) -> Result<Option<StreamKind>, WireError> {
        Ok(self.varint.read(input)?.map(StreamKind::from_u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_round_trip_byte_by_byte() {
        for number in [0, 1, 2, 3, 300, u64::MAX] {
            let kind = StreamKind::from_u64(number);
            let mut out = BytesMut::new();
            kind.encode(&mut out);
            out.extend_from_slice(b"rest");
            let mut decoder = KindDecoder::new();
            let mut input = out.freeze();
            let found = loop {
                let mut byte = input.split_to(1);
                if let Some(kind) = decoder.poll(&mut byte).unwrap() {
                    break kind;
                }
            };
            assert_eq!((found, &input[..]), (kind, &b"rest"[..]));
        }
    }
}
