//! The `kwik` command, run as a process over loopback.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::Duration,
};

use common::{Place, Server, assert_done, assert_failed, interrupt, names, wait_until};

#[test]
fn an_identity_is_stable_and_private() {
    let place = Place::new();
    let state = place.path("state");
    let arguments = ["id", "--state", state.to_str().unwrap()];
    let first = place.run(&arguments);
    assert_done(&first);
    assert_eq!(first.stdout.len(), 65);
    assert_eq!(place.run(&arguments).stdout, first.stdout);
    // Without --state it is where XDG says.
    assert_done(&place.run(&["id"]));
    assert!(place.path("xdg/kwik/identity").exists());

    let key = state.join("identity");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_failed(&place.run(&arguments), 4, "chmod 600 ");
}

#[test]
fn a_file_arrives_whole_through_three_servers() {
    let place = Place::new();
    let data = place.file("folder/a b.bin", 20_000_000);
    let id = place.run(&["id", "--state", place.path("primary").to_str().unwrap()]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let edges = ["one", "two"].map(|state| place.serve(state, &["--trust", pin.trim()]));
    let links = edges.each_ref().map(Server::edge);
    let primary = place.serve("primary", &["--edge", &links[0], "--edge", &links[1]]);
    assert_eq!(primary.fingerprint, pin.trim());

    let output = place.run(&["get", &primary.link("folder/a%20b.bin"), "--json"]);
    assert_done(&output);
    assert_eq!(fs::read(place.path("out/a b.bin")).unwrap(), data);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["name"], "folder/a b.bin");
    assert_eq!(json["size"], 20_000_000);
    assert_eq!(json["blake3"], blake3::hash(&data).to_hex().as_str());
    assert_eq!(json["verified"], true);
    assert!(json["longest_stall_seconds"].as_f64().unwrap() > 0.0);
    let addresses: Vec<_> =
        json["paths"].as_array().unwrap().iter().map(|path| path["address"].clone()).collect();
    assert_eq!(addresses[0], primary.address.as_str());
    assert!(edges.iter().all(|edge| addresses.contains(&edge.address.as_str().into())));

    // What is there under a name that nobody gave stays, unless it is to be replaced.
    fs::write(place.path("out/a b.bin"), b"old").unwrap();
    let link = primary.link("folder/a%20b.bin");
    assert_failed(&place.run(&["get", &link]), 6, "--force");
    assert_eq!(fs::read(place.path("out/a b.bin")).unwrap(), b"old");
    let output = place.run(&["get", &link, "--force"]);
    assert_done(&output);
    assert_eq!(fs::read(place.path("out/a b.bin")).unwrap(), data);
    assert!(String::from_utf8(output.stderr).unwrap().trim().ends_with("verified"));
    assert_eq!(place.outputs(), ["a b.bin"]);
}

#[test]
fn verbose_says_of_each_server_what_it_brought_and_why() {
    let place = Place::new();
    place.file("x", 5_000_000);
    let id = place.run(&["id", "--state", place.path("primary").to_str().unwrap()]);
    let pin = String::from_utf8(id.stdout).unwrap();
    let edge = place.serve("edge", &["--trust", pin.trim()]);
    let primary = place.serve("primary", &["--edge", &edge.edge()]);
    let output = place.run(&["get", &primary.link("x"), "-v"]);
    assert_done(&output);
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("round trip ")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, server) in lines.iter().zip([&primary, &edge]) {
        let parts = ["round trip ", " pieces and ", "moved in ", ", out ", ", twice ", "; "];
        assert!(line.contains(&server.address), "{line}");
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    assert!(text.lines().any(|line| line.starts_with("limited by ")), "{text}");
    let output = place.run(&["get", &primary.link("x"), "--force"]);
    assert!(!String::from_utf8(output.stderr).unwrap().contains("round trip"));
}

#[test]
fn output_goes_where_it_is_told() {
    let place = Place::new();
    let data = place.file("x", 3_000_000);
    place.file("empty", 0);
    let server = place.serve("state", &[]);
    let link = server.link("x");
    let output = place.run(&["get", &link, "-o", "-"]);
    assert_done(&output);
    assert!(output.stdout == data);
    assert!(place.outputs().is_empty());

    assert_done(&place.run(&["get", &link, "--output", "y"]));
    assert_done(&place.run(&["get", &link, "--output", "y"]));
    assert!(fs::read(place.path("out/y")).unwrap() == data);
    assert_done(&place.run(&["get", &server.link("empty")]));
    assert_eq!(fs::read(place.path("out/empty")).unwrap(), b"");

    assert_failed(&place.run(&["get", &link, "-o", "no/x"]), 6, "does not exist");
    // Into a folder, under its own name.
    assert_done(&place.run(&["get", &link, "-o", "."]));
    assert_failed(&place.run(&["get", &link, "-o", "."]), 6, "--force");
    assert!(fs::read(place.path("out/x")).unwrap() == data);
    fs::remove_file(place.path("out/x")).unwrap();
    assert_failed(&place.run(&["get", &link, "-o", "/proc/x"]), 6, "/proc/x");
    assert_failed(&place.run(&["get", &link, "-o", "-", "--json"]), 2, "--json");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = place.kwik(&["get", &link, "-o", "-"]).stdout(full).output().unwrap();
    assert_failed(&output, 6, "No space left");
    assert_eq!(place.outputs(), ["empty", "y"]);
}

#[test]
fn what_is_not_there_is_not_found() {
    let place = Place::new();
    place.file("x", 1);
    fs::write(place.path("secret"), b"secret").unwrap();
    let server = place.serve("state", &[]);
    assert_failed(&place.run(&["get", &server.link("nothing")]), 3, "nothing");
    // Any bytes are a name's, and none of them the terminal's.
    assert_failed(&place.run(&["get", &server.link("a%0aERROR")]), 3, r"no object a\nERROR here");
    for name in ["../secret", "%2e%2e/secret", "a/../../secret", "", "/etc/passwd", "a%00b"] {
        assert_failed(&place.run(&["get", &server.link(name)]), 2, "name");
    }
    assert_failed(&place.run(&["serve", "/no/such", "--listen", "127.0.0.1:0"]), 6, "/no/such");
    assert!(place.outputs().is_empty());
}

#[test]
fn wrong_usage_is_one_line() {
    let place = Place::new();
    assert_failed(&place.run(&["serve"]), 2, "<SOURCE>");
    assert_failed(&place.run(&["get", "http://x/y"]), 2, "kwik://FINGERPRINT@HOST:PORT/NAME");
    assert_failed(&place.run(&["get", "kwik://h:1/x", "--jsno"]), 2, "--json");
    assert_failed(&place.run(&["serve", ".", "--listen", "1.2.3"]), 2, "1.2.3");
    assert_failed(&place.run(&["serve", ".", "--listen", "h:x"]), 2, "localhost:4433");
    let help = place.run(&["--help"]);
    assert_done(&help);
    assert!(String::from_utf8(help.stdout).unwrap().contains("Exit codes"));
}

#[test]
fn a_wrong_key_is_refused() {
    let place = Place::new();
    place.file("x", 1);
    let server = place.serve("state", &[]);
    let wrong = format!("kwik://{}@{}/x", "ab".repeat(32), server.address);
    let output = place.run(&["get", &wrong]);
    assert_failed(&output, 4, &server.fingerprint);
    assert!(place.outputs().is_empty());
}

#[test]
fn trust_on_first_use_is_asked_for_remembered_and_checked() {
    let place = Place::new();
    place.file("x", 1);
    let server = place.serve("one", &[]);
    let link = format!("kwik://{}/x", server.address);
    assert_failed(&place.run(&["get", &link]), 4, "--trust-on-first-use");
    let output = place.run(&["get", &link, "--trust-on-first-use"]);
    assert_done(&output);
    assert!(String::from_utf8(output.stderr).unwrap().contains(&server.fingerprint));
    assert_done(&place.run(&["get", &link, "--force"]));

    let known = place.path("xdg/kwik/known_servers");
    let line = fs::read_to_string(&known).unwrap();
    assert_eq!(line, format!("{} {}\n", server.address, server.fingerprint));
    fs::write(&known, format!("{} {}\n", server.address, "ab".repeat(32))).unwrap();
    for options in [&[][..], &["--trust-on-first-use"]] {
        let arguments = [&["get", &link, "--force"], options].concat();
        assert_failed(&place.run(&arguments), 4, "has changed");
    }
}

#[test]
fn addresses_that_cannot_be_used_are_named() {
    let place = Place::new();
    place.file("x", 1);
    let server = place.serve("state", &[]);
    let state = place.path("other");
    let taken = ["serve", ".", "--listen", &server.address, "--state", state.to_str().unwrap()];
    assert_failed(&place.run(&taken), 5, "another port");

    let silent = server.link("x");
    drop(server);
    let output = place.run(&["get", &silent, "--timeout", "4"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{message}");
    // What is waited for is said meanwhile.
    let lines: Vec<_> = message.lines().collect();
    assert!(
        matches!(lines[..], [waiting, failed] if waiting.starts_with("waiting for 127.0.0.1:")
        && failed.contains("no answer")),
        "{message}"
    );
    let link = silent.replace("127.0.0.1", "no-such-host.invalid");
    assert_failed(&place.run(&["get", &link]), 5, "no-such-host.invalid");
}

#[test]
fn ctrl_c_leaves_no_file() {
    let place = Place::new();
    place.file("x", 1_000_000);
    let mut server = place.serve("state", &[]);
    // A pipe that nobody reads: the transfer is under way and cannot end.
    fs::write(place.path("files/large"), vec![0; 400_000_000]).unwrap();
    // Slow enough that it is not over before it is interrupted.
    let slow = ["get", &server.link("large"), "--limit-rate", "20M"];
    let mut get = place.kwik(&slow).stderr(Stdio::null()).spawn().unwrap();
    wait_until(|| names(&place.path("out")).iter().any(|name| name.ends_with(".kwik-part")));
    interrupt(&get);
    assert_eq!(get.wait().unwrap().code(), Some(130));
    assert!(place.outputs().is_empty());

    let mut pipe = place
        .kwik(&["get", &server.link("large"), "-o", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&pipe);
    wait_until(|| pipe.try_wait().unwrap().is_some());
    assert_eq!(pipe.wait().unwrap().code(), Some(130));

    interrupt(&server.child);
    wait_until(|| server.child.try_wait().unwrap().is_some());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_demo_ends_verified() {
    let place = Place::new();
    place.file("small", 10);
    let data = place.file("large", 30_000_000);
    for options in [&[][..], &["--kill"]] {
        let folder = place.path("files");
        let output = place.run(&[&["demo", folder.to_str().unwrap()], options].concat());
        assert_done(&output);
        let text = String::from_utf8(output.stdout).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.contains("verified") && last.contains(blake3::hash(&data).to_hex().as_str()));
        assert!(text.contains("large, 28.6 MiB"), "{text}");
        assert_eq!(text.contains("killed"), !options.is_empty());
    }
    assert!(place.outputs().is_empty());
}
