//! Servers that go away while a get lasts, and come back.

use std::{
    env, fs,
    io::Read,
    os::unix::net::UnixListener,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::common::{Place, Server, assert_done, names, wait_until};

const SIZE: usize = 20_000_000;

fn send(child: &Child, signal: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
}

/// A place, its object, and a server on a port that stays.
struct Broken {
    place: Place,
    data: Vec<u8>,
    address: String,
    link: String,
    server: Option<Server>,
}

impl Broken {
    fn new() -> Self {
        let place = Place::new();
        let data = place.file("x", SIZE);
        let server = place.serve("state", &[]);
        let (address, link) = (server.address.clone(), server.link("x"));
        Self { place, data, address, link, server: Some(server) }
    }

    fn serve_again(&mut self) {
        let (files, state) = (self.place.path("files"), self.place.path("state"));
        let serve = ["serve", files.to_str().unwrap(), "--listen", &self.address, "--state"];
        let serve = [&serve[..], &[state.to_str().unwrap()]].concat();
        self.server = Some(Server::spawn(&mut self.place.kwik(&serve)));
    }

    /// A get that lasts, once some of it has come.
    fn begin(&self, options: &[&str]) -> Get {
        let log = self.place.path("log");
        let get = ["get", &self.link, "--limit-rate", "8M", "--progress", "json"];
        let mut get = self.place.kwik(&[&get[..], options].concat());
        get.stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap());
        let mut child = get.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let reading = thread::spawn(move || {
            let mut read = Vec::new();
            stdout.read_to_end(&mut read).unwrap();
            read
        });
        let verified =
            |line: &str| line.contains(r#""verified":"#) && !line.contains(r#""verified":0"#);
        wait_until(|| self.said().lines().any(verified));
        Get { child, reading }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.path("log")).unwrap()
    }

    /// The get ends well, with its last of so many sessions: what it wrote to standard output.
    fn assert_whole(&self, get: Get, sessions: u32) -> Vec<u8> {
        let (code, output) = get.wait();
        let said = self.said();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!(r#""sessions":{sessions},"#)), "{said}");
        output
    }
}

struct Get {
    child: Child,
    reading: JoinHandle<Vec<u8>>,
}

impl Get {
    /// Its code, and what it wrote to standard output.
    fn wait(mut self) -> (Option<i32>, Vec<u8>) {
        let code = self.child.wait().unwrap().code();
        (code, self.reading.join().unwrap())
    }
}

#[test]
fn a_server_that_comes_back_costs_no_get() {
    for (signal, options, sessions) in
        // One that is asked to end lets its clients finish.
        [("-KILL", &[][..], 2), ("-TERM", &[], 1), ("-KILL", &["-o", "-"], 2)]
    {
        let mut broken = Broken::new();
        let get = broken.begin(&[options, &["--timeout", "10s"]].concat());
        let mut server = broken.server.take().unwrap();
        send(&server.child, signal);
        server.child.wait().unwrap();
        drop(server);
        broken.serve_again();
        let output = broken.assert_whole(get, sessions);
        let received = if options.is_empty() {
            assert_eq!(broken.place.outputs(), ["x"]);
            fs::read(broken.place.path("out/x")).unwrap()
        } else {
            output
        };
        assert!(received == broken.data, "{signal} {options:?}");
        let again = broken.said().contains("trying again in ");
        assert_eq!(again, sessions > 1, "{}", broken.said());
    }
}

/// All that was under way goes on in the next session, the large one where it was.
#[test]
fn a_folder_costs_one_session_more_when_its_server_comes_back() {
    let mut broken = Broken::new();
    for number in 0..200 {
        broken.place.file(&format!("small/{number}"), 5000);
    }
    fs::rename(broken.place.path("files/x"), broken.place.path("files/small/x")).unwrap();
    broken.link = broken.link.replace("/x", "/small/");
    let get = broken.begin(&["--timeout", "10s"]);
    drop(broken.server.take());
    broken.serve_again();
    broken.assert_whole(get, 2);
    let (files, out) = (broken.place.path("files/small"), broken.place.path("out/small"));
    assert_eq!(names(&files), names(&out));
    assert!(fs::read(out.join("x")).unwrap() == broken.data);
    let said = broken.said();
    assert_eq!(said.matches("trying again in ").count(), 1, "{said}");
    assert!(said.contains("\"failed\":0,"), "{said}");
}

/// A server that ends begins nothing new, and takes its time: what it did not begin waits for the
/// next one, however few tries there are.
#[test]
fn what_a_server_that_ends_does_not_begin_waits_for_the_next_one() {
    let place = Place::new();
    for number in 0..600 {
        place.file(&format!("f/{number:03}"), 20_000);
    }
    place.file("f/000", SIZE);
    let mut server = Restarted::start(&place, "state", &["--rate", "6M"]);
    let log = place.path("log");
    let link = server.server().link("f/");
    let get = ["get", &link, "--retry", "2", "--progress", "json"];
    let mut get = place.kwik(&get).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    wait_until(|| said().contains(r#""done":1"#));
    server.restart("-TERM");
    assert!(get.wait().unwrap().success(), "{}", said());
    assert!(said().contains(r#""failed":0,"#), "{}", said());
    assert!(said().contains(r#""sessions":2,"#), "{}", said());
    assert_eq!(names(&place.path("files/f")), names(&place.path("out/f")));
}

/// As a laptop that is closed, or Ctrl-Z: the session is long gone when it goes on.
#[test]
fn a_get_that_was_stopped_goes_on_with_another_session() {
    let mut broken = Broken::new();
    let get = broken.begin(&["--timeout", "5s"]);
    send(&get.child, "-STOP");
    drop(broken.server.take());
    broken.serve_again();
    thread::sleep(Duration::from_secs(1));
    send(&get.child, "-CONT");
    broken.assert_whole(get, 2);
    assert!(fs::read(broken.place.path("out/x")).unwrap() == broken.data);
}

/// A session whose client says nothing stays for half a minute.
#[test]
fn whoever_ends_leaves_no_session_behind() {
    let place = Place::new();
    let data = place.file("a/x", SIZE);
    place.file("a/y", 10);
    let admin = place.path("admin");
    let server = place.serve("state", &["--admin", admin.to_str().unwrap()]);
    let count = || {
        let list = place.run(&["ctl", "--admin", admin.to_str().unwrap(), "--json", "sessions"]);
        assert_done(&list);
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
        list["sessions"].as_array().unwrap().len()
    };
    let (x, folder) = (server.link("a/x"), server.link("a/"));
    fs::write(place.path("out/x"), data).unwrap();
    for done in [&["get", &x, "-o", "z"][..], &["get", &folder], &["ls", &folder], &["verify", &x]]
    {
        assert_done(&place.run(done));
        wait_until(|| count() == 0);
    }
    fs::remove_dir_all(place.path("out/a")).unwrap();
    let slowly = ["--limit-rate", "1M"];
    for begun in [&["get", &x, "-o", "zz"][..], &["get", &folder]] {
        for signal in ["-INT", "-TERM", "-HUP"] {
            let get = place.kwik(&[begun, &slowly].concat()).stderr(Stdio::null()).spawn();
            let mut get = get.unwrap();
            wait_until(|| count() == 1);
            send(&get, signal);
            assert!(!get.wait().unwrap().success());
            wait_until(|| count() == 0);
        }
    }
    // Of one that fails, too.
    assert!(!place.run(&["get", &server.link("none")]).status.success());
    assert!(!place.run(&["verify", &x, "none"]).status.success());
    wait_until(|| count() == 0);
}

#[test]
fn a_server_that_stays_away_is_given_up_and_what_came_is_kept() {
    let mut broken = Broken::new();
    let get = broken.begin(&["--timeout", "4s", "--retry", "2"]);
    drop(broken.server.take());
    let (code, _) = get.wait();
    let said = broken.said();
    assert_eq!(code, Some(5), "{said}");
    assert_eq!(said.matches("trying again in ").count(), 2, "{said}");
    assert!(said.lines().last().unwrap().contains("are kept"), "{said}");
    assert_eq!(broken.place.outputs(), [".x.kwik-part"]);
    broken.serve_again();
    assert_done(&broken.place.run(&["get", &broken.link]));
    assert!(fs::read(broken.place.path("out/x")).unwrap() == broken.data);
    assert_eq!(broken.place.outputs(), ["x"]);
}

/// The server may be started anew with another version while a get waits for it.
#[test]
fn a_version_that_changes_under_way_is_never_mixed() {
    for options in [&[][..], &["-o", "-"]] {
        let mut broken = Broken::new();
        let get = broken.begin(&[options, &["--timeout", "10s"]].concat());
        drop(broken.server.take());
        let changed = vec![9; SIZE];
        fs::write(broken.place.path("files/x"), &changed).unwrap();
        broken.serve_again();
        let (code, output) = get.wait();
        let said = broken.said();
        if options.is_empty() {
            assert_eq!(code, Some(0), "{said}");
            assert!(said.contains("fetching it anew"), "{said}");
            assert!(fs::read(broken.place.path("out/x")).unwrap() == changed);
        } else {
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("kwik: the object has changed"), "{said}");
            assert!(broken.data.starts_with(&output));
        }
    }
}

/// A server that can be started anew where it was.
struct Restarted<'a> {
    place: &'a Place,
    state: &'static str,
    options: Vec<String>,
    server: Option<Server>,
}

impl<'a> Restarted<'a> {
    fn start(place: &'a Place, state: &'static str, options: &[&str]) -> Self {
        let server = place.serve(state, options);
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self { place, state, options, server: Some(server) }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn restart(&mut self, signal: &str) {
        let mut old = self.server.take().unwrap();
        send(&old.child, signal);
        old.child.wait().unwrap();
        let (files, state) = (self.place.path("files"), self.place.path(self.state));
        let mut serve = self.place.kwik(&["serve", files.to_str().unwrap(), "--state"]);
        serve.arg(state).args(["--listen", &old.address]).args(&self.options);
        self.server = Some(Server::spawn(&mut serve));
    }
}

/// However a primary ends: killed, so that its edges go on, or asked to.
#[test]
fn a_rolling_restart_of_all_servers_costs_no_get() {
    for signals in [["-KILL", "-TERM", "-KILL"], ["-TERM", "-KILL", "-TERM"]] {
        restart_under_clients(signals);
    }
}

fn restart_under_clients(signals: [&str; 3]) {
    const CLIENTS: usize = 10;
    let place = Place::new();
    let data = place.file("x", SIZE);
    let id = place.run(&["id", "--state", place.path("primary").to_str().unwrap()]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let trust = ["--trust", pin.trim()];
    let mut servers: Vec<_> =
        ["one", "two"].map(|state| Restarted::start(&place, state, &trust)).into();
    let links: Vec<_> = servers.iter().map(|edge| edge.server().edge()).collect();
    let edges = ["--edge", &links[0], "--edge", &links[1]];
    servers.push(Restarted::start(&place, "primary", &edges));
    let link = servers[2].server().link("x");
    let log = |number: usize| place.path(&format!("log{number}"));
    let gets: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (target, stderr) = (number.to_string(), fs::File::create(log(number)).unwrap());
            let get = ["get", &link, "-o", &target, "--limit-rate", "3M", "--progress", "json"];
            place.kwik(&get).stderr(stderr).spawn().unwrap()
        })
        .collect();
    for (server, signal) in servers.iter_mut().zip(signals) {
        thread::sleep(Duration::from_secs(1));
        server.restart(signal);
    }
    for (number, mut get) in gets.into_iter().enumerate() {
        let status = get.wait().unwrap();
        let said = fs::read_to_string(log(number)).unwrap();
        assert!(status.success(), "{said}");
        let done: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        let received = done["received"].as_u64().unwrap();
        assert!(received <= SIZE as u64 * 105 / 100, "{received}: {said}");
        assert!(fs::read(place.path("out").join(number.to_string())).unwrap() == data);
    }
    assert_eq!(place.outputs().len(), CLIENTS);
}

/// Gets at once, unless `KWIK_GETS` says how many.
const GETS: usize = 12;

/// Server and clients have few descriptors.
#[test]
fn many_gets_at_once_come_whole() {
    let count = env::var("KWIK_GETS").map_or(GETS, |count| count.parse().unwrap());
    let place = Place::new();
    let data = place.file("x", 2_000_000);
    let limited = |arguments: &[&str]| {
        let mut command = place.kwik(arguments);
        let program = command.get_program().to_owned();
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""]).arg(program).args(arguments);
        shell.current_dir(place.path("out")).stdin(Stdio::null());
        for (name, value) in command.env("KWIK_LOG", "error").get_envs() {
            shell.env(name, value.unwrap());
        }
        shell
    };
    let (files, state) = (place.path("files"), place.path("state"));
    let serve = ["serve", files.to_str().unwrap(), "--listen", "127.0.0.1:0", "--state"];
    let server = Server::spawn(&mut limited(&[&serve[..], &[state.to_str().unwrap()]].concat()));
    let link = server.link("x");
    let targets: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    let start = |target: &String| {
        limited(&["get", &link, "-q", "-o", target, "--timeout", "2m"]).spawn().unwrap()
    };
    let gets: Vec<_> = targets.iter().map(start).collect();
    for (mut get, target) in gets.into_iter().zip(&targets) {
        assert!(get.wait().unwrap().success(), "{target}");
        assert!(fs::read(place.path("out").join(target)).unwrap() == data, "{target}");
    }
}

#[test]
fn a_socket_is_written_to() {
    let place = Place::new();
    let data = place.file("x", 300_000);
    let server = place.serve("state", &[]);
    let listener = UnixListener::bind(place.path("out/socket")).unwrap();
    let reading = thread::spawn(move || {
        let mut read = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut read).unwrap();
        read
    });
    assert_done(&place.run(&["get", &server.link("x"), "-o", "socket"]));
    assert!(reading.join().unwrap() == data);
    assert_eq!(place.outputs(), ["socket"]);
}
