//! What waits to be written: bounded, and nobody who adds to it waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use kwik_proto::limits::MAX_QLOG_QUEUE;
use kwik_proto::sync::lock;
use serde_json::Value;

/// What a file begins with.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) name: String,
    pub(super) side: &'static str,
    pub(super) remote: String,
    pub(super) began: SystemTime,
}

/// What happened to a session.
#[derive(Debug)]
pub(super) struct Happening {
    pub(super) now: Instant,
    pub(super) at: SystemTime,
    pub(super) session: Option<String>,
    pub(super) name: &'static str,
    pub(super) data: Value,
}

#[derive(Debug)]
pub(super) enum Message {
    /// Whole records of a connection, the first with what its file begins with.
    Records {
        number: u64,
        head: Option<Box<Head>>,
        bytes: Vec<u8>,
    },
    /// A connection of which there were records is over.
    End {
        number: u64,
    },
    Event(Box<Happening>),
}

impl Message {
    /// Bytes that it takes, roughly.
    fn size(&self) -> usize {
        match self {
            Self::Records { bytes, .. } => bytes.len() + 256,
            // Its connection's records were taken, so this is too, lest its file stays open. There
            // is one for each of them at most: they need no bound of their own.
            Self::End { .. } => 0,
            // A reason of 1 kB at the most, and some words.
            Self::Event(_) => 2 * 1024,
        }
    }
}

/// Messages in order.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There is a message, or an end.
    filled: Condvar,
    /// All of it was written.
    emptied: Condvar,
    /// Records that were left out.
    lost: Arc<AtomicU64>,
    warned: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    /// Of all messages.
    bytes: usize,
    /// One was taken out, and is not written yet.
    is_writing: bool,
    is_closed: bool,
}

impl Queue {
    /// Adds a message if there is room. Never waits for the disk.
    pub(super) fn push(&self, message: Message) -> bool {
        let size = message.size();
        let mut waiting = lock(&self.waiting);
        if waiting.bytes + size > MAX_QLOG_QUEUE && size > 0 {
            drop(waiting);
            if matches!(message, Message::Event(_)) {
                self.lose(1);
            }
            if !self.warned.swap(true, Relaxed) {
                tracing::warn!("qlog: the disk is too slow: some is left out from now on");
            }
            return false;
        }
        waiting.bytes += size;
        waiting.messages.push_back(message);
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// So many records more were left out.
    pub(super) fn lose(&self, records: u64) {
        self.lost.fetch_add(records, Relaxed);
    }

    pub(super) fn lost(&self) -> &Arc<AtomicU64> {
        &self.lost
    }

    /// Hands each message over until the queue is closed and empty.
    pub(super) fn each(&self, mut take: impl FnMut(Message)) {
        let mut waiting = lock(&self.waiting);
        loop {
            let Some(message) = waiting.messages.pop_front() else {
                self.emptied.notify_all();
                if waiting.is_closed {
                    return;
                }
                waiting = self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            waiting.bytes -= message.size();
            waiting.is_writing = true;
            drop(waiting);
            take(message);
            waiting = lock(&self.waiting);
            waiting.is_writing = false;
        }
    }

    /// Waits until nothing waits, for so long at most.
    pub(super) fn flush(&self, at_most: Duration) {
        let busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.messages.is_empty();
        let waiting = lock(&self.waiting);
        // In time or not: there is nobody to tell.
        drop(self.emptied.wait_timeout_while(waiting, at_most, busy));
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        lock(&self.waiting).is_closed = true;
        self.filled.notify_one();
    }
}
