//! How `kwik serve` and its clients end: signals, and lists of edges that change.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixDatagram,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{
    Place, Server, assert_done, assert_failed,
    serving::{Download, log, logged, logged_at, serve, signal, texts},
    wait_until,
};

/// What a signal does to a server, and to a client that is fetching from it.
#[test]
fn a_server_that_ends_lets_its_clients_finish() {
    for (signals, options, whole, line) in [
        (&["-TERM"][..], &[][..], true, "1 download may finish, for 30 s"),
        (&["-INT"], &["--drain", "60"], true, "1 download may finish, for 60 s"),
        // Whoever asks twice does not wait, and whoever has no time neither.
        (&["-TERM", "-TERM"], &[], false, "interrupt again"),
        (&["-TERM"], &["--drain", "0"], false, ""),
        (&["-TERM"], &["--drain", "1"], false, "for 1 s"),
        (&["-HUP"], &[], true, "reloaded: 0 edges"),
    ] {
        let place = Place::new();
        let data = place.file("x", 100_000_000);
        let options = [&["--state", "../state"], options].concat();
        let mut server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
        let link = server.link("x");
        let download = Download::begin(&place, &link);
        for name in signals {
            signal(&server.child, name);
            wait_until(|| log(&place).contains(line));
        }
        let reloaded = signals[0] == "-HUP";
        if !whole {
            wait_until(|| server.child.try_wait().unwrap().is_some());
        } else if !reloaded {
            // Nobody new is let in meanwhile.
            let refused = place.run(&["get", &link, "--retry", "0", "-o", "-"]);
            assert_failed(&refused, 5, "busy: try again");
        }
        let (rest, code) = download.end();
        let said = fs::read_to_string(place.path("get-log")).unwrap();
        if whole {
            assert!(rest == data[1..], "{signals:?}");
            assert_eq!(code, Some(0), "{said}");
        } else {
            assert_eq!(code, Some(5), "{said}");
            assert!(said.contains("the server is shutting down"), "{said}");
        }
        if reloaded {
            assert!(server.child.try_wait().unwrap().is_none());
            assert_done(&place.run(&["get", &link, "-o", "/dev/null"]));
            signal(&server.child, "-TERM");
        }
        wait_until(|| server.child.try_wait().unwrap().is_some());
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{signals:?}");
    }
}

/// The end of the primary costs no download that edges can finish, whatever end that is.
#[test]
fn edges_finish_what_a_primary_that_ended_has_begun() {
    for (name, options) in [
        ("-TERM", &["--drain", "0"][..]),
        ("-TERM", &["--drain", "1"]),
        ("-INT", &["--drain", "0"]),
        ("-KILL", &[]),
    ] {
        let place = Place::new();
        let data = place.file("x", 100_000_000);
        let id = place.run(&["id", "--state", "../primary"]);
        let pin = String::from_utf8(id.stdout).unwrap();
        let edge = place.serve("edge", &["--trust", pin.trim()]);
        let link = edge.edge();
        let options = [&["--state", "../primary", "--edge", &link], options].concat();
        let mut server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
        let download = Download::begin(&place, &server.link("x"));
        signal(&server.child, name);
        wait_until(|| server.child.try_wait().unwrap().is_some());
        let graceful = name != "-KILL";
        let told = log(&place).contains("clients fetch the rest from the edges");
        assert_eq!(told, graceful, "{}", log(&place));
        let (rest, code) = download.end();
        let said = fs::read_to_string(place.path("get-log")).unwrap();
        assert_eq!(code, Some(0), "{said}");
        assert!(rest == data[1..]);
        let ended = server.child.wait().unwrap().code();
        assert_eq!(ended, graceful.then_some(0));
    }
}

/// Of a large object the client needs hashes that only the primary has: it has them in time.
#[test]
fn a_large_object_comes_whole_without_the_primary() {
    for name in ["-TERM", "-KILL"] {
        let place = Place::new();
        place.file("x", 0);
        // Above 256 MiB: its hashes have two pages.
        let size = 400 << 20;
        File::options().write(true).open(place.path("files/x")).unwrap().set_len(size).unwrap();
        let id = place.run(&["id", "--state", "../primary"]);
        let pin = String::from_utf8(id.stdout).unwrap();
        let edge = place.serve("edge", &["--trust", pin.trim()]);
        let link = edge.edge();
        let options = ["--state", "../primary", "--edge", &link, "--drain", "0"];
        let mut server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
        let download = Download::begin(&place, &server.link("x"));
        signal(&server.child, name);
        wait_until(|| server.child.try_wait().unwrap().is_some());
        let (rest, code) = download.end();
        let said = fs::read_to_string(place.path("get-log")).unwrap();
        assert_eq!(code, Some(0), "{name}: {said}");
        assert_eq!(rest.len() as u64, size - 1);
    }
}

/// An edge that ends gracefully says so, and costs nothing.
#[test]
fn an_edge_that_ends_hands_over_what_it_has() {
    let place = Place::new();
    let data = place.file("x", 100_000_000);
    let id = place.run(&["id", "--state", "../primary"]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let mut edge = place.serve("edge", &["--trust", pin.trim()]);
    let link = edge.edge();
    let options = ["--state", "../primary", "--edge", &link];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    let download = Download::begin(&place, &server.link("x"));
    signal(&edge.child, "-TERM");
    thread::sleep(Duration::from_millis(300));
    let (rest, code) = download.end();
    assert_eq!(code, Some(0));
    assert!(rest == data[1..]);
    wait_until(|| edge.child.try_wait().unwrap().is_some());
    assert_eq!(edge.child.wait().unwrap().code(), Some(0));
    assert!(log(&place).contains("the server is shutting down"), "{}", log(&place));
}

/// A list of edges that changes while a server runs: one of its own, or the configuration file.
#[test]
fn a_changed_list_of_edges_counts_from_the_signal_on() {
    for (option, before, line) in
        [("--edges", "# none yet\n", ""), ("--config", "[serve]\n", "edge = ")]
    {
        change_edges(option, before, line);
    }
}

fn change_edges(option: &str, before: &str, line: &str) {
    let place = Place::new();
    place.file("x", 30_000_000);
    let list = place.path("list");
    fs::write(&list, before).unwrap();
    let id = place.run(&["id", "--state", "../primary"]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let edge = place.serve("edge", &["--trust", pin.trim()]);
    let options = ["--state", "../primary", option, list.to_str().unwrap()];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    let paths = || {
        let output = place.run(&["get", &server.link("x"), "--force", "--json"]);
        assert_done(&output);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["paths"].as_array().unwrap().len()
    };
    assert_eq!(paths(), 1);
    fs::write(&list, format!("{before}{line}{}\n", edge.edge())).unwrap();
    signal(&server.child, "-HUP");
    wait_until(|| log(&place).contains("reloaded: 1 edge"));
    assert_eq!(paths(), 2);
    // A list that is wrong changes nothing.
    File::options().append(true).open(&list).unwrap().write_all(b"nonsense\n").unwrap();
    signal(&server.child, "-HUP");
    wait_until(|| log(&place).contains("the edges stay as they are"));
    assert!(log(&place).contains("line 3 of "), "{}", log(&place));
    assert_eq!(paths(), 2);
}

/// However `demo` ends, its servers end with it.
#[test]
fn the_servers_of_a_demo_end_with_it() {
    let place = Place::new();
    place.file("x", 10);
    // Until it has begun: it takes long enough to be killed in the middle.
    let mut command = place.kwik(&["demo"]);
    command.env("TMPDIR", place.path("")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut demo = command.spawn().unwrap();
    let mut said = String::new();
    let mut stdout = demo.stdout.take().unwrap();
    let mut buffer = [0; 4096];
    while !said.contains("primary ") {
        let length = stdout.read(&mut buffer).unwrap();
        assert!(length > 0, "{said}");
        said.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    let parent = demo.id().to_string();
    let children = Command::new("ps").args(["-o", "pid=", "--ppid", &parent]).output().unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    assert_eq!(children.split_whitespace().count(), 3, "{children}");
    demo.kill().unwrap();
    demo.wait().unwrap();
    for child in children.split_whitespace() {
        wait_until(|| !is_running(child));
    }
}

/// Whether a process is there, and no corpse that nobody buries.
fn is_running(id: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.contains("\nState:") && !status.contains("\nState:\tZ")
}

/// A supervisor is told when the server is ready, and when it ends.
#[test]
fn a_supervisor_hears_of_the_start_and_the_end() {
    let place = Place::new();
    place.file("x", 10);
    let path = place.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let heard = || {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = place.kwik(&texts(&serve(&place, &[])));
    let mut server = logged(&place, command.env("NOTIFY_SOCKET", &path));
    assert_eq!(heard(), "READY=1");
    signal(&server.child, "-TERM");
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

/// An edge whose clock is behind is named by its primary, with what to do.
#[test]
fn an_edge_whose_clock_is_wrong_is_named() {
    let place = Place::new();
    let source = r#"
        #define _GNU_SOURCE
        #include <sys/syscall.h>
        #include <time.h>
        #include <unistd.h>
        int clock_gettime(clockid_t id, struct timespec *now) {
            int result = syscall(SYS_clock_gettime, id, now);
            if (id == CLOCK_REALTIME) now->tv_sec -= 60;
            return result;
        }
    "#;
    fs::write(place.path("clock.c"), source).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-o", "clock.so", "clock.c"])
        .current_dir(place.path(""))
        .stderr(Stdio::null())
        .status();
    if !cfg!(target_os = "linux") || !compiled.is_ok_and(|status| status.success()) {
        return;
    }
    let data = place.file("x", 60_000_000);
    let id = place.run(&["id", "--state", "../primary"]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let options = ["--state", "../edge", "--trust", pin.trim()];
    let mut command = place.kwik(&texts(&serve(&place, &options)));
    let edge = Server::spawn(command.env("LD_PRELOAD", place.path("clock.so")));
    let link = edge.edge();
    let options = ["--state", "../primary", "--edge", &link];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    let download = Download::begin(&place, &server.link("x"));
    wait_until(|| log(&place).contains("set both servers' clocks"));
    assert!(log(&place).contains(&format!("edge={}", edge.address)), "{}", log(&place));
    let (rest, code) = download.end();
    assert_eq!(code, Some(0));
    assert!(rest == data[1..]);
    // The doctor says so where it is run.
    let mut doctor = place.kwik(&["doctor", &server.link("x")]);
    let output = doctor.env("LD_PRELOAD", place.path("clock.so")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("warn  clocks")).unwrap();
    assert!(line.contains("s behind the server's: of two servers"), "{text}");
}

/// An edge is found by the second address of its name, and one that does not trust the primary is
/// named.
#[test]
fn all_addresses_of_an_edge_are_tried() {
    let place = Place::new();
    let data = place.file("x", 100_000_000);
    let id = place.run(&["id", "--state", "../primary"]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let edge = place.serve("edge", &["--trust", pin.trim()]);
    let stranger = place.serve("stranger", &[]);
    // Where localhost is ::1 too, nobody listens there.
    let named = edge.edge().replace("127.0.0.1", "localhost");
    let options = ["--state", "../primary", "--edge", &named, "--edge", &stranger.edge()];
    let mut command = place.kwik(&texts(&serve(&place, &options)));
    let server = logged_at("debug", &place, &mut command);
    let download = Download::begin(&place, &server.link("x"));
    wait_until(|| log(&place).contains("is not trusted here"));
    // What is not fetched until then is fetched from both.
    let began = std::time::Instant::now();
    let joined = format!("edge joined edge={}", edge.address);
    while !log(&place).contains(&joined) {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", log(&place));
        thread::sleep(Duration::from_millis(100));
    }
    let (rest, code) = download.end();
    assert_eq!(code, Some(0));
    assert!(rest == data[1..]);
}
