//! The streams of a session: opening, accepting, limits and credit in both directions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::presentation::{BackpressureReason, MemoryBudget, ReceiveMemory, ReceiveWindow};
use crate::sync::lock;
use crate::wire::control::{ControlMessage, StreamLimits};
use crate::{Code, CodedError, Config, Dir, PathId, Side, StreamId, limits};

use super::watch::Watch;
use super::{RecvHalf, SendHalf, SharedRecv, SharedSend, StreamMetadata};

mod config;
mod control;
mod credit;
mod ending;
mod notices;
mod recovery;
mod watched;

use notices::Notices;

/// Steps that a stream borrows when it opens.
const FIRST_LOAN: u64 = 4;

/// The halves of one stream; which exist follows from its id.
#[derive(Debug, Clone)]
pub struct Halves {
    /// Its id.
    pub id: StreamId,
    /// Our writing half.
    pub send: Option<SharedSend>,
    /// Our reading half.
    pub recv: Option<SharedRecv>,
}

/// Where data of a stream goes.
#[derive(Debug, Clone)]
pub enum Destination {
    /// Into its receiving half.
    Half(SharedRecv),
    /// Nowhere: the stream is over, and what comes for it is drained.
    Over,
    /// Into a stream that is not open yet: [`StreamTable::receiving`] opens it, or refuses to.
    Unopened,
}

#[derive(Debug)]
struct Entry {
    halves: Halves,
    measured: ReadMeasure,
    /// What its allowance may grow to.
    buffer: u64,
    /// The bound of `buffer` that its opener set.
    max_buffer: u64,
    /// Its allowance was given back: only late pieces keep it here.
    released: bool,
    /// The peer opened it, and nobody has accepted it yet: it counts against the peer's limit
    /// whatever has become of it, which bounds the queue.
    unaccepted: bool,
    /// It counts against the peer's limit.
    counts: bool,
}

/// Where the measure of a reader's rate begins.
#[derive(Debug, Clone, Copy)]
struct ReadMeasure {
    /// What the reader had consumed.
    consumed: u64,
    at: Instant,
}

/// What a stream may carry before its sender is told more.
#[derive(Debug, Clone, Copy)]
struct FirstGrants {
    /// Every stream.
    floor: u64,
    /// The very first of each kind that a side opens.
    very_first: u64,
}

/// How many there are, and may be.
#[derive(Debug)]
struct Bounded {
    count: u64,
    most: u64,
}

impl Bounded {
    fn is_full(&self) -> bool {
        self.count >= self.most
    }
}

/// Both directions' counters of one kind of stream.
#[derive(Debug, Default)]
struct Counter {
    next_local: u64,
    max_local: u64,
    /// So many of ours are among the first ([`limits::FIRST_STREAM_DATA`]), as the peer said.
    first_local: u64,
    next_remote: u64,
    max_remote: u64,
    /// The same of the peer's. For those that it has not opened a loan is reserved.
    first_remote: u64,
    /// Of so many of the peer's first all is said that it has to say.
    described: u64,
    accept: VecDeque<Halves>,
}

/// All streams of a session.
#[derive(Debug)]
pub struct StreamTable {
    side: Side,
    streams: BTreeMap<StreamId, Entry>,
    kinds: [Counter; 2],
    window: ReceiveWindow,
    memory: Arc<ReceiveMemory>,
    /// What streams of the peer are granted.
    grants: FirstGrants,
    /// How many of the streams of a kind that the peer opens next may be among the first.
    first_streams: u64,
    config: Config,
    watch: Watch,
    notices: Notices,
    /// When a stream was given up last, as the window was full.
    cleaned_at: Option<Instant>,
    /// Why the peer asks to slow down writing all streams.
    backpressure: Option<BackpressureReason>,
    /// What the peer grants ours.
    peer_grants: FirstGrants,
    /// Our own bidirectional streams whose allowance is still held.
    local_receiving: Bounded,
    outputs: Outputs,
}

/// What its session takes of it.
#[derive(Debug, Default)]
struct Outputs {
    messages: Vec<ControlMessage>,
    wakes: Vec<StreamWake>,
}

/// Streams whose readers, writers, openers or accepters have something to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamWake {
    /// The reader of a stream.
    Readable(StreamId),
    /// The writer of a stream.
    Writable(StreamId),
    /// Whoever accepts streams of a kind.
    Acceptable(Dir),
    /// Whoever waits to open streams of a kind.
    Openable(Dir),
}

impl StreamTable {
    /// No streams yet. A client may open a few before [`StreamTable::handle_limits`] allows more.
    #[must_use]
    pub fn new(side: Side, config: &Config) -> Self {
        let mut kinds = [Counter::default(), Counter::default()];
        for kind in &mut kinds {
            (kind.first_local, kind.first_remote) = (1, config.first_streams());
        }
        if side == Side::Client {
            kinds.iter_mut().for_each(|kind| kind.max_local = limits::FIRST_FLIGHT_STREAMS);
        }
        kinds[Dir::Bi as usize].max_remote = config.max_streams_bidi();
        kinds[Dir::Uni as usize].max_remote = config.max_streams_uni();
        let mut window = ReceiveWindow::new(
            config.initial_window(),
            config.max_window(),
            config.max_receiving(),
        );
        let very_first = config.first_stream_data() - config.floor();
        let others = (config.first_streams() - 1) * config.first_loan();
        window.reserve(2 * (very_first + others));
        Self {
            side,
            streams: BTreeMap::new(),
            kinds,
            window,
            memory: Arc::default(),
            grants: FirstGrants { floor: config.floor(), very_first: config.first_stream_data() },
            first_streams: config.first_streams(),
            config: config.clone(),
            watch: Watch::default(),
            notices: Notices::default(),
            cleaned_at: None,
            backpressure: None,
            peer_grants: FirstGrants {
                floor: limits::FIRST_FLIGHT_DATA,
                very_first: limits::FIRST_STREAM_DATA,
            },
            local_receiving: Bounded { count: 0, most: config.max_streams_bidi() },
            outputs: Outputs::default(),
        }
    }

    /// Counts what is granted against the budget of all sessions of an endpoint.
    pub fn set_budget(&mut self, budget: Arc<MemoryBudget>) {
        self.window.set_budget(budget);
    }

    /// Before any stream is there: where received bytes are.
    pub fn set_memory(&mut self, memory: ReceiveMemory) {
        self.memory = Arc::new(memory);
    }

    /// The peer's limits, as its first frame states them.
    pub fn handle_limits(&mut self, limits: &StreamLimits) {
        for (dir, maximum) in
            [(Dir::Bi, limits.max_streams_bidi), (Dir::Uni, limits.max_streams_uni)]
        {
            let kind = &mut self.kinds[dir as usize];
            kind.max_local = kind.max_local.max(maximum.min(limits::MAX_STREAMS));
            kind.first_local = kind.first_local.max(limits.first_streams);
        }
        let very_first = limits.initial_max_first_stream_data.max(limits::FIRST_STREAM_DATA);
        self.peer_grants = FirstGrants { floor: limits.initial_max_stream_data, very_first };
        self.outputs.wakes.extend([StreamWake::Openable(Dir::Bi), StreamWake::Openable(Dir::Uni)]);
        for (id, entry) in &self.streams {
            if let Some(send) = &entry.halves.send {
                lock(send).on_max_data(self.first_data(*id, self.side, entry.max_buffer));
                self.outputs.wakes.push(StreamWake::Writable(*id));
            }
        }
    }

    /// Opens a stream; none when the peer's limit is reached: wait for [`StreamWake::Openable`].
    pub fn open(&mut self, dir: Dir, now: Instant) -> Option<Halves> {
        self.open_with(dir, &StreamMetadata::default(), now)
    }

    /// Opens a stream of which the peer is told `metadata` (8.5).
    pub fn open_with(
        &mut self,
        dir: Dir,
        metadata: &StreamMetadata,
        now: Instant,
    ) -> Option<Halves> {
        let kind = &mut self.kinds[dir as usize];
        let receives = dir == Dir::Bi;
        if kind.next_local >= kind.max_local || receives && self.local_receiving.is_full() {
            return None;
        }
        let id = StreamId::new(self.side, dir, kind.next_local);
        kind.next_local += 1;
        self.local_receiving.count += u64::from(receives);
        let halves = self.insert(id, metadata.max_buffer(), now);
        if let Some(recv) = &halves.recv {
            lock(recv).set_metadata(metadata);
        }
        if *metadata == StreamMetadata::default() {
            self.notices.on_opened(id);
        } else {
            // What is said of it has to be there before its data.
            self.announce(id, metadata.clone());
        }
        Some(halves)
    }

    /// The next stream that the peer opened.
    pub fn accept(&mut self, dir: Dir) -> Option<Halves> {
        let halves = self.kinds[dir as usize].accept.pop_front()?;
        if let Some(entry) = self.streams.get_mut(&halves.id) {
            entry.unaccepted = false;
        }
        self.retire(halves.id);
        Some(halves)
    }

    fn insert(&mut self, id: StreamId, max_buffer: Option<u64>, now: Instant) -> Halves {
        let max_buffer = max_buffer.unwrap_or(u64::MAX);
        let send = id
            .is_sender(self.side)
            .then(|| SendHalf::new(self.first_data(id, self.side, max_buffer)))
            .map(|send| SharedSend::new(send.into()));
        let recv = id.is_sender(!self.side).then(|| {
            self.window.open(id).expect("max_receiving bounds the receiving halves");
            let reserved = self.first_data(id, !self.side, u64::MAX) - self.grants.floor;
            let granted = self.first_data(id, !self.side, max_buffer);
            self.window.redeem(id, reserved, granted - self.grants.floor);
            let mut recv = RecvHalf::new(id, granted, self.memory.clone());
            recv.set_policy(&self.config);
            SharedRecv::new(recv.into())
        });
        let halves = Halves { id, send, recv };
        let unaccepted = id.initiator() != self.side;
        let entry = Entry {
            halves: halves.clone(),
            measured: ReadMeasure { consumed: 0, at: now },
            buffer: self.config.stream_buffer().min(max_buffer),
            max_buffer,
            released: false,
            unaccepted,
            counts: unaccepted,
        };
        self.streams.insert(id, entry);
        if halves.recv.is_some() {
            self.watch.open(id, now);
            self.notices.hold_credit(id);
            self.grow_allowance(id, FIRST_LOAN * self.config.slide_step());
        }
        halves
    }

    /// What `sender` may send of a stream that is opened now before it is told more: the first few
    /// of a kind more than others, as far as `max_buffer` lets it.
    fn first_data(&self, id: StreamId, sender: Side, max_buffer: u64) -> u64 {
        let kind = &self.kinds[id.dir() as usize];
        let (among, grants) = if sender == self.side {
            (kind.first_local, self.peer_grants)
        } else {
            (kind.first_remote, self.grants)
        };
        let first = match id.index() {
            _ if id.initiator() != sender => 0,
            0 => grants.very_first,
            index if index < among => limits::FIRST_STREAM_DATA,
            _ => 0,
        };
        first.min(max_buffer).max(grants.floor)
    }

    /// The halves of a stream that a peer names; opens it, and those of its kind below, when
    /// unseen. None when the stream is over: what comes for it is drained.
    ///
    /// # Errors
    /// The peer may not open it: over the limit, or one of ours that does not exist.
    pub fn touch(&mut self, id: StreamId, now: Instant) -> Result<Option<Halves>, CodedError> {
        self.touch_with(id, None, now)
    }

    /// The same, where `max_buffer` is what its opener says of it.
    fn touch_with(
        &mut self,
        id: StreamId,
        max_buffer: Option<u64>,
        now: Instant,
    ) -> Result<Option<Halves>, CodedError> {
        if let Some(entry) = self.streams.get(&id) {
            return Ok(Some(entry.halves.clone()));
        }
        let kind = &self.kinds[id.dir() as usize];
        if id.initiator() == self.side {
            if id.index() < kind.next_local {
                return Ok(None);
            }
            let context = format!("{id} was not opened by this side");
            return Err(CodedError::new(Code::InvalidStreamRole, context));
        }
        if id.index() < kind.next_remote {
            return Ok(None);
        }
        if id.index() >= kind.max_remote {
            let context = format!("{id} is beyond the limit of {}", kind.max_remote);
            return Err(CodedError::new(Code::StreamCreateFailed, context));
        }
        for index in kind.next_remote..=id.index() {
            let max_buffer = max_buffer.filter(|_| index == id.index());
            let opened = StreamId::new(id.initiator(), id.dir(), index);
            let halves = self.insert(opened, max_buffer, now);
            let kind = &mut self.kinds[id.dir() as usize];
            kind.next_remote = index + 1;
            kind.accept.push_back(halves);
        }
        self.outputs.wakes.push(StreamWake::Acceptable(id.dir()));
        Ok(self.streams.get(&id).map(|entry| entry.halves.clone()))
    }

    /// The receiving half that data of `path` is for; none when the stream is over: drain it. Only
    /// the primary's path opens streams.
    ///
    /// # Errors
    /// The path may not write there, and is to be closed.
    pub fn receiving(
        &mut self,
        path: PathId,
        id: StreamId,
        now: Instant,
    ) -> Result<Option<SharedRecv>, CodedError> {
        Ok(match self.destination(path, id)? {
            Destination::Half(recv) => Some(recv),
            Destination::Over => None,
            Destination::Unopened => self.touch(id, now)?.and_then(|halves| halves.recv),
        })
    }

    /// What [`Self::receiving`] would find, without opening anything.
    ///
    /// # Errors
    /// The path may not write there, and is to be closed.
    pub fn destination(&self, path: PathId, id: StreamId) -> Result<Destination, CodedError> {
        self.check_role(id, !self.side)?;
        if let Some(entry) = self.streams.get(&id) {
            let recv = entry.halves.recv.clone();
            return Ok(recv.map_or(Destination::Over, Destination::Half));
        }
        let kind = &self.kinds[id.dir() as usize];
        let local = id.initiator() == self.side;
        let next = if local { kind.next_local } else { kind.next_remote };
        if id.index() < next {
            return Ok(Destination::Over);
        }
        if path.is_primary() {
            return Ok(Destination::Unopened);
        }
        let context = format!("path {path} wrote into {id}, which is not open");
        Err(CodedError::new(Code::SecondaryStreamIsolation, context))
    }

    /// The halves of a live stream.
    #[must_use]
    pub fn halves(&self, id: StreamId) -> Option<&Halves> {
        self.streams.get(&id).map(|entry| &entry.halves)
    }

    /// Live streams, oldest of each kind first.
    pub fn iter(&self) -> impl Iterator<Item = &Halves> {
        self.streams.values().map(|entry| &entry.halves)
    }

    /// What the buffers of all receiving halves cost beyond their payload.
    #[must_use]
    pub fn memory(&self) -> &ReceiveMemory {
        &self.memory
    }

    /// The window over all receiving halves.
    #[must_use]
    pub fn window(&self) -> &ReceiveWindow {
        &self.window
    }

    fn check_role(&self, id: StreamId, sender: Side) -> Result<(), CodedError> {
        if id.is_sender(sender) {
            return Ok(());
        }
        let context = format!("{id}: that side does not send on it");
        Err(CodedError::new(Code::InvalidStreamRole, context))
    }

    /// Who has something to look at since the last call.
    pub fn take_wakes(&mut self) -> Vec<StreamWake> {
        std::mem::take(&mut self.outputs.wakes)
    }

    /// Control messages for the peer.
    pub fn take_messages(&mut self, now: Instant) -> Vec<ControlMessage> {
        self.look_at_memory(now);
        self.flush_notices(now);
        std::mem::take(&mut self.outputs.messages)
    }
}
