//! The UDP socket under an endpoint.

mod custom;
mod handshake;
mod merge;
mod plain;
mod train;
mod unsent;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Once},
};

use socket2::{Domain, Protocol, Socket, Type};

pub(super) use handshake::{HandshakeSocket, ID_LEN};

use super::{QuicConfig, Runtime};
use custom::CustomSocket;
use merge::MergingSocket;
use plain::PlainSocket;

/// Elsewhere one send is several calls or needs drivers of which we know too little.
const MERGES: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A bound UDP socket, driven by a runtime.
#[derive(Debug)]
pub(crate) struct UdpSocket(Arc<dyn quinn::AsyncUdpSocket>);

impl UdpSocket {
    /// Binds to `address`, with the buffers that `config` wishes or what the kernel grants. An
    /// IPv6 socket takes IPv4 peers too where the system allows it.
    pub(crate) fn bind(
        address: SocketAddr,
        config: &QuicConfig,
        runtime: &Runtime,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6()
            && let Err(error) = socket.set_only_v6(false)
        {
            tracing::debug!(%error, "IPv6 socket is not dual-stack");
        }
        enlarge_buffers(&socket, config.socket_buffer)?;
        socket.bind(&address.into())?;
        Self::bound(socket, config, runtime)
    }

    /// One that is bound already.
    pub(crate) fn from_std(
        socket: std::net::UdpSocket,
        config: &QuicConfig,
        runtime: &Runtime,
    ) -> io::Result<Self> {
        let socket = Socket::from(socket);
        enlarge_buffers(&socket, config.socket_buffer)?;
        Self::bound(socket, config, runtime)
    }

    fn bound(socket: Socket, config: &QuicConfig, runtime: &Runtime) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket: Arc<dyn quinn::AsyncUdpSocket> = {
            let _inside = runtime.enter().ok_or(io::ErrorKind::Unsupported)?;
            Arc::new(PlainSocket::new(socket.into())?)
        };
        // Without segmentation by the kernel there is nothing to gain.
        if MERGES && config.merge_sends && socket.max_transmit_segments() > 1 {
            return Ok(Self(MergingSocket::spawn(socket, runtime)));
        }
        Ok(Self(socket))
    }

    /// One of the application's own.
    pub(crate) fn custom(socket: Arc<dyn crate::runtime::Socket>) -> Self {
        Self(Arc::new(CustomSocket(socket)))
    }

    /// What the QUIC library is given.
    pub(super) fn into_inner(self) -> Arc<dyn quinn::AsyncUdpSocket> {
        self.0
    }
}

/// Asks for `wished` bytes both ways and warns, once in a process, when the kernel grants less.
fn enlarge_buffers(socket: &Socket, wished: usize) -> io::Result<()> {
    static WARNED: Once = Once::new();
    // Some systems refuse what Linux cuts down; the granted size tells either way.
    for result in [socket.set_recv_buffer_size(wished), socket.set_send_buffer_size(wished)] {
        if let Err(error) = result {
            tracing::debug!(%error, wished, "socket buffer size refused");
        }
    }
    let granted = granted(socket.recv_buffer_size()?).min(granted(socket.send_buffer_size()?));
    if granted < wished {
        WARNED.call_once(|| {
            tracing::warn!(
                granted,
                wished,
                "UDP socket buffers are small, so bursts lose packets; to raise the limit run: \
                 sysctl -w net.core.rmem_max={wished} net.core.wmem_max={wished}"
            );
        });
    }
    Ok(())
}

/// Linux reports twice what was granted, to account for its bookkeeping (socket(7)).
fn granted(reported: usize) -> usize {
    if cfg!(target_os = "linux") { reported / 2 } else { reported }
}
