//! Messages of the delivery protocol (`proto/delivery.proto`), checked.

use std::ops::Range;

use blake3::Hash;
use bytes::{Buf, Bytes, BytesMut};
use kwik::PathId;
use prost::Message;

use crate::{
    InvalidName, ObjectName,
    limits::{
        DELIVERY_VERSION, GROUP_SIZE, HASH_SIZE, MAX_INLINE, MAX_MESSAGE, MAX_OBJECT, MAX_TEXT,
        PAGE_GROUPS,
    },
    tree, wire,
};

/// Client to primary: deliver this object, or a part of what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which object.
    pub name: ObjectName,
    /// What of it.
    pub part: Part,
}

/// What a [`Request`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// A page of its outboard.
    Page {
        /// Of which version.
        root: Hash,
        /// Which page.
        index: u64,
    },
    /// Some of it again.
    Repair(Repair),
    /// All of it, on the answer's own stream when it has at most so many bytes.
    Inline {
        /// At most [`MAX_INLINE`] count.
        most: u32,
    },
    /// Some of it.
    Range {
        /// Of which version; none for the one that is there.
        root: Option<Hash>,
        /// Whole groups, but for the object's end. When it is empty, only what the object is.
        range: Range<u64>,
    },
}

/// Groups that did not verify, from other servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Of which version.
    pub root: Hash,
    /// Which bytes; empty when nothing is asked for.
    pub range: Range<u64>,
    /// Paths that are not to bring them.
    pub excluded: Vec<PathId>,
    /// Paths that brought other bytes than the object's.
    pub blamed: Vec<Blame>,
}

/// A path brought other bytes than the object's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blame {
    /// Which path.
    pub path: PathId,
    /// The group.
    pub range: Range<u64>,
    /// What it should hash to.
    pub expected: [u8; HASH_SIZE],
    /// What it hashes to as it came; none when others brought some of it.
    pub received: Option<[u8; HASH_SIZE]>,
}

/// Primary to client: the answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response {
    /// The object is coming.
    Found(Found),
    /// It is not.
    Failed(Failure),
    /// A page of the outboard follows on the same stream.
    Page {
        /// Its bytes.
        size: u64,
    },
    /// The range of a [`Repair`] is coming.
    Again {
        /// The logical stream that carries it.
        stream_id: u64,
    },
    /// Some of what a [`List`] asked for.
    Listed(Listed),
    /// What the server says of itself.
    About(About),
    /// What of a [`Pack`] comes.
    Packed(Packed),
    /// What was told is known.
    Noted,
    /// The answer takes a while.
    Working {
        /// Bytes that were hashed.
        hashed: u64,
        /// Of how many.
        size: u64,
    },
}

/// An object that is coming. Of the outboard, as much as [`outboard_size`](Self::outboard_size)
/// says follows on the same stream: all when it is one page, else what stands above its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// As requested.
    pub name: ObjectName,
    /// Its size in bytes, at most [`MAX_OBJECT`].
    pub size: u64,
    /// Its BLAKE3 hash.
    pub root: Hash,
    /// The logical stream that carries its bytes, or the range of them that was asked for.
    pub stream_id: u64,
    /// Its bytes follow on the stream of the answer instead; at most [`MAX_INLINE`].
    pub inline: bool,
    /// What else is known of it.
    pub attributes: Attributes,
}

/// Why an object is not coming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub code: FailureCode,
    /// For people; at most [`MAX_TEXT`] bytes are sent.
    pub message: String,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailureCode {
    /// None of the others, or one that this build does not know.
    Other,
    /// There is no such object.
    NotFound,
    /// It cannot be read.
    Unreadable,
    /// It changed meanwhile: asking again may help.
    Changed,
    /// The server has too much to do: asking again later may help.
    Busy,
    /// The request is malformed or of another version.
    InvalidRequest,
    /// No path is left that may bring what is asked for.
    NoSource,
    /// What the client was let in with does not lead to it, or does no more.
    Forbidden,
    /// The server's objects cannot be listed.
    CannotList,
    /// The server begins nothing new, and ends before long.
    Ending,
}

impl Request {
    /// For all of an object.
    #[must_use]
    pub const fn whole(name: ObjectName) -> Self {
        Self { name, part: Part::Whole }
    }

    /// With its length prefix.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        use wire::request::Part as Wire;
        let part = match &self.part {
            Part::Whole => None,
            Part::Page { root, index } => {
                Some(Wire::Page(wire::OutboardPage { root: root_bytes(root), index: *index }))
            }
            Part::Repair(repair) => Some(Wire::Repair(repair.to_wire())),
            Part::Range { root, range } => Some(Wire::Range(wire::Range {
                root: root.as_ref().map(root_bytes).unwrap_or_default(),
                start: range.start,
                end: range.end,
            })),
            Part::Inline { most } => Some(Wire::Inline(wire::Inline { most: *most })),
        };
        frame(&wire::Request { name: name_bytes(&self.name), version: DELIVERY_VERSION, part })
    }

    /// Takes one from the front of `buffer`, or `None` until it is there whole.
    ///
    /// # Errors
    /// When it is too long, malformed or of another version, or asks for a listing.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, InvalidMessage> {
        match Call::decode(buffer)? {
            None => Ok(None),
            Some(Call::Object(request)) => Ok(Some(request)),
            Some(Call::List(_) | Call::About | Call::Pack(_)) => Err(InvalidMessage::Malformed),
        }
    }

    fn from_wire(message: wire::Request) -> Result<Self, InvalidMessage> {
        use wire::request::Part as Wire;
        let part = match message.part {
            None => Part::Whole,
            Some(Wire::Page(page)) => {
                Part::Page { root: check_root(&page.root)?, index: page.index }
            }
            Some(Wire::Repair(repair)) => Part::Repair(Repair::from_wire(repair)?),
            Some(Wire::Range(wire::Range { root, start, end })) => {
                // Whether it lies in the object is for the server to see.
                if start > end || end > MAX_OBJECT || !start.is_multiple_of(GROUP_SIZE) {
                    return Err(InvalidMessage::Malformed);
                }
                let root = if root.is_empty() { None } else { Some(check_root(&root)?) };
                Part::Range { root, range: start..end }
            }
            Some(Wire::Inline(inline)) => Part::Inline { most: inline.most },
            Some(Wire::List(_) | Wire::About(_) | Wire::Pack(_)) => {
                return Err(InvalidMessage::Malformed);
            }
        };
        Ok(Self { name: ObjectName::new(&message.name)?, part })
    }
}

impl Response {
    /// With its length prefix.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let outcome = match self {
            Self::Found(found) => wire::response::Outcome::Found(wire::Found {
                name: name_bytes(&found.name),
                size: found.size,
                root: root_bytes(&found.root),
                outboard_size: found.outboard_size(),
                stream_id: found.stream_id,
                inline: found.inline,
                attributes: found.attributes.to_wire(),
            }),
            Self::Listed(listed) => wire::response::Outcome::Listed(listed.to_wire()),
            Self::Failed(failure) => wire::response::Outcome::Failure(wire::Failure {
                code: failure.code.to_wire().into(),
                message: truncated(&failure.message).to_owned(),
            }),
            Self::Page { size } => wire::response::Outcome::Page(wire::Page { size: *size }),
            Self::Again { stream_id } => {
                wire::response::Outcome::Again(wire::Again { stream_id: *stream_id })
            }
            Self::About(about) => wire::response::Outcome::About(about.to_wire()),
            Self::Packed(packed) => wire::response::Outcome::Packed(packed.to_wire()),
            Self::Noted => wire::response::Outcome::Noted(wire::Noted {}),
            Self::Working { hashed, size } => {
                wire::response::Outcome::Working(wire::Working { hashed: *hashed, size: *size })
            }
        };
        frame(&wire::Response { outcome: Some(outcome) })
    }

    /// Takes one from the front of `buffer`, or `None` until it is there whole. What is left in
    /// `buffer` after [`Found`] is the outboard's beginning.
    ///
    /// # Errors
    /// When it is too long or malformed, or announces an outboard that does not follow from size.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, InvalidMessage> {
        let Some(message) = take_frame::<wire::Response>(buffer)? else {
            return Ok(None);
        };
        match message.outcome {
            Some(wire::response::Outcome::Found(found)) => {
                let size = check_size(found.size)?;
                if found.outboard_size != tree::first_size(size) {
                    return Err(InvalidMessage::OutboardSize);
                }
                let (name, root) = (ObjectName::new(&found.name)?, check_root(&found.root)?);
                let wire::Found { stream_id, inline, attributes, .. } = found;
                if inline && size > MAX_INLINE {
                    return Err(InvalidMessage::Malformed);
                }
                let attributes = Attributes::from_wire(attributes);
                Ok(Some(Self::Found(Found { name, size, root, stream_id, inline, attributes })))
            }
            Some(wire::response::Outcome::Failure(failure)) => {
                let code = FailureCode::from_wire(failure.code());
                let message = truncated(&failure.message).to_owned();
                Ok(Some(Self::Failed(Failure { code, message })))
            }
            Some(wire::response::Outcome::Page(wire::Page { size })) => {
                if size > PAGE_GROUPS * HASH_SIZE as u64 {
                    return Err(InvalidMessage::OutboardSize);
                }
                Ok(Some(Self::Page { size }))
            }
            Some(wire::response::Outcome::Again(again)) => {
                Ok(Some(Self::Again { stream_id: again.stream_id }))
            }
            Some(wire::response::Outcome::Listed(listed)) => {
                Ok(Some(Self::Listed(Listed::from_wire(listed)?)))
            }
            Some(wire::response::Outcome::About(about)) => {
                Ok(Some(Self::About(About::from_wire(&about)?)))
            }
            Some(wire::response::Outcome::Packed(packed)) => {
                Ok(Some(Self::Packed(Packed::from_wire(packed)?)))
            }
            Some(wire::response::Outcome::Noted(_)) => Ok(Some(Self::Noted)),
            Some(wire::response::Outcome::Working(wire::Working { hashed, size })) => {
                Ok(Some(Self::Working { hashed, size }))
            }
            None => Err(InvalidMessage::Malformed),
        }
    }
}

impl Found {
    /// One that comes on the stream `stream_id`, of which no more is known.
    #[must_use]
    pub const fn new(name: ObjectName, size: u64, root: Hash, stream_id: u64) -> Self {
        let attributes = Attributes { modified: None, mode: None };
        Self { name, size, root, stream_id, inline: false, attributes }
    }

    /// Bytes that follow of the outboard, at most a page; they follow from the size.
    #[must_use]
    pub const fn outboard_size(&self) -> u64 {
        tree::first_size(self.size)
    }
}

impl FailureCode {
    const fn to_wire(self) -> wire::FailureCode {
        match self {
            Self::Other => wire::FailureCode::Other,
            Self::NotFound => wire::FailureCode::NotFound,
            Self::Unreadable => wire::FailureCode::Unreadable,
            Self::Changed => wire::FailureCode::Changed,
            Self::Busy => wire::FailureCode::Busy,
            Self::InvalidRequest => wire::FailureCode::InvalidRequest,
            Self::NoSource => wire::FailureCode::NoSource,
            Self::Forbidden => wire::FailureCode::Forbidden,
            Self::CannotList => wire::FailureCode::CannotList,
            Self::Ending => wire::FailureCode::Ending,
        }
    }

    const fn from_wire(code: wire::FailureCode) -> Self {
        match code {
            wire::FailureCode::Other => Self::Other,
            wire::FailureCode::NotFound => Self::NotFound,
            wire::FailureCode::Unreadable => Self::Unreadable,
            wire::FailureCode::Changed => Self::Changed,
            wire::FailureCode::Busy => Self::Busy,
            wire::FailureCode::InvalidRequest => Self::InvalidRequest,
            wire::FailureCode::NoSource => Self::NoSource,
            wire::FailureCode::Forbidden => Self::Forbidden,
            wire::FailureCode::CannotList => Self::CannotList,
            wire::FailureCode::Ending => Self::Ending,
        }
    }
}

/// What a client is told: nothing of the server's own paths.
impl FailureCode {
    /// Whether the operator of the server has to do something about it.
    pub(crate) const fn is_own_fault(self) -> bool {
        matches!(self, Self::Unreadable | Self::Changed | Self::Busy | Self::Other)
    }
}

impl From<&InvalidMessage> for Failure {
    fn from(error: &InvalidMessage) -> Self {
        Self { code: FailureCode::InvalidRequest, message: error.to_string() }
    }
}

fn frame(message: &impl Message) -> Bytes {
    message.encode_length_delimited_to_vec().into()
}

/// Takes a length-delimited message from the front of `buffer` once it is whole.
fn take_frame<M: Message + Default>(buffer: &mut BytesMut) -> Result<Option<M>, InvalidMessage> {
    // Seven bits a byte, lowest first; three bytes hold MAX_MESSAGE.
    let mut length = 0;
    for (index, &byte) in buffer.iter().enumerate() {
        if index == 3 {
            return Err(InvalidMessage::TooLong);
        }
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 != 0 {
            continue;
        }
        if length > MAX_MESSAGE {
            return Err(InvalidMessage::TooLong);
        }
        if buffer.len() - index - 1 < length {
            return Ok(None);
        }
        buffer.advance(index + 1);
        let message = M::decode(buffer.split_to(length));
        return message.map(Some).map_err(|_| InvalidMessage::Malformed);
    }
    Ok(None)
}

pub(crate) fn name_bytes(name: &ObjectName) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(crate) fn root_bytes(root: &Hash) -> Bytes {
    Bytes::copy_from_slice(root.as_bytes())
}

pub(crate) fn check_root(root: &[u8]) -> Result<Hash, InvalidMessage> {
    Hash::from_slice(root).map_err(|_| InvalidMessage::Malformed)
}

const fn check_version(version: u32) -> Result<(), InvalidMessage> {
    if version == DELIVERY_VERSION { Ok(()) } else { Err(InvalidMessage::Version { version }) }
}

const fn check_size(size: u64) -> Result<u64, InvalidMessage> {
    if size <= MAX_OBJECT { Ok(size) } else { Err(InvalidMessage::TooLarge { size }) }
}

/// At most [`MAX_TEXT`] bytes of `text`, cut between characters.
fn truncated(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a delivery message has at most {MAX_MESSAGE} bytes")]
    TooLong,
    /// Not the message that was expected.
    #[error("malformed delivery message")]
    Malformed,
    /// Another version of the protocol.
    #[error("delivery version {version} is not {DELIVERY_VERSION}: update the older side")]
    Version {
        /// The peer's.
        version: u32,
    },
    /// An object larger than [`MAX_OBJECT`].
    #[error("an object of {size} bytes is larger than 1 TiB")]
    TooLarge {
        /// Its announced size.
        size: u64,
    },
    /// An outboard whose size does not follow from the object's.
    #[error("the announced outboard does not fit the object's size")]
    OutboardSize,
    /// A name that is not allowed.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

mod about;
mod command;
mod list;
mod pack;
mod repair;

pub use about::About;
pub use command::EdgeCommand;
pub(crate) use list::entry_size;
pub use list::{Attributes, Call, Entry, EntryKind, List, Listed, in_order};
pub use pack::{Pack, Packed, PackedFile};

#[cfg(test)]
mod tests;
