//! UDP sockets.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kwik::runtime;

use crate::executor::HostId;
use crate::sim::{Sim, lock};

/// Bytes that wait in a socket for who reads it.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A datagram on its way.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) contents: Bytes,
}

/// What waits in a socket.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
    reader: Option<Waker>,
}

impl Inbox {
    /// Takes a datagram, if there is room: who is to be woken.
    pub(crate) fn deliver(&self, datagram: Datagram) -> Result<Option<Waker>, ()> {
        let mut waiting = lock(&self.0);
        if waiting.bytes + datagram.contents.len() > RECEIVE_BUFFER {
            return Err(());
        }
        waiting.bytes += datagram.contents.len();
        waiting.datagrams.push_back(datagram);
        Ok(waiting.reader.take())
    }
}

/// A socket of a host; it is dead once its host crashed.
#[derive(Debug)]
pub(crate) struct Socket {
    sim: Sim,
    host: HostId,
    address: SocketAddr,
    inbox: Arc<Inbox>,
}

impl Socket {
    pub(crate) fn new(sim: Sim, host: HostId, address: SocketAddr, inbox: Arc<Inbox>) -> Self {
        Self { sim, host, address, inbox }
    }
}

impl runtime::Socket for Socket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let mut state = self.sim.state();
        let own = state.hosts[self.host].sockets.get(&self.address.port());
        if own.is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            let contents = Bytes::copy_from_slice(datagram);
            // The host may have moved since.
            let from = SocketAddr::new(state.hosts[self.host].address, self.address.port());
            state.send(self.host, Datagram { from, to, contents });
        }
    }

    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        let mut waiting = lock(&self.inbox.0);
        let Some(datagram) = waiting.datagrams.pop_front() else {
            waiting.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        waiting.bytes -= datagram.contents.len();
        let len = datagram.contents.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram.contents[..len]);
        Poll::Ready((len, datagram.from))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        let sockets = &mut state.hosts[self.host].sockets;
        let port = self.address.port();
        if sockets.get(&port).is_some_and(|inbox| Arc::ptr_eq(inbox, &self.inbox)) {
            sockets.remove(&port);
        }
    }
}
