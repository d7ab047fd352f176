//! The live page in a real browser, where there is one. `KWIK_SCREENSHOTS=FOLDER` keeps pictures.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]
#![allow(unreachable_pub, missing_docs, reason = "a test")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{
    serving::{Download, log},
    stage::{Stage, TOKEN, mode},
    wait_until,
};
use serde_json::{Value, json};

/// Whether lines are drawn: in the colour of the primary's path that of its window, and on top of
/// all states that of the last path. Others may lie under each other.
const DRAWN: &str = "(() => {
    const drawn = (chart, colour) => {
        const canvas = document.querySelectorAll('#charts canvas')[chart];
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        for (let at = 0; at < data.length; at += 4) {
            if (data.slice(at, at + 4).join() === colour + ',255') return true;
        }
        return false;
    };
    return drawn(2, '76,111,255') && drawn(5, '42,157,98');
})()";

/// How long the browser may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser that is told what to do over a pipe, by the DevTools protocol.
struct Browser {
    child: Child,
    stdin: ChildStdin,
    told: mpsc::Receiver<Value>,
    session: Value,
    last: u64,
    /// What the page's console and its scripts complained of.
    complaints: Vec<Value>,
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Browser {
    /// None where there is none.
    fn start(profile: &Path) -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
        let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
        let name = names.iter().find(is_there)?;
        // It reads what it is told on descriptor 3, and answers on 4.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh", name])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"])
            .args(["--window-size=1200,1500", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.display()));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let told = Self::listen(stdout);
        let (session, complaints) = (Value::Null, Vec::new());
        Some(Self { child, stdin, told, session, last: 0, complaints })
    }

    fn listen(stdout: ChildStdout) -> mpsc::Receiver<Value> {
        let (sender, told) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(stdout).split(0) {
                let Ok(message) = message else { return };
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        told
    }

    /// Asks for something: the answer. What is told meanwhile is taken note of.
    fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        let asked = self.send(method, parameters);
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let told = self.told.recv_timeout(left).unwrap_or_else(|_| panic!("{method}: silence"));
            if told["id"] == asked {
                assert!(told["error"].is_null(), "{method}: {told}");
                return told["result"].clone();
            }
            self.note(told);
        }
    }

    fn send(&mut self, method: &str, parameters: &Value) -> u64 {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.stdin.write_all(format!("{message}\0").as_bytes()).unwrap();
        self.last
    }

    fn note(&mut self, told: Value) {
        match told["method"].as_str() {
            // The page asks whether a command is meant.
            Some("Page.javascriptDialogOpening") => {
                self.send("Page.handleJavaScriptDialog", &json!({ "accept": true }));
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(told),
            Some("Runtime.consoleAPICalled") => self.complaints.push(told),
            Some("Log.entryAdded") if told["params"]["entry"]["level"] == "error" => {
                self.complaints.push(told);
            }
            _ => {}
        }
    }

    fn open(&mut self, url: &str) {
        let made = self.ask("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": made["targetId"], "flatten": true });
        self.session = self.ask("Target.attachToTarget", &attach)["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log"] {
            self.ask(&format!("{domain}.enable"), &json!({}));
        }
        self.ask("Page.navigate", &json!({ "url": url }));
    }

    /// What an expression is in the page.
    fn look(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let found = self.ask("Runtime.evaluate", &asked);
        assert!(found["exceptionDetails"].is_null(), "{expression}: {found}");
        found["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        while self.look(expression) != true {
            let text = self.look("document.body.innerText");
            assert!(Instant::now() < end, "{expression}: {text}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Keeps a picture, if they are wanted.
    fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("KWIK_SCREENSHOTS") else { return };
        let taken = self.ask("Page.captureScreenshot", &json!({ "format": "png" }));
        let png = data_encoding::BASE64.decode(taken["data"].as_str().unwrap().as_bytes());
        fs::write(PathBuf::from(folder).join(name), png.unwrap()).unwrap();
    }
}

#[test]
fn the_page_shows_three_sources_and_an_edge_is_killed_there() {
    let place = common::Place::new();
    let Some(mut browser) = Browser::start(&place.path("profile")) else {
        common::skip("there is no Chromium on this machine: apt-get install chromium");
        return;
    };
    let token = place.path("token").to_str().unwrap().to_owned();
    fs::write(&token, TOKEN).unwrap();
    mode(&token, 0o600);
    // The primary alone is too slow for the reader.
    let options = ["--admin-token-file", &token, "--rate", "500k"];
    let mut stage = Stage::at(Some("127.0.0.1:0"), &options);
    wait_until(|| log(&stage.place).contains("administration: "));
    let log_text = log(&stage.place);
    let url = log_text.split("administration: ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    stage.socket = address.to_owned();
    let ctl = |command: &str| {
        let asked = ["ctl", "--admin", address, "--admin-token-file", &token, "--json", command];
        serde_json::from_slice::<Value>(&stage.place.run(&asked).stdout).unwrap()
    };
    let download = Download::begin(&stage.place, &stage.primary.link("x"));
    let (go_on, wait) = mpsc::channel();
    let download = download.slowly(wait);
    wait_until(|| ctl("sessions")["sessions"][0]["paths"] == 3);

    browser.open(&url);
    // Nothing is shown before the token is told; that it is needed, the console says too.
    browser.until("document.getElementById('login') && !document.getElementById('login').hidden");
    browser.complaints.clear();
    browser.look(&format!(
        "document.getElementById('token').value = '{TOKEN}'; \
         document.querySelector('#token-form button').click()"
    ));
    browser.until("document.querySelectorAll('#paths tr').length === 3");
    for path in 0..3 {
        browser.until(&format!("!!document.querySelector('#paths tr[data-path=\"{path}\"]')"));
    }
    browser.until(
        "[...document.querySelectorAll('#paths tr')].every(row => \
                   !['0 B', '–', ''].includes(row.children[7].textContent))",
    );
    browser.until("document.getElementById('limit').textContent.startsWith('Limited by ')");
    check_charts(&mut browser);
    // Rows stay the same ones while figures change in them.
    browser.look("window.kept = document.querySelector('#paths tr')");
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(browser.look("window.kept === document.querySelector('#paths tr')"), true);
    browser.picture("page.png");

    browser.look(
        "[...document.querySelectorAll('#paths button')].find(b => !b.hidden && \
                  b.textContent === 'Kill').click()",
    );
    browser.until(
        "[...document.querySelectorAll('#paths tr')].some(row => \
                   row.children[2].textContent === 'dead')",
    );
    browser.until("document.getElementById('state').textContent.endsWith(': done')");
    browser.until("document.getElementById('limit').textContent.startsWith('Limited by ')");
    browser.until("document.getElementById('events').textContent.includes('status=dead')");
    let state = "document.querySelectorAll('#charts .chart')[5].getAttribute('aria-label')";
    browser.until(&format!("{state}.includes(' dead')"));
    check_small_screen(&mut browser);
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser.ask("Emulation.setEmulatedMedia", &dark);
    browser.picture("page-killed-dark.png");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    go_on.send(()).unwrap();
    let (rest, code) = download.join().unwrap();
    assert!(code == Some(0) && rest == stage.data[1..]);
}

fn check_charts(browser: &mut Browser) {
    browser.until("document.querySelectorAll('#charts .uplot canvas').length === 6");
    // What is drawn is also told to who cannot see it, and lines are there in each path's colour.
    browser.until(
        "[...document.querySelectorAll('#charts .chart')].every(chart => \
                   chart.getAttribute('aria-label').includes('path 2 '))",
    );
    browser.until(DRAWN);
    // Arrows move along the time.
    browser.look("document.querySelector('#charts .chart').focus()");
    let key = json!({ "type": "keyDown", "key": "ArrowLeft", "code": "ArrowLeft" });
    browser.ask("Input.dispatchKeyEvent", &key);
    browser.until("/: path 0 /.test(document.querySelector('#charts .readout').textContent)");
    browser.look("document.querySelector('#charts .chart').blur()");
}

fn check_small_screen(browser: &mut Browser) {
    // On a small screen nothing but tables and maps is wider than it.
    let small = json!({ "width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": true });
    browser.ask("Emulation.setDeviceMetricsOverride", &small);
    browser.until("document.documentElement.scrollWidth <= 360");
    browser.until("[...document.querySelectorAll('#charts canvas')].every(c => c.width <= 360)");
    browser.ask("Emulation.clearDeviceMetricsOverride", &json!({}));
}
