//! What servers say on their control streams.

use std::time::Instant;

use crate::path::PathState;
use crate::stats::PacketCounts;
use crate::sync::lock;
use crate::wire::control::{AuthenticationResponse, ControlMessage};
use crate::{Code, CodedError, PathId, Side};

use super::super::{SessionEvent, Wake, heartbeat_reply, wrong_role};
use super::ClientSession;
use super::packets::wanted;

impl ClientSession {
    pub(super) fn on_control(
        &mut self,
        path: PathId,
        message: ControlMessage,
        now: Instant,
    ) -> Result<(), CodedError> {
        let Some(state) = self.scheduler.state(path) else { return Ok(()) };
        self.paths.on_active(path, now);
        self.scheduler.on_alive(path, now);
        match (state, message) {
            // The last of a connection that was given up.
            (PathState::Waiting | PathState::Dialing, _) => Ok(()),
            (PathState::Authenticating, ControlMessage::AuthenticationResponse(m)) => {
                self.on_authenticated(path, m, now)
            }
            (PathState::Authenticating, message) => {
                let context = format!("{} before authentication", message.name());
                Err(CodedError::new(Code::InvalidFrame, context))
            }
            (_, message) => self.on_open_control(path, message, now),
        }
    }

    fn on_authenticated(
        &mut self,
        path: PathId,
        m: AuthenticationResponse,
        now: Instant,
    ) -> Result<(), CodedError> {
        let id = m.result.map_err(|why| CodedError::new(Code::AuthFailed, why))?;
        let options = wanted(&self.config).and(m.data);
        let again = self.links.get_mut(&path).is_some_and(|link| {
            link.options = Some(options);
            link.open(now)
        });
        self.scheduler.open_path(path, now);
        if path.is_primary() {
            self.id = Some(id);
            self.streams.handle_limits(&m.limits.unwrap_or_default());
            lock(&self.sent).set_options(options);
            self.note_status(path, "", now);
        } else if again {
            self.tell_status(path, "connected again", now);
        } else {
            self.note_status(path, "", now);
            self.answer_add_path(path, Ok(()), now);
        }
        self.outputs.wake(Wake::Path(path));
        Ok(())
    }

    fn on_open_control(
        &mut self,
        path: PathId,
        message: ControlMessage,
        now: Instant,
    ) -> Result<(), CodedError> {
        match message {
            ControlMessage::Stopped(m) => {
                self.reports.reasons.on_stopped(path, &m);
                self.scheduler.handle_stopped(path, &m, &mut self.streams, now)?;
            }
            ControlMessage::Heartbeat(m) => {
                let link = self.links.get_mut(&path).filter(|_| m.reply);
                if let Some(after) = link.and_then(|link| link.control.answered(m.sequence, now)) {
                    self.outputs.tell(SessionEvent::Answered { path, after });
                }
                if let Some(reply) = heartbeat_reply(&m) {
                    self.send(path, &reply, now);
                }
            }
            ControlMessage::PathReport(m) => {
                if let Some(link) = self.links.get_mut(&path) {
                    link.packets =
                        PacketCounts { sent: m.figures.sent_packets, lost: m.figures.lost_packets };
                    link.health.on_packets(m.figures.sent_packets, m.figures.lost_packets);
                    self.judge(path, now);
                }
            }
            ControlMessage::Unknown(_) => {}
            // A secondary has nothing to receive.
            ControlMessage::Backpressure(_) if !path.is_primary() => {}
            ControlMessage::SessionClose(m) if !path.is_primary() => {
                let reason = String::from_utf8_lossy(&m.reason).into_owned();
                self.end_path(path, &CodedError::new(Code::PathDead, reason), now);
            }
            ControlMessage::OffsetSyncRequest(m) if !path.is_primary() => {
                self.on_offset_sync(path, &m, now);
            }
            message if !path.is_primary() => return Err(wrong_role(&message)),
            ControlMessage::SessionClose(m) => self.outputs.closed_by_peer(m.code, m.reason),
            ControlMessage::Ack(m) => self.on_ack(&m)?,
            ControlMessage::AddPathRequest(m) => self.on_add_path(m, now)?,
            ControlMessage::RemovePathRequest(m) => self.on_remove_path(m, now),
            ControlMessage::PathStatusNotification(m) => self.on_marked_dead(&m, now),
            ControlMessage::RawPacketTransmission(m) => self.on_raw(m, now),
            ControlMessage::Lease(m) => {
                let id = m.stream_id;
                if !id.is_sender(Side::Server) {
                    return Err(CodedError::new(
                        Code::InvalidStreamRole,
                        format!("a lease of {id}"),
                    ));
                }
                let halves = self.streams.touch(id, now)?;
                self.scheduler.handle_lease(m, halves, now)?;
            }
            ControlMessage::Revoke(m) => {
                self.scheduler.handle_revoke(m.lease_id, now);
            }
            message => {
                if !self.streams.handle_control(&message, now)? {
                    return Err(wrong_role(&message));
                }
                if let ControlMessage::StreamReset(m) = message {
                    self.scheduler.on_stream_ended(m.stream_id, &mut self.streams, now);
                }
            }
        }
        Ok(())
    }
}
