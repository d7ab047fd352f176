//! The edges: their sessions, and applications that write what they are asked for. Some
//! are hostile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kwik_proto::auth::{Identity, RelayVerifier};
use kwik_proto::lease::SharedWriter;
use kwik_proto::session::{
    AcceptContext, Accepted, Action, Machine, SecondarySession, Wake, accept,
};
use kwik_proto::wire::ControlDecoder;
use kwik_proto::wire::control::{self, ControlMessage};
use kwik_proto::{Code, Config, Dir, LeaseId, PathId, SessionId, Side, StreamId, auth};

use crate::client::exporter;
use crate::pipe::{Sink, Toward};
use crate::rng::Rng;
use crate::world::{World, epoch};

/// How an edge breaks the protocol, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hostility {
    /// Writes where nothing was activated.
    Unasked,
    /// Writes into a stream that does not exist.
    UnknownStream,
    /// Says that it sent more than it was asked for.
    FalseStop,
    /// Says what only a primary may say.
    WrongRole,
    /// Sends what no decoder knows.
    Garbage,
}

impl Hostility {
    const ALL: [Self; 5] =
        [Self::Unasked, Self::UnknownStream, Self::FalseStop, Self::WrongRole, Self::Garbage];

    pub(crate) fn code(self) -> Code {
        match self {
            Self::Unasked | Self::UnknownStream => Code::SecondaryStreamIsolation,
            Self::FalseStop => Code::OffsetSyncFailure,
            Self::WrongRole => Code::InvalidStreamRole,
            Self::Garbage => Code::InvalidFrame,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Edge {
    which: usize,
    /// Nobody reaches it before.
    pub(crate) down_until: Instant,
    /// What its last connection knew of relays.
    verifier: Option<RelayVerifier>,
    pub(crate) session: Option<SecondarySession>,
    writers: BTreeMap<u32, SharedWriter>,
    pipes: BTreeMap<LeaseId, u32>,
    /// It writes nothing before.
    pub(crate) stalled_until: Option<Instant>,
    pub(crate) hostility: Option<Hostility>,
    /// It has done its deed and is silent from then on.
    pub(crate) guilty: bool,
    /// Where its forbidden write begins.
    pub(crate) poison: Option<u64>,
    sent: ControlDecoder,
    last: Option<control::Activate>,
}

/// Identities of servers: 0 is the primary.
pub(crate) fn identity(which: usize) -> Arc<Identity> {
    static ALL: OnceLock<Vec<Arc<Identity>>> = OnceLock::new();
    let all =
        ALL.get_or_init(|| (10..15).map(|s| Arc::new(Identity::from_seed([s; 32]))).collect());
    all[which].clone()
}

impl Edge {
    pub(crate) fn new(which: usize, rng: &mut Rng, hostile: u64) -> Self {
        let hostility = rng.chance(hostile).then(|| rng.pick(&Hostility::ALL));
        Self {
            which,
            down_until: epoch(),
            verifier: None,
            session: None,
            writers: BTreeMap::new(),
            pipes: BTreeMap::new(),
            stalled_until: None,
            hostility,
            guilty: false,
            poison: None,
            sent: ControlDecoder::new(),
            last: None,
        }
    }

    pub(crate) fn hang_up(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            session.handle_path_lost(session.path(), "closed by the client", now);
            assert_eq!(session.leases(), 0, "writers left behind");
            self.verifier = Some(session.verifier().clone());
        }
        self.session = None;
        self.writers.clear();
        self.pipes.clear();
        (self.sent, self.last, self.poison) = (ControlDecoder::new(), None, None);
    }
}

impl World {
    pub(crate) fn on_edge_control(&mut self, path: PathId, message: ControlMessage) {
        let (now, wall) = (self.now, self.wall());
        let Some(edge) = self.edges.get_mut(&path) else { return };
        if let ControlMessage::Activate(activate) = &message {
            edge.last = Some(activate.clone());
        }
        if let Some(session) = &mut edge.session {
            session.handle_control(path, message, now);
            return;
        }
        let accepted = accept(
            &message,
            &AcceptContext {
                identity: &identity(edge.which),
                trusted: &BTreeSet::from([identity(0).fingerprint()]),
                authenticator: &auth::AcceptAny,
                settings: &Config::default(),
                exporter: &exporter(path),
                session_id: SessionId([0; 16]),
                now,
                wall,
            },
        );
        match accepted {
            Ok(Accepted::Secondary(mut session)) => {
                if let Some(earlier) = &edge.verifier {
                    session.verifier_mut().take_over(earlier);
                }
                edge.session = Some(*session);
            }
            other => self.fail(&format!("an edge did not accept: {other:?}")),
        }
    }

    pub(crate) fn settle_edges(&mut self) -> bool {
        let mut acted = false;
        let now = self.now;
        for path in self.edges.keys().copied().collect::<Vec<_>>() {
            while let Some(edge) = self.edges.get_mut(&path)
                && let Some(session) = &mut edge.session
            {
                if let Some((_, bytes)) = session.poll_transmit(now) {
                    if !edge.guilty {
                        edge.count(bytes.clone());
                        self.send_control(path, Toward::Client, bytes);
                    }
                } else if let Some(action) = session.poll_action() {
                    self.on_edge_action(path, action);
                } else {
                    break;
                }
                acted = true;
            }
        }
        acted
    }

    fn on_edge_action(&mut self, path: PathId, action: Action) {
        let Some(edge) = self.edges.get_mut(&path) else { return };
        match action {
            Action::Close(code, reason) => {
                let reason = String::from_utf8_lossy(&reason).into_owned();
                self.fail(&format!("an edge closes path {path}: {code:#x} {reason}"));
            }
            Action::Wake(Wake::LeaseOffered) => {
                while let Some(edge) = self.edges.get_mut(&path)
                    && let Some(writer) = edge.session.as_mut().and_then(|s| s.accept_lease())
                {
                    let pipe = self.add_pipe(path, Toward::Client, Sink::data());
                    let lease = writer.lock().unwrap().lease();
                    let edge = self.edges.get_mut(&path).unwrap();
                    edge.pipes.insert(lease, pipe);
                    edge.writers.insert(pipe, writer);
                    self.pump(pipe, Duration::ZERO);
                }
            }
            Action::Wake(Wake::Writer(lease)) => {
                if let Some(pipe) = edge.pipes.get(&lease).copied() {
                    let delay = self.rng.micros(0..=300);
                    self.pump(pipe, delay);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn edge_writes(&mut self, path: PathId, pipe: u32) {
        let Some(edge) = self.edges.get_mut(&path) else { return };
        if edge.guilty {
            return;
        }
        if let Some(until) = edge.stalled_until.filter(|until| *until > self.now) {
            return self.pump(pipe, until - self.now);
        }
        let Some(writer) = edge.writers.get(&pipe).cloned() else { return };
        if let Some(hostility) = edge.hostility
            && self.rng.chance(30)
        {
            return self.sin(path, pipe, hostility, &writer);
        }
        if self.write_piece(&writer, pipe) {
            self.pump(pipe, Duration::ZERO);
        } else if writer.lock().unwrap().is_ended() {
            let Some(edge) = self.edges.get_mut(&path) else { return };
            edge.writers.remove(&pipe);
            let lease = writer.lock().unwrap().lease();
            edge.pipes.remove(&lease);
        }
    }

    fn sin(&mut self, path: PathId, pipe: u32, hostility: Hostility, writer: &SharedWriter) {
        let stream = writer.lock().unwrap().stream();
        let Some(edge) = self.edges.get_mut(&path) else { return };
        match hostility {
            Hostility::Unasked | Hostility::UnknownStream => {
                let at = 1 << 40;
                edge.poison = Some(at);
                let unknown = hostility == Hostility::UnknownStream;
                let fresh = StreamId::new(Side::Server, Dir::Uni, 1 << 20);
                let stream = if unknown { fresh } else { stream };
                self.send_frame(pipe, stream, at, Bytes::from_static(&[0; 100]), false);
            }
            Hostility::FalseStop => {
                let Some(last) = &edge.last else { return };
                let (lease_id, piece_id) = (last.lease_id, last.piece_id);
                let stopped = control::Stopped {
                    lease_id,
                    piece_id,
                    sent_until: last.range.end + 1,
                    ..Default::default()
                };
                self.inject(path, &ControlMessage::Stopped(stopped));
            }
            Hostility::WrongRole => {
                self.inject(path, &ControlMessage::Revoke(control::Revoke::default()));
            }
            Hostility::Garbage => {
                self.send_control(path, Toward::Client, Bytes::from_static(&[3, 0xff, 0xff, 0xff]));
            }
        }
        self.log(|| format!("path {path} turns hostile: {hostility:?}"));
        self.covered.count(format!("{hostility:?}"));
        if let Some(edge) = self.edges.get_mut(&path) {
            edge.guilty = true;
        }
    }

    fn inject(&mut self, path: PathId, message: &ControlMessage) {
        let Some(edge) = self.edges.get(&path) else { return };
        let mut bytes = BytesMut::new();
        control::encode(edge.sent.frames(), message, &mut bytes);
        self.send_control(path, Toward::Client, bytes.freeze());
    }

    /// The edge's application gives up a lease that it writes.
    pub(crate) fn abandon_one(&mut self, path: PathId) {
        let now = self.now;
        let Some(edge) = self.edges.get_mut(&path) else { return };
        let leases: Vec<_> = edge.pipes.keys().copied().collect();
        let Some(session) = edge.session.as_mut().filter(|_| !leases.is_empty()) else { return };
        let lease = self.rng.pick(&leases);
        session.abandon(lease, "tired", now);
        self.log(|| format!("path {path} abandons lease {lease}"));
    }

    /// Takes raw packets as they come.
    pub(crate) fn on_raw(&mut self, path: PathId, packet: &control::RawPacketTransmission) {
        let Some(edge) = self.edges.get_mut(&path) else { return };
        let Some(session) = &mut edge.session else { return };
        if let Err(error) = session.handle_raw(packet) {
            self.fail(&format!("path {path} refuses a raw packet: {error}"));
        }
        session.recv_raw();
    }
}

impl Edge {
    /// Counts the frames that it sent, for the number of a forged one.
    fn count(&mut self, bytes: Bytes) {
        self.sent.handle_input(bytes);
        while let Ok(Some(_)) = self.sent.poll_frame() {}
    }
}
