//! Timers in virtual time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use kwik::runtime;

use crate::sim::{Sim, lock};

/// Who is to be woken when an alarm goes off.
pub(crate) type Alarm = Arc<Mutex<Option<Waker>>>;

/// Completes at its deadline.
pub(crate) struct Timer {
    sim: Sim,
    deadline: Instant,
    /// The alarm that is set, and for when. One that goes off early costs a wake, which is cheaper
    /// than one alarm for each time that a deadline is put off.
    armed: Option<(Instant, Alarm)>,
}

impl Timer {
    pub(crate) fn new(sim: Sim, deadline: Instant) -> Self {
        Self { sim, deadline, armed: None }
    }

    fn poll_deadline(&mut self, cx: &Context<'_>) -> Poll<()> {
        let now = self.sim.now();
        if now >= self.deadline {
            return Poll::Ready(());
        }
        let waker = Some(cx.waker().clone());
        match &self.armed {
            Some((at, alarm)) if now < *at && *at <= self.deadline => *lock(alarm) = waker,
            _ => {
                let alarm = Alarm::new(Mutex::new(waker));
                self.sim.set_alarm(self.deadline, alarm.clone());
                self.disarm();
                self.armed = Some((self.deadline, alarm));
            }
        }
        Poll::Pending
    }

    fn disarm(&mut self) {
        if let Some((_, alarm)) = self.armed.take() {
            lock(&alarm).take();
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl runtime::Timer for Timer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = deadline;
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_deadline(cx)
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_deadline(cx)
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
