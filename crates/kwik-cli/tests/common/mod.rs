//! Running `kwik` as people do.

#![allow(dead_code, reason = "each test target uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub mod serving;
pub mod stage;

/// Says that a test is left out for want of a program. `KWIK_REQUIRE_TOOLS=1` makes that a failure,
/// lest where all of them should be nobody notices that one is not.
pub fn skip(missing: &str) {
    let required = std::env::var_os("KWIK_REQUIRE_TOOLS").is_some_and(|value| value != "0");
    assert!(!required, "KWIK_REQUIRE_TOOLS is set, and {missing}");
    eprintln!("SKIPPED: {missing}");
}

/// Folders of one test.
pub struct Place(TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("files")).unwrap();
        fs::create_dir(place.path("out")).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a served file of incompressible bytes.
    pub fn file(&self, name: &str, size: usize) -> Vec<u8> {
        let data = content(size);
        let path = self.path("files").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &data).unwrap();
        data
    }

    /// `kwik` in the folder for output, with a state folder of its own.
    pub fn kwik(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kwik"));
        command
            .args(arguments)
            .current_dir(self.path("out"))
            .env("XDG_STATE_HOME", self.path("xdg"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("KWIK_LOG", "error")
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.kwik(arguments).output().unwrap()
    }

    /// Serves the files on a free port.
    pub fn serve(&self, state: &str, options: &[&str]) -> Server {
        Server::start(self, &self.path("files"), state, options)
    }

    /// Names in the folder for output.
    pub fn outputs(&self) -> Vec<String> {
        names(&self.path("out"))
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn content(size: usize) -> Vec<u8> {
    let mut data = vec![0; size];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data
}

/// A running `kwik serve`.
pub struct Server {
    pub child: Child,
    pub fingerprint: String,
    /// The same, and what the link has beside it.
    pub who: String,
    /// `127.0.0.1:PORT`
    pub address: String,
}

impl Server {
    pub fn start(place: &Place, source: &Path, state: &str, options: &[&str]) -> Self {
        let (source, state) = (source.to_str().unwrap(), place.path(state));
        let arguments =
            ["serve", source, "--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()];
        Self::spawn(&mut place.kwik(&[&arguments, options].concat()))
    }

    /// Starts `kwik serve` as `command` has it.
    pub fn spawn(command: &mut Command) -> Self {
        Self::of(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// One that was started with a pipe for its standard output.
    pub fn of(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let greeting = lines.map(Result::unwrap);
        // The last one is that of clients, where there are to be some.
        let links = greeting
            .take_while(|line| !line.starts_with("may read"))
            .filter_map(|line| Some(line.split_once("kwik://")?.1.to_owned()));
        let link = links.last().expect("a line with a link");
        let (who, place) = link.split_once('@').unwrap();
        let fingerprint = who.split(':').next().unwrap().to_owned();
        let address = place.split(['/', ',']).next().unwrap().to_owned();
        Self { child, fingerprint, who: who.to_owned(), address }
    }

    pub fn link(&self, name: &str) -> String {
        format!("kwik://{}@{}/{name}", self.who, self.address)
    }

    /// A link without what lets its holder in.
    pub fn bare_link(&self, name: &str) -> String {
        format!("kwik://{}@{}/{name}", self.fingerprint, self.address)
    }

    pub fn edge(&self) -> String {
        format!("kwik://{}@{}", self.fingerprint, self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub fn interrupt(child: &Child) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
}

/// Waits for `done`, at most ten seconds.
pub fn wait_until(mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// That `output` failed with `code` and one line that contains `text`, beside those that a busy
/// machine has time to show of how far it is.
pub fn assert_failed(output: &Output, code: i32, text: &str) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    let progress = |line: &&str| line.contains(" %  ") || line.starts_with("waiting for ");
    let lines: Vec<_> = message.lines().filter(|line| !progress(line)).collect();
    let [line] = lines[..] else { panic!("{message}") };
    assert!(line.starts_with("kwik: ") && line.contains(text), "{message}");
}

pub fn assert_done(output: &Output) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
}
