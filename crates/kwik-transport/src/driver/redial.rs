//! Makes connections to a session's primary again, and takes sessions up on those that come.

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

use crate::quic::{
    ClientTls, ConnectError, Connecting, Connection, ConnectionError, Endpoint, ReadError,
};

use super::control::{ControlStream, ControlWriter, open_control};
use super::path::serve_home;
use super::shared::AnyShared;

/// The way to a client's primary.
#[derive(Debug)]
pub(crate) struct ToPrimary {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
    /// Its TLS name.
    pub(crate) server_name: String,
    /// Whom to believe to be it.
    pub(crate) tls: ClientTls,
}

impl ToPrimary {
    /// Begins a handshake.
    pub(crate) fn begin(&self) -> Result<Connecting, ConnectError> {
        self.endpoint.connect(self.address, &self.server_name, &self.tls)
    }

    async fn connect(&self) -> Result<Connection, ConnectError> {
        self.begin()?.await
    }
}

/// Makes another connection to the primary, and takes the session up on it.
pub(crate) async fn redial(shared: AnyShared, to: Arc<ToPrimary>, within: Duration) {
    let connection = match before(&shared, within, to.connect()).await {
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
    let closing = lock(&shared.home.gone).as_ref().and_then(|gone| gone.closing.clone());
    match closing {
        Some((code, reason)) => connection.close(code, &reason),
        None => connection.close(Code::PathDead.as_u64(), b"not needed any more"),
    }
}

/// Tells the primary that a session was closed which it keeps for its client: on connections that
/// are made for that alone, until it has heard or [`limits::FAREWELL_TIME`] is over.
pub(crate) async fn farewell(
    shared: AnyShared,
    to: Arc<ToPrimary>,
    mut within: Duration,
    with: (u64, Bytes),
) {
    let end = shared.runtime.now() + limits::FAREWELL_TIME;
    loop {
        let left = end.saturating_duration_since(shared.runtime.now());
        if left.is_zero() {
            return;
        }
        within = within.min(left);
        let next = shared.runtime.now() + within;
        if say_farewell(&shared, &to, within, &with).await.is_ok() {
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
    to: &ToPrimary,
    within: Duration,
    (code, reason): &(u64, Bytes),
) -> Result<(), ()> {
    let connection = match before(shared, within, to.connect()).await {
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
        if let Some(link) = lock(&shared.paths).remove(&shared.home.path) {
            let mut gone = lock(&shared.home.gone);
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
                    lock(&shared.home.gone).get_or_insert_default().error = error;
                }
            });
            return None;
        }
    };
    control.decoder.go_on_at(begun.handled);
    let (link, queue) = shared.link(connection);
    let now = shared.runtime.now();
    let taken = shared.replace_home(connection, link, |machine, _| {
        machine.handle_resumed(&resume, now).then_some(()).ok_or(())
    });
    taken.ok()?;
    serve_home(
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
            Err(ReadError::ConnectionLost(error)) => return Err(error.into()),
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
    let (link, queue) = shared.link(connection);
    let now = shared.runtime.now();
    let handled = shared.replace_home(connection, link, |machine, link| {
        let (first, handled) = machine.handle_resume(request, &exporter, resume, now)?;
        link.queue_control(&first);
        Ok::<_, CodedError>(handled)
    })?;
    tracing::debug!(remote = %connection.remote_address(), "the session was taken up");
    control.decoder.go_on_at(handled);
    let send = ControlWriter::new(queue, control.send);
    serve_home(shared, connection, send, control.recv, control.decoder);
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
