//! The session's first connection when it is gone: another takes its place, and all goes on.

use kwik_proto::sync::lock;
use kwik_proto::{Code, CodedError};

use crate::quic::{Connection, ConnectionError};

use super::link::PathLink;
use super::role::Role;
use super::shared::Shared;

impl<M: Role + ?Sized> Shared<M> {
    /// A connection of the session's first path is gone. If it was the last, another may take its
    /// place, unless the peer wanted the end.
    pub(super) fn on_home_lost(&self, connection: &Connection, error: ConnectionError) {
        let replacing = lock(&self.home.replacing);
        let home = self.home.path;
        let kept = self.drive(|machine, now| {
            if !self.is_current(home, connection) {
                return None;
            }
            let reason = error.to_string();
            if error.ends_session() {
                self.note_end(machine, now);
                // Before the machine's own reason.
                lock(&self.end.reason).get_or_insert(error);
                let error = CodedError::new(Code::PathDead, reason);
                machine.handle_violation(home, &error, now);
                return None;
            }
            lock(&self.home.gone).get_or_insert_default().error = Some(error);
            lock(&self.paths).remove(&home);
            machine.handle_path_lost(home, &reason, now);
            Some(machine.kept())
        });
        let Some(kept) = kept else { return };
        if let Some(slot) = lock(&self.slot).as_ref() {
            slot.on_lost(kept);
        }
        drop(replacing);
        let gives_way = || lock(&self.slot).as_ref().and_then(|slot| slot.gives_way());
        while let Some(session) = gives_way() {
            session.drive(|machine, now| machine.end_lost(now));
        }
    }

    /// Lets `connection` be the session's first path, once `begin` says so, under the session's
    /// lock; what it had before.
    pub(super) fn replace_home<R, E>(
        &self,
        connection: &Connection,
        link: PathLink,
        begin: impl FnOnce(&mut M, &PathLink) -> Result<R, E>,
    ) -> Result<R, E> {
        let _replacing = lock(&self.home.replacing);
        let (result, former) = self.drive(|machine, _| {
            let result = begin(machine, &link)?;
            *lock(&self.home.connection) = connection.clone();
            Ok((result, lock(&self.paths).insert(self.home.path, link.into())))
        })?;
        let earlier = self.take_former();
        lock(&self.home.gone).take();
        self.slot_resumed();
        if let Some(watch) = self.watch() {
            watch.on_resumed(self.look(|machine| machine.session_id()));
        }
        self.pool.resume(connection);
        for former in former.map(|link| link.connection.clone()).into_iter().chain(earlier) {
            former.close(Code::PathDead.as_u64(), b"replaced by a newer connection");
        }
        Ok(result)
    }

    /// The connection that another has replaced.
    pub(super) fn take_former(&self) -> Option<Connection> {
        lock(&self.home.gone).as_mut().and_then(|gone| gone.former.take())
    }

    fn slot_resumed(&self) {
        if let Some(slot) = lock(&self.slot).as_ref() {
            slot.on_resumed();
        }
    }
}
