//! A QUIC connection.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use rustls::pki_types::CertificateDer;

use kwik_proto::auth::Fingerprint;
use kwik_proto::stats::{CongestionStats, PacketCounts};

use super::tls::certificate_key;
use super::{ConnectionError, RecvStream, SendDatagramError, SendStream, congestion, varint};

/// An established QUIC connection. Clones are handles to the same one; it is closed with code 0
/// when the last handle and stream are dropped.
#[derive(Debug, Clone)]
pub(crate) struct Connection(quinn::Connection, Sending);

/// How much a connection keeps of what it sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    /// In bytes.
    pub(super) send_window: u64,
    /// In congestion windows, on a path that loses packets.
    pub(super) windows_ahead: u64,
}

/// UDP payload of a connection since it began, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UdpBytes {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What a session wants to know of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// UDP payload received since it began, in bytes.
    pub(crate) arrived: u64,
    /// QUIC packets since it began.
    pub(crate) packets: PacketCounts,
}

/// Figures of a connection since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QuicStats {
    /// Smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// Congestion window, in bytes.
    pub(crate) cwnd: u64,
    /// Largest UDP payload that the path takes, in bytes.
    pub(crate) mtu: u16,
    /// QUIC packets sent.
    pub(crate) sent_packets: u64,
    /// QUIC packets declared lost.
    pub(crate) lost_packets: u64,
    /// Times that the congestion window was cut.
    pub(crate) congestion_events: u64,
    /// UDP payload sent, in bytes.
    pub(crate) sent_bytes: u64,
    /// UDP datagrams sent.
    pub(crate) sent_datagrams: u64,
    /// UDP payload received, in bytes.
    pub(crate) received_bytes: u64,
    /// UDP datagrams received.
    pub(crate) received_datagrams: u64,
}

impl Connection {
    pub(super) fn new(inner: quinn::Connection, sending: Sending) -> Self {
        Self(inner, sending)
    }

    /// Bytes that QUIC takes before they are acknowledged.
    pub(crate) fn send_window(&self) -> u64 {
        self.1.send_window
    }

    /// Opens a stream, waiting for the peer's stream credit. The peer learns of it with its first
    /// data. Cancel safe.
    pub(crate) async fn open_uni(&self) -> Result<SendStream, ConnectionError> {
        self.0.open_uni().await.map(SendStream::new).map_err(ConnectionError::from_quic)
    }

    /// Opens a stream both ways, waiting for the peer's stream credit. The peer learns of it with
    /// its first data. Cancel safe.
    pub(crate) async fn open_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (send, recv) = self.0.open_bi().await.map_err(ConnectionError::from_quic)?;
        Ok((SendStream::new(send), RecvStream::new(recv)))
    }

    /// The peer's next unidirectional stream. Cancel safe.
    pub(crate) async fn accept_uni(&self) -> Result<RecvStream, ConnectionError> {
        self.0.accept_uni().await.map(RecvStream::new).map_err(ConnectionError::from_quic)
    }

    /// The peer's next bidirectional stream. Cancel safe.
    pub(crate) async fn accept_bi(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        let (send, recv) = self.0.accept_bi().await.map_err(ConnectionError::from_quic)?;
        Ok((SendStream::new(send), RecvStream::new(recv)))
    }

    /// Sends an unreliable datagram; the oldest waiting ones make room for it.
    pub(crate) fn send_datagram(&self, data: Bytes) -> Result<(), SendDatagramError> {
        self.0.send_datagram(data).map_err(SendDatagramError::from_quic)
    }

    /// The next datagram of the peer. Cancel safe.
    pub(crate) async fn read_datagram(&self) -> Result<Bytes, ConnectionError> {
        self.0.read_datagram().await.map_err(ConnectionError::from_quic)
    }

    /// The largest datagram that can be sent now; `None` when the peer takes none.
    pub(crate) fn max_datagram_size(&self) -> Option<usize> {
        self.0.max_datagram_size()
    }

    /// Closes at once: what was not delivered is lost. `reason` is cut to fit in one packet.
    pub(crate) fn close(&self, code: u64, reason: &[u8]) {
        self.0.close(varint(code), reason);
    }

    /// Waits for the end and tells why. Cancel safe.
    #[cfg(test)]
    pub(crate) async fn closed(&self) -> ConnectionError {
        ConnectionError::from_quic(self.0.closed().await)
    }

    /// Why it ended, if it did.
    #[cfg(test)]
    pub(crate) fn close_reason(&self) -> Option<ConnectionError> {
        self.0.close_reason().map(ConnectionError::from_quic)
    }

    /// Smoothed round-trip time.
    pub(crate) fn rtt(&self) -> Duration {
        self.0.rtt()
    }

    /// Bytes that it may have in flight, and bytes that may wait for acknowledgement while lost
    /// packets are repeated: none as long as it has lost none.
    pub(crate) fn congestion(&self) -> (u64, u64) {
        let path = self.0.stats().path;
        let windows = if path.lost_packets > 0 { self.1.windows_ahead } else { 0 };
        (path.cwnd, path.cwnd.saturating_mul(windows))
    }

    /// What a session wants to know of it.
    pub(crate) fn figures(&self) -> Figures {
        let stats = self.0.stats();
        Figures {
            rtt: stats.path.rtt,
            arrived: stats.udp_rx.bytes,
            packets: PacketCounts { sent: stats.path.sent_packets, lost: stats.path.lost_packets },
        }
    }

    /// Whether both are handles to the same one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.stable_id() == other.0.stable_id()
    }

    /// UDP payload sent and received since it began, in bytes.
    pub(crate) fn udp_bytes(&self) -> UdpBytes {
        let stats = self.0.stats();
        UdpBytes { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
    }

    /// What rules how much it has in flight.
    pub(crate) fn congestion_stats(&self) -> CongestionStats {
        let path = self.0.stats().path;
        let packets = PacketCounts { sent: path.sent_packets, lost: path.lost_packets };
        let mut stats = congestion::stats(self.0.congestion_state());
        stats.packets = packets;
        stats
    }

    /// Largest UDP payload that the path is known to take, in bytes.
    pub(crate) fn path_mtu(&self) -> u16 {
        self.0.stats().path.current_mtu
    }

    /// Figures since it began.
    pub(crate) fn stats(&self) -> QuicStats {
        let stats = self.0.stats();
        QuicStats {
            rtt: stats.path.rtt,
            cwnd: stats.path.cwnd,
            mtu: stats.path.current_mtu,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            congestion_events: stats.path.congestion_events,
            sent_bytes: stats.udp_tx.bytes,
            sent_datagrams: stats.udp_tx.datagrams,
            received_bytes: stats.udp_rx.bytes,
            received_datagrams: stats.udp_rx.datagrams,
        }
    }

    /// Whether the peer has said that it knows of the end.
    pub(crate) fn is_end_heard(&self) -> bool {
        self.0.stats().frame_rx.connection_close > 0
    }

    /// The peer's address; IPv4 stays IPv4 on a dual-stack socket.
    pub(crate) fn remote_address(&self) -> SocketAddr {
        unmapped(self.0.remote_address())
    }

    /// 32 bytes that only the two ends of this connection can derive (RFC 8446 section 7.5), the
    /// same for the same `label` (a short constant) and `context`.
    pub(crate) fn export_keying_material(&self, label: &[u8], context: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        self.0
            .export_keying_material(&mut key, label, context)
            .expect("invariant: the handshake is complete, label and output are short");
        key
    }

    /// The TLS peer's public key: a server's at a client, `None` at a server.
    pub(crate) fn peer_key(&self) -> Option<Fingerprint> {
        let identity = self.0.peer_identity()?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        certificate_key(chain.first()?).ok()
    }

    /// Sets how many bytes the peer may send ahead of our reading on all streams. A larger window
    /// counts at once, a smaller one as data is read.
    pub(crate) fn set_receive_window(&self, bytes: u64) {
        self.0.set_receive_window(varint(bytes));
    }
}

/// `address` with an IPv4-mapped IPv6 address as IPv4.
pub(super) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip.is_ipv4() => SocketAddr::new(ip, address.port()),
        _ => address,
    }
}
