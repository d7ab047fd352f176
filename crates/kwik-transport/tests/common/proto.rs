//! Protobuf by hand, for what no KWIK encodes: field by field as `proto/*.proto` numbers them.

use bytes::Bytes;
use prost::encoding::{WireType, encode_key, encode_varint};

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// A message of these fields, in this order.
pub fn message(fields: &[(u32, Field<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, field) in fields {
        match field {
            Field::Number(value) => {
                encode_key(*number, WireType::Varint, &mut out);
                encode_varint(*value, &mut out);
            }
            Field::Bytes(bytes) => {
                encode_key(*number, WireType::LengthDelimited, &mut out);
                encode_varint(bytes.len() as u64, &mut out);
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

/// See `proto/data.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DataFrame {
    #[prost(uint64, tag = "2")]
    pub logical_stream_id: u64,
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    #[prost(bool, tag = "5")]
    pub fin: bool,
    #[prost(string, tag = "7")]
    pub path_id: String,
    #[prost(uint32, tag = "16")]
    pub flags: u32,
    #[prost(uint32, tag = "17")]
    pub uncompressed_length: u32,
}

/// See `proto/data.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DataPacket {
    #[prost(uint64, tag = "1")]
    pub packet_id: u64,
    #[prost(message, repeated, tag = "3")]
    pub frames: Vec<DataFrame>,
    #[prost(uint32, tag = "4")]
    pub checksum: u32,
}
