//! A server's decision on the first control frame of a connection: a new session, one of its paths,
//! or no.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::auth::{self, AdmissionRequest, Authenticator, Fingerprint, Identity, Introduction};
use crate::wire::control::{AuthenticationRequest, ControlMessage};
use crate::{Code, CodedError, Config, SessionId, limits};

use super::{PrimarySession, SecondarySession};

/// What a server knows when a client introduces itself.
pub struct AcceptContext<'a> {
    /// The server's identity.
    pub identity: &'a Arc<Identity>,
    /// Primaries whose grants this server honours.
    pub trusted: &'a BTreeSet<Fingerprint>,
    /// Who may be a client at all.
    pub authenticator: &'a dyn Authenticator,
    /// Settings of new sessions.
    pub settings: &'a Config,
    /// This connection's exported keying material ([`auth::EXPORTER_LABEL`]).
    pub exporter: &'a [u8; 32],
    /// 128 random bits for a new session.
    pub session_id: SessionId,
    /// Monotonic time.
    pub now: Instant,
    /// Wall-clock time, for grants.
    pub wall: SystemTime,
}

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Accepted {
    /// A new session, of which this server is the primary.
    Primary(Box<PrimarySession>),
    /// A path of a session whose primary is another server.
    Secondary(Box<SecondarySession>),
}

/// Decides on the first control frame of a connection.
///
/// # Errors
/// The frame is no valid introduction: close the connection with the error's code and text.
pub fn accept(first: &ControlMessage, context: &AcceptContext<'_>) -> Result<Accepted, CodedError> {
    let ControlMessage::AuthenticationRequest(request) = first else {
        let context = format!("{} before authentication", first.name());
        return Err(CodedError::new(Code::InvalidFrame, context));
    };
    if request.protocol_version != limits::PROTOCOL_VERSION {
        let (theirs, ours) = (request.protocol_version, limits::PROTOCOL_VERSION);
        let context = format!("the peer speaks version {theirs}, this server version {ours}");
        return Err(CodedError::new(Code::AuthFailed, context));
    }
    match request.session_id {
        None => accept_primary(request, context),
        Some(session) => accept_secondary(session, request, context),
    }
}

fn accept_primary(
    request: &AuthenticationRequest,
    context: &AcceptContext<'_>,
) -> Result<Accepted, CodedError> {
    let failed = |why: String| CodedError::new(Code::AuthFailed, why);
    let key = request.client_key;
    let key = key.ok_or_else(|| failed("the client states no key of its session".into()))?;
    let client = Introduction {
        credentials: &request.credentials,
        exporter: context.exporter,
        wall: context.wall,
    };
    let admitted_as = context.authenticator.authenticate(&client).map_err(failed)?;
    let session = PrimarySession::new(
        context.session_id,
        context.identity.clone(),
        key,
        context.settings,
        request,
        context.now,
    );
    Ok(Accepted::Primary(Box::new(session.with_admission(admitted_as))))
}

fn accept_secondary(
    session: SessionId,
    request: &AuthenticationRequest,
    context: &AcceptContext<'_>,
) -> Result<Accepted, CodedError> {
    let admission = AdmissionRequest {
        session,
        path: request.path_id,
        grant: &request.credentials,
        client_key: request.client_key.as_ref().map_or(&[][..], |key| &key.0),
        proof: request.proof.as_ref().map_or(&[][..], AsRef::as_ref),
        exporter: context.exporter,
    };
    let own = context.identity.fingerprint();
    let admitted = auth::admit(&admission, own, context.trusted, context.wall);
    let admitted = admitted.map_err(|error| CodedError::new(error.code(), error.to_string()))?;
    let options = context.settings.data_options().and(request.data);
    let session = SecondarySession::new(&admitted, options, context.settings, context.now);
    Ok(Accepted::Secondary(Box::new(session)))
}
