//! Runs tasks on one thread, in the order in which they were woken.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use crate::sim::lock;

/// Work that was given to the simulation.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Which host a task runs on.
pub(crate) type HostId = usize;

struct Task {
    id: u64,
    host: HostId,
    /// None while it runs, and once it is over.
    work: Mutex<Option<Work>>,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<Arc<Task>>>>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Relaxed) {
            let ready = self.ready.clone();
            lock(&ready).push_back(self);
        }
    }
}

/// The tasks of all hosts.
#[derive(Default)]
pub(crate) struct Executor {
    ready: Arc<Mutex<VecDeque<Arc<Task>>>>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    next: u64,
    live: BTreeMap<(HostId, u64), Arc<Task>>,
    /// Hosts that stand still, with their tasks that were woken meanwhile.
    frozen: BTreeMap<HostId, Vec<Arc<Task>>>,
}

impl Executor {
    pub(crate) fn spawn(&self, host: HostId, work: Work) {
        let mut tasks = lock(&self.tasks);
        let id = tasks.next;
        tasks.next += 1;
        let task = Arc::new(Task {
            id,
            host,
            work: Mutex::new(Some(work)),
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        tasks.live.insert((host, id), task.clone());
        drop(tasks);
        task.wake();
    }

    /// Polls what is ready until nothing is.
    pub(crate) fn run(&self) {
        loop {
            let Some(task) = lock(&self.ready).pop_front() else { return };
            if let Some(woken) = lock(&self.tasks).frozen.get_mut(&task.host) {
                woken.push(task);
                continue;
            }
            task.queued.store(false, Relaxed);
            let Some(mut work) = lock(&task.work).take() else { continue };
            let waker = Waker::from(task.clone());
            if work.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                // A task that killed its own host is gone.
                if lock(&self.tasks).live.contains_key(&(task.host, task.id)) {
                    lock(&task.work).replace(work);
                }
            } else {
                lock(&self.tasks).live.remove(&(task.host, task.id));
            }
        }
    }

    /// Drops all tasks of `host`, wherever they are.
    pub(crate) fn kill(&self, host: HostId) {
        let mut tasks = lock(&self.tasks);
        let rest = tasks.live.split_off(&(host, 0));
        let (mut dead, mut rest) = (rest, BTreeMap::new());
        if let Some(after) = host.checked_add(1) {
            rest = dead.split_off(&(after, 0));
        }
        tasks.live.append(&mut rest);
        if let Some(woken) = tasks.frozen.get_mut(&host) {
            woken.clear();
        }
        drop(tasks);
        for task in dead.into_values() {
            let work = lock(&task.work).take();
            drop(work);
        }
    }

    pub(crate) fn freeze(&self, host: HostId) {
        lock(&self.tasks).frozen.entry(host).or_default();
    }

    pub(crate) fn thaw(&self, host: HostId) {
        let woken = lock(&self.tasks).frozen.remove(&host).unwrap_or_default();
        lock(&self.ready).extend(woken);
    }

    /// Number of tasks that are not over.
    pub(crate) fn live(&self, host: HostId) -> usize {
        lock(&self.tasks).live.range((host, 0)..=(host, u64::MAX)).count()
    }
}
