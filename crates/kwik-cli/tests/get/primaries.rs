//! Links that name several primaries.

use std::{fs, net::UdpSocket};

use crate::{
    common::{Place, Server, assert_done, assert_failed, names},
    handover::{Get, SLOW, Servers, end},
};

const SIZE: usize = 20_000_000;

/// A link to `name` that names these, in their order.
fn link(servers: &[&str], name: &str) -> String {
    let parts: Vec<_> = servers.iter().map(|link| link.trim_start_matches("kwik://")).collect();
    format!("kwik://{}/{name}", parts.join(","))
}

/// A place where nobody ever answers, and a link to it.
fn silent() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let link = format!("kwik://{}@{}", "ab".repeat(32), socket.local_addr().unwrap());
    (socket, link)
}

fn address(link: &str) -> &str {
    link.split_once('@').unwrap().1
}

fn assert_little_again(done: &serde_json::Value, get: &Get<'_>) {
    let received = done["received"].as_u64().unwrap();
    assert!(received <= SIZE as u64 * 105 / 100, "{received}: {}", get.said());
}

#[test]
fn a_primary_that_is_killed_leaves_its_get_to_the_next_one() {
    let place = Place::new();
    let data = place.file("x", SIZE);
    let servers = Servers { place: &place };
    let [a, b] = ["a", "b"].map(|name| servers.start(name, "127.0.0.1:0", &SLOW));
    let (_socket, dead) = silent();
    let link = link(&[&a.edge(), &dead, &b.edge()], "x");
    let mut get = Get::begin(&place, 0, &link, &["--timeout", "2s"]);
    get.wait_for(4_000_000);
    end(a, "-KILL");
    let done = get.done();
    assert_little_again(&done, &get);
    assert_eq!(done["sessions"], 2);
    for next in [address(&dead), &b.address] {
        assert!(get.said().contains(&format!("going on with {next}")), "{}", get.said());
    }
    assert!(fs::read(place.path("out/0")).unwrap() == data);
    assert_eq!(place.outputs(), ["0"]);
}

#[test]
fn a_primary_that_is_started_again_goes_on_in_its_turn() {
    let place = Place::new();
    let data = place.file("x", SIZE);
    let servers = Servers { place: &place };
    let a = servers.start("a", "127.0.0.1:0", &SLOW);
    let (own, listen) = (a.edge(), a.address.clone());
    let (_socket, dead) = silent();
    let mut get = Get::begin(&place, 0, &link(&[&own, &dead], "x"), &["--timeout", "2s"]);
    get.wait_for(4_000_000);
    end(a, "-KILL");
    let again = servers.start("a", &listen, &SLOW);
    assert_eq!(again.edge(), own);
    let done = get.done();
    assert_little_again(&done, &get);
    assert_eq!(done["sessions"], 2);
    assert!(get.said().contains("the server was restarted"), "{}", get.said());
    assert!(fs::read(place.path("out/0")).unwrap() == data);
}

/// All of them in the middle, too; what has come stays for the next get.
#[test]
fn all_that_are_gone_in_the_middle_are_named() {
    let place = Place::new();
    let data = place.file("x", SIZE);
    let servers = Servers { place: &place };
    let [a, b] = ["a", "b"].map(|name| servers.start(name, "127.0.0.1:0", &SLOW));
    let (first, listen) = (a.address.clone(), b.address.clone());
    let link = link(&[&a.edge(), &b.edge()], "x");
    let begin = |number| Get::begin(&place, number, &link, &["--timeout", "1s", "--retry", "1"]);
    let mut get = begin(0);
    get.wait_for(4_000_000);
    end(b, "-KILL");
    end(a, "-KILL");
    let line = get.failed(5);
    let named = line.contains(&first) && line.contains(&listen);
    assert!(named && line.contains("kwik: none of 2 servers serves: "), "{line}");
    assert!(line.contains("are kept: the same command goes on from there"), "{line}");
    let _b = servers.start("b", &listen, &[]);
    let done = begin(0).done();
    let received = done["received"].as_u64().unwrap();
    assert!(received <= SIZE as u64 * 105 / 100 - 4_000_000, "{received}");
    assert!(fs::read(place.path("out/0")).unwrap() == data);
}

#[test]
fn who_does_not_answer_at_the_start_costs_a_moment() {
    let place = Place::new();
    place.file("a/x", 100_000);
    let (_socket, dead) = silent();
    let b = place.serve("b", &["--also", &dead]);
    let servers = [&*dead, &b.edge()];
    let short = ["--timeout", "1s"];
    let run = |first: &[&str]| place.run(&[first, &short].concat());
    let got = run(&["get", &link(&servers, "a/x")]);
    assert_done(&got);
    let said = String::from_utf8_lossy(&got.stderr);
    assert!(said.contains(&format!("going on with {}", b.address)), "{said}");
    assert_done(&run(&["verify", &link(&servers, "a/x"), "x"]));
    // A folder too, and with retries for none.
    assert_done(&run(&["get", &link(&servers, "a/"), "--retry", "0"]));
    assert_eq!(names(&place.path("out/a")), ["x"]);
    let listed = run(&["ls", &link(&servers, "a")]);
    assert_done(&listed);
    assert!(String::from_utf8_lossy(&listed.stdout).ends_with("  x\n"));
    // The way to each of them.
    let looked = place.run(&["doctor", &link(&servers, "")[..], "--timeout", "1s"]);
    let looked = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(looked.contains(&format!("no answer from {}", address(&dead))), "{looked}");
    assert!(looked.contains(&format!("{} answers", b.address)), "{looked}");
}

#[test]
fn all_that_were_tried_are_named_when_none_serves() {
    let place = Place::new();
    place.file("x", 10);
    let silent = [silent(), silent()];
    let dead: Vec<_> = silent.iter().map(|(_, link)| link.as_str()).collect();
    let get = |link: &str| place.run(&["get", link, "-o", "y", "--timeout", "1s", "-q"]);
    let names_all = |output: &std::process::Output, names: &[&str]| {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
    };
    let none = get(&link(&dead, "x"));
    assert_failed(&none, 5, "none of 2 servers serves: ");
    names_all(&none, &dead.iter().map(|link| address(link)).collect::<Vec<_>>());
    // Another key than the link says is no reason to believe anybody less.
    let a = place.serve("a", &[]);
    let other = format!("kwik://{}@{}", "cd".repeat(32), a.address);
    let wrong = get(&link(&[&other, dead[0]], "x"));
    assert_failed(&wrong, 5, "none of 2 servers serves: ");
    names_all(&wrong, &["take a new link from the server's owner", address(dead[0])]);
    assert_eq!(place.outputs().len(), 0);
    let b = place.serve("b", &[]);
    assert_done(&get(&link(&[&other, &b.edge()], "x")));
}

#[test]
fn what_one_primary_lacks_another_may_have() {
    let place = Place::new();
    place.file("x", 10);
    fs::create_dir(place.path("files-a")).unwrap();
    let servers = Servers { place: &place };
    let [a, b] = ["a", "b"].map(|name| servers.start(name, "127.0.0.1:0", &[]));
    let both = [&*a.edge(), &b.edge()];
    assert_done(&place.run(&["get", &link(&both, "x")]));
    assert_done(&place.run(&["verify", &link(&both, "x"), "x"]));
    let lacks = place.run(&["get", &link(&both, "y"), "-q"]);
    assert_failed(&lacks, 3, "none of 2 servers serves: ");
    assert_eq!(place.outputs(), ["x"]);
}

/// The secret of each goes to that one alone.
#[test]
fn each_server_of_a_link_has_a_secret_of_its_own() {
    let place = Place::new();
    place.file("x", 10);
    let [a, b] = ["a", "b"].map(|name| place.serve(name, &["--secret"]));
    assert_ne!(a.who, b.who);
    let full = |server: &Server| format!("kwik://{}@{}", server.who, server.address);
    let (_socket, dead) = silent();
    let get = |servers: &[&str], to: &str| {
        let link = link(servers, "x");
        place.run(&["get", &link, "-o", to, "--timeout", "1s", "-q"])
    };
    assert_done(&get(&[&dead, &full(&b)], "1"));
    assert_done(&get(&[&a.edge(), &full(&b)], "2"));
    let none = get(&[&a.edge(), &b.edge()], "3");
    assert_failed(&none, 4, "does not let this client in");
    // Nobody is shown the secret of another.
    let secret = |server: &Server| server.who.split_once(':').unwrap().1.to_owned();
    let with = |server: &Server, secret: &str| {
        format!("kwik://{}:{secret}@{}", server.fingerprint, server.address)
    };
    let swapped = [with(&a, &secret(&b)), with(&b, &secret(&a))];
    let refused = get(&[&swapped[0], &swapped[1]], "4");
    assert_failed(&refused, 4, "does not let this client in");
    assert_done(&get(&[&swapped[0], &full(&b)], "5"));
    assert_eq!(place.outputs(), ["1", "2", "5"]);
}

#[test]
fn a_server_prints_a_link_with_the_others() {
    let place = Place::new();
    place.file("x", 10);
    let b = place.serve("b", &[]);
    let files = place.path("files");
    let state = place.path("a");
    let serve = ["serve", files.to_str().unwrap(), "--listen", "127.0.0.1:0", "--state"];
    let also = ["--also", &b.edge()];
    let mut command = place.kwik(&[&serve[..], &[state.to_str().unwrap()], &also].concat());
    let output = place.path("said");
    command.stdout(fs::File::create(&output).unwrap());
    let child = command.spawn().unwrap();
    crate::common::wait_until(|| fs::read_to_string(&output).unwrap().contains("may read"));
    let said = fs::read_to_string(&output).unwrap();
    let own = said.lines().find_map(|line| line.strip_prefix("serving")).unwrap();
    let own = own.rsplit_once(" on ").unwrap().1.to_owned();
    let pin = said.lines().next().unwrap().rsplit_once(' ').unwrap().1;
    let server = Server { child, fingerprint: pin.into(), who: pin.into(), address: own };
    let printed = link(&[&server.edge(), &b.edge()], "x");
    assert!(said.contains(&format!("kwik get {printed}\n")), "{said}");
    end(server, "-KILL");
    assert_done(&place.run(&["get", &printed, "--timeout", "1s"]));
    let pin = "ab".repeat(32);
    let nine: Vec<_> = (1..9).map(|port| format!("kwik://{pin}@h:{port}")).collect();
    let nine: Vec<_> = nine.iter().flat_map(|link| ["--also", link]).collect();
    let twice = ["--also", &b.edge(), "--also", &b.edge()];
    for (options, line) in [
        (&["--also", "kwik://h:1"][..], "kwik id"),
        (&["--also", &format!("kwik://{pin}@h:1/x")], "leave out the name"),
        (&["--also", &format!("kwik://{pin}@h:1,{pin}@i:1")], "one server is wanted"),
        (&twice, "is there twice"),
        (&nine, "9 servers, and a link names 8"),
    ] {
        let serve = ["serve", "../files", "--listen", "127.0.0.1:0", "--state", "../c"];
        assert_failed(&place.run(&[&serve[..], options].concat()), 2, line);
    }
}

#[test]
fn a_wrong_link_is_refused_and_shows_no_secret() {
    let place = Place::new();
    let pin = "ab".repeat(32);
    let many: Vec<_> = (1..=9).map(|port| format!("kwik://{pin}@h:{port}")).collect();
    let many = link(&many.iter().map(String::as_str).collect::<Vec<_>>(), "x");
    for (link, line) in [
        (format!("kwik://{pin}@h:1,i:2/x"), "each is known by its key"),
        ("kwik://h:1,i:2/x".into(), "each is known by its key"),
        (format!("kwik://{pin}@h:1,/x"), "a comma stands between two servers"),
        (format!("kwik://{pin}@h:1,{pin}@i/x"), "the port is missing"),
        (format!("kwik://{pin}@h:1,{pin}@i:99999/x"), "the port is a number"),
        (format!("kwik://{pin}@h:1,ab@i:2/x"), "64 hexadecimal digits"),
        (format!("kwik://{pin}@h:1,{pin}@[h]:2/x"), "the host is"),
        (format!("kwik://{pin}@h:1,{pin}@h:1/x"), "h:1 is there twice"),
        (format!("kwik://{pin}@h:1,{pin}@i:2"), "names no object"),
        (many, "there are 9 servers"),
        (format!("kwik://{pin}:0123456789abcdef@h:1,{pin}:short@i:2/x"), "secret"),
        (format!("kwik://{pin}:0123456789abcdef@h:1,i:2/x"), "each is known by its key"),
    ] {
        let output = place.run(&["get", &link]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{link}: {said}");
        assert!(said.contains(line) && !said.contains("0123456789abcdef@"), "{link}: {said}");
        assert!(!said.contains("short"), "{said}");
    }
    let two = format!("kwik://{pin}@h:1,{pin}@i:2/x");
    let made = place.run(&["link", &two, "--expires", "1h"]);
    assert_failed(&made, 2, "one server is wanted here");
    assert_eq!(place.outputs().len(), 0);
}
