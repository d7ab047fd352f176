//! The session's first connection when it is gone: another takes its place, and all goes on.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik_proto::auth::EXPORTER_LABEL;
use kwik_proto::stream::{Delivered, SharedRecv};
use kwik_proto::sync::lock;
use kwik_proto::wire::control::{AuthenticationRequest, ControlMessage, Resume};
use kwik_proto::{Code, CodedError, limits};

use crate::endpoint::{SessionEnd, Turn};
use crate::quic::{ClientTls, ConnectError, Connection, ConnectionError, Endpoint};

use super::control::{ControlBuffer, ControlWriter};
use super::path::{self, ControlStream, PathLink, open_control};
use super::{AnyShared, Role, Shared};

/// How a client makes connections: to its primary again, and to those that it names.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) endpoint: Endpoint,
    /// Where the primary is, its TLS name, and whom to believe to be it.
    pub(crate) primary: (SocketAddr, String, ClientTls),
    /// Its place among several primaries.
    pub(crate) turn: Option<Box<Turn>>,
}

/// A first path's connection that another is to replace.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Why it is gone, if QUIC says so.
    pub(super) error: Option<ConnectionError>,
    /// To be closed once the peer knows of the other.
    former: Option<Connection>,
    /// With what the session was closed: so is a connection that comes too late.
    closing: Option<(u64, Bytes)>,
    end: Option<Ending>,
}

/// What a session had come to when it ended.
#[derive(Debug)]
pub(super) struct Ending {
    at: Instant,
    /// Payload came, or was acknowledged.
    bore: bool,
    /// What was delivered of streams that were not done with, and who knows what was read since.
    delivered: Vec<(Delivered, Option<SharedRecv>)>,
}

impl Dialer {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (address, name, tls) = &self.primary;
        self.endpoint.connect(*address, name, tls)?.await
    }
}

impl<M: Role + ?Sized> Shared<M> {
    /// A connection of the session's first path is gone. If it was the last, another may take its
    /// place, unless the peer wanted the end.
    pub(super) fn on_home_lost(&self, connection: &Connection, error: ConnectionError) {
        let replacing = lock(&self.replacing);
        let home = self.home;
        let kept = self.drive(|machine, now| {
            if !self.is_current(home, connection) {
                return None;
            }
            let reason = error.to_string();
            if error.ends_session() {
                self.note_end(machine, now);
                // Before the machine's own reason.
                lock(&self.closed).get_or_insert(error);
                let error = CodedError::new(Code::PathDead, reason);
                machine.handle_violation(home, &error, now);
                return None;
            }
            lock(&self.gone).get_or_insert_default().error = Some(error);
            lock(&self.paths).remove(&home);
            machine.handle_path_lost(home, &reason, now);
            Some(machine.kept())
        });
        let Some(kept) = kept else { return };
        if let Some(slot) = lock(&self.slot).as_ref() {
            slot.on_lost(kept);
        }
        drop(replacing);
        let gives_way = || lock(&self.slot).as_ref().and_then(|slot| slot.gives_way());
        while let Some(session) = gives_way() {
            session.drive(|machine, now| machine.end_lost(now));
        }
    }

    /// Lets `connection` be the session's first path, once `begin` says so, under the session's
    /// lock; what it had before.
    fn replace_home<R, E>(
        &self,
        connection: &Connection,
        link: PathLink,
        begin: impl FnOnce(&mut M, &PathLink) -> Result<R, E>,
    ) -> Result<R, E> {
        let _replacing = lock(&self.replacing);
        let (result, former) = self.drive(|machine, _| {
            let result = begin(machine, &link)?;
            *lock(&self.connection) = connection.clone();
            Ok((result, lock(&self.paths).insert(self.home, link.into())))
        })?;
        let earlier = self.take_former();
        lock(&self.gone).take();
        self.slot_resumed();
        if let Some(watch) = self.watch() {
            watch.on_resumed(self.look(|machine| machine.session_id()));
        }
        self.pool.resume(connection);
        for former in former.map(|link| link.connection.clone()).into_iter().chain(earlier) {
            former.close(Code::PathDead.as_u64(), b"replaced by a newer connection");
        }
        Ok(result)
    }

    /// The session is about to end, which its application does not know yet.
    pub(super) fn note_end(&self, machine: &M, now: Instant) {
        let (bore, delivered) = (machine.bore(now), machine.delivered());
        let ending = Ending { at: now, bore, delivered };
        lock(&self.gone).get_or_insert_default().end.get_or_insert(ending);
    }

    /// Waits until the session is over: how, and what was delivered.
    pub(crate) async fn ended(&self) -> SessionEnd {
        let reason = self.closed().await;
        let (at, bore, delivered) = {
            let gone = lock(&self.gone);
            let end = gone.as_ref().and_then(|gone| gone.end.as_ref());
            end.map_or((self.runtime.now(), false, Vec::new()), |end| {
                (end.at, end.bore, end.delivered.clone())
            })
        };
        let as_of_now = |(mut told, half): (Delivered, Option<SharedRecv>)| {
            if let (Some(received), Some(half)) = (&mut told.received, half) {
                let half = lock(&half);
                (received.read, received.consumed) = (half.read_position(), half.consumed());
            }
            told
        };
        let streams = delivered.into_iter().map(as_of_now).collect();
        let turn = self.dialer.as_ref().and_then(|dialer| dialer.turn.as_deref());
        SessionEnd::new(reason, streams, turn, (at, bore))
    }

    /// The session is being closed, so that whatever connection still comes is too.
    pub(super) fn note_closing(&self, code: u64, reason: &[u8]) {
        let mut gone = lock(&self.gone);
        let closing = &mut gone.get_or_insert_default().closing;
        closing.get_or_insert_with(|| (code, Bytes::copy_from_slice(reason)));
    }

    /// The connection that another has replaced.
    pub(super) fn take_former(&self) -> Option<Connection> {
        lock(&self.gone).as_mut().and_then(|gone| gone.former.take())
    }

    fn slot_resumed(&self) {
        if let Some(slot) = lock(&self.slot).as_ref() {
            slot.on_resumed();
        }
    }
}

/// Makes another connection to the primary, and takes the session up on it.
pub(super) async fn redial(shared: AnyShared, within: Duration) {
    let Some(dialer) = &shared.dialer else { return };
    let connection = match before(&shared, within, dialer.connect()).await {
        Some(Ok(connection)) => connection,
        Some(Err(ConnectError::EndpointStopping)) => {
            // It was closed, and all of its sessions with it.
            return shared.close(0, b"the endpoint was closed");
        }
        // The machine asks for others meanwhile.
        Some(Err(_)) | None => return,
    };
    if resumed(&shared, &connection, within).await.is_some() {
        return;
    }
    let closing = lock(&shared.gone).as_ref().and_then(|gone| gone.closing.clone());
    match closing {
        Some((code, reason)) => connection.close(code, &reason),
        None => connection.close(Code::PathDead.as_u64(), b"not needed any more"),
    }
}

/// Tells the primary that a session was closed which it keeps for its client: on connections that
/// are made for that alone, until it has heard or [`limits::FAREWELL_TIME`] is over.
pub(super) async fn farewell(shared: AnyShared, mut within: Duration, with: (u64, Bytes)) {
    let end = shared.runtime.now() + limits::FAREWELL_TIME;
    loop {
        let left = end.saturating_duration_since(shared.runtime.now());
        if left.is_zero() {
            return;
        }
        within = within.min(left);
        let next = shared.runtime.now() + within;
        if say_farewell(&shared, within, &with).await.is_ok() {
            return;
        }
        // It was refused at once, perhaps, by a server that is busy. A network that has changed may
        // be slower than what was measured.
        shared.runtime.sleep_until(next).await;
        within *= 2;
    }
}

async fn say_farewell(
    shared: &AnyShared,
    within: Duration,
    (code, reason): &(u64, Bytes),
) -> Result<(), ()> {
    let dialer = shared.dialer.as_ref().ok_or(())?;
    let connection = match before(shared, within, dialer.connect()).await {
        Some(Ok(connection)) => connection,
        // It is gone with all of its connections.
        Some(Err(ConnectError::EndpointStopping)) => return Ok(()),
        Some(Err(_)) | None => return Err(()),
    };
    let said = async {
        let mut control = open_control(&connection).await.map_err(|_| ())?;
        let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
        let rtt = connection.rtt();
        let begun = shared.drive(|machine, _| machine.begin_farewell(&exporter, rtt));
        match answer(&mut control, begun.ok_or(())?.first).await {
            Ok(_) => Ok(()),
            // It has no such session any more.
            Err(Failed(error)) => error.as_ref().and_then(refusal).map(|_| ()).ok_or(()),
        }
    };
    let said = before(shared, within, said).await.unwrap_or(Err(()));
    connection.close(*code, reason);
    said
}

/// What happened to a connection before its server has answered, if it was not too slow.
#[derive(Default)]
struct Failed(Option<ConnectionError>);

impl From<ConnectionError> for Failed {
    fn from(error: ConnectionError) -> Self {
        Self(Some(error))
    }
}

/// A server that says no knows nothing of the session, or not this client.
fn refusal(error: &ConnectionError) -> Option<CodedError> {
    let ConnectionError::ApplicationClosed { code, reason } = error else { return None };
    // Applications have codes of their own, which say no as well.
    let code = Code::from_u64(*code).unwrap_or(Code::NoError);
    let final_word = !matches!(code, Code::PathDead | Code::LimitExceeded | Code::Busy);
    final_word.then(|| CodedError::new(code, String::from_utf8_lossy(reason).into_owned()))
}

/// Takes the session up on a connection; none if that is not wanted, or failed.
async fn resumed(shared: &AnyShared, connection: &Connection, within: Duration) -> Option<()> {
    // It fails with the connection alone.
    let mut control = before(shared, within, open_control(connection)).await?.ok()?;
    let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
    let rtt = connection.rtt();
    let begun = shared.drive(|machine, now| {
        let begun = machine.begin_resume(&exporter, rtt, now)?;
        // From here on what comes on the former one is not looked at.
        if let Some(link) = lock(&shared.paths).remove(&shared.home) {
            let mut gone = lock(&shared.gone);
            gone.get_or_insert_default().former.get_or_insert(link.connection.clone());
        }
        Some(begun)
    });
    let begun = begun?;
    tracing::debug!(remote = %connection.remote_address(), "the session is being taken up");
    let answer = before(shared, begun.within, answer(&mut control, begun.first)).await;
    let resume = match answer.unwrap_or_else(|| Err(Failed::default())) {
        Ok(resume) => resume,
        Err(Failed(error)) => {
            let refused = error.as_ref().and_then(refusal);
            shared.drive(|machine, now| {
                let ended = machine.on_redial_failed(begun.attempt, refused.as_ref(), now);
                if ended {
                    lock(&shared.gone).get_or_insert_default().error = error;
                }
            });
            return None;
        }
    };
    control.decoder.go_on_at(begun.handled);
    let (link, queue) = path::link(shared, connection);
    let now = shared.runtime.now();
    let taken = shared.replace_home(connection, link, |machine, _| {
        machine.handle_resumed(&resume, now).then_some(()).ok_or(())
    });
    taken.ok()?;
    path::serve_home(
        shared,
        connection,
        ControlWriter::new(queue, control.send),
        control.recv,
        control.decoder,
    );
    Some(())
}

/// Writes what comes first, and reads what the server says to it.
async fn answer(control: &mut ControlStream, first: Bytes) -> Result<Resume, Failed> {
    let gone = |_| Failed::default();
    control.send.write_chunk(first).await.map_err(gone)?;
    match next_frame(control).await? {
        ControlMessage::AuthenticationResponse(m) if m.result.is_ok() => {}
        _ => return Err(Failed::default()),
    }
    match next_frame(control).await? {
        ControlMessage::Resume(m) => Ok(m),
        _ => Err(Failed::default()),
    }
}

async fn next_frame(control: &mut ControlStream) -> Result<ControlMessage, Failed> {
    loop {
        match control.decoder.poll_frame() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(_) => return Err(Failed::default()),
        }
        match control.recv.read_chunk(limits::MAX_CONTROL_FRAME, true).await {
            Ok(Some(chunk)) => control.decoder.handle_input(chunk.bytes),
            Err(crate::quic::ReadError::ConnectionLost(error)) => return Err(error.into()),
            Ok(None) | Err(_) => return Err(Failed::default()),
        }
    }
}

/// Takes a server's session up on a connection whose client says that it is its own.
///
/// # Errors
/// It is not, or cannot be: the connection is to be closed, and nothing has changed.
pub(crate) fn take_up(
    shared: &AnyShared,
    connection: &Connection,
    mut control: ControlStream,
    request: &AuthenticationRequest,
    resume: &Resume,
) -> Result<(), CodedError> {
    let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
    let (link, queue) = path::link(shared, connection);
    let now = shared.runtime.now();
    let handled = shared.replace_home(connection, link, |machine, link| {
        let (first, handled) = machine.handle_resume(request, &exporter, resume, now)?;
        link.queue_control(&first);
        Ok::<_, CodedError>(handled)
    })?;
    tracing::debug!(remote = %connection.remote_address(), "the session was taken up");
    control.decoder.go_on_at(handled);
    let send = ControlWriter::new(queue, control.send);
    path::serve_home(shared, connection, send, control.recv, control.decoder);
    Ok(())
}

/// Awaits `work` for so long; none if it takes longer.
async fn before<T>(
    shared: &AnyShared,
    within: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    let mut timeout = shared.runtime.sleep_until(shared.runtime.now() + within);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Pin::new(&mut timeout).poll(cx).map(|()| None),
    })
    .await
}

/// What waits for the control stream of a new connection.
pub(super) type Queue = Arc<ControlBuffer>;
