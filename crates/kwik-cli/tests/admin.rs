//! `kwik serve --admin` and `kwik ctl`: a server that runs is seen and changed.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use common::{
    Place, Server, assert_done, assert_failed,
    serving::{Download, log},
    wait_until,
};
use serde_json::Value;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A primary with an interface on a socket, two edges, and a file of 40 MB.
struct Stage {
    place: Place,
    primary: Server,
    edges: [Server; 2],
    data: Vec<u8>,
    socket: String,
}

impl Stage {
    fn new(options: &[&str]) -> Self {
        let mut stage = Self::at(None, options);
        stage.socket = stage.place.path("admin").to_str().unwrap().to_owned();
        stage
    }

    /// One whose interface is at a port, and which knows the page's address.
    fn at(admin: Option<&str>, options: &[&str]) -> Self {
        let place = Place::new();
        let data = place.file("x", 40_000_000);
        let id = place.run(&["id", "--state", place.path("primary").to_str().unwrap()]);
        let pin = String::from_utf8(id.stdout).unwrap();
        let edges = ["one", "two"].map(|name| place.serve(name, &["--trust", pin.trim()]));
        let socket = place.path("admin").to_str().unwrap().to_owned();
        let socket = admin.map_or(socket, str::to_owned);
        let files = place.path("files").to_str().unwrap().to_owned();
        let state = place.path("primary").to_str().unwrap().to_owned();
        let fixed = ["serve", &files, "--listen", "127.0.0.1:0", "--state", &state];
        let (one, two) = (edges[0].edge(), edges[1].edge());
        let brought = ["--edge", &one, "--edge", &two, "--admin", &socket];
        let errors = File::create(place.path("log")).unwrap();
        let mut command = place.kwik(&[&fixed[..], &brought, options].concat());
        let primary = Server::spawn(command.env("KWIK_LOG", "info").stderr(errors));
        Self { place, primary, edges, data, socket }
    }

    fn ctl(&self, arguments: &[&str]) -> std::process::Output {
        self.place.run(&[&["ctl", "--admin", &self.socket], arguments].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[&["--json"], arguments].concat());
        assert_done(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_done(&output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The download's session, once both edges are in it.
    fn session(&self) -> Value {
        let mut session = Value::Null;
        wait_until(|| {
            let list = self.json(&["sessions"]);
            let Some(name) = list["sessions"][0]["name"].as_str() else { return false };
            session = self.json(&["session", name]);
            session["paths"].as_array().is_some_and(|paths| paths.len() == 3)
        });
        session
    }
}

#[test]
fn a_download_is_seen_and_changed_while_it_runs() {
    let stage = Stage::new(&[]);
    let download = Download::begin(&stage.place, &stage.primary.link("x"));
    let session = stage.session();
    let name = session["name"].as_str().unwrap();
    let of = |path: usize| session["paths"][path]["address"].as_str().unwrap().to_owned();
    let mut addresses = [of(1), of(2)];
    addresses.sort();
    let mut wanted = stage.edges.each_ref().map(|edge| edge.address.clone());
    wanted.sort();
    assert_eq!(addresses, wanted);
    assert!(!session["limited_by"]["text"].as_str().unwrap().is_empty(), "{session}");
    assert!(!session["leases"].as_array().unwrap().is_empty(), "{session}");

    // People read tables.
    let text = stage.text(&["sessions"]);
    assert!(text.starts_with("name") && text.contains("primary"), "{text}");
    let text = stage.text(&["session", name]);
    assert!(text.contains("limited by") && text.contains(&addresses[0]), "{text}");
    let text = stage.text(&["edges"]);
    assert!(text.contains(&stage.edges[0].fingerprint), "{text}");
    let text = stage.text(&["metrics"]);
    assert!(text.contains("kwik_paths{path=\"secondary\",state=\"active\"} 2"), "{text}");
    assert_eq!(stage.text(&["ready"]), "ready\n");

    // What changes live, and what does not.
    let changed = stage.json(&["set", "--session", name, "gap_timeout=300"]);
    assert_eq!(changed["changed"]["gap_timeout"]["now"], "300");
    assert!(stage.text(&["set", "--session", name]).contains("gap_timeout"));
    assert_failed(&stage.ctl(&["set", "--session", name, "checksum=true"]), 1, "when a session");
    assert_failed(&stage.ctl(&["set", "gap_timeout=x"]), 2, "milliseconds");
    assert_failed(&stage.ctl(&["session", "0-99"]), 3, "no such session");

    // An edge that drains leaves, and the other one and the primary bring the rest.
    let edge = &stage.edges[0];
    stage.text(&["drain-edge", &edge.fingerprint]);
    wait_until(|| {
        let session = stage.json(&["session", name]);
        let paths = session["paths"].as_array().unwrap().clone();
        let left = |path: &Value| path["address"] == *edge.address && path["status"] != "active";
        paths.iter().any(left)
    });
    // A path that is killed is gone at once.
    let other = session["paths"].as_array().unwrap();
    let other = other.iter().find(|path| path["address"] == *stage.edges[1].address).unwrap();
    stage.text(&["kill-path", name, &other["path"].to_string()]);
    let (rest, code) = download.end();
    assert_eq!(code, Some(0), "{}", fs::read_to_string(stage.place.path("get-log")).unwrap());
    assert!(rest == stage.data[1..]);
    let log = log(&stage.place);
    assert!(log.contains("command=\"drain edge\"") && log.contains("by=user "), "{log}");
}

#[test]
fn a_drain_under_load_loses_no_byte_and_ends_the_server() {
    let mut stage = Stage::new(&[]);
    let download = Download::begin(&stage.place, &stage.primary.link("x"));
    stage.session();
    let drained = stage.json(&["drain"]);
    assert_eq!(drained["draining"], true);
    assert_failed(&stage.ctl(&["ready"]), 1, "draining");
    let refused = stage.place.run(&["get", &stage.primary.link("x"), "--retry", "0", "-o", "y"]);
    assert!(!refused.status.success());
    let (rest, code) = download.end();
    assert_eq!(code, Some(0));
    assert!(rest == stage.data[1..]);
    assert!(stage.primary.child.wait().unwrap().success());
    assert!(!Path::new(&stage.socket).exists());
}

/// A server that ends says within which time, keeps to it, and does not pretend to read anything
/// again meanwhile.
#[test]
fn a_drain_ends_within_the_time_that_it_tells() {
    let mut stage = Stage::new(&["--drain", "4s"]);
    let reloaded = stage.json(&["reload"]);
    assert_eq!(reloaded["reloaded"], true);
    let download = Download::begin(&stage.place, &stage.primary.link("x"));
    stage.session();
    for _ in 0..6 {
        let drained = stage.json(&["drain"]);
        assert_eq!((&drained["draining"], &drained["ends_within"]), (&true.into(), &4.0.into()));
    }
    assert_failed(&stage.ctl(&["reload"]), 1, "this server ends");
    // The client takes nothing more, and is not waited for.
    assert!(stage.primary.child.wait().unwrap().success());
    drop(download);
}

#[test]
fn events_are_followed_and_the_log_is_json() {
    let stage = Stage::new(&["--log-format", "json", "--report-every", "1s"]);
    let mut following = stage
        .place
        .kwik(&["ctl", "--admin", &stage.socket, "events"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    // Until somebody listens, nothing is told.
    let fetched = || assert_done(&stage.place.run(&["get", &stage.primary.link("x"), "--force"]));
    // The first of them may be over before it does.
    let heard = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !heard.load(Ordering::Relaxed) {
                fetched();
            }
        });
        let ended = lines.by_ref().map(Result::unwrap).find(|line| line.contains("session_ended"));
        heard.store(true, Ordering::Relaxed);
        let ended: Value = serde_json::from_str(&ended.unwrap()).unwrap();
        assert_eq!(ended["role"], "primary");
    });
    following.kill().unwrap();
    following.wait().unwrap();
    wait_until(|| log(&stage.place).contains("\"report\""));
    for line in log(&stage.place).lines().filter(|line| !line.starts_with("kwik: ")) {
        let object: Value = serde_json::from_str(line).expect(line);
        assert!(object["level"].is_string() && object["time"].is_number(), "{line}");
    }
}

#[test]
fn places_and_tokens_that_are_none_are_refused_in_one_line() {
    let place = Place::new();
    place.file("x", 10);
    fs::write(place.path("weak"), "secret").unwrap();
    let weak = place.path("weak").to_str().unwrap().to_owned();
    mode(&weak, 0o600);
    fs::write(place.path("long"), "x".repeat(100_000)).unwrap();
    let long = place.path("long").to_str().unwrap().to_owned();
    mode(&long, 0o600);
    fs::write(place.path("open"), TOKEN).unwrap();
    let open = place.path("open").to_str().unwrap().to_owned();
    mode(&open, 0o644);
    let files = place.path("files").to_str().unwrap().to_owned();
    let serve = |options: &[&str]| {
        place.run(&[&["serve", &files, "--listen", "127.0.0.1:0"], options].concat())
    };
    assert_failed(&serve(&["--admin", "0.0.0.0:9000"]), 2, "ssh -L");
    assert_failed(&serve(&["--admin", "9000"]), 2, "127.0.0.1:PORT");
    let with_token = |file| serve(&["--admin", "127.0.0.1:0", "--admin-token-file", file]);
    assert_failed(&with_token(&weak), 2, "openssl rand -hex 32");
    assert_failed(&with_token(&long), 2, "openssl rand -hex 32");
    assert_failed(&with_token(&open), 4, "chmod 600");
    // Who serves receives nothing twice.
    let twice = ["--admin", "127.0.0.1:0", "--alert", "duplicates=0.1"];
    assert_failed(&serve(&twice), 2, "degraded=30");
    assert_failed(&serve(&["--admin", "127.0.0.1:0", "--alert", "love=1"]), 2, "degraded=30");
    assert_failed(&serve(&["--admin", "/no/such/folder/s"]), 5, "cannot listen");
    assert_failed(&place.run(&["ctl", "sessions"]), 2, "--admin");
    let nobody = place.path("nobody").to_str().unwrap().to_owned();
    assert_failed(&place.run(&["ctl", "--admin", &nobody, "sessions"]), 5, "no server answers");
}

#[test]
fn the_token_is_served_to_nobody() {
    let place = Place::new();
    place.file("x", 10);
    let file = place.path("files").join("token");
    fs::write(&file, TOKEN).unwrap();
    let file = file.to_str().unwrap();
    mode(file, 0o600);
    let socket = place.path("admin").to_str().unwrap().to_owned();
    let server = place.serve("one", &["--admin", &socket, "--admin-token-file", file]);
    assert_done(&place.run(&["get", &server.link("x"), "-o", "-"]));
    let refused = place.run(&["get", &server.link("token"), "-o", "-"]);
    assert_failed(&refused, 3, "no object token here");
    // Who has it not is told so, whatever is asked for.
    for command in ["sessions", "events"] {
        let refused = place.run(&["ctl", "--admin", &socket, command]);
        assert_failed(&refused, 4, "a token is needed");
    }
}

/// Opens the page in a browser, where there is one, during a download of three servers.
#[test]
fn the_page_shows_three_sources_in_a_browser() {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    let Some(browser) = names.iter().find(is_there) else {
        eprintln!("SKIPPED: no Chromium on this machine");
        return;
    };
    let mut stage = Stage::at(Some("127.0.0.1:0"), &[]);
    wait_until(|| log(&stage.place).contains("administration: "));
    let log_text = log(&stage.place);
    let url = log_text.split("administration: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    stage.socket = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let download = Download::begin(&stage.place, &stage.primary.link("x"));
    stage.session();
    let profile = format!("--user-data-dir={}", stage.place.path("profile").display());
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", &profile, "--enable-logging=stderr"])
        .args(["--virtual-time-budget=4000", "--dump-dom", &url])
        .output()
        .unwrap();
    let (page, said) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    for path in 0..3 {
        assert!(page.contains(&format!("data-path=\"{path}\"")), "{page}");
    }
    assert!(page.contains("Limited by "), "{page}");
    assert!(!said.contains("CONSOLE"), "{said}");
    let (rest, code) = download.end();
    assert!(code == Some(0) && rest == stage.data[1..]);
}
