//! A folder with a qlog of each connection, and of what happens to sessions (10.2).
//!
//! The files are JSON text sequences (RFC 7464) of qlog 0.3, which qvis opens. The QUIC library
//! hands its records to [`Trace`], under a lock of the connection: there they are only copied. One
//! thread of the folder mends and writes them, so that no connection waits for a disk.

mod files;
mod mend;
mod queue;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Instant, SystemTime};

use kwik_proto::limits::{MAX_QLOG_FLUSH, MAX_QLOG_UNNAMED};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::Runtime;
use files::Files;
use queue::{Happening, Head, Message, Queue};

/// A folder that gets a qlog of each QUIC connection, and one of what happens to sessions. Cheap to
/// clone; endpoints that share one share its bounds.
///
/// A connection has a file of its own, whose name has the time, the process, a number, the role
/// and the path: `kwik-20261130T212613Z-4711-0002-client-path1.sqlog`. At a server it has one once
/// its client is let in, so that strangers leave no files. What happens to sessions (leases, paths,
/// resumption, backpressure) is in the file whose name ends with `events`. All of it has at most
/// [`MAX_QLOG_BYTES`](kwik_proto::limits::MAX_QLOG_BYTES): the oldest files go first, also those of
/// earlier processes.
///
/// One thread writes what connections hand over. What it cannot keep up with is
/// [left out](Self::left_out), and said once. Dropping the last handle, those of endpoints
/// included, waits for it as [`flush`](Self::flush) does.
#[derive(Clone)]
pub struct Qlog(Arc<Folder>);

struct Folder {
    path: PathBuf,
    queue: Arc<Queue>,
    /// Of the connection that was traced last.
    last: AtomicU64,
    /// Keeps other processes out, who would not know what this one has written.
    _claim: File,
}

/// What a trace is of.
#[derive(Clone, Copy)]
pub(crate) struct Traced<'a> {
    /// `client` or `server`.
    pub(crate) side: &'static str,
    /// What it is named from the start on, if that is known by then.
    pub(crate) name: Option<&'a dyn fmt::Display>,
    pub(crate) remote: &'a dyn fmt::Display,
}

/// What a connection is called. It leaves no file as long as it has no name.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceName(Arc<OnceLock<String>>);

impl TraceName {
    /// It is known now; later names change nothing.
    pub(crate) fn set(&self, name: &dyn fmt::Display) {
        self.0.get_or_init(|| name.to_string());
    }
}

impl Qlog {
    /// A folder, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or be read. With [`io::ErrorKind::ResourceBusy`] it is in use: by another
    /// process, or by another `Qlog` of this one.
    pub fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let path = folder.into();
        // Addresses and times of clients are nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let claim = claim(&path)?;
        let queue = Arc::new(Queue::default());
        let mut files = Files::open(&path, Arc::clone(queue.lost()))?;
        let source = Arc::clone(&queue);
        let write = move || source.each(|message| files.take(message));
        thread::Builder::new().name("kwik-qlog".into()).spawn(write)?;
        Ok(Self(Arc::new(Folder { path, queue, last: AtomicU64::new(0), _claim: claim })))
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.0.path
    }

    /// Records that were left out since the start: for want of room, or since the disk was slow.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.queue.lost().load(Relaxed)
    }

    /// Waits until all that was handed over before is written: at the end of a process, say.
    /// Blocks, for at most 5 s if the disk stands still. Connections hand over the last of their
    /// records as they are dropped.
    pub fn flush(&self) {
        self.0.queue.flush(MAX_QLOG_FLUSH);
    }

    /// Begins to trace a connection; its name is set as soon as it is known.
    pub(super) fn trace(&self, of: Traced<'_>, runtime: &Runtime) -> Option<(Trace, TraceName)> {
        let (now, wall) = (runtime.now(), runtime.wall_clock());
        let name = TraceName::default();
        if let Some(of) = of.name {
            name.set(of);
        }
        let writer = Writer {
            folder: Arc::clone(&self.0),
            number: self.0.last.fetch_add(1, Relaxed),
            name: name.clone(),
            head: Some(Head {
                name: String::new(),
                side: of.side,
                remote: of.remote.to_string(),
                began: wall,
            }),
            in_header: true,
            bytes: Vec::new(),
            whole: 0,
            records: 0,
        };
        let mut config = quinn::QlogConfig::default();
        config.writer(Box::new(writer)).start_time(now);
        Some((Trace(config.into_stream()?), name))
    }

    /// Notes what happened to a session: `now` for the order and the distance of what happens, as
    /// the time of day, `at`, may step back.
    pub(crate) fn note(
        &self,
        (now, at): (Instant, SystemTime),
        session: Option<String>,
        name: &'static str,
        data: Value,
    ) {
        let event = Happening { now, at, session, name, data };
        self.0.queue.push(Message::Event(Box::new(event)));
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

impl Drop for Folder {
    fn drop(&mut self) {
        self.queue.flush(MAX_QLOG_FLUSH);
        self.queue.close();
    }
}

/// Takes a folder for this handle alone, as long as the file is open.
fn claim(folder: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(folder.join("kwik-qlog.lock"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let text = "it is in use, and each process needs a folder of its own";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
        }
        // Some file systems know no locks: better a qlog without one than none.
        _ => Ok(file),
    }
}

/// What the QUIC library writes a connection's qlog to.
pub(crate) struct Trace(quinn::QlogStream);

impl Trace {
    pub(super) fn apply(self, transport: &mut quinn::TransportConfig) {
        transport.qlog_stream(Some(self.0));
    }
}

/// Bytes that are handed over at once.
const BATCH: usize = 8 * 1024;

/// Takes the records of a connection. It is called under a lock of that connection, so it does no
/// more than to copy them.
struct Writer {
    folder: Arc<Folder>,
    number: u64,
    name: TraceName,
    /// What goes with the first records; without it, there is no file.
    head: Option<Head>,
    /// The first record is the library's header, which knows neither the side nor the time of day:
    /// the file gets another.
    in_header: bool,
    /// Whole records, and the beginning of another.
    bytes: Vec<u8>,
    /// Bytes of the whole ones.
    whole: usize,
    /// Number of the whole ones.
    records: u64,
}

impl Writer {
    /// A record has ended.
    fn on_record(&mut self) {
        if std::mem::take(&mut self.in_header) {
            self.bytes.clear();
            return;
        }
        if self.name.0.get().is_none() && self.bytes.len() > MAX_QLOG_UNNAMED {
            self.bytes.truncate(self.whole);
            self.folder.queue.lose(1);
            return;
        }
        self.whole = self.bytes.len();
        self.records += 1;
        if self.whole >= BATCH {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let Some(name) = self.name.0.get() else { return };
        if self.whole == 0 {
            return;
        }
        let mut rest = Vec::with_capacity(BATCH + BATCH / 8);
        rest.extend_from_slice(&self.bytes[self.whole..]);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        self.whole = 0;
        let records = std::mem::take(&mut self.records);
        let head = self.head.as_ref().map(|head| Head { name: name.clone(), ..head.clone() });
        let message = Message::Records { number: self.number, head: head.map(Box::new), bytes };
        if self.folder.queue.push(message) {
            self.head = None;
        } else {
            self.folder.queue.lose(records);
        }
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.bytes.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.on_record();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.hand_over();
        if self.head.is_none() {
            self.folder.queue.push(Message::End { number: self.number });
        }
    }
}

#[cfg(test)]
mod tests;
