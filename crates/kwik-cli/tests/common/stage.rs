//! A primary with two edges and an administration interface.

use std::fs::{self, File};

use serde_json::Value;

use super::{Place, Server, assert_done, wait_until};

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub fn mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A primary with an interface on a socket, two edges, and a file of 40 MB.
pub struct Stage {
    pub place: Place,
    pub primary: Server,
    pub edges: [Server; 2],
    pub data: Vec<u8>,
    pub socket: String,
}

impl Stage {
    pub fn new(options: &[&str]) -> Self {
        let mut stage = Self::at(None, options);
        stage.socket = stage.place.path("admin").to_str().unwrap().to_owned();
        stage
    }

    /// One whose interface is at a port, and which knows the page's address.
    pub fn at(admin: Option<&str>, options: &[&str]) -> Self {
        let place = Place::new();
        let data = place.file("x", 40_000_000);
        let id = place.run(&["id", "--state", place.path("primary").to_str().unwrap()]);
        let pin = String::from_utf8(id.stdout).unwrap();
        let edges = ["one", "two"].map(|name| place.serve(name, &["--trust", pin.trim()]));
        let socket = place.path("admin").to_str().unwrap().to_owned();
        let socket = admin.map_or(socket, str::to_owned);
        let files = place.path("files").to_str().unwrap().to_owned();
        let state = place.path("primary").to_str().unwrap().to_owned();
        let fixed = ["serve", &files, "--listen", "127.0.0.1:0", "--state", &state];
        let (one, two) = (edges[0].edge(), edges[1].edge());
        let brought = ["--edge", &one, "--edge", &two, "--admin", &socket];
        let errors = File::create(place.path("log")).unwrap();
        let mut command = place.kwik(&[&fixed[..], &brought, options].concat());
        let primary = Server::spawn(command.env("KWIK_LOG", "info").stderr(errors));
        Self { place, primary, edges, data, socket }
    }

    pub fn ctl(&self, arguments: &[&str]) -> std::process::Output {
        self.place.run(&[&["ctl", "--admin", &self.socket], arguments].concat())
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ctl(&[&["--json"], arguments].concat());
        assert_done(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.ctl(arguments);
        assert_done(&output);
        String::from_utf8(output.stdout).unwrap()
    }

    /// The download's session, once both edges are in it.
    pub fn session(&self) -> Value {
        let mut session = Value::Null;
        wait_until(|| {
            let list = self.json(&["sessions"]);
            let Some(name) = list["sessions"][0]["name"].as_str() else { return false };
            session = self.json(&["session", name]);
            session["paths"].as_array().is_some_and(|paths| paths.len() == 3)
        });
        session
    }
}
