//! One QUIC stream that several writers share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use kwik_proto::ack::{KeptFrames, Lane};
use kwik_proto::stream::Slot;
use kwik_proto::sync::lock;
use kwik_proto::wire::{PacketEncoder, PacketFrame, StreamKind};

use crate::quic::{Connection, Runtime, WriteError};

use super::gate::Gate;
use super::outgoing::Outgoing;
use super::queued::{Keep, Queued, WriterState};

/// Bytes and frames that are gathered at most: about one datagram, so that the peer begins with it
/// while the rest is being written.
const GATHERED: (usize, usize) = (1000, 64);

/// Whether small frames wait for others: until the task has had a turn behind all that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gathering {
    No,
    Begun,
    Turn,
}

/// What became of frames.
pub(super) enum Pushed {
    /// They are with QUIC, or wait.
    Queued,
    /// They wait for a QUIC stream that the peer does not allow now.
    Refused,
    /// They were not taken: the stream has ended, or failed.
    Over(Result<(), WriteError>),
}

/// Frames go to QUIC from the call that brings them while nothing waits; else a task writes them,
/// so that they leave even if nobody calls again. Small ones that follow one within the same turn
/// of the tasks that are ready leave together (5.4). Since a writer may have no more than a
/// packet's worth waiting, the order in which frames came serves all of them in turn.
pub(super) struct PooledStream {
    slot: Slot,
    priority: i32,
    lane: Lane,
    gate: Arc<Gate>,
    inner: Mutex<Inner>,
}

struct Inner {
    out: Outgoing,
    encoder: PacketEncoder,
    queue: VecDeque<Queued>,
    /// It has asked for its turn at the gate.
    waits: bool,
    /// The QUIC stream ends after what is queued.
    retired: bool,
    /// QUIC or the gate held something back, which the task writes.
    blocked: bool,
    gathering: Gathering,
    /// The task runs.
    flushing: bool,
    /// The task, asleep until there is something for it.
    flusher: Option<Waker>,
}

impl PooledStream {
    pub(super) fn new(
        connection: &Connection,
        gate: &Arc<Gate>,
        (slot, priority): (Slot, i32),
        (lane, waits): (Lane, bool),
    ) -> Self {
        let out = Outgoing::new(connection.clone(), StreamKind::Data, priority);
        let inner = Inner {
            out: if waits { out.waiting() } else { out },
            encoder: PacketEncoder::new(),
            queue: VecDeque::new(),
            waits: false,
            retired: false,
            blocked: false,
            gathering: Gathering::No,
            flushing: false,
            flusher: None,
        };
        Self { slot, priority, lane, gate: gate.clone(), inner: inner.into() }
    }

    pub(super) fn slot(&self) -> Slot {
        self.slot
    }

    pub(super) fn priority(&self) -> i32 {
        self.priority
    }

    pub(super) fn lane(&self) -> Lane {
        self.lane
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.inner).out.is_over()
    }

    /// Goes on on another connection, with what the peer may not have: first `others`, which it
    /// takes, then what was written here before. If it is over, that is added to `others`.
    pub(super) fn resume(
        self: &Arc<Self>,
        connection: &Connection,
        others: &mut Vec<(u64, Vec<PacketFrame>)>,
        runtime: &Runtime,
    ) {
        let mut inner = lock(&self.inner);
        let goes_on = inner.out.restart(connection);
        let (own, options) = self.gate.unacknowledged(|lane| lane == self.lane);
        others.extend(own);
        if !goes_on {
            return;
        }
        let Inner { out, encoder, .. } = &mut *inner;
        for (id, frames) in others.drain(..) {
            encoder.encode(id, &frames, options, out.pending());
        }
        // What is pending needs no turn: it would keep others from theirs until QUIC has taken it.
        if std::mem::take(&mut inner.waits) {
            self.gate.leave(self.slot);
        }
        inner.gathering = Gathering::No;
        inner.blocked = true;
        self.run_flusher(&mut inner, runtime);
    }

    /// Takes frames, unless the stream is over.
    pub(super) fn push(
        self: &Arc<Self>,
        frames: &mut dyn Iterator<Item = Queued>,
        runtime: &Runtime,
    ) -> Pushed {
        let mut inner = lock(&self.inner);
        if inner.out.is_over() || inner.retired {
            return Pushed::Over(inner.out.result());
        }
        inner.queue.extend(frames);
        if inner.blocked {
            return Pushed::Queued;
        }
        if inner.out.is_open() && inner.gathers() {
            if inner.gathering != Gathering::No {
                return Pushed::Queued;
            }
            // The first leaves at once: nothing says that others follow.
            inner.gathering = Gathering::Begun;
            self.run_flusher(&mut inner, runtime);
        }
        let drained = inner.poll_drain(self, &mut Context::from_waker(Waker::noop()));
        inner.blocked = drained.is_pending();
        if inner.blocked {
            self.run_flusher(&mut inner, runtime);
        }
        if inner.out.is_opening() { Pushed::Refused } else { Pushed::Queued }
    }

    fn run_flusher(self: &Arc<Self>, inner: &mut Inner, runtime: &Runtime) {
        if let Some(flusher) = &inner.flusher {
            flusher.wake_by_ref();
        } else if !std::mem::replace(&mut inner.flushing, true) {
            let stream = self.clone();
            runtime.spawn(std::future::poll_fn(move |cx| stream.poll_task(cx)));
        }
    }

    /// The task: writes what waits, until the stream is over.
    fn poll_task(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = lock(&self.inner);
        if !inner.flusher.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.flusher = Some(cx.waker().clone());
        }
        if inner.gathering == Gathering::Begun {
            inner.gathering = Gathering::Turn;
            // Comes behind every task that is ready now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        inner.gathering = Gathering::No;
        let drained = inner.poll_drain(self, cx);
        inner.blocked = drained.is_pending();
        ready!(drained);
        if inner.out.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Drops what a writer has waiting.
    pub(super) fn discard(&self, writer: &Arc<WriterState>) {
        let mut inner = lock(&self.inner);
        inner.queue.retain(|queued| {
            let other = !Arc::ptr_eq(&queued.writer, writer);
            if !other {
                queued.writer.on_left(queued.frame.payload.len());
            }
            other
        });
        if inner.queue.is_empty() && std::mem::take(&mut inner.waits) {
            self.gate.leave(self.slot);
            // The task waits there no more: it looks again, at what others push or at the end.
            inner.blocked = false;
            if let Some(flusher) = &inner.flusher {
                flusher.wake_by_ref();
            }
        }
    }

    /// Gives back what waits, while the QUIC stream was not opened; nothing else happens here then.
    pub(super) fn take_refused(&self) -> VecDeque<Queued> {
        let mut inner = lock(&self.inner);
        // On another connection it has to be opened: it repeats what others cannot.
        if !inner.out.is_opening() || !inner.out.pending().is_empty() {
            return VecDeque::new();
        }
        let queue = std::mem::take(&mut inner.queue);
        inner.end(self);
        queue
    }

    /// Ends the QUIC stream once what waits is written.
    pub(super) fn retire(&self) {
        let mut inner = lock(&self.inner);
        inner.retired = true;
        if inner.queue.is_empty() && !inner.blocked && inner.out.pending().is_empty() {
            inner.end(self);
        }
    }

    /// The connection is gone, or of no more use.
    pub(super) fn fail(&self, error: &WriteError) {
        let mut inner = lock(&self.inner);
        inner.out.fail(error.clone());
        inner.fail_queued(self);
    }
}

impl Inner {
    /// What is queued is small enough to wait for more.
    fn gathers(&self) -> bool {
        let (bytes, frames) = GATHERED;
        let queued = self.queue.iter().map(|queued| queued.frame.payload.len());
        self.queue.len() < frames && queued.sum::<usize>() < bytes
    }

    /// Writes what is queued, packet by packet, and the end of the stream if that is due.
    fn poll_drain(&mut self, stream: &PooledStream, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.out.poll_flush(cx));
            if self.out.is_over() {
                self.fail_queued(stream);
                return Poll::Ready(());
            }
            if self.queue.is_empty() {
                if self.retired {
                    self.end(stream);
                }
                return Poll::Ready(());
            }
            self.waits = true;
            ready!(stream.gate.poll_turn(stream.slot, stream.priority, cx));
            self.waits = false;
            self.encode_next(stream);
        }
    }

    /// Puts as many frames into a packet as it holds: at least one.
    fn encode_next(&mut self, stream: &PooledStream) {
        let gate = &stream.gate;
        let (most, batch) = (gate.packet_payload(), gate.batch());
        let (mut frames, mut kept) = (Vec::new(), KeptFrames::default());
        let mut bytes = 0;
        while let Some(next) = self.queue.front() {
            let len = next.frame.payload.len();
            if !frames.is_empty() && (bytes + len > most || frames.len() == batch) {
                break;
            }
            let Some(Queued { frame, kept: keep, writer }) = self.queue.pop_front() else { break };
            bytes += len;
            writer.on_left(len);
            match keep {
                Keep::No => {}
                Keep::Plain => kept.plain.push(frame.clone()),
                Keep::Leased => kept.leased.push(frame.clone()),
            }
            frames.push(frame);
        }
        let (id, options) = gate.on_sent(bytes as u64, kept, stream.lane);
        self.encoder.encode(id, &frames, options, self.out.pending());
    }

    fn end(&mut self, stream: &PooledStream) {
        self.out.end();
        self.on_over(stream);
    }

    fn fail_queued(&mut self, stream: &PooledStream) {
        if let Err(error) = self.out.result() {
            for queued in self.queue.drain(..) {
                queued.writer.fail(&error);
            }
            // Receivers read every data stream to its end: nobody can go on with one that does not.
            if !matches!(error, WriteError::ConnectionLost(_)) {
                let code = kwik_proto::Code::InvalidFrame;
                self.out.connection().close(code.as_u64(), b"a data stream was stopped");
            }
        }
        self.on_over(stream);
    }

    /// Lets the task end.
    fn on_over(&mut self, stream: &PooledStream) {
        if std::mem::take(&mut self.waits) {
            stream.gate.leave(stream.slot);
        }
        if let Some(flusher) = self.flusher.take() {
            flusher.wake();
        }
    }
}
