//! Logical streams and leases over the pooled QUIC streams of one connection (5.1 to 5.4).
//!
//! [`StreamPool`] decides who writes where. Here are the QUIC streams that it decides about, each
//! with a lock and a queue of its own, so that streams progress on several cores. Lock order: the
//! pool's streams, then one QUIC stream's queue, then what its writers wait for; none is held while
//! the next call of the application runs.

mod gate;
mod outgoing;
mod pooled;
mod queued;
mod resume;
mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use kwik_proto::Config;
use kwik_proto::ack::{Lane, SharedSent};
use kwik_proto::stats::QuicStreams;
use kwik_proto::stream::{Slot, StreamPool, WriterKey, WriterKind};
use kwik_proto::sync::lock;

use crate::quic::{Connection, ConnectionError, Runtime, WriteError};

use gate::Gate;
use pooled::{PooledStream, Pushed};
use queued::Queued;

pub(super) use outgoing::Outgoing;
pub(crate) use writer::{FrameWriter, Room};

/// All data that one connection sends.
pub(crate) struct DataPool {
    /// Itself, for the task that it starts.
    this: Weak<Self>,
    /// It is kept what may have to be repeated on another connection.
    keeps: bool,
    runtime: Runtime,
    gate: Arc<Gate>,
    streams: Mutex<Streams>,
}

struct Streams {
    connection: Connection,
    policy: StreamPool,
    /// Those on which a frame was written.
    open: BTreeMap<Slot, Arc<PooledStream>>,
    opened: u64,
    /// Those that end once what waits is written.
    ending: Vec<Weak<PooledStream>>,
    /// The task that retires those which are left idle runs.
    retiring: bool,
    closed: bool,
}

fn ratio(config: &Config) -> usize {
    usize::try_from(config.streams_per_quic_stream()).unwrap_or(usize::MAX)
}

impl DataPool {
    pub(super) fn new(
        connection: &Connection,
        runtime: &Runtime,
        sent: SharedSent,
        (config, keeps): (&Config, bool),
    ) -> Arc<Self> {
        let streams = Streams {
            connection: connection.clone(),
            policy: StreamPool::new(ratio(config)),
            open: BTreeMap::new(),
            opened: 0,
            ending: Vec::new(),
            retiring: false,
            closed: false,
        };
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            keeps,
            runtime: runtime.clone(),
            gate: Gate::new(sent, connection.send_window(), config).into(),
            streams: streams.into(),
        })
    }

    /// Takes what of the settings changes live.
    pub(crate) fn configure(&self, config: &Config) {
        self.gate.configure(config);
        self.change(|policy| policy.set_ratio(ratio(config), self.runtime.now()));
    }

    /// QUIC streams that are open for data, and how many were ever.
    pub(crate) fn quic_streams(&self) -> QuicStreams {
        let streams = lock(&self.streams);
        QuicStreams { open: streams.open.len(), opened: streams.opened }
    }

    /// The peer has acknowledged packets.
    pub(super) fn on_acknowledged(&self) {
        let connection = lock(&self.streams).connection.clone();
        self.gate.on_acknowledged(connection.congestion());
    }

    /// Nothing more is sent.
    pub(super) fn close(&self) {
        let open = {
            let mut streams = lock(&self.streams);
            streams.closed = true;
            let ending = std::mem::take(&mut streams.ending);
            let open = std::mem::take(&mut streams.open).into_values();
            open.chain(ending.iter().filter_map(Weak::upgrade)).collect::<Vec<_>>()
        };
        let error = WriteError::ConnectionLost(ConnectionError::LocallyClosed);
        open.iter().for_each(|stream| stream.fail(&error));
    }

    /// What is written is kept for another connection.
    fn keeps(&self) -> bool {
        self.keeps
    }

    fn packet_payload(&self) -> usize {
        self.gate.packet_payload()
    }

    fn attach(&self, priority: i32, kind: WriterKind) -> WriterKey {
        self.change(|policy| policy.attach(priority, kind, self.runtime.now()))
    }

    fn detach(&self, key: WriterKey) {
        self.change(|policy| policy.detach(key, self.runtime.now()));
    }

    fn set_priority(&self, key: WriterKey, priority: i32) {
        self.change(|policy| policy.set_priority(key, priority, self.runtime.now()));
    }

    fn on_backlog(&self, key: WriterKey) {
        self.change(|policy| policy.on_backlog(key, self.runtime.now()));
    }

    fn on_drained(&self, key: WriterKey) {
        self.change(|policy| policy.on_drained(key, self.runtime.now()));
    }

    /// Changes who writes where, and ends the QUIC streams that are left over.
    fn change<R>(&self, change: impl FnOnce(&mut StreamPool) -> R) -> R {
        let mut retired = Vec::new();
        let result = {
            let mut streams = lock(&self.streams);
            let result = change(&mut streams.policy);
            while let Some(slot) = streams.policy.poll_retired() {
                retired.extend(streams.open.remove(&slot));
            }
            if !retired.is_empty() {
                // At once, so that whoever looks for those that write finds them here or there.
                streams.ending.retain(|stream| stream.strong_count() > 0);
                streams.ending.extend(retired.iter().map(Arc::downgrade));
            }
            if let Some(due) = streams.policy.poll_timeout().filter(|_| !streams.retiring) {
                streams.retiring = true;
                self.runtime.spawn(retire_idle(self.this.clone(), self.runtime.clone(), due));
            }
            result
        };
        retired.iter().for_each(|stream| stream.retire());
        result
    }

    /// Retires what was left idle; when to look again, if something still is.
    fn handle_timeout(&self) -> Option<Instant> {
        self.change(|policy| policy.handle_timeout(self.runtime.now()));
        let mut streams = lock(&self.streams);
        let due = streams.policy.poll_timeout().filter(|_| !streams.closed);
        streams.retiring = due.is_some();
        due
    }

    /// The QUIC stream that a writer's next frame goes to.
    fn stream(&self, key: WriterKey) -> Option<Arc<PooledStream>> {
        let mut streams = lock(&self.streams);
        let slot = streams.policy.slot(key).filter(|_| !streams.closed)?;
        Some(streams.open(slot, self))
    }

    /// Queues frames, on `last` if that is where others of their writer wait; where they went.
    fn push(
        &self,
        key: WriterKey,
        mut last: Option<Arc<PooledStream>>,
        frames: &mut dyn Iterator<Item = Queued>,
    ) -> Result<Arc<PooledStream>, WriteError> {
        loop {
            let Some(stream) = last.take().or_else(|| self.stream(key)) else {
                return Err(WriteError::ConnectionLost(ConnectionError::LocallyClosed));
            };
            match stream.push(frames, &self.runtime) {
                Pushed::Queued => return Ok(stream),
                Pushed::Refused => {
                    self.on_refused(&stream);
                    return Ok(stream);
                }
                Pushed::Over(result) => result?,
            }
        }
    }

    /// The peer allows no QUIC stream for this one: others take what waits on it, if there are any.
    fn on_refused(&self, stream: &Arc<PooledStream>) {
        let now = self.runtime.now();
        let Some(slot) = self.change(|policy| policy.on_refused(stream.slot(), now)) else {
            return;
        };
        let other = {
            let mut streams = lock(&self.streams);
            if streams.closed {
                return;
            }
            streams.open(slot, self)
        };
        let mut refused = stream.take_refused().into_iter().peekable();
        if refused.peek().is_some() {
            other.push(&mut refused, &self.runtime);
        }
    }
}

/// Looks after a pool until nothing of it is idle, so that it needs no other call to retire
/// what is.
async fn retire_idle(pool: Weak<DataPool>, runtime: Runtime, mut due: Instant) {
    loop {
        runtime.sleep_until(due).await;
        match pool.upgrade().and_then(|pool| pool.handle_timeout()) {
            Some(next) => due = next,
            None => return,
        }
    }
}

impl Streams {
    fn open(&mut self, (slot, priority): (Slot, i32), pool: &DataPool) -> Arc<PooledStream> {
        let stream = self.open.entry(slot).or_insert_with(|| {
            self.opened += 1;
            let kept = (Lane(self.opened), pool.keeps);
            PooledStream::new(&self.connection, &pool.gate, (slot, priority), kept).into()
        });
        stream.clone()
    }
}

impl Drop for DataPool {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for DataPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPool").field("quic_streams", &self.quic_streams()).finish()
    }
}
