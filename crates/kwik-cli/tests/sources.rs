//! What a server serves: several sources, standard input, and hashes that outlive its end.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs::{self, File},
    io::Write,
    process::Stdio,
};

use common::{
    Place, Server, assert_done, assert_failed, content, names,
    serving::{log, logged, serve, signal, texts},
    wait_until,
};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn several_sources_are_folders_of_their_names() {
    let place = Place::new();
    let one = place.file("one/a", 1000);
    let two = place.file("two/deep/b", 2000);
    let file = place.file("alone.iso", 3000);
    let sources = ["serve", "../files/one", "other=../files/two/", "../files/alone.iso"];
    let server = Server::spawn(&mut place.kwik(&[&sources[..], &LISTEN].concat()));
    for (name, data) in [("one/a", &one), ("other/deep/b", &two), ("alone.iso", &file)] {
        let output = place.run(&["get", &server.link(name), "-o", "-"]);
        assert_done(&output);
        assert!(output.stdout == *data, "{name}");
    }
    for name in ["a", "one", "two/deep/b", "alone.iso/x", "../files/one/a", "one/../one/a"] {
        let output = place.run(&["get", &server.link(name), "-o", "-"]);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{name}: {output:?}");
    }
    let all = server.link("");
    let list = place.run(&["ls", "-R", &all]);
    assert_done(&list);
    let list = String::from_utf8(list.stdout).unwrap();
    let shown: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(
        shown,
        ["alone.iso", "one/", "one/a", "other/", "other/deep/", "other/deep/b"],
        "{list}"
    );
    assert_done(&place.run(&["get", &all, "-o", "all"]));
    for (name, data) in [("one/a", &one), ("other/deep/b", &two), ("alone.iso", &file)] {
        assert!(fs::read(place.path("out/all").join(name)).unwrap() == *data, "{name}");
    }
    assert_done(&place.run(&["get", &server.link("other/"), "-d", "."]));
    assert!(fs::read(place.path("out/other/deep/b")).unwrap() == two);
    drop(server);
    // Two of one name, and what has none.
    for (sources, code, line) in [
        (&["../files/one", "../files/one"][..], 6, "give one of them another, NAME=PATH"),
        (&["../files/one", "one=../files/two"], 6, "give one of them another, NAME=PATH"),
        (&["../files/one", "/no/such"], 6, "No such file"),
        (&["x=/no/such"], 6, "No such file"),
        (&["../files/one", "/"], 2, "NAME=/"),
        (&["-"], 2, "--name NAME"),
        (&["-", "-", "--name", "x"], 2, "give - once"),
        (&["../files", "--name", "x"], 2, "serve - too"),
        (&["-", "--name", "a/../b"], 2, "--name"),
    ] {
        let output = place.run(&[&["serve"], sources, &LISTEN].concat());
        assert_failed(&output, code, line);
    }
}

#[test]
fn one_source_with_a_name_is_a_folder_of_it() {
    let place = Place::new();
    let data = place.file("x", 1000);
    let plain = "a=b";
    fs::create_dir(place.path("out").join(plain)).unwrap();
    fs::write(place.path("out/a=b/y"), b"there").unwrap();
    for (source, name, expected) in [
        ("music=../files", "music/x", &data[..]),
        (plain, "y", b"there"),
        ("z=../files/x", "z", &data),
    ] {
        let server = Server::spawn(&mut place.kwik(&[&["serve", source], &LISTEN[..]].concat()));
        let output = place.run(&["get", &server.link(name), "-o", "-"]);
        assert_done(&output);
        assert!(output.stdout == expected, "{source}");
    }
}

#[test]
fn standard_input_is_served_as_long_as_the_server_lives() {
    let place = Place::new();
    let data = content(3_000_000);
    let temporary = place.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = place.kwik(&[&["serve", "-", "--name", "dump.sql"], &LISTEN[..]].concat());
    command.env("TMPDIR", &temporary).stdin(Stdio::piped());
    let feeding = data.clone();
    let server = {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || stdin.write_all(&feeding).unwrap());
        let server = Server::of(child);
        feeder.join().unwrap();
        server
    };
    for _ in 0..2 {
        let output = place.run(&["get", &server.link("dump.sql"), "-o", "-"]);
        assert_done(&output);
        assert!(output.stdout == data);
    }
    assert_failed(&place.run(&["get", &server.link("x")]), 3, "no object x here");
    assert_eq!(names(&temporary), [""; 0], "the file has no name");
    drop(server);

    // A file, and a folder beside it.
    place.file("a", 10);
    let file = File::open(place.path("files/a")).unwrap();
    let both = ["serve", "-", "--name", "dump", "../files"];
    let server = Server::spawn(place.kwik(&[&both[..], &LISTEN].concat()).stdin(file));
    for name in ["dump", "files/a"] {
        let output = place.run(&["get", &server.link(name), "-o", "-"]);
        assert_done(&output);
        assert_eq!(output.stdout, content(10), "{name}");
    }
}

#[test]
fn standard_input_that_cannot_be_kept_ends_the_start() {
    let place = Place::new();
    let arguments = [&["serve", "-", "--name", "x"], &LISTEN[..]].concat();
    let output = place.kwik(&arguments).env("TMPDIR", "/no/such").output().unwrap();
    assert_failed(&output, 6, "cannot keep standard input in /no/such");
    // More than there is room for, as far as that is known: a file of 1 EiB or what fits.
    let file = File::create(place.path("huge")).unwrap();
    if file.set_len(1 << 42).is_ok() {
        let stdin = File::open(place.path("huge")).unwrap();
        let output = place.kwik(&arguments).stdin(stdin).output().unwrap();
        assert_failed(&output, 6, "set TMPDIR to a folder with more room");
    }
    // Its end is waited for, and the server can be ended meanwhile.
    let mut child = place.kwik(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    signal(&child, "-TERM");
    // The pipe stays open until then.
    let stdin = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(stdin);
}

#[test]
fn hashing_goes_on_where_the_last_server_was_ended() {
    for how in ["-TERM", "-KILL"] {
        let place = Place::new();
        // Holes: it takes no room, and long enough to hash.
        let file = File::create(place.path("files/large")).unwrap();
        file.set_len(24 << 30).unwrap();
        let options = ["--state", "../state", "--hash-ahead", "--drain", "0"];
        let start = || logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
        let kept = || {
            let Ok(entries) = fs::read_dir(place.path("state/catalogue")) else { return 0 };
            let halves = entries.flatten().map(|entry| entry.path());
            let halves = halves.filter(|path| path.extension().is_some_and(|it| it == "half"));
            halves.filter_map(|path| Some(path.metadata().ok()?.len())).max().unwrap_or(0)
        };
        let mut server = start();
        wait_until(|| kept() > 100_000);
        signal(&server.child, how);
        server.child.wait().unwrap();
        let before = kept();
        assert!(before > 100_000);
        drop(server);
        // What is kept grows from there.
        let server = start();
        wait_until(|| kept() > before);
        wait_until(|| log(&place).contains("hashing goes on from an earlier start"));
        drop(server);
    }
}
