//! A machine under attack: what goes into it, what comes out, and what must hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kwik_proto::session::{Action, Machine};
use kwik_proto::wire::{ControlDecoder, ControlMessage as M, control};
use kwik_proto::{CodedError, PathId};

use crate::messages::Heard;

/// Outputs after one input: an input that brings more about never ends.
const MAX_OUTPUTS: usize = 20_000;

/// See the module.
pub(crate) struct Victim<T> {
    pub(crate) machine: T,
    pub(crate) now: Instant,
    began: Instant,
    /// What its peer encodes, and it decodes, by path.
    to: BTreeMap<PathId, (ControlDecoder, u64)>,
    from: BTreeMap<PathId, ControlDecoder>,
    pub(crate) heard: Heard,
    pub(crate) closed: bool,
    pub(crate) bytes_in: usize,
    pub(crate) bytes_out: usize,
    /// Activations since a byte moved, and when one did.
    asked: (u64, Instant),
}

impl<T: Machine> Victim<T> {
    pub(crate) fn new(machine: T, now: Instant) -> Self {
        Self {
            machine,
            now,
            began: now,
            to: BTreeMap::new(),
            from: BTreeMap::new(),
            heard: Heard::default(),
            closed: false,
            bytes_in: 0,
            bytes_out: 0,
            asked: (0, now),
        }
    }

    /// Seconds since it began, and one more.
    pub(crate) fn seconds(&self) -> usize {
        (self.now - self.began).as_secs() as usize + 1
    }

    /// A path has another connection: frames are numbered anew.
    pub(crate) fn reconnect(&mut self, path: PathId) {
        self.to.remove(&path);
        self.from.remove(&path);
    }

    /// Its peer says something.
    pub(crate) fn say(&mut self, path: PathId, message: &M) {
        if message.check().is_err() {
            // What no decoder takes is for the decoders' own tests.
            return;
        }
        let (decoder, next) = self.to.entry(path).or_insert_with(|| (ControlDecoder::new(), 0));
        let mut encoded = BytesMut::new();
        control::encode(*next, message, &mut encoded);
        *next += 1;
        self.bytes_in += encoded.len();
        decoder.handle_input(encoded.freeze());
        match decoder.poll_frame() {
            Ok(Some(message)) => self.machine.handle_control(path, message, self.now),
            Ok(None) => {}
            Err(error) => {
                let error = CodedError::new(error.code(), error.to_string());
                self.machine.handle_violation(path, &error, self.now);
            }
        }
    }

    /// Time passes, and what is due is done.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        // As a driver would, but not for ever.
        for _ in 0..100 {
            let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.machine.handle_timeout(self.now);
        }
        self.now = end;
        self.machine.handle_timeout(end);
    }

    /// Takes all outputs: the actions, as many as there are.
    pub(crate) fn settle(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for outputs in 0.. {
            assert!(outputs < MAX_OUTPUTS, "an input brings about outputs without end");
            if let Some((path, bytes)) = self.machine.poll_transmit(self.now) {
                self.bytes_out += bytes.len();
                let decoder = self.from.entry(path).or_default();
                decoder.handle_input(bytes);
                while let Some(message) = decoder.poll_frame().expect("frames of ours decode") {
                    self.asked.0 += u64::from(matches!(message, M::Activate(_)));
                    self.heard.note(&message);
                }
            } else if let Some(action) = self.machine.poll_action() {
                self.closed |= matches!(action, Action::Close(..) | Action::ClosedByPeer(..));
                actions.push(action);
            } else {
                break;
            }
        }
        actions
    }

    /// Bytes that were asked for came.
    pub(crate) fn on_moved(&mut self) {
        self.asked = (0, self.now);
    }

    /// What is asked and answered without a byte moving is bounded, by what is there to be asked
    /// and by time.
    pub(crate) fn check_progress(&self, leases: usize) {
        let (asked, since) = self.asked;
        let waited = (self.now - since).as_millis() as u64;
        let most = 64 + 64 * leases as u64 + waited / 32;
        assert!(asked <= most, "{asked} pieces asked for in {waited} ms, and not a byte moved");
    }

    /// What it says is bounded by what it hears, and by time.
    pub(crate) fn check_answers(&self, own: usize) {
        let most = 32 * 1024 + 4 * self.bytes_in + 4 * 1024 * self.seconds() + own;
        let (came, went) = (self.bytes_in, self.bytes_out);
        assert!(went <= most, "{went} bytes of answers to {came} bytes");
    }
}
