//! A path's connection, and what waits to be written to it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use kwik_proto::path::ConnectionWindow;
use kwik_proto::wire::control::RawPacketTransmission;
use kwik_proto::wire::{StreamKind, raw};
use kwik_proto::{Code, limits};
use tokio::sync::mpsc;

use crate::quic::{Connection, Runtime, SendStream};

use super::control::ControlBuffer;
use super::watch::Watch;

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
    watch: Option<Arc<dyn Watch>>,
}

impl Drop for PathLink {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.on_connection_ended(&self.connection.stats());
        }
    }
}

impl PathLink {
    /// One whose receive window may grow to so many bytes.
    pub(super) fn new(
        connection: &Connection,
        receive_window: u64,
        control: Arc<ControlBuffer>,
        watch: Option<Arc<dyn Watch>>,
    ) -> Self {
        Self {
            connection: connection.clone(),
            window: ConnectionWindow::new(receive_window),
            control,
            raw: OnceLock::new(),
            raw_bytes: Arc::default(),
            watch,
        }
    }

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
