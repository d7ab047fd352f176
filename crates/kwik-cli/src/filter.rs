//! What of a folder is wanted.

use kwik_delivery::ObjectName;

/// `--include` and `--exclude`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filter<'a> {
    include: &'a [String],
    exclude: &'a [String],
}

impl<'a> Filter<'a> {
    pub(crate) const fn new(include: &'a [String], exclude: &'a [String]) -> Self {
        Self { include, exclude }
    }

    /// Whether a file of this name, from the folder on, is wanted, as far as its own name says.
    pub(crate) fn wants(&self, name: &ObjectName) -> bool {
        let included = self.include.is_empty()
            || self.include.iter().any(|pattern| matches(pattern, name, false));
        included && !self.exclude.iter().any(|pattern| matches(pattern, name, false))
    }

    /// Whether nothing of a folder is wanted.
    pub(crate) fn excludes_folder(&self, name: &ObjectName) -> bool {
        self.exclude.iter().any(|pattern| matches(pattern, name, true))
    }

    /// Whether folders are wanted that have no file which is.
    pub(crate) const fn wants_folders(&self) -> bool {
        self.include.is_empty()
    }
}

/// A pattern with a `/` within is one of the whole name, another one of its last part; one with a
/// `/` at its end is one of folders.
fn matches(pattern: &str, name: &ObjectName, is_folder: bool) -> bool {
    let pattern = match pattern.strip_suffix('/') {
        Some(_) if !is_folder => return false,
        Some(pattern) => pattern,
        None => pattern,
    };
    match pattern.strip_prefix('/') {
        Some(pattern) => fast_glob::glob_match(pattern, name.as_bytes()),
        None if pattern.contains('/') => fast_glob::glob_match(pattern, name.as_bytes()),
        None => fast_glob::glob_match(pattern, name.file_name().as_encoded_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusion_wins_and_patterns_say_what_they_are_of() {
        let (include, exclude) =
            (["*.jpg".into(), "a/b/**".into()], ["x*".into(), "/t.jpg".into()]);
        let filter = Filter::new(&include, &exclude);
        let wants = |name: &str| filter.wants(&ObjectName::new(name).unwrap());
        assert!(wants("a.jpg") && wants("c/d.jpg") && wants("a/b/c/d") && wants("c/t.jpg"));
        assert!(!wants("a.png") && !wants("c/x.jpg") && !wants("t.jpg") && !wants("a/b"));
        let exclude = ["tmp/".into(), "a/*/c".into()];
        let filter = Filter::new(&[], &exclude);
        let folder = |name: &str| filter.excludes_folder(&ObjectName::new(name).unwrap());
        assert!(folder("tmp") && folder("x/tmp") && folder("a/b/c") && !folder("a/c"));
        assert!(filter.wants(&ObjectName::new("tmp").unwrap()));
    }
}
