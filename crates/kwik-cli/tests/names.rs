//! What a folder may hold, and what of it is served: names, sizes, kinds of files, and a folder
//! that goes and comes back.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
};

use common::{
    Place, assert_done, assert_failed,
    serving::{as_nobody, log, logged, serve, signal, texts},
    wait_until,
};

/// A name as a link has it: all but letters and digits encoded.
fn encoded(name: impl AsRef<[u8]>) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'/';
    name.as_ref()
        .iter()
        .map(|byte| match plain(byte) {
            true => char::from(*byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[test]
fn names_of_all_kinds_are_served() {
    let place = Place::new();
    let long = "n".repeat(255);
    let deep = ["d"; 60].join("/");
    let names = [
        "plain",
        "a space",
        " leading",
        "trailing ",
        "-o",
        "--help",
        "%41",
        "100%",
        "a?b#c",
        "a&b=c;d",
        "quote\"s'",
        "$(id)`id`",
        "a:b",
        "a@b",
        "[x]*{y}",
        "~",
        "a..b",
        "trailing.",
        "CON",
        "\u{fc}ber/stra\u{df}e",
        "\u{65e5}\u{672c}\u{8a9e}",
        "\u{1f600}",
        "e\u{301}",
        "\u{202e}txt.exe",
        "kwik:",
        "a\\b",
        "a\nb",
        "a\u{7f}",
        &long,
        &deep,
    ];
    for name in names {
        place.file(name, 10 + name.len());
    }
    let server = place.serve("state", &[]);
    for name in names {
        let output = place.run(&["get", &server.link(&encoded(name)), "-o", "-"]);
        assert_done(&output);
        assert_eq!(output.stdout.len(), 10 + name.len(), "{name:?}");
    }
    // What leads elsewhere, or is too long, is wrong before anybody is asked.
    for name in ["..", "a/..", "./a", "a/./b", "a//b", "a\0b", &"n".repeat(1025)] {
        assert_failed(&place.run(&["get", &server.link(&encoded(name)), "-o", "-"]), 2, "name");
    }
}

/// Two names that differ in their composition alone are two files.
#[test]
fn names_that_are_no_text_are_served_and_kept() {
    let place = Place::new();
    let names: [&[u8]; 4] =
        [b"\xff\xfe", b"sub/\xc3(\x1b", "e\u{301}".as_bytes(), "\u{e9}".as_bytes()];
    for (size, name) in (10_usize..).zip(names) {
        let path = place.path("files").join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![b'x'; size]).unwrap();
    }
    let server = place.serve("state", &[]);
    for (size, name) in (10_usize..).zip(names) {
        assert_done(&place.run(&["get", &server.link(&encoded(name))]));
        let last = name.rsplit(|byte| *byte == b'/').next().unwrap();
        let path = place.path("out").join(OsStr::from_bytes(last));
        assert_eq!(fs::metadata(path).unwrap().len(), size as u64);
    }
    let output = place.run(&["get", &server.link("%FE")]);
    assert_failed(&output, 3, r"no object \xfe here");
}

#[test]
fn files_of_all_sizes_and_kinds_are_served() {
    const KIB: usize = 1024;
    let place = Place::new();
    let at = |name: &str| place.path("files").join(name);
    let mut expected = Vec::new();
    for size in [0, 1, 1023, 1024, 1025, 65_535, 65_536, 65_537, 128 * KIB, 1_048_575, 1_048_577] {
        let name = format!("size-{size}");
        expected.push((name.clone(), place.file(&name, size)));
    }
    let data = expected[4].1.clone();
    symlink("size-1025", at("link")).unwrap();
    symlink("link", at("link-to-a-link")).unwrap();
    fs::hard_link(at("size-1025"), at("hard")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("../size-1025", at("folder/up")).unwrap();
    symlink("folder", at("folder-link")).unwrap();
    for name in ["link", "link-to-a-link", "hard", "folder/up", "folder-link/up"] {
        expected.push((name.into(), data.clone()));
    }
    for mode in [0o400, 0o444, 0o4755] {
        let name = format!("mode-{mode:o}");
        let data = place.file(&name, 100);
        fs::set_permissions(at(&name), fs::Permissions::from_mode(mode)).unwrap();
        expected.push((name, data));
    }
    // A hole, and a byte behind it.
    let mut sparse = File::create(at("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(3_000_000)).unwrap();
    sparse.write_all(b"x").unwrap();
    let mut holes = vec![0; 3_000_000];
    holes.push(b'x');
    expected.push(("sparse".into(), holes));

    let server = place.serve("state", &[]);
    for (name, data) in expected {
        let output = place.run(&["get", &server.link(&name), "-o", "-"]);
        assert_done(&output);
        assert!(output.stdout == data, "{name}");
    }
    // What is no file.
    let _socket = UnixListener::bind(at("socket")).unwrap();
    symlink("/dev/null", at("device")).unwrap();
    symlink("loop", at("loop")).unwrap();
    for name in ["socket", "device", "loop", "folder"] {
        let output = place.run(&["get", &server.link(name), "-o", "-"]);
        assert!(matches!(output.status.code(), Some(1 | 3)), "{name}");
        assert!(output.stdout.is_empty());
    }
}

/// The folder as a whole: one that cannot be read is said at once, and one that goes may come back.
#[test]
fn a_folder_that_goes_may_come_back() {
    let place = Place::new();
    let data = place.file("x", 100_000);
    let files = place.path("files");
    as_nobody(&place, &["id"]).output().unwrap();
    fs::set_permissions(&files, fs::Permissions::from_mode(0o000)).unwrap();
    let output = as_nobody(&place, &texts(&serve(&place, &[]))).output().unwrap();
    fs::set_permissions(&files, fs::Permissions::from_mode(0o755)).unwrap();
    assert_failed(&output, 6, "Permission denied");

    let options = ["--state", "../state"];
    let server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    let link = server.link("x");
    let fetch = || place.run(&["get", &link, "-o", "-"]);
    assert_done(&fetch());
    fs::rename(&files, place.path("away")).unwrap();
    assert_failed(&fetch(), 3, "no object x here");
    fs::rename(place.path("away"), &files).unwrap();
    assert_done(&fetch());
    // Files that come and change are served as they are.
    let new = place.file("new", 5000);
    let output = place.run(&["get", &server.link("new"), "-o", "-"]);
    assert!(output.stdout == new);
    fs::write(files.join("x"), b"another version").unwrap();
    assert_eq!(fetch().stdout, b"another version");
    fs::write(files.join("x"), &data).unwrap();
    assert!(fetch().stdout == data);
}

/// Two sockets of one server: both serve, and one that is taken is said.
#[test]
fn sockets_of_a_server_serve_the_same() {
    let place = Place::new();
    let data = place.file("x", 100_000);
    let options = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--state", "../state"];
    let mut server = logged(&place, &mut place.kwik(&texts(&serve(&place, &options))));
    assert!(place.run(&["get", &server.link("x"), "-o", "-"]).stdout == data);
    let taken = ["--state", "../state", "--listen", "127.0.0.1:0", "--listen", &server.address];
    assert_failed(&place.run(&texts(&serve(&place, &taken))), 5, "choose another port");
    signal(&server.child, "-TERM");
    wait_until(|| server.child.try_wait().unwrap().is_some());
    assert_eq!(server.child.wait().unwrap().code(), Some(0), "{}", log(&place));
}
