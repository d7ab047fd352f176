//! Settings of a QUIC connection.

use std::{sync::Arc, time::Duration};

use kwik_proto::ConfigError;
use kwik_proto::limits::{self, MAX_QUIC_STREAMS};

use super::congestion::{Congestion, CongestionControl};
use super::qlog::Trace;
use super::{Qlog, Runtime, varint};

/// The QUIC library ends a connection with more than 1,024 stretches of one stream that have gaps
/// between them. Where chance loses half of all packets, a quarter of them begin such a stretch: so
/// many packets of the least size do not end a connection however many are lost.
const MAX_STREAM_WINDOW: u64 = 4 * 1024 * 1200;

/// Settings of the QUIC connections and the UDP socket of one endpoint.
///
/// What is not named here is the QUIC library's default: MTU discovery, initial RTT of 333 ms
/// (RFC 9002), no keep-alive (KWIK has heartbeats of its own). A sender that its
/// congestion window has kept from sending for a second may send two packets more. A bare QUIC
/// endpoint with these values is what KWIK is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicConfig {
    /// Bytes that a peer may send ahead of our reading on one QUIC stream; from 64 KiB to 4.9 MB,
    /// as more than 1,024 gaps in one stream end the connection. With less a path of a long round
    /// trip stands still while what it lost is repeated.
    pub stream_receive_window: u64,
    /// Bytes that a peer may send ahead of our reading on all QUIC streams of a connection, at
    /// the most: the window starts at 1 MiB and keeps ahead of what arrives in a round trip. 64
    /// KiB at least.
    pub receive_window: u64,
    /// Bytes kept for one connection that are written and not acknowledged; 1,200 at least.
    pub send_window: u64,
    /// Unidirectional QUIC streams that a peer may have open at once; from 1 to 100.
    pub max_uni_streams: u32,
    /// A connection that heard nothing for this long is over.
    pub idle_timeout: Duration,
    /// Bytes of received datagrams that wait for the application, each with 64 bytes more; older
    /// ones go first. 0 turns datagrams off, both ways, and is the default: a peer could make an
    /// application that never reads any hold them.
    pub datagram_receive_buffer: usize,
    /// Bytes of datagrams that wait to be sent; older ones go first.
    pub datagram_send_buffer: usize,
    /// Wished size of the UDP socket's receive and send buffers, in bytes each.
    pub socket_buffer: usize,
    /// Whether what QUIC sends in a row to one peer leaves in sends of up to 64 kB, instead of 10
    /// packets each: bulk costs less CPU, and waits for one turn of the runtime's ready tasks at
    /// most. It works where the kernel cuts up such sends (Linux), and changes nothing elsewhere.
    pub merge_sends: bool,
    /// What decides how much this endpoint has in flight on a connection.
    pub congestion: CongestionControl,
    /// Where each connection has a qlog, and what happens to sessions. None, the default: nowhere.
    /// An endpoint with one is [watched](crate::Endpoint::watch) from its start.
    #[cfg(feature = "qlog")]
    pub qlog: Option<super::Qlog>,
}

impl Default for QuicConfig {
    fn default() -> Self {
        Self {
            stream_receive_window: MAX_STREAM_WINDOW,
            receive_window: 16 * 1024 * 1024,
            send_window: 8 * 1024 * 1024,
            max_uni_streams: MAX_QUIC_STREAMS,
            idle_timeout: Duration::from_secs(30),
            datagram_receive_buffer: 0,
            datagram_send_buffer: 256 * 1024,
            // The usual default of 208 KiB loses packets at a few Gbit/s.
            socket_buffer: 4 * 1024 * 1024,
            merge_sends: true,
            congestion: CongestionControl::default(),
            #[cfg(feature = "qlog")]
            qlog: None,
        }
    }
}

impl QuicConfig {
    /// Checks the bounds of its fields: with less, nothing moves.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let packet = limits::MAX_PACKET_PAYLOAD as u64;
        for (setting, value, bounds) in [
            ("stream_receive_window", self.stream_receive_window, packet..=MAX_STREAM_WINDOW),
            ("receive_window", self.receive_window, packet..=limits::MAX_OFFSET),
            ("send_window", self.send_window, limits::FIRST_FLIGHT_DATA..=limits::MAX_OFFSET),
            ("max_uni_streams", self.max_uni_streams.into(), 1..=MAX_QUIC_STREAMS.into()),
        ] {
            if !bounds.contains(&value) {
                let (value, bounds) = (value.to_string(), format!("{bounds:?}"));
                return Err(ConfigError::OutOfBounds { setting, value, bounds });
            }
        }
        Ok(())
    }

    /// Where connections are traced, if they are.
    pub(crate) const fn qlog(&self) -> Option<&Qlog> {
        #[cfg(feature = "qlog")]
        return self.qlog.as_ref();
        #[cfg(not(feature = "qlog"))]
        None
    }

    /// The same for the QUIC library, of one connection if that is traced.
    pub(super) fn transport(
        &self,
        runtime: &Runtime,
        trace: Option<Trace>,
    ) -> Arc<quinn::TransportConfig> {
        let idle = u64::try_from(self.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        let clock = runtime.clone();
        let congestion = Arc::new(Congestion::new(self.congestion, move || clock.now()));
        let mut transport = quinn::TransportConfig::default();
        transport
            .stream_receive_window(varint(self.stream_receive_window))
            .receive_window(varint(self.receive_window))
            .send_window(self.send_window)
            .max_concurrent_uni_streams(self.max_uni_streams.into())
            // The control stream; nobody would read another.
            .max_concurrent_bidi_streams(1u32.into())
            .max_idle_timeout(Some(varint(idle).into()))
            .keep_alive_interval(None)
            .congestion_controller_factory(congestion)
            .datagram_receive_buffer_size(
                Some(self.datagram_receive_buffer).filter(|size| *size > 0),
            )
            .datagram_send_buffer_size(self.datagram_send_buffer);
        if let Some(trace) = trace {
            trace.apply(&mut transport);
        }
        Arc::new(transport)
    }
}
