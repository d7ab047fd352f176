//! `kwik serve` from the shell, row by row: what is run, how it ends, the line that says so, and
//! what a client gets.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    Place, Server, assert_done, assert_failed,
    serving::{Download, as_nobody, log, logged, serve, signal, texts},
    wait_until,
};

/// Servers that do not start, for a reason that is said in one line.
#[test]
fn what_cannot_be_served_is_refused_in_one_line() {
    let place = Place::new();
    place.file("x", 10);
    fs::write(place.path("list"), "# edges\n\nkwik://h:1\n").unwrap();
    fs::create_dir(place.path("damaged")).unwrap();
    fs::write(place.path("damaged/identity"), b"short").unwrap();
    fs::set_permissions(place.path("damaged/identity"), fs::Permissions::from_mode(0o600)).unwrap();
    let damaged = place.path("damaged").to_str().unwrap().to_owned();
    let list = place.path("list").to_str().unwrap().to_owned();
    let pin = "ab".repeat(32);
    let link = |rest: &str| format!("kwik://{pin}@{rest}");
    let (named, portless) = (link("h:1/x"), link("h"));
    for (options, code, line) in [
        // What people write for an address, and an example of what is meant.
        (&["--listen", "1.2.3"][..], 2, "localhost:4433 or :4433"),
        (&["--listen", "h:x"], 2, "\"x\" is no port"),
        (&["--listen", ":65536"], 2, "\"65536\" is no port"),
        (&["--listen", ""], 2, "192.0.2.1:4433"),
        (&["--listen", "h:1:2"], 2, "brackets"),
        (&["--listen", "[::g]:1"], 2, "is no IPv6 address"),
        (&["--listen", "a b:1"], 2, "neither an IP address nor a host name"),
        (&["--listen", "no-such-host.invalid:1"], 5, "no-such-host.invalid"),
        (&["--listen", "192.0.2.77:0"], 5, "choose an address of this machine"),
        // Edges.
        (&["--edge", "kwik://h:1"], 2, "an edge needs its fingerprint"),
        (&["--edge", &named], 2, "leave out the name"),
        (&["--edge", &portless], 2, "the port is missing"),
        (&["--edges", "/no/such"], 6, "cannot read the list of edges /no/such"),
        (&["--edges", &list], 2, "line 3 of "),
        // Numbers.
        (&["--max-sessions", "0"], 2, "--max-sessions 100"),
        (&["--max-sessions", "many"], 2, "--max-sessions 100"),
        (&["--drain", "soon"], 2, "--drain"),
        (&["--rate", "fast"], 2, "20M"),
        (&["--rate", "0"], 2, "20M"),
        (&["--access-log", "/no/such/log"], 6, "cannot open the access log /no/such/log"),
        (&["--quarantine", "0"], 2, "--quarantine"),
        (&["--trust", "abc"], 2, "--trust"),
        // A key that is damaged is not replaced by another.
        (&["--state", &damaged], 6, "is damaged: restore it"),
    ] {
        let output = place.run(&texts(&serve(&place, options)));
        assert_failed(&output, code, line);
        assert!(output.stdout.is_empty(), "{options:?}");
    }
    let fifo = place.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (source, line) in [("/no/such", "No such file"), (fifo.to_str().unwrap(), "neither")] {
        assert_failed(&place.run(&["serve", source, "--listen", "127.0.0.1:0"]), 6, line);
    }
}

/// Addresses that people write, and links that work.
#[test]
fn each_printed_link_works() {
    let place = Place::new();
    let data = place.file("x", 100_000);
    for (listen, host) in [
        (&["127.0.0.1:0"][..], "@127.0.0.1:"),
        (&["[::1]:0"], "@[::1]:"),
        (&["localhost:0"], "@localhost:"),
        (&["0.0.0.0:0"], ""),
        (&["[::]:0"], ""),
        (&[":0"], ""),
        (&["0"], ""),
        (&["127.0.0.1:0", "[::1]:0"], "@[::1]:"),
    ] {
        let listens: Vec<_> = listen.iter().flat_map(|listen| ["--listen", listen]).collect();
        let mut command = place.kwik(&texts(&serve(&place, &listens)));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut greeting = String::new();
        let mut stdout = child.stdout.take().unwrap();
        let mut buffer = [0; 4096];
        while greeting.matches("kwik get ").count() < listen.len() || !greeting.ends_with('\n') {
            let length = stdout.read(&mut buffer).unwrap();
            greeting.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        let links: Vec<_> =
            greeting.lines().filter_map(|line| line.split_once("kwik get ")).collect();
        assert_eq!(links.len(), listen.len(), "{greeting}");
        assert!(links.iter().any(|(_, link)| link.contains(host)), "{greeting}");
        assert!(!greeting.contains("@0.0.0.0") && !greeting.contains("@[::]"), "{greeting}");
        for (_, link) in links {
            let output = place.run(&["get", link, "-o", "-"]);
            assert_done(&output);
            assert!(output.stdout == data, "{link}");
        }
        signal(&child, "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{listen:?}");
    }
}

/// An address of a link, with its zone: where this machine has one.
#[test]
fn a_link_local_address_is_printed_with_its_zone() {
    let addresses = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let Some(line) = addresses.lines().find(|line| line.starts_with("fe80")) else { return };
    let words: Vec<_> = line.split_whitespace().collect();
    let groups: Vec<_> = (0..32).step_by(4).map(|at| &words[0][at..at + 4]).collect();
    let listen = format!("[{}%{}]:0", groups.join(":"), words[5]);
    let place = Place::new();
    place.file("x", 1000);
    let server = Server::spawn(&mut place.kwik(&texts(&serve(&place, &["--listen", &listen]))));
    assert!(server.address.contains(&format!("%{}]", words[5])), "{}", server.address);
    assert_done(&place.run(&["get", &server.link("x")]));
}

/// One wrong part does not stop the whole: what is wrong, and what is said of it.
#[test]
fn a_server_starts_whatever_is_broken_below_it() {
    let nothing: fn(&Place) = |_| {};
    let pin = "ab".repeat(32);
    let unknown = format!("kwik://{pin}@no-such-host.invalid:4433");
    let silent = format!("kwik://{pin}@127.0.0.1:9");
    for (what, prepare, options, line) in [
        (
            "a subfolder that may not be read",
            (|place| {
                place.file("lost+found/y", 10);
                let folder = place.path("files/lost+found");
                fs::set_permissions(folder, fs::Permissions::from_mode(0o000)).unwrap();
            }) as fn(&Place),
            &[][..],
            "1 folder cannot be read, such as ",
        ),
        ("an edge whose name is not found", nothing, &["--edge", &unknown], "no-such-host.invalid"),
        ("an edge that does not answer", nothing, &["--edge", &silent], ""),
        (
            "a state folder that cannot be made",
            |place| {
                fs::create_dir(place.path("closed")).unwrap();
                let mode = fs::Permissions::from_mode(0o555);
                fs::set_permissions(place.path("closed"), mode).unwrap();
            },
            &["--state", "../closed/state"],
            "another fingerprint after each start",
        ),
        (
            "a state folder that has the key and cannot be written",
            |place| {
                let state = place.path("fixed");
                let made = as_nobody(place, &["id", "--state", "../fixed"]).output().unwrap();
                assert_done(&made);
                fs::set_permissions(state, fs::Permissions::from_mode(0o555)).unwrap();
            },
            &["--state", "../fixed"],
            "hashes are kept in memory",
        ),
    ] {
        let place = Place::new();
        let data = place.file("x", 300_000);
        // The state of a server that is not root's.
        as_nobody(&place, &["id"]).output().unwrap();
        prepare(&place);
        let server = logged(&place, &mut as_nobody(&place, &texts(&serve(&place, options))));
        for name in ["x", "x"] {
            let output = place.run(&["get", &server.link(name), "-o", "-"]);
            assert_done(&output);
            assert!(output.stdout == data, "{what}");
        }
        wait_until(|| log(&place).contains(line));
        let state = place.path("closed");
        if state.exists() {
            assert!(!state.join("state").exists(), "{what}");
        }
        drop(server);
        restore(&place.path("files"));
        restore(&place.path(""));
    }
}

/// So that temporary folders can be removed.
fn restore(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

/// `ulimit -f`: what is written beyond it fails, and nothing else.
#[test]
fn a_file_size_limit_does_not_end_a_server() {
    let place = Place::new();
    // Its outboard is larger than a block of 512 bytes.
    let data = place.file("x", 3_000_000);
    let arguments = serve(&place, &["--state", "../state"]);
    assert_done(&place.run(&["id", "--state", "../state"]));
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -f 1; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kwik")])
        .args(&arguments)
        .current_dir(place.path("out"))
        .env("XDG_STATE_HOME", place.path("xdg"))
        .stdin(Stdio::null());
    // Its log is a file too, and would be cut off.
    let mut server = Server::spawn(command.stderr(Stdio::null()));
    for _ in 0..2 {
        let output = place.run(&["get", &server.link("x"), "-o", "-"]);
        assert_done(&output);
        assert!(output.stdout == data);
    }
    assert!(server.child.try_wait().unwrap().is_none());
}

/// What a client is told when an object does not come, and what the operator reads of it.
#[test]
fn every_refusal_says_why_at_both_ends() {
    let place = Place::new();
    place.file("x", 10);
    place.file("closed", 10);
    place.file(".hidden", 10);
    place.file("folder/y", 10);
    place.file("e\u{301}te\u{301}", 10);
    fs::write(place.path("secret"), b"secret").unwrap();
    symlink("../secret", place.path("files/out")).unwrap();
    symlink("nowhere", place.path("files/broken")).unwrap();
    let made = Command::new("mkfifo").arg(place.path("files/fifo")).status();
    assert!(made.unwrap().success());
    let closed = place.path("files/closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    as_nobody(&place, &["id"]).output().unwrap();
    let server = logged(&place, &mut as_nobody(&place, &texts(&serve(&place, &[]))));
    for (name, code, client, operator) in [
        ("nothing", 3, "no object nothing here", "no object nothing here"),
        ("closed", 1, "the server may not read the object", "closed: Permission denied"),
        (".hidden", 3, "no object .hidden here", "--hidden was not given"),
        ("folder", 3, "folder is a folder: end the link in /", "it is a folder"),
        ("fifo", 3, "no object fifo here", "it is no regular file"),
        ("folder//", 2, "no empty segments", ""),
        ("x/y", 3, "no object x/y here", "no object x/y here"),
        ("out", 3, "no object out here", "a symbolic link leads out of the folder"),
        ("broken", 3, "no object broken here", "no object broken here"),
        ("%C3%A9t%C3%A9", 3, "other code points: e%CC%81te%CC%81", "other code points"),
        ("%C3%A9te", 3, "no object", "no object"),
    ] {
        let output = place.run(&["get", &server.link(name), "-o", "got"]);
        assert_failed(&output, code, client);
        // Nothing of the server's own paths.
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains(place.path("").to_str().unwrap()), "{said}");
        wait_until(|| log(&place).contains(operator));
        if code != 2 {
            // Whose request it was, and what for.
            let line = log(&place).lines().last().unwrap().to_owned();
            assert!(line.contains("refused") && line.contains("client=127.0.0.1:"), "{line}");
            assert!(line.contains("name="), "{line}");
        }
    }
    assert_done(&place.run(&["get", &server.link("e%CC%81te%CC%81"), "-o", "got"]));
    // A server of one file.
    let files = place.path("files/x");
    let arguments = ["serve", files.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let alone = logged(&place, &mut as_nobody(&place, &arguments));
    assert_failed(&place.run(&["get", &alone.link("folder/y"), "-o", "z"]), 3, "no object");
    wait_until(|| log(&place).contains("one file alone is served"));
    fs::set_permissions(closed, fs::Permissions::from_mode(0o644)).unwrap();
}

/// What happens to a file while it is fetched.
#[test]
fn a_file_that_changes_under_way_is_named() {
    const SIZE: usize = 100_000_000;
    let append = |path: &Path| {
        File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
    };
    for (what, change, whole) in [
        ("appended to", append as fn(&Path), false),
        ("written over", |path| fs::write(path, vec![1; SIZE]).unwrap(), false),
        ("cut off", |path| File::create(path).unwrap().set_len(9).unwrap(), false),
        ("removed", |path| fs::remove_file(path).unwrap(), true),
        (
            "replaced",
            |path| {
                fs::write(path.with_extension("new"), b"other").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            true,
        ),
        (
            "closed",
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap(),
            true,
        ),
    ] {
        let place = Place::new();
        let data = place.file("x", SIZE);
        let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &[]))));
        let download = Download::begin(&place, &server.link("x"));
        change(&place.path("files/x"));
        let (rest, code) = download.end();
        let said = fs::read_to_string(place.path("get-log")).unwrap();
        if whole {
            assert_eq!(code, Some(0), "{what}: {said}");
            assert!(rest == data[1..], "{what}");
        } else {
            assert_eq!(code, Some(1), "{what}: {said}");
            assert!(said.contains("object x changed while it was read"), "{what}: {said}");
            // What came before it is the old file's.
            assert!(data[1..].starts_with(&rest), "{what}");
            assert!(log(&place).contains("object x changed while it was read"), "{what}");
        }
    }
}

/// An edge that brings nothing is named by its primary, with the reason.
#[test]
fn an_edge_that_brings_nothing_is_named_with_the_reason() {
    for (what, prepare, reason) in [
        ("lacks the file", (|_: &Path| {}) as fn(&Path), "no object \u{e9}"),
        (
            "has its name in other code points",
            |files| fs::write(files.join("e\u{301}"), b"x").unwrap(),
            "other code points: e%CC%81",
        ),
        (
            "has another version",
            |files| fs::write(files.join("\u{e9}"), b"x").unwrap(),
            "another version",
        ),
        ("has it hidden", |files| symlink(".x", files.join("\u{e9}")).unwrap(), "no object \u{e9}"),
    ] {
        let place = Place::new();
        let data = place.file("\u{e9}", 60_000_000);
        let others = place.path("others");
        fs::create_dir(&others).unwrap();
        prepare(&others);
        let id = place.run(&["id", "--state", "../primary"]);
        let pin = String::from_utf8(id.stdout).unwrap();
        let edge = Server::start(&place, &others, "edge", &["--trust", pin.trim()]);
        let link = edge.edge();
        let options = ["--state", "../primary", "--edge", &link];
        let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
        let output = place.run(&["get", &server.link("%C3%A9"), "-o", "-"]);
        assert_done(&output);
        assert!(output.stdout == data, "{what}");
        wait_until(|| log(&place).contains("an edge brings nothing"));
        let log = log(&place);
        let line = log.lines().find(|line| line.contains("an edge brings nothing")).unwrap();
        assert!(line.contains(reason), "{what}: {line}");
        assert!(line.contains(&edge.address) && line.contains(&edge.fingerprint), "{line}");
    }
}

/// What is left out is counted and said once.
#[test]
fn names_that_cannot_be_served_are_counted() {
    let place = Place::new();
    place.file("x", 10);
    place.file("sub/fine", 10);
    // Within what a path may have, and longer than a name.
    let deep = place.path("files").join(["d"; 4].map(|letter| letter.repeat(250)).join("/"));
    fs::create_dir_all(&deep).unwrap();
    for letter in ["a", "b", "c", "e"] {
        fs::write(deep.join(letter.repeat(30)), b"x").unwrap();
    }
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &[]))));
    wait_until(|| log(&place).contains("cannot be served, such as"));
    let log = log(&place);
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("cannot be served, such as")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("kwik: 4 names ") && lines[0].contains("rename"), "{log}");
    assert_done(&place.run(&["get", &server.link("sub/fine")]));
}

/// A line a request, also of those that were refused.
#[test]
fn each_request_has_its_line_in_the_access_log() {
    let place = Place::new();
    let data = place.file("a\"b\u{e9}", 300_000);
    let log = place.path("access");
    let options = ["--access-log", log.to_str().unwrap()];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    let name = "a%22b%C3%A9";
    let lines = |path: &Path| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_done(&place.run(&["get", &server.link(name), "-o", "-"]));
    assert_failed(&place.run(&["get", &server.link("none"), "-o", "-"]), 3, "no object");
    wait_until(|| lines(&log).len() == 2);
    let [done, refused] = &lines(&log)[..] else { panic!() };
    assert_eq!(done["name"], "a\"b\u{e9}");
    assert_eq!((&done["size"], &done["sent"]), (&data.len().into(), &data.len().into()));
    assert_eq!((&done["outcome"], &done["part"]), (&"done".into(), &"whole".into()));
    assert!(done["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(done["time"].as_f64().unwrap() > 1e9 && done["seconds"].as_f64().unwrap() >= 0.0);
    assert_eq!((&refused["name"], &refused["size"]), (&"none".into(), &serde_json::Value::Null));
    assert!(refused["outcome"].as_str().unwrap().contains("no object none here"));
    // Moved away and made anew, as log rotation does.
    let old = place.path("access.1");
    fs::rename(&log, &old).unwrap();
    signal(&server.child, "-HUP");
    wait_until(|| log.exists());
    assert_done(&place.run(&["get", &server.link(name), "-o", "-"]));
    wait_until(|| lines(&log).len() == 1);
    assert_eq!(lines(&old).len(), 2);
}

/// The rate is for all clients together.
#[test]
fn a_bounded_rate_is_kept() {
    let place = Place::new();
    let data = place.file("x", 1_000_000);
    let server = place.serve("state", &["--rate", "500k"]);
    let began = Instant::now();
    let gets: Vec<_> = (0..2)
        .map(|_| {
            let link = server.link("x");
            place.kwik(&["get", &link, "-o", "-"]).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for get in gets {
        let output = get.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == data);
    }
    // Two megabytes, but for what is not paid for when the last of it is there.
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
}

/// Nobody waits for hashes that were made from the start.
#[test]
fn objects_are_hashed_ahead_by_option() {
    let place = Place::new();
    let data = place.file("large", 20_000_000);
    place.file("sub/small", 10);
    place.file("empty", 0);
    let options = ["--hash-ahead", "--state", "../state"];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    wait_until(|| log(&place).contains("all objects are hashed objects=3"));
    assert!(log(&place).contains("failed=0"), "{}", log(&place));
    assert_eq!(fs::read_dir(place.path("state/catalogue")).unwrap().count(), 3);
    let output = place.run(&["get", &server.link("large"), "-o", "-"]);
    assert_done(&output);
    assert!(output.stdout == data);
}
