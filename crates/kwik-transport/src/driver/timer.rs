//! A session's time.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;

use kwik_proto::sync::lock;

use crate::quic::{Figures, Sleep};

use super::shared::AnyShared;

/// Calls the machine whenever something is due, until the session ends.
pub(super) async fn run(shared: &AnyShared) {
    let mut sleep: Option<Sleep> = None;
    loop {
        if shared.close_reason().is_some() {
            return;
        }
        let due = shared.look(|machine| {
            let due = machine.poll_timeout();
            // Under the machine's lock: what falls due earlier through a later input is less
            // than this.
            *lock(&shared.alarm.armed) = due;
            due
        });
        let mut rearmed = pin!(shared.alarm.rearm.notified());
        let Some(due) = due else {
            rearmed.await;
            continue;
        };
        let sleep = match &mut sleep {
            Some(sleep) => {
                sleep.reset(due);
                sleep
            }
            None => sleep.insert(shared.runtime.sleep_until(due)),
        };
        let fired = std::future::poll_fn(|cx| {
            if rearmed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            Pin::new(&mut *sleep).poll(cx).map(|()| true)
        });
        if fired.await {
            on_due(shared);
        }
    }
}

fn on_due(shared: &AnyShared) {
    let (figures, now) = (shared.figures(), shared.runtime.now());
    for (path, Figures { rtt, arrived, .. }) in &figures {
        shared.size_window(*path, *rtt, *arrived, now);
    }
    shared.drive(|machine, now| {
        // A path may look silent only since a lost packet is being repeated.
        for (path, figures) in figures {
            machine.on_figures(path, figures, now);
        }
        machine.handle_timeout(now);
    });
}
