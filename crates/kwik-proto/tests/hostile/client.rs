//! A client against a hostile primary and hostile edges.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::auth::Identity;
use kwik_proto::session::{Action, ClientConfig, ClientSession, Machine};
use kwik_proto::stream::{Read, ReceivedBytes, SharedRecv};
use kwik_proto::wire::ControlMessage as M;
use kwik_proto::wire::control::{
    AddPathRequest, AuthenticationResponse, Heartbeat, Lease, MaxStreams, PathFigures, PathReport,
    RawPacketTransmission, RemovePathRequest, Revoke, Stopped, StreamCreateNotification,
    StreamLimits,
};
use kwik_proto::{Dir, LeaseId, PathId, SessionId, Side, StreamId};

use crate::choices::Choices;
use crate::messages::{self, add_path, stopped};
use crate::victim::Victim;

struct Game<'a, 'b> {
    victim: Victim<ClientSession>,
    choices: &'a mut Choices<'b>,
    readers: Vec<(StreamId, SharedRecv)>,
    /// Paths that are dialed, and those that stand.
    dialed: BTreeSet<PathId>,
    open: BTreeSet<PathId>,
    leases: u64,
    paths: u32,
    /// Its edges return every piece at once, and bring nothing.
    returning: bool,
}

/// Plays until the session ends, or for so many steps: how many there were.
pub(crate) fn play(choices: &mut Choices<'_>, steps: usize, now: Instant) -> usize {
    play_against(choices, steps, now, false)
}

/// The same against edges that return every piece at once.
pub(crate) fn play_returning(choices: &mut Choices<'_>, steps: usize, now: Instant) -> usize {
    play_against(choices, steps, now, true)
}

/// A lease of an edge that returns every piece: how many pieces it was asked for until its lease
/// was lost, or within a minute.
pub(crate) fn asked_until_lost(now: Instant) -> Option<usize> {
    let (mut choices, path) = (Choices::Seed(1), PathId(1));
    let mut game = Game::new(&mut choices, now, true);
    game.victim.say(PathId::PRIMARY, &welcome());
    let request = AddPathRequest {
        target_address: "127.0.0.1:2".into(),
        path_id: path,
        ..add_path(game.choices)
    };
    game.victim.say(PathId::PRIMARY, &M::AddPathRequest(request));
    game.settle();
    assert!(game.victim.machine.handle_connected(path, &[0; 32], now), "it was dialed");
    game.settle();
    game.victim.say(path, &welcome());
    let lease = Lease {
        lease_id: LeaseId(1),
        stream_id: StreamId::new(Side::Server, Dir::Uni, 0),
        range: 0..300_000,
        path_id: path,
        sequence: 1,
        max_bytes: 600_000,
        command: Bytes::from_static(b"command"),
        signature: None,
        unasked: 0,
    };
    game.victim.heard.note(&M::Lease(lease.clone()));
    game.victim.say(PathId::PRIMARY, &M::Lease(lease));
    game.settle();
    let mut asked = 0;
    for _ in 0..6_000 {
        asked += game.victim.heard.activations.len();
        game.return_pieces();
        if game.victim.machine.stats(game.victim.now).leases == 0 {
            return Some(asked);
        }
        assert!(!game.victim.closed, "it breaks no rule");
        game.victim.pass(Duration::from_millis(10));
        game.settle();
    }
    None
}

fn play_against(choices: &mut Choices<'_>, steps: usize, now: Instant, returning: bool) -> usize {
    let mut game = Game::new(choices, now, returning);
    if game.choices.chance(95) {
        game.victim.say(PathId::PRIMARY, &welcome());
    }
    for step in 0..steps {
        if game.victim.closed || game.choices.is_empty() {
            return step;
        }
        game.step();
        game.settle();
        if game.returning {
            game.return_pieces();
        }
        let live = game.victim.machine.stats(game.victim.now).leases;
        game.victim.check_progress(live);
    }
    steps
}

fn welcome() -> M {
    M::AuthenticationResponse(AuthenticationResponse {
        result: Ok(SessionId(5u128.to_be_bytes())),
        limits: Some(StreamLimits {
            max_streams_bidi: 10,
            max_streams_uni: 10,
            initial_max_stream_data: 100_000,
            ..<_>::default()
        }),
        data: <_>::default(),
    })
}

impl<'a, 'b> Game<'a, 'b> {
    fn new(choices: &'a mut Choices<'b>, now: Instant, returning: bool) -> Self {
        let primary = SocketAddr::from(([127, 0, 0, 1], 1));
        let key = Identity::from_seed([1; 32]);
        let machine = ClientSession::new(ClientConfig::default(), key, primary, now);
        let mut game = Self {
            victim: Victim::new(machine, now),
            choices,
            readers: Vec::new(),
            dialed: BTreeSet::new(),
            open: BTreeSet::new(),
            leases: 0,
            paths: 1,
            returning,
        };
        game.settle();
        game
    }

    fn step(&mut self) {
        match self.choices.below(32) {
            0..8 => {
                let message = self.of_primary();
                self.victim.say(PathId::PRIMARY, &message);
            }
            8..14 => self.edge_answers(),
            14..20 => self.bring(),
            20 => self.data(),
            21..24 => self.read(),
            24 => drop(self.victim.machine.streams_mut().open(Dir::Bi, self.victim.now)),
            25 => self.connect(),
            26 if self.choices.chance(50) => self.cut(),
            27 if self.choices.chance(10) => {
                let message = messages::any(self.choices, &self.victim.heard);
                let path = self.path();
                self.victim.say(path, &message);
            }
            _ => {
                let time = self.choices.time();
                self.victim.pass(time);
            }
        }
    }

    fn path(&mut self) -> PathId {
        let open: Vec<_> = self.open.iter().copied().collect();
        self.choices.pick(&open).unwrap_or(PathId::PRIMARY)
    }

    /// What a primary may say, most often as it should be.
    fn of_primary(&mut self) -> M {
        let stream_id = StreamId::new(Side::Server, Dir::Uni, self.choices.below(4));
        match self.choices.below(16) {
            0..6 => {
                let start = self.choices.below(64) * 10_000;
                let len = 1 + self.choices.below(300_000);
                self.leases += 1;
                let path_id = self.path();
                // Of its own leases, some leaves unasked, or that is all it says.
                let most = if path_id.is_primary() { len + 1 } else { 1 };
                let unasked = self.choices.below(most);
                let lease = Lease {
                    lease_id: LeaseId(self.leases - u64::from(self.choices.chance(1))),
                    stream_id,
                    range: start..start + len,
                    path_id,
                    sequence: self.leases,
                    max_bytes: len * 2,
                    command: Bytes::from_static(b"command"),
                    signature: None,
                    unasked,
                };
                self.victim.heard.note(&M::Lease(lease.clone()));
                M::Lease(lease)
            }
            6 | 7 => {
                let known = AddPathRequest {
                    target_address: "127.0.0.1:2".into(),
                    path_id: PathId((self.paths - u32::from(self.choices.chance(20))).max(1)),
                    ..add_path(self.choices)
                };
                self.paths = self.paths.max(known.path_id.0 + 1);
                M::AddPathRequest(if self.choices.chance(99) {
                    known
                } else {
                    add_path(self.choices)
                })
            }
            8 => M::Revoke(Revoke { lease_id: LeaseId(self.choices.below(self.leases + 1)) }),
            9 => M::RemovePathRequest(RemovePathRequest { path_id: self.path() }),
            10 => M::StreamCreateNotification(StreamCreateNotification {
                stream_id,
                ..<_>::default()
            }),
            11 => M::MaxStreams(MaxStreams {
                dir: Dir::Bi,
                maximum: self.choices.below(200),
                first_streams: 0,
            }),
            12 => M::RawPacketTransmission(RawPacketTransmission {
                data: Bytes::from_static(b"raw"),
                target_path_id: self.path(),
                sequence: self.leases,
                ..<_>::default()
            }),
            13 => {
                let figures = PathFigures { lost_packets: 5, sent_packets: 9, ..<_>::default() };
                M::PathReport(PathReport { path_id: PathId::PRIMARY, figures })
            }
            _ => M::Heartbeat(Heartbeat { sequence: 1, reply: self.choices.chance(50) }),
        }
    }

    fn edge_answers(&mut self) {
        let path = self.path();
        let message = match self.choices.below(4) {
            // Those that return pieces have answered each already.
            0..3 if !self.returning => stopped(self.choices, &self.victim.heard),
            _ => M::Heartbeat(Heartbeat { sequence: 1, reply: true }),
        };
        self.victim.say(path, &message);
    }

    /// Edges give back what they are asked for.
    fn return_pieces(&mut self) {
        for _ in 0..4 {
            for asked in std::mem::take(&mut self.victim.heard.activations) {
                let lease = self.victim.heard.leases.iter();
                let lease = lease.rev().find(|lease| lease.lease_id == asked.lease_id);
                let Some(path) = lease.map(|lease| lease.path_id) else { continue };
                if path.is_primary() {
                    continue;
                }
                let stopped = Stopped {
                    lease_id: asked.lease_id,
                    piece_id: asked.piece_id,
                    sent_until: asked.range.start,
                    ..<_>::default()
                };
                self.victim.say(path, &M::Stopped(stopped));
            }
            self.settle();
        }
    }

    /// Brings what was asked for, or a part, or what was not.
    fn bring(&mut self) {
        let Some(asked) = self.choices.pick(&self.victim.heard.activations) else { return };
        let lease = self.victim.heard.leases.iter().find(|lease| lease.lease_id == asked.lease_id);
        let Some((stream, mut path)) = lease.map(|lease| (lease.stream_id, lease.path_id)) else {
            return;
        };
        let (mut offset, mut len) =
            (asked.range.start, (asked.range.end - asked.range.start).min(70_000));
        match self.choices.below(400) {
            0 => offset = self.choices.number(),
            1 => path = self.path(),
            2 => len += 1,
            3..120 => len = self.choices.below(len + 1),
            _ => {}
        }
        self.receive(path, stream, offset, len);
    }

    fn data(&mut self) {
        let stream = StreamId::new(Side::Server, Dir::Uni, self.choices.below(4));
        let (offset, len) = (self.choices.below(5_000), self.choices.below(2_000));
        self.receive(PathId::PRIMARY, stream, offset, len);
    }

    fn receive(&mut self, path: PathId, stream: StreamId, offset: u64, len: u64) {
        let now = self.victim.now;
        let machine = &mut self.victim.machine;
        let result = machine.streams_mut().receiving(path, stream, now);
        let received = match result {
            Ok(None) => return,
            Ok(Some(recv)) => {
                let data = Bytes::from(vec![7; len.min(70_000) as usize]);
                recv.lock().expect("nobody panics").receive(path, offset, data)
            }
            Err(error) => Err(error),
        };
        match received {
            Ok(received) => {
                let mut bytes = ReceivedBytes::default();
                bytes.note(len, received);
                machine.on_received(path, stream, bytes, now);
                if len > 0 {
                    self.victim.on_moved();
                }
            }
            Err(error) => machine.handle_violation(path, &error, now),
        }
    }

    fn read(&mut self) {
        let now = self.victim.now;
        while let Some(halves) = self.victim.machine.streams_mut().accept(Dir::Uni) {
            self.readers.extend(halves.recv.map(|recv| (halves.id, recv)));
        }
        for (id, recv) in &self.readers {
            let mut due = false;
            for _ in 0..8 {
                let mut recv = recv.lock().expect("nobody panics");
                let more = matches!(recv.read(100_000), Ok(Read::Data(_)));
                due |= recv.is_update_due();
                if !more {
                    break;
                }
            }
            if due {
                self.victim.machine.on_consumed(*id, now);
            }
        }
        if self.choices.chance(3)
            && let Some((id, _)) = self.readers.pop()
        {
            self.victim.machine.stop(id, 7, now);
        }
    }

    fn connect(&mut self) {
        let Some(path) = self.dialed.pop_first() else { return };
        self.victim.reconnect(path);
        if !self.victim.machine.handle_connected(path, &[0; 32], self.victim.now) {
            return;
        }
        self.settle();
        if self.choices.chance(90) {
            self.victim.say(path, &welcome());
            self.open.insert(path);
        }
    }

    fn cut(&mut self) {
        let path = self.path();
        if !path.is_primary() {
            self.open.remove(&path);
            self.victim.machine.handle_path_lost(path, "cut", self.victim.now);
        }
    }

    fn settle(&mut self) {
        for action in self.victim.settle() {
            match action {
                Action::Dial(dial) => drop(self.dialed.insert(dial.path)),
                Action::ClosePath(path, _) => {
                    self.open.remove(&path);
                    self.dialed.remove(&path);
                }
                Action::ForwardRaw(path, packet) => {
                    let now = self.victim.now;
                    self.victim.machine.on_raw_forwarded(path, packet.sequence, Ok(()), now);
                }
                _ => {}
            }
        }
    }
}
