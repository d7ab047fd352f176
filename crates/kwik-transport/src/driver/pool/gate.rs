//! When the next packet may leave, and how much it holds (4.4).

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use kwik_proto::ack::{KeptFrames, Lane, SharedSent};
use kwik_proto::stream::{Priority, Slot};
use kwik_proto::sync::lock;
use kwik_proto::wire::{DataOptions, PacketFrame};
use kwik_proto::{Config, limits};

/// Packets are at most this part of QUIC's send window, so that one cannot fill what the gate
/// leaves free.
const WINDOW_SHARE: u64 = 16;

/// Bytes that may wait for acknowledgement beyond what QUIC has in flight: twice what one
/// acknowledgement tells of, as QUIC in slow start sends two bytes for each that arrives, and a
/// packet that is under way at either end. With a small congestion window it stays within the least
/// window that a receiver gives QUIC ([`limits::CONNECTION_WINDOW`]).
const AHEAD: u64 = 2 * (limits::ACK_BYTES + limits::MAX_PACKET_PAYLOAD as u64);

/// Bytes that may wait for acknowledgement with this congestion window, and as much as that while
/// QUIC repeats what was lost, less an eighth, since the peer's window is no larger.
fn most_outstanding((congestion_window, while_repeating): (u64, u64)) -> u64 {
    (while_repeating - while_repeating / 8).max(congestion_window + AHEAD)
}

/// One part in this many of QUIC's send window is left to control frames by what is critical. What
/// waits for acknowledgement is kept, so this bounds memory too, whatever a peer grants.
const CONTROL_SHARE: u64 = 32;
/// What is high goes so far beyond what is normal: a packet that has just fitted, and one more. The
/// rest of the peer's window is left to what is critical.
const ROOM: u64 = 2 * limits::MAX_PACKET_PAYLOAD as u64;
/// The same for what is critical and for control frames, by what has high priority.
const HIGH_SHARE: u64 = 16;

/// Numbers the packets of one connection, and holds those back that are not critical while so much
/// is not acknowledged that QUIC's windows are nearly full, its own or the peer's: what is more
/// urgent finds room there, and so do control frames, but for moments in which the peer's window
/// follows a sender in slow start. Of those that wait, the higher priority goes first: what QUIC
/// has taken already leaves in that order too, so that what is low never fills it.
pub(super) struct Gate {
    sent: SharedSent,
    send_window: u64,
    max_outstanding: AtomicU64,
    /// The same, by what QUIC makes of the path.
    most_in_quic: AtomicU64,
    batch: AtomicUsize,
    /// QUIC streams with a packet to send, by falling priority, then in the order in which
    /// they came.
    waiting: Mutex<VecDeque<Waiting>>,
}

struct Waiting {
    slot: Slot,
    priority: i32,
    waker: Waker,
}

impl Gate {
    pub(super) fn new(sent: SharedSent, send_window: u64, config: &Config) -> Self {
        let gate = Self {
            sent,
            send_window,
            max_outstanding: AtomicU64::new(0),
            most_in_quic: AtomicU64::new(AHEAD),
            batch: AtomicUsize::new(0),
            waiting: Mutex::default(),
        };
        gate.configure(config);
        gate
    }

    pub(super) fn configure(&self, config: &Config) {
        // An eighth for what is urgent, of which a packet that has just fitted takes half at the
        // most.
        let most = self.send_window - self.send_window / 8;
        self.max_outstanding.store(config.max_unacked().min(most), Relaxed);
        self.batch.store(config.batch_size(), Relaxed);
        self.wake_first();
    }

    /// Payload of a packet, in bytes: large ones cost the least CPU.
    pub(super) fn packet_payload(&self) -> usize {
        let share = usize::try_from(self.send_window / WINDOW_SHARE).unwrap_or(usize::MAX);
        share.clamp(limits::MIN_SLICE, limits::MAX_PACKET_PAYLOAD)
    }

    /// Frames of a packet.
    pub(super) fn batch(&self) -> usize {
        self.batch.load(Relaxed)
    }

    /// Waits for its turn to send one packet, behind those of a higher priority and those of its
    /// own that came before.
    pub(super) fn poll_turn(&self, slot: Slot, priority: i32, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = lock(&self.waiting);
        let at = waiting.iter().position(|waits| waits.slot == slot);
        let ahead = at.unwrap_or_else(|| waiting.partition_point(|w| w.priority >= priority));
        if ahead == 0 && self.has_room(priority) {
            at.and_then(|at| waiting.remove(at));
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        match at.and_then(|at| waiting.get_mut(at)) {
            Some(waits) => waits.waker = waker,
            None => waiting.insert(ahead, Waiting { slot, priority, waker }),
        }
        Poll::Pending
    }

    /// Gives a turn up.
    pub(super) fn leave(&self, slot: Slot) {
        lock(&self.waiting).retain(|waits| waits.slot != slot);
        self.wake_first();
    }

    fn has_room(&self, priority: i32) -> bool {
        let sent = lock(&self.sent);
        let in_quic = self.most_in_quic.load(Relaxed);
        // Each leaves room to what is more urgent.
        let most = if priority > Priority::High.into() {
            self.send_window - self.send_window / CONTROL_SHARE
        } else if priority > Priority::Normal.into() {
            (self.send_window - self.send_window / HIGH_SHARE).min(in_quic + ROOM)
        } else {
            self.max_outstanding.load(Relaxed).min(in_quic)
        };
        sent.has_room() && sent.outstanding() < most
    }

    /// A packet with these frames leaves: its id, and how it is to be encoded.
    pub(super) fn on_sent(&self, bytes: u64, kept: KeptFrames, lane: Lane) -> (u64, DataOptions) {
        let sent = {
            let mut sent = lock(&self.sent);
            (sent.on_sent(bytes, kept, lane), sent.options())
        };
        self.wake_first();
        sent
    }

    /// The packets of some lanes that are not acknowledged, and how they are to be encoded.
    pub(super) fn unacknowledged(
        &self,
        wanted: impl Fn(Lane) -> bool,
    ) -> (Vec<(u64, Vec<PacketFrame>)>, DataOptions) {
        let sent = lock(&self.sent);
        (sent.unacknowledged(wanted), sent.options())
    }

    /// What is acknowledged leaves room for more: QUIC's congestion window, and how much may wait
    /// while it repeats what was lost, both in bytes.
    pub(super) fn on_acknowledged(&self, path: (u64, u64)) {
        self.most_in_quic.store(most_outstanding(path), Relaxed);
        self.wake_first();
    }

    /// Lets the first of those who wait look whether there is room; it stays the first until it has
    /// sent.
    fn wake_first(&self) {
        let waiting = lock(&self.waiting);
        if let Some(first) = waiting.front().filter(|first| self.has_room(first.priority)) {
            first.waker.wake_by_ref();
        }
    }
}
