//! `kwik serve --admin` and `kwik ctl`: a server that runs is seen and changed.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use common::{
    Place, assert_done, assert_failed,
    serving::{Download, log, signal},
    stage::{Stage, TOKEN, mode},
    wait_until,
};
use serde_json::Value;

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
    assert!(log.contains("command=\"change edge\"") && log.contains("by=user "), "{log}");
}

/// Edges of more weight join first; that is changed while the server runs, and stays so.
#[test]
fn an_edge_gets_another_weight() {
    let stage = Stage::new(&[]);
    let edge = &stage.edges[1].fingerprint;
    let changed = stage.json(&["weigh-edge", edge, "7"]);
    assert_eq!((&changed["edge"], &changed["weight"]), (&edge[..].into(), &7.into()));
    stage.json(&["reload"]);
    let edges = stage.json(&["edges"]);
    let weights = edges["edges"].as_array().unwrap().iter().map(|edge| &edge["weight"]);
    assert_eq!(weights.collect::<Vec<_>>(), [&Value::from(1), &7.into()]);
    assert_failed(&stage.ctl(&["weigh-edge", &"ab".repeat(32), "7"]), 3, "no such edge");
    assert_failed(&stage.ctl(&["weigh-edge", edge, "heavy"]), 2, "heavy");
}

/// What says where `kwik ctl` finds a server makes no server listen there.
#[test]
fn the_variable_of_kwik_ctl_is_not_that_of_kwik_serve() {
    let stage = Stage::new(&[]);
    let mut listing = stage.place.kwik(&["ctl", "sessions"]);
    assert_done(&listing.env("KWIK_ADMIN", &stage.socket).output().unwrap());
    let files = stage.place.path("files");
    let another = ["serve", files.to_str().unwrap(), "--listen", "127.0.0.1:0", "--state", "other"];
    let mut another = stage.place.kwik(&another);
    let mut another = common::Server::spawn(another.env("KWIK_ADMIN", &stage.socket));
    another.child.kill().unwrap();
    another.child.wait().unwrap();
    assert_done(&stage.ctl(&["sessions"]));
}

/// A server that other machines may command, and what they need.
struct Remote {
    place: Place,
    server: common::Server,
    url: String,
    token: String,
    cert: String,
    key: String,
}

impl Remote {
    /// Its certificate and key are in these files of its own.
    fn new(chain: &str, signing: &str) -> Self {
        let place = Place::new();
        place.file("x", 10);
        let (token, cert, key) = (
            keep(&place, "token", TOKEN),
            keep(&place, "cert", chain),
            keep(&place, "key", signing),
        );
        let files = place.path("files");
        let serve = ["serve", files.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let admin = ["--admin", "0.0.0.0:0", "--admin-cert", &cert, "--admin-key", &key];
        let all = [&serve[..], &admin, &["--admin-token-file", &token]].concat();
        let server = common::serving::logged(&place, &mut place.kwik(&all));
        wait_until(|| log(&place).contains("administration: https://"));
        let text = log(&place);
        let port = text.split("https://0.0.0.0:").nth(1).unwrap().split('/').next().unwrap();
        let url = format!("https://127.0.0.1:{port}");
        Self { place, server, url, token, cert, key }
    }

    fn ctl(&self, options: &[&str]) -> Output {
        self.place.run(&[&["ctl", "--admin", &self.url], options, &["sessions"]].concat())
    }

    /// With the token, by who trusts this certificate.
    fn trusting(&self, ca: &str) -> Output {
        self.ctl(&["--admin-ca", ca, "--admin-token-file", &self.token])
    }

    /// Gives it another certificate while it runs.
    fn renew(&self, chain: &str, signing: &str) {
        fs::write(&self.cert, chain).unwrap();
        fs::write(&self.key, signing).unwrap();
        signal(&self.server.child, "-HUP");
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.server.child.kill().ok();
        self.server.child.wait().ok();
    }
}

/// A file that its owner alone may read.
fn keep(place: &Place, name: &str, text: &str) -> String {
    let path = place.path(name).to_str().unwrap().to_owned();
    fs::write(&path, text).unwrap();
    mode(&path, 0o600);
    path
}

/// A certificate and its key.
fn made() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Other machines reach an interface that has a certificate and a token, and none that has not.
#[test]
fn another_machine_comes_in_over_tls_with_the_token() {
    let (chain, signing) = made();
    let remote = Remote::new(&chain, &signing);
    let Remote { place, token, cert, key, .. } = &remote;
    let wrong = keep(place, "ca", &made().0);
    let admin = ["--admin", "0.0.0.0:0", "--admin-cert", cert, "--admin-key", key];
    let files = place.path("files");
    let serve = ["serve", files.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    // Each of them is needed.
    let without = |options: &[&str], says| {
        assert_failed(&place.run(&[&serve[..], options].concat()), 2, says);
    };
    without(&admin, "--admin-token-file");
    without(&["--admin", "0.0.0.0:0", "--admin-token-file", token], "ssh -L");
    without(&["--admin", "0.0.0.0:0", "--admin-cert", cert], "--admin-key");
    let swapped = ["--admin", "0.0.0.0:0", "--admin-cert", key, "--admin-key", cert];
    without(&[&swapped[..], &["--admin-token-file", token]].concat(), "certificate");
    // A file that is longer than can be is not cut.
    let long = keep(place, "long", &format!("{chain}{}", "-".repeat(300_000)));
    let long = ["--admin", "0.0.0.0:0", "--admin-cert", &long, "--admin-key", key];
    without(&[&long[..], &["--admin-token-file", token]].concat(), "more than 262144 bytes");

    let output = remote.trusting(cert);
    assert_done(&output);
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("name"));
    assert_failed(&remote.trusting(&wrong), 4, "cannot trust");
    assert_failed(&remote.trusting(&wrong), 4, "give as --admin-ca the certificate that it has");
    assert_failed(&remote.ctl(&["--admin-token-file", token]), 2, "--admin-ca");
    let plain = ["ctl", "--admin", "192.0.2.1:9433", "sessions"];
    assert_failed(&place.run(&plain), 2, "https://192.0.2.1:9433");
}

/// Nobody fills it by guessing.
#[test]
fn who_has_not_the_token_is_in_the_log_and_once() {
    let (chain, signing) = made();
    let remote = Remote::new(&chain, &signing);
    for _ in 0..3 {
        assert_failed(&remote.ctl(&["--admin-ca", &remote.cert]), 4, "a token is needed");
    }
    let text = log(&remote.place);
    assert_eq!(text.matches("it has not the token").count(), 1, "{text}");
    assert!(text.contains("path=/api/v1/sessions") && text.contains("who=127.0.0.1:"), "{text}");
}

#[test]
fn files_to_trust_that_hold_no_certificate_or_too_much_are_refused() {
    let (chain, signing) = made();
    let remote = Remote::new(&chain, &signing);
    assert_failed(&remote.trusting(&remote.token), 2, "has no certificate");
    let long = keep(&remote.place, "long", &format!("{chain}{}", "-".repeat(300_000)));
    assert_failed(&remote.trusting(&long), 2, "more than 262144 bytes");
}

#[test]
fn a_renewed_certificate_counts_after_a_reload_and_a_broken_one_does_not() {
    let (chain, signing) = made();
    let remote = Remote::new(&chain, &signing);
    let (renewed, key) = made();
    let trusted = keep(&remote.place, "ca", &renewed);
    assert_failed(&remote.trusting(&trusted), 4, "cannot trust");
    remote.renew(&renewed, &key);
    wait_until(|| remote.trusting(&trusted).status.success());
    // Its key is that of the one before.
    remote.renew(&renewed, &signing);
    wait_until(|| log(&remote.place).contains("going on with the certificate before"));
    assert_done(&remote.trusting(&trusted));
}

/// It is what openssl makes by itself.
#[test]
fn an_authoritys_certificate_at_a_server_is_refused_with_what_to_do() {
    let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signing = rcgen::KeyPair::generate().unwrap();
    let authority = params.self_signed(&signing).unwrap();
    let remote = Remote::new(&authority.pem(), &signing.serialize_pem());
    let output = remote.trusting(&remote.cert);
    assert_failed(&output, 4, "-addext basicConstraints=critical,CA:FALSE");
}

/// The command that docs/operations.md has for it makes a certificate that works.
#[test]
fn the_documented_openssl_command_makes_a_certificate_that_works() {
    let text = include_str!("../../../docs/operations.md");
    let at = text.find("openssl req -x509").unwrap();
    let command = text[at..].split("\n```").next().unwrap();
    assert!(command.contains("192.0.2.10"), "{command}");
    let command = command.replace("192.0.2.10", "127.0.0.1");
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh").args(["-ec", &command]).current_dir(&folder).output().unwrap();
    if made.status.code() == Some(127) {
        return common::skip("there is no openssl on this machine: apt-get install openssl");
    }
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    let remote = Remote::new(&read("cert.pem"), &read("key.pem"));
    assert_done(&remote.trusting(&remote.cert));
    // The token is one, too: it is another's, and not refused for its form or its mode.
    let token = folder.path().join("token");
    let other = ["--admin-ca", &remote.cert, "--admin-token-file", token.to_str().unwrap()];
    assert_failed(&remote.ctl(&other), 4, "a token is needed");
}

/// One switch, at each of the three.
#[test]
fn connections_of_a_download_are_traced_at_both_ends() {
    let place = Place::new();
    place.file("x", 300_000);
    let folder = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let (there, here) = (folder("qlog-serve"), folder("qlog-get"));
    let mut server = place.serve("one", &["--qlog", &there]);
    assert_done(&place.run(&["get", &server.link("x"), "--qlog", &here]));
    let named = |folder: &str, part: &str| {
        let names = common::names(Path::new(folder));
        let found = names.iter().filter(|name| name.contains(part) && name.ends_with(".sqlog"));
        found.count()
    };
    assert_eq!((named(&here, "-client-path0."), named(&here, "-events.")), (1, 1));
    wait_until(|| named(&there, "-primary-path0-") == 1 && named(&there, "-events.") == 1);
    place.file("a file", 1);
    // Another process writes there.
    let busy = place.run(&["get", &server.link("x"), "--qlog", &there, "--force"]);
    assert_failed(&busy, 6, "each process needs a folder of its own: choose another --qlog");
    let refused = place.run(&["get", &server.link("x"), "--qlog", "../files/a file", "--force"]);
    assert_failed(&refused, 6, "cannot write qlogs");
    server.child.kill().unwrap();
    server.child.wait().unwrap();
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
