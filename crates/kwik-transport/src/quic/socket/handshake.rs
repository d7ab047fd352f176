//! A server's UDP socket that keeps a handshake together whose client changes its address.
//!
//! The QUIC library drops what comes from elsewhere until a handshake is over (RFC 9000 section 9),
//! but a client cannot know that its translator has forgotten it. If that happens just as the
//! client's last message of the handshake leaves, the client takes the handshake for done, and the
//! server never hears the end of it. Here that message counts as sent from where the handshake
//! began. The packets that follow it come from the new address, to which the library then moves.
//!
//! Nobody gains by it: who can send with another's connection id can forge its address as well, no
//! answer goes to the new address before the library has moved, and all is still authenticated.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use kwik_proto::sync::lock;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// Handshakes whose beginning is kept, the newest: more than there are at once.
const MAX_KEPT: usize = 1024;

/// Bytes of a connection id of a server's.
pub(in crate::quic) const ID_LEN: usize = 8;

type ConnectionId = [u8; ID_LEN];

/// See the module.
#[derive(Debug)]
pub(in crate::quic) struct HandshakeSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    begun: Mutex<Begun>,
}

/// Where handshakes began, by the server's connection id.
#[derive(Debug, Default)]
struct Begun {
    by_id: BTreeMap<ConnectionId, SocketAddr>,
    order: VecDeque<ConnectionId>,
}

impl Begun {
    fn note(&mut self, id: ConnectionId, client: SocketAddr) {
        if self.by_id.contains_key(&id) {
            return;
        }
        if self.order.len() >= MAX_KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        self.by_id.insert(id, client);
        self.order.push_back(id);
    }
}

impl HandshakeSocket {
    pub(in crate::quic) fn new(inner: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { inner, begun: Mutex::default() }
    }

    /// Lets what belongs to a handshake come from where it began.
    fn settle(&self, meta: &mut RecvMeta, datagrams: &[u8]) {
        let stride = meta.stride.max(1);
        let received = &datagrams[..meta.len.min(datagrams.len())];
        // Those of one batch are from one address.
        let begun = received.chunks(stride).find_map(|datagram| {
            let (to, _) = connection_ids(datagram)?;
            lock(&self.begun).by_id.get(to).copied()
        });
        if let Some(client) = begun {
            meta.addr = client;
        }
    }
}

/// Whom an Initial or Handshake packet is to, and from (RFC 9000 section 17.2).
fn connection_ids(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    const LONG: u8 = 0x80;
    const TYPE: u8 = 0x30;
    let (first, rest) = datagram.split_first()?;
    // The types in between are 0-RTT and Retry, which carry nothing of a handshake.
    if first & LONG == 0 || first & TYPE == 0x10 || first & TYPE == TYPE {
        return None;
    }
    let (version, rest) = rest.split_at_checked(4)?;
    let (len, rest) = rest.split_first()?;
    let (to, rest) = rest.split_at_checked(usize::from(*len))?;
    let (len, rest) = rest.split_first()?;
    let (from, _) = rest.split_at_checked(usize::from(*len))?;
    // Version 0 is none: it names those that a server speaks.
    version.iter().any(|byte| *byte != 0).then_some((to, from))
}

impl AsyncUdpSocket for HandshakeSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let from = connection_ids(transmit.contents).map(|(_, from)| from);
        if let Some(Ok(id)) = from.map(ConnectionId::try_from) {
            lock(&self.begun).note(id, transmit.destination);
        }
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (meta, datagrams) in meta.iter_mut().zip(bufs.iter()).take(received) {
            self.settle(meta, datagrams);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(first: u8, version: u8, to: &[u8], from: &[u8]) -> Vec<u8> {
        let len = |id: &[u8]| u8::try_from(id.len()).unwrap();
        let head = [first, 0, 0, 0, version, len(to)];
        [&head[..], to, &[len(from)], from, &[7; 30]].concat()
    }

    #[test]
    fn connection_ids_of_handshakes_alone_are_read() {
        let (to, from) = ([1; 8], [2; 5]);
        for first in [0xc0, 0xe3] {
            let whole = packet(first, 1, &to, &from);
            assert_eq!(connection_ids(&whole), Some((&to[..], &from[..])));
            for len in 0..6 + 8 + 1 + 5 {
                assert_eq!(connection_ids(&whole[..len]), None, "{len} bytes");
            }
        }
        // A short header, 0-RTT, Retry, version negotiation.
        for (first, version) in [(0x40, 1), (0xd0, 1), (0xf0, 1), (0xc0, 0)] {
            assert_eq!(connection_ids(&packet(first, version, &to, &from)), None);
        }
        assert_eq!(connection_ids(&packet(0xc0, 1, &[], &[])), Some((&[][..], &[][..])));
    }

    #[test]
    fn the_newest_beginnings_are_kept() {
        let mut begun = Begun::default();
        let client = |port: usize| SocketAddr::from(([192, 0, 2, 1], u16::try_from(port).unwrap()));
        for at in 0..3 * MAX_KEPT {
            begun.note(at.to_be_bytes(), client(at));
            begun.note(at.to_be_bytes(), client(0));
        }
        assert_eq!((begun.by_id.len(), begun.order.len()), (MAX_KEPT, MAX_KEPT));
        let last = 3 * MAX_KEPT - 1;
        assert_eq!(begun.by_id[&last.to_be_bytes()], client(last));
    }
}
