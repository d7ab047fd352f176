//! What becomes of connection attempts: sessions of this server's, and paths of others'.

use std::future::{Future, IntoFuture, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use kwik_proto::auth::EXPORTER_LABEL;
use kwik_proto::session::{self, AcceptContext};
use kwik_proto::sync::lock;
use kwik_proto::wire::control::{AuthenticationRequest, Resume};
use kwik_proto::wire::{ControlDecoder, ControlMessage};
use kwik_proto::{Code, CodedError, Config, PathId, SessionId, limits};

use crate::driver::{self, ControlStream, Datagrams, Held, Shared, WeakHeld, start};
use crate::metrics::LiveWeak;
use crate::primary::PrimarySession;
use crate::quic::{self, ConnectError, Connection, ConnectionError};
use crate::secondary::SecondarySession;
use crate::session::Session;

use super::dial::before;
use super::handle::{Endpoint, Server};
use super::slots::{Admission, HandshakeSlot, SessionSlot};

/// What a connection turned out to be.
#[derive(Debug)]
pub enum Accepted {
    /// A new session with this server as its primary.
    Primary(PrimarySession),
    /// A path of a session whose primary is another server.
    Secondary(SecondarySession),
}

/// A connection attempt. Awaiting it yields a [`Session`] and refuses secondary paths;
/// [`Self::accept_any`] takes both. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    incoming: quic::Incoming,
    slot: HandshakeSlot,
    server: Arc<Server>,
    endpoint: Endpoint,
}

impl Endpoint {
    /// The next connection attempt that there is room for, or none once the endpoint is closed.
    /// Others are told to show that they receive at their address, or that the server is busy
    /// ([`ServerConfig::max_sessions`](crate::ServerConfig::max_sessions)). Cancel safe.
    ///
    /// Go on calling this as long as sessions shall outlive their connections, and go on after any
    /// error of an [`Incoming`]: a client that comes back comes by here, and awaiting its attempt
    /// takes its session up ([`ConnectError::Resumed`]).
    pub async fn accept(&self) -> Option<Incoming> {
        let server = self.server.clone()?;
        loop {
            let incoming = self.quic.accept().await?;
            let (ip, now) = (incoming.remote_address().ip(), self.runtime.now());
            match server.slots.admit(ip, incoming.is_validated(), now) {
                Admission::Begin(slot) => {
                    return Some(Incoming { incoming, slot, server, endpoint: self.clone() });
                }
                Admission::Validate => {
                    self.metrics.on_validation();
                    incoming.validate();
                }
                Admission::Busy => {
                    self.metrics.on_refused("busy");
                    incoming.refuse();
                    server.slots.notice_busy(now);
                }
            }
        }
    }
}

impl Incoming {
    /// Whence it comes; the address is not validated yet.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Tells the client that it is not accepted.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// Leaves the client without an answer.
    pub fn ignore(self) {
        self.incoming.ignore();
    }

    /// Handshakes, authenticates, and says what it is. Not cancel safe: the attempt is lost.
    ///
    /// # Errors
    /// The handshake failed, or the client may not come in; it was told why. With
    /// [`ConnectError::Resumed`] nothing is wrong: a session that was accepted before goes on.
    pub async fn accept_any(self) -> Result<Accepted, ConnectError> {
        self.accept(true).await
    }

    async fn accept(self, secondaries: bool) -> Result<Accepted, ConnectError> {
        let Self { incoming, slot, server, endpoint } = self;
        let runtime = endpoint.runtime.clone();
        let began = runtime.now();
        let failed = |error: &ConnectError| endpoint.metrics.on_failure(true, error);
        // Apart, lest whoever awaits this keeps room for it as long as its session lives.
        let introduced = Box::pin(introduced(incoming, &slot, &endpoint));
        let introduced = introduced.await.inspect_err(failed)?;
        if let Some(resume) = &introduced.resume {
            let taken = take_up(&introduced.connection, introduced.control, resume, &server);
            if let (ConnectError::Resumed, Some(trace)) = (&taken, introduced.trace) {
                trace.set(&"server-resumption");
            }
            return Err(taken);
        }
        let connection = &introduced.connection;
        let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
        let config = &server.config;
        let is_secondary = matches!(&introduced.first,
            ControlMessage::AuthenticationRequest(request) if request.session_id.is_some());
        let settings = lock(&server.settings).clone();
        let unexpected = is_secondary && !secondaries;
        let spent = !is_secondary && endpoint.budget.is_spent();
        check_welcome(connection, unexpected, spent).inspect_err(failed)?;
        let accepted = session::accept(
            &introduced.first,
            &AcceptContext {
                identity: &config.identity,
                trusted: &config.trusted,
                authenticator: &*config.authenticator,
                settings: &settings,
                exporter: &exporter,
                session_id: server.ids.issue(runtime.random_bytes()),
                now: runtime.now(),
                wall: runtime.wall_clock(),
            },
        );
        let accepted = accepted.map_err(|error| {
            // Whoever accepts says more: an application knows how many such lines are too many.
            tracing::debug!(remote = %connection.remote_address(), %error, "client refused");
            connection.close(error.code.as_u64(), error.to_string().as_bytes());
            ConnectError::Refused(error.to_string())
        });
        let accepted = accepted.inspect_err(failed)?;
        let place = claim(&server, connection, runtime.now()).inspect_err(failed)?;
        endpoint.metrics.on_handshake(runtime.now().saturating_duration_since(began));
        drop(slot);
        connection.set_receive_window(limits::CONNECTION_WINDOW.min(config.quic.receive_window));
        Ok(begin(accepted, introduced, place, (&server, &endpoint), &settings))
    }
}

/// A connection whose client has said who it is.
struct Introduced {
    connection: Connection,
    control: ControlStream,
    first: ControlMessage,
    /// What a client says that wants its session back.
    resume: Option<Resumption>,
    /// Those that came meanwhile, where they are on.
    datagrams: Option<Arc<Datagrams>>,
    /// The name of its trace, if it has one.
    trace: Option<quic::TraceName>,
}

/// The first two control frames of a client that takes up a session.
struct Resumption {
    session: SessionId,
    request: AuthenticationRequest,
    resume: Resume,
}

/// Handshakes, and reads the first control frame.
async fn introduced(
    incoming: quic::Incoming,
    slot: &HandshakeSlot,
    endpoint: &Endpoint,
) -> Result<Introduced, ConnectError> {
    let runtime = &endpoint.runtime;
    let mut timeout = runtime.sleep_until(runtime.now() + limits::INTRODUCTION_TIMEOUT);
    let given_up = slot.given_up();
    let mut given_up = pin!(given_up.notified());
    let mut timeout = poll_fn(|cx| match given_up.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => Pin::new(&mut timeout).poll(cx),
    });
    let late = ConnectError::from(ConnectionError::TimedOut);
    let connecting = incoming.accept()?;
    let trace = connecting.trace();
    let connection = before(&mut timeout, connecting).await.ok_or(late)??;
    let datagrams = Datagrams::new(endpoint.quic.datagram_buffer());
    let introducing = before(&mut timeout, introduce(&connection));
    let introduced = match &datagrams {
        Some(datagrams) => datagrams.receive_during(&connection, introducing).await,
        None => introducing.await,
    };
    let (control, first, resume) = introduced.unwrap_or_else(|| {
        connection.close(Code::PathDead.as_u64(), b"KWIK_PATH_DEAD: not introduced in time");
        Err(ConnectionError::TimedOut.into())
    })?;
    Ok(Introduced { connection, control, first, resume, datagrams, trace })
}

/// Lets a session go on over another connection: what there is to say to who accepts.
fn take_up(
    connection: &Connection,
    control: ControlStream,
    wanted: &Resumption,
    server: &Server,
) -> ConnectError {
    let Resumption { session, request, resume } = wanted;
    let taken = match server.slots.find(*session) {
        Some(found) => driver::take_up(&found, connection, control, request, resume),
        None if server.ids.is_own(*session) => {
            Err(CodedError::new(Code::SessionUnknown, "the session is over"))
        }
        None => Err(CodedError::new(Code::ServerRestarted, "another process had the session")),
    };
    match taken {
        Ok(()) => {
            let window = limits::CONNECTION_WINDOW.min(server.config.quic.receive_window);
            connection.set_receive_window(window);
            ConnectError::Resumed
        }
        Err(error) => {
            tracing::debug!(remote = %connection.remote_address(), %error, "not taken up");
            connection.close(error.code.as_u64(), error.to_string().as_bytes());
            ConnectError::Refused(error.to_string())
        }
    }
}

/// A place for the session of an authenticated client, who is told if there is none.
fn claim(
    server: &Server,
    connection: &Connection,
    now: Instant,
) -> Result<SessionSlot, ConnectError> {
    server.slots.claim(connection.remote_address().ip(), now).ok_or_else(|| {
        server.slots.notice_busy(now);
        connection.close(Code::Busy.as_u64(), b"KWIK_BUSY: try again");
        ConnectError::Refused("all sessions are taken and at work".into())
    })
}

/// Starts the session of a client that may come in.
fn begin(
    accepted: session::Accepted,
    introduced: Introduced,
    place: SessionSlot,
    (server, endpoint): (&Server, &Endpoint),
    settings: &Config,
) -> Accepted {
    let Introduced { connection, control, datagrams, trace, .. } = introduced;
    let (runtime, quic) = (&endpoint.runtime, (None, server.config.quic.receive_window));
    match accepted {
        session::Accepted::Primary(mut machine) => {
            machine.streams_mut().set_memory(runtime.receive_memory());
            machine.streams_mut().set_budget(endpoint.budget.clone());
            machine.set_resume_time(server.config.resume_time);
            if let Some(trace) = trace {
                trace.set(&format_args!("primary-path0-{}", machine.id()));
            }
            let home = (PathId::PRIMARY, &connection);
            let shared = Shared::new(*machine, home, runtime, quic, (settings, datagrams));
            shared.hold_slot(Box::new(place));
            let held = Held::new(shared.clone());
            let live = LiveWeak::Primary(WeakHeld::new(&held));
            shared.set_watch(endpoint.metrics.begin(live, None));
            let session = PrimarySession::new(held);
            start(&(shared as _), PathId::PRIMARY, &connection, control);
            Accepted::Primary(session)
        }
        session::Accepted::Secondary(mut machine) => {
            let key = (machine.id(), machine.path());
            if let Some(trace) = trace {
                trace.set(&format_args!("secondary-path{}-{}", key.1, key.0));
            }
            let mut registry = lock(&server.paths);
            registry.replace(key, machine.verifier_mut(), runtime.now());
            let home = (key.1, &connection);
            // Its client sends no datagrams on such a path; what comes all the same is bounded.
            let shared = Shared::new(*machine, home, runtime, quic, (settings, datagrams));
            shared.hold_slot(Box::new(place));
            let held = Held::new(shared.clone());
            // Before others find it in the registry, and may end it.
            let live = LiveWeak::Secondary(WeakHeld::new(&held));
            shared.set_watch(endpoint.metrics.begin(live, None));
            registry.insert(key, shared.clone(), runtime.now());
            drop(registry);
            let session = SecondarySession::new(held);
            start(&(shared as _), key.1, &connection, control);
            Accepted::Secondary(session)
        }
    }
}

impl IntoFuture for Incoming {
    type Output = Result<Session, ConnectError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.accept(false).await? {
                Accepted::Primary(primary) => Ok(primary.session().clone()),
                Accepted::Secondary(_) => unreachable!("invariant: refused before"),
            }
        })
    }
}

/// Sends a client away that came as a secondary path where none is expected, or finds the
/// memory spent.
fn check_welcome(
    connection: &Connection,
    unexpected: bool,
    spent: bool,
) -> Result<(), ConnectError> {
    let (code, reason) = match (unexpected, spent) {
        (true, _) => (Code::InvalidStreamRole, "a secondary path was not expected"),
        (_, true) => (Code::LimitExceeded, "no memory is left for another session"),
        (false, false) => return Ok(()),
    };
    connection.close(code.as_u64(), format!("{code}: {reason}").as_bytes());
    Err(ConnectError::Refused(reason.into()))
}

/// Reads the first control frame, and the second of a client that takes up a session. Nothing else
/// of the connection is read before.
async fn introduce(
    connection: &Connection,
) -> Result<(ControlStream, ControlMessage, Option<Resumption>), ConnectError> {
    let (send, recv) = connection.accept_bi().await?;
    send.set_priority(i32::MAX).ok();
    let mut control = ControlStream { send, recv, decoder: ControlDecoder::new() };
    let first = read_frame(connection, &mut control).await?;
    let again = match &first {
        ControlMessage::AuthenticationRequest(m) if m.path_id.is_primary() => m.session_id,
        _ => None,
    };
    let (Some(session), ControlMessage::AuthenticationRequest(request)) = (again, &first) else {
        return Ok((control, first, None));
    };
    match read_frame(connection, &mut control).await? {
        ControlMessage::Resume(resume) => {
            let request = request.clone();
            Ok((control, first, Some(Resumption { session, request, resume })))
        }
        other => {
            let context = format!("{} where a session is taken up", other.name());
            let error = CodedError::new(Code::InvalidFrame, context);
            connection.close(error.code.as_u64(), error.to_string().as_bytes());
            Err(ConnectError::Refused(error.to_string()))
        }
    }
}

async fn read_frame(
    connection: &Connection,
    control: &mut ControlStream,
) -> Result<ControlMessage, ConnectError> {
    loop {
        match control.decoder.poll_frame() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(error) => {
                connection.close(error.code().as_u64(), error.to_string().as_bytes());
                return Err(ConnectError::Refused(error.to_string()));
            }
        }
        match control.recv.read_chunk(limits::MAX_CONTROL_FRAME, true).await {
            Ok(Some(chunk)) => control.decoder.handle_input(chunk.bytes),
            Ok(None) | Err(_) => {
                connection.close(Code::InvalidFrame.as_u64(), b"no introduction");
                return Err(ConnectError::Refused("the client did not introduce itself".into()));
            }
        }
    }
}
