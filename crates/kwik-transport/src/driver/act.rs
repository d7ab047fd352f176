//! Does what a session's machine asks for.

use kwik_proto::Code;
use kwik_proto::session::{Action, Wake};
use kwik_proto::stream::StreamWake;
use kwik_proto::sync::lock;

use crate::quic::ConnectionError;

use super::role::Role;
use super::shared::Shared;

impl<M: Role + ?Sized> Shared<M> {
    pub(super) fn act(&self, action: Action) {
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
                    dialer.dial(shared, *dial);
                }
            }
            Action::Redial(within) => {
                if let (Some(shared), Some(dialer)) = (self.this.upgrade(), &self.dialer) {
                    dialer.redial(shared, within);
                }
            }
        }
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
}
