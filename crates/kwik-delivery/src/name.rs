//! Names of objects.

use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::limits::MAX_NAME;

/// The name of an object: a relative path with `/` between its segments, which leads nowhere but
/// into the folder it is joined to. Any bytes that a path of Unix may have, at most [`MAX_NAME`] of
/// them: most often UTF-8, but newlines, backslashes and what is no text are names, too. Shown, a
/// byte that is not UTF-8 is `\xff`, and all else as it is: whoever shows it escapes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Box<[u8]>);

impl ObjectName {
    /// Checks `name`.
    ///
    /// # Errors
    /// Says which rule `name` breaks.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, InvalidName> {
        let name = name.as_ref();
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(InvalidName::TooLong { length: name.len() });
        }
        if name.starts_with(b"/") {
            return Err(InvalidName::Absolute);
        }
        if name.contains(&0) {
            return Err(InvalidName::Null);
        }
        for segment in name.split(|byte| *byte == b'/') {
            match segment {
                b"" => return Err(InvalidName::EmptySegment),
                b"." | b".." => return Err(InvalidName::DotSegment),
                _ => {}
            }
        }
        Ok(Self(name.into()))
    }

    /// As it is.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text; none when it is not UTF-8.
    #[must_use]
    pub fn to_str(&self) -> Option<&str> {
        str::from_utf8(&self.0).ok()
    }

    /// Its segments.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/')
    }

    /// Its last segment: the name of a file to save it under.
    #[must_use]
    pub fn file_name(&self) -> &OsStr {
        OsStr::from_bytes(self.segments().next_back().unwrap_or(&self.0))
    }

    /// What of it lies below the folder `folder`; none when nothing does.
    #[must_use]
    pub fn within(&self, folder: &Self) -> Option<Self> {
        let rest = self.0.strip_prefix(folder.as_bytes())?.strip_prefix(b"/")?;
        Some(Self(rest.into()))
    }

    /// The folder that it lies in; none for one of the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let end = self.0.iter().rposition(|byte| *byte == b'/')?;
        Some(Self(self.0[..end].into()))
    }

    /// Its place under `folder`, symbolic links aside.
    #[must_use]
    pub fn under(&self, folder: &Path) -> PathBuf {
        let mut path = folder.to_path_buf();
        path.extend(self.segments().map(OsStr::from_bytes));
        path
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

/// Why a text names no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// It has no characters.
    #[error("an object's name cannot be empty")]
    Empty,
    /// It is longer than [`MAX_NAME`] bytes.
    #[error("an object's name has at most {MAX_NAME} bytes, not {length}")]
    TooLong {
        /// Its bytes.
        length: usize,
    },
    /// It starts with `/`.
    #[error("an object's name is relative: leave out the `/` at its start")]
    Absolute,
    /// It ends with `/` or has two in a row.
    #[error("an object's name has no empty segments: no `//`, no `/` at its end")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("an object's name has no `.` or `..` segments")]
    DotSegment,
    /// It has a byte that is 0, which no path has.
    #[error("an object's name has no null bytes")]
    Null,
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_rule_has_its_error() {
        use InvalidName::*;
        let long = "x".repeat(MAX_NAME + 1);
        for (name, error) in [
            ("", Empty),
            (&*long, TooLong { length: MAX_NAME + 1 }),
            ("/etc/passwd", Absolute),
            ("a//b", EmptySegment),
            ("a/", EmptySegment),
            (".", DotSegment),
            ("a/../b", DotSegment),
            ("a\0b", Null),
        ] {
            assert_eq!(ObjectName::new(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn usual_names_are_fine() {
        for name in ["a", "a/b/c.iso", "...", "..a", "a b/ü#1%?", &"x".repeat(MAX_NAME)] {
            assert_eq!(ObjectName::new(name).unwrap().to_str(), Some(name));
        }
        for (name, shown) in [
            (&b"a\\b"[..], r"a\b"),
            (b"a\nb/\x1b", "a\nb/\x1b"),
            (b"\xff\xfe/\xc3", r"\xff\xfe/\xc3"),
            (b"e\xcc\x81", "e\u{301}"),
        ] {
            let name = ObjectName::new(name).unwrap();
            assert_eq!(name.to_string(), shown);
            assert_eq!(ObjectName::new(name.as_bytes()).unwrap(), name);
        }
        assert_eq!(ObjectName::new("a/b/c.iso").unwrap().file_name(), "c.iso");
    }

    proptest! {
        #[test]
        fn accepted_names_stay_inside_their_folder(
            name in prop_oneof![
                any::<Vec<u8>>(),
                "[a./\\\\\0:]{0,12}".prop_map(String::into_bytes),
                "(\\.{0,3}/?a?){0,6}".prop_map(String::into_bytes),
            ]
        ) {
            let Ok(name) = ObjectName::new(&name) else { return Ok(()) };
            let path = name.under(Path::new("/srv/files"));
            let rest = path.strip_prefix("/srv/files").unwrap();
            prop_assert!(rest.components().all(|part| matches!(part, Component::Normal(_))));
            prop_assert_eq!(rest.components().count(), name.segments().count());
            prop_assert_eq!(rest.as_os_str().as_bytes(), name.as_bytes());
        }
    }
}
