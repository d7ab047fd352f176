//! Who may read from a server: what clients show, what they are told, and what stays unseen.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
};

use common::{
    Place, assert_done, assert_failed,
    serving::{Download, as_nobody, log, logged, logged_at, serve, signal, texts},
    wait_until,
};

/// What clients of one server show, in a row each, and how that ends: nothing for well.
fn assert_rows(place: &Place, rows: &[(&[&str], i32, &str)]) {
    for (arguments, code, line) in rows {
        let output = place.run(arguments);
        match code {
            0 => assert_done(&output),
            _ => {
                assert_failed(&output, *code, line);
                assert!(output.stdout.is_empty(), "{arguments:?}");
            }
        }
    }
}

/// What a command prints, without the end of its line.
fn printed(output: &Output) -> String {
    assert_done(output);
    String::from_utf8(output.stdout.clone()).unwrap().trim_end().to_owned()
}

#[test]
fn a_server_with_a_secret_lets_in_who_has_the_whole_link() {
    let place = Place::new();
    place.file("x", 200_000);
    let server = place.serve("state", &["--secret"]);
    let (whole, bare) = (server.link("x"), server.bare_link("x"));
    let secret = &server.who.split_once(':').unwrap().1.to_owned();
    assert_eq!(secret.len(), 32);
    let wrong = whole.replace(secret, &"f".repeat(32));
    let cut = whole.replace(secret, &secret[..8]);
    let mistyped = whole.replace("/x", "");
    let asks = "this server asks for a secret: take the whole link";
    assert_rows(
        &place,
        &[
            (&["get", &whole, "-o", "a"], 0, ""),
            (&["get", &bare, "-o", "-"], 4, asks),
            (&["get", &bare, "-o", "-", "--retry", "3"], 4, asks),
            (&["verify", &bare, "a"], 4, asks),
            (&["verify", &whole, "a"], 0, ""),
            (&["get", &wrong, "-o", "-"], 4, "the link's secret is not this server's"),
            (&["get", &cut, "-o", "-"], 2, "a secret is 16 to 128 letters"),
            (&["get", &mistyped, "-o", "-"], 2, ":…@127.0.0.1:"),
        ],
    );
    // It is made once.
    drop(server);
    let again = place.serve("state", &["--secret"]);
    assert!(again.who.ends_with(secret));
    let mode = fs::metadata(place.path("state/secret")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_secret_of_the_operator_is_never_served_itself() {
    let place = Place::new();
    place.file("x", 1000);
    let file = place.path("files/word");
    fs::write(&file, "correct-horse-battery\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let server = place.serve("state", &["--secret-file", file.to_str().unwrap()]);
    assert!(server.who.ends_with(":correct-horse-battery"), "{}", server.who);
    assert_rows(
        &place,
        &[
            (&["get", &server.link("x"), "-o", "-"], 0, ""),
            (&["get", &server.link("word"), "-o", "-"], 3, "no object word here"),
        ],
    );
}

#[test]
fn a_server_that_knows_its_clients_lets_in_those_alone() {
    let place = Place::new();
    place.file("x", 1000);
    let key = printed(&place.run(&["identity"]));
    let stranger = printed(&place.run(&["identity", "--state", "../stranger"]));
    assert_eq!(printed(&place.run(&["identity"])), key);
    let list = place.path("list");
    fs::write(&list, format!("# mine\n\n{key} my laptop\n")).unwrap();
    let options = ["--state", "../state", "--allow-file", list.to_str().unwrap()];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    assert_eq!(server.who, server.fingerprint);
    let link = server.link("x");
    let unknown = format!("does not know the key {stranger}");
    let nobody = "send its owner what `kwik identity` prints";
    assert_rows(
        &place,
        &[
            (&["get", &link, "-o", "-"], 0, ""),
            (&["get", &link, "-o", "-", "--anonymous"], 4, nobody),
            (&["get", &link, "-o", "-", "--state", "../nobody"], 4, nobody),
            (&["get", &link, "-o", "-", "--state", "../stranger"], 4, &unknown),
        ],
    );
    // A list with a mistake changes nothing.
    fs::write(&list, "abc\n").unwrap();
    signal(&server.child, "-HUP");
    wait_until(|| log(&place).contains("who may read stays as it is"));
    assert_rows(&place, &[(&["get", &link, "-o", "-"], 0, "")]);
    fs::write(&list, format!("{stranger}\n")).unwrap();
    signal(&server.child, "-HUP");
    wait_until(|| log(&place).contains("reloaded: 1 client may read"));
    assert_rows(
        &place,
        &[
            (&["get", &link, "-o", "-"], 4, &format!("does not know the key {key}")),
            (&["get", &link, "-o", "-", "--state", "../stranger"], 0, ""),
        ],
    );
}

#[test]
fn a_link_that_was_made_leads_to_its_part_alone() {
    let place = Place::new();
    for name in ["a/x", "a/b/y", "ab", "c"] {
        place.file(name, 1000);
    }
    let server = place.serve("state", &["--secret"]);
    let make = |link: &str| {
        let made = place.run(&["link", link, "--expires", "2h", "--state", "../state"]);
        printed(&made)
    };
    let (file, folder, all) = (
        make(&server.bare_link("c")),
        make(&server.bare_link("a/")),
        make(server.bare_link("").trim_end_matches('/')),
    );
    assert!(file.contains(":t.") && folder.ends_with("/a/"), "{file} {folder}");
    let not = "the link does not lead to";
    let (x, y) = (format!("{folder}x"), format!("{folder}b/y"));
    let other = folder.replace("/a/", "/ab");
    let above = folder.replace("/a/", "/c");
    let beside = format!("{}/ab", file.strip_suffix("/c").unwrap());
    let (any, missing) = (format!("{all}/ab"), format!("{folder}z"));
    assert_rows(
        &place,
        &[
            (&["get", &file, "-o", "-"], 0, ""),
            (&["get", &x, "-o", "-"], 0, ""),
            (&["get", &y, "-o", "-"], 0, ""),
            (&["get", &any, "-o", "-"], 0, ""),
            (&["get", &other, "-o", "-"], 4, not),
            (&["get", &above, "-o", "-"], 4, not),
            (&["get", &beside, "-o", "-"], 4, not),
            (&["get", &missing, "-o", "-"], 3, "no object a/z here"),
            (&["verify", &beside, "../files/ab"], 4, not),
        ],
    );
    // Another server did not make it.
    let other = place.serve("other", &["--secret"]);
    let foreign = file.replace(&server.fingerprint, &other.fingerprint);
    let foreign = foreign.replace(&server.address, &other.address);
    let state = ["--expires", "2h", "--state"];
    let make = |link, rest: &[&str]| place.run(&[&["link", link], rest].concat());
    assert_failed(&place.run(&["get", &foreign, "-o", "-"]), 4, "was not made by this server");
    let link = server.bare_link("c");
    let wrong = make(&link, &[&state[..], &["../other"]].concat());
    assert_failed(&wrong, 2, "give the server's state folder");
    let wrong = make(&link, &[&state[..], &["../none"]].concat());
    assert_failed(&wrong, 2, "no server's identity is in ../none");
    assert!(!place.path("none").exists());
}

#[test]
fn what_is_in_a_folder_is_for_whom_its_link_lets_in() {
    let place = Place::new();
    let data = place.file("a/x", 1000);
    for name in ["a/b/y", "ab", "c/z"] {
        place.file(name, 1000);
    }
    let server = place.serve("state", &["--secret"]);
    let made =
        place.run(&["link", &server.bare_link("a/"), "--expires", "2h", "--state", "../state"]);
    let folder = printed(&made);
    let at = |path: &str| folder.strip_suffix("a/").unwrap().to_owned() + path;
    let (asks, not) = ("this server asks for a secret", "the link does not lead to");
    let alone = "the link leads to a alone";
    assert_rows(
        &place,
        &[
            (&["ls", "-R", &server.link("")], 0, ""),
            (&["ls", "-R", &server.bare_link("")], 4, asks),
            (&["get", &server.bare_link(""), "-d", "."], 4, asks),
            (&["get", &server.bare_link("a/*"), "-d", "."], 4, asks),
            (&["ls", "-R", &folder], 0, ""),
            (&["ls", &at("a")], 0, ""),
            (&["ls", &at("a/b/")], 0, ""),
            (&["ls", &at("")], 4, alone),
            (&["ls", &at("c/")], 4, not),
            (&["ls", &at("ab")], 4, not),
            (&["ls", &at("*")], 4, alone),
            (&["get", &at(""), "-d", "."], 4, alone),
            (&["get", &at("c/"), "-d", "."], 4, not),
            (&["get", &at("a*/x"), "-d", "."], 4, alone),
            (&["get", &folder, "-o", "all"], 0, ""),
        ],
    );
    // Of several links each is shown its own pass alone.
    let mixed = place.run(&["get", &server.bare_link("ab"), &folder, "-d", "."]);
    let said = String::from_utf8_lossy(&mixed.stderr).into_owned();
    assert!(mixed.status.code() == Some(4) && said.contains(asks), "{said}");
    assert!(fs::read(place.path("out/all/x")).unwrap() == data);
    assert!(place.path("out/all/b/y").exists());
    assert!(place.path("out/a/b/y").exists() && !place.path("out/ab").exists());
}

#[test]
fn a_link_that_ends_says_so_then() {
    let place = Place::new();
    place.file("x", 1000);
    let server = place.serve("state", &["--link-expires", "2h"]);
    assert!(server.who.contains(":t."));
    assert_rows(
        &place,
        &[
            (&["get", &server.link("x"), "-o", "-"], 0, ""),
            (&["get", &server.bare_link("x"), "-o", "-"], 4, "take the whole link"),
        ],
    );
    let bare = server.bare_link("x");
    let short = place.run(&["link", &bare, "--expires", "1s", "--state", "../state"]);
    let short = printed(&short);
    wait_until(|| {
        let output = place.run(&["get", &short, "-o", "-"]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let ended =
            message.contains("the link expired ") && message.contains(" ago: ask its owner");
        assert!(output.status.success() || ended && output.status.code() == Some(4), "{message}");
        ended
    });
}

#[test]
fn an_edge_serves_its_primarys_clients_alone() {
    let place = Place::new();
    let data = place.file("x", 3_000_000);
    let pin = printed(&place.run(&["id", "--state", "../state"]));
    let edge = place.serve("edge", &["--trust", &pin]);
    let primary = place.serve("state", &["--secret", "--edge", &edge.edge()]);
    let alone = "this server is an edge of others: take the link of its primary";
    assert_rows(
        &place,
        &[
            (&["get", &edge.link("x"), "-o", "-"], 4, alone),
            (&["verify", &edge.link("x"), "../files/x"], 4, alone),
            (&["get", &primary.bare_link("x"), "-o", "-"], 4, "asks for a secret"),
        ],
    );
    // With the secret, the edge brings its share: slowly, so that it has the time to join.
    let options = ["get", &primary.link("x"), "-o", "y", "--limit-rate", "1M", "--json"];
    let output = place.run(&options);
    assert_done(&output);
    assert!(fs::read(place.path("out/y")).unwrap() == data);
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(summary.contains(&edge.address), "{summary}");
    drop(edge);
    let public = place.serve("edge", &["--trust", &pin, "--public"]);
    assert_rows(&place, &[(&["get", &public.link("x"), "-o", "-"], 0, "")]);
    drop(public);
    let own = place.serve("edge", &["--trust", &pin, "--secret"]);
    assert_rows(
        &place,
        &[
            (&["get", &own.link("x"), "-o", "-"], 0, ""),
            (&["get", &own.bare_link("x"), "-o", "-"], 4, "asks for a secret"),
        ],
    );
}

#[test]
fn a_secret_is_in_no_log_and_who_knows_it_not_is() {
    let place = Place::new();
    place.file("x", 100_000);
    let access = place.path("access");
    let options = ["--state", "../state", "--secret", "--access-log", access.to_str().unwrap()];
    let server = logged_at("trace", &place, &mut place.kwik(&texts(&serve(&place, &options))));
    let (_, secret) = server.who.split_once(':').unwrap();
    let mut traced = place.kwik(&["get", &server.link("x"), "-o", "a", "-v"]);
    let output = traced.env("KWIK_LOG", "trace").stderr(Stdio::piped()).output().unwrap();
    assert_done(&output);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains(secret) && !said.contains("Pass("), "{said}");
    assert_failed(&place.run(&["get", &server.bare_link("x")]), 4, "asks for a secret");
    // At the server: from where it came, and why it went.
    wait_until(|| log(&place).contains("a client was not let in client=127.0.0.1:"));
    let log = log(&place);
    assert!(!log.contains(secret) && log.contains("this server asks for a secret"));
    assert!(!fs::read_to_string(&access).unwrap().contains(secret));
    assert!(!holds(&place.path("out"), secret) && !holds(&place.path("xdg"), secret));
}

/// Whether a file in a folder has `text`.
fn holds(folder: &Path, text: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let has = |path: &Path| {
        fs::read(path).is_ok_and(|data| data.windows(text.len()).any(|it| it == text.as_bytes()))
    };
    entries.map(|entry| entry.unwrap().path()).any(|path| has(&path) || holds(&path, text))
}

#[test]
fn who_is_not_let_in_takes_no_place_of_a_session() {
    let place = Place::new();
    let data = place.file("x", 30_000_000);
    let server = place.serve("state", &["--secret", "--max-sessions", "1"]);
    let download = Download::begin(&place, &server.link("x"));
    for _ in 0..3 {
        let refused = place.run(&["get", &server.bare_link("x"), "-o", "-", "--retry", "0"]);
        assert_failed(&refused, 4, "asks for a secret");
    }
    let (rest, code) = download.end();
    assert!(code == Some(0) && rest == data[1..]);
}

#[test]
fn what_makes_no_sense_of_readers_is_refused_in_one_line() {
    let place = Place::new();
    place.file("x", 10);
    for (name, text, mode) in [
        ("short", "word", 0o600),
        ("open", "correct-horse-battery", 0o644),
        ("keys", "abc\n", 0o644),
    ] {
        fs::write(place.path(name), text).unwrap();
        fs::set_permissions(place.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let pin = "ab".repeat(32);
    let with_secret = format!("kwik://{pin}:0123456789abcdef@h:1");
    for (options, code, line) in [
        (&["--secret", "--public"][..], 2, "--public"),
        (&["--secret", "--link-expires", "2h"], 2, "--link-expires"),
        (&["--secret", "--secret-file", "../open"], 2, "--secret-file"),
        (&["--link-expires", "2 h"], 2, "90s, 30m, 2h or 7d"),
        (&["--allow", "abc"], 2, "--allow"),
        (&["--allow-file", "/no/such"], 6, "cannot read the list of keys /no/such"),
        (&["--allow-file", "../keys"], 2, "line 1 of ../keys"),
        (&["--secret-file", "/no/such"], 6, "cannot read the secret /no/such"),
        (&["--secret-file", "../short"], 6, "has no secret: a secret is 16 to 128 letters"),
        (&["--secret-file", "../open"], 4, "run `chmod 600 ../open`"),
        (&["--edge", &with_secret], 2, "an edge knows its primary's key"),
    ] {
        let output = place.run(&texts(&serve(&place, options)));
        assert_failed(&output, code, line);
        assert!(output.stdout.is_empty(), "{options:?}");
    }
}

#[test]
fn a_server_that_cannot_keep_its_secret_says_so() {
    let place = Place::new();
    place.file("x", 10);
    let state = place.path("closed");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o555)).unwrap();
    let options = ["--state", "../closed/state", "--secret"];
    let mut command = as_nobody(&place, &texts(&serve(&place, &options)));
    let server = logged(&place, &mut command);
    assert_done(&place.run(&["get", &server.link("x"), "-o", "-"]));
    assert!(log(&place).contains("another secret after each start"), "{}", log(&place));
}
