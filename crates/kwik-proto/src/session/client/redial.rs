//! Paths that come and go: their health, their loss, and dialing them again (2.6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::ack::ReceivedPackets;
use crate::auth::Fingerprint;
use crate::control::ControlQueue;
use crate::path::{Health, PathInput, PathState};
use crate::stats::PacketCounts;
use crate::wire::DataOptions;
use crate::wire::control::{AddPathRequest, ControlMessage, PathReport};
use crate::{Code, CodedError, PathId, limits};

use super::super::{Action, Dial};
use super::packets::wanted;
use super::{ClientConfig, ClientPath, ClientSession};

/// How to reach a secondary, and what it took so far.
#[derive(Debug)]
pub(super) struct DialTarget {
    address: SocketAddr,
    pin: Fingerprint,
    pub(super) grant: Bytes,
    /// When the grant is worth nothing any more.
    expires: Instant,
    /// When its connection stood last.
    opened: Option<Instant>,
    /// Attempts since it stood for long.
    attempts: u32,
}

impl DialTarget {
    pub(super) fn new(address: SocketAddr, pin: Fingerprint, grant: Bytes, now: Instant) -> Self {
        let expires = now + limits::GRANT_LIFETIME;
        Self { address, pin, grant, expires, opened: None, attempts: 0 }
    }
}

impl ClientPath {
    pub(super) fn new(
        config: &ClientConfig,
        control: ControlQueue,
        deadline: Instant,
        target: Option<DialTarget>,
        now: Instant,
    ) -> Self {
        let (health, packets) = (Health::new(now), PacketCounts::default());
        // Who wants nothing need not wait for the answer.
        let options = Some(DataOptions::default()).filter(|none| wanted(config) == *none);
        let received = ReceivedPackets::new();
        let connected = now;
        Self { control, received, options, deadline, connected, target, health, packets }
    }

    /// Its server's answer takes a round trip, which its connection has measured.
    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        self.deadline = self.deadline.max(self.connected + handshake_time(rtt));
    }

    /// It is authenticated. True when it was before, on another connection.
    pub(super) fn open(&mut self, now: Instant) -> bool {
        self.health = Health::new(now);
        self.packets = Default::default();
        self.target.as_mut().is_some_and(|target| target.opened.replace(now).is_some())
    }

    /// It was authenticated once.
    pub(super) fn was_open(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.opened.is_some())
    }
}

impl ClientSession {
    /// Tells the primary when a path's health has changed.
    pub(super) fn judge(&mut self, path: PathId, now: Instant) {
        let Some(link) = self.links.get_mut(&path) else { return };
        let trouble = link.health.judge(now);
        // Of a death or a recovery it is told when its event comes.
        if self.paths.is_usable(path)
            && self.scheduler.state(path).is_some_and(|s| s.takes_leases())
        {
            self.tell_status(path, trouble.unwrap_or("well again"), now);
        }
    }

    /// Tells the primary how each path does, while any is at work.
    pub(super) fn report_paths(&mut self, now: Instant) {
        if self.scheduler.pieces() == 0 || self.reports.due > now {
            return;
        }
        self.reports.due = now + limits::REPORT_INTERVAL;
        for path in self.links.keys().copied().collect::<Vec<_>>() {
            if let Some(figures) = self.figures(path, now) {
                let report = ControlMessage::PathReport(PathReport { path_id: path, figures });
                self.send(PathId::PRIMARY, &report, now);
            }
        }
    }

    /// A path was silent for so long that its leases are lost. Its connection stays: it may
    /// speak again.
    pub(super) fn on_silent(&mut self, path: PathId, now: Instant) {
        let reason = "silent for too long";
        if self.scheduler.state(path).is_some_and(PathState::is_leaving) {
            self.end_path(path, &CodedError::new(Code::PathDead, reason), now);
        } else {
            self.tell_status(path, reason, now);
        }
    }

    /// A path has no connection any more. One that was a path already is dialed again.
    pub(super) fn lose_path(&mut self, path: PathId, error: &CodedError, now: Instant) {
        let [a, b, c, d, ..] = self.key.fingerprint().0;
        let (report, state) = (self.figures(path, now), self.scheduler.state(path));
        let (Some(link), Some(state)) = (self.links.get_mut(&path), state) else { return };
        if state == PathState::Waiting {
            return;
        }
        if state.is_leaving() || !link.was_open() {
            return self.end_path(path, error, now);
        }
        let Some(target) = &mut link.target else { return };
        let calm = |opened: Instant| now >= opened + limits::REDIAL_CALM;
        if state.is_open() && target.opened.is_some_and(calm) {
            target.attempts = 0;
        }
        target.attempts += 1;
        // The session's key is random, and nobody else's.
        let seed = u32::from_le_bytes([a, b, c, d]) ^ path.0.rotate_left(16);
        link.deadline = now + redial_wait(seed, target.attempts);
        self.disconnect(path, error);
        self.scheduler.lose_path(path, &mut self.streams, now);
        let reason = error.to_string();
        if let Some(status) = self.note_status(path, &reason, now) {
            self.notify(path, status, &reason, report, now);
        }
    }

    /// A handshake has failed, or a lost path is to be dialed.
    pub(super) fn on_late(&mut self, path: PathId, now: Instant) {
        let within = self.dial_time();
        let Some(link) = self.links.get_mut(&path) else { return };
        if self.scheduler.state(path) != Some(PathState::Waiting) {
            let error = CodedError::new(Code::PathDead, "the server did not answer in time");
            if path.is_primary() {
                self.outputs.close_with(&error);
            } else {
                self.lose_path(path, &error, now);
            }
            return;
        }
        let Some(target) = &link.target else { return };
        if target.attempts > limits::MAX_REDIALS || now >= target.expires {
            let error = CodedError::new(Code::PathDead, "it could not be dialed again in time");
            return self.end_path(path, &error, now);
        }
        match self.dialing.limiter.try_dial(now) {
            Err(free) => link.deadline = free,
            Ok(()) => {
                let dial = Dial { path, address: target.address, pin: target.pin, within };
                self.scheduler.on_path(path, PathInput::Dialed);
                link.deadline = now + within;
                self.outputs.actions.push_back(Action::Dial(dial.into()));
            }
        }
    }

    /// How long a connection to a secondary may take to stand. Of its round trip nothing is known;
    /// where that of the primary is long, the client's own link may be why.
    pub(super) fn dial_time(&self) -> Duration {
        let primary = self.scheduler.path(PathId::PRIMARY);
        handshake_time(primary.map_or(Duration::ZERO, |path| path.rtt()))
    }

    /// The primary still wants a path that was joined before: with this grant it can be
    /// dialed again.
    pub(super) fn renew_grant(
        &mut self,
        m: AddPathRequest,
        now: Instant,
    ) -> Result<(), CodedError> {
        let path = m.path_id;
        let same = self.paths.path(path).is_some_and(|info| info.address == m.target_address);
        let target = self.links.get_mut(&path).and_then(|link| link.target.as_mut());
        let Some(target) = target.filter(|target| same && target.pin == m.server_key_hash) else {
            let context = format!("path {path} leads elsewhere");
            return Err(CodedError::new(Code::InvalidFrame, context));
        };
        target.grant = m.grant;
        target.expires = now + limits::GRANT_LIFETIME;
        Ok(())
    }
}

/// How long a handshake, or the answer after it, may take over such a round trip.
fn handshake_time(rtt: Duration) -> Duration {
    let time = rtt * limits::HANDSHAKE_ROUND_TRIPS;
    time.clamp(limits::HANDSHAKE_TIMEOUT, limits::MAX_HANDSHAKE_TIMEOUT)
}

/// Doubled with each attempt, give or take a fifth, so that a server's clients do not all come
/// at once.
fn redial_wait(seed: u32, attempts: u32) -> Duration {
    let wait = limits::REDIAL_FIRST * (1 << (attempts - 1).min(10));
    let wait = wait.min(limits::REDIAL_LAST);
    let share = (seed ^ attempts).wrapping_mul(0x9E37_79B9) >> 16;
    wait * 4 / 5 + wait * share / (5 * 0x8000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_largest_and_differ_between_clients() {
        for attempts in 1..=limits::MAX_REDIALS + 1 {
            let plain = limits::REDIAL_FIRST * (1 << (attempts - 1));
            let plain = plain.min(limits::REDIAL_LAST);
            let waits: Vec<_> = (0..100).map(|seed| redial_wait(seed, attempts)).collect();
            assert!(waits.iter().all(|wait| *wait >= plain * 4 / 5 && *wait <= plain * 6 / 5));
            assert!(waits.iter().max() > waits.iter().min());
        }
    }
}
