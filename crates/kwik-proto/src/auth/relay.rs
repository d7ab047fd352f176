//! Signatures over what the client relays from the primary to a secondary.
//!
//! The signed text is the label, session (16 bytes), path (4), sequence (8) and a byte for the
//! kind; then a lease's five numbers (8 each); then the length (8) and bytes of the command or
//! packet. Numbers are big-endian. One text has one reading, since all but its end is of fixed
//! width.

use super::{AuthError, Identity, PublicKey, Signature};
use crate::{LeaseId, PathId, SessionId, StreamId};

const LABEL: &[u8] = b"kwik relay v1";
const KIND_LEASE: u8 = 1;
const KIND_RAW: u8 = 2;

/// What of a lease is signed, besides its session, path and sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseFields<'a> {
    /// The lease.
    pub lease_id: LeaseId,
    /// The stream that it covers.
    pub stream_id: StreamId,
    /// First offset.
    pub start: u64,
    /// Offset after the last.
    pub end: u64,
    /// Bytes that will be sent for it at the most, repeats included.
    pub max_bytes: u64,
    /// Opaque command for the secondary's application.
    pub command: &'a [u8],
}

/// Signs a lease, as the primary.
#[must_use]
pub fn sign_lease(
    primary: &Identity,
    session: SessionId,
    path: PathId,
    sequence: u64,
    fields: &LeaseFields<'_>,
) -> Signature {
    primary.sign(&lease_message(session, path, sequence, fields))
}

/// Signs a raw packet, as the primary.
#[must_use]
pub fn sign_raw(
    primary: &Identity,
    session: SessionId,
    path: PathId,
    sequence: u64,
    data: &[u8],
) -> Signature {
    primary.sign(&raw_message(session, path, sequence, data))
}

/// Checks one lease's signature, not its sequence; a secondary uses [`RelayVerifier`].
///
/// # Errors
/// [`AuthError::BadSignature`].
pub fn verify_lease(
    primary: &PublicKey,
    session: SessionId,
    path: PathId,
    sequence: u64,
    fields: &LeaseFields<'_>,
    signature: &[u8],
) -> Result<(), AuthError> {
    primary.verify(&lease_message(session, path, sequence, fields), signature)
}

/// Checks one raw packet's signature, not its sequence; a secondary uses [`RelayVerifier`].
///
/// # Errors
/// [`AuthError::BadSignature`].
pub fn verify_raw(
    primary: &PublicKey,
    session: SessionId,
    path: PathId,
    sequence: u64,
    data: &[u8],
    signature: &[u8],
) -> Result<(), AuthError> {
    primary.verify(&raw_message(session, path, sequence, data), signature)
}

/// Verifies what arrives for one path of one session. It outlives the path's connections: a fresh
/// one would take an earlier lease, and so its bytes, a second time.
#[derive(Debug, Clone)]
pub struct RelayVerifier {
    primary: PublicKey,
    session: SessionId,
    path: PathId,
    /// Leases and raw packets travel on different streams: each kind is in order by itself.
    last_lease: Option<u64>,
    last_raw: Option<u64>,
}

impl RelayVerifier {
    /// For the path that `primary` granted; nothing was received yet.
    #[must_use]
    pub const fn new(primary: PublicKey, session: SessionId, path: PathId) -> Self {
        Self { primary, session, path, last_lease: None, last_raw: None }
    }

    /// The primary whose signatures count.
    #[must_use]
    pub const fn primary(&self) -> PublicKey {
        self.primary
    }

    /// Continues where `earlier` ended, when that is of the same path: call it on a reconnection.
    pub fn take_over(&mut self, earlier: &Self) {
        let key = |v: &Self| (v.primary, v.session, v.path);
        if key(self) == key(earlier) {
            self.last_lease = self.last_lease.max(earlier.last_lease);
            self.last_raw = self.last_raw.max(earlier.last_raw);
        }
    }

    /// Accepts a lease: signed, and later than all leases before it.
    ///
    /// # Errors
    /// [`AuthError::Replayed`] or [`AuthError::BadSignature`]; the state is unchanged then.
    pub fn verify_lease(
        &mut self,
        sequence: u64,
        fields: &LeaseFields<'_>,
        signature: &[u8],
    ) -> Result<(), AuthError> {
        check_rising(self.last_lease, sequence)?;
        let Self { primary, session, path, .. } = self;
        verify_lease(primary, *session, *path, sequence, fields, signature)?;
        self.last_lease = Some(sequence);
        Ok(())
    }

    /// Accepts a raw packet: signed, and later than all raw packets before it.
    ///
    /// # Errors
    /// [`AuthError::Replayed`] or [`AuthError::BadSignature`]; the state is unchanged then.
    pub fn verify_raw(
        &mut self,
        sequence: u64,
        data: &[u8],
        signature: &[u8],
    ) -> Result<(), AuthError> {
        check_rising(self.last_raw, sequence)?;
        let Self { primary, session, path, .. } = self;
        verify_raw(primary, *session, *path, sequence, data, signature)?;
        self.last_raw = Some(sequence);
        Ok(())
    }
}

fn check_rising(last: Option<u64>, sequence: u64) -> Result<(), AuthError> {
    match last {
        Some(last) if sequence <= last => Err(AuthError::Replayed { sequence, last }),
        _ => Ok(()),
    }
}

fn lease_message(
    session: SessionId,
    path: PathId,
    sequence: u64,
    fields: &LeaseFields<'_>,
) -> Vec<u8> {
    let LeaseFields { lease_id, stream_id, start, end, max_bytes, command } = *fields;
    let numbers = [lease_id.0, stream_id.as_u64(), start, end, max_bytes];
    message(session, path, sequence, KIND_LEASE, &numbers, command)
}

fn raw_message(session: SessionId, path: PathId, sequence: u64, data: &[u8]) -> Vec<u8> {
    message(session, path, sequence, KIND_RAW, &[], data)
}

fn message(
    session: SessionId,
    path: PathId,
    sequence: u64,
    kind: u8,
    numbers: &[u64],
    tail: &[u8],
) -> Vec<u8> {
    let mut message = Vec::with_capacity(LABEL.len() + 37 + 8 * numbers.len() + tail.len());
    message.extend_from_slice(LABEL);
    message.extend_from_slice(&session.0);
    message.extend_from_slice(&path.0.to_be_bytes());
    message.extend_from_slice(&sequence.to_be_bytes());
    message.push(kind);
    for number in numbers {
        message.extend_from_slice(&number.to_be_bytes());
    }
    message.extend_from_slice(&(tail.len() as u64).to_be_bytes());
    message.extend_from_slice(tail);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId([3; 16]);
    const PATH: PathId = PathId(4);
    const FIELDS: LeaseFields<'_> = LeaseFields {
        lease_id: LeaseId(1),
        stream_id: StreamId::from_u64(2),
        start: 3,
        end: 4,
        max_bytes: 5,
        command: b"get",
    };

    fn primary() -> Identity {
        Identity::from_seed([1; 32])
    }

    fn verifier() -> RelayVerifier {
        RelayVerifier::new(primary().public_key(), SESSION, PATH)
    }

    #[test]
    fn the_signed_text_is_fixed() {
        let text = lease_message(SESSION, PATH, 7, &FIELDS);
        let mut expected = b"kwik relay v1".to_vec();
        expected.extend([3; 16]);
        expected.extend([0, 0, 0, 4]);
        for (number, kind) in [(7, Some(1)), (1, None), (2, None), (3, None), (4, None)] {
            expected.extend([0, 0, 0, 0, 0, 0, 0, number]);
            expected.extend(kind);
        }
        expected.extend([0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 3]);
        expected.extend(b"get");
        assert_eq!(text, expected);
        let raw = raw_message(SESSION, PATH, 7, b"get");
        assert_eq!(raw.len(), text.len() - 40);
        assert_eq!(raw[41], KIND_RAW);
    }

    #[test]
    fn any_changed_field_breaks_a_lease() {
        let signature = sign_lease(&primary(), SESSION, PATH, 7, &FIELDS);
        let key = primary().public_key();
        let verify = |session, path, sequence, fields: LeaseFields<'_>| {
            verify_lease(&key, session, path, sequence, &fields, signature.as_ref())
        };
        assert_eq!(verify(SESSION, PATH, 7, FIELDS), Ok(()));
        for result in [
            verify(SessionId([4; 16]), PATH, 7, FIELDS),
            verify(SESSION, PathId(5), 7, FIELDS),
            verify(SESSION, PATH, 8, FIELDS),
            verify(SESSION, PATH, 7, LeaseFields { lease_id: LeaseId(2), ..FIELDS }),
            verify(SESSION, PATH, 7, LeaseFields { stream_id: StreamId::from_u64(6), ..FIELDS }),
            verify(SESSION, PATH, 7, LeaseFields { start: 0, ..FIELDS }),
            verify(SESSION, PATH, 7, LeaseFields { end: 5, ..FIELDS }),
            verify(SESSION, PATH, 7, LeaseFields { max_bytes: 6, ..FIELDS }),
            verify(SESSION, PATH, 7, LeaseFields { command: b"got", ..FIELDS }),
            verify(SESSION, PATH, 7, LeaseFields { command: b"", ..FIELDS }),
            verify_lease(&key, SESSION, PATH, 7, &FIELDS, b""),
            verify_raw(&key, SESSION, PATH, 7, FIELDS.command, signature.as_ref()),
        ] {
            assert_eq!(result, Err(AuthError::BadSignature));
        }
    }

    #[test]
    fn a_lease_of_another_primary_is_refused() {
        let stranger = Identity::from_seed([2; 32]);
        let signature = sign_lease(&stranger, SESSION, PATH, 0, &FIELDS);
        let result = verifier().verify_lease(0, &FIELDS, signature.as_ref());
        assert_eq!(result, Err(AuthError::BadSignature));
    }

    #[test]
    fn sequences_rise_within_each_kind() {
        let mut verifier = verifier();
        let lease = |sequence| sign_lease(&primary(), SESSION, PATH, sequence, &FIELDS);
        let raw = |sequence| sign_raw(&primary(), SESSION, PATH, sequence, b"ping");
        assert_eq!(verifier.verify_lease(0, &FIELDS, lease(0).as_ref()), Ok(()));
        assert_eq!(verifier.verify_raw(1, b"ping", raw(1).as_ref()), Ok(()));
        let replayed = Err(AuthError::Replayed { sequence: 1, last: 1 });
        assert_eq!(verifier.verify_raw(1, b"ping", raw(1).as_ref()), replayed);
        let replayed = Err(AuthError::Replayed { sequence: 0, last: 0 });
        assert_eq!(verifier.verify_lease(0, &FIELDS, lease(0).as_ref()), replayed);
        // A packet overtakes the leases before it: they use another stream.
        assert_eq!(verifier.verify_raw(4, b"ping", raw(4).as_ref()), Ok(()));
        assert_eq!(verifier.verify_lease(3, &FIELDS, lease(3).as_ref()), Ok(()));
        // A client may drop messages; those behind stay valid.
        assert_eq!(verifier.verify_lease(5, &FIELDS, lease(5).as_ref()), Ok(()));
    }

    #[test]
    fn a_reconnection_takes_no_lease_twice() {
        let lease = |sequence| sign_lease(&primary(), SESSION, PATH, sequence, &FIELDS);
        let mut first = verifier();
        assert_eq!(first.verify_lease(3, &FIELDS, lease(3).as_ref()), Ok(()));
        let mut second = verifier();
        second.take_over(&first);
        let replayed = Err(AuthError::Replayed { sequence: 3, last: 3 });
        assert_eq!(second.verify_lease(3, &FIELDS, lease(3).as_ref()), replayed);
        let mut other = RelayVerifier::new(primary().public_key(), SESSION, PathId(5));
        other.take_over(&first);
        let lease = sign_lease(&primary(), SESSION, PathId(5), 1, &FIELDS);
        assert_eq!(other.verify_lease(1, &FIELDS, lease.as_ref()), Ok(()));
    }

    #[test]
    fn a_forged_sequence_does_not_advance() {
        let mut verifier = verifier();
        let lease = sign_lease(&primary(), SESSION, PATH, 3, &FIELDS);
        let raw = sign_raw(&primary(), SESSION, PATH, 4, b"ping");
        let bad = Err(AuthError::BadSignature);
        assert_eq!(verifier.verify_lease(u64::MAX, &FIELDS, lease.as_ref()), bad);
        assert_eq!(verifier.verify_raw(u64::MAX, b"ping", raw.as_ref()), bad);
        assert_eq!(verifier.verify_lease(3, &FIELDS, lease.as_ref()), Ok(()));
        assert_eq!(verifier.verify_raw(4, b"ping", raw.as_ref()), Ok(()));
    }
}
