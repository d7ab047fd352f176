//! What is in a folder, as it is asked for and told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};

use super::{
    InvalidMessage, Pack, Request, check_size, check_version, frame, name_bytes, take_frame,
};
use crate::{
    ObjectName,
    limits::{DELIVERY_VERSION, MAX_LISTED},
    wire,
};

/// Nanoseconds of a second.
const SECOND: u32 = 1_000_000_000;
/// The bits of a mode that say who may do what; no others are told or taken.
const PERMISSIONS: u32 = 0o777;

/// What a client asks of a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// An object, or what belongs to it.
    Object(Request),
    /// What is in a folder.
    List(List),
    /// Several small objects.
    Pack(Pack),
    /// What the server says of itself.
    About,
}

/// Client to primary: what is in a folder, in the order of [`in_order`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct List {
    /// Which; none for all that is served. When it is a file, that alone is listed.
    pub folder: Option<ObjectName>,
    /// With all that is in folders within it.
    pub recursive: bool,
    /// Only what follows this one.
    pub after: Option<ObjectName>,
}

/// Primary to client: some of what is in a folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listed {
    /// In order.
    pub entries: Vec<Entry>,
    /// None follow on this stream.
    pub last: bool,
    /// There are more, which another [`List`] may ask for.
    pub more: bool,
    /// Told at the end: how many things were met that cannot be fetched.
    pub left_out: u64,
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As a request names it.
    pub name: ObjectName,
    /// What it is.
    pub kind: EntryKind,
    /// What else is known of it.
    pub attributes: Attributes,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An object.
    File {
        /// Its bytes.
        size: u64,
    },
    /// A folder. What is in it follows where that was asked for.
    Folder,
    /// A folder that the server cannot read.
    Unreadable,
}

/// What a source knows of a file or a folder beside its bytes: no more than its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// When it was modified last.
    pub modified: Option<SystemTime>,
    /// Who may do what with it, as Unix has it: nine bits.
    pub mode: Option<u32>,
}

/// The order of entries: by segments, byte by byte, so that a folder stands before what is in it.
#[must_use]
pub fn in_order(one: &ObjectName, other: &ObjectName) -> std::cmp::Ordering {
    one.segments().cmp(other.segments())
}

impl Call {
    /// Takes one from the front of `buffer`, or `None` until it is there whole.
    ///
    /// # Errors
    /// When it is too long, malformed or of another version.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, InvalidMessage> {
        let Some(message) = take_frame::<wire::Request>(buffer)? else {
            return Ok(None);
        };
        check_version(message.version)?;
        Ok(Some(match message.part {
            Some(wire::request::Part::List(list)) => Self::List(List::from_wire(&list)?),
            Some(wire::request::Part::Pack(pack)) => Self::Pack(Pack::from_wire(&pack)?),
            Some(wire::request::Part::About(_)) => Self::About,
            _ => Self::Object(Request::from_wire(message)?),
        }))
    }
}

impl List {
    /// With its length prefix.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let optional = |name: &Option<ObjectName>| name.as_ref().map(name_bytes);
        let list = wire::List {
            folder: optional(&self.folder).unwrap_or_default(),
            recursive: self.recursive,
            after: optional(&self.after).unwrap_or_default(),
        };
        let part = Some(wire::request::Part::List(list));
        frame(&wire::Request { name: Bytes::new(), version: DELIVERY_VERSION, part })
    }

    fn from_wire(list: &wire::List) -> Result<Self, InvalidMessage> {
        let optional = |name: &Bytes| match name.is_empty() {
            true => Ok(None),
            false => ObjectName::new(name).map(Some),
        };
        let (folder, after) = (optional(&list.folder)?, optional(&list.after)?);
        if let (Some(folder), Some(after)) = (&folder, &after)
            && after.within(folder).is_none()
        {
            return Err(InvalidMessage::Malformed);
        }
        Ok(Self { folder, recursive: list.recursive, after })
    }
}

impl Listed {
    pub(super) fn to_wire(&self) -> wire::Listed {
        wire::Listed {
            entries: self.entries.iter().map(Entry::to_wire).collect(),
            last: self.last,
            more: self.more,
            left_out: self.left_out,
        }
    }

    pub(super) fn from_wire(listed: wire::Listed) -> Result<Self, InvalidMessage> {
        let wire::Listed { entries, last, more, left_out } = listed;
        if entries.len() > MAX_LISTED {
            return Err(InvalidMessage::Malformed);
        }
        let entries = entries.iter().map(Entry::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { entries, last, more, left_out })
    }
}

impl Entry {
    /// Its bytes; none for a folder.
    #[must_use]
    pub const fn size(&self) -> Option<u64> {
        match self.kind {
            EntryKind::File { size } => Some(size),
            EntryKind::Folder | EntryKind::Unreadable => None,
        }
    }

    fn to_wire(&self) -> wire::Entry {
        wire::Entry {
            name: name_bytes(&self.name),
            folder: self.size().is_none(),
            size: self.size().unwrap_or_default(),
            attributes: self.attributes.to_wire(),
            unreadable: self.kind == EntryKind::Unreadable,
        }
    }

    fn from_wire(entry: &wire::Entry) -> Result<Self, InvalidMessage> {
        let kind = match (entry.folder, entry.unreadable) {
            (true, true) => EntryKind::Unreadable,
            (true, false) => EntryKind::Folder,
            (false, false) => EntryKind::File { size: check_size(entry.size)? },
            (false, true) => return Err(InvalidMessage::Malformed),
        };
        let name = ObjectName::new(&entry.name)?;
        Ok(Self { name, kind, attributes: Attributes::from_wire(entry.attributes) })
    }
}

/// Bytes of an entry in a message, or a few more.
pub(crate) fn entry_size(entry: &Entry) -> usize {
    entry.name.as_bytes().len() + 48
}

impl Attributes {
    pub(super) fn to_wire(self) -> Option<wire::Attributes> {
        let (seconds, nanos) = match self.modified?.duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_secs()).ok()?, since.subsec_nanos()),
            // The nanoseconds count forwards.
            Err(before) => {
                let before = before.duration();
                let seconds = -i64::try_from(before.as_secs()).ok()?;
                match before.subsec_nanos() {
                    0 => (seconds, 0),
                    nanos => (seconds - 1, SECOND - nanos),
                }
            }
        };
        let mode = self.mode.map(|mode| mode & PERMISSIONS);
        Some(wire::Attributes { seconds, nanos, mode })
    }

    /// A time that this system cannot have counts as none.
    pub(super) fn from_wire(attributes: Option<wire::Attributes>) -> Self {
        let Some(wire::Attributes { seconds, nanos, mode }) = attributes else {
            return Self::default();
        };
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let modified = match seconds {
            0.. => UNIX_EPOCH.checked_add(whole),
            _ => UNIX_EPOCH.checked_sub(whole),
        };
        let nanos = Duration::from_nanos(u64::from(nanos.min(SECOND - 1)));
        let modified = modified.and_then(|modified| modified.checked_add(nanos));
        Self { modified, mode: mode.map(|mode| mode & PERMISSIONS) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::Response;

    fn name(bytes: &[u8]) -> ObjectName {
        ObjectName::new(bytes).unwrap()
    }

    #[test]
    fn a_folder_stands_before_what_is_in_it() {
        let mut names =
            ["a.b", "a/b", "a", "a/b/c", "a0", "a/a", "A"].map(|text| name(text.as_bytes()));
        names.sort_by(in_order);
        let sorted = ["A", "a", "a/a", "a/b", "a/b/c", "a.b", "a0"];
        assert_eq!(names.map(|name| name.to_string()), sorted);
    }

    #[test]
    fn what_is_asked_after_lies_within() {
        let list = |folder: &str, after: &str| {
            let folder = Some(name(folder.as_bytes()));
            let list = List { folder, recursive: true, after: Some(name(after.as_bytes())) };
            Call::decode(&mut BytesMut::from(list.encode())).map(|_| ())
        };
        assert!(list("a", "a/b").is_ok());
        for wrong in ["a", "ab", "b/a", "A/b"] {
            assert_eq!(list("a", wrong), Err(InvalidMessage::Malformed), "{wrong}");
        }
    }

    prop_compose! {
        fn entry()(
            segments in vec("[a-c\\\\\n]{1,3}", 1..4),
            size in proptest::option::of(0..1_u64 << 40),
            unreadable: bool,
            seconds in proptest::option::of(-5_000_000_000..5_000_000_000_i64),
            nanos in 0..SECOND,
            mode in proptest::option::of(0..=PERMISSIONS),
        ) -> Entry {
            let kind = match (size, unreadable) {
                (Some(size), _) => EntryKind::File { size },
                (None, true) => EntryKind::Unreadable,
                (None, false) => EntryKind::Folder,
            };
            let wire = seconds.map(|seconds| wire::Attributes { seconds, nanos, mode });
            let attributes = Attributes::from_wire(wire);
            Entry { name: name(segments.join("/").as_bytes()), kind, attributes }
        }
    }

    proptest! {
        #[test]
        fn lists_round_trip(entries in vec(entry(), 0..20), last: bool, more: bool, left_out: u64) {
            let listed = Response::Listed(Listed { entries, last, more, left_out });
            let mut sent = BytesMut::from(listed.encode());
            prop_assert_eq!(Response::decode(&mut sent).unwrap(), Some(listed));
        }

        #[test]
        fn any_time_is_taken_or_left(seconds: i64, nanos: u32, mode: u32) {
            let wire = wire::Attributes { seconds, nanos, mode: Some(mode) };
            let attributes = Attributes::from_wire(Some(wire));
            prop_assert!(attributes.mode.unwrap() <= PERMISSIONS);
            if attributes.modified.is_some() {
                let again = Attributes::from_wire(attributes.to_wire());
                prop_assert_eq!(again, attributes);
            }
        }
    }
}
