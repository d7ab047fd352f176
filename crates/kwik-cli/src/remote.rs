//! What a link of `kwik get` and `kwik ls` may lead to: an object, a folder, or what matches a
//! pattern.

use std::str::FromStr;

use kwik_delivery::{Entry, ObjectName};

use crate::options::ObjectLink;

/// What is fetched.
#[derive(Debug, Clone)]
pub(crate) enum Remote {
    Object(ObjectLink),
    Several(Several),
}

/// A folder, or some of what is in it.
#[derive(Debug, Clone)]
pub(crate) struct Several {
    /// How to reach the server: as a link to an object, whose name counts for nothing.
    pub(crate) server: ObjectLink,
    /// The folder; none for all that is served.
    pub(crate) folder: Option<ObjectName>,
    pub(crate) what: What,
}

/// What of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// All of it.
    Folder,
    /// A name that may be a file's or a folder's.
    Either,
    /// What matches a pattern, in the way of `fast_glob`, from the folder on.
    Matching {
        pattern: Vec<u8>,
        /// Folders that match, with all that is in them; and no files.
        folders: bool,
    },
}

impl FromStr for Remote {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (server, path) = split(text);
        if path.is_some_and(|path| is_pattern(path) || path.is_empty() || path.ends_with('/')) {
            return Several::parse(server, path.unwrap_or_default()).map(Self::Several);
        }
        match text.parse() {
            Ok(link) => Ok(Self::Object(link)),
            // A server without a word of what is wanted of it.
            Err(error) if path.is_none() => match format!("{server}/x").parse::<ObjectLink>() {
                Ok(_) => Err(format!(
                    "the link names no object: kwik://FINGERPRINT@HOST:PORT/NAME, or {server}/ for \
                     all that is served"
                )),
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

/// For `kwik ls`: a link without `/` at its end may lead to a folder all the same.
impl FromStr for Several {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (server, path) = split(text);
        let path = path.unwrap_or_default();
        let mut this = Self::parse(server, path)?;
        if this.what == What::Folder && !path.is_empty() && !path.ends_with('/') {
            this.what = What::Either;
        }
        Ok(this)
    }
}

impl Several {
    fn parse(server: &str, path: &str) -> Result<Self, String> {
        let named = |path: &str| -> Result<ObjectLink, String> {
            format!("{server}/{path}").parse::<ObjectLink>()
        };
        if path == "/" || path.ends_with("//") {
            named(path)?;
        }
        let (path, folders) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, false),
        };
        let mut segments = path.split('/');
        let plain: Vec<_> = segments.by_ref().take_while(|part| !is_pattern(part)).collect();
        let begun = if plain.is_empty() { 0 } else { plain.join("/").len() + 1 };
        let rest = path.get(begun..).unwrap_or_default();
        let plain = plain.join("/");
        let server = named("x")?;
        let folder = if plain.is_empty() { None } else { Some(named(&plain)?.name) };
        if rest.is_empty() {
            return Ok(Self { server, folder, what: What::Folder });
        }
        let pattern = pattern(rest)?;
        Ok(Self { server, folder, what: What::Matching { pattern, folders } })
    }

    /// What stands before the name of an entry and is no part of where it goes.
    pub(crate) fn relative(&self, name: &ObjectName) -> Option<ObjectName> {
        match &self.folder {
            Some(folder) if folder == name => ObjectName::new(name.segments().next_back()?).ok(),
            Some(folder) => name.within(folder),
            None => Some(name.clone()),
        }
    }

    /// Whether an entry of this name, from the folder on, is meant.
    pub(crate) fn means(&self, relative: &ObjectName, entry: &Entry) -> bool {
        let What::Matching { pattern, folders } = &self.what else { return true };
        let is_folder = entry.size().is_none();
        if !folders {
            return !is_folder && fast_glob::glob_match(pattern, relative.as_bytes());
        }
        // What matches, or a folder above it does.
        let depth = pattern.iter().filter(|byte| **byte == b'/').count() + 1;
        let begin: Vec<_> = relative.segments().take(depth).collect();
        let is_below = relative.segments().count() > depth || is_folder;
        begin.len() == depth && is_below && fast_glob::glob_match(pattern, begin.join(&b'/'))
    }

    /// Whether all that is in folders within it has to be listed.
    pub(crate) fn is_deep(&self) -> bool {
        match &self.what {
            What::Folder => true,
            What::Either => false,
            What::Matching { pattern, folders } => *folders || pattern.contains(&b'/'),
        }
    }
}

/// The server's part of a link, and what stands behind the `/`.
fn split(text: &str) -> (&str, Option<&str>) {
    let Some(rest) = text.strip_prefix("kwik://") else { return (text, None) };
    match rest.find('/') {
        Some(place) => {
            let place = text.len() - rest.len() + place;
            (&text[..place], Some(&text[place + 1..]))
        }
        None => (text, None),
    }
}

/// Whether a part of a link stands for several names: encoded, these characters are a name's own.
fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// A link's pattern as the library reads it: what is encoded stands for itself.
fn pattern(path: &str) -> Result<Vec<u8>, String> {
    let wrong = || {
        "in a link each `%` is followed by two hexadecimal digits: a space is %20, `#` is %23"
            .into()
    };
    let mut pattern = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let (byte, plain) = match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()];
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else {
                    return Err(wrong());
                };
                (u8::try_from(high * 16 + low).unwrap_or_default(), true)
            }
            b' ' | b'#' => return Err(wrong()),
            // No patterns in links: they are names' own there as well.
            b'{' | b'}' | b'\\' => (byte, true),
            byte => (byte, false),
        };
        if plain && b"*?[]{}\\!".contains(&byte) {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    Ok(pattern)
}

#[cfg(test)]
mod tests {
    use kwik_delivery::{Attributes, EntryKind};

    use super::*;

    fn several(path: &str) -> Several {
        match format!("kwik://h:1{path}").parse() {
            Ok(Remote::Several(several)) => several,
            other => panic!("{path}: {other:?}"),
        }
    }

    fn folder(several: &Several) -> String {
        several.folder.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn a_link_is_an_object_a_folder_or_a_pattern() {
        for (path, name) in [("/", ""), ("/a/", "a"), ("/a/b%20c/", "a/b c")] {
            let several = several(path);
            assert_eq!((folder(&several), several.what), (name.into(), What::Folder));
        }
        for (path, name, pattern, folders) in [
            ("/*", "", "*", false),
            ("/a/b/*.j?g", "a/b", "*.j?g", false),
            ("/a/*/b/", "a", "*/b", true),
            ("/a/x%2A[ab]*", "a", r"x\*[ab]*", false),
        ] {
            let several = several(path);
            let what = What::Matching { pattern: pattern.into(), folders };
            assert_eq!((folder(&several), several.what), (name.into(), what), "{path}");
        }
        for path in ["/a", "/a/b", "/a%2A", "/a%3F"] {
            let remote = format!("kwik://h:1{path}").parse();
            assert!(matches!(remote, Ok(Remote::Object(_))), "{path}");
        }
        let wrong = |text: &str| text.parse::<Remote>().unwrap_err();
        assert!(wrong("kwik://h:1").contains("kwik://h:1/ for all"));
        assert!(wrong("kwik://h/").contains("port"));
        assert!(wrong("kwik://h:1//").contains("name"));
        assert!(wrong("kwik://h:1/../").contains(".."));
        assert!(wrong("kwik://h:1/*%2").contains("hexadecimal"));
        assert!(wrong("http://h:1/").contains("kwik://"));
        for (path, what) in [("", What::Folder), ("/", What::Folder), ("/a", What::Either)] {
            assert_eq!(format!("kwik://h:1{path}").parse::<Several>().unwrap().what, what);
        }
    }

    #[test]
    fn a_pattern_means_files_or_with_a_slash_folders() {
        let means = |path: &str, name: &str| {
            let several = several(path);
            let (name, kind) = match name.strip_suffix('/') {
                Some(name) => (name, EntryKind::Folder),
                None => (name, EntryKind::File { size: 1 }),
            };
            let name = ObjectName::new(name).unwrap();
            let relative = several.relative(&name).unwrap();
            several.means(&relative, &Entry { name, kind, attributes: Attributes::default() })
        };
        assert!(means("/*.jpg", "a.jpg") && !means("/*.jpg", "a.jpg/"));
        assert!(!means("/*.jpg", "a/b.jpg") && means("/a/*.jpg", "a/b.jpg"));
        assert!(means("/*/b.jpg", "a/b.jpg") && !means("/*/b.jpg", "a/c/b.jpg"));
        assert!(means("/**/b.jpg", "a/c/b.jpg") && means("/[ab]?", "ax"));
        assert!(means("/a*/", "ab/") && means("/a*/", "ab/c/d") && !means("/a*/", "ab"));
        assert!(means("/a/*/", "a/b/c") && !means("/a/*/", "a/b"));
        assert!(means("/%2A?", "*x") && !means("/%2A?", "xx") && means("/{*", "{x"));
    }
}
