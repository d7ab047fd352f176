//! How a session ends.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use kwik_proto::Code;
use kwik_proto::stream::{Delivered, SharedRecv};
use kwik_proto::sync::lock;

use crate::quic::ConnectionError;

use super::home::Ending;
use super::role::Role;
use super::shared::Shared;

/// A session that is over, and what it had come to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: ConnectionError,
    pub(crate) at: Instant,
    /// Payload came, or was acknowledged.
    pub(crate) bore: bool,
    /// What was delivered of streams that were not done with, and was read of them up to now.
    pub(crate) streams: Vec<Delivered>,
}

impl<M: Role + ?Sized> Shared<M> {
    /// Notes why the session is ending; the first reason stays.
    pub(crate) fn on_connection_lost(&self, error: ConnectionError) {
        if self.close_reason().is_none() {
            let now = self.runtime.now();
            self.look(|machine| self.note_end(machine, now));
        }
        lock(&self.end.reason).get_or_insert(error);
        // The reason may have been noted before.
        let is_first = !self.end.told.swap(true, Ordering::Relaxed);
        let slot = lock(&self.slot).take();
        drop(slot);
        if is_first {
            self.tell_end();
        }
    }

    /// Tells who counts that it is over, if it is.
    pub(super) fn tell_end(&self) {
        if let (Some(watch), Some(error)) = (self.watch.get(), self.close_reason()) {
            let now = self.runtime.now();
            let (id, totals) = self.look(|machine| (machine.session_id(), machine.totals(now)));
            watch.on_ended(id, &error, totals.as_ref());
        }
    }

    /// Ends the session at once.
    pub(crate) fn close(&self, code: u64, reason: &[u8]) {
        let farewell = self.look(|machine| machine.farewell());
        self.close_links(code, reason);
        self.on_connection_lost(ConnectionError::LocallyClosed);
        let reason = Bytes::copy_from_slice(reason);
        self.drive(|machine, now| machine.close(code, reason.clone(), now));
        if let (Some(within), Some(shared)) = (farewell, self.this.upgrade())
            && let Some(dialer) = &self.dialer
        {
            dialer.farewell(shared, within, (code, reason));
        }
    }

    /// Waits until the session is over: why.
    pub(crate) async fn closed(&self) -> ConnectionError {
        let ended = self.wait_for::<ConnectionError>(&self.waiters.closed, || None).await;
        ended.unwrap_or_else(|error| error)
    }

    /// The session is about to end, which its application does not know yet.
    pub(super) fn note_end(&self, machine: &M, now: Instant) {
        let (bore, delivered) = (machine.bore(now), machine.delivered());
        let ending = Ending { at: now, bore, delivered };
        lock(&self.home.gone).get_or_insert_default().end.get_or_insert(ending);
    }

    /// Waits until the session is over: how, and what was delivered.
    pub(crate) async fn ended(&self) -> Ended {
        let reason = self.closed().await;
        let (at, bore, delivered) = {
            let gone = lock(&self.home.gone);
            let end = gone.as_ref().and_then(|gone| gone.end.as_ref());
            end.map_or((self.runtime.now(), false, Vec::new()), |end| {
                (end.at, end.bore, end.delivered.clone())
            })
        };
        let as_of_now = |(mut told, half): (Delivered, Option<SharedRecv>)| {
            if let (Some(received), Some(half)) = (&mut told.received, half) {
                let half = lock(&half);
                (received.read, received.consumed) = (half.read_position(), half.consumed());
            }
            told
        };
        let streams = delivered.into_iter().map(as_of_now).collect();
        Ended { reason, at, bore, streams }
    }

    /// The session is being closed, so that whatever connection still comes is too.
    fn note_closing(&self, code: u64, reason: &[u8]) {
        let mut gone = lock(&self.home.gone);
        let closing = &mut gone.get_or_insert_default().closing;
        closing.get_or_insert_with(|| (code, Bytes::copy_from_slice(reason)));
    }

    /// Why a session ends that is ended here: with its connection, if that is gone.
    pub(super) fn end(&self, code: u64, reason: &[u8]) -> ConnectionError {
        match Code::from_u64(code) {
            Some(Code::SessionUnknown) => return ConnectionError::SessionUnknown,
            Some(Code::ServerRestarted) => return ConnectionError::ServerRestarted,
            _ => {}
        }
        let reason = String::from_utf8_lossy(reason).into_owned();
        let lost = lock(&self.home.gone).as_mut().and_then(|gone| gone.error.take());
        lost.unwrap_or(ConnectionError::TransportError { code, reason })
    }

    /// Closes every connection of the session and wakes everybody.
    pub(super) fn close_connections(&self, code: u64, reason: &[u8]) {
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
