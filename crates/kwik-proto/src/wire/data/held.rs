//! What keeps a packet back until it is whole, so that nothing of it is read before its
//! checksum held.

use bytes::{Buf, Bytes};

/// The CRC32C of a message up to the fields that are being read, without a look at each.
#[derive(Debug, Default)]
pub(super) struct RunningSum {
    sum: u32,
    /// The message from where the sum ends.
    behind: Bytes,
}

impl RunningSum {
    pub(super) fn begin(&mut self, message: &Bytes) {
        *self = Self { sum: 0, behind: message.clone() };
    }

    /// The sum up to where `left` bytes of the message are left.
    pub(super) fn up_to(&mut self, left: usize) -> u32 {
        let taken = self.behind.len() - left;
        self.sum = crc32c::crc32c_append(self.sum, &self.behind[..taken]);
        self.behind.advance(taken);
        self.sum
    }
}

/// A message of which a part has come: a copy, since slices would pin the receive buffers that they
/// are in, for as long as the peer likes.
#[derive(Debug, Default)]
pub(super) struct HeldMessage(Vec<u8>);

impl HeldMessage {
    /// Takes of `input` what a message of `len` bytes lacks: the message, once it is whole. One
    /// that came in one slice is not copied.
    pub(super) fn take(&mut self, input: &mut Bytes, len: usize) -> Option<Bytes> {
        if self.0.is_empty() && input.len() >= len {
            return Some(input.split_to(len));
        }
        let missing = len - self.0.len();
        if !input.is_empty() {
            self.0.reserve_exact(missing);
        }
        self.0.extend_from_slice(&input.split_to(missing.min(input.len())));
        (self.0.len() == len).then(|| std::mem::take(&mut self.0).into())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
