//! Names of objects.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::limits::MAX_NAME;

/// The name of an object: a relative path with `/` between its segments, which leads nowhere but
/// into the folder it is joined to. At most [`MAX_NAME`] bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Box<str>);

impl ObjectName {
    /// Checks `name`.
    ///
    /// # Errors
    /// Says which rule `name` breaks.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(InvalidName::TooLong { length: name.len() });
        }
        if name.starts_with('/') {
            return Err(InvalidName::Absolute);
        }
        // `:` leads to other drives and streams there.
        let separator = |c: char| c == '\\' || cfg!(windows) && c == ':';
        if let Some(found) = name.chars().find(|&c| separator(c) || c.is_control()) {
            return Err(InvalidName::Character { found });
        }
        for segment in name.split('/') {
            match segment {
                "" => return Err(InvalidName::EmptySegment),
                "." | ".." => return Err(InvalidName::DotSegment),
                _ => {}
            }
        }
        Ok(Self(name.into()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last segment: the name of a file to save it under.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, last)| last)
    }

    /// Its place under `folder`, symbolic links aside.
    #[must_use]
    pub fn under(&self, folder: &Path) -> PathBuf {
        let mut path = folder.to_path_buf();
        path.extend(self.0.split('/'));
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
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
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
    /// A backslash or a control character.
    #[error("an object's name cannot contain {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
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
            ("a\\..\\b", Character { found: '\\' }),
            ("a\0b", Character { found: '\0' }),
            ("a\u{9b}b", Character { found: '\u{9b}' }),
        ] {
            assert_eq!(ObjectName::new(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn usual_names_are_fine() {
        for name in ["a", "a/b/c.iso", "...", "..a", "a b/ü#1%?", &"x".repeat(MAX_NAME)] {
            assert_eq!(ObjectName::new(name).unwrap().as_str(), name);
        }
        assert_eq!(ObjectName::new("a/b/c.iso").unwrap().file_name(), "c.iso");
    }

    proptest! {
        #[test]
        fn accepted_names_stay_inside_their_folder(
            name in prop_oneof![any::<String>(), "[a./\\\\\0:]{0,12}", "(\\.{0,3}/?a?){0,6}"]
        ) {
            let Ok(name) = ObjectName::new(&name) else { return Ok(()) };
            let path = name.under(Path::new("/srv/files"));
            let rest = path.strip_prefix("/srv/files").unwrap();
            prop_assert!(rest.components().all(|part| matches!(part, Component::Normal(_))));
            prop_assert_eq!(rest.components().count(), name.as_str().split('/').count());
            prop_assert_eq!(rest.to_str(), Some(name.as_str()));
        }
    }
}
