//! Where a download goes, and how it is written there: the one place that decides that.

use std::{
    fmt, fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use kwik_delivery::{ObjectName, Output, PartFile, Place};
use rustix::fs::{Access, access};

use crate::failure::{Failure, Kind};

mod in_order;

pub(crate) use in_order::stdout;

/// Links that lead to one another, at most: as the system does.
const MAX_LINKS: usize = 40;

/// What people said of a target.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish<'a> {
    /// A file, a folder, or `-`.
    pub(crate) output: Option<&'a Path>,
    /// The folder for what has no other name.
    pub(crate) folder: Option<&'a Path>,
    /// Replace what is there, whoever chose its name, and also when it is write-protected.
    pub(crate) force: bool,
    /// Replace nothing.
    pub(crate) no_clobber: bool,
}

/// How a file is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// What an earlier get left is taken over, and what this one has left for a later one.
    pub(crate) resume: bool,
    /// Zeros become holes.
    pub(crate) sparse: bool,
    /// Files have the modes that they have at the server.
    pub(crate) modes: bool,
    /// Where bytes are collected for a file whose own folder may not be written.
    pub(crate) other_folder: Option<PathBuf>,
}

impl Manner {
    fn place(&self, path: &Path, replace: bool) -> Place {
        let mut place = Place::new(path);
        if !replace {
            place = place.without_replacing();
        }
        if self.sparse {
            place = place.sparse();
        }
        if self.modes {
            place = place.with_modes();
        }
        if let Some(folder) = &self.other_folder {
            place = place.with_other_folder(folder);
        }
        place
    }
}

/// Where a download goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    /// A regular file, there or to be: replaced only when all of it is verified.
    File {
        path: PathBuf,
        /// Whether one that is there, or appears, is replaced.
        replace: bool,
    },
    /// A pipe, a socket, a device, or an open descriptor: written in order, never replaced.
    InOrder(PathBuf),
    /// Something is there that shall stay.
    Kept(PathBuf),
}

impl Target {
    /// What `wish` means for an object: its own name where nobody gave one. A name that nobody gave
    /// replaces nothing unless that is forced.
    pub(crate) fn find(wish: Wish<'_>, name: &ObjectName) -> Result<Self, Failure> {
        let Wish { output, folder, force, no_clobber } = wish;
        if output == Some(Path::new("-")) {
            return Ok(Self::Stdout);
        }
        let own = name.file_name();
        let given = output.filter(|path| !path.is_dir());
        let path = match (output, folder) {
            (Some(path), _) if path.is_dir() => path.join(own),
            (Some(path), _) => path.to_path_buf(),
            (None, Some(folder)) => folder.join(own),
            (None, None) => PathBuf::from(own),
        };
        if in_order::is_descriptor(&path) {
            return Ok(Self::InOrder(path));
        }
        let shown = path.display();
        let refuse = |message: String| Err(Failure::new(Kind::Disk, message));
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refuse(format!("the folder {shown} does not exist: create it first"));
        }
        // Also a link that leads nowhere.
        let taken = path.symlink_metadata().is_ok();
        if taken && no_clobber {
            return Ok(Self::Kept(path));
        }
        if path.is_dir() {
            return refuse(format!("{shown} is a folder: give the name of a file with -o"));
        }
        // The server chose the name, and not who runs this.
        if given.is_none() && taken && !force {
            return refuse(format!(
                "{shown} exists already: name it with -o to replace it, or give --force"
            ));
        }
        match path.metadata() {
            Ok(metadata) if is_in_order(&metadata) => return Ok(Self::InOrder(path)),
            Ok(metadata) if metadata.is_file() && !force && is_protected(&path, &metadata) => {
                return refuse(format!(
                    "{shown} is write-protected: give --force to replace it all the same"
                ));
            }
            _ => {}
        }
        // A link stays, and the file that it leads to is the target.
        let end = end_of_links(&path).map_err(|trap| {
            let message = format!(
                "{} is a link that another user put into a folder for all: name another target",
                trap.display()
            );
            Failure::new(Kind::Disk, message)
        })?;
        if end.is_symlink() {
            return refuse(format!("{shown} is a link that leads to itself: remove it first"));
        }
        Ok(Self::File { path: end, replace: force || (given.is_some() && !no_clobber) })
    }

    /// Where it is, as a file.
    pub(crate) fn place(&self, manner: &Manner) -> Option<Place> {
        match self {
            Self::File { path, replace } => Some(manner.place(path, *replace)),
            Self::InOrder(_) | Self::Kept(_) | Self::Stdout => None,
        }
    }

    /// Makes it ready to be written. A file is locked. What is written in order is opened with its
    /// first byte.
    pub(crate) fn open(&self, manner: &Manner) -> Result<Output, Failure> {
        match self {
            Self::File { path, replace } => {
                let place = manner.place(path, *replace);
                Ok(Output::file(PartFile::claim(place, manner.resume)?))
            }
            Self::InOrder(path) => Ok(Output::in_order(Box::new(in_order::open_later(path)))),
            Self::Kept(path) => {
                let message = format!("{} is there already", path.display());
                Err(Failure::new(Kind::Disk, message))
            }
            Self::Stdout => {
                let stdout = stdout().map_err(|error| {
                    Failure::new(Kind::Disk, format!("cannot use standard output: {error}"))
                })?;
                Ok(Output::in_order(Box::new(stdout)))
            }
        }
    }
}

/// As people gave it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File { path, .. } | Self::InOrder(path) | Self::Kept(path) => {
                path.to_string_lossy().fmt(f)
            }
        }
    }
}

fn is_in_order(metadata: &fs::Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
}

/// By its mode, also for who may write everything; or as somebody else's.
pub(crate) fn is_protected(path: &Path, metadata: &fs::Metadata) -> bool {
    metadata.permissions().readonly() || access(path, Access::WRITE_OK).is_err()
}

/// Where `path` leads by symbolic links, also when nothing is there.
///
/// # Errors
/// The link that is not followed.
fn end_of_links(path: &Path) -> Result<PathBuf, PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        if is_trap(&path) {
            return Err(path);
        }
        path = path.parent().unwrap_or(Path::new("")).join(next);
    }
    Ok(path)
}

/// Whether a link is another user's, in a folder where all may put files, as /tmp is: who follows
/// it writes where that user likes. The rule of Linux (`fs.protected_symlinks`), which here holds
/// also where the system does not see the link, or leaves that out.
fn is_trap(link: &Path) -> bool {
    let folder = link.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).metadata();
    let (Ok(link), Ok(folder)) = (link.symlink_metadata(), folder) else { return true };
    let for_all = folder.mode() & 0o1002 == 0o1002;
    for_all && link.uid() != rustix::process::geteuid().as_raw() && link.uid() != folder.uid()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{fs::symlink, net::UnixListener},
        process::Command,
    };

    use super::*;

    #[test]
    fn each_kind_of_target_is_told_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let name = ObjectName::new("sub/x").unwrap();
        let find = |path: &Path, force| {
            let wish = Wish { output: Some(path), force, ..Wish::default() };
            Target::find(wish, &name)
        };
        let file = |path, replace| Target::File { path, replace };
        assert_eq!(find(Path::new("-"), false).unwrap(), Target::Stdout);
        assert_eq!(find(&at("new"), false).unwrap(), file(at("new"), true));
        assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _listener = UnixListener::bind(at("socket")).unwrap();
        for name in ["pipe", "socket"] {
            assert_eq!(find(&at(name), false).unwrap(), Target::InOrder(at(name)));
        }
        for path in ["/dev/null", "/dev/stdout", "/dev/fd/7"].map(PathBuf::from) {
            assert_eq!(find(&path, false).unwrap(), Target::InOrder(path));
        }
        symlink("real", at("link")).unwrap();
        assert_eq!(find(&at("link"), false).unwrap(), file(at("real"), true));
        fs::write(at("real"), b"x").unwrap();
        assert_eq!(find(&at("link"), false).unwrap(), file(at("real"), true));
        symlink("loop", at("loop")).unwrap();
        assert!(find(&at("loop"), true).unwrap_err().message.contains("leads to itself"));

        // Into a folder, under the object's own name, which replaces nothing.
        symlink(".", at("here")).unwrap();
        assert_eq!(find(folder.path(), false).unwrap(), file(at("x"), false));
        assert_eq!(find(&at("here"), false).unwrap(), file(at("here/x"), false));
        fs::write(at("x"), b"x").unwrap();
        assert!(find(folder.path(), false).unwrap_err().message.contains("--force"));
        assert_eq!(find(folder.path(), true).unwrap(), file(at("x"), true));
        assert!(find(&at("no/"), true).unwrap_err().message.contains("create it"));

        let dash = ObjectName::new("-").unwrap();
        let found = Target::find(Wish::default(), &dash).unwrap();
        assert_eq!(found, file("-".into(), false));

        let mut permissions = fs::metadata(at("real")).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(at("real"), permissions).unwrap();
        assert!(find(&at("real"), false).unwrap_err().message.contains("--force"));
        assert_eq!(find(&at("real"), true).unwrap(), file(at("real"), true));

        for there in ["real", "pipe", "link", "loop"] {
            let there = at(there);
            let wish = Wish { output: Some(&there), no_clobber: true, ..Wish::default() };
            assert_eq!(Target::find(wish, &name).unwrap(), Target::Kept(there.clone()));
        }
    }
    /// Only root can make another user's link.
    #[test]
    fn a_link_that_another_put_into_a_folder_for_all_is_not_followed() {
        use std::os::unix::fs::{PermissionsExt, lchown};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let name = ObjectName::new("x").unwrap();
        let find = |path: &Path| {
            let wish = Wish { output: Some(path), force: true, ..Wish::default() };
            Target::find(wish, &name)
        };
        fs::write(at("precious"), b"x").unwrap();
        symlink("precious", at("own")).unwrap();
        symlink("precious", at("trap")).unwrap();
        symlink("trap", at("way")).unwrap();
        if lchown(at("trap"), Some(12345), None).is_err() {
            return;
        }
        let followed = Target::File { path: at("precious"), replace: true };
        assert_eq!(find(&at("trap")).unwrap(), followed);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        for link in ["trap", "way"] {
            let refused = find(&at(link)).unwrap_err();
            assert!(refused.message.contains("another user put"), "{refused}");
        }
        assert_eq!(find(&at("own")).unwrap(), followed);
    }
}
