//! The times of folders: set once all that is in them is there, as that changes them.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use kwik::escape;
use kwik_delivery::ObjectName;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use crate::voice::{count, note};

/// Folders whose times are kept: some tens of megabytes of names.
const MAX_FOLDERS: usize = 250_000;

/// Times that folders are to have.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// The folders that what is listed now lies in, from the outermost on.
    above: Vec<(ObjectName, Option<SystemTime>)>,
    wanted: BTreeMap<ObjectName, SystemTime>,
    left_out: usize,
}

impl Times {
    /// A folder is listed.
    pub(crate) fn on_listed(&mut self, folder: &ObjectName, modified: Option<SystemTime>) {
        while self.above.last().is_some_and(|(above, _)| folder.within(above).is_none()) {
            self.above.pop();
        }
        self.above.push((folder.clone(), modified));
    }

    /// A folder that was listed, and that lies above what was listed last, is here now.
    pub(crate) fn keep(&mut self, folder: &ObjectName) {
        let found = self.above.iter().rev().find(|(above, _)| above == folder);
        let Some((_, Some(modified))) = found else { return };
        if self.wanted.len() < MAX_FOLDERS {
            self.wanted.insert(folder.clone(), *modified);
        } else {
            self.left_out += 1;
        }
    }

    /// Sets them, below `root`. What cannot be set is said, and fails nothing.
    pub(crate) fn set(&self, root: &Path) {
        let (mut failed, mut example) = (0, None);
        for (folder, modified) in &self.wanted {
            let path = folder.under(root);
            let same = path.symlink_metadata().and_then(|it| it.modified());
            if same.is_ok_and(|time| time == *modified) {
                continue;
            }
            if let Err(error) = set(&path, *modified) {
                failed += 1;
                example.get_or_insert_with(|| format!("{}: {error}", escape(path.display())));
            }
        }
        if let Some(example) = example {
            note(&format!("the times of {} could not be set, such as {example}", folders(failed)));
        }
        if self.left_out > 0 {
            note(&format!("the times of {} are too many to be kept", folders(self.left_out)));
        }
    }
}

fn folders(number: usize) -> String {
    count(number, "folder")
}

/// Not of what a symbolic link leads to.
fn set(path: &Path, modified: SystemTime) -> io::Result<()> {
    let too_far = |_| io::Error::other("the time is out of range");
    let (seconds, nanos) = match modified.duration_since(UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).map_err(too_far)?, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_err(too_far)?;
            match before.subsec_nanos() {
                0 => (-seconds, 0),
                nanos => (-seconds - 1, 1_000_000_000 - nanos),
            }
        }
    };
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn a_folder_gets_its_time_and_what_a_link_leads_to_does_not() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        let before = fs::metadata(at("real")).unwrap().modified().unwrap();
        let name = |text: &str| ObjectName::new(text).unwrap();
        let early = UNIX_EPOCH - Duration::from_millis(1500);
        let late = UNIX_EPOCH + Duration::new(1_000_000_000, 789_000_000);
        let mut times = Times::default();
        times.on_listed(&name("a"), Some(late));
        times.on_listed(&name("a/b"), Some(early));
        times.keep(&name("a"));
        times.keep(&name("a/b"));
        times.on_listed(&name("link"), Some(early));
        times.keep(&name("link"));
        // It is none of those above.
        times.keep(&name("a"));
        times.set(place.path());
        let modified = |path: &str| fs::metadata(at(path)).unwrap().modified().unwrap();
        assert_eq!((modified("a"), modified("a/b")), (late, early));
        assert_eq!(modified("real"), before);
    }
}
