//! Raw packets on a path's raw stream, in order (6.1).

use super::WireError;
use super::control::RawPacketTransmission;
use super::convert::Convert;
use super::delimited::{self, DelimitedReader};
use crate::limits::{MAX_RAW_PACKET, MAX_TEXT};
use bytes::{Bytes, BytesMut};
use prost::Message;

/// A whole message: packet, signature, sequence and both texts.
const MAX_RAW_MESSAGE: usize = MAX_RAW_PACKET + 2 * MAX_TEXT + 128;

/// Appends `packet` behind its length.
pub fn encode_raw(packet: &RawPacketTransmission, out: &mut BytesMut) {
    let proto = packet.to_proto();
    debug_assert!(
        RawPacketTransmission::from_proto(proto.clone()).is_ok(),
        "refused by its receiver"
    );
    delimited::encode(&proto, out);
}

/// Decodes a raw stream. Holds at most one packet and one chunk.
#[derive(Debug)]
pub struct RawDecoder {
    reader: DelimitedReader,
}

impl Default for RawDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl RawDecoder {
    /// After the kind of the stream.
    #[must_use]
    pub fn new() -> Self {
        Self { reader: DelimitedReader::new(MAX_RAW_MESSAGE) }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Panics
    /// When [`poll`](Self::poll) has not returned `None` since the last input.
    pub fn handle_input(&mut self, input: Bytes) {
        self.reader.handle_input(input);
    }

    /// The next packet with its signature and sequence; `None` when more input is due.
    ///
    /// # Errors
    /// When a packet is oversized or malformed; repeats ever after.
    pub fn poll(&mut self) -> Result<Option<RawPacketTransmission>, WireError> {
        self.reader.poll(|message| {
            // From a slice: a queued packet is a right-sized copy, no pinned receive buffer.
            RawPacketTransmission::from_proto(Message::decode(&message[..])?)
        })
    }

    /// Call when the QUIC stream has ended.
    ///
    /// # Errors
    /// When it ended inside a packet.
    pub fn handle_fin(&self) -> Result<(), WireError> {
        self.reader.handle_fin()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{chunks, collect};
    use super::*;
    use crate::PathId;
    use crate::auth::Signature;
    use proptest::prelude::*;

    fn decode(input: &[u8], sizes: &[usize]) -> Result<Vec<RawPacketTransmission>, WireError> {
        let mut decoder = RawDecoder::new();
        let mut found = Vec::new();
        for chunk in chunks(input, sizes) {
            decoder.handle_input(chunk);
            found.extend(collect(|| decoder.poll())?);
            assert!(decoder.reader.buffered() <= 2 * MAX_RAW_MESSAGE);
        }
        decoder.handle_fin()?;
        Ok(found)
    }

    proptest! {
        #[test]
        fn packets_round_trip(
            packets in prop::collection::vec((any::<u64>(), 0usize..2000, any::<u32>()), 0..5),
            sizes in prop::collection::vec(1usize..300, 1..8),
        ) {
            let packets: Vec<_> = packets.into_iter().map(|(sequence, len, path)| {
                RawPacketTransmission {
                    data: vec![7; len].into(),
                    target_path_id: PathId(path),
                    sequence,
                    signature: Some(Signature([1; 64])),
                }
            }).collect();
            let mut out = BytesMut::new();
            packets.iter().for_each(|packet| encode_raw(packet, &mut out));
            prop_assert_eq!(decode(&out, &sizes), Ok(packets));
        }

        #[test]
        fn random_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            sizes in prop::collection::vec(1usize..30, 1..8),
        ) {
            drop(decode(&bytes, &sizes));
        }
    }

    #[test]
    fn an_oversized_packet_is_refused_from_its_prefix() {
        let mut out = BytesMut::new();
        prost::encoding::encode_varint(MAX_RAW_MESSAGE as u64 + 1, &mut out);
        assert!(matches!(decode(&out, &[1]), Err(WireError::TooLarge { .. })));
        let packet = RawPacketTransmission {
            data: vec![0; MAX_RAW_PACKET + 1].into(),
            ..Default::default()
        };
        let encoded = packet.to_proto().encode_length_delimited_to_vec();
        let found = MAX_RAW_PACKET as u64 + 1;
        assert_eq!(decode(&encoded, &[1000]), Err(WireError::RawTooLarge { found }));
    }

    #[test]
    fn a_truncated_packet_is_refused() {
        assert_eq!(decode(&[5, 10], &[1]), Err(WireError::Truncated));
    }
}
