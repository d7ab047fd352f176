//! `kwik ctl`: a running server, from the shell.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::{Args, Subcommand};
use kwik::{Fingerprint, escape};
use kwik_admin::Place;
use serde_json::{Map, Value, json};

use crate::{
    admin::token_text,
    failure::{Failure, Kind},
    print,
    voice::json_line,
};

mod tls;

/// Where a server's interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// On this machine.
    Here(Place),
    /// On any, over TLS.
    Https { host: String, port: u16 },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("https://") {
            let wrong = || format!("{text} is no place of an interface: https://HOST:PORT");
            let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or_else(wrong)?;
            let port = port.parse().map_err(|_| wrong())?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            let is_host = !host.is_empty() && host.chars().all(plain);
            return is_host.then(|| Self::Https { host: host.to_owned(), port }).ok_or_else(wrong);
        }
        match text.parse() {
            Ok(Place::Tcp(address)) if !address.ip().is_loopback() => Err(format!(
                "{address} is another machine, or looks like one: use https://{address}"
            )),
            Ok(place) => Ok(Self::Here(place)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Bytes of an answer.
const MAX_ANSWER: u64 = 64 << 20;
/// How long an answer may take: a path is made meanwhile.
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Debug, Args)]
pub(crate) struct CtlArguments {
    /// Where the server's interface is, as its own --admin says; https://HOST:PORT on another
    /// machine.
    #[arg(long, value_name = "PLACE")]
    admin: Option<Target>,
    /// A file with the certificate to trust there, as PEM: the server's own, or that of its CA.
    #[arg(long, value_name = "FILE")]
    admin_ca: Option<PathBuf>,
    /// A file with the token, if the server asks for one.
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Print what the server answers, as JSON.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Ctl,
}

#[derive(Debug, Subcommand)]
enum Ctl {
    /// List sessions, and what limits each.
    Sessions,
    /// Show all of one session.
    Session { name: String },
    /// Close a session.
    Close {
        name: String,
        /// The code that its client is told.
        #[arg(long, default_value_t = 0)]
        code: u64,
        /// The reason that it is told.
        #[arg(long, default_value = "closed by the operator")]
        reason: String,
    },
    /// Have a session's client make a path to a server.
    AddPath { name: String, address: String, fingerprint: Fingerprint },
    /// Have a session's client leave a path once it brought what it was asked for.
    RemovePath { name: String, path: u32 },
    /// Give up a session's path at once.
    KillPath { name: String, path: u32 },
    /// List the servers that this one brings in.
    Edges,
    /// Give an edge no new sessions, or (--undo) does so again.
    DrainEdge {
        fingerprint: Fingerprint,
        #[arg(long)]
        undo: bool,
    },
    /// Have an edge join sessions to come before those of less weight: 1 at the start.
    WeighEdge { fingerprint: Fingerprint, weight: u32 },
    /// Show settings, or change them: NAME=VALUE.
    Set {
        /// Of this session, instead of sessions to come.
        #[arg(long, value_name = "NAME")]
        session: Option<String>,
        #[arg(value_name = "NAME=VALUE", value_parser = assignment)]
        settings: Vec<(String, String)>,
    },
    /// Take no new sessions, and end when the present ones have, or after `kwik serve --drain`.
    Drain,
    /// Read lists again, and open logs again.
    Reload,
    /// Show alerts that are raised, and those that were.
    Alerts,
    /// Print events as they happen.
    Events,
    /// Print the metrics.
    Metrics,
    /// Say whether the server takes sessions.
    Ready,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE, gap_timeout=250, say")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: &CtlArguments) -> Result<(), Failure> {
    let Some(place) = &arguments.admin else {
        let text = "say where the server's interface is: --admin 127.0.0.1:PORT or --admin PATH, \
                    as it was started with";
        return Err(Failure::new(Kind::Usage, text));
    };
    let token = arguments.admin_token_file.as_deref().map(token_text).transpose()?;
    let server = Interface { place, token, ca: arguments.admin_ca.as_deref() };
    let below = |name: &str, rest: &str| format!("/api/v1/sessions/{}{rest}", encoded(name));
    let path =
        |name: &str, path: u32, change: &str| below(name, &format!("/paths/{path}/{change}"));
    let none = json!({});
    let (method, target, body) = match &arguments.command {
        Ctl::Events => return server.follow(),
        Ctl::Metrics | Ctl::Ready => {
            let what = if matches!(arguments.command, Ctl::Ready) { "/readyz" } else { "/metrics" };
            return print(&server.text("GET", what, None)?);
        }
        Ctl::Sessions => ("GET", "/api/v1/sessions".to_owned(), None),
        Ctl::Session { name } => ("GET", below(name, ""), None),
        Ctl::Close { name, code, reason } => {
            ("POST", below(name, "/close"), Some(json!({ "code": code, "reason": reason })))
        }
        Ctl::AddPath { name, address, fingerprint } => {
            let body = json!({ "address": address, "fingerprint": fingerprint.to_string() });
            ("POST", below(name, "/paths"), Some(body))
        }
        Ctl::RemovePath { name, path: id } => ("POST", path(name, *id, "remove"), Some(none)),
        Ctl::KillPath { name, path: id } => ("POST", path(name, *id, "kill"), Some(none)),
        Ctl::Edges => ("GET", "/api/v1/edges".to_owned(), None),
        Ctl::DrainEdge { fingerprint, undo } => {
            let target = format!("/api/v1/edges/{fingerprint}");
            ("POST", target, Some(json!({ "drained": !undo })))
        }
        Ctl::WeighEdge { fingerprint, weight } => {
            let target = format!("/api/v1/edges/{fingerprint}");
            ("POST", target, Some(json!({ "weight": weight })))
        }
        Ctl::Set { session, settings } => {
            let target = match session {
                Some(name) if settings.is_empty() => below(name, ""),
                Some(name) => below(name, "/settings"),
                None => "/api/v1/settings".to_owned(),
            };
            match settings.is_empty() {
                true => ("GET", target, None),
                false => ("PATCH", target, Some(changes(settings))),
            }
        }
        Ctl::Drain => ("POST", "/api/v1/drain".to_owned(), Some(none)),
        Ctl::Reload => ("POST", "/api/v1/reload".to_owned(), Some(none)),
        Ctl::Alerts => ("GET", "/api/v1/alerts".to_owned(), None),
    };
    let answer = server.text(method, &target, body.as_ref())?;
    let value: Value = serde_json::from_str(&answer).map_err(|_| unreadable())?;
    if arguments.json {
        return print(&format!("{}\n", json_line(&value)));
    }
    print(&shown(&arguments.command, &value))
}

/// Values as JSON has them where they are numbers or truths.
fn changes(settings: &[(String, String)]) -> Value {
    let typed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
    let all = settings.iter().map(|(name, value)| (name.clone(), typed(value)));
    Value::Object(all.collect())
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn unreadable() -> Failure {
    Failure::new(Kind::Transfer, "the answer is not that of a kwik server: check --admin")
}

struct Interface<'a> {
    place: &'a Target,
    token: Option<String>,
    ca: Option<&'a Path>,
}

impl Interface<'_> {
    /// Sends a request: what reads the answer. HTTP/1.0, so that nothing is in chunks.
    fn send(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<BufReader<Box<dyn Read>>, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let token = self.token.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let host = match self.place {
            Target::Here(_) => "localhost",
            Target::Https { host, .. } => host,
        };
        let request = format!(
            "{method} {target} HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{}\r\n{body}",
            body.len(),
            token.unwrap_or_default(),
        );
        let failed = |error: std::io::Error| {
            let place = match self.place {
                Target::Here(Place::Tcp(address)) => address.to_string(),
                Target::Here(Place::Unix(path)) => escape(path.display()).to_string(),
                Target::Https { host, port } => format!("{host}:{port}"),
            };
            let text = format!("no server answers at {place}: {error}");
            Failure::new(Kind::Network, text)
        };
        let stream: Box<dyn Read> = match self.place {
            Target::Here(Place::Tcp(address)) => {
                let mut stream = TcpStream::connect(address).map_err(failed)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
                stream.write_all(request.as_bytes()).map_err(failed)?;
                Box::new(stream)
            }
            Target::Here(Place::Unix(path)) => {
                let mut stream = UnixStream::connect(path).map_err(failed)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
                stream.write_all(request.as_bytes()).map_err(failed)?;
                Box::new(stream)
            }
            Target::Https { host, port } => {
                let mut stream = tls::connect(host, *port, self.ca, PATIENCE)?;
                stream.write_all(request.as_bytes()).map_err(failed)?;
                Box::new(stream)
            }
        };
        Ok(BufReader::new(stream))
    }

    /// The answer's body; an error that the server tells is one.
    fn text(&self, method: &str, target: &str, body: Option<&Value>) -> Result<String, Failure> {
        let mut answer = self.send(method, target, body)?;
        let status = head(&mut answer)?;
        let mut text = String::new();
        answer.take(MAX_ANSWER).read_to_string(&mut text).map_err(|_| unreadable())?;
        if (200..300).contains(&status) {
            return Ok(text);
        }
        Err(refused(status, &text))
    }

    /// Prints events until the server ends.
    fn follow(&self) -> Result<(), Failure> {
        let mut answer = self.send("GET", "/api/v1/events", None)?;
        let status = head(&mut answer)?;
        if status != 200 {
            let mut text = String::new();
            answer.take(MAX_ANSWER).read_to_string(&mut text).map_err(|_| unreadable())?;
            return Err(refused(status, &text));
        }
        for line in answer.lines() {
            let line = line.map_err(|error| {
                Failure::new(Kind::Network, format!("the events broke off: {error}: ask again"))
            })?;
            if let Some(data) = line.strip_prefix("data: ") {
                let value: Value = serde_json::from_str(data).map_err(|_| unreadable())?;
                print(&format!("{}\n", json_line(&value)))?;
            }
        }
        Ok(())
    }
}

/// What the server tells instead of what was asked for.
fn refused(status: u16, text: &str) -> Failure {
    let told: Value = serde_json::from_str(text).unwrap_or_default();
    let told = told["error"].as_str().unwrap_or(text.trim());
    let kind = match status {
        400 | 415 => Kind::Usage,
        401 => Kind::Trust,
        404 => Kind::NotFound,
        _ => Kind::Transfer,
    };
    Failure::new(kind, escape(told).to_string())
}

/// Reads the head of an answer: its status.
fn head(answer: &mut BufReader<Box<dyn Read>>) -> Result<u16, Failure> {
    let mut status = None;
    for _ in 0..100 {
        let mut line = String::new();
        answer.by_ref().take(8192).read_line(&mut line).map_err(|_| unreadable())?;
        if status.is_none() {
            let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            status = Some(code.ok_or_else(unreadable)?);
        }
        if line.trim().is_empty() {
            return status.ok_or_else(unreadable);
        }
    }
    Err(unreadable())
}

/// An answer for people.
fn shown(command: &Ctl, value: &Value) -> String {
    match command {
        Ctl::Sessions => table(
            &value["sessions"],
            &["name", "role", "remote", "paths", "streams", "bytes_per_second", "limited_by.text"],
        ),
        Ctl::Edges => table(
            &value["edges"],
            &["fingerprint", "addresses", "weight", "sessions", "unreached", "drained"],
        ),
        Ctl::Session { .. } => session(value),
        Ctl::Alerts => {
            let columns = ["alert", "since", "lifted", "text"];
            table(&value["raised"], &columns) + &table(&value["lifted"], &columns)
        }
        Ctl::Set { session, settings } if settings.is_empty() => {
            let settings = if session.is_some() { &value["settings"] } else { value };
            named(settings.as_object())
        }
        _ => named(value.as_object()),
    }
}

fn session(value: &Value) -> String {
    let mut text = format!("limited by  {}\n", cell(&value["limited_by"]["text"]));
    for name in ["name", "role", "id", "remote", "sent", "leases_live", "pieces"] {
        text += &format!("{name:<11} {}\n", cell(&value[name]));
    }
    let columns = [
        "path",
        "address",
        "status",
        "bytes_per_second",
        "rtt",
        "outstanding",
        "queue_seconds",
        "packets_lost",
        "received",
    ];
    text += &format!("\n{}", table(&value["paths"], &columns));
    let columns = [
        "stream",
        "receives.read",
        "receives.end",
        "receives.unread",
        "receives.gaps",
        "sends.written",
        "sends.credit",
    ];
    text + &format!("\n{}", table(&value["streams"], &columns))
}

/// A line for each name.
fn named(object: Option<&Map<String, Value>>) -> String {
    let Some(object) = object else { return String::new() };
    let wide = object.keys().map(String::len).max().unwrap_or(0);
    object
        .iter()
        .map(|(name, value)| {
            let value = value.get("value").unwrap_or(value);
            format!("{:<wide$}  {}\n", escape(name).to_string(), cell(value))
        })
        .collect()
}

/// Rows with columns, `a.b` being the `b` of `a`.
fn table(rows: &Value, columns: &[&str]) -> String {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    let find = |row: &Value, column: &str| {
        column.split('.').fold(row.clone(), |value, part| value[part].clone())
    };
    let heads = columns.iter().map(|column| column.replace(['.', '_'], " "));
    let mut lines: Vec<Vec<String>> = vec![heads.collect()];
    lines.extend(
        rows.iter().map(|row| columns.iter().map(|column| cell(&find(row, column))).collect()),
    );
    let wide = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns.len()).map(wide).collect();
    lines
        .iter()
        .map(|line| {
            let cells = line.iter().zip(&widths);
            let cells: Vec<_> = cells.map(|(cell, wide)| format!("{cell:<wide$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => escape(text).to_string(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.3}", number.as_f64().unwrap_or_default())
        }
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(","),
        other => escape(other).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_show_what_is_foreign_escaped() {
        let rows = json!([
            { "name": "0-1", "limited_by": { "text": "a\u{1b}[31m" } },
            { "name": "0-12", "rate": 1.5 },
        ]);
        let text = table(&rows, &["name", "rate", "limited_by.text"]);
        let wanted = "name  rate   limited by text\n0-1   -      a\\u{1b}[31m\n0-12  1.500  -\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn names_cannot_leave_their_part_of_a_path() {
        assert_eq!(encoded("0-1"), "0-1");
        assert_eq!(encoded("../x y?"), "%2E%2E%2Fx%20y%3F");
        assert_eq!(changes(&[("a".into(), "7".into()), ("b".into(), "x".into())])["a"], 7);
    }
}
