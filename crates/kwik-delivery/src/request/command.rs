//! What a primary tells an edge.

use blake3::Hash;
use bytes::Bytes;
use prost::Message;

use super::{
    Attributes, InvalidMessage, check_root, check_size, check_version, name_bytes, pack::names_of,
    root_bytes,
};
use crate::{
    ObjectName,
    limits::{DELIVERY_VERSION, MAX_MESSAGE, MAX_PACK_SIZE},
    wire,
};

/// The command in a lease: which object an edge sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeCommand {
    /// Which.
    pub name: ObjectName,
    /// Its size in bytes: an edge whose copy has another does not send it.
    pub size: u64,
    /// Its BLAKE3 hash.
    pub root: Hash,
    /// Where in the object the lease's stream begins.
    pub offset: u64,
    /// What the primary knows of it beside: an edge whose copy has another time looks whether it
    /// is the same.
    pub attributes: Attributes,
    /// The objects that the stream has, when that is a [`Pack`](super::Pack): size and hash are of
    /// all their bytes, and the name is that of the first.
    pub pack: Vec<ObjectName>,
}

impl EdgeCommand {
    /// Without a length prefix: a lease's command has its own.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let message = wire::EdgeCommand {
            name: name_bytes(&self.name),
            size: self.size,
            root: root_bytes(&self.root),
            version: DELIVERY_VERSION,
            offset: self.offset,
            attributes: self.attributes.to_wire(),
            pack: self.pack.iter().map(name_bytes).collect(),
        };
        message.encode_to_vec().into()
    }

    /// From the whole command.
    ///
    /// # Errors
    /// When it is too long, malformed or of another version.
    pub fn decode(command: &[u8]) -> Result<Self, InvalidMessage> {
        if command.len() > MAX_MESSAGE {
            return Err(InvalidMessage::TooLong);
        }
        let message = wire::EdgeCommand::decode(command).map_err(|_| InvalidMessage::Malformed)?;
        check_version(message.version)?;
        let (name, root) = (ObjectName::new(&message.name)?, check_root(&message.root)?);
        let (size, offset) = (check_size(message.size)?, message.offset);
        if offset > size {
            return Err(InvalidMessage::Malformed);
        }
        let attributes = Attributes::from_wire(message.attributes);
        let pack = match &message.pack[..] {
            [] => Vec::new(),
            _ if size > MAX_PACK_SIZE => return Err(InvalidMessage::Malformed),
            names => names_of(names)?,
        };
        Ok(Self { name, size, root, offset, attributes, pack })
    }
}
