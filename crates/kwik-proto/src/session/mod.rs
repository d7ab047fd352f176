//! The three roles of a session as state machines (1.4): a client's, a primary's, a secondary's.
//!
//! A machine only routes. The driver feeds it control messages, losses and time through
//! `handle_*`, tells it of bytes through `on_*`, and after each input takes all outputs:
//! [`Machine::poll_transmit`] until it is dry, then [`Machine::poll_action`] until it is dry,
//! then [`Machine::poll_timeout`].

mod accept;
mod client;
mod event;
mod primary;
mod secondary;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::Fingerprint;
use crate::presentation::BackpressureChange;
use crate::stats::PacketCounts;
use crate::stream::{GapNotice, StreamWake};
use crate::wire::control::{
    ControlMessage, Heartbeat, PathFigures, PathReport, RawPacketTransmission, SessionClose,
};
use crate::{Code, CodedError, LeaseId, PathId, limits};

pub use accept::{AcceptContext, Accepted, accept};
pub use client::{ClientConfig, ClientSession, ResumeAttempt};
pub use event::SessionEvent;
pub use primary::{Blamed, PrimarySession, RelayReport, Uncovered};
pub use secondary::{Mapped, SecondarySession};

/// What a machine asks of its driver.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make a QUIC connection, then call [`ClientSession::handle_connected`].
    Dial(Box<Dial>),
    /// Make another connection to the primary within this time, then call
    /// [`ClientSession::begin_resume`].
    Redial(Duration),
    /// A path that the client lost is still wanted: call [`PrimarySession::renew_grant`].
    RenewGrant(PathId),
    /// Write this on the path's raw stream, then call [`ClientSession::on_raw_forwarded`].
    ForwardRaw(PathId, Box<RawPacketTransmission>),
    /// Close the path's connection once what was transmitted is on its way.
    ClosePath(PathId, CodedError),
    /// The session is over: close every connection with this code and reason.
    Close(u64, Bytes),
    /// The peer ended the session with this code and reason: let every connection go.
    ClosedByPeer(u64, Bytes),
    /// A gap keeps a reader waiting (8.4): say so.
    Gap(GapNotice),
    /// Somebody has something to look at.
    Wake(Wake),
    /// Something happened that who watches the session is told of.
    Event(Box<SessionEvent>),
}

/// Who has something to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wake {
    /// Of streams.
    Stream(StreamWake),
    /// Missing bytes are under no lease: see [`PrimarySession::poll_uncovered`].
    Uncovered,
    /// The path changed its status.
    Path(PathId),
    /// A lease was offered to the application.
    LeaseOffered,
    /// A lease's writer: more was activated, or it ended.
    Writer(LeaseId),
    /// The peer acknowledged packets: [`SentPackets`](crate::ack::SentPackets) has room again, and
    /// less outstanding. Whoever waits for either looks again.
    Acknowledged,
    /// A lease's outcome is known.
    LeaseEnded(LeaseId),
    /// A raw packet came, or a report on one.
    Raw,
    /// A secondary stream is to be stopped: [`ClientSession::secondary_stopped`]; or a secondary
    /// was told where it goes on: [`SecondarySession::take_sync`].
    Secondary,
}

/// What a server's session is worth its slot for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Streams or leases are open.
    pub open: bool,
    /// When payload last moved, or the session began.
    pub moved: Instant,
}

/// A path to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dial {
    /// Its id.
    pub path: PathId,
    /// Where to.
    pub address: SocketAddr,
    /// Who must answer.
    pub pin: Fingerprint,
    /// How long it may take.
    pub within: Duration,
}

/// What the driver needs of every role.
pub trait Machine: Send {
    /// Takes a control message of a path. A protocol violation closes the path, or, on the
    /// primary's, the session.
    fn handle_control(&mut self, path: PathId, message: ControlMessage, now: Instant);
    /// A path broke the protocol on its data plane or in a frame's encoding.
    fn handle_violation(&mut self, path: PathId, error: &CodedError, now: Instant);
    /// A path's connection is gone. That of path 0 may be taken up by another.
    fn handle_path_lost(&mut self, path: PathId, reason: &str, now: Instant);
    /// Does what is due.
    fn handle_timeout(&mut self, now: Instant);
    /// Ends the session; the peers are told.
    fn close(&mut self, code: u64, reason: Bytes, now: Instant);
    /// Control bytes to write, in order per path.
    fn poll_transmit(&mut self, now: Instant) -> Option<(PathId, Bytes)>;
    /// The next thing to do.
    fn poll_action(&mut self) -> Option<Action>;
    /// When [`Machine::handle_timeout`] is due.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// Outputs that every role has.
#[derive(Debug, Default)]
struct Outputs {
    actions: VecDeque<Action>,
    /// The session is over; nothing more is done.
    closed: bool,
}

impl Outputs {
    fn take_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if self.actions.is_empty() {
            // An empty queue would keep room for several.
            self.actions = VecDeque::new();
        }
        action
    }

    fn wake(&mut self, wake: Wake) {
        let action = Action::Wake(wake);
        if self.actions.back() != Some(&action) {
            self.actions.push_back(action);
        }
    }

    fn tell(&mut self, event: SessionEvent) {
        self.actions.push_back(Action::Event(event.into()));
    }

    /// Tells of what a message to the peer says.
    fn tell_of(&mut self, message: &ControlMessage) {
        match message {
            ControlMessage::Backpressure(m) => {
                let change = BackpressureChange { stream: m.stream_id, reason: m.reason };
                self.tell(SessionEvent::Backpressure(change));
            }
            ControlMessage::LeaseReport(m) => {
                self.tell(SessionEvent::Lease { of: None, outcome: m.outcome });
            }
            _ => {}
        }
    }

    fn close(&mut self, code: u64, reason: Bytes) {
        if !std::mem::replace(&mut self.closed, true) {
            self.actions.push_back(Action::Close(code, reason));
        }
    }

    fn closed_by_peer(&mut self, code: u64, reason: Bytes) {
        if !std::mem::replace(&mut self.closed, true) {
            self.actions.push_back(Action::ClosedByPeer(code, reason));
        }
    }

    fn close_with(&mut self, error: &CodedError) {
        self.close(error.code.as_u64(), error.to_string().into());
    }
}

/// A message that its sender's role may not send (1.4).
fn wrong_role(message: &ControlMessage) -> CodedError {
    let context = format!("{} from this role", message.name());
    CodedError::new(Code::InvalidStreamRole, context)
}

/// The end of a session, with as much of the reason as a message may carry.
fn session_close(code: u64, reason: &Bytes) -> ControlMessage {
    let reason = reason.slice(..reason.len().min(limits::MAX_TEXT));
    ControlMessage::SessionClose(SessionClose { code: code.min(limits::MAX_OFFSET), reason })
}

/// What a server sent over a path, and what of that was lost: behind its answer to a heartbeat.
fn packet_report(path: PathId, packets: PacketCounts) -> ControlMessage {
    let figures = PathFigures {
        sent_packets: packets.sent,
        lost_packets: packets.lost,
        ..PathFigures::default()
    };
    ControlMessage::PathReport(PathReport { path_id: path, figures })
}

/// The answer to a heartbeat that asks for one.
fn heartbeat_reply(beat: &Heartbeat) -> Option<ControlMessage> {
    let reply = Heartbeat { sequence: beat.sequence, reply: true };
    (!beat.reply).then_some(ControlMessage::Heartbeat(reply))
}
