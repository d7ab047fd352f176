//! Servers and downloads that last as long as a test likes.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{Place, Server};

/// A user who is not root: root may read and write everything.
const NOBODY: u32 = 65534;

/// `kwik`, not as root, in folders that it may use.
pub fn as_nobody(place: &Place, arguments: &[&str]) -> Command {
    let mut command = place.kwik(arguments);
    if rustix::process::geteuid().is_root() {
        let root = place.path("files").parent().unwrap().to_owned();
        fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

pub fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// What a server says on standard error, in a file.
pub fn logged(place: &Place, command: &mut Command) -> Server {
    logged_at("info", place, command)
}

/// The same at another level.
pub fn logged_at(level: &str, place: &Place, command: &mut Command) -> Server {
    let log = File::create(place.path("log")).unwrap();
    Server::spawn(command.env("KWIK_LOG", level).stderr(log))
}

pub fn log(place: &Place) -> String {
    fs::read_to_string(place.path("log")).unwrap()
}

/// `kwik serve` of the files, on a free port.
pub fn serve(place: &Place, options: &[&str]) -> Vec<String> {
    let files = place.path("files");
    let fixed = ["serve", files.to_str().unwrap()].map(str::to_owned);
    let listen = ["--listen", "127.0.0.1:0"].map(str::to_owned);
    let given = options.contains(&"--listen");
    let listen = if given { Vec::new() } else { listen.to_vec() };
    fixed.into_iter().chain(listen).chain(options.iter().map(|it| (*it).to_owned())).collect()
}

pub fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A download that waits for its reader, so that it is under way for as long as a test likes.
pub struct Download(Child);

impl Download {
    pub fn begin(place: &Place, link: &str) -> Self {
        let errors = File::create(place.path("get-log")).unwrap();
        // It has one session: what becomes of that is what is tested.
        let mut command = place.kwik(&["get", link, "--retry", "0", "-o", "-"]);
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        // What paths there are to be is there by then.
        thread::sleep(Duration::from_millis(500));
        Self(child)
    }

    /// Reads some of it now and then, until it is told to go on: the rest, and how it ended.
    pub fn slowly(
        mut self,
        go_on: mpsc::Receiver<()>,
    ) -> thread::JoinHandle<(Vec<u8>, Option<i32>)> {
        thread::spawn(move || {
            let mut read = Vec::new();
            while go_on.recv_timeout(Duration::from_millis(50)) == Err(RecvTimeoutError::Timeout) {
                let mut part = vec![0; 75_000];
                let some = self.0.stdout.as_mut().unwrap().read(&mut part).unwrap();
                read.extend(&part[..some]);
            }
            let (rest, code) = self.end();
            read.extend(rest);
            (read, code)
        })
    }

    /// The rest of it, and how it ended.
    pub fn end(mut self) -> (Vec<u8>, Option<i32>) {
        let mut rest = Vec::new();
        self.0.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        (rest, self.0.wait().unwrap().code())
    }
}
