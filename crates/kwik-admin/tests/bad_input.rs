//! Requests that are wrong, huge, foreign or slow: each has one clear answer, and the sessions go
//! on.

#![allow(clippy::unwrap_used, reason = "test code")]

mod tools;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kwik::{ClientConfig, Endpoint, Identity, ServerConfig, Session};
use kwik_admin::{Admin, Bound, Place, Token, limits};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Stage {
    socket: PathBuf,
    session: Session,
    _kept: (Endpoint, tempfile::TempDir),
}

/// What requests name as the port; sockets have none.
const PORT: u16 = 9433;

/// A server with one session, and its interface at a socket.
async fn stage(token: bool) -> Stage {
    let identity = Arc::new(Identity::from_seed([7; 32]));
    let key = identity.fingerprint();
    let loopback = "127.0.0.1:0".parse().unwrap();
    let server = Endpoint::server(ServerConfig::new(identity), loopback).unwrap();
    let mut admin = Admin::new(server.clone());
    if token {
        admin = admin.with_token(Token::new(TOKEN).unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin");
    let bound = Bound::new(&Place::Unix(socket.clone())).await.unwrap();
    tokio::spawn(async move { admin.run(&bound).await });
    let accepting = server.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            tokio::spawn(async move {
                let Ok(kwik::Accepted::Primary(primary)) = incoming.accept_any().await else {
                    return;
                };
                primary.session().closed().await;
            });
        }
    });
    let client = Endpoint::client(loopback).unwrap();
    let dial = client.connect_with(ClientConfig::pinned(key), server.local_addr().unwrap(), "");
    let session = dial.unwrap().await.unwrap();
    let stage = Stage { socket, session, _kept: (server, folder) };
    // It is listed once the server has accepted it.
    while stage.get("/api/v1/sessions", TOKEN).await.1["sessions"][0].is_null() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage
}

impl Stage {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends this and reads the answer to its end: the status, and the body.
    async fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut stream = self.connect().await;
        // The answer may come before all is written, and the connection end.
        stream.write_all(request).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
        (status, body)
    }

    async fn send(&self, method: &str, path: &str, head: &str, body: &str) -> (u16, Value) {
        let host = match head.to_lowercase().contains("host:") {
            true => String::new(),
            false => format!("Host: localhost:{PORT}\r\n"),
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}{head}Content-Length: {length}\r\nConnection: \
             close\r\n\r\n{body}"
        );
        let (status, body) = self.raw(request.as_bytes()).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        self.send("GET", path, &format!("Authorization: Bearer {token}\r\n"), "").await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.send("POST", path, "Content-Type: application/json\r\n", body).await
    }

    async fn patch(&self, path: &str, body: &str) -> (u16, Value) {
        self.send("PATCH", path, "Content-Type: application/json\r\n", body).await
    }

    fn is_untouched(&self) -> bool {
        self.session.close_reason().is_none()
    }
}

#[tokio::test]
async fn requests_that_are_wrong_are_told_why() {
    let stage = stage(false).await;
    let key = "ab".repeat(32);
    let huge = format!("{{\"reason\": \"{}\"}}", "x".repeat(limits::MAX_BODY));
    let long = format!("{{\"reason\": \"{}\"}}", "x".repeat(limits::MAX_REASON + 1));
    let path = format!(r#"{{"address": "nowhere", "fingerprint": "{key}"}}"#);
    let deep = "[".repeat(10_000);
    let table: &[(&str, &str, &str, u16)] = &[
        ("POST", "/api/v1/sessions/0-1/close", "", 415),
        ("POST", "/api/v1/sessions/0-1/close", "no json", 400),
        ("POST", "/api/v1/sessions/0-1/close", "[]", 400),
        ("POST", "/api/v1/sessions/0-1/close", &deep, 400),
        ("POST", "/api/v1/sessions/0-1/close", r#"{"code": -1}"#, 400),
        ("POST", "/api/v1/sessions/0-1/close", r#"{"code": 4611686018427387904}"#, 400),
        ("POST", "/api/v1/sessions/0-1/close", r#"{"cod": 1}"#, 400),
        ("POST", "/api/v1/sessions/0-1/close", &huge, 413),
        ("POST", "/api/v1/sessions/0-1/close", &long, 400),
        ("POST", "/api/v1/sessions/0-99/close", "{}", 404),
        ("POST", "/api/v1/sessions/%00/close", "{}", 404),
        ("POST", "/api/v1/sessions/0-1/paths", &path, 400),
        ("POST", "/api/v1/sessions/0-1/paths/x/remove", "{}", 400),
        ("POST", "/api/v1/sessions/0-1/paths/77/remove", "{}", 404),
        ("POST", "/api/v1/sessions/0-1/paths/77/kill", "{}", 409),
        ("POST", "/api/v1/sessions/0-1/paths/0/kill", "{}", 409),
        ("POST", "/api/v1/sessions/0-1/paths/1/explode", "{}", 404),
        ("PATCH", "/api/v1/sessions/0-1/settings", r#"{"no_such": 1}"#, 400),
        ("PATCH", "/api/v1/sessions/0-1/settings", r#"{"gap_timeout": "soon"}"#, 400),
        ("PATCH", "/api/v1/sessions/0-1/settings", r#"{"gap_timeout": 0}"#, 400),
        // It is agreed on when a session starts.
        ("PATCH", "/api/v1/sessions/0-1/settings", r#"{"checksum": true}"#, 409),
        // They contradict each other.
        ("PATCH", "/api/v1/settings", r#"{"initial_window": 8000000, "max_window": 7000000}"#, 409),
        ("PATCH", "/api/v1/settings", r#"{"memory_budget": 0}"#, 400),
        ("PATCH", "/api/v1/settings", r#"{"memory_budget": 1000}"#, 400),
        ("PATCH", "/api/v1/sessions/0-1/settings", r#"{"memory_budget": 5000000}"#, 400),
        ("POST", "/api/v1/drain", "{}", 409),
        ("POST", "/api/v1/edges/xyz", r#"{"drained": true}"#, 400),
        ("POST", "/metrics", "{}", 405),
        ("GET", "/api/v2/sessions", "", 404),
        ("GET", "/../../etc/passwd", "", 404),
    ];
    for (method, path, body, wanted) in table {
        let kind = if *wanted == 415 { "" } else { "Content-Type: application/json\r\n" };
        let (status, answer) = stage.send(method, path, kind, body).await;
        assert_eq!(status, *wanted, "{method} {path} {answer}");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!((8..400).contains(&error.len()) || *wanted == 413, "{path}: {answer}");
        assert!(stage.is_untouched());
    }
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let stage = stage(false).await;
    let port = PORT;
    let own = format!("Host: localhost:{port}\r\n");
    let table = [
        ("Host: evil.example\r\n".to_owned(), 421),
        (format!("Host: evil.example:{port}\r\n"), 421),
        (format!("Host: localhost.evil.example:{port}\r\n"), 421),
        ("Host: localhost@evil.example\r\n".into(), 421),
        ("Host: 192.0.2.1\r\n".into(), 421),
        ("Host: localhost\r\nHost: evil.example\r\n".into(), 421),
        (format!("{own}Origin: http://evil.example\r\n"), 403),
        (format!("{own}Origin: null\r\n"), 403),
        (format!("{own}Origin: https://localhost:{port}\r\n"), 403),
        (format!("{own}Origin: http://localhost:1\r\n"), 403),
        (format!("{own}Sec-Fetch-Site: cross-site\r\n"), 403),
        (format!("{own}Sec-Fetch-Site: same-site\r\n"), 403),
        (format!("{own}Origin: http://localhost:{port}\r\n"), 200),
        (format!("Host: [::1]:{port}\r\n"), 200),
        (format!("Host: 127.0.0.2:{port}\r\n"), 200),
        (format!("Host: LocalHost.:{port}\r\n"), 200),
        (format!("Host: localhost..:{port}\r\n"), 421),
        (format!("Host: 127.0.0.1:{port}\r\nSec-Fetch-Site: none\r\n"), 200),
    ];
    for (head, wanted) in table {
        let (status, answer) = stage.send("GET", "/api/v1/sessions", &head, "").await;
        assert_eq!(status, wanted, "{head} {answer}");
    }
    // A form of a foreign page can send texts, and no JSON.
    let head = format!("{own}Content-Type: text/plain\r\n");
    let (status, _) = stage.send("POST", "/api/v1/sessions/0-1/close", &head, "{}").await;
    assert_eq!(status, 415);
    // No other origin is ever told that it may read.
    let plain = format!("GET /metrics HTTP/1.1\r\n{own}Connection: close\r\n\r\n");
    let mut stream = stage.connect().await;
    stream.write_all(plain.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
    assert!(answer.to_lowercase().contains("nosniff"), "{answer}");
    assert!(stage.is_untouched());
}

#[tokio::test]
async fn whoever_has_not_the_token_sees_nothing() {
    assert!(Token::new("short").is_err() && Token::new(&"x".repeat(300)).is_err());
    assert!(Token::new(&format!("{TOKEN}\r\nX: y")).is_err());
    let stage = stage(true).await;
    let wrong = TOKEN.replace('f', "e");
    let gets = ["/metrics", "/api/v1/sessions", "/api/v1/sessions/0-1", "/api/v1/events"];
    for path in gets {
        for token in ["", "x", &wrong, &TOKEN[1..], &format!("{TOKEN}0")] {
            let (status, answer) = stage.get(path, token).await;
            assert_eq!(status, 401, "{path} {token} {answer}");
        }
    }
    assert_eq!(stage.post("/api/v1/sessions/0-1/close", "{}").await.0, 401);
    assert!(stage.is_untouched());
    assert_eq!(stage.get("/api/v1/sessions", TOKEN).await.0, 200);
    for path in ["/", "/page.js", "/charts.js", "/uplot.js", "/uplot.css", "/healthz", "/readyz"] {
        assert_eq!(stage.send("GET", path, "", "").await.0, 200, "{path}");
    }
}

/// Every user of the machine reaches a port.
#[tokio::test]
async fn commands_at_a_port_need_a_token() {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::client(loopback).unwrap();
    let bound = Bound::new(&Place::Tcp(loopback)).await.unwrap();
    let Some(Place::Tcp(address)) = bound.place() else { panic!("no port") };
    tokio::spawn(async move { Admin::new(endpoint).run(&bound).await });
    let table = [("GET", "/api/v1/settings", 200), ("PATCH", "/api/v1/settings", 403)];
    for (method, path, wanted) in table {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 2\r\nContent-Type: \
             application/json\r\n\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.0 {wanted}")), "{answer}");
    }
}

/// A service that takes its time, and says what was asked of it.
struct Slow(Arc<tokio::sync::Notify>, Arc<std::sync::atomic::AtomicBool>);

impl kwik_admin::Service for Slow {
    fn reload(&self) -> Option<kwik_admin::Reloading> {
        let (go, done) = (self.0.clone(), self.1.clone());
        Some(Box::pin(async move {
            go.notified().await;
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            true
        }))
    }
}

#[tokio::test]
async fn a_command_is_finished_though_who_asked_is_gone() {
    let (go, done) = (Arc::default(), Arc::default());
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let admin = Admin::new(endpoint).with_service(Slow(Arc::clone(&go), Arc::clone(&done)));
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin");
    let bound = Bound::new(&Place::Unix(socket.clone())).await.unwrap();
    tokio::spawn(async move { admin.run(&bound).await });
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    let request = b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
                    application/json\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(request).await.unwrap();
    // It waits by then; and later, too.
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(200)).await;
    go.notify_one();
    let finished = async {
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), finished).await.unwrap();
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_long() {
    let stage = stage(false).await;
    let request = b"POST /api/v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
                    application/json\r\nContent-Length: 200\r\nConnection: close\r\n\r\n{";
    let answered = tokio::time::timeout(limits::READ_TIMEOUT * 3, stage.raw(request)).await;
    assert_eq!(answered.unwrap().0, 408);
}

#[tokio::test]
async fn heads_and_methods_that_are_none_end_the_connection() {
    let stage = stage(false).await;
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1_000));
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let (status, _) = stage.raw(request).await;
        assert!(status == 0 || (400..=505).contains(&status), "{status}");
    }
    assert_eq!(stage.get("/healthz", "").await.0, 200);
    assert!(stage.is_untouched());
}

#[tokio::test]
async fn who_dawdles_is_cut_off_and_keeps_nobody_out() {
    let stage = stage(false).await;
    let mut slow = Vec::new();
    for _ in 0..limits::MAX_CONNECTIONS + 10 {
        let mut stream = stage.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
        slow.push(stream);
    }
    let answered = tokio::time::timeout(limits::READ_TIMEOUT * 3, stage.get("/healthz", "")).await;
    assert_eq!(answered.unwrap().0, 200);
    assert!(stage.is_untouched());
}

#[tokio::test]
async fn event_streams_are_few() {
    let stage = stage(false).await;
    let mut streams = Vec::new();
    let request = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for _ in 0..limits::MAX_EVENT_STREAMS {
        let mut stream = stage.connect().await;
        stream.write_all(request).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        streams.push(stream);
    }
    let (status, answer) = stage.get("/api/v1/events", "").await;
    assert_eq!(status, 503, "{answer}");
    // One that is closed makes room, once that is noticed.
    streams.pop();
    let status = async {
        loop {
            let mut stream = stage.connect().await;
            stream.write_all(request).await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            if &head == b"HTTP/1.1 200" {
                return;
            }
            assert_eq!(&head, b"HTTP/1.1 503");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), status).await.unwrap();
}

#[tokio::test]
async fn what_is_right_is_done_and_answered_with_what_changed() {
    let stage = stage(false).await;
    let (_, list) = stage.get("/api/v1/sessions", "").await;
    assert_eq!(list["sessions"][0]["name"], "0-1");
    assert_eq!(list["sessions"][0]["limited_by"]["cause"], "nothing");
    let (_, shown) = stage.get("/api/v1/sessions/0-1", "").await;
    assert_eq!(shown["role"], "primary");
    assert_eq!(shown["paths"][0]["status"], "active");
    assert_eq!(shown["settings"]["checksum"]["changes_live"], false);
    assert_eq!(shown["settings"]["gap_timeout"]["value"], "100");
    let settings = "/api/v1/sessions/0-1/settings";
    let (status, changed) = stage.patch(settings, r#"{"gap_timeout": 250}"#).await;
    assert_eq!((status, &changed["changed"]["gap_timeout"]["now"]), (200, &Value::from("250")));
    let (_, shown) = stage.get("/api/v1/sessions/0-1", "").await;
    assert_eq!(shown["settings"]["gap_timeout"]["value"], "250");
    let (status, set) = stage.patch("/api/v1/settings", r#"{"memory_budget": 5000000}"#).await;
    let budget = &set["changed"]["memory_budget"];
    assert_eq!((status, &budget["now"]), (200, &Value::from(5_000_000)));
    assert_eq!(budget["of_each_endpoint"], 1);
    // It is shared by all sessions, so that none of them has one.
    let (_, refused) = stage.patch(settings, r#"{"memory_budget": 5000000}"#).await;
    assert!(refused["error"].as_str().unwrap().contains("/api/v1/settings"), "{refused}");
    let open = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let (_, metrics) = stage.send("GET", "/metrics", open, "").await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "# TYPE kwik_sessions gauge",
        "kwik_sessions{role=\"primary\"} 1",
        "kwik_sessions_begun_total{role=\"primary\"} 1",
        "kwik_handshake_seconds_count{side=\"server\"} 1",
        "kwik_memory_limit_bytes 5000000",
        "kwik_build_info{version=",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    let (_, plain) = stage.get("/metrics", "").await;
    check_with_promtool(plain.as_str().unwrap());
    let (status, closed) =
        stage.post("/api/v1/sessions/0-1/close", r#"{"code": 9, "reason": "go"}"#).await;
    assert_eq!((status, &closed["closed"]), (200, &Value::Bool(true)));
    let error = stage.session.closed().await;
    assert!(error.to_string().contains("go"), "{error}");
}

/// What Prometheus' own tool says, where there is one.
fn check_with_promtool(metrics: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    assert!(metrics.contains("# TYPE kwik_sessions_begun_total counter\n"), "{metrics}");
    assert!(!metrics.contains("# EOF"), "{metrics}");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let Ok(mut tool) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        tools::skip("there is no promtool on this machine: apt-get install prometheus");
        return;
    };
    tool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[tokio::test]
async fn events_come_as_they_happen() {
    let stage = stage(false).await;
    let mut stream = stage.connect().await;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut told = String::new();
    let mut part = [0; 4096];
    while !told.contains("event-stream") {
        let read = stream.read(&mut part).await.unwrap();
        told += &String::from_utf8_lossy(&part[..read]);
    }
    stage.post("/api/v1/sessions/0-1/close", r#"{"reason": "bye"}"#).await;
    while !told.contains("event: session_ended") || !told.contains("\"by\":\"local\"") {
        let read = stream.read(&mut part).await.unwrap();
        assert!(read > 0, "{told}");
        told += &String::from_utf8_lossy(&part[..read]);
    }
}
