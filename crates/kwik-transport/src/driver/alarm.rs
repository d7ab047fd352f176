//! When a session's machine wants to be called.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kwik_proto::sync::lock;
use tokio::sync::Notify;

/// When the timer fires.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    pub(super) armed: Mutex<Option<Instant>>,
    /// It is told when something is due earlier.
    pub(super) rearm: Notify,
    /// A task keeps the time.
    pub(super) kept: AtomicBool,
}

impl Alarm {
    /// Lets the timer fire at `timeout` if that is earlier.
    pub(super) fn set_earlier(&self, timeout: Option<Instant>) {
        let Some(timeout) = timeout else { return };
        let mut armed = lock(&self.armed);
        if armed.is_none_or(|at| timeout < at) {
            *armed = Some(timeout);
            self.rearm.notify_one();
        }
    }

    /// Has the timer look again.
    pub(super) fn wake(&self) {
        self.rearm.notify_one();
    }
}
