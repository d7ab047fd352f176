//! Which sends join: the policy of the merging socket, without I/O.

use std::net::{IpAddr, SocketAddr};

use quinn::udp::{EcnCodepoint, Transmit};

/// The most that one send carries: the largest payload of a UDP datagram over IPv4, 44 packets of
/// 1,472 bytes.
pub(super) const MAX_BYTES: usize = 65_507;

/// What becomes of a transmit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Sent alone, past a train for elsewhere: nothing orders different destinations.
    Pass,
    /// Sent alone, behind the train.
    Follow,
    /// Begins a new train, behind the present one.
    Start,
    /// Joins the train, and more is expected.
    Extend,
    /// Joins the train as its last.
    Complete,
}

/// What the datagrams of one send have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    src_ip: Option<IpAddr>,
    segment: usize,
}

impl Head {
    fn new(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            ecn: transmit.ecn,
            src_ip: transmit.src_ip,
            segment: transmit.segment_size.unwrap_or(usize::MAX).min(transmit.contents.len()),
        }
    }
}

/// The datagrams of transmits that leave in one send: all of one size, the last may be shorter.
#[derive(Debug, Default)]
pub(super) struct Train {
    /// Of the datagrams that wait; `None` when none do.
    head: Option<Head>,
    /// What was not sent begins at `sent`.
    buffer: Vec<u8>,
    sent: usize,
    /// Nothing more may join.
    complete: bool,
    /// How many trains began.
    number: u64,
    /// Most datagrams that one transmit has had: as many as the QUIC library puts in one while it
    /// has more to send.
    longest: usize,
}

impl Train {
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Whether nothing more may join.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Differs from train to train.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// What is to be done with `transmit`, where one send takes `max_segments` datagrams.
    pub(super) fn admit(&mut self, transmit: &Transmit<'_>, max_segments: usize) -> Admission {
        let len = transmit.contents.len();
        let next = Head::new(transmit);
        let segments = len.div_ceil(next.segment.max(1));
        self.longest = self.longest.max(segments);
        let room = |bytes: usize, segment: usize| {
            bytes <= MAX_BYTES.min(max_segments.saturating_mul(segment))
        };
        // A transmit that could have been longer, or ends in a short datagram, is the last of what
        // QUIC has to send, or of what its pacer lets through.
        let more = |segment: usize| segments >= self.longest && len.is_multiple_of(segment);

        let Some(head) = self.head else {
            let starts = segments > 1 && more(next.segment) && room(2 * len, next.segment);
            return if starts { Admission::Start } else { Admission::Pass };
        };
        let total = self.buffer.len() + len;
        // A lone datagram may be shorter than the train's: then it is the last.
        let sized = next.segment == head.segment || (segments == 1 && len <= head.segment);
        let same = Head { segment: head.segment, ..next } == head;
        if same && sized && len > 0 && !self.complete && room(total, head.segment) {
            return if more(head.segment) && room(total + len, head.segment) {
                Admission::Extend
            } else {
                Admission::Complete
            };
        }
        if segments > 1 && more(next.segment) && room(2 * len, next.segment) {
            Admission::Start
        } else if next.destination != head.destination {
            Admission::Pass
        } else {
            Admission::Follow
        }
    }

    /// Adds `transmit` as it was admitted: as the first one after [`Admission::Start`], when the
    /// train must be empty, or as the last one after [`Admission::Complete`].
    pub(super) fn push(&mut self, transmit: &Transmit<'_>, admission: Admission) {
        if self.head.is_none() {
            self.head = Some(Head::new(transmit));
            self.number += 1;
            self.buffer.reserve_exact(MAX_BYTES);
        }
        self.buffer.extend_from_slice(transmit.contents);
        self.complete = admission == Admission::Complete;
    }

    /// The next send, of at most `max_segments` datagrams; `None` when all were sent.
    pub(super) fn next(&self, max_segments: usize) -> Option<Transmit<'_>> {
        let head = self.head?;
        let rest = &self.buffer[self.sent..];
        let len = rest.len().min(head.segment.saturating_mul(max_segments.max(1)));
        Some(Transmit {
            destination: head.destination,
            ecn: head.ecn,
            contents: &rest[..len],
            segment_size: (len > head.segment).then_some(head.segment),
            src_ip: head.src_ip,
        })
    }

    /// The first `bytes` of what [`Train::next`] gave are with the kernel, or given up.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.buffer.len() {
            self.clear();
        } else {
            // The rest waits for the kernel: what joined now would wait for it too.
            self.complete = true;
        }
    }

    /// Gives up what was not sent.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.head = None;
        self.sent = 0;
        self.complete = false;
    }
}
