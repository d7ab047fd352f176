//! The simulation: what happens when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;

use crate::executor::{Executor, HostId, Work};
use crate::host::{Host, HostState};
use crate::link::Passage;
use crate::socket::Datagram;
use crate::timer::{Alarm, Timer};
use crate::trace::{Fate, Packet, Trace};

/// A test's panic in one thread should show as itself, not as a poisoned lock.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host of [`Sim::block_on`]'s own work; it is not on the network.
const OBSERVER: HostId = usize::MAX;

/// A time limit that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// A network and its hosts. Cheap to clone: a handle to the same one.
#[derive(Clone)]
pub struct Sim(Arc<Inner>);

struct Inner {
    seed: u64,
    /// Where virtual time begins.
    base: Instant,
    executor: Executor,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) now: u64,
    sequence: u64,
    events: BinaryHeap<Event>,
    pub(crate) hosts: Vec<HostState>,
    pub(crate) rng: Rng,
    /// Addresses that were given out since hosts were added.
    pub(crate) moves: u16,
    trace: Trace,
}

struct Event {
    at: u64,
    sequence: u64,
    what: What,
}

enum What {
    Alarm(Alarm),
    /// A datagram left its sender's link.
    Cross(Datagram),
    /// It left its receiver's link too.
    Arrive(Datagram),
    Do(Box<dyn FnOnce() + Send>),
}

impl Ord for Event {
    /// The earliest is the greatest; of one time, the first that was planned.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}

impl State {
    fn plan(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.events.push(Event { at, sequence: self.sequence, what });
    }

    fn note(&mut self, datagram: &Datagram, fate: Fate) {
        let (from, to, len) = (datagram.from, datagram.to, datagram.contents.len());
        self.trace.note(Packet { at: Duration::from_nanos(self.now), from, to, len, fate });
    }

    fn host_at(&self, address: SocketAddr) -> Option<HostId> {
        self.hosts.iter().position(|host| host.address == address.ip())
    }

    /// Puts a datagram onto the link of its sender.
    pub(crate) fn send(&mut self, host: HostId, datagram: Datagram) {
        let (now, len) = (self.now, datagram.contents.len());
        let passage = self.hosts[host].up.pass(now, len, &mut self.rng);
        self.go_on(datagram, &passage, What::Cross);
    }

    fn go_on(&mut self, datagram: Datagram, passage: &Passage, next: fn(Datagram) -> What) {
        let mut datagram = datagram;
        match passage.fate {
            Fate::Delivered => {}
            Fate::Corrupted => {
                self.note(&datagram, Fate::Corrupted);
                datagram.contents = self.corrupted(&datagram.contents);
            }
            fate => self.note(&datagram, fate),
        }
        for at in passage.arrivals.iter().flatten() {
            self.plan(*at, next(datagram.clone()));
        }
    }

    fn corrupted(&mut self, contents: &[u8]) -> Bytes {
        let mut contents = contents.to_vec();
        if !contents.is_empty() {
            let at = self.rng.usize(..contents.len());
            contents[at] ^= self.rng.u8(1..);
        }
        contents.into()
    }

    fn cross(&mut self, datagram: Datagram) {
        let Some(host) = self.host_at(datagram.to) else {
            return self.note(&datagram, Fate::Unreachable);
        };
        let (now, len) = (self.now, datagram.contents.len());
        let passage = self.hosts[host].down.pass(now, len, &mut self.rng);
        self.go_on(datagram, &passage, What::Arrive);
    }

    fn arrive(&mut self, datagram: &Datagram) -> Option<Waker> {
        let host = self.host_at(datagram.to);
        let socket = host.and_then(|host| self.hosts[host].sockets.get(&datagram.to.port()));
        let Some(socket) = socket.cloned() else {
            self.note(datagram, Fate::Unreachable);
            return None;
        };
        match socket.deliver(datagram.clone()) {
            Ok(waker) => {
                self.note(datagram, Fate::Delivered);
                waker
            }
            Err(()) => {
                self.note(datagram, Fate::Dropped);
                None
            }
        }
    }
}

impl Sim {
    /// An empty network. All chance comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            hosts: Vec::new(),
            rng: Rng::with_seed(seed),
            moves: 0,
            trace: Trace::default(),
        };
        let base = Instant::now();
        let executor = Executor::default();
        Self(Arc::new(Inner { seed, base, executor, state: Mutex::new(state) }))
    }

    /// Adds a host with an ideal link.
    ///
    /// # Panics
    /// There are 250 already.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let mut state = lock(&self.0.state);
        let id = state.hosts.len();
        let number = u8::try_from(id + 1).ok().filter(|number| *number <= 250);
        let number = number.expect("invariant: a scenario has few hosts");
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        let random = state.rng.fork();
        state.hosts.push(HostState::new(name, address, random));
        drop(state);
        Host::new(self.clone(), id)
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.base + self.elapsed()
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(lock(&self.0.state).now)
    }

    /// Does something at a time counted from the beginning; at once if that is past.
    pub fn at(&self, time: Duration, action: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.0.state);
        let at = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(state.now);
        state.plan(at, What::Do(Box::new(action)));
    }

    /// Waits.
    pub async fn sleep(&self, duration: Duration) {
        Timer::new(self.clone(), self.now() + duration).await;
    }

    /// Waits for `work`, but not longer than `limit`.
    ///
    /// # Errors
    /// The limit passed.
    pub async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let mut work = pin!(work);
        let mut limit = pin!(self.sleep(limit));
        std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => limit.as_mut().poll(cx).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// Lets everything happen until `work` is done.
    ///
    /// # Panics
    /// Nothing is left to happen, and `work` is not done.
    pub fn block_on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let output = Arc::new(Mutex::new(None));
        let slot = output.clone();
        self.spawn(
            OBSERVER,
            Box::pin(async move {
                let done = work.await;
                lock(&slot).replace(done);
            }),
        );
        loop {
            self.0.executor.run();
            if let Some(output) = lock(&output).take() {
                return output;
            }
            assert!(self.step(), "seed {}: nothing is left to happen", self.0.seed);
        }
    }

    /// Lets the next thing happen; false if there is none.
    fn step(&self) -> bool {
        let mut state = lock(&self.0.state);
        let Some(event) = state.events.pop() else { return false };
        state.now = event.at;
        let waker = match event.what {
            What::Alarm(alarm) => lock(&alarm).take(),
            What::Cross(datagram) => {
                state.cross(datagram);
                None
            }
            What::Arrive(datagram) => state.arrive(&datagram),
            What::Do(action) => {
                drop(state);
                action();
                return true;
            }
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// What passed the network so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        lock(&self.0.state).trace.clone()
    }

    /// Keeps the first `count` packets in the trace.
    pub fn keep_packets(&self, count: usize) {
        lock(&self.0.state).trace.keep = count;
    }

    /// Ends everything: what runs and what was to happen is dropped. Tasks keep their simulation,
    /// which keeps its tasks, so that one that is not ended is never freed.
    pub fn end(&self) {
        let hosts = self.state().hosts.len();
        (0..hosts).for_each(|host| Host::new(self.clone(), host).crash());
        self.0.executor.kill(OBSERVER);
        // Tasks that were woken by it are over: nothing runs.
        self.0.executor.run();
        let events = std::mem::take(&mut self.state().events);
        drop(events);
    }

    pub(crate) fn set_alarm(&self, deadline: Instant, alarm: Alarm) {
        let at = deadline.saturating_duration_since(self.0.base).as_nanos();
        let mut state = lock(&self.0.state);
        let at = u64::try_from(at).unwrap_or(u64::MAX).max(state.now);
        state.plan(at, What::Alarm(alarm));
    }

    pub(crate) fn spawn(&self, host: HostId, work: Work) {
        self.0.executor.spawn(host, work);
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.0.executor
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("seed", &self.0.seed).finish_non_exhaustive()
    }
}
