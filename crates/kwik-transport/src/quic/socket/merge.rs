//! A UDP socket that merges what the QUIC library sends in a row to one destination.
//!
//! The library cuts a send at 10 datagrams, and the cost of a send hardly depends on its length.

use std::{
    future::Future,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    task::{Context, Poll, Waker},
};

use kwik_proto::sync::lock;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::train::{Admission, Train};
use crate::quic::Runtime;

/// Merges sends over another socket, up to what fits in one send there.
///
/// A transmit that is cut off by the library's limit waits for the next. The train of them leaves
/// when it is full, when a transmit follows that has no more behind it, and at the latest when the
/// runtime has had one turn of all tasks that are ready: long enough for a connection's driver,
/// which yields after two full transmits, to come round again, and no longer than it waits itself
/// at each yield. So a train never waits for a timer, thus not for the next burst of QUIC's pacer.
///
/// What one connection sends to one destination leaves in order. What the inner socket has no room
/// for is kept, one train at most, and tried again when it is writable; until then senders behind
/// it get `WouldBlock`. A train that fails otherwise counts as lost on the way, as a single send
/// does with the library's own socket: to whoever sends next, of whatever connection, it is no
/// error.
#[derive(Debug)]
pub(super) struct MergingSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Held while the train is sent, since that keeps the order.
    pub(super) state: Mutex<State>,
    /// Where the train goes, until it is sent. Held for a moment, also within the lock on `state`:
    /// single datagrams for elsewhere wait for no other's send.
    towards: Mutex<Option<SocketAddr>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    train: Train,
    flusher: Option<Waker>,
}

impl State {
    /// Tells the flusher that a train waits.
    fn wake(&self) {
        if let Some(flusher) = &self.flusher {
            flusher.wake_by_ref();
        }
    }
}

impl MergingSocket {
    /// Merges the sends of `inner`, with a task in `runtime` for trains that nothing follows.
    pub(super) fn spawn(inner: Arc<dyn AsyncUdpSocket>, runtime: &Runtime) -> Arc<Self> {
        let (state, towards) = (Mutex::default(), Mutex::default());
        let socket = Arc::new(Self { inner, state, towards });
        runtime.spawn(Flusher::new(&socket));
        socket
    }

    /// Sends the train. `WouldBlock` leaves what the inner socket did not take.
    fn flush(&self, train: &mut Train) -> io::Result<()> {
        while let Some(transmit) = train.next(self.inner.max_transmit_segments()) {
            let len = transmit.contents.len();
            match self.inner.try_send(&transmit) {
                // The device cannot cut this up, which the socket learned by not sending it: it
                // goes in smaller sends. (Twice, if another send found that out just now.)
                Ok(()) if len > self.largest(&transmit) => continue,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                Err(error) => tracing::debug!(%error, len, "a merged send failed"),
            }
            train.advance(len);
        }
        *lock(&self.towards) = None;
        Ok(())
    }

    /// How many bytes the inner socket takes in a send like `transmit`.
    fn largest(&self, transmit: &Transmit<'_>) -> usize {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
        self.inner.max_transmit_segments().saturating_mul(segment)
    }
}

impl AsyncUdpSocket for MergingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // A single datagram begins no train, and joins none for elsewhere.
        let lone = transmit.segment_size.is_none();
        if lone && *lock(&self.towards) != Some(transmit.destination) {
            return self.inner.try_send(transmit);
        }
        let mut state = lock(&self.state);
        let admission = state.train.admit(transmit, self.inner.max_transmit_segments());
        match admission {
            Admission::Pass => {
                drop(state);
                self.inner.try_send(transmit)
            }
            Admission::Follow => {
                self.flush(&mut state.train)?;
                drop(state);
                self.inner.try_send(transmit)
            }
            Admission::Start => {
                self.flush(&mut state.train)?;
                state.train.push(transmit, admission);
                *lock(&self.towards) = Some(transmit.destination);
                state.wake();
                Ok(())
            }
            Admission::Extend => {
                state.train.push(transmit, admission);
                Ok(())
            }
            Admission::Complete => {
                state.train.push(transmit, admission);
                // It has joined, so that the flusher sends it if this fails.
                if self.flush(&mut state.train).is_err() {
                    state.wake();
                }
                Ok(())
            }
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
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

impl Drop for MergingSocket {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *lock(&self.state));
        if let Err(error) = self.flush(&mut state.train) {
            tracing::debug!(%error, "a merged send is dropped with its socket");
        }
        // It ends.
        state.wake();
    }
}

/// Sends the trains that nothing follows. Ends with the socket.
#[derive(Debug)]
struct Flusher {
    socket: Weak<MergingSocket>,
    /// The train that had its turn.
    seen: u64,
    /// While the inner socket has no room.
    writable: Option<Pin<Box<dyn UdpPoller>>>,
}

impl Flusher {
    fn new(socket: &Arc<MergingSocket>) -> Self {
        Self { socket: Arc::downgrade(socket), seen: 0, writable: None }
    }
}

impl Future for Flusher {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(socket) = this.socket.upgrade() else { return Poll::Ready(()) };
        let mut state = lock(&socket.state);
        if !state.flusher.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.flusher = Some(cx.waker().clone());
        }
        let train = &mut state.train;
        if !train.is_empty() && !train.is_complete() && this.seen != train.number() {
            this.seen = train.number();
            // Comes behind every task that is ready now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        while socket.flush(train).is_err() {
            let inner = || Arc::clone(&socket.inner).create_io_poller();
            let writable = this.writable.get_or_insert_with(inner);
            match writable.as_mut().poll_writable(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a merged send is given up");
                    train.clear();
                }
            }
        }
        this.writable = None;
        Poll::Pending
    }
}
