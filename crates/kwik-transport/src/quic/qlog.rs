//! A folder with a qlog of each connection, and of what happens to sessions (10.2).
//!
//! The files are JSON text sequences (RFC 7464) of qlog 0.3, which qvis opens. The QUIC library
//! writes them; [`Trace`] mends what it writes otherwise than the schema says.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use kwik_proto::limits::{
    MAX_QLOG_BYTES, MAX_QLOG_EVENTS, MAX_QLOG_FILE, MAX_QLOG_FILES, MAX_QLOG_OPEN,
};
use kwik_proto::sync::lock;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Runtime;

/// A folder that gets a qlog of each QUIC connection, and one of what happens to sessions. Cheap to
/// clone; endpoints that share one share its bounds.
///
/// A connection has a file of its own, whose name has the time, the process, a number, the role
/// and the path: `kwik-20261130T212613Z-4711-0002-client-path1.sqlog`. What happens to sessions
/// (leases, paths, resumption, backpressure) is in the file whose name ends with `events`. All of
/// it has at most [`MAX_QLOG_BYTES`]: the oldest files go first, also those of earlier processes.
#[derive(Clone)]
pub struct Qlog(Arc<Folder>);

struct Folder {
    path: PathBuf,
    state: Mutex<State>,
    events: Mutex<Option<EventFile>>,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    files: VecDeque<Kept>,
    /// Bytes of all of them.
    total: u64,
    /// Number of the last.
    last: u64,
    open: usize,
    /// Something was left out, and that was said.
    warned: bool,
}

struct Kept {
    /// 0: an earlier process'.
    number: u64,
    path: PathBuf,
    bytes: u64,
    is_open: bool,
}

/// What a trace is of.
#[derive(Clone, Copy)]
pub(crate) struct Traced<'a> {
    /// `client` or `server`.
    pub(crate) side: &'static str,
    /// What is known of its place: a path, say.
    pub(crate) place: &'a dyn fmt::Display,
    pub(crate) remote: &'a dyn fmt::Display,
}

impl Qlog {
    /// A folder, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or be read.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let path = folder.into();
        // Addresses and times of clients are nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = |name: &str| name.starts_with("kwik-") && name.ends_with(".sqlog");
            if name.to_str().is_some_and(is_ours) {
                let (path, bytes) = (entry.path(), entry.metadata().map_or(0, |it| it.len()));
                files.push(Kept { number: 0, path, bytes, is_open: false });
            }
        }
        // Names begin with the time.
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let total = files.iter().map(|file| file.bytes).sum();
        let state = State { files: files.into(), total, ..State::default() };
        Ok(Self(Arc::new(Folder { path, state: state.into(), events: Mutex::default() })))
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.path
    }

    /// Begins the file of a connection: its number, by which it is [named](Self::name) later. None
    /// when it cannot be; that was said.
    pub(super) fn trace(&self, of: Traced<'_>, runtime: &Runtime) -> Option<(Trace, u64)> {
        let (now, wall) = (runtime.now(), runtime.wall_clock());
        let name = format!("{}-{}", of.side, of.place);
        let (file, number) = self.0.begin(&name, wall)?;
        let writer = Writer {
            folder: Arc::clone(&self.0),
            number,
            file: Some(file),
            record: Vec::new(),
            ready: Vec::new(),
            header: Some((of.side, millis(wall))),
            time: 0.0,
        };
        let mut config = quinn::QlogConfig::default();
        config
            .writer(Box::new(writer))
            .title(Some(format!("kwik {name}, peer {}", of.remote)))
            .start_time(now);
        Some((Trace(config.into_stream()?), number))
    }

    /// What a server's connection turned out to be.
    pub(crate) fn name(&self, number: u64, of: &str) {
        let mut state = lock(&self.0.state);
        let Some(kept) = state.files.iter_mut().find(|kept| kept.number == number) else { return };
        let name = kept.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((head, _)) = name.split_once("-server-") else { return };
        let named = kept.path.with_file_name(format!("{head}-{of}.sqlog"));
        // Else it keeps the name that it has.
        if fs::rename(&kept.path, &named).is_ok() {
            kept.path = named;
        }
    }

    /// Notes what happened to a session.
    pub(crate) fn note(&self, at: SystemTime, session: Option<&str>, name: &str, data: &Value) {
        let mut file = lock(&self.0.events);
        if file.as_ref().is_none_or(|file| file.bytes >= MAX_QLOG_EVENTS) {
            if let Some(full) = file.take() {
                self.0.close(full.number);
            }
            *file = EventFile::begin(&self.0, at);
        }
        let Some(file) = file.as_mut() else { return };
        let mut event = json!({
            "time": (millis(at) - file.began).max(file.time),
            "name": format!("kwik:{name}"),
            "data": data,
        });
        if let Some(session) = session {
            event["group_id"] = json!(session);
        }
        file.time = event["time"].as_f64().unwrap_or_default();
        file.write(&self.0, &event);
    }
}

impl fmt::Debug for Qlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Qlog").field(&self.0.path).finish()
    }
}

/// The same folder, by the same handle.
impl PartialEq for Qlog {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Qlog {}

/// Milliseconds since 1970, as qlog has times.
fn millis(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}

impl Folder {
    fn begin(&self, name: &str, wall: SystemTime) -> Option<(File, u64)> {
        let mut state = lock(&self.state);
        if state.open >= MAX_QLOG_OPEN {
            state.warn(&format!("{MAX_QLOG_OPEN} connections are traced already"));
            return None;
        }
        while state.files.len() >= MAX_QLOG_FILES && state.remove_oldest() {}
        state.last += 1;
        let number = state.last;
        let (time, process) = (compact(wall), std::process::id());
        let path = self.path.join(format!("kwik-{time}-{process}-{number:04}-{name}.sqlog"));
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                state.open += 1;
                state.files.push_back(Kept { number, path, bytes: 0, is_open: true });
                Some((file, number))
            }
            Err(error) => {
                let path = path.display();
                state.warn(&format!("{path} cannot be made: {error}"));
                None
            }
        }
    }

    /// Whether so many bytes more may be written to a file. Older ones make room.
    fn grow(&self, number: u64, more: u64) -> bool {
        let mut state = lock(&self.state);
        while state.total + more > MAX_QLOG_BYTES && state.remove_oldest() {}
        let fits = state.total + more <= MAX_QLOG_BYTES;
        let Some(kept) = state.files.iter_mut().find(|kept| kept.number == number) else {
            return false;
        };
        if kept.bytes + more > MAX_QLOG_FILE || !fits {
            state.warn("a connection is traced from its start on, as far as there is room");
            return false;
        }
        kept.bytes += more;
        state.total += more;
        true
    }

    fn close(&self, number: u64) {
        let mut state = lock(&self.state);
        state.open -= 1;
        if let Some(kept) = state.files.iter_mut().find(|kept| kept.number == number) {
            kept.is_open = false;
        }
    }
}

impl State {
    /// Removes the oldest file that is complete, if there is one.
    fn remove_oldest(&mut self) -> bool {
        let Some(at) = self.files.iter().position(|kept| !kept.is_open) else { return false };
        let Some(kept) = self.files.remove(at) else { return false };
        self.total -= kept.bytes;
        // Who removed it before has made the room.
        fs::remove_file(&kept.path).ok();
        true
    }

    /// Says once that something is left out.
    fn warn(&mut self, why: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            let why = kwik_proto::escape(why);
            tracing::warn!("qlog: {why}: some is left out from now on");
        }
    }
}

/// A time as it stands in names of files: 20261130T212613Z.
fn compact(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at =
        i64::try_from(seconds).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let month = u8::from(month);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// What the QUIC library writes a connection's qlog to.
pub(crate) struct Trace(quinn::QlogStream);

impl Trace {
    pub(super) fn apply(self, transport: &mut quinn::TransportConfig) {
        transport.qlog_stream(Some(self.0));
    }
}

/// Bytes that are written at once.
const BATCH: usize = 8 * 1024;
/// Bytes of one record, which the QUIC library writes: far more than it ever does.
const MAX_RECORD: usize = 64 * 1024;

/// The file of a connection.
struct Writer {
    folder: Arc<Folder>,
    number: u64,
    /// None once it is full.
    file: Option<File>,
    /// A part of a record.
    record: Vec<u8>,
    /// Records to be written together.
    ready: Vec<u8>,
    /// The first record is the header, which gets the side and the time of its start.
    header: Option<(&'static str, f64)>,
    /// Of the last event: they shall not go back.
    time: f64,
}

impl Writer {
    fn take_record(&mut self) {
        let record = std::mem::take(&mut self.record);
        let text = record.strip_prefix(b"\x1e").unwrap_or(&record);
        if let Ok(mut value) = serde_json::from_slice::<Value>(text) {
            match self.header.take() {
                Some((side, began)) => mend_header(&mut value, side, began),
                None => mend_event(&mut value, &mut self.time),
            }
            self.ready.extend_from_slice(format!("\x1e{value}\n").as_bytes());
        }
        self.record = record;
        self.record.clear();
    }

    fn write_ready(&mut self) {
        if let Some(file) = &mut self.file
            && !self.ready.is_empty()
        {
            let fits = self.folder.grow(self.number, self.ready.len() as u64);
            // A disk that is full is no reason for a connection to end.
            if !fits || file.write_all(&self.ready).is_err() {
                self.file = None;
            }
        }
        self.ready.clear();
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            return Ok(bytes.len());
        }
        for &byte in bytes {
            match byte {
                b'\n' => self.take_record(),
                _ if self.record.len() < MAX_RECORD => self.record.push(byte),
                _ => {}
            }
        }
        if self.ready.len() >= BATCH {
            self.write_ready();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_ready();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.write_ready();
        self.folder.close(self.number);
    }
}

/// The library knows neither the side nor the time of day.
fn mend_header(header: &mut Value, side: &str, began: f64) {
    header["trace"]["vantage_point"] = json!({ "name": "kwik", "type": side });
    header["trace"]["common_fields"] = json!({
        "time_format": "relative",
        "reference_time": began,
        "protocol_type": ["QUIC"],
    });
}

/// The schema has round trips in milliseconds, sizes of packets in `raw`, and rising times.
fn mend_event(event: &mut Value, last: &mut f64) {
    let time = event["time"].as_f64().unwrap_or_default();
    if time < *last {
        event["time"] = json!(*last);
    }
    *last = last.max(time);
    let Some(data) = event["data"].as_object_mut() else { return };
    for name in ["min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance"] {
        if let Some(rtt) = data.get_mut(name)
            && let Some(seconds) = rtt.as_f64()
        {
            *rtt = json!((seconds * 1e6).round() / 1e3);
        }
    }
    let header = data.get_mut("header").and_then(Value::as_object_mut);
    if let Some(length) = header.and_then(|header| header.remove("length")) {
        data.insert("raw".into(), json!({ "length": length }));
    }
}

/// The file of what happens to sessions.
struct EventFile {
    file: File,
    number: u64,
    bytes: u64,
    /// Milliseconds since 1970.
    began: f64,
    /// Of the last event.
    time: f64,
}

impl EventFile {
    fn begin(folder: &Folder, at: SystemTime) -> Option<Self> {
        let (file, number) = folder.begin("events", at)?;
        let began = millis(at);
        let mut events = Self { file, number, bytes: 0, began, time: 0.0 };
        events.write(
            folder,
            &json!({
                "qlog_version": "0.3",
                "qlog_format": "JSON-SEQ",
                "title": "kwik: what happened to sessions",
                "trace": {
                    "vantage_point": { "name": "kwik", "type": "unknown" },
                    "common_fields": {
                        "time_format": "relative",
                        "reference_time": began,
                        "protocol_type": ["KWIK"],
                    },
                },
            }),
        );
        Some(events)
    }

    fn write(&mut self, folder: &Folder, record: &Value) {
        let text = format!("\x1e{record}\n");
        if folder.grow(self.number, text.len() as u64) {
            self.bytes += text.len() as u64;
            // Nobody else can be told.
            self.file.write_all(text.as_bytes()).ok();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(events) = lock(&self.events).take() {
            self.close(events.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_have_the_time() {
        let at = |seconds| compact(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(1_796_073_973), "20261130T212613Z");
    }
}
