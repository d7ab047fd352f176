//! Gets that go on with another primary, which their own one names.

use std::{
    fs::{self, File},
    process::Child,
    thread,
    time::{Duration, Instant},
};

use crate::common::{
    Place, Server, assert_done, assert_failed, names, serving::signal, wait_until,
};

const SIZE: usize = 20_000_000;
/// What a server sends a second that is to be at it for a while: a client's own limit does not keep
/// what is on its way from coming whole.
pub const SLOW: [&str; 2] = ["--rate", "8M"];

/// Servers of one place, each with a state folder and files of its own name, if there are such.
pub struct Servers<'a> {
    pub place: &'a Place,
}

impl Servers<'_> {
    /// Its log is called as it is.
    pub fn start(&self, name: &str, listen: &str, options: &[&str]) -> Server {
        let own = self.place.path(&format!("files-{name}"));
        let files = if own.exists() { own } else { self.place.path("files") };
        let state = self.place.path(name);
        let serve = ["serve", files.to_str().unwrap(), "--listen", listen, "--state"];
        let mut command = self.place.kwik(&serve);
        command.arg(state).args(options);
        command.stderr(File::create(self.place.path(&format!("{name}.log"))).unwrap());
        Server::spawn(&mut command)
    }

    /// One that names `successor`.
    fn before(&self, name: &str, successor: &Server, options: &[&str]) -> Server {
        let link = successor.edge();
        self.start(name, "127.0.0.1:0", &[&["--successor", &link], options].concat())
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.place.path(&format!("{name}.log"))).unwrap()
    }
}

/// A get that lasts, and what it says.
pub struct Get<'a> {
    place: &'a Place,
    child: Child,
    log: String,
}

impl<'a> Get<'a> {
    pub fn begin(place: &'a Place, number: usize, link: &str, options: &[&str]) -> Self {
        let (log, target) = (format!("get{number}.log"), number.to_string());
        let get = ["get", link, "-o", &target, "--progress", "json"];
        let mut get = place.kwik(&[&get[..], options].concat());
        let child = get.stderr(File::create(place.path(&log)).unwrap()).spawn().unwrap();
        Self { place, child, log }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(self.place.path(&self.log)).unwrap()
    }

    /// Until so many bytes are verified.
    pub fn wait_for(&self, bytes: u64) {
        let verified = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            event["verified"].as_u64().unwrap_or_default() >= bytes
        };
        wait_until(|| self.said().lines().any(verified));
    }

    /// It fails with this code: what it said last.
    pub fn failed(&mut self, code: i32) -> String {
        let status = self.child.wait().unwrap();
        let said = self.said();
        assert_eq!(status.code(), Some(code), "{said}");
        said.lines().last().unwrap().to_owned()
    }

    /// It ends well: its last event.
    pub fn done(&mut self) -> serde_json::Value {
        let status = self.child.wait().unwrap();
        let said = self.said();
        assert!(status.success(), "{said}");
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    }
}

pub fn end(mut server: Server, name: &str) {
    signal(&server.child, name);
    server.child.wait().unwrap();
}

/// As clients see it when one primary after the other is stopped, and its edges, too: what is
/// fetched again is little, and no get fails.
#[test]
fn a_rolling_restart_of_two_primaries_hands_clients_over() {
    thread::scope(|scope| {
        for with_edges in [false, true] {
            scope.spawn(move || restart_under_clients(with_edges));
        }
    });
}

fn restart_under_clients(with_edges: bool) {
    const CLIENTS: usize = 10;
    let place = Place::new();
    let data = place.file("x", SIZE / 2);
    let servers = Servers { place: &place };
    let pins = ["a", "b"].map(|name| {
        let id = place.run(&["id", "--state", place.path(name).to_str().unwrap()]);
        String::from_utf8(id.stdout).unwrap().trim().to_owned()
    });
    let trust = ["--trust", &pins[0], "--trust", &pins[1]];
    let edge = servers.start("edge", "127.0.0.1:0", &trust);
    let (edge_link, edge_address) = (edge.edge(), edge.address.clone());
    let edges = ["--edge", &edge_link];
    let options =
        [if with_edges { &edges[..] } else { &[] }, &["--drain", "0", "--rate", "20M"]].concat();
    // Each names the other: one of them learns of that while it runs.
    let config = place.path("a.conf");
    fs::write(&config, "[serve]\n").unwrap();
    let configured = [&["--config", config.to_str().unwrap()], &options[..]].concat();
    let a = servers.start("a", "127.0.0.1:0", &configured);
    let (link, address) = (a.link("x"), a.address.clone());
    let b = servers.before("b", &a, &options);
    let mut gets: Vec<_> = (0..CLIENTS)
        .map(|number| Get::begin(&place, number, &link, &["--timeout", "5s"]))
        .collect();
    gets[0].wait_for(1);
    fs::write(&config, format!("[serve]\nsuccessor = {}\n", b.edge())).unwrap();
    signal(&a.child, "-HUP");
    wait_until(|| servers.log("a").contains("reloaded: 1 successor"));
    thread::sleep(Duration::from_millis(500));
    end(edge, "-KILL");
    end(a, "-TERM");
    let _edge = servers.start("edge", &edge_address, &trust);
    thread::sleep(Duration::from_secs(2));
    let _a = servers.start("a", &address, &configured);
    end(b, "-TERM");
    let mut handed = 0;
    for get in &mut gets {
        let done = get.done();
        let received = done["received"].as_u64().unwrap();
        assert!(received <= data.len() as u64 * 105 / 100, "{received}: {}", get.said());
        handed += usize::from(done["sessions"].as_u64().unwrap() > 1);
    }
    // Edges may bring all that was left.
    assert!(handed > 0 || with_edges, "{handed}");
    for number in 0..CLIENTS {
        assert!(fs::read(place.path("out").join(number.to_string())).unwrap() == data);
    }
    assert_eq!(place.outputs().len(), CLIENTS);
}

/// Whatever ends a primary: the get goes on where it was.
#[test]
fn a_get_goes_on_with_the_server_that_its_own_one_named() {
    for (name, options) in [("-TERM", &["--drain", "0"][..]), ("-KILL", &[])] {
        let place = Place::new();
        let data = place.file("x", SIZE);
        let servers = Servers { place: &place };
        let b = servers.start("b", "127.0.0.1:0", &[]);
        let a = servers.before("a", &b, &[&SLOW, options].concat());
        let mut get = Get::begin(&place, 0, &a.link("x"), &["--timeout", "3s"]);
        get.wait_for(2_000_000);
        end(a, name);
        let done = get.done();
        let said = get.said();
        assert!(said.contains(&format!("going on with {}", b.address)), "{said}");
        assert!(done["received"].as_u64().unwrap() <= SIZE as u64 * 105 / 100, "{said}");
        assert_eq!(done["sessions"], 2);
        assert!(fs::read(place.path("out/0")).unwrap() == data);
    }
}

/// Its own one ends for a while yet, and takes nothing new: what is under way comes from there.
#[test]
fn of_a_folder_what_was_not_begun_comes_from_the_next_server() {
    let place = Place::new();
    for number in 0..600 {
        place.file(&format!("f/{number:03}"), 20_000);
    }
    place.file("f/000", SIZE);
    let servers = Servers { place: &place };
    let b = servers.start("b", "127.0.0.1:0", &[]);
    let a = servers.before("a", &b, &SLOW);
    let mut get = Get::begin(&place, 0, &a.link("f/"), &[]);
    get.wait_for(1_000_000);
    signal(&a.child, "-TERM");
    let done = get.done();
    assert_eq!((&done["fetched"], &done["failed"]), (&600.into(), &0.into()), "{}", get.said());
    assert_eq!(done["sessions"], 2, "{}", get.said());
    assert_eq!(get.said().matches("going on with").count(), 1, "{}", get.said());
    // It is not called ended while something is under way, and says what it is asked no more.
    let log = servers.log("a");
    assert!(!log.contains("may go on with") && !log.contains("refused"), "{log}");
    let (files, out) = (place.path("files/f"), place.path("out/0"));
    assert_eq!(names(&files), names(&out));
    for name in names(&files) {
        assert!(fs::read(files.join(&name)).unwrap() == fs::read(out.join(&name)).unwrap());
    }
}

/// One that is named when the server ends already is gone on with, too.
#[test]
fn it_is_not_too_late_for_a_successor_while_a_server_ends() {
    let place = Place::new();
    place.file("f/000", SIZE);
    for number in 1..400 {
        place.file(&format!("f/{number:03}"), 20_000);
    }
    let servers = Servers { place: &place };
    let b = servers.start("b", "127.0.0.1:0", &[]);
    let config = place.path("a.conf");
    fs::write(&config, "[serve]\n").unwrap();
    let options = [&["--config", config.to_str().unwrap()], &SLOW[..]].concat();
    let a = servers.start("a", "127.0.0.1:0", &options);
    let mut get = Get::begin(&place, 0, &a.link("f/"), &[]);
    get.wait_for(1_000_000);
    signal(&a.child, "-TERM");
    wait_until(|| servers.log("a").contains("may finish"));
    fs::write(&config, format!("[serve]\nsuccessor = {}\n", b.edge())).unwrap();
    signal(&a.child, "-HUP");
    let done = get.done();
    assert_eq!((&done["fetched"], &done["failed"]), (&400.into(), &0.into()), "{}", get.said());
    assert_eq!(get.said().matches("going on with").count(), 1, "{}", get.said());
}

/// Who comes while a server ends is told where to go; a secret is that of the link, or the one that
/// stands before the successor's `@`.
#[test]
fn who_comes_at_the_end_is_sent_on() {
    thread::scope(|scope| {
        for own_secret in [false, true] {
            scope.spawn(move || send_on(own_secret));
        }
    });
}

fn send_on(own_secret: bool) {
    let place = Place::new();
    let data = place.file("x", SIZE);
    for (file, secret) in [("one", "0123456789abcdef"), ("two", "fedcba9876543210")] {
        fs::write(place.path(file), secret).unwrap();
        let path = place.path(file);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let servers = Servers { place: &place };
    let secret = |file: &str| ["--secret-file".to_owned(), place.path(file).display().to_string()];
    let b_secret = secret(if own_secret { "two" } else { "one" });
    let b_options: Vec<_> = b_secret.iter().map(String::as_str).collect();
    let b = servers.start("b", "127.0.0.1:0", &b_options);
    let b_link = if own_secret { b.link("") } else { b.edge() };
    let a_secret = secret("one");
    let a_options = [a_secret[0].as_str(), &a_secret[1], "--successor"];
    let a_options = [&a_options[..], &[b_link.trim_end_matches('/')], &SLOW].concat();
    let a = servers.start("a", "127.0.0.1:0", &a_options);
    // It is busy until then.
    let mut get = Get::begin(&place, 0, &a.link("x"), &[]);
    get.wait_for(1);
    signal(&a.child, "-TERM");
    wait_until(|| servers.log("a").contains("1 download may finish"));
    assert_done(&place.run(&["get", &a.link("x"), "-o", "late"]));
    assert!(fs::read(place.path("out/late")).unwrap() == data);
    get.done();
    assert!(fs::read(place.path("out/0")).unwrap() == data);
}

/// A successor that is of no use costs no get: its own server may be back.
#[test]
fn a_successor_that_is_of_no_use_is_done_without() {
    let kinds = [
        ("lacks the object", "no object x"),
        ("has another key", "not "),
        ("asks for a secret", "asks for a secret"),
        ("is not there", "no answer from"),
    ];
    thread::scope(|scope| {
        for (kind, line) in kinds {
            scope.spawn(move || go_on_without(kind, line));
        }
    });
}

fn go_on_without(kind: &str, line: &str) {
    let place = Place::new();
    let data = place.file("x", SIZE);
    let servers = Servers { place: &place };
    let secret: &[&str] = if kind == "asks for a secret" { &["--secret"] } else { &[] };
    if kind == "lacks the object" {
        fs::create_dir(place.path("files-b")).unwrap();
        fs::write(place.path("files-b/y"), b"y").unwrap();
    }
    let b = servers.start("b", "127.0.0.1:0", secret);
    let link = match kind {
        "has another key" => format!("kwik://{}@{}", "ab".repeat(32), b.address),
        _ => b.edge(),
    };
    let options = [&["--successor", &link], &SLOW[..]].concat();
    let a = servers.start("a", "127.0.0.1:0", &options);
    let address = a.address.clone();
    let mut get = Get::begin(&place, 0, &a.link("x"), &["--timeout", "2s"]);
    get.wait_for(2_000_000);
    let b = (kind != "is not there").then_some(b);
    end(a, "-KILL");
    wait_until(|| get.said().contains("going on with"));
    let _a = servers.start("a", &address, &["--successor", &link]);
    let done = get.done();
    assert!(get.said().contains(line), "{kind}: {}", get.said());
    assert!(done["received"].as_u64().unwrap() <= SIZE as u64 * 105 / 100, "{}", get.said());
    assert!(fs::read(place.path("out/0")).unwrap() == data);
    drop(b);
}

/// Another version there is fetched anew, and never mixed with what came.
#[test]
fn another_version_at_the_next_server_is_fetched_anew() {
    let place = Place::new();
    place.file("x", SIZE);
    fs::create_dir(place.path("files-b")).unwrap();
    let other = vec![9; SIZE];
    fs::write(place.path("files-b/x"), &other).unwrap();
    let servers = Servers { place: &place };
    let b = servers.start("b", "127.0.0.1:0", &[]);
    let a = servers.before("a", &b, &[&SLOW[..], &["--drain", "0"]].concat());
    let mut get = Get::begin(&place, 0, &a.link("x"), &[]);
    get.wait_for(2_000_000);
    end(a, "-TERM");
    get.done();
    assert!(get.said().contains("fetching it anew"), "{}", get.said());
    assert!(fs::read(place.path("out/0")).unwrap() == other);
}

/// Two that name each other, and both end: a get that nobody serves comes to an end.
#[test]
fn servers_that_point_at_each_other_lead_nobody_in_a_circle() {
    let place = Place::new();
    place.file("x", SIZE);
    let servers = Servers { place: &place };
    let config = place.path("a.conf");
    fs::write(&config, "[serve]\n").unwrap();
    let slow = ["--rate", "1M"];
    let configured = [&["--config", config.to_str().unwrap()], &slow[..]].concat();
    let a = servers.start("a", "127.0.0.1:0", &configured);
    let b = servers.before("b", &a, &slow);
    fs::write(&config, format!("[serve]\nsuccessor = {}\n", b.edge())).unwrap();
    signal(&a.child, "-HUP");
    wait_until(|| servers.log("a").contains("reloaded: 1 successor"));
    // Both are busy, so that they do not end.
    let mut busy: Vec<_> = [(0, &a), (1, &b)]
        .map(|(number, server)| Get::begin(&place, number, &server.link("x"), &[]))
        .into();
    for (get, server) in busy.iter_mut().zip([&a, &b]) {
        get.wait_for(1);
        signal(&server.child, "-TERM");
    }
    wait_until(|| ["a", "b"].iter().all(|name| servers.log(name).contains("may finish")));
    let began = Instant::now();
    let get = ["get", &a.link("x"), "-o", "2", "--retry", "3", "--timeout", "2s", "-q"];
    let output = place.run(&get);
    assert_failed(&output, 1, "the server is shutting down");
    assert!(began.elapsed() < Duration::from_secs(60));
    assert!(!place.path("out/2").exists());
    for get in &mut busy {
        get.child.kill().unwrap();
        get.child.wait().unwrap();
    }
}

/// A line says what is wrong with a successor, before anything is served.
#[test]
fn a_wrong_successor_is_refused() {
    let place = Place::new();
    place.file("x", 10);
    let pin = "ab".repeat(32);
    let nine: Vec<_> = (1..10).map(|port| format!("kwik://{pin}@h:{port}")).collect();
    let nine: Vec<_> = nine.iter().flat_map(|link| ["--successor", link]).collect();
    for (options, line) in [
        (vec!["--successor", "kwik://h:1"], "kwik id"),
        (vec!["--successor", &format!("kwik://{pin}@h:1/x")], "leave out the name"),
        (nine, "9 successors"),
    ] {
        let serve = ["serve", "../files", "--listen", "127.0.0.1:0", "--state", "../state"];
        assert_failed(&place.run(&[&serve[..], &options].concat()), 2, line);
    }
}
