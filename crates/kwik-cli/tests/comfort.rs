//! What makes the command easy to live with: options from elsewhere, completions, manual pages, and
//! what `kwik doctor` finds.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use common::{Place, Server, assert_done, assert_failed, names, serving::texts};

/// The usual configuration file.
fn configure(place: &Place, text: &str) {
    fs::create_dir_all(place.path("config/kwik")).unwrap();
    fs::write(place.path("config/kwik/config"), text).unwrap();
}

#[test]
fn the_command_line_counts_before_the_environment_and_that_before_the_file() {
    let file = "state = ../by-file\n";
    let id = "[id]\nstate = ../by-section\n";
    let other = "[get]\nstate = ../by-other\n";
    let cli = &["--state", "../by-cli"][..];
    for (config, variable, given, expected) in [
        ("", None, &[][..], "xdg"),
        (file, None, &[][..], "by-file"),
        (&*format!("{file}{id}"), None, &[], "by-section"),
        (&*format!("{file}{other}"), None, &[], "by-file"),
        ("# nothing\n\n", None, &[], "xdg"),
        ("state = \"../by file\"", None, &[], "by file"),
        (file, Some("../by-env"), &[], "by-env"),
        (file, Some(""), &[], "by-file"),
        (file, Some("../by-env"), cli, "by-cli"),
        (id, None, cli, "by-cli"),
        (id, None, &["--state=../by-cli"], "by-cli"),
    ] {
        let place = Place::new();
        configure(&place, config);
        let mut command = place.kwik(&[&["id"], given].concat());
        if let Some(value) = variable {
            command.env("KWIK_STATE", value);
        }
        assert_done(&command.output().unwrap());
        let made = names(&place.path(""));
        let extra: Vec<_> =
            made.iter().filter(|it| !["config", "files", "out"].contains(&it.as_str())).collect();
        assert_eq!(extra, [expected], "{config:?} {variable:?} {given:?}");
    }
}

#[test]
fn another_file_is_read_where_one_is_named() {
    let place = Place::new();
    configure(&place, "state = ../usual");
    fs::write(place.path("mine"), "state = ../mine-state").unwrap();
    fs::copy(place.path("mine"), place.path("out/get")).unwrap();
    let file = place.path("mine");
    for (options, variable) in [
        (&["--config", "../mine", "id"][..], None),
        (&["id", "--config=../mine"], None),
        (&["--config", "get", "id"], None),
        (&["id"], Some(file.to_str().unwrap())),
    ] {
        let mut command = place.kwik(options);
        command.envs(variable.map(|value| ("KWIK_CONFIG", value)));
        assert_done(&command.output().unwrap());
        fs::remove_dir_all(place.path("mine-state")).unwrap();
        assert!(!place.path("usual").exists());
    }
    let missing = place.run(&["id", "--config", "/no/such"]);
    assert_failed(&missing, 6, "cannot read the configuration /no/such");
}

#[test]
fn what_is_wrong_elsewhere_is_said_with_its_place() {
    for (config, variable, arguments, line) in [
        ("stat = x", None, &["id"][..], "line 1 of "),
        ("stat = x", None, &["id"], "kwik has no option --stat"),
        ("\n[serves]", None, &["id"], "there is no command serves"),
        ("[serve]\nstate", None, &["id"], "line 2 of "),
        ("[get]\nretry = often", None, &["get", "kwik://h:1/x"], "line 2 of "),
        ("[get]\nretry = often", None, &["get", "kwik://h:1/x"], "invalid value 'often'"),
        ("[get]\nquiet = maybe", None, &["get", "kwik://h:1/x"], "is neither yes nor no"),
        ("", Some(("KWIK_QUIET", "maybe")), &["get", "kwik://h:1/x"], "KWIK_QUIET is neither"),
        ("", Some(("KWIK_RETRY", "x")), &["get", "kwik://h:1/x"], "KWIK_RETRY: invalid value 'x'"),
        ("[get]\nquiet=1\nverbose=1", None, &["get", "kwik://h:1/x"], "does not go with"),
    ] {
        let place = Place::new();
        configure(&place, config);
        let output = place.kwik(arguments).envs(variable).output().unwrap();
        assert_failed(&output, 2, line);
    }
}

/// What a server says when it starts.
fn greeting(place: &Place, options: &[&str], variables: &[(&str, &str)]) -> String {
    let source = place.path("files");
    let arguments = [&["serve", source.to_str().unwrap()], options].concat();
    let mut command = place.kwik(&arguments);
    let child = command.envs(variables.iter().copied()).stdout(Stdio::piped()).spawn().unwrap();
    let mut server = Server::of(child);
    let link = server.link("");
    server.child.kill().unwrap();
    link
}

#[test]
fn a_server_is_configured_by_file_and_environment() {
    let place = Place::new();
    place.file("x", 10);
    configure(&place, "[serve]\nlisten = 127.0.0.1:0\nlisten = [::1]:0\nsecret = yes\n");
    let secret = |link: &str| link.matches(':').count() > 2 && link.contains("@[::1]:");
    // Of several sockets, the last is that of the link.
    let link = greeting(&place, &[], &[]);
    let who = |link: &str| link["kwik://".len()..].split('@').next().unwrap().to_owned();
    assert!(secret(&link) && who(&link).contains(':'), "{link}");
    // A variable has all values, and a flag may be taken back.
    let variables = [("KWIK_LISTEN", " [::1]:0 127.0.0.1:0"), ("KWIK_SECRET", "no")];
    let link = greeting(&place, &[], &variables);
    assert!(link.contains("@127.0.0.1:") && !who(&link).contains(':'), "{link}");
    // What excludes it, on the command line, does so.
    let link = greeting(&place, &["--public", "--listen", "127.0.0.1:0"], &[]);
    assert!(link.contains("@127.0.0.1:") && !who(&link).contains(':'), "{link}");
    // The demonstration has servers of its own.
    let output = place.kwik(&["demo", "../files"]).env("KWIK_SECRET", "yes").output().unwrap();
    assert_done(&output);
}

#[test]
fn shells_and_readers_have_what_the_command_line_says() {
    let place = Place::new();
    // Whatever is configured, it is the same.
    configure(&place, "nonsense");
    let text = |arguments: &[&str]| {
        let output = place.run(arguments);
        assert_done(&output);
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&["completions", shell]);
        for word in ["serve", "doctor", "max-sessions", "link-expires"] {
            assert!(script.contains(word), "{shell} {word}");
        }
        fs::write(place.path(shell), script).unwrap();
        let checked = Command::new(shell).arg("-n").arg(place.path(shell)).status();
        assert!(checked.map_or(true, |status| status.success()), "{shell}");
    }
    assert!(text(&["man"]).contains(".SH NAME"));
    let page = text(&["man", "serve"]);
    assert!(page.contains("\\-\\-secret") && page.contains("kwik\\-serve"), "{page}");
    assert_done(&place.run(&["man", "--dir", "."]));
    let pages = place.outputs();
    for name in ["kwik.1", "kwik-get.1", "kwik-serve.1", "kwik-doctor.1"] {
        assert!(pages.contains(&name.to_owned()), "{pages:?}");
    }
    assert_failed(&place.run(&["man", "nothing"]), 2, "there is no command nothing");
    assert_failed(&place.run(&["man", "--dir", "/no/such"]), 6, "cannot write into /no/such");
    assert_failed(&place.run(&["completions", "sh"]), 2, "possible values");
}

/// The findings, and whether all is well enough.
fn findings(place: &Place, arguments: &[&str]) -> (String, Output) {
    let output = place.run(&[&["doctor"], arguments].concat());
    (String::from_utf8(output.stdout.clone()).unwrap(), output)
}

#[test]
fn the_doctor_finds_what_does_not_work_and_says_what_to_do() {
    let place = Place::new();
    place.file("x", 10);
    let (text, output) = findings(&place, &[]);
    assert_done(&output);
    for what in ["udp", "ipv6", "buffers", "clock", "state", "files", "way"] {
        assert!(text.lines().any(|line| line[6..].starts_with(what)), "{what}: {text}");
    }
    let server = place.serve("state", &["--secret"]);
    for link in [server.link("x"), server.link(""), server.link("").trim_end_matches('/').into()] {
        let (text, output) = findings(&place, &[&link]);
        assert_done(&output);
        assert!(text.contains("ok    way          127.0.0.1:"), "{text}");
        assert!(text.contains("bytes get through"), "{text}");
        assert!(text.contains("ok    clocks       this machine's clock is 0."), "{text}");
    }
    let (text, output) = findings(&place, &[&server.bare_link("x")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  trust") && text.contains("asks for a secret"), "{text}");
    let other = server.link("x").replace(&server.fingerprint, &"ab".repeat(32));
    let (text, output) = findings(&place, &[&other]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  trust") && text.contains("not abab"), "{text}");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let link = format!("kwik://{}@{}", "ab".repeat(32), silent.local_addr().unwrap());
    let (text, output) = findings(&place, &[&link, "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  way") && text.contains("that UDP gets through"), "{text}");
    let (text, _) = findings(&place, &["kwik://127.0.0.1:1"]);
    assert!(text.contains("FAIL  trust") && text.contains("has no fingerprint"), "{text}");
}

#[test]
fn the_doctor_finds_what_is_wrong_here() {
    let place = Place::new();
    assert_done(&place.run(&["identity", "--state", "../open"]));
    let key = place.path("open/client-identity");
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).unwrap();
    let (text, output) = findings(&place, &["--state", "../open"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  state") && text.contains("run `chmod 600"), "{text}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1 thing does not work"), "{said}");
    // In a shell that allows few files.
    let program = env!("CARGO_BIN_EXE_kwik");
    let script = format!("ulimit -n 100; exec '{program}' doctor");
    let mut shell = Command::new("sh");
    let output = shell.args(texts(&["-c".into(), script])).env("XDG_STATE_HOME", place.path("xdg"));
    let output = output.output().unwrap();
    assert_done(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("warn  files") && text.contains("run ulimit -n 1024"), "{text}");
}
