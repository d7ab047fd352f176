//! Trust: who a server is, who may join a session, and what a relay may carry.
//!
//! Each server has one persistent Ed25519 [`Identity`]; what names it elsewhere is its
//! [`Fingerprint`]. A client's identity lives for one session. The primary issues a [`Grant`] for
//! each secondary path; the secondary decides on it in one place, [`admit`]. Afterwards it takes
//! leases and raw packets from that path only as far as the primary signed them
//! ([`RelayVerifier`]).
//!
//! One key signs in several contexts, so no signed text may be read in another: TLS 1.3 signs
//! texts that begin with 64 spaces (RFC 8446 section 4.4.3), PASETO such that begin with a
//! little-endian count, X.509 such that begin with 0x30, and KWIK such that begin with a label.

use std::time::SystemTime;

use bytes::Bytes;

use crate::Code;

mod admission;
mod dial;
mod grant;
mod hex;
mod identity;
mod paseto;
mod relay;
mod session_ids;

pub use admission::{
    AdmissionRequest, Admitted, EXPORTER_LABEL, admit, proof_message, prove, verify_proof,
};
pub use dial::{DialError, DialLimiter, DialPolicy, PrivateRanges};
pub use grant::{Grant, GrantClaims, verify_grant};
pub use identity::{Fingerprint, Identity, InvalidFingerprint, PublicKey, Signature};
pub use relay::{LeaseFields, RelayVerifier, sign_lease, sign_raw, verify_lease, verify_raw};
pub use session_ids::SessionIds;

/// Why a credential, a proof or a relayed message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// It does not have the form that this build writes; what is wrong is named.
    #[error("{0}: check that all ends run the same version of KWIK")]
    Malformed(&'static str),
    /// The grant was issued by a server that this one does not trust.
    #[error("issuer {0} is not trusted here: if it is your primary, add it with --trust {0}")]
    UntrustedIssuer(Fingerprint),
    /// The bytes are not what the key signed.
    #[error("the signature does not match: the message was altered or another key signed it")]
    BadSignature,
    /// The grant is for another server.
    #[error("the grant is for server {granted}, this is {own}: add the path with the latter")]
    WrongAudience {
        /// Whom the grant names.
        granted: Fingerprint,
        /// Who read it.
        own: Fingerprint,
    },
    /// The grant is too old.
    #[error("the grant has expired: add the path again; if it was new, set both servers' clocks")]
    Expired,
    /// The grant comes from the future.
    #[error("the grant was issued in the future: set both servers' clocks")]
    NotYetValid,
    /// The request names another session than the grant.
    #[error("the grant is for another session: join the session that it names")]
    WrongSession,
    /// The request names another path than the grant.
    #[error("the grant is for another path: join the path that it names")]
    WrongPath,
    /// The request names another client key than the grant.
    #[error("the grant is for another client key: use the key stated on the primary path")]
    WrongClientKey,
    /// The proof of possession was not made for this connection, session and path.
    #[error("the proof of the client key is not of this connection: sign its own exporter value")]
    BadProof,
    /// The sequence number did not rise.
    #[error("relayed sequence {sequence} comes after {last}: relay each message once, in order")]
    Replayed {
        /// What was received.
        sequence: u64,
        /// The highest accepted before.
        last: u64,
    },
}

impl AuthError {
    /// What to tell the peer (9.1).
    #[must_use]
    pub const fn code(&self) -> Code {
        Code::AuthFailed
    }
}

/// What a client shows when it asks for a session.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Introduction<'a> {
    /// Opaque; at most [`MAX_CREDENTIALS`](crate::limits::MAX_CREDENTIALS) bytes.
    pub credentials: &'a [u8],
    /// What both ends of this connection alone know ([`EXPORTER_LABEL`]). A signature over it, with
    /// a label of its own before it, proves a key here and nowhere else.
    pub exporter: &'a [u8; 32],
    /// Wall-clock time.
    pub wall: SystemTime,
}

/// Decides who may be a client at all. It is asked on path 0 only, before the session takes a
/// place; grants speak for a client elsewhere.
pub trait Authenticator: Send + Sync {
    /// Whether a client is admitted. What it is admitted as, in any form and small, goes with its
    /// session (`PrimarySession::admitted_as`).
    ///
    /// # Errors
    /// The reason, for the server's log and the client.
    fn authenticate(&self, client: &Introduction<'_>) -> Result<Bytes, String>;
}

/// Admits every client.
#[derive(Debug, Clone, Copy, Default)]
pub struct AcceptAny;

impl Authenticator for AcceptAny {
    fn authenticate(&self, _client: &Introduction<'_>) -> Result<Bytes, String> {
        Ok(Bytes::new())
    }
}
