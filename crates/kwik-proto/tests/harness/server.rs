//! The primary: its session, and an application that writes, leases and leases again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kwik_proto::auth::{AcceptAny, Identity};
use kwik_proto::lease::{LeaseOutcome, SharedWriter};
use kwik_proto::path::PathStatus;
use kwik_proto::session::{AcceptContext, Accepted, Action, Machine, PrimarySession, Wake, accept};
use kwik_proto::stream::{Read, SharedRecv, SharedSend, StreamWake};
use kwik_proto::wire::control::ControlMessage;
use kwik_proto::{
    Code, CodedError, Config, Dir, LeaseId, LogCursor, PathId, SessionId, Side, StreamId,
};

use crate::client::exporter;
use crate::edge::{Edge, identity};
use crate::pipe::{Sink, Toward};
use crate::scenario::Segment;
use crate::world::{Event, World, content};

/// A stream that the primary's application writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) send: SharedSend,
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) pipe: u32,
    pub(crate) over: bool,
}

/// A client's stream that it reads before it answers.
#[derive(Debug)]
struct Reader {
    recv: SharedRecv,
    at: u64,
}

pub(crate) struct Primary {
    pub(crate) session: Option<PrimarySession>,
    identity: Arc<Identity>,
    config: Config,
    pub(crate) writers: BTreeMap<StreamId, Writer>,
    readers: BTreeMap<StreamId, Reader>,
    /// Leases of its own path, and the pipe of each.
    pub(crate) leases: BTreeMap<u32, SharedWriter>,
    lease_pipes: BTreeMap<LeaseId, u32>,
    /// Paths that the application may lease to.
    pub(crate) usable: BTreeSet<PathId>,
    pub(crate) next_address: u8,
    events: LogCursor,
}

impl Primary {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            session: None,
            identity: identity(0),
            config,
            writers: BTreeMap::new(),
            readers: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_pipes: BTreeMap::new(),
            usable: [PathId::PRIMARY].into(),
            next_address: 1,
            events: LogCursor::default(),
        }
    }

    fn session(&mut self) -> &mut PrimarySession {
        self.session.as_mut().unwrap()
    }
}

impl World {
    pub(crate) fn server(&mut self) -> &mut PrimarySession {
        self.primary.session()
    }

    pub(crate) fn on_primary_control(&mut self, message: ControlMessage) {
        let now = self.now;
        if let Some(session) = &mut self.primary.session {
            return session.handle_control(PathId::PRIMARY, message, now);
        }
        let session = accept(
            &message,
            &AcceptContext {
                identity: &self.primary.identity,
                trusted: &BTreeSet::new(),
                authenticator: &AcceptAny,
                settings: &self.primary.config,
                exporter: &exporter(PathId::PRIMARY),
                session_id: SessionId([9; 16]),
                now,
                wall: self.wall(),
            },
        );
        match session {
            Ok(Accepted::Primary(session)) => self.primary.session = Some(*session),
            other => self.fail(&format!("the primary did not accept: {other:?}")),
        }
    }

    pub(crate) fn settle_primary(&mut self) -> bool {
        let mut acted = false;
        let now = self.now;
        while let Some(session) = &mut self.primary.session {
            if let Some((path, bytes)) = session.poll_transmit(now) {
                self.send_control(path, Toward::Client, bytes);
            } else if let Some(action) = session.poll_action() {
                self.on_primary_action(action);
            } else {
                break;
            }
            acted = true;
        }
        acted
    }

    fn on_primary_action(&mut self, action: Action) {
        match action {
            Action::Close(code, reason) => {
                self.closed = true;
                if !self.plan.session_may_end {
                    let reason = String::from_utf8_lossy(&reason).into_owned();
                    self.fail(&format!("the primary ended the session: {code:#x} {reason}"));
                }
            }
            Action::RenewGrant(path) => {
                let (now, wall) = (self.now, self.wall());
                self.server().renew_grant(path, now, wall);
            }
            Action::Wake(Wake::Path(path)) => {
                self.note_path_events();
                if self.server().paths().is_usable(path) {
                    self.primary.usable.insert(path);
                } else {
                    self.primary.usable.remove(&path);
                }
            }
            Action::Wake(Wake::LeaseEnded(id)) => self.on_lease_ended(id),
            Action::Wake(Wake::Writer(id)) => {
                if let Some(pipe) = self.primary.lease_pipes.get(&id) {
                    self.pump(*pipe, Duration::ZERO);
                }
            }
            Action::Wake(Wake::Stream(wake)) => self.wake_primary(wake),
            Action::Wake(Wake::LeaseOffered | Wake::Raw | Wake::Uncovered | Wake::Acknowledged) => {
            }
            Action::Event(_) => {}
            other => self.fail(&format!("a primary asks for {other:?}")),
        }
    }

    fn note_path_events(&mut self) {
        let Some(session) = &mut self.primary.session else { return };
        while let Some(event) = session.poll_path_event(&mut self.primary.events) {
            let again = event.status == PathStatus::Active && event.reason.contains("again");
            if again || event.status == PathStatus::Degraded {
                self.covered.count(format!("path {}", event.reason));
            }
        }
    }

    fn wake_primary(&mut self, wake: StreamWake) {
        match wake {
            StreamWake::Readable(id) => self.after(Duration::ZERO, Event::Read(Side::Server, id)),
            StreamWake::Writable(id) => {
                if let Some(writer) = self.primary.writers.get(&id) {
                    self.pump(writer.pipe, Duration::ZERO);
                }
            }
            StreamWake::Acceptable(dir) => {
                while let Some(halves) = self.server().streams_mut().accept(dir) {
                    let recv = halves.recv.clone().unwrap();
                    self.primary.readers.insert(halves.id, Reader { recv, at: 0 });
                    self.after(Duration::ZERO, Event::Read(Side::Server, halves.id));
                }
            }
            StreamWake::Openable(_) => {}
        }
    }

    /// Reads what the client sends; the answer begins when that has ended, however it ended.
    pub(crate) fn server_reads(&mut self, id: StreamId) {
        let Some(reader) = self.primary.readers.get_mut(&id) else { return };
        let recv = reader.recv.clone();
        let over = loop {
            let result = recv.lock().unwrap().read(1 << 20);
            match result {
                Ok(Read::Data(data)) => {
                    let end = reader.at + data.len() as u64;
                    if data != content(id, Side::Client, reader.at..end) {
                        self.fail(&format!("{id}: wrong bytes from the client"));
                    }
                    reader.at = end;
                }
                Ok(Read::Blocked) => break false,
                Ok(Read::Finished) => break true,
                Err(_) => break true,
            }
        };
        let at = reader.at;
        let due = recv.lock().unwrap().is_update_due();
        if over {
            self.primary.readers.remove(&id);
            self.check_request(id, at);
            self.start_answer(id);
        }
        if due {
            let now = self.now;
            self.server().on_consumed(id, now);
        }
    }

    fn start_answer(&mut self, id: StreamId) {
        let halves = self.server().streams().halves(id).cloned();
        if let Some(send) = halves.and_then(|halves| halves.send) {
            self.start_server_writer(id, send);
        }
    }

    fn start_server_writer(&mut self, id: StreamId, send: SharedSend) {
        let pipe = self.add_pipe(PathId::PRIMARY, Toward::Client, Sink::data());
        let segments = self.plan.expected[&id].segments.clone();
        let writer = Writer { send, segments, pipe, over: false };
        self.primary.writers.insert(id, writer);
        self.pump(pipe, Duration::ZERO);
    }

    pub(crate) fn server_opens(&mut self, index: usize) {
        let now = self.now;
        let opened =
            self.primary.session.as_mut().and_then(|s| s.streams_mut().open(Dir::Uni, now));
        let Some(halves) = opened else {
            return self.after(Duration::from_millis(5), Event::Open(index));
        };
        self.plan.open_server_stream(index, halves.id);
        self.log(|| format!("the primary opens {}", halves.id));
        self.start_server_writer(halves.id, halves.send.unwrap());
    }

    pub(crate) fn server_writes(&mut self, pipe: u32) {
        if let Some(writer) = self.primary.leases.get(&pipe).cloned() {
            if self.write_piece(&writer, pipe) {
                self.pump(pipe, Duration::ZERO);
            }
            return;
        }
        let found = self.primary.writers.iter().find(|(_, w)| w.pipe == pipe);
        let Some(id) = found.map(|(id, _)| *id) else { return };
        let Some(writer) = self.primary.writers.get_mut(&id).filter(|w| !w.over) else { return };
        let mut send = writer.send.lock().unwrap();
        let step = match writer.segments.front_mut() {
            None => send.finish().map(Step::Fin),
            Some(Segment::Plain(left)) => {
                let want = (*left).min(1 + self.rng.len(64 * 1024 - 1));
                let committed = send.commit(want);
                *left -= committed.as_ref().map_or(0, |range| range.end - range.start);
                if *left == 0 {
                    writer.segments.pop_front();
                }
                committed.map(Step::Plain)
            }
            Some(Segment::Extent(len)) => send.reserve(*len).map(|range| {
                writer.segments.pop_front();
                Step::Extent(range)
            }),
            Some(Segment::Reset) => Ok(Step::Reset),
        };
        drop(send);
        match step {
            Err(_) => writer.over = true,
            Ok(Step::Plain(range)) if range.is_empty() => {}
            Ok(Step::Plain(range)) => {
                let body = content(id, Side::Server, range.clone());
                self.send_frame(pipe, id, range.start, body, false);
                self.pump(pipe, Duration::ZERO);
            }
            Ok(Step::Extent(range)) => {
                self.cover(id, &range);
                self.pump(pipe, Duration::ZERO);
            }
            Ok(Step::Fin(size)) => {
                writer.over = true;
                self.send_frame(pipe, id, size, Bytes::new(), true);
                self.server().streams_mut().retire(id);
            }
            Ok(Step::Reset) => {
                writer.over = true;
                self.server().streams_mut().reset(id, 8);
            }
        }
    }

    /// Writes some of what is activated of a lease. False when nothing is.
    pub(crate) fn write_piece(&mut self, writer: &SharedWriter, pipe: u32) -> bool {
        let random = self.rng.pick(&[64 * 1024, 64 * 1024, 64 * 1024, 10_000, 1]);
        let max = if self.plan.frame > 0 { self.plan.frame } else { random };
        let (range, id) = {
            let mut writer = writer.lock().unwrap();
            let Some((range, _)) = writer.commit(max) else { return false };
            (range, writer.stream())
        };
        let body = content(id, Side::Server, range.clone());
        self.send_frame(pipe, id, range.start, body, false);
        true
    }

    /// Leases all of an extent: to one path or several, whole, split or overlapping.
    fn cover(&mut self, id: StreamId, extent: &Range<u64>) {
        let len = extent.end - extent.start;
        if len == 0 {
            return;
        }
        if self.plan.everyone {
            for path in self.primary.usable.clone().into_iter().filter(|p| !p.is_primary()) {
                self.lease_to(path, id, extent.clone());
            }
            return;
        }
        match self.rng.below(3) {
            0 => {
                for _ in 0..=self.rng.below(3) {
                    self.lease_somewhere(id, extent.clone());
                }
            }
            1 => {
                let parts = 1 + self.rng.below(6.min(len));
                for part in 0..parts {
                    let start = extent.start + len * part / parts;
                    let end = extent.start + len * (part + 1) / parts;
                    self.lease_somewhere(id, start..end);
                }
            }
            _ => {
                let middle = extent.start + self.rng.below(len);
                let early = middle.saturating_sub(self.rng.below(20_000)).max(extent.start);
                self.lease_somewhere(id, early..extent.end);
                let late = (middle + 1 + self.rng.below(20_000)).min(extent.end);
                self.lease_somewhere(id, extent.start..late);
            }
        }
    }

    pub(crate) fn lease_somewhere(&mut self, id: StreamId, range: Range<u64>) {
        let usable: Vec<_> = self.primary.usable.iter().copied().collect();
        let edges = &usable[1.min(usable.len() - 1)..];
        let path = if self.rng.chance(85) { self.rng.pick(edges) } else { PathId::PRIMARY };
        self.lease_to(path, id, range);
    }

    fn lease_to(&mut self, path: PathId, id: StreamId, range: Range<u64>) {
        let now = self.now;
        let result = self.server().lease(id, range.clone(), path, Bytes::from_static(b"x"), now);
        self.log(|| format!("lease {id} {range:?} on path {path}: {result:?}"));
        match result {
            Ok((_, None)) => {}
            Ok((lease, Some(writer))) => {
                let pipe = self.add_pipe(PathId::PRIMARY, Toward::Client, Sink::data());
                self.primary.leases.insert(pipe, writer);
                self.primary.lease_pipes.insert(lease, pipe);
            }
            // Nor is a server that the client isolated leased anything, on whatever path.
            Err(CodedError { code: Code::PathDead | Code::SecondaryStreamIsolation, .. }) => {
                self.after(Duration::from_millis(20), Event::Lease(id, range));
            }
            // The stream is over.
            Err(_) => {}
        }
    }

    fn on_lease_ended(&mut self, lease: LeaseId) {
        let ended = self.server().issued(lease).cloned();
        let Some(ended) = ended.filter(|lease| lease.outcome.is_some()) else {
            self.fail("a lease ended twice");
        };
        self.server().forget(lease);
        if ended.path.is_primary() {
            self.home.own += ended.delivered;
        }
        self.log(|| format!("lease {lease} ended: {ended:?}"));
        if let Some(pipe) = self.primary.lease_pipes.remove(&lease) {
            self.primary.leases.remove(&pipe);
        }
        self.covered.count(match ended.outcome {
            Some(LeaseOutcome::Lost(_)) => "lease Lost",
            Some(LeaseOutcome::Stopped) => "lease Stopped",
            Some(LeaseOutcome::Done) | None => "lease Done",
        });
        let again = self.plan.expected.get(&ended.stream).is_some_and(|e| !e.may_starve);
        if let (Some(LeaseOutcome::Lost(ranges)), true) = (ended.outcome, again) {
            for range in ranges {
                let delay = self.rng.millis(0..=300);
                self.after(delay, Event::Lease(ended.stream, range));
            }
        }
    }

    /// Takes a lease back, after leasing its range to somebody else.
    pub(crate) fn revoke_one(&mut self) {
        let live: Vec<_> = self.server().leases().map(|(id, l)| (id, l.clone())).collect();
        if live.is_empty() {
            return;
        }
        let (id, lease) = self.rng.pick(&live);
        self.lease_somewhere(lease.stream, lease.range);
        let now = self.now;
        self.log(|| format!("revoke lease {id}"));
        self.server().revoke(id, now);
    }

    pub(crate) fn add_edge(&mut self) {
        let (now, wall) = (self.now, self.wall());
        let which = 1 + self.rng.index(4);
        let address = format!("127.0.0.1:{}", 5000 + u16::from(self.primary.next_address));
        self.primary.next_address = self.primary.next_address.wrapping_add(1);
        let print = identity(which).fingerprint();
        if let Ok(path) = self.server().add_path(&address, print, now, wall) {
            let edge = Edge::new(which, &mut self.rng, self.plan.hostility);
            self.log(|| format!("path {path} to {edge:?}"));
            self.edges.insert(path, edge);
        }
    }
}

enum Step {
    Plain(Range<u64>),
    Extent(Range<u64>),
    Fin(u64),
    Reset,
}
