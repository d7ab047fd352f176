//! Several small objects at once, as they are asked for and told.

use blake3::Hash;
use bytes::Bytes;

use super::{Attributes, InvalidMessage, check_root, frame, name_bytes, root_bytes};
use crate::{
    ObjectName,
    limits::{DELIVERY_VERSION, MAX_INLINE, MAX_PACK, MAX_PACK_NAMES, MAX_PACK_SIZE},
    wire,
};

/// Client to primary: these small objects, one behind the other on one stream. Up to [`MAX_PACK`],
/// with names of [`MAX_PACK_NAMES`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Which.
    pub names: Vec<ObjectName>,
}

/// Primary to client: what of a [`Pack`] comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed {
    /// Of each name, in their order; none of those that are to be asked for alone.
    pub files: Vec<Option<PackedFile>>,
    /// The logical stream that carries their bytes, where they have some; at most
    /// [`MAX_PACK_SIZE`].
    pub stream_id: u64,
}

/// An object in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedFile {
    /// Its bytes, at most [`MAX_INLINE`].
    pub size: u64,
    /// Its BLAKE3 hash.
    pub root: Hash,
    /// What else is known of it.
    pub attributes: Attributes,
}

impl Pack {
    /// With its length prefix.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let names = self.names.iter().map(name_bytes).collect();
        let part = Some(wire::request::Part::Pack(wire::Pack { names }));
        frame(&wire::Request { name: Bytes::new(), version: DELIVERY_VERSION, part })
    }

    pub(super) fn from_wire(message: &wire::Pack) -> Result<Self, InvalidMessage> {
        Ok(Self { names: names_of(&message.names)? })
    }
}

/// As many names as a pack may have; at least one.
pub(super) fn names_of(names: &[Bytes]) -> Result<Vec<ObjectName>, InvalidMessage> {
    let bytes = names.iter().map(Bytes::len).sum::<usize>();
    if names.is_empty() || names.len() > MAX_PACK || bytes > MAX_PACK_NAMES {
        return Err(InvalidMessage::Malformed);
    }
    names.iter().map(|name| Ok(ObjectName::new(name)?)).collect()
}

impl Packed {
    pub(super) fn to_wire(&self) -> wire::Packed {
        let file = |file: &Option<PackedFile>| match file {
            Some(PackedFile { size, root, attributes }) => wire::PackedFile {
                size: *size,
                root: root_bytes(root),
                attributes: attributes.to_wire(),
            },
            None => wire::PackedFile::default(),
        };
        wire::Packed { files: self.files.iter().map(file).collect(), stream_id: self.stream_id }
    }

    pub(super) fn from_wire(message: wire::Packed) -> Result<Self, InvalidMessage> {
        let wire::Packed { files, stream_id } = message;
        if files.len() > MAX_PACK {
            return Err(InvalidMessage::Malformed);
        }
        let file = |file: wire::PackedFile| {
            if file.root.is_empty() {
                return Ok(None);
            }
            if file.size > MAX_INLINE {
                return Err(InvalidMessage::Malformed);
            }
            let attributes = Attributes::from_wire(file.attributes);
            Ok(Some(PackedFile { size: file.size, root: check_root(&file.root)?, attributes }))
        };
        let files = files.into_iter().map(file).collect::<Result<_, _>>()?;
        let this = Self { files, stream_id };
        if this.size() > MAX_PACK_SIZE { Err(InvalidMessage::Malformed) } else { Ok(this) }
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.files.iter().flatten().map(|file| file.size).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use bytes::BytesMut;

    use super::*;
    use crate::{Call, Response};

    fn pack(count: usize, length: usize) -> Pack {
        let names = (0..count).map(|number| format!("{number:0length$}"));
        Pack { names: names.map(|name| ObjectName::new(name).unwrap()).collect() }
    }

    #[test]
    fn a_pack_comes_as_it_was_sent_and_is_bounded() {
        let decode = |pack: &Pack| Call::decode(&mut BytesMut::from(pack.encode())).ok().flatten();
        for (count, length) in
            [(1, 1), (MAX_PACK, 2), (8, 1024), (MAX_PACK, MAX_PACK_NAMES / MAX_PACK)]
        {
            let sent = pack(count, length);
            assert_eq!(decode(&sent), Some(Call::Pack(sent.clone())), "{count} {length}");
        }
        for (count, length) in [(0, 1), (MAX_PACK + 1, 2), (9, 1024)] {
            assert_eq!(decode(&pack(count, length)), None, "{count} {length}");
        }
    }

    #[test]
    fn what_comes_of_it_is_bounded() {
        let decode = |packed: &Packed| {
            let encoded = Response::Packed(packed.clone()).encode();
            Response::decode(&mut BytesMut::from(encoded)).ok().flatten()
        };
        let file = |size| {
            let attributes = Attributes { modified: Some(UNIX_EPOCH), mode: Some(0o640) };
            Some(PackedFile { size, root: blake3::hash(b"x"), attributes })
        };
        let most = vec![file(MAX_PACK_SIZE / MAX_PACK as u64); MAX_PACK];
        for files in [vec![], vec![None, file(0), file(MAX_INLINE)], most] {
            let sent = Packed { files, stream_id: 7 };
            assert_eq!(decode(&sent), Some(Response::Packed(sent.clone())));
        }
        let large = usize::try_from(MAX_PACK_SIZE / MAX_INLINE).unwrap() + 1;
        for files in
            [vec![file(MAX_INLINE + 1)], vec![file(MAX_INLINE); large], vec![None; MAX_PACK + 1]]
        {
            assert_eq!(decode(&Packed { files, stream_id: 0 }), None);
        }
    }
}
