//! Dialing the secondaries that a primary names.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use kwik_proto::Code;
use kwik_proto::auth::EXPORTER_LABEL;
use kwik_proto::session::Dial;
use kwik_proto::sync::lock;

use crate::quic::{ClientTls, Connection, Endpoint, ServerTrust};

use super::control::{ControlStream, open_control};
use super::path::start;
use super::shared::AnyShared;

/// The TLS name of servers that are known by their key.
pub(crate) const SERVER_NAME: &str = "kwik";

/// Dials a secondary that the primary named.
pub(crate) async fn dial(shared: AnyShared, endpoint: Endpoint, dial: Dial) {
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
