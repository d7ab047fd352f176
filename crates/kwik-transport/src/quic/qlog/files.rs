//! The files of a folder, and its bounds. One thread has them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kwik_proto::limits::{
    MAX_QLOG_BYTES, MAX_QLOG_EVENTS, MAX_QLOG_FILE, MAX_QLOG_FILES, MAX_QLOG_OPEN,
};
use serde_json::json;
use time::OffsetDateTime;

use super::mend;
use super::queue::{Happening, Head, Message};

/// What the folder holds, and what is written to.
pub(super) struct Files {
    path: PathBuf,
    /// The oldest first.
    kept: VecDeque<Kept>,
    /// Bytes of all of them.
    total: u64,
    /// Number of the last.
    last: u64,
    /// Those of connections, by the number of the connection.
    traces: BTreeMap<u64, Target>,
    events: Option<Events>,
    lost: Arc<AtomicU64>,
    /// Why something was left out, which was said.
    said: BTreeSet<Reason>,
}

struct Kept {
    /// 0: an earlier process'.
    number: u64,
    path: PathBuf,
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Complete,
    /// It should have been removed and could not be. It takes room.
    Stuck,
}

/// Where records go.
struct Target {
    number: u64,
    /// None once it is full.
    file: Option<File>,
    bytes: u64,
    /// Of the last record: they shall not go back.
    time: f64,
}

/// The file of what happens to sessions.
struct Events {
    target: Target,
    began: Instant,
}

/// Why something is left out. Each is said once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    TooMany,
    LongConnection,
    FullFolder,
    NotMade,
    NotRemoved,
    NotWritten,
}

impl Files {
    pub(super) fn open(path: &Path, lost: Arc<AtomicU64>) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = |name: &str| name.starts_with("kwik-") && name.ends_with(".sqlog");
            if name.to_str().is_some_and(is_ours) {
                let (path, bytes) = (entry.path(), entry.metadata().map_or(0, |it| it.len()));
                files.push(Kept { number: 0, path, bytes, state: State::Complete });
            }
        }
        // Names begin with the time.
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let total = files.iter().map(|file| file.bytes).sum();
        Ok(Self {
            path: path.to_path_buf(),
            kept: files.into(),
            total,
            last: 0,
            traces: BTreeMap::new(),
            events: None,
            lost,
            said: BTreeSet::new(),
        })
    }

    pub(super) fn take(&mut self, message: Message) {
        match message {
            Message::Records { number, head, bytes } => {
                if let Some(head) = head {
                    self.begin_trace(number, &head);
                }
                self.add_records(number, &bytes);
            }
            Message::End { number } => {
                if let Some(target) = self.traces.remove(&number) {
                    self.close(&target);
                }
            }
            Message::Event(event) => self.add_event(*event),
        }
    }

    fn begin_trace(&mut self, number: u64, head: &Head) {
        if self.traces.len() >= MAX_QLOG_OPEN {
            self.say(Reason::TooMany, &format!("{MAX_QLOG_OPEN} connections are traced already"));
            return;
        }
        let Some(mut target) = self.begin(&head.name, head.began) else { return };
        self.write(&mut target, &mend::record(&mend::header(head)), 0);
        self.traces.insert(number, target);
    }

    fn add_records(&mut self, number: u64, bytes: &[u8]) {
        let Some(mut target) = self.traces.remove(&number) else {
            let records = bytes.iter().filter(|byte| **byte == b'\n').count();
            self.lost.fetch_add(records as u64, Relaxed);
            return;
        };
        let (text, count) = mend::records(bytes, &mut target.time);
        self.write(&mut target, &text, count);
        self.traces.insert(number, target);
    }

    fn add_event(&mut self, event: Happening) {
        let full = self.events.as_ref().is_some_and(|it| it.target.bytes >= MAX_QLOG_EVENTS);
        if full && let Some(events) = self.events.take() {
            self.close(&events.target);
        }
        if self.events.is_none()
            && let Some(mut target) = self.begin("events", event.at)
        {
            self.write(&mut target, &mend::record(&mend::events_header(event.at)), 0);
            self.events = Some(Events { target, began: event.now });
        }
        let Some(Events { mut target, began }) = self.events.take() else {
            self.lost.fetch_add(1, Relaxed);
            return;
        };
        let time = event.now.saturating_duration_since(began).as_secs_f64() * 1e3;
        target.time = target.time.max(time);
        let mut value = json!({
            "time": target.time,
            "name": format!("kwik:{}", event.name),
            "data": event.data,
        });
        if let Some(session) = event.session {
            value["group_id"] = json!(session);
        }
        self.write(&mut target, &mend::record(&value), 1);
        self.events = Some(Events { target, began });
    }

    /// Makes a file, for which older ones make room.
    fn begin(&mut self, name: &str, at: SystemTime) -> Option<Target> {
        while self.kept.len() >= MAX_QLOG_FILES {
            if !self.remove_oldest() {
                let why = format!("there are {MAX_QLOG_FILES} files, and none can go");
                self.say(Reason::FullFolder, &why);
                return None;
            }
        }
        self.last += 1;
        let number = self.last;
        let (time, process) = (compact(at), std::process::id());
        let path = self.path.join(format!("kwik-{time}-{process}-{number:04}-{name}.sqlog"));
        match File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                self.kept.push_back(Kept { number, path, bytes: 0, state: State::Open });
                Some(Target { number, file: Some(file), bytes: 0, time: 0.0 })
            }
            Err(error) => {
                let why = format!("{} cannot be made: {error}", path.display());
                self.say(Reason::NotMade, &why);
                None
            }
        }
    }

    /// Writes records to a file as far as there is room, and counts those that it leaves out.
    fn write(&mut self, target: &mut Target, text: &str, records: u64) {
        if target.file.is_some() && !self.grow(target, text.len() as u64) {
            target.file = None;
        }
        let Some(file) = &mut target.file else {
            self.lost.fetch_add(records, Relaxed);
            return;
        };
        if let Err(error) = file.write_all(text.as_bytes()) {
            // Half a record would be no record.
            file.set_len(target.bytes).ok();
            target.file = None;
            self.lost.fetch_add(records, Relaxed);
            self.say(Reason::NotWritten, &format!("a file cannot be written to: {error}"));
            return;
        }
        target.bytes += text.len() as u64;
    }

    /// Whether so many bytes more may be written to a file. Older ones make room.
    fn grow(&mut self, target: &Target, more: u64) -> bool {
        if target.bytes + more > MAX_QLOG_FILE {
            self.say(Reason::LongConnection, "of a long connection only the first part is kept");
            return false;
        }
        while self.total + more > MAX_QLOG_BYTES {
            if !self.remove_oldest() {
                self.say(Reason::FullFolder, "the folder is full, and no file can go");
                return false;
            }
        }
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.number == target.number) else {
            return false;
        };
        kept.bytes += more;
        self.total += more;
        true
    }

    fn close(&mut self, target: &Target) {
        if let Some(kept) = self.kept.iter_mut().find(|kept| kept.number == target.number) {
            kept.state = State::Complete;
        }
    }

    /// Removes the oldest complete file that can be, which makes room.
    fn remove_oldest(&mut self) -> bool {
        while let Some(at) = self.kept.iter().position(|kept| kept.state == State::Complete) {
            match fs::remove_file(&self.kept[at].path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.kept[at].state = State::Stuck;
                    let path = self.kept[at].path.display();
                    self.say(Reason::NotRemoved, &format!("{path} cannot be removed: {error}"));
                }
                // Who removed it before has made the room.
                _ => {
                    let gone = self.kept.remove(at);
                    self.total -= gone.map_or(0, |gone| gone.bytes);
                    return true;
                }
            }
        }
        false
    }

    /// Says why something is left out, for each reason once.
    fn say(&mut self, reason: Reason, why: &str) {
        if self.said.insert(reason) {
            let why = kwik_proto::escape(why);
            tracing::warn!("qlog: {why}: some is left out from now on");
        }
    }

    #[cfg(test)]
    pub(super) fn said(&self) -> &BTreeSet<Reason> {
        &self.said
    }

    #[cfg(test)]
    pub(super) fn open_traces(&self) -> usize {
        self.traces.len()
    }
}

/// A time as it stands in names of files: 20261130T212613Z.
pub(super) fn compact(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at =
        i64::try_from(seconds).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let month = u8::from(month);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}
