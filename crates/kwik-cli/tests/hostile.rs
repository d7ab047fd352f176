//! What must not be given away, believed or obeyed, tried from the shell.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "a test")]

mod common;

use std::{
    fs,
    io::Read,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use common::{Place, Server, assert_done, assert_failed, content, wait_until};

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

/// The state lies in what is served, with hidden files shown: its key does not come, by whatever
/// name.
#[test]
fn the_state_of_a_server_is_never_served() {
    let place = Place::new();
    place.file("public", 10);
    place.file(".dotted", 10);
    let files = place.path("files");
    fs::create_dir_all(files.join("deep/er")).unwrap();
    symlink("deep/er/state", files.join("link")).unwrap();
    let server = Server::start(&place, &files, "files/deep/er/state", &["--hidden"]);
    assert!(files.join("deep/er/state/identity").exists());
    for name in [
        "deep/er/state/identity",
        "link/identity",
        "link/catalogue/x",
        "deep/er/../er/state/identity",
        "deep/er/state",
    ] {
        let output = place.run(&["get", &server.link(name), "-o", "stolen"]);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{name}");
    }
    // Moved while it is served, it is the same folder.
    fs::rename(files.join("deep/er/state"), files.join("moved")).unwrap();
    assert_failed(&place.run(&["get", &server.link("moved/identity"), "-o", "stolen"]), 3, "moved");
    assert!(!place.path("out/stolen").exists());
    assert_done(&place.run(&["get", &server.link("public")]));
    assert_done(&place.run(&["get", &server.link(".dotted")]));
    // The key by another name, and the state of another server that lies there, too.
    fs::hard_link(files.join("moved/identity"), files.join("innocent")).unwrap();
    assert_done(&place.run(&["id", "--state", files.join("another").to_str().unwrap()]));
    fs::create_dir(files.join("another/catalogue")).unwrap();
    fs::write(files.join("another/catalogue/x"), b"x").unwrap();
    for name in ["innocent", "another/identity", "another/catalogue/x"] {
        assert_failed(&place.run(&["get", &server.link(name), "-o", "stolen"]), 3, name);
    }
    assert!(!place.path("out/stolen").exists());
    // The key alone is no object either.
    let key = place.path("other/identity");
    assert_done(&place.run(&["id", "--state", place.path("other").to_str().unwrap()]));
    let arguments = ["serve", key.to_str().unwrap(), "--listen", "127.0.0.1:0", "--state"];
    let output = place.run(&[&arguments[..], &[place.path("other").to_str().unwrap()]].concat());
    assert_failed(&output, 6, "secret key");
}

/// `kwik serve ~` with the default state folder, and nothing else visible.
#[test]
fn hidden_files_are_served_by_option_only_and_the_greeting_names_none() {
    let place = Place::new();
    place.file(".ssh/id", 10);
    place.file("z", 10);
    let start = |options: &[&str]| {
        let source = place.path("files");
        let arguments = ["serve", source.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        let mut command = place.kwik(&[&arguments, options].concat());
        // The default: it lies in the served folder, as in a home folder.
        command.env("XDG_STATE_HOME", source.join(".local/state"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until(|| source.join(".local/state/kwik/identity").exists());
        thread::sleep(Duration::from_millis(300));
        signal(&child, "-INT");
        child.wait().unwrap();
        let (mut greeting, mut warning) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut greeting).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut warning).unwrap();
        (greeting, warning)
    };
    let (greeting, warning) = start(&[]);
    assert!(greeting.lines().any(|line| line.ends_with("/z")), "{greeting}");
    assert!(warning.contains("are not served: give --hidden"), "{warning}");
    let (greeting, warning) = start(&["--hidden"]);
    assert!(!greeting.contains("identity"), "{greeting}");
    assert!(warning.contains("are served, as --hidden says"), "{warning}");

    let server = Server::start(&place, &place.path("files"), "state", &[]);
    symlink(".ssh", place.path("files/way")).unwrap();
    for name in [".ssh/id", "way/id"] {
        assert_failed(&place.run(&["get", &server.link(name), "-o", "x"]), 3, "no object");
    }
}

/// Sixteen sessions of sixteen requests that nobody reads hold no more descriptors than the server
/// can spare.
#[test]
fn requests_that_nobody_reads_leave_descriptors_for_others() {
    use kwik::{ClientConfig, Endpoint};
    use kwik_delivery::{Client, ObjectName};
    let place = Place::new();
    let names: Vec<_> = (0..16).map(|number| format!("f{number}")).collect();
    for name in &names {
        place.file(name, 3_000_000);
    }
    let (files, state) = (place.path("files"), place.path("state"));
    for limit in [64, 256] {
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_kwik"), "serve"]).arg(&files);
        command.args(["--listen", "127.0.0.1:0", "--state"]).arg(&state);
        let server = Server::spawn(&mut command);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let held = runtime.block_on(async {
            let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let mut held = Vec::new();
            for _ in 0..16 {
                let config = ClientConfig::pinned(server.fingerprint.parse().unwrap());
                let connecting = endpoint.connect_with(config, server.address.parse().unwrap(), "");
                let client = Client::new(connecting.unwrap().await.unwrap());
                for name in &names {
                    let fetch = client.fetch(&ObjectName::new(name).unwrap()).await.unwrap();
                    held.push((client.clone(), fetch));
                }
            }
            held
        });
        assert_eq!(held.len(), 256);
        let open = fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap().count();
        // A quarter is for files, and a few are for what else the server has open.
        assert!(open <= limit / 4 + 32, "{open} of {limit}");
        assert_done(&place.run(&["get", &server.link("f7"), "-o", "x"]));
        drop(held);
    }
}

/// The same at once, of objects that nobody has hashed yet: a look into each takes one, too.
#[test]
fn requests_at_once_take_no_more_descriptors_than_there_are() {
    use futures_util::future::join_all;
    use kwik::{ClientConfig, Endpoint};
    use kwik_delivery::{Client, ObjectName};
    let place = Place::new();
    let names: Vec<_> = (0..256).map(|number| format!("f{number}")).collect();
    for name in &names {
        place.file(name, 100_000);
    }
    let mut command = Command::new("sh");
    let script = "ulimit -n 64; exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_kwik"), "serve"]).arg(place.path("files"));
    command.args(["--listen", "127.0.0.1:0", "--state"]).arg(place.path("state"));
    let server = Server::spawn(&mut command);
    let fetched = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut clients = Vec::new();
        for _ in 0..16 {
            let config = ClientConfig::pinned(server.fingerprint.parse().unwrap());
            let connecting = endpoint.connect_with(config, server.address.parse().unwrap(), "");
            clients.push(Client::new(connecting.unwrap().await.unwrap()));
        }
        // Each object at once by the client that is its own, and by another: from the catalogue.
        let all = (0..2 * names.len()).map(async |at| {
            let client = &clients[(at / 16 + at / names.len()) % clients.len()];
            let name = ObjectName::new(&names[at % names.len()]).unwrap();
            client.fetch(&name).await.map(drop).map_err(|error| error.to_string())
        });
        join_all(all).await
    });
    let failed: Vec<_> = fetched.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} failed, as {:?}", failed.len(), failed.first());
}

/// A server that states one object and sends another, whatever it is asked: one line names it.
#[test]
fn a_server_that_lies_and_has_no_other_beside_it_is_named_in_one_line() {
    let place = Place::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (address, fingerprint) = runtime.block_on(lying_primary());
    let link = format!("kwik://{fingerprint}@{address}/x");
    for output in ["x", "-"] {
        let output = place.run(&["get", &link, "-o", output]);
        assert_failed(&output, 1, &address);
        assert!(output.stdout.is_empty(), "no wrong byte");
    }
    assert!(place.outputs().is_empty());
}

/// Its address and fingerprint.
async fn lying_primary() -> (String, String) {
    use std::sync::Arc;

    use kwik::{Accepted, Endpoint, Identity, ServerConfig};
    use kwik_delivery::{Call, Found, Manifest, ObjectName, Part, Response, Source};
    let config = ServerConfig::new(Arc::new(Identity::from_seed([5; 32])));
    let fingerprint = config.identity.fingerprint().to_string();
    let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap().to_string();
    let name = ObjectName::new("x").unwrap();
    let memory = Source::memory([(name.clone(), content(300_000).into())]);
    let object = memory.open(&name).await.unwrap();
    let published = Arc::new(kwik_delivery::hash_object(&object).await.unwrap());
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(Accepted::Primary(primary)) = incoming.accept_any().await else { continue };
            let published = Arc::clone(&published);
            tokio::spawn(async move {
                let Manifest { name, size, root } = published.manifest().clone();
                while let Ok((mut send, mut recv)) = primary.session().accept_bi().await {
                    let request = recv.read_to_end(1 << 20).await.unwrap();
                    let call = Call::decode(&mut request.as_slice().into()).unwrap().unwrap();
                    // It says nothing of itself.
                    let Call::Object(request) = call else { continue };
                    let mut stream = primary.session().open_uni().await.unwrap();
                    let stream_id = stream.id().as_u64();
                    let (answer, length) = match request.part {
                        Part::Repair(repair) if repair.range.is_empty() => (Response::Noted, 0),
                        Part::Repair(repair) => {
                            let length = repair.range.end - repair.range.start;
                            (Response::Again { stream_id }, length)
                        }
                        _ => {
                            let name = name.clone();
                            (Response::Found(Found::new(name, size, root, stream_id)), size)
                        }
                    };
                    send.write_all(&answer.encode()).await.unwrap();
                    if let Response::Found(_) = answer {
                        let (_, outboard) = published.page(0).await.unwrap();
                        send.write_all(&outboard).await.unwrap();
                    }
                    send.finish().unwrap();
                    let lie = vec![9; usize::try_from(length).unwrap()];
                    stream.write_all(&lie).await.ok();
                    stream.finish().ok();
                }
            });
        }
    });
    (address, fingerprint)
}

/// A server that stands still for 8 s as the get starts.
#[test]
fn a_server_that_stands_still_as_the_get_starts_costs_no_get() {
    let place = Place::new();
    let data = place.file("x", 1_000_000);
    let server = place.serve("state", &[]);
    signal(&server.child, "-STOP");
    let get = place.kwik(&["get", &server.link("x")]).stderr(Stdio::piped()).spawn().unwrap();
    thread::sleep(Duration::from_secs(8));
    signal(&server.child, "-CONT");
    let output = get.wait_with_output().unwrap();
    assert_done(&output);
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("waiting for 127.0.0.1:"));
    assert!(fs::read(place.path("out/x")).unwrap() == data);
}

#[test]
fn several_first_uses_at_once_remember_all_servers() {
    let place = Place::new();
    place.file("x", 1);
    let servers: Vec<_> =
        (0..6).map(|number| place.serve(&format!("state{number}"), &[])).collect();
    let gets: Vec<_> = (0..)
        .zip(&servers)
        .map(|(number, server)| {
            let link = format!("kwik://{}/x", server.address);
            let output = format!("x{number}");
            let mut get = place.kwik(&["get", &link, "--trust-on-first-use", "-o", &output]);
            get.stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut get in gets {
        assert!(get.wait().unwrap().success());
    }
    let known = fs::read_to_string(place.path("xdg/kwik/known_servers")).unwrap();
    for server in &servers {
        let line = format!("{} {}", server.address, server.fingerprint);
        assert!(known.lines().any(|known| known == line), "{known}");
    }
}

#[test]
fn targets_that_are_no_plain_files_are_written_through() {
    let place = Place::new();
    let data = place.file("x", 300_000);
    let server = place.serve("state", &[]);
    let link = server.link("x");
    let out = |name: &str| place.path("out").join(name);
    // A pipe.
    assert!(Command::new("mkfifo").arg(out("pipe")).status().unwrap().success());
    let get = place.kwik(&["get", &link, "-o", "pipe"]).stderr(Stdio::null()).spawn().unwrap();
    assert!(fs::read(out("pipe")).unwrap() == data);
    assert_done(&get.wait_with_output().unwrap());
    assert!(!fs::symlink_metadata(out("pipe")).unwrap().is_file());
    // A link stays, and what it leads to is replaced.
    fs::write(out("real"), b"old").unwrap();
    symlink("real", out("link")).unwrap();
    assert_done(&place.run(&["get", &link, "-o", "link"]));
    assert!(fs::symlink_metadata(out("link")).unwrap().is_symlink());
    assert!(fs::read(out("real")).unwrap() == data);
    // Without a name of one's own, whatever has the object's own stays.
    symlink("nowhere", out("x")).unwrap();
    assert_failed(&place.run(&["get", &link]), 6, "--force");
    fs::remove_file(out("x")).unwrap();
    fs::rename(out("pipe"), out("x")).unwrap();
    assert_failed(&place.run(&["get", &link]), 6, "--force");
    assert!(!out("nowhere").exists());
    // Devices and descriptors.
    assert_done(&place.run(&["get", &link, "-o", "/dev/null"]));
    assert!(!fs::symlink_metadata("/dev/null").unwrap().is_file());
    for name in ["/dev/stdout", "/dev/fd/1"] {
        assert!(place.run(&["get", &link, "-o", name]).stdout == data, "{name}");
    }
}

#[test]
fn messages_do_not_cost_the_download() {
    let place = Place::new();
    let data = place.file("x", 3_000_000);
    let server = place.serve("state", &[]);
    let link = server.link("x");
    let full = || fs::File::options().write(true).open("/dev/full").unwrap();
    let status = place.kwik(&["get", &link]).stderr(full()).status().unwrap();
    assert!(status.success(), "{status}");
    let run = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_kwik"), &link]);
        shell.current_dir(place.path("out")).env("XDG_STATE_HOME", place.path("xdg"));
        shell.output().unwrap()
    };
    let closed = run(r#""$0" get "$1" -o y 2>&-"#);
    assert!(closed.status.success());
    assert!(fs::read(place.path("out/y")).unwrap() == data);
    // A reader that has seen enough is no disk error, and no line.
    let head = run(r#"{ "$0" get "$1" -o -; echo $? >&2; } | head -c 1000"#);
    assert!(head.stdout == data[..1000]);
    assert_eq!(String::from_utf8(head.stderr).unwrap().trim(), "141");
}

/// What a server says, and what it calls its files, shows as one harmless line.
#[test]
fn foreign_text_does_nothing_to_a_terminal() {
    let place = Place::new();
    let evil = "a\u{202e}gpj.exe";
    place.file(evil, 10);
    let access = place.path("access");
    let server = place.serve("state", &["--access-log", access.to_str().unwrap()]);
    let output = place.run(&["get", &server.link("a%E2%80%AEgpj.exe"), "-o", "x"]);
    assert_done(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(r"a\u{202e}gpj.exe") && !said.contains('\u{202e}'), "{said}");
    let output = place.run(&["get", &server.link("no%E2%80%AEsuch"), "-o", "x"]);
    assert_failed(&output, 3, r"no\u{202e}such");
    // JSON says the same, and shows nothing of it to a terminal either.
    let arguments = ["get", &server.link("a%E2%80%AEgpj.exe"), "-o", "y", "--json"];
    let output = place.run(&[&arguments[..], &["--progress", "json"]].concat());
    assert_done(&output);
    wait_until(|| fs::read_to_string(&access).unwrap().lines().count() == 3);
    for said in [output.stdout, output.stderr, fs::read(&access).unwrap()] {
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(r"\u202e") && !said.contains('\u{202e}'), "{said}");
        let mut names = said.lines().map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["name"].as_str().unwrap_or_default().to_owned()
        });
        assert!(names.any(|name| name == evil), "{said}");
    }
}

/// The names of a new state folder, and of the key in it, are on the disk before the key is used.
#[test]
fn a_new_state_folder_and_its_key_outlive_a_crash() {
    let place = Place::new();
    let (state, trace) = (place.path("new/state"), place.path("trace"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-e", "trace=fsync", "-o"]).arg(&trace);
    command.args([env!("CARGO_BIN_EXE_kwik"), "id", "--state"]).arg(&state);
    if !command.output().is_ok_and(|output| output.status.success()) {
        common::skip("strace cannot run here");
        return;
    }
    let trace = fs::read_to_string(&trace).unwrap();
    // The folders that have a new name in them, and the key.
    for synced in [place.path(""), place.path("new"), state.clone(), state.join("identity.")] {
        let name = fs::canonicalize(&synced).unwrap_or(synced);
        let name = name.to_str().unwrap().trim_end_matches('/');
        let found = trace.lines().any(|line| {
            line.split_once(name).is_some_and(|(_, rest)| {
                rest.starts_with('>') || (name.ends_with('.') && rest.contains('>'))
            })
        });
        assert!(found, "{name} is not synced: {trace}");
    }
}
