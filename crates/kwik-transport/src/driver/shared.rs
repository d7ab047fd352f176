//! A session as all that drive it share it: its machine behind a lock.
//!
//! [`Shared::drive`] alone changes the machine; [`Shared::look`] only reads it, so no output can be
//! forgotten.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::session::{Action, Dial, PrimarySession};
use kwik_proto::sync::lock;
use kwik_proto::{Code, CodedError, Config, Dir, PathId, SessionId, limits};
use tokio::sync::Notify;

use crate::quic::{Connection, ConnectionError, Figures, QuicStats, Runtime};

use super::alarm::Alarm;
use super::control::ControlBuffer;
use super::datagrams::Datagrams;
use super::end::End;
use super::home::Home;
use super::link::PathLink;
use super::marks::MarkPair;
use super::pool::DataPool;
use super::role::Role;
use super::waiters::SessionWaiters;
use super::watch::Watch;

/// A session whose role does not matter.
pub(crate) type AnyShared = Arc<Shared<dyn Role>>;

/// A server's place for a session; free again when it is dropped.
pub(crate) trait Slot: Debug + Send {
    /// Names the session, which gives way to others when it is quiet.
    fn occupy(&self, session: Weak<Shared<dyn Role>>, id: Option<SessionId>);

    /// The session has no connection, and holds so many bytes.
    fn on_lost(&self, kept: u64);

    /// A session that has to end, since too many have no connection.
    fn gives_way(&self) -> Option<AnyShared>;

    /// The session has a connection again.
    fn on_resumed(&self);
}

/// How a client makes connections.
pub(crate) trait Dialer: Any + Debug + Send + Sync {
    /// Makes one to a secondary that the primary named, a new path of the session.
    fn dial(&self, session: AnyShared, dial: Dial);

    /// Makes another to the primary within this time, and takes the session up on it.
    fn redial(&self, session: AnyShared, within: Duration);

    /// Makes others to the primary, until it has heard on one with what the session was closed;
    /// the first is to stand within this time.
    fn farewell(&self, session: AnyShared, within: Duration, with: (u64, Bytes));
}

/// One session: its machine, its connections, and who waits for what.
#[derive(Debug)]
pub(crate) struct Shared<M: ?Sized> {
    /// Itself, for the tasks it starts.
    pub(super) this: Weak<Shared<dyn Role>>,
    pub(crate) runtime: Runtime,
    /// Its first path.
    pub(super) home: Home,
    /// What is written to that.
    pub(crate) pool: Arc<DataPool>,
    /// Dials; servers have none.
    pub(super) dialer: Option<Box<dyn Dialer>>,
    /// What the receive window of a path's connection may grow to.
    receive_window: u64,
    /// Those that come on that connection; none where they are off.
    pub(crate) datagrams: Option<Arc<Datagrams>>,
    pub(crate) waiters: SessionWaiters,
    /// Boxed, as the map makes room for several at once.
    pub(super) paths: Mutex<BTreeMap<PathId, Box<PathLink>>>,
    pub(super) end: End,
    /// What is held until it is over: a server's place for it.
    pub(super) slot: Mutex<Option<Box<dyn Slot>>>,
    pub(super) alarm: Alarm,
    /// Who counts and tells what happens to it, if anybody does.
    pub(super) watch: OnceLock<Arc<dyn Watch>>,
    /// What figures rise from, once somebody has asked what limits it.
    pub(crate) marks: Mutex<Option<Box<MarkPair>>>,
    /// The last field, so that the session can be shared without naming its role.
    machine: Mutex<M>,
}

impl<M: Role> Shared<M> {
    /// A session whose first path is about to be added.
    pub(crate) fn new(
        machine: M,
        (home, connection): (PathId, &Connection),
        runtime: &Runtime,
        (dialer, receive_window): (Option<Box<dyn Dialer>>, u64),
        (settings, datagrams): (&Config, Option<Arc<Datagrams>>),
    ) -> Arc<Self> {
        let keeps = home.is_primary();
        let pool = DataPool::new(connection, runtime, machine.sent(), (settings, keeps));
        Arc::new_cyclic(|this: &Weak<Self>| Self {
            this: this.clone(),
            runtime: runtime.clone(),
            home: Home::new(home, connection),
            pool,
            dialer,
            receive_window,
            datagrams,
            waiters: SessionWaiters::default(),
            paths: Mutex::default(),
            end: End::default(),
            slot: Mutex::default(),
            alarm: Alarm::default(),
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
        lock(&self.home.connection).clone()
    }

    /// What it makes connections with; none at a server.
    pub(crate) fn dialer(&self) -> Option<&dyn Dialer> {
        self.dialer.as_deref()
    }

    /// Has it counted and told what happens to the session.
    pub(crate) fn set_watch(&self, watch: Option<Arc<dyn Watch>>) {
        let Some(watch) = watch else { return };
        watch.on_begun(self.look(|machine| machine.session_id()));
        self.watch.set(watch).ok();
        // It may have ended before, when nobody could be told.
        self.tell_end();
    }

    /// Who counts what happens to it.
    pub(crate) fn watch(&self) -> Option<&dyn Watch> {
        self.watch.get().map(Arc::as_ref)
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
        lock(&self.end.reason).clone()
    }

    /// Figures of each path's connection.
    pub(crate) fn figures(&self) -> Vec<(PathId, Figures)> {
        let paths = lock(&self.paths);
        paths.iter().map(|(path, link)| (*path, link.connection.figures())).collect()
    }

    /// Sizes the receive window of a path's connection by its figures.
    pub(super) fn size_window(&self, path: PathId, rtt: Duration, arrived: u64, now: Instant) {
        if let Some(link) = lock(&self.paths).get_mut(&path) {
            link.size_window(rtt, arrived, now);
        }
    }

    /// A connection of the session, and the queue of its control stream.
    pub(super) fn link(&self, connection: &Connection) -> (PathLink, Arc<ControlBuffer>) {
        let client = self.dialer.is_some();
        let most = if client { limits::MAX_CONTROL_QUEUED } else { limits::MAX_ANSWERS_QUEUED };
        let queue = Arc::new(ControlBuffer::new(most));
        let watch = self.watch.get().cloned();
        (PathLink::new(connection, self.receive_window, queue.clone(), watch), queue)
    }

    /// A path's connection.
    pub(crate) fn connection_of(&self, path: PathId) -> Option<Connection> {
        lock(&self.paths).get(&path).map(|link| link.connection.clone())
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
    pub(super) fn wake_everybody(&self) {
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
    pub(super) fn drive_on<R>(
        &self,
        (path, connection): (PathId, &Connection),
        input: impl FnOnce(&mut M, Instant) -> R,
    ) -> Option<R> {
        self.drive(|machine, now| self.is_heeded(path, connection).then(|| input(machine, now)))
    }

    /// Whether this is a path's connection. It stays so under the machine's lock.
    pub(super) fn is_current(&self, path: PathId, connection: &Connection) -> bool {
        lock(&self.paths).get(&path).is_some_and(|link| link.connection.is_same(connection))
    }

    /// Whether what comes on a connection is that of its path. It stays so under the machine's
    /// lock.
    pub(super) fn is_heeded(&self, path: PathId, connection: &Connection) -> bool {
        path != self.home.path || self.is_current(path, connection)
    }
}
