//! What a client does about its paths: dial, leave, give up, relay.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::auth::DialLimiter;
use crate::control::ControlQueue;
use crate::path::{PathState, PathStatus};
use crate::wire::clip;
use crate::wire::control::{self, ControlMessage};
use crate::{Code, CodedError, PathId, limits};

use super::super::{Action, Dial, Wake};
use super::redial::DialTarget;
use super::{ClientPath, ClientSession};

/// Where the primary may send this client.
#[derive(Debug)]
pub(super) struct Dialing {
    /// Whence it says so.
    primary: IpAddr,
    pub(super) limiter: DialLimiter,
}

impl Dialing {
    pub(super) fn new(primary: IpAddr) -> Self {
        Self { primary, limiter: DialLimiter::default() }
    }
}

impl ClientSession {
    /// Ends a secondary path for good.
    pub(super) fn end_path(&mut self, path: PathId, error: &CodedError, now: Instant) {
        let Some(link) = self.links.get(&path) else { return };
        let was_open = link.was_open();
        let reason = match error.code {
            Code::NoError => error.context.clone(),
            _ => error.to_string(),
        };
        self.paths.end(path, &reason, now);
        if was_open {
            self.notify(path, PathStatus::Dead, &reason, self.figures(path, now), now);
        } else {
            self.answer_add_path(path, Err(&reason), now);
        }
        self.links.remove(&path);
        self.disconnect(path, error);
        self.scheduler.remove_path(path, &mut self.streams, now);
    }

    /// Lets a path's connection go, and what was said on it.
    pub(super) fn disconnect(&mut self, path: PathId, error: &CodedError) {
        self.outputs.actions.push_back(Action::ClosePath(path, error.clone()));
        self.mappings.end_path(path);
        self.reports.reasons.end_path(path);
    }

    pub(super) fn answer_add_path(&mut self, path: PathId, result: Result<(), &str>, now: Instant) {
        let message = ControlMessage::AddPathResponse(control::AddPathResponse {
            path_id: path,
            result: result.map_err(|why| clip(why).to_owned()),
        });
        self.send(PathId::PRIMARY, &message, now);
        self.outputs.wake(Wake::Path(path));
    }

    pub(super) fn on_add_path(
        &mut self,
        m: control::AddPathRequest,
        now: Instant,
    ) -> Result<(), CodedError> {
        let (path, pin) = (m.path_id, m.server_key_hash);
        if self.links.contains_key(&path) {
            return self.renew_grant(m, now);
        }
        if self.paths.has_ended(path) {
            // A fresh grant crossed the notice of the path's end.
            return Ok(());
        }
        let allowed = self.allow_dial(&m.target_address, now);
        let added = self.paths.insert(path, m.target_address, now);
        match added.and(allowed) {
            Ok(address) => {
                let within = self.dial_time();
                let deadline = now + within;
                let control = ControlQueue::new(now);
                let target = Some(DialTarget::new(address, pin, m.grant, now));
                let link = ClientPath::new(&self.config, control, deadline, target, now);
                self.links.insert(path, link.into());
                self.scheduler.add_path(path, now);
                let dial = Dial { path, address, pin, within };
                self.outputs.actions.push_back(Action::Dial(dial.into()));
            }
            Err(error) if error.code == Code::InvalidFrame => return Err(error),
            Err(error) => {
                self.paths.end(path, &error.to_string(), now);
                self.answer_add_path(path, Err(&error.to_string()), now);
            }
        }
        Ok(())
    }

    fn allow_dial(&mut self, address: &str, now: Instant) -> Result<SocketAddr, CodedError> {
        let refused = |why: String| CodedError::new(Code::PathNotFound, why);
        let address: SocketAddr =
            address.parse().map_err(|_| refused(format!("'{address}' is not IP:port")))?;
        let address = self.config.dial.check(address, self.dialing.primary);
        let address = address.map_err(|error| refused(error.to_string()))?;
        let limited = self.dialing.limiter.try_dial(now);
        limited.map_err(|_| refused("too many dials in a short time".into()))?;
        Ok(address)
    }

    pub(super) fn on_remove_path(&mut self, m: control::RemovePathRequest, now: Instant) {
        let path = m.path_id;
        let Some(state) = self.scheduler.state(path).filter(|_| !path.is_primary()) else {
            let status = self.paths.status(path);
            let why = status.err().map_or("it cannot be removed".into(), |e| e.to_string());
            return self.answer_remove_path(path, Err(&why), now);
        };
        if !state.is_open() || state == PathState::Silent {
            let reason = "removed while it was not connected";
            self.end_path(path, &CodedError::new(Code::PathDead, reason), now);
            return self.answer_remove_path(path, Ok(()), now);
        }
        self.scheduler.drain_path(path);
        self.tell_status(path, "removed by the primary", now);
    }

    pub(super) fn answer_remove_path(
        &mut self,
        path: PathId,
        result: Result<(), &str>,
        now: Instant,
    ) {
        let message = ControlMessage::RemovePathResponse(control::RemovePathResponse {
            path_id: path,
            result: result.map_err(str::to_owned),
        });
        self.send(PathId::PRIMARY, &message, now);
    }

    /// The primary gave a path up.
    pub(super) fn on_marked_dead(&mut self, m: &control::PathStatusNotification, now: Instant) {
        let path = m.path_id;
        if m.status == PathStatus::Dead && !path.is_primary() {
            self.end_path(path, &CodedError::new(Code::PathDead, m.reason.clone()), now);
        }
    }

    pub(super) fn on_raw(&mut self, m: control::RawPacketTransmission, now: Instant) {
        let path = m.target_path_id;
        let allowed = match self.paths.status(path) {
            Err(error) => Err(error.code),
            Ok(_) if path.is_primary() || !self.config.relay_raw => Err(Code::InvalidStreamRole),
            Ok(status) if !status.is_usable() => Err(Code::PathDead),
            Ok(_) if m.data.len() > limits::MAX_RAW_PACKET => Err(Code::PacketTooLarge),
            Ok(_) => Ok(()),
        };
        match allowed {
            Ok(()) => self.outputs.actions.push_back(Action::ForwardRaw(path, m.into())),
            refused => self.on_raw_forwarded(path, m.sequence, refused, now),
        }
    }

    /// What became of [`Action::ForwardRaw`]: the primary is told (6.2).
    pub fn on_raw_forwarded(
        &mut self,
        path: PathId,
        sequence: u64,
        result: Result<(), Code>,
        now: Instant,
    ) {
        let code = result.err().map_or(0, Code::as_u64);
        let report = control::RelayReport { sequence, path_id: path, code };
        self.send(PathId::PRIMARY, &ControlMessage::RelayReport(report), now);
    }
}
