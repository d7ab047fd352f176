//! Repairs on the wire.

use bytes::Bytes;
use kwik::PathId;

use crate::{
    limits::{MAX_BLAMED, MAX_EXCLUDED, MAX_OBJECT},
    wire,
};

use super::{Blame, InvalidMessage, Repair, check_root, root_bytes};

impl Repair {
    pub(super) fn to_wire(&self) -> wire::Repair {
        let blamed = self.blamed.iter().take(MAX_BLAMED).map(|blame| wire::Blame {
            path_id: blame.path.0,
            start: blame.range.start,
            end: blame.range.end,
            expected: Bytes::copy_from_slice(&blame.expected),
            received: blame.received.map(|hash| Bytes::copy_from_slice(&hash)).unwrap_or_default(),
        });
        wire::Repair {
            root: root_bytes(&self.root),
            start: self.range.start,
            end: self.range.end,
            excluded: self.excluded.iter().take(MAX_EXCLUDED).map(|path| path.0).collect(),
            blamed: blamed.collect(),
        }
    }

    /// Whether the ranges lie in the object is for the server to see.
    pub(super) fn from_wire(message: wire::Repair) -> Result<Self, InvalidMessage> {
        let within = message.excluded.len() <= MAX_EXCLUDED && message.blamed.len() <= MAX_BLAMED;
        if !within || message.start > message.end || message.end > MAX_OBJECT {
            return Err(InvalidMessage::Malformed);
        }
        let blamed = message.blamed.into_iter().map(|blame| {
            let hash = |hash: &Bytes| hash[..].try_into().map_err(|_| InvalidMessage::Malformed);
            let received =
                if blame.received.is_empty() { None } else { Some(hash(&blame.received)?) };
            if blame.start >= blame.end || blame.end > MAX_OBJECT {
                return Err(InvalidMessage::Malformed);
            }
            let (path, range) = (PathId(blame.path_id), blame.start..blame.end);
            Ok(Blame { path, range, expected: hash(&blame.expected)?, received })
        });
        Ok(Self {
            root: check_root(&message.root)?,
            range: message.start..message.end,
            excluded: message.excluded.into_iter().map(PathId).collect(),
            blamed: blamed.collect::<Result<_, _>>()?,
        })
    }
}
