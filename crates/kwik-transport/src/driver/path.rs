//! One path: its connection, its control stream, and the task that serves them.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kwik_proto::auth::EXPORTER_LABEL;
use kwik_proto::path::ConnectionWindow;
use kwik_proto::session::Dial;
use kwik_proto::sync::lock;
use kwik_proto::wire::control::RawPacketTransmission;
use kwik_proto::wire::{ControlDecoder, ControlMessage, StreamKind, WireError, raw};
use kwik_proto::{Code, CodedError, PathId, limits};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::SessionWatch;
use crate::quic::{
    ClientTls, Connection, ConnectionError, Endpoint, ReadError, RecvStream, Runtime, SendStream,
    ServerTrust, WriteError,
};

use super::control::{ControlBuffer, ControlWriter};
use super::home::Queue;
use super::reader::Reading;
use super::{AnyShared, Role, reader, timer, yield_now};

/// A path's connection, and what waits to be written to it.
#[derive(Debug)]
pub(crate) struct PathLink {
    pub(super) connection: Connection,
    /// How large its receive window is.
    window: ConnectionWindow,
    pub(super) control: Arc<ControlBuffer>,
    /// From the first raw packet on.
    raw: OnceLock<mpsc::Sender<RawPacketTransmission>>,
    /// Bytes of raw packets that are queued.
    raw_bytes: Arc<AtomicUsize>,
    watch: Option<Box<SessionWatch>>,
}

impl Drop for PathLink {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.on_connection_ended(&self.connection.stats());
        }
    }
}

impl PathLink {
    pub(super) fn size_window(&mut self, rtt: Duration, arrived: u64, now: Instant) {
        if let Some(size) = self.window.on_figures(rtt, arrived, now) {
            self.connection.set_receive_window(size);
        }
    }

    /// Queues control bytes, under the machine's lock. A peer that reads so slowly that the bound
    /// is passed loses the path.
    pub(super) fn queue_control(&self, bytes: &[u8]) {
        if !self.control.push(bytes) {
            let code = Code::LimitExceeded;
            self.connection.close(code.as_u64(), code.name().as_bytes());
        }
    }

    /// Queues a raw packet, unless as many wait as may.
    pub(super) fn forward_raw(
        &self,
        packet: RawPacketTransmission,
        runtime: &Runtime,
    ) -> Result<(), Code> {
        let raw = self.raw.get_or_init(|| {
            let (raw, packets) = mpsc::channel(limits::MAX_RAW_QUEUED);
            runtime.spawn(write_raw(self.connection.clone(), packets, self.raw_bytes.clone()));
            raw
        });
        let len = packet.data.len();
        let waiting = self.raw_bytes.fetch_add(len, Relaxed);
        let fits = waiting + len <= limits::MAX_RAW_QUEUED_BYTES;
        if !fits || raw.try_send(packet).is_err() {
            self.raw_bytes.fetch_sub(len, Relaxed);
            return Err(Code::LimitExceeded);
        }
        Ok(())
    }
}

/// The two halves of a path's control stream, with what was decoded of it already.
pub(crate) struct ControlStream {
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    pub(crate) decoder: ControlDecoder,
}

/// A connection of a session, and the queue of its control stream.
pub(super) fn link(shared: &AnyShared, connection: &Connection) -> (PathLink, Queue) {
    let client = shared.dialer.is_some();
    let most = if client { limits::MAX_CONTROL_QUEUED } else { limits::MAX_ANSWERS_QUEUED };
    let queue = Arc::new(ControlBuffer::new(most));
    let link = PathLink {
        connection: connection.clone(),
        window: ConnectionWindow::new(shared.receive_window),
        control: queue.clone(),
        raw: OnceLock::new(),
        raw_bytes: Arc::default(),
        watch: shared.watch().cloned().map(Box::new),
    };
    (link, queue)
}

/// Adds a connection to a session and starts its task.
pub(crate) fn start(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    control: ControlStream,
) {
    let ControlStream { send, recv, decoder } = control;
    let (link, queue) = link(shared, connection);
    lock(&shared.paths).insert(path, link.into());
    let mut control = ControlWriter::new(queue, send);
    // What the machine had ready before its path stood leaves with what the application writes
    // first. If QUIC refuses it, it tells the task too.
    shared.drive(|_, _| {});
    let _refused = control.poll_write(&mut Context::from_waker(Waker::noop()));
    if path == shared.home {
        return serve_home(shared, connection, control, recv, decoder);
    }
    shared.runtime.spawn(run(shared.clone(), path, connection.clone(), (control, recv, decoder)));
}

/// Starts the task of the session's first path.
pub(super) fn serve_home(
    shared: &AnyShared,
    connection: &Connection,
    send: ControlWriter,
    recv: RecvStream,
    decoder: ControlDecoder,
) {
    if let Some(datagrams) = shared.datagrams.clone() {
        let connection = connection.clone();
        shared.runtime.spawn(async move { drop(datagrams.receive(&connection).await) });
    }
    let control = (send, recv, decoder);
    shared.runtime.spawn(run(shared.clone(), shared.home, connection.clone(), control));
}

/// Serves a path until its connection is lost: reads and writes its control stream, and starts a
/// reader for each other QUIC stream. The path without which there is no session keeps the
/// session's time too.
#[expect(clippy::manual_async_fn, reason = "it would keep its arguments twice")]
fn run(
    shared: AnyShared,
    path: PathId,
    connection: Connection,
    (mut send, mut recv, mut decoder): (ControlWriter, RecvStream, ControlDecoder),
) -> impl Future<Output = ()> {
    async move {
        let (reading, read) = oneshot::channel();
        let reading = Reading::new(reading);
        let held = reading.clone();
        let reads = pin!(async {
            read_control(&shared, (path, &connection), &mut recv, &mut decoder).await;
            drop(held);
        });
        let timer = pin!(timer::run(&shared));
        // Last, as the others queue what it writes.
        let writes = pin!(write_control(&shared, (path, &connection), &mut send));
        let mut accepts = pin!(async {
            let lost = accept_streams(&shared, path, &connection, reading).await;
            // What came before the end is read before the end is told, as in quinn.
            read.await.ok();
            on_lost(&shared, path, &connection, lost);
        });
        let keeps_time = path == shared.home && !shared.timed.swap(true, Relaxed);
        let timer = keeps_time.then_some(timer as Pin<&mut Part<'_>>);
        let mut parts = [Some(reads as Pin<&mut Part<'_>>), timer, Some(writes)];
        let served = poll_fn(|cx| {
            for part in &mut parts {
                if part.as_mut().is_some_and(|part| part.as_mut().poll(cx).is_ready()) {
                    *part = None;
                }
            }
            accepts.as_mut().poll(cx)
        });
        served.await;
        if keeps_time {
            // Another connection may come, until which much may fall due.
            let shared = shared.clone();
            shared.runtime.clone().spawn(async move { timer::run(&shared).await });
        }
    }
}

/// What a path's task does beside others.
type Part<'a> = dyn Future<Output = ()> + Send + 'a;

/// Dials a secondary that the primary named.
pub(super) async fn dial(shared: AnyShared, endpoint: Endpoint, dial: Dial) {
    let path = dial.path;
    let deadline = shared.runtime.now() + dial.within;
    let mut connecting = pin!(connect(&endpoint, &dial));
    let mut timeout = shared.runtime.sleep_until(deadline);
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = connecting.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        Pin::new(&mut timeout).poll(cx).map(|()| Err("no answer in time".to_owned()))
    });
    match result.await {
        Ok((connection, control)) => {
            let exporter = connection.export_keying_material(EXPORTER_LABEL, b"");
            start(&shared, path, &connection, control);
            if !shared.drive(|machine, now| machine.handle_connected(path, &exporter, now)) {
                lock(&shared.paths).remove(&path);
                connection.close(Code::PathDead.as_u64(), b"not wanted any more");
            }
        }
        Err(reason) => {
            tracing::info!(%path, address = %dial.address, %reason, "path not made");
            shared.drive(|machine, now| machine.handle_path_lost(path, &reason, now));
        }
    }
}

async fn connect(endpoint: &Endpoint, dial: &Dial) -> Result<(Connection, ControlStream), String> {
    let tls = ClientTls::new(ServerTrust::Pin(dial.pin)).map_err(|error| error.to_string())?;
    let connecting = endpoint.connect_path((dial.address, dial.path), SERVER_NAME, &tls);
    let connecting = connecting.map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| error.to_string())?;
    let control = open_control(&connection).await.map_err(|error| error.to_string())?;
    Ok((connection, control))
}

/// The TLS name of servers that are known by their key.
pub(crate) const SERVER_NAME: &str = "kwik";

/// Opens a path's control stream, as its client.
pub(crate) async fn open_control(
    connection: &Connection,
) -> Result<ControlStream, ConnectionError> {
    let (send, recv) = connection.open_bi().await?;
    // Nothing of the data plane may hold it up.
    send.set_priority(i32::MAX).ok();
    Ok(ControlStream { send, recv, decoder: ControlDecoder::new() })
}

/// Writes what is queued until QUIC takes no more.
async fn write_control(shared: &AnyShared, on: (PathId, &Connection), control: &mut ControlWriter) {
    let error = poll_fn(|cx| control.poll_write(cx)).await;
    // Who accepts streams tells of a lost connection.
    if !matches!(error, WriteError::ConnectionLost(_)) {
        let context = format!("the control stream cannot be written: {error}");
        let error = CodedError::new(Code::InvalidFrame, context);
        shared.drive_on(on, |machine, now| machine.handle_violation(on.0, &error, now));
    }
}

/// Control frames and chunks of them that are handled before what else the path's task does, and
/// before others get a turn: some frames bring much about.
const CONTROL_TURN: u32 = 64;

/// Feeds the machine until the control stream ends, which ends the path.
async fn read_control(
    shared: &AnyShared,
    (path, connection): (PathId, &Connection),
    stream: &mut RecvStream,
    decoder: &mut ControlDecoder,
) {
    loop {
        // All that came together is handled before what it causes: leases of one object, say.
        let on = (path, connection);
        let fed =
            shared.drive_on(on, |machine, now| feed(machine, on, decoder, (now, shared.watch())));
        let Some(fed) = fed else { return };
        match fed {
            Ok(true) => {
                // What these were answered leaves before more are read.
                yield_now().await;
                continue;
            }
            Ok(false) => {}
            Err(error) => {
                let error = CodedError::new(error.code(), error.to_string());
                shared.drive_on(on, |machine, now| machine.handle_violation(path, &error, now));
                return;
            }
        }
        match stream.read_chunk(limits::MAX_CONTROL_FRAME, true).await {
            Ok(Some(chunk)) => decoder.handle_input(chunk.bytes),
            // Who accepts streams tells of it.
            Err(ReadError::ConnectionLost(_)) => return,
            Ok(None) | Err(_) => break,
        }
    }
    let error = CodedError::new(Code::InvalidFrame, "the control stream ended");
    let on = (path, connection);
    shared.drive_on(on, |machine, now| machine.handle_violation(path, &error, now));
}

/// Feeds the machine what has been decoded; true when more is left for another turn.
fn feed(
    machine: &mut dyn Role,
    (path, connection): (PathId, &Connection),
    decoder: &mut ControlDecoder,
    (now, watch): (Instant, Option<&SessionWatch>),
) -> Result<bool, WireError> {
    for _ in 0..CONTROL_TURN {
        let Some(message) = decoder.poll_frame()? else { return Ok(false) };
        // The answer says how the path does; from the first one on what is asked of it follows from
        // its round trip.
        let answer = matches!(
            message,
            ControlMessage::Heartbeat(_) | ControlMessage::AuthenticationResponse(_)
        );
        let accepts = path.is_primary()
            && matches!(&message, ControlMessage::AuthenticationResponse(m) if m.result.is_ok());
        machine.handle_control(path, message, now);
        if let Some(watch) = watch.filter(|_| accepts) {
            watch.on_accepted(now);
        }
        if answer {
            let figures = connection.figures();
            machine.on_figures(path, figures, now);
            if let Some(watch) = watch {
                watch.on_rtt(figures.rtt);
            }
        }
    }
    Ok(true)
}

fn on_lost(shared: &AnyShared, path: PathId, connection: &Connection, error: ConnectionError) {
    tracing::debug!(%path, %error, "connection lost");
    if path == shared.home {
        return shared.on_home_lost(connection, error);
    }
    let reason = error.to_string();
    shared.drive(|machine, now| {
        // Else it was given up, and the path may have another one already.
        if shared.is_current(path, connection) {
            machine.handle_path_lost(path, &reason, now);
        }
    });
}

/// Starts a reader for each unidirectional QUIC stream of the peer, as many as QUIC's stream limit
/// allows, until the connection is lost: why.
async fn accept_streams(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    reading: Reading,
) -> ConnectionError {
    loop {
        match connection.accept_uni().await {
            Ok(stream) => {
                let reading = reading.clone();
                let task = reader::run(shared.clone(), path, connection.clone(), stream, reading);
                shared.runtime.spawn(task);
            }
            Err(error) => return error,
        }
    }
}

/// Writes raw packets in order on a stream of their own, opened with the first.
async fn write_raw(
    connection: Connection,
    mut packets: mpsc::Receiver<RawPacketTransmission>,
    queued: Arc<AtomicUsize>,
) {
    let mut stream: Option<SendStream> = None;
    while let Some(packet) = packets.recv().await {
        let mut encoded = BytesMut::new();
        if stream.is_none() {
            let Ok(opened) = connection.open_uni().await else { return };
            StreamKind::Raw.encode(&mut encoded);
            stream = Some(opened);
        }
        raw::encode_raw(&packet, &mut encoded);
        let Some(stream) = &mut stream else { return };
        if stream.write_chunk(encoded.freeze()).await.is_err() {
            return;
        }
        queued.fetch_sub(packet.data.len(), Relaxed);
    }
}
