//! Drives a session's state machine: feeds it what connections bring and does what it asks.
//!
//! One rule: [`Shared::drive`] locks the machine, lets it take an input, moves its control bytes to
//! their paths' queues, takes its actions, unlocks, and acts. Payload goes past it: a reader
//! task puts chunks into a stream's receiving half, and tells the machine once a batch. Nothing
//! else changes the machine: [`Shared::look`] only reads it, so no output can be forgotten.

mod chunks;
mod control;
mod datagrams;
mod held;
mod home;
mod path;
mod pool;
mod reader;
mod role;
mod secondary;
mod sink;
mod timer;
mod waiters;
mod writer;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::session::{Action, PrimarySession, Wake};
use kwik_proto::stream::StreamWake;
use kwik_proto::sync::lock;
use kwik_proto::{Code, CodedError, Config, Dir, PathId, SessionId};
use tokio::sync::Notify;

use crate::metrics::{MarkPair, SessionWatch};
use crate::quic::{Connection, ConnectionError, Figures, QuicStats, Runtime};

pub(crate) use datagrams::Datagrams;
pub(crate) use held::{CloseOnDrop, Held};
use home::Gone;
pub(crate) use home::{Dialer, take_up};
pub(crate) use path::{ControlStream, PathLink, SERVER_NAME, open_control, start};
pub(crate) use pool::{DataPool, FrameWriter, Room};
pub(crate) use role::{Role, StreamRole};
pub(crate) use waiters::{SessionWaiters, StreamWaiters};
pub(crate) use writer::StreamWriter;

/// Goes on behind all tasks that are ready. Not tokio's, which a runtime of others does not know.
async fn yield_now() {
    let mut yielded = false;
    let turn = std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    turn.await;
}

/// A server's place for a session; free again when it is dropped.
pub(crate) trait Slot: Debug + Send {
    /// Names the session, which gives way to others when it is quiet.
    fn occupy(&self, session: Weak<Shared<dyn Role>>, id: Option<SessionId>);

    /// The session has no connection, and holds so many bytes.
    fn on_lost(&self, kept: u64);

    /// A session that has to end, since too many have no connection.
    fn gives_way(&self) -> Option<Arc<Shared<dyn Role>>>;

    /// The session has a connection again.
    fn on_resumed(&self);
}

/// One session: its machine, its connections, and who waits for what.
#[derive(Debug)]
pub(crate) struct Shared<M: ?Sized> {
    /// Itself, for the tasks it starts.
    this: Weak<Shared<dyn Role>>,
    pub(crate) runtime: Runtime,
    /// The path without which there is no session.
    home: PathId,
    /// Its connection, or the last that it had.
    connection: Mutex<Connection>,
    /// What is known of one that is gone.
    gone: Mutex<Option<Box<Gone>>>,
    /// Held while it is replaced, or found to be gone: all that follows from the one is done before
    /// the next. Taken before the machine's lock.
    replacing: Mutex<()>,
    /// What is written to it.
    pub(crate) pool: Arc<DataPool>,
    /// Dials; servers have none.
    dialer: Option<Box<Dialer>>,
    /// What the receive window of a path's connection may grow to.
    receive_window: u64,
    /// Those that come on that connection; none where they are off.
    pub(crate) datagrams: Option<Arc<Datagrams>>,
    pub(crate) waiters: SessionWaiters,
    /// Boxed, as the map makes room for several at once.
    paths: Mutex<BTreeMap<PathId, Box<PathLink>>>,
    closed: Mutex<Option<ConnectionError>>,
    /// What is held until it is over: a server's place for it.
    slot: Mutex<Option<Box<dyn Slot>>>,
    alarm: timer::Alarm,
    /// Who counts and tells what happens to it, if anybody does.
    watch: OnceLock<Box<SessionWatch>>,
    /// What figures rise from, once somebody has asked what limits it.
    pub(crate) marks: Mutex<Option<Box<MarkPair>>>,
    /// A task keeps the time.
    timed: AtomicBool,
    /// Its end was told.
    ended: AtomicBool,
    /// The last field, so that the session can be shared without naming its role.
    machine: Mutex<M>,
}

impl<M: Role> Shared<M> {
    /// A session whose first path is about to be added.
    pub(crate) fn new(
        machine: M,
        (home, connection): (PathId, &Connection),
        runtime: &Runtime,
        (dialer, receive_window): (Option<Box<Dialer>>, u64),
        (settings, datagrams): (&Config, Option<Arc<Datagrams>>),
    ) -> Arc<Self> {
        let keeps = home.is_primary();
        let pool = DataPool::new(connection, runtime, machine.sent(), (settings, keeps));
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            runtime: runtime.clone(),
            home,
            connection: connection.clone().into(),
            gone: Mutex::default(),
            replacing: Mutex::default(),
            pool,
            dialer,
            receive_window,
            datagrams,
            waiters: SessionWaiters::default(),
            paths: Mutex::default(),
            timed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            closed: Mutex::default(),
            slot: Mutex::default(),
            alarm: timer::Alarm::default(),
            watch: OnceLock::new(),
            marks: Mutex::default(),
            machine: Mutex::new(machine),
        })
    }
}

impl<M: Role + ?Sized> Shared<M> {
    /// Looks at the machine; what changes it goes through [`Self::drive`].
    pub(crate) fn look<R>(&self, look: impl FnOnce(&M) -> R) -> R {
        look(&lock(&self.machine))
    }

    /// The connection to the peer, or the last that there was.
    pub(crate) fn connection(&self) -> Connection {
        lock(&self.connection).clone()
    }

    /// Notes why the session is ending; the first reason stays.
    pub(crate) fn on_connection_lost(&self, error: ConnectionError) {
        if self.close_reason().is_none() {
            let now = self.runtime.now();
            self.look(|machine| self.note_end(machine, now));
        }
        lock(&self.closed).get_or_insert(error);
        // The reason may have been noted before.
        let is_first = !self.ended.swap(true, Ordering::Relaxed);
        let slot = lock(&self.slot).take();
        drop(slot);
        if is_first {
            self.tell_end();
        }
    }

    /// Tells who counts that it is over, if it is.
    fn tell_end(&self) {
        if let (Some(watch), Some(error)) = (self.watch.get(), self.close_reason()) {
            let now = self.runtime.now();
            let (id, totals) = self.look(|machine| (machine.session_id(), machine.totals(now)));
            watch.on_ended(id, &error, totals.as_ref());
        }
    }

    /// Has it counted and told what happens to the session.
    pub(crate) fn set_watch(&self, watch: Option<SessionWatch>) {
        let Some(watch) = watch else { return };
        watch.on_begun(self.look(|machine| machine.session_id()));
        self.watch.set(watch.into()).ok();
        // It may have ended before, when nobody could be told.
        self.tell_end();
    }

    /// Who counts what happens to it.
    pub(crate) fn watch(&self) -> Option<&SessionWatch> {
        self.watch.get().map(Box::as_ref)
    }

    /// Figures of each of its connections.
    pub(crate) fn each_connection(&self, mut each: impl FnMut(&QuicStats)) {
        for link in lock(&self.paths).values() {
            each(&link.connection.stats());
        }
    }

    /// Keeps a server's place until the session is over.
    pub(crate) fn hold_slot(&self, slot: Box<dyn Slot>) {
        slot.occupy(self.this.clone(), self.look(|machine| machine.session_id()));
        lock(&self.slot).replace(slot);
    }

    /// Why the session ended, if it did.
    pub(crate) fn close_reason(&self) -> Option<ConnectionError> {
        lock(&self.closed).clone()
    }

    /// Ends the session at once.
    pub(crate) fn close(&self, code: u64, reason: &[u8]) {
        let farewell = self.look(|machine| machine.farewell());
        self.close_links(code, reason);
        self.on_connection_lost(ConnectionError::LocallyClosed);
        let reason = Bytes::copy_from_slice(reason);
        self.drive(|machine, now| machine.close(code, reason.clone(), now));
        if let (Some(within), Some(shared)) = (farewell, self.this.upgrade()) {
            let begun = self.dialer.as_ref().map(|dialer| dialer.endpoint.begin_farewell());
            self.runtime.spawn(async move {
                home::farewell(shared, within, (code, reason)).await;
                drop(begun);
            });
        }
    }

    /// Waits until the session is over: why.
    pub(crate) async fn closed(&self) -> ConnectionError {
        let ended = self.wait_for::<ConnectionError>(&self.waiters.closed, || None).await;
        ended.unwrap_or_else(|error| error)
    }

    /// Figures of each path's connection.
    pub(crate) fn figures(&self) -> Vec<(PathId, Figures)> {
        let paths = lock(&self.paths);
        paths.iter().map(|(path, link)| (*path, link.connection.figures())).collect()
    }

    /// Sizes the receive window of a path's connection by its figures.
    fn size_window(&self, path: PathId, rtt: Duration, arrived: u64, now: Instant) {
        if let Some(link) = lock(&self.paths).get_mut(&path) {
            link.size_window(rtt, arrived, now);
        }
    }

    /// A path's connection.
    pub(crate) fn connection_of(&self, path: PathId) -> Option<Connection> {
        lock(&self.paths).get(&path).map(|link| link.connection.clone())
    }

    fn wake(&self, wake: Wake) {
        match wake {
            Wake::Stream(StreamWake::Readable(id)) => {
                self.waiters.streams.wake_reader(id);
            }
            Wake::Stream(StreamWake::Writable(id)) => {
                self.waiters.streams.wake_writer(id);
            }
            Wake::Stream(StreamWake::Acceptable(dir)) => self.acceptable(dir).notify_waiters(),
            Wake::Stream(StreamWake::Openable(dir)) => self.openable(dir).notify_waiters(),
            Wake::Path(_) => self.waiters.paths.notify_waiters(),
            Wake::LeaseOffered => self.waiters.leases.notify_waiters(),
            Wake::LeaseEnded(lease) => self.waiters.lease_ends.wake(lease),
            Wake::Uncovered => self.waiters.uncovered.notify_waiters(),
            Wake::Acknowledged => self.pool.on_acknowledged(),
            Wake::Raw => self.waiters.raw.notify_waiters(),
            Wake::Secondary => self.waiters.secondary.notify_waiters(),
            Wake::Writer(lease) => self.waiters.writers.wake(lease),
        }
    }

    /// Who waits to accept streams of a kind.
    pub(crate) fn acceptable(&self, dir: Dir) -> &Notify {
        &self.waiters.acceptable[dir as usize]
    }

    /// Who waits to open streams of a kind.
    pub(crate) fn openable(&self, dir: Dir) -> &Notify {
        &self.waiters.openable[dir as usize]
    }

    /// Wakes everybody, once the session is over.
    fn wake_everybody(&self) {
        self.waiters.wake_all();
        self.datagrams.iter().for_each(|datagrams| datagrams.arrived().notify_waiters());
        self.alarm.wake();
    }

    /// Waits until `poll` has something, asking again whenever `notify` says; the session's end is
    /// an error. Cancel safe if `poll` is.
    pub(crate) async fn wait_for<T>(
        &self,
        notify: &Notify,
        mut poll: impl FnMut() -> Option<T>,
    ) -> Result<T, ConnectionError> {
        loop {
            let mut notified = pin!(notify.notified());
            notified.as_mut().enable();
            if let Some(found) = poll() {
                return Ok(found);
            }
            if let Some(error) = self.close_reason() {
                return Err(error);
            }
            notified.await;
        }
    }
}

/// What a machine left to do after an input.
struct Drained {
    actions: Vec<Action>,
    timeout: Option<Instant>,
}

impl Shared<PrimarySession> {
    /// As [`Self::drive`], for what the application does and its client has to read: refused while
    /// much of that waits for the client.
    pub(crate) fn drive_own<R>(
        &self,
        input: impl FnOnce(&mut PrimarySession, Instant) -> Result<R, CodedError>,
    ) -> Result<R, CodedError> {
        let driven = self.drive(|machine, now| machine.with_own(|machine| input(machine, now)));
        driven.unwrap_or_else(|| {
            let context = "much waits to leave for the peer: try again when some of it has";
            Err(CodedError::new(Code::LimitExceeded, context))
        })
    }
}

/// A session whose role does not matter.
pub(crate) type AnyShared = Arc<Shared<dyn Role>>;

impl<M: Role + ?Sized> Shared<M> {
    fn take_outputs(&self, machine: &mut M, now: Instant) -> Drained {
        let mut actions = Vec::new();
        loop {
            let mut queued = false;
            while let Some((path, bytes)) = machine.poll_transmit(now) {
                queued = true;
                if let Some(link) = lock(&self.paths).get(&path) {
                    link.queue_control(&bytes);
                }
            }
            while let Some(action) = machine.poll_action() {
                queued = true;
                actions.push(action);
            }
            if !queued {
                break;
            }
        }
        Drained { actions, timeout: machine.poll_timeout() }
    }

    /// Gives the machine an input and does all that follows from it.
    pub(crate) fn drive<R>(&self, input: impl FnOnce(&mut M, Instant) -> R) -> R {
        let now = self.runtime.now();
        let (result, outputs) = {
            let mut machine = lock(&self.machine);
            let result = input(&mut machine, now);
            let outputs = self.take_outputs(&mut machine, now);
            (result, outputs)
        };
        self.alarm.set_earlier(outputs.timeout);
        outputs.actions.into_iter().for_each(|action| self.act(action));
        result
    }

    /// As [`Self::drive`], for what a path's connection brings. None if it is the session's first
    /// path, and another connection has taken it up.
    fn drive_on<R>(
        &self,
        (path, connection): (PathId, &Connection),
        input: impl FnOnce(&mut M, Instant) -> R,
    ) -> Option<R> {
        self.drive(|machine, now| self.is_heeded(path, connection).then(|| input(machine, now)))
    }

    /// Whether this is a path's connection. It stays so under the machine's lock.
    fn is_current(&self, path: PathId, connection: &Connection) -> bool {
        lock(&self.paths).get(&path).is_some_and(|link| link.connection.is_same(connection))
    }

    /// Whether what comes on a connection is that of its path. It stays so under the machine's
    /// lock.
    fn is_heeded(&self, path: PathId, connection: &Connection) -> bool {
        path != self.home || self.is_current(path, connection)
    }

    fn act(&self, action: Action) {
        match action {
            Action::Wake(wake) => self.wake(wake),
            Action::Event(event) => {
                if let Some(watch) = self.watch.get() {
                    watch.on_event(self.look(|machine| machine.session_id()), *event);
                }
            }
            Action::Gap(gap) => {
                let (stream, missing) = (gap.stream, &gap.range);
                tracing::info!(%stream, ?missing, "a gap keeps the reader waiting");
            }
            Action::ForwardRaw(path, packet) => {
                let sequence = packet.sequence;
                let result = match lock(&self.paths).get(&path) {
                    Some(link) => link.forward_raw(*packet, &self.runtime),
                    None => Err(Code::PathDead),
                };
                self.drive(|machine, now| machine.on_raw_forwarded(path, sequence, result, now));
            }
            Action::ClosePath(path, error) => {
                let link = lock(&self.paths).remove(&path);
                if let Some(link) = link {
                    tracing::debug!(%path, %error, "path closed");
                    link.connection.close(error.code.as_u64(), error.to_string().as_bytes());
                }
            }
            Action::Close(code, reason) => {
                self.on_connection_lost(self.end(code, &reason));
                self.close_connections(code, &reason);
            }
            Action::ClosedByPeer(code, reason) => {
                let error = ConnectionError::closed_by_peer(code, reason.clone());
                self.on_connection_lost(error);
                self.close_connections(code, &reason);
            }
            Action::RenewGrant(path) => {
                let wall = self.runtime.wall_clock();
                self.drive(|machine, now| machine.renew_grant(path, now, wall));
            }
            Action::Dial(dial) => {
                if let (Some(shared), Some(dialer)) = (self.this.upgrade(), &self.dialer) {
                    self.runtime.spawn(path::dial(shared, dialer.endpoint.clone(), *dial));
                }
            }
            Action::Redial(within) => {
                if let Some(shared) = self.this.upgrade() {
                    self.runtime.spawn(home::redial(shared, within));
                }
            }
        }
    }

    /// Why a session ends that is ended here: with its connection, if that is gone.
    fn end(&self, code: u64, reason: &[u8]) -> ConnectionError {
        match Code::from_u64(code) {
            Some(Code::SessionUnknown) => return ConnectionError::SessionUnknown,
            Some(Code::ServerRestarted) => return ConnectionError::ServerRestarted,
            _ => {}
        }
        let reason = String::from_utf8_lossy(reason).into_owned();
        let lost = lock(&self.gone).as_mut().and_then(|gone| gone.error.take());
        lost.unwrap_or(ConnectionError::TransportError { code, reason })
    }

    /// Closes every connection of the session and wakes everybody.
    fn close_connections(&self, code: u64, reason: &[u8]) {
        self.close_links(code, reason);
        self.pool.close();
        let links = std::mem::take(&mut *lock(&self.paths));
        drop(links);
        self.wake_everybody();
    }

    /// Closes the connections, before anything learns of the session's end: whoever does drops its
    /// streams, and the peer would take them for messages that were cut off.
    fn close_links(&self, code: u64, reason: &[u8]) {
        for link in lock(&self.paths).values() {
            link.connection.close(code, reason);
        }
        if self.dialer.is_some() {
            self.note_closing(code, reason);
        }
        if let Some(former) = self.take_former() {
            former.close(code, reason);
        }
    }
}
