//! `kwik get LINK/`: a folder, or what of it matches.

use std::{
    fs::{self, DirBuilder, Metadata},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kwik::escape;
use kwik_delivery::{Attributes, Entry, EntryKind, Listing, ObjectName};
use serde_json::json;
use tokio::{sync::mpsc, task::spawn_blocking};

use crate::{
    args::get::Get,
    failure::{Failure, Kind},
    filter::Filter,
    many::{Crew, Job},
    print,
    remote::{Several, What},
    sessions::Sessions,
    summary::Size,
    tally::Tally,
    target::{Target, is_protected},
    voice::note,
};

mod times;

use times::Times;

/// Fetches what `several` leads to.
pub(crate) async fn fetch(
    arguments: &Get,
    several: &Several,
    sessions: &Sessions<'_>,
    tally: &Tally,
) -> Result<(), Failure> {
    let root = root(arguments, several)?;
    let (jobs, wanted) = mpsc::channel(1);
    let crew = Crew::new(arguments, sessions, tally);
    let planning = plan(arguments, several, sessions, tally, root, jobs);
    // Whatever becomes of the list: what it had so far is fetched.
    let (planned, fetched) = tokio::join!(planning, crew.run(wanted));
    fetched?;
    let plan = planned?;
    let setting = spawn_blocking(move || plan.times.set(&plan.root));
    setting.await.map_err(|error| {
        Failure::new(Kind::Disk, format!("cannot set the times of folders: {error}"))
    })
}

/// The folder that gets what is in the one that is fetched: it is there, or can be made.
fn root(arguments: &Get, several: &Several) -> Result<PathBuf, Failure> {
    let own = several.folder.as_ref().filter(|_| several.what == What::Folder);
    let (root, may_be_made) = match (&arguments.output, &arguments.dir, own) {
        (Some(output), ..) => (output.clone(), true),
        (None, Some(folder), Some(own)) => (folder.join(own.file_name()), true),
        (None, None, Some(own)) => (own.file_name().into(), true),
        (None, Some(folder), None) => (folder.clone(), false),
        (None, None, None) if several.what == What::Folder => {
            let message = "the link is of all that is served, which has no name of its own: say \
                           where to with -d DIR (-d . for here)";
            return Err(Failure::new(Kind::Usage, message));
        }
        (None, None, None) => (".".into(), false),
    };
    let shown = root.display();
    let refuse = |message: String| Err(Failure::new(Kind::Disk, message));
    match root.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(root),
        Ok(_) => refuse(format!("{shown} is no folder: name another one with -o DIR")),
        Err(error) if error.kind() == ErrorKind::NotFound && may_be_made => {
            let above = root.parent().filter(|above| !above.as_os_str().is_empty());
            if above.is_none_or(Path::is_dir) {
                Ok(root)
            } else {
                refuse(format!("the folder of {shown} does not exist: create it first"))
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            refuse(format!("the folder {shown} does not exist: create it first"))
        }
        Err(error) => refuse(format!("cannot use the folder {shown}: {error}")),
    }
}

/// Makes the folder that gets all, if it is not there.
fn make_root(root: &Path) -> Result<(), Failure> {
    match fs::create_dir(root) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let message = format!("cannot create the folder {}: {error}", root.display());
            Err(Failure::new(Kind::Disk, message))
        }
        _ => Ok(()),
    }
}

/// Compares what is listed with what is here, and sends what is to be fetched.
async fn plan(
    arguments: &Get,
    several: &Several,
    sessions: &Sessions<'_>,
    tally: &Tally,
    root: PathBuf,
    jobs: mpsc::Sender<Vec<Job>>,
) -> Result<Plan, Failure> {
    let mut listing = Listing::new(several.folder.clone(), several.is_deep());
    let mut plan = Plan::new(arguments, several, root);
    while !listing.is_done() {
        let entries = sessions.page(&mut listing).await?;
        if listing.is_file() {
            let message = "the link leads to a file: leave out the / at its end";
            return Err(Failure::new(Kind::Usage, message));
        }
        // Only for a folder that is there.
        if !arguments.choice.dry_run {
            make_root(&plan.root)?;
        }
        let planning = spawn_blocking(move || {
            let steps: Vec<_> = entries.into_iter().filter_map(|entry| plan.step(entry)).collect();
            (plan, steps)
        });
        let failed =
            |error| Failure::new(Kind::Disk, format!("cannot look at the target: {error}"));
        let (planned, steps) = planning.await.map_err(failed)?;
        plan = planned;
        let mut wanted = Vec::new();
        for step in steps {
            match step {
                Step::Fetch(job) if arguments.choice.dry_run => say_job(arguments, tally, &job)?,
                Step::Fetch(job) => wanted.push(job),
                Step::Skip => tally.on_skipped(),
                Step::Fail(name, failure) => tally.on_failed(&name, &failure),
            }
        }
        if !wanted.is_empty() && jobs.send(wanted).await.is_err() {
            // Fetching failed, and says why.
            return Ok(plan);
        }
    }
    say_left_out(&listing);
    if !plan.found && several.what != What::Folder {
        return Err(Failure::new(Kind::NotFound, "nothing there matches the link's pattern"));
    }
    Ok(plan)
}

/// Says how much of a folder the server met and does not serve.
pub(crate) fn say_left_out(listing: &Listing) {
    match listing.left_out() {
        0 => {}
        1 => note("the server left out one name that is no file's: a link or a device, say"),
        some => note(&format!("the server left out {some} names that are no files': links, say")),
    }
}

/// What would be fetched, on standard output.
fn say_job(arguments: &Get, tally: &Tally, job: &Job) -> Result<(), Failure> {
    let (name, size) = (&job.name, job.size.unwrap_or_default());
    tally.on_planned(size);
    if arguments.json {
        let target = job.target.to_string();
        let object = json!({ "name": name.to_string(), "output": target, "size": size });
        return print(&format!("{}\n", crate::voice::json_line(&object)));
    }
    print(&format!("{:>12}  {}\n", Size(size).to_string(), escape(name)))
}

/// What becomes of an entry.
enum Step {
    Fetch(Job),
    /// It is here already.
    Skip,
    Fail(ObjectName, Failure),
}

/// Decides what becomes of entries, in their order, and makes folders.
struct Plan {
    several: Several,
    include: Vec<String>,
    exclude: Vec<String>,
    root: PathBuf,
    /// The last folder that was found to be one.
    ready: Option<ObjectName>,
    times: Times,
    /// A folder of which nothing is wanted.
    excluded: Option<ObjectName>,
    found: bool,
    dry_run: bool,
    modes: bool,
    checksum: bool,
    no_clobber: bool,
    force: bool,
}

impl Plan {
    fn new(arguments: &Get, several: &Several, root: PathBuf) -> Self {
        Self {
            several: several.clone(),
            include: arguments.choice.include.clone(),
            exclude: arguments.choice.exclude.clone(),
            root,
            ready: None,
            times: Times::default(),
            excluded: None,
            found: false,
            dry_run: arguments.choice.dry_run,
            modes: arguments.writing.modes,
            checksum: arguments.choice.checksum,
            no_clobber: arguments.no_clobber,
            force: arguments.force,
        }
    }

    fn step(&mut self, entry: Entry) -> Option<Step> {
        let relative = self.several.relative(&entry.name)?;
        if self.excluded.as_ref().is_some_and(|above| relative.within(above).is_some()) {
            return None;
        }
        let filter = Filter::new(&self.include, &self.exclude);
        let is_folder = entry.size().is_none();
        if is_folder && filter.excludes_folder(&relative) {
            self.excluded = Some(relative);
            return None;
        }
        if is_folder {
            self.times.on_listed(&relative, entry.attributes.modified);
        }
        if !self.several.means(&relative, &entry) {
            return None;
        }
        let wanted = if is_folder { filter.wants_folders() } else { filter.wants(&relative) };
        self.found = true;
        let result = match entry.kind {
            EntryKind::Unreadable => Err(Failure::new(
                Kind::Transfer,
                "the server cannot read this folder: tell its owner",
            )),
            _ if !wanted => return None,
            EntryKind::Folder => {
                let mode = entry.attributes.mode.filter(|_| self.modes);
                self.make_folder(&relative, mode).map(|()| None)
            }
            EntryKind::File { size } => self.file(&relative, &entry, size).map(Some),
        };
        result.unwrap_or_else(|failure| Some(Step::Fail(entry.name, failure)))
    }

    fn file(&mut self, relative: &ObjectName, entry: &Entry, size: u64) -> Result<Step, Failure> {
        let path = relative.under(&self.root);
        let job = |check: bool| {
            let target = Target::File { path: path.clone(), replace: true };
            let check = check.then_some(entry.attributes);
            Step::Fetch(Job { name: entry.name.clone(), size: Some(size), target, check })
        };
        let refuse = |what: &str| {
            Err(Failure::new(Kind::Disk, format!("{} {what}: remove it first", path.display())))
        };
        match path.symlink_metadata() {
            Ok(_) if self.no_clobber => Ok(Step::Skip),
            // It might lead anywhere.
            Ok(metadata) if metadata.is_symlink() => refuse("is a symbolic link"),
            Ok(metadata) if metadata.is_dir() => refuse("is a folder here"),
            Ok(metadata) if !metadata.is_file() => refuse("is no regular file"),
            Ok(metadata) => {
                let same_size = metadata.len() == size;
                let same = same_size && is_same_time(&metadata, entry.attributes);
                if same && !self.checksum {
                    self.set_mode(&path, &metadata, entry.attributes)?;
                    return Ok(Step::Skip);
                }
                if !self.force && is_protected(&path, &metadata) {
                    let message = format!(
                        "{} is write-protected: give --force to replace it all the same",
                        path.display()
                    );
                    return Err(Failure::new(Kind::Disk, message));
                }
                Ok(job(self.checksum && same_size))
            }
            Err(_) => {
                if let Some(parent) = relative.parent() {
                    self.make_folder(&parent, None)?;
                }
                Ok(job(false))
            }
        }
    }

    /// Gives a file that is there the mode that it has at the server.
    fn set_mode(
        &self,
        path: &Path,
        metadata: &Metadata,
        attributes: Attributes,
    ) -> Result<(), Failure> {
        let wanted = attributes.mode.filter(|_| self.modes && !self.dry_run);
        match wanted.filter(|mode| metadata.permissions().mode() & 0o777 != *mode) {
            None => Ok(()),
            Some(mode) => {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| {
                    let message = format!("cannot change the mode of {}: {error}", path.display());
                    Failure::new(Kind::Disk, message)
                })
            }
        }
    }

    /// Makes a folder, and those that it lies in. None of them may be a symbolic link: what the
    /// server says is written below the root alone.
    fn make_folder(&mut self, folder: &ObjectName, mode: Option<u32>) -> Result<(), Failure> {
        if self.dry_run || self.ready.as_ref() == Some(folder) {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_folder(&parent, None)?;
        }
        let path = folder.under(&self.root);
        let failed = |error: std::io::Error| {
            let message = format!("cannot create the folder {}: {error}", path.display());
            Failure::new(Kind::Disk, message)
        };
        match path.symlink_metadata() {
            // What is there stays as it is.
            Ok(metadata) if metadata.is_dir() && self.no_clobber => {}
            Ok(metadata) if metadata.is_dir() => self.times.keep(folder),
            Ok(_) => {
                let message =
                    format!("{} is in the way, and no folder: remove it first", path.display());
                return Err(Failure::new(Kind::Disk, message));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().mode(0o777).create(&path).map_err(failed)?;
                self.times.keep(folder);
            }
            Err(error) => return Err(failed(error)),
        }
        if let Some(mode) = mode {
            // Its owner has to write into it, now and when it is fetched again.
            let mode = fs::Permissions::from_mode(mode | 0o700);
            fs::set_permissions(&path, mode).map_err(failed)?;
        }
        self.ready = Some(folder.clone());
        Ok(())
    }
}

/// Whether a file has the time that the server says; where a file system keeps whole seconds only,
/// those count.
fn is_same_time(metadata: &Metadata, attributes: Attributes) -> bool {
    let (Ok(here), Some(there)) = (metadata.modified(), attributes.modified) else { return false };
    let is_whole = |time: SystemTime| {
        let since = time.duration_since(UNIX_EPOCH);
        since.unwrap_or_else(|before| before.duration()).subsec_nanos() == 0
    };
    let apart = here.duration_since(there).unwrap_or_else(|before| before.duration());
    here == there || is_whole(here) && apart < Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(name: &str) -> Entry {
        let kind = EntryKind::File { size: 1 };
        Entry { name: ObjectName::new(name).unwrap(), kind, attributes: Attributes::default() }
    }

    /// A server may name what it likes: nothing is made behind a link.
    #[test]
    fn nothing_is_made_outside_of_the_root() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        symlink("../outside", root.join("link")).unwrap();
        symlink("../outside/x", root.join("x")).unwrap();
        let several =
            Several { server: "kwik://h:1/x".parse().unwrap(), folder: None, what: What::Folder };
        let arguments = <Get as clap::Args>::augment_args(clap::Command::new("get"));
        let matches = arguments.try_get_matches_from(["get", "kwik://h:1/"]).unwrap();
        let get = <Get as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        let mut plan = Plan::new(&get, &several, root.clone());
        let mut fails = |entry| matches!(plan.step(entry), Some(Step::Fail(..)));
        let folder = |name: &str| Entry { kind: EntryKind::Folder, ..file(name) };
        assert!(!fails(folder("a")) && !fails(file("a/b")) && !fails(file("real/b")));
        assert!(fails(folder("link")) && fails(file("link/a")) && fails(file("x")));
        assert!(fails(file("real")) && fails(folder("link/a/b")));
        assert_eq!(fs::read_dir(place.path().join("outside")).unwrap().count(), 0);
        assert!(root.join("a").is_dir());
    }
}
