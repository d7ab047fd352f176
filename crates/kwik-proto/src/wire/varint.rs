//! Protobuf varints, read from chunks that may end anywhere.

use super::WireError;
use bytes::{Buf, Bytes};

/// A varint of which a part may have been read.
#[derive(Debug, Default)]
pub(super) struct VarintReader {
    value: u64,
    bytes: u32,
}

impl VarintReader {
    /// Takes a varint from the front of `input`, or all of `input` when it ends inside the varint.
    #[inline]
    pub(super) fn read(&mut self, input: &mut Bytes) -> Result<Option<u64>, WireError> {
        for (index, &byte) in input.iter().enumerate() {
            // The tenth byte holds the 64th bit alone.
            if self.bytes == 9 && byte > 1 {
                return Err(WireError::Varint);
            }
            self.value |= u64::from(byte & 0x7f) << (7 * self.bytes);
            self.bytes += 1;
            if byte < 0x80 {
                input.advance(index + 1);
                return Ok(Some(std::mem::take(self).value));
            }
        }
        input.clear();
        Ok(None)
    }

    /// Whether no varint is begun.
    pub(super) const fn is_idle(&self) -> bool {
        self.bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_prost_writes(value: u64, split in 0usize..10) {
            let mut encoded = Vec::new();
            prost::encoding::encode_varint(value, &mut encoded);
            let encoded = Bytes::from(encoded);
            let mut reader = VarintReader::default();
            let mut first = encoded.slice(..split.min(encoded.len() - 1));
            prop_assert_eq!(reader.read(&mut first), Ok(None));
            let mut rest = encoded.slice(split.min(encoded.len() - 1)..);
            prop_assert_eq!(reader.read(&mut rest), Ok(Some(value)));
            prop_assert!(reader.is_idle() && rest.is_empty());
        }
    }

    #[test]
    fn refuses_more_than_64_bits() {
        for bytes in [&[0xff; 11][..], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2]] {
            let mut input = Bytes::copy_from_slice(bytes);
            assert_eq!(VarintReader::default().read(&mut input), Err(WireError::Varint));
        }
    }
}
