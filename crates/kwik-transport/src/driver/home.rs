//! The session's first connection when it is gone: another takes its place, and all goes on.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use kwik_proto::auth::EXPORTER_LABEL;
use kwik_proto::sync::lock;
use kwik_proto::wire::control::{AuthenticationRequest, ControlMessage, Resume};
use kwik_proto::{Code, CodedError, limits};

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
}

/// A first path's connection that another is to replace.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Why it is gone, if QUIC says so.
    pub(super) error: Option<ConnectionError>,
    /// To be closed once the peer knows of the other.
    former: Option<Connection>,
}

impl Dialer {
    async fn connect(&self) -> Result<Connection, ConnectError> {
        let (address, name, tls) = &self.primary;
        self.endpoint.connect(*address, name, tls)?.await
    }
}

impl<M: Role + ?Sized> Shared<M> {
    /// The session's first path is gone, and `connection` was its own. Another may take its place,
    /// unless the peer wanted the end.
    pub(super) fn on_home_lost(&self, error: ConnectionError) {
        let reason = error.to_string();
        let over = error.ends_session();
        lock(&self.gone).get_or_insert_default().error = Some(error.clone());
        let home = self.home;
        if over {
            self.on_connection_lost(error);
            let error = CodedError::new(Code::PathDead, reason);
            return self.drive(|machine, now| machine.handle_violation(home, &error, now));
        }
        let kept = self.drive(|machine, now| {
            lock(&self.paths).remove(&home);
            machine.handle_path_lost(home, &reason, now);
            machine.kept()
        });
        if let Some(slot) = lock(&self.slot).as_ref() {
            slot.on_lost(kept);
        }
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
        let (result, former) = self.drive(|machine, _| {
            let result = begin(machine, &link)?;
            *lock(&self.connection) = connection.clone();
            Ok((result, lock(&self.paths).insert(self.home, link.into())))
        })?;
        let earlier = self.take_former();
        lock(&self.gone).take();
        self.slot_resumed();
        self.pool.resume(connection);
        for former in former.map(|link| link.connection.clone()).into_iter().chain(earlier) {
            former.close(Code::PathDead.as_u64(), b"replaced by a newer connection");
        }
        Ok(result)
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
    let connecting = dialer.connect();
    let Some(Ok(connection)) = before(&shared, within, connecting).await else { return };
    match answered(&shared, &connection, within).await {
        Err(Failed::NotWanted) => {}
        Ok(()) => return,
        Err(Failed::Lost(error)) => {
            let refused = error.as_ref().and_then(refusal);
            shared.drive(|machine, now| machine.on_redial_failed(refused.as_ref(), now));
        }
    }
    connection.close(Code::PathDead.as_u64(), b"not needed any more");
}

/// Why a connection took nothing up.
enum Failed {
    NotWanted,
    /// What happened to it, if it was not too slow.
    Lost(Option<ConnectionError>),
}

impl From<ConnectionError> for Failed {
    fn from(error: ConnectionError) -> Self {
        Self::Lost(Some(error))
    }
}

/// A server that says no knows nothing of the session, or not this client.
fn refusal(error: &ConnectionError) -> Option<CodedError> {
    let ConnectionError::ApplicationClosed { code, reason } = error else { return None };
    let code = Code::from_u64(*code)?;
    let final_word = !matches!(code, Code::PathDead | Code::LimitExceeded | Code::Busy);
    final_word.then(|| CodedError::new(code, String::from_utf8_lossy(reason).into_owned()))
}

async fn answered(
    shared: &AnyShared,
    connection: &Connection,
    within: Duration,
) -> Result<(), Failed> {
    let mut control = open_control(connection).await?;
    let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
    let begun = shared.drive(|machine, now| {
        let begun = machine.begin_resume(&exporter, now)?;
        // From here on what comes on the former one is not looked at.
        if let Some(link) = lock(&shared.paths).remove(&shared.home) {
            let mut gone = lock(&shared.gone);
            gone.get_or_insert_default().former.get_or_insert(link.connection.clone());
        }
        Some(begun)
    });
    let (first, handled) = begun.ok_or(Failed::NotWanted)?;
    tracing::debug!(remote = %connection.remote_address(), "the session is being taken up");
    let answer = before(shared, 3 * within, answer(&mut control, first)).await;
    let resume = answer.ok_or(Failed::Lost(None))??;
    control.decoder.go_on_at(handled);
    let (link, queue) = path::link(shared, connection);
    let now = shared.runtime.now();
    let taken = shared.replace_home(connection, link, |machine, _| {
        machine.handle_resumed(&resume, now).then_some(()).ok_or(())
    });
    taken.map_err(|()| Failed::NotWanted)?;
    path::serve_home(
        shared,
        connection,
        ControlWriter::new(queue, control.send),
        control.recv,
        control.decoder,
    );
    Ok(())
}

/// Writes what comes first, and reads what the server says to it.
async fn answer(control: &mut ControlStream, first: Bytes) -> Result<Resume, Failed> {
    let gone = |_| Failed::Lost(None);
    control.send.write_chunk(first).await.map_err(gone)?;
    match next_frame(control).await? {
        ControlMessage::AuthenticationResponse(m) if m.result.is_ok() => {}
        _ => return Err(Failed::Lost(None)),
    }
    match next_frame(control).await? {
        ControlMessage::Resume(m) => Ok(m),
        _ => Err(Failed::Lost(None)),
    }
}

async fn next_frame(control: &mut ControlStream) -> Result<ControlMessage, Failed> {
    loop {
        match control.decoder.poll_frame() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(_) => return Err(Failed::Lost(None)),
        }
        match control.recv.read_chunk(limits::MAX_CONTROL_FRAME, true).await {
            Ok(Some(chunk)) => control.decoder.handle_input(chunk.bytes),
            Err(crate::quic::ReadError::ConnectionLost(error)) => return Err(error.into()),
            Ok(None) | Err(_) => return Err(Failed::Lost(None)),
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
