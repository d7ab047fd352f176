//! `kwik get` as a shell runs it: what is run, how it ends, what it says, what is on disk then.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod folders;
mod handover;
mod kills;
mod listing;
mod messages;
mod primaries;
mod resume;
mod sessions;
mod targets;
mod usage;

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use common::{Place, Server};

/// One case. Its folder is empty but for what `before` makes.
pub struct Row {
    pub name: &'static str,
    /// A shell script that prepares the folder.
    pub before: &'static str,
    /// The shell script that counts, after `prelude.sh`.
    pub run: &'static str,
    pub code: i32,
    /// With another code than 0, what the one line says that begins with `kwik: `; else what some
    /// line says. `-` for a standard error without a word.
    pub says: &'static str,
    /// Everything in the folder then; see [`listing`].
    pub disk: &'static str,
}

/// Rows at once: most of them wait for a process to start.
const THREADS: usize = 4;
/// Exit code of a row that cannot be run here.
const CANNOT: i32 = 99;

/// What rows may use.
const PRELUDE: &str = include_str!("prelude.sh");

/// The server of all rows.
pub struct Setting {
    pub place: Place,
    pub server: Server,
}

impl Setting {
    fn new() -> Self {
        let place = Place::new();
        for (name, size) in [
            ("x", 300_000),
            ("big", 20_000_000),
            ("vast", 64_000_000),
            ("empty", 0),
            ("sub/deep", 70_000),
            ("a b", 10),
            ("ünï", 11),
            ("-", 12),
            ("-n", 13),
            ("a\u{202e}b", 14),
        ] {
            place.file(name, size);
        }
        let mut holes = vec![0; 20_000_000];
        holes[10_000_000..10_000_009].fill(1);
        fs::write(place.path("files/holes"), holes).unwrap();
        // Other bytes than those of others of its size.
        fs::write(place.path("files/other"), vec![7; 20_000_000]).unwrap();
        make_folders(&place);
        // Rows are run by other users too.
        for name in [".", "out"] {
            fs::set_permissions(place.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let server = place.serve("state", &[]);
        Self { place, server }
    }

    /// A new folder of that name.
    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.place.path("out").join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    fn shell(&self, script: &str, folder: &Path) -> Output {
        let bin = Path::new(env!("CARGO_BIN_EXE_kwik")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
        let beside = |suffix: &str| format!("{}.{suffix}", folder.display());
        Command::new("timeout")
            .args(["-s", "KILL", "120", "sh", "-c", &format!("{PRELUDE}\n{script}")])
            .current_dir(folder)
            .env("PATH", path)
            .env("L", self.server.link(""))
            .env("LOG", beside("log"))
            .env("XDG_STATE_HOME", beside("xdg"))
            .env("TMPDIR", self.place.path("."))
            .env("TERM", "xterm")
            .env("KWIK_LOG", "error")
            .env("SECRETS", self.place.path("files"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Why a row is not as it should be; none when it is.
    fn check(&self, number: usize, row: &Row) -> Result<bool, String> {
        let folder = self.folder(&number.to_string());
        let before = self.shell(row.before, &folder);
        if before.status.code() == Some(CANNOT) {
            return Ok(false);
        }
        let output = self.shell(row.run, &folder);
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code();
        if code == Some(CANNOT) {
            return Ok(false);
        }
        if !before.status.success() || code != Some(row.code) {
            let before = String::from_utf8_lossy(&before.stderr);
            return Err(format!("ends with {code:?}, not {}: {before}{said}", row.code));
        }
        let errors = said.lines().filter(|line| line.starts_with("kwik: "));
        let fits = match row.says {
            "-" => said.is_empty(),
            says if row.code == 0 || says.is_empty() => said.contains(says),
            says => errors.clone().count() == 1 && errors.clone().all(|line| line.contains(says)),
        };
        if !fits || said.contains("panicked") {
            return Err(format!("says {said:?}, not {:?}", row.says));
        }
        let files = self.place.path("files");
        listing::differs(&folder, &files, row.disk).map_or(Ok(true), Err)
    }
}

/// What the rows of folders fetch.
fn make_folders(place: &Place) {
    for (name, size) in [
        ("tree/a", 10),
        ("tree/b/c", 70_000),
        ("tree/b/d/e", 0),
        ("tree/t.jpg", 5),
        ("tree/u.jpg", 6),
        ("names/new\nline", 20),
        ("names/back\\slash", 21),
        ("names/\u{e9}", 22),
        ("names/e\u{301}", 23),
        ("names/*", 24),
        ("mixed/.hidden", 1),
        ("pair/one", 20_000_000),
        ("pair/small", 100),
    ] {
        place.file(name, size);
    }
    for number in 0..300 {
        place.file(&format!("lots/{number}"), 4096);
    }
    let at = |name: &str| place.path("files").join(name);
    fs::write(at("names").join(OsStr::from_bytes(b"\xff\xfe")), b"no text").unwrap();
    fs::create_dir(at("tree/none")).unwrap();
    for (to, link) in
        [("../x", "in"), ("/etc/passwd", "out"), ("../tree", "folder"), ("no", "dead")]
    {
        symlink(to, at("mixed").join(link)).unwrap();
    }
    let mode =
        |name, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    mode("tree/a", 0o640);
    mode("tree/b", 0o750);
    let mut touch = Command::new("touch");
    touch.args(["-d", "2001-02-03 04:05:06.789 UTC"]);
    touch.args(["tree/a", "tree/none", "tree/b/d", "tree/b"].map(at));
    assert!(touch.status().unwrap().success());
}

#[test]
fn every_row_is_as_it_says() {
    let setting = Setting::new();
    let all =
        [targets::ROWS, messages::ROWS, usage::ROWS, resume::ROWS, faults::ROWS, folders::ROWS]
            .concat_rows();
    let only = env::var("KWIK_ROW").unwrap_or_default();
    let rows: Vec<_> = all.into_iter().filter(|row| row.name.contains(&only)).collect();
    let (next, skipped) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let number = rows.iter().position(|other| std::ptr::eq(*other, *row));
                    match setting.check(number.unwrap(), row) {
                        Ok(true) => {}
                        Ok(false) => {
                            eprintln!("cannot be run here: {}", row.name);
                            skipped.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => {
                            failures.lock().unwrap().push(format!("{}: {why}", row.name));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    eprintln!("{} rows, {} of them not run", rows.len(), skipped.into_inner());
    assert!(failures.is_empty(), "{} rows:\n{}", failures.len(), failures.join("\n"));
}

trait ConcatRows {
    fn concat_rows(self) -> Vec<&'static Row>;
}

impl<const N: usize> ConcatRows for [&'static [Row]; N] {
    fn concat_rows(self) -> Vec<&'static Row> {
        self.into_iter().flatten().collect()
    }
}
