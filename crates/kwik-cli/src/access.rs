//! The access log: a line a request, as JSON.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use kwik_delivery::{Access, AccessPart};
use serde_json::json;

use crate::{
    failure::{Failure, Kind},
    say,
    voice::json_line,
};

/// Lines that wait to be written: a disk that is slow for a moment costs none.
const QUEUE: usize = 1024;

/// Where lines go. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    path: PathBuf,
    lines: SyncSender<String>,
    file: Arc<Mutex<File>>,
    /// Lines are lost now, and that was said.
    losing: Arc<AtomicBool>,
}

impl AccessLog {
    /// Opens the file, and adds to what it has.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let opened = open(path).map_err(|error| {
            let message = format!("cannot open the access log {}: {error}", path.display());
            Failure::new(Kind::Disk, message)
        })?;
        let file = Arc::new(Mutex::new(opened));
        let (lines, queue) = sync_channel::<String>(QUEUE);
        let losing = Arc::new(AtomicBool::new(false));
        let (target, lost) = (Arc::clone(&file), Arc::clone(&losing));
        // A thread of its own: a disk may be slow, and requests wait for none.
        thread::spawn(move || {
            for line in queue {
                let written = locked(&target).write_all(line.as_bytes());
                note(&lost, written.err().map(|error| error.to_string()));
            }
        });
        Ok(Self { path: path.to_path_buf(), lines, file, losing })
    }

    /// Opens the file again, which may have been moved away.
    pub(crate) fn reopen(&self) {
        match open(&self.path) {
            Ok(file) => *locked(&self.file) = file,
            Err(error) => {
                let path = self.path.display();
                say(&format!("kwik: cannot open the access log {path} again: {error}: going on"));
            }
        }
    }

    pub(crate) fn write(&self, access: &Access) {
        if self.lines.try_send(line(access, SystemTime::now())).is_err() {
            note(&self.losing, Some("it is too slow".into()));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn locked(file: &Mutex<File>) -> std::sync::MutexGuard<'_, File> {
    // A file is whole between statements, so a panic elsewhere leaves it usable.
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says once that lines are lost, and again when that was over in between.
fn note(losing: &AtomicBool, error: Option<String>) {
    let before = losing.swap(error.is_some(), Relaxed);
    if let Some(error) = error.filter(|_| !before) {
        say(&format!("kwik: lines of the access log are lost: {error}"));
    }
}

fn line(access: &Access, now: SystemTime) -> String {
    let part = match access.part {
        AccessPart::Hashes => "hashes",
        AccessPart::Range => "range",
        AccessPart::Repair => "repair",
        AccessPart::List => "list",
        _ => "whole",
    };
    let time = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = json_line(&json!({
        "time": millis(time.as_millis()),
        "client": access.client.to_string(),
        "key": access.key.map(|key| key.to_string()),
        "name": access.name.as_ref().map(ToString::to_string),
        "part": part,
        "size": access.size,
        "sent": access.sent,
        "seconds": millis(access.took.as_millis()),
        "outcome": access.outcome.as_ref().err().map_or("done", String::as_str),
    }));
    line.push('\n');
    line
}

/// In seconds, to the millisecond.
#[expect(clippy::cast_precision_loss, reason = "exact for the next 200,000 years")]
fn millis(millis: u128) -> f64 {
    millis as f64 / 1000.0
}
