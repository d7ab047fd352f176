//! The task that serves a path: its control stream, and the QUIC streams of its peer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Waker};
use std::time::Instant;

use kwik_proto::sync::lock;
use kwik_proto::wire::{ControlDecoder, ControlMessage, WireError};
use kwik_proto::{Code, CodedError, PathId, limits};
use tokio::sync::oneshot;

use crate::quic::{Connection, ConnectionError, ReadError, RecvStream, WriteError, yield_now};

use super::control::{ControlStream, ControlWriter};
use super::reader::{self, Reading};
use super::role::Role;
use super::shared::AnyShared;
use super::timer;
use super::watch::Watch;

/// Adds a connection to a session and starts its task.
pub(crate) fn start(
    shared: &AnyShared,
    path: PathId,
    connection: &Connection,
    control: ControlStream,
) {
    let ControlStream { send, recv, decoder } = control;
    let (link, queue) = shared.link(connection);
    lock(&shared.paths).insert(path, link.into());
    let mut control = ControlWriter::new(queue, send);
    // What the machine had ready before its path stood leaves with what the application writes
    // first. If QUIC refuses it, it tells the task too.
    shared.drive(|_, _| {});
    let _refused = control.poll_write(&mut Context::from_waker(Waker::noop()));
    if path == shared.home.path {
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
    shared.runtime.spawn(run(shared.clone(), shared.home.path, connection.clone(), control));
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
        let keeps_time = path == shared.home.path && !shared.alarm.kept.swap(true, Relaxed);
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
    (now, watch): (Instant, Option<&dyn Watch>),
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
    if path == shared.home.path {
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
