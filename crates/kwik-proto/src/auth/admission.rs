//! Admission to a secondary: the grant, and the proof that who shows it is whom it was issued to.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{AuthError, Fingerprint, Identity, PublicKey, Signature, verify_grant};
use crate::{PathId, SessionId};

/// Label of the exported keying material that a proof signs (RFC 8446 section 7.5): 32 bytes,
/// with an empty context. It is unlike on any two connections.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-kwik-path-proof";

const PROOF_LABEL: &[u8] = b"kwik proof v1";

/// What a client signs to prove that it holds its session's key on one connection: on a secondary,
/// and on path 0 when it resumes.
#[must_use]
pub fn proof_message(exporter: &[u8; 32], session: SessionId, path: PathId) -> Vec<u8> {
    [PROOF_LABEL, &session.0, &path.0.to_be_bytes(), exporter].concat()
}

/// Proves, as the client, possession of `client`'s key on the connection with this `exporter`.
#[must_use]
pub fn prove(
    client: &Identity,
    exporter: &[u8; 32],
    session: SessionId,
    path: PathId,
) -> Signature {
    client.sign(&proof_message(exporter, session, path))
}

/// Checks a proof on the connection with this `exporter`.
///
/// # Errors
/// [`AuthError::BadProof`] when another key signed it, or for another connection, session or path.
pub fn verify_proof(
    client_key: &PublicKey,
    exporter: &[u8; 32],
    session: SessionId,
    path: PathId,
    proof: &[u8],
) -> Result<(), AuthError> {
    client_key
        .verify(&proof_message(exporter, session, path), proof)
        .map_err(|_| AuthError::BadProof)
}

/// What a client states in the first frame of a secondary path, and the connection's own value.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionRequest<'a> {
    /// The session to join.
    pub session: SessionId,
    /// The path to join it as.
    pub path: PathId,
    /// The grant, unverified.
    pub grant: &'a [u8],
    /// The client's public key of this session.
    pub client_key: &'a [u8],
    /// Its proof of possession.
    pub proof: &'a [u8],
    /// This connection's value under [`EXPORTER_LABEL`]; never from the peer.
    pub exporter: &'a [u8; 32],
}

/// A connection that was admitted to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The session that it joins.
    pub session: SessionId,
    /// The path that it is there.
    pub path: PathId,
    /// The primary whose leases count on it.
    pub primary: PublicKey,
}

/// Decides, as the secondary `own` that trusts the primaries `trusted`, whether a connection joins
/// a session (2.2). Every check of a grant's use is made here.
///
/// # Errors
/// Those of [`verify_grant`], then [`AuthError::WrongSession`], [`AuthError::WrongPath`],
/// [`AuthError::WrongClientKey`] or [`AuthError::BadProof`].
pub fn admit(
    request: &AdmissionRequest<'_>,
    own: Fingerprint,
    trusted: &BTreeSet<Fingerprint>,
    now: SystemTime,
) -> Result<Admitted, AuthError> {
    let AdmissionRequest { session, path, .. } = *request;
    let client_key = PublicKey::try_from(request.client_key)?;
    let grant = verify_grant(request.grant, trusted, own, now)?;
    if grant.claims.session != session {
        return Err(AuthError::WrongSession);
    }
    if grant.claims.path != path {
        return Err(AuthError::WrongPath);
    }
    if grant.claims.client_key != client_key.fingerprint() {
        return Err(AuthError::WrongClientKey);
    }
    verify_proof(&client_key, request.exporter, session, path, request.proof)?;
    Ok(Admitted { session, path, primary: grant.issuer })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::auth::{Grant, GrantClaims};

    const SESSION: SessionId = SessionId([3; 16]);
    const PATH: PathId = PathId(4);
    const EXPORTER: [u8; 32] = [9; 32];

    fn identity(seed: u8) -> Identity {
        Identity::from_seed([seed; 32])
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// All that a rightful client shows; a test changes one thing.
    struct Shown {
        session: SessionId,
        path: PathId,
        grant: Vec<u8>,
        client_key: Vec<u8>,
        proof: Vec<u8>,
        exporter: [u8; 32],
    }

    impl Shown {
        fn rightful() -> Self {
            let client = identity(5);
            let claims = GrantClaims {
                session: SESSION,
                path: PATH,
                audience: identity(2).fingerprint(),
                client_key: client.fingerprint(),
            };
            Self {
                session: SESSION,
                path: PATH,
                grant: Grant::issue(&identity(1), &claims, now()).into(),
                client_key: client.public_key().0.into(),
                proof: prove(&client, &EXPORTER, SESSION, PATH).0.into(),
                exporter: EXPORTER,
            }
        }

        fn admit_at(&self, now: SystemTime) -> Result<Admitted, AuthError> {
            let request = AdmissionRequest {
                session: self.session,
                path: self.path,
                grant: &self.grant,
                client_key: &self.client_key,
                proof: &self.proof,
                exporter: &self.exporter,
            };
            let trusted = [identity(1).fingerprint()].into();
            admit(&request, identity(2).fingerprint(), &trusted, now)
        }

        fn admit(&self) -> Result<Admitted, AuthError> {
            self.admit_at(now())
        }
    }

    #[test]
    fn a_rightful_client_is_admitted() {
        let admitted = Admitted { session: SESSION, path: PATH, primary: identity(1).public_key() };
        assert_eq!(Shown::rightful().admit(), Ok(admitted));
    }

    #[test]
    fn an_expired_grant_is_refused() {
        let late = now() + Duration::from_secs(200);
        assert_eq!(Shown::rightful().admit_at(late), Err(AuthError::Expired));
    }

    #[test]
    fn a_foreign_session_is_refused() {
        let session = SessionId([4; 16]);
        let proof = prove(&identity(5), &EXPORTER, session, PATH).0.into();
        let shown = Shown { session, proof, ..Shown::rightful() };
        assert_eq!(shown.admit(), Err(AuthError::WrongSession));
    }

    #[test]
    fn a_foreign_path_is_refused() {
        let path = PathId(5);
        let proof = prove(&identity(5), &EXPORTER, SESSION, path).0.into();
        let shown = Shown { path, proof, ..Shown::rightful() };
        assert_eq!(shown.admit(), Err(AuthError::WrongPath));
    }

    #[test]
    fn a_stolen_grant_is_refused() {
        let thief = identity(6);
        let proof = prove(&thief, &EXPORTER, SESSION, PATH).0.to_vec();
        let client_key = thief.public_key().0.into();
        let own_key = Shown { client_key, proof: proof.clone(), ..Shown::rightful() };
        assert_eq!(own_key.admit(), Err(AuthError::WrongClientKey));
        let borrowed_key = Shown { proof, ..Shown::rightful() };
        assert_eq!(borrowed_key.admit(), Err(AuthError::BadProof));
    }

    #[test]
    fn a_proof_from_another_connection_is_refused() {
        let shown = Shown { exporter: [10; 32], ..Shown::rightful() };
        assert_eq!(shown.admit(), Err(AuthError::BadProof));
    }

    #[test]
    fn absent_fields_are_refused() {
        let shown = Shown { proof: Vec::new(), ..Shown::rightful() };
        assert_eq!(shown.admit(), Err(AuthError::BadProof));
        for shown in [
            Shown { grant: Vec::new(), ..Shown::rightful() },
            Shown { client_key: Vec::new(), ..Shown::rightful() },
        ] {
            assert!(matches!(shown.admit(), Err(AuthError::Malformed(_))));
        }
    }
}
