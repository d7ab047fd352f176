//! Ids of a server's sessions, which it knows again without keeping them.

use ring::hmac;

use crate::SessionId;

/// Makes the ids of one process's sessions: half of each is random, and half shows to this process
/// alone that it is one of its own. So a client that comes back is told whether its session has
/// ended, or the process that had it.
#[derive(Debug)]
pub struct SessionIds(hmac::Key);

impl SessionIds {
    /// With a random key, which no other process has.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// An id, from random bytes.
    #[must_use]
    pub fn issue(&self, random: [u8; 8]) -> SessionId {
        let mut id = [0; 16];
        let (first, mark) = id.split_at_mut(8);
        first.copy_from_slice(&random);
        mark.copy_from_slice(&hmac::sign(&self.0, &random).as_ref()[..8]);
        SessionId(id)
    }

    /// Whether this process made the id.
    #[must_use]
    pub fn is_own(&self, id: SessionId) -> bool {
        let mut random = [0; 8];
        random.copy_from_slice(&id.0[..8]);
        self.issue(random) == id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_own_ids_and_no_other_process_does() {
        let (one, other) = (SessionIds::new(&[1; 32]), SessionIds::new(&[2; 32]));
        let id = one.issue([3; 8]);
        assert!(one.is_own(id) && !other.is_own(id));
        assert_ne!(id, one.issue([4; 8]));
        let mut changed = id;
        changed.0[0] ^= 1;
        assert!(!one.is_own(changed));
    }
}
