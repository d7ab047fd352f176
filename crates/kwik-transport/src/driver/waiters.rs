//! Who waits for what of a session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;

use kwik_proto::sync::lock;
use kwik_proto::{LeaseId, StreamId};
use tokio::sync::Notify;

/// Who waits for the session as a whole, or for a part of it.
#[derive(Debug, Default)]
pub(crate) struct SessionWaiters {
    pub(crate) acceptable: [Notify; 2],
    pub(crate) openable: [Notify; 2],
    pub(crate) paths: Notify,
    pub(crate) leases: Notify,
    pub(crate) raw: Notify,
    /// Readers of secondary streams; who asked where to go on.
    pub(crate) secondary: Notify,
    pub(crate) uncovered: Notify,
    pub(crate) closed: Notify,
    pub(crate) streams: StreamRegistry,
    /// Writers of leases: more was activated, or they ended.
    pub(crate) writers: LeaseRegistry,
    /// Those who gave leases: one has ended.
    pub(crate) lease_ends: LeaseRegistry,
}

impl SessionWaiters {
    pub(super) fn wake_all(&self) {
        let each = [&self.paths, &self.leases, &self.raw, &self.uncovered, &self.closed];
        self.secondary.notify_waiters();
        let each = self.acceptable.iter().chain(&self.openable).chain(each);
        each.for_each(Notify::notify_waiters);
        self.streams.wake_all();
        self.writers.wake_all();
        self.lease_ends.wake_all();
    }
}

/// Who waits for one stream: its reader and its writer.
#[derive(Debug, Default)]
pub(crate) struct StreamWaiters {
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

impl StreamWaiters {
    pub(crate) fn wait_readable(&self, waker: &Waker) {
        lock(&self.reader).replace(waker.clone());
    }

    pub(crate) fn wait_writable(&self, waker: &Waker) {
        lock(&self.writer).replace(waker.clone());
    }

    pub(super) fn wake_reader(&self) {
        let waker = lock(&self.reader).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&self) {
        let waker = lock(&self.writer).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Who waits for streams, with how many handles each stream has.
#[derive(Debug, Default)]
pub(crate) struct StreamRegistry(Mutex<BTreeMap<StreamId, Registered>>);

#[derive(Debug, Default)]
struct Registered {
    waiters: Arc<StreamWaiters>,
    handles: u8,
}

impl StreamRegistry {
    /// Who waits for a stream; for its handles alone.
    pub(crate) fn register(&self, id: StreamId) -> Arc<StreamWaiters> {
        let mut streams = lock(&self.0);
        let stream = streams.entry(id).or_default();
        stream.handles += 1;
        stream.waiters.clone()
    }

    /// A handle of a stream is gone.
    pub(crate) fn release(&self, id: StreamId) {
        let mut streams = lock(&self.0);
        let Some(stream) = streams.get_mut(&id) else { return };
        stream.handles -= 1;
        if stream.handles == 0 {
            streams.remove(&id);
        }
        if streams.is_empty() {
            // An empty map would keep room for several.
            *streams = BTreeMap::new();
        }
    }

    pub(super) fn wake_reader(&self, id: StreamId) {
        if let Some(waiters) = self.waiters(id) {
            waiters.wake_reader();
        }
    }

    pub(super) fn wake_writer(&self, id: StreamId) {
        if let Some(waiters) = self.waiters(id) {
            waiters.wake_writer();
        }
    }

    /// Not under the lock: who is woken may end, and release its stream.
    fn waiters(&self, id: StreamId) -> Option<Arc<StreamWaiters>> {
        lock(&self.0).get(&id).map(|stream| stream.waiters.clone())
    }

    fn wake_all(&self) {
        for stream in lock(&self.0).values() {
            stream.waiters.wake_reader();
            stream.waiters.wake_writer();
        }
    }
}

/// Who waits for leases, each for its own: there may be thousands.
#[derive(Debug, Default)]
pub(crate) struct LeaseRegistry(Mutex<BTreeMap<LeaseId, Weak<Notify>>>);

impl LeaseRegistry {
    /// What the one that waits for a lease waits on.
    pub(crate) fn register(&self, lease: LeaseId) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        lock(&self.0).insert(lease, Arc::downgrade(&notify));
        notify
    }

    /// Nobody waits for a lease any more.
    pub(crate) fn release(&self, lease: LeaseId) {
        lock(&self.0).remove(&lease);
    }

    pub(super) fn wake(&self, lease: LeaseId) {
        let waiter = lock(&self.0).get(&lease).and_then(Weak::upgrade);
        waiter.iter().for_each(|waiter| waiter.notify_one());
    }

    fn wake_all(&self) {
        for waiter in lock(&self.0).values().filter_map(Weak::upgrade) {
            waiter.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn the_end_of_a_lease_wakes_who_waits_for_it_and_nobody_else() {
        let leases = LeaseRegistry::default();
        let (first, second) = (leases.register(LeaseId(1)), leases.register(LeaseId(2)));
        let mut cx = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(first.notified()), pin!(second.notified()));
        leases.wake(LeaseId(2));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_ready());
        leases.wake_all();
        assert!(first.poll(&mut cx).is_ready());
        leases.release(LeaseId(1));
        leases.wake(LeaseId(1));
    }
}
