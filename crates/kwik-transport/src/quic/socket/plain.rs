//! The UDP socket on tokio.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState},
};
use tokio::{io::Interest, net::UdpSocket, task::yield_now};

use super::unsent::{Unsent, is_too_large};

/// Bytes that leave before the runtime looks for what has come. A runtime that has work looks after
/// so many turns of tasks (61 with tokio) alone. When each of them sends 64 KiB, that is a
/// millisecond in which nobody hears what other peers say.
const LOOK_EVERY: usize = 64 * 1024;

/// A UDP socket as the QUIC library's own, but one that does not ask again after it was told that
/// the queue is empty.
#[derive(Debug)]
pub(crate) struct PlainSocket {
    io: UdpSocket,
    state: UdpSocketState,
    unsent: Unsent,
    /// Bytes that were sent since the runtime last looked for what has come.
    unlooked: AtomicUsize,
}

impl PlainSocket {
    /// On a bound `socket`; must be called inside a tokio runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let (io, unsent) = (UdpSocket::from_std(socket)?, Unsent::default());
        Ok(Self { io, state, unsent, unlooked: AtomicUsize::new(0) })
    }
}

impl AsyncUdpSocket for PlainSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let wait = move || {
            let socket = Arc::clone(&self);
            async move {
                if socket.unlooked.load(Relaxed) >= LOOK_EVERY {
                    // Goes on once the runtime has looked.
                    yield_now().await;
                    socket.unlooked.store(0, Relaxed);
                }
                socket.io.writable().await
            }
        };
        Box::pin(WritePoller { wait, waiting: Box::pin(None) })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.unlooked.fetch_add(transmit.contents.len(), Relaxed);
        self.io.try_io(Interest::WRITABLE, || {
            let sent = self.state.try_send((&self.io).into(), transmit);
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                Err(error) => {
                    if !is_too_large(&error) {
                        self.unsent.notice(transmit.destination, &error);
                    }
                    Ok(())
                }
                Ok(()) => Ok(()),
            }
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // recvmmsg on Linux stops short only when it has emptied the queue: an unconnected socket
        // without IP_RECVERR has no errors that could stop it earlier.
        let empties = cfg!(any(target_os = "linux", target_os = "android"));
        let batch = bufs.len().min(BATCH_SIZE);
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            let mut received = 0;
            let result = self.io.try_io(Interest::READABLE, || {
                received = self.state.recv((&self.io).into(), bufs, meta)?;
                if empties && received < batch {
                    // Clears readiness, unless tokio heard of more since before the call: whatever
                    // arrives after it is an event of its own, so no wake-up is lost.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            // Other errors tell of packets sent earlier, as in the library's own socket.
            if received > 0 || result.is_ok() {
                return Poll::Ready(Ok(received));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits again and again, in one place of memory, for what `wait` makes.
struct WritePoller<W, F> {
    wait: W,
    waiting: Pin<Box<Option<F>>>,
}

impl<W, F> UdpPoller for WritePoller<W, F>
where
    W: Fn() -> F + Send + Sync + Unpin + 'static,
    F: Future<Output = io::Result<()>> + Send + Sync + 'static,
{
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waiting.is_none() {
            this.waiting.set(Some((this.wait)()));
        }
        let waiting = this.waiting.as_mut().as_pin_mut().expect("invariant: set above");
        let result = ready!(waiting.poll(cx));
        this.waiting.set(None);
        Poll::Ready(result)
    }
}

impl<W, F> fmt::Debug for WritePoller<W, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WritePoller").finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests run on tokio itself")]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A datagram that has come is heard of before the sender has sent much more, though it never
    /// waits for anything.
    #[tokio::test]
    async fn who_sends_much_lets_the_runtime_look_for_what_comes() {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (sink, sender, listener) = (bind(), bind(), bind());
        let (destination, told) = (sink.local_addr().unwrap(), listener.local_addr().unwrap());
        let sender = Arc::new(PlainSocket::new(sender).unwrap());
        let listener = PlainSocket::new(listener).unwrap();
        let hearing = tokio::spawn(async move {
            let (mut buffer, mut meta) = ([0; 2000], [RecvMeta::default()]);
            let mut buffers = [IoSliceMut::new(&mut buffer)];
            poll_fn(|cx| listener.poll_recv(cx, &mut buffers, &mut meta)).await.unwrap();
        });
        yield_now().await;
        sink.send_to(b"hello", told).unwrap();
        let mut poller = sender.clone().create_io_poller();
        let contents = [7; 1000];
        for _ in 0..=3 * LOOK_EVERY / contents.len() {
            poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
            let transmit = Transmit {
                destination,
                ecn: None,
                contents: &contents,
                segment_size: None,
                src_ip: None,
            };
            sender.try_send(&transmit).unwrap();
        }
        assert!(hearing.is_finished());
    }
}
