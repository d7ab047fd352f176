//! Edges whose copies are other than the primary's, from the shell.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "a test")]

mod common;

use std::{fs, time::Duration};

use common::{Place, Server, assert_done, content, wait_until};

/// A stale copy of one edge: the file comes, and the edge is named by both ends.
#[test]
fn an_edge_with_another_file_of_the_same_size_is_done_without_and_named() {
    let place = Place::new();
    let data = place.file("x", 20_000_000);
    let stale = place.path("stale");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("x"), vec![7; data.len()]).unwrap();
    let id = place.run(&["id", "--state", place.path("primary").to_str().unwrap()]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let edge = Server::start(&place, &stale, "edge", &["--trust", pin.trim()]);
    let log = place.path("log");
    let state = place.path("primary");
    let files = place.path("files");
    let mut primary = place.kwik(&[
        "serve",
        files.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--edge",
        &edge.edge(),
        "--state",
        state.to_str().unwrap(),
        // It looks into the edge as a client of its own, which it lets in.
        "--secret",
    ]);
    primary.env("KWIK_LOG", "warn").stderr(fs::File::create(&log).unwrap());
    let primary = Server::spawn(&mut primary);
    // A get may be done before the edge has joined its session.
    let mut found = false;
    for _ in 0..20 {
        let mut get = place.kwik(&["get", &primary.link("x"), "-o", "x", "--json"]);
        let output = get.env("KWIK_LOG", "warn").output().unwrap();
        assert_done(&output);
        assert!(fs::read(place.path("out/x")).unwrap() == data);
        let mut get = place.kwik(&["get", &primary.link("x"), "-o", "-"]);
        assert!(get.output().unwrap().stdout == data);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if json["liars"] == serde_json::json!([edge.address.as_str()]) {
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(&edge.address) && said.contains("other bytes"), "{said}");
            found = true;
            break;
        }
    }
    // In the pipe's get, if not in the file's.
    let known = || fs::read_to_string(&log).unwrap().contains("a client says");
    assert!(found || known());
    wait_until(|| fs::read_to_string(&log).unwrap().contains("leased nothing for now"));
    let log = fs::read_to_string(&log).unwrap();
    let named: Vec<_> =
        log.lines().filter(|line| line.contains("leased nothing for now")).collect();
    assert_eq!(named.len(), 1, "{log}");
    assert!(named[0].contains(&edge.address) && named[0].contains(&edge.fingerprint), "{log}");
    // It is brought in no more.
    let output = place.run(&["get", &primary.link("x"), "-o", "x", "--json"]);
    assert_done(&output);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["paths"].as_array().unwrap().iter().all(|path| path["address"] != edge.address));
}

/// An edge that knows that it has another version says so: the reason reaches both operators.
#[test]
fn an_edge_that_knows_of_another_version_says_so_to_both_operators() {
    let place = Place::new();
    place.file("short", 3_000_000);
    place.file("other", 3_000_000);
    let stale = place.path("stale");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("short"), vec![7; 2_000_000]).unwrap();
    fs::write(stale.join("other"), vec![7; 3_000_000]).unwrap();
    let logged = |name: &str, arguments: &[&str]| {
        let log = fs::File::create(place.path(name)).unwrap();
        let mut command = place.kwik(arguments);
        command.env("KWIK_LOG", "warn").stderr(log);
        Server::spawn(&mut command)
    };
    let state = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let id = place.run(&["id", "--state", &state("primary")]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let listen = ["--listen", "127.0.0.1:0"];
    let (stale, files) = (stale.to_str().unwrap(), state("files"));
    let serve = ["serve", stale, "--state", &state("edge"), "--trust", pin.trim(), "--public"];
    let edge = logged("edge.log", &[&serve[..], &listen].concat());
    let link = edge.edge();
    let serve = ["serve", &files, "--state", &state("primary"), "--edge", &link];
    let primary = logged("primary.log", &[&serve[..], &listen].concat());
    // The edge knows the hash of its own copy once somebody has asked for that.
    assert_done(&place.run(&["get", &edge.link("other"), "-o", "x"]));
    for name in ["short", "other"] {
        assert_done(&place.run(&["get", &primary.link(name), "-o", "x"]));
        let reason = format!("another version: {name} has ");
        for log in ["edge.log", "primary.log"] {
            wait_until(|| fs::read_to_string(place.path(log)).unwrap().contains(&reason));
        }
    }
    let log = fs::read_to_string(place.path("primary.log")).unwrap();
    assert!(log.contains(&edge.address) && log.contains(&edge.fingerprint), "{log}");
}

/// An edge whose copy has another time does not know yet whether it is another version: it looks,
/// and gives the lease up when it is. The reason reaches both operators, before a byte is wrong.
#[test]
fn an_edge_that_has_another_time_looks_whether_it_is_another_version() {
    let place = Place::new();
    place.file("same", 300_000);
    place.file("other", 300_000);
    let stale = place.path("stale");
    fs::create_dir(&stale).unwrap();
    fs::copy(place.path("files/same"), stale.join("same")).unwrap();
    fs::write(stale.join("other"), vec![7; 300_000]).unwrap();
    for name in ["same", "other"] {
        let file = fs::File::options().write(true).open(stale.join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }
    let state = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let id = place.run(&["id", "--state", &state("primary")]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let logged = |name: &str, arguments: &[&str]| {
        let log = fs::File::create(place.path(name)).unwrap();
        let mut command = place.kwik(&[arguments, &["--listen", "127.0.0.1:0"]].concat());
        command.env("KWIK_LOG", "info").stderr(log);
        Server::spawn(&mut command)
    };
    // So slow that the edge has looked before it has brought a group.
    let (stale, files) = (stale.to_str().unwrap(), state("files"));
    let serve = ["serve", stale, "--state", &state("edge"), "--trust", pin.trim()];
    let edge = logged("edge.log", &[&serve[..], &["--rate", "10k"]].concat());
    let link = edge.edge();
    let serve = ["serve", &files, "--state", &state("primary"), "--edge", &link];
    let primary = logged("primary.log", &[&serve[..], &["--rate", "100k"]].concat());
    let log = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    let target = place.path("x");
    for name in ["same", "other"] {
        assert_done(&place.run(&[
            "get",
            &primary.link(name),
            "--force",
            "-o",
            target.to_str().unwrap(),
        ]));
        assert_eq!(fs::read(&target).unwrap(), content(300_000));
        wait_until(|| log("edge.log").contains("another time than the primary's"));
    }
    for name in ["edge.log", "primary.log"] {
        wait_until(|| log(name).contains("another version: other has the hash "));
        assert!(!log(name).contains("another version: same"));
    }
}
