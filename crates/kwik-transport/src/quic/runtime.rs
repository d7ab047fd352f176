//! Where the whole crate gets time, timers, tasks and randomness, so that virtual time reaches
//! everything.

use std::{
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use kwik_proto::presentation::ReceiveMemory;
use ring::rand::{SecureRandom, SystemRandom};

use super::socket::PlainSocket;
use crate::runtime;

/// Time, timers, tasks and randomness. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    inner: Arc<dyn quinn::Runtime>,
    /// Set when it is not tokio.
    custom: Option<Arc<dyn runtime::Runtime>>,
}

impl Runtime {
    /// The tokio runtime in which this is called; used from anywhere.
    pub(crate) fn tokio() -> Self {
        let inner = Arc::new(Tokio(tokio::runtime::Handle::current()));
        Self { inner, custom: None }
    }

    /// One of the application's own.
    pub(crate) fn custom(runtime: Arc<dyn runtime::Runtime>) -> Self {
        Self { inner: Arc::new(Custom(runtime.clone())), custom: Some(runtime) }
    }

    /// What the QUIC library is given.
    pub(super) fn inner(&self) -> &Arc<dyn quinn::Runtime> {
        &self.inner
    }

    /// A seed for the QUIC library's own chance; none: it asks the system.
    pub(super) fn seed(&self) -> Option<[u8; 32]> {
        self.custom.is_some().then(|| self.random_bytes())
    }

    /// Where received bytes are: with a socket of the application's own, each datagram by itself.
    pub(crate) fn receive_memory(&self) -> ReceiveMemory {
        match self.custom {
            Some(_) => ReceiveMemory::of_datagrams(),
            None => ReceiveMemory::default(),
        }
    }

    /// The present moment of this runtime's clock.
    pub(crate) fn now(&self) -> Instant {
        self.inner.now()
    }

    /// The present date.
    pub(crate) fn wall_clock(&self) -> SystemTime {
        self.custom.as_ref().map_or_else(SystemTime::now, |runtime| runtime.wall_clock())
    }

    /// Completes at `deadline`.
    pub(crate) fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep(self.inner.new_timer(deadline))
    }

    /// Drives `future` to its end in a task of its own.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.inner.spawn(Box::pin(future));
    }

    /// Bytes that nobody can guess.
    pub(crate) fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.custom {
            Some(runtime) => runtime.fill_random(&mut bytes),
            None => SystemRandom::new()
                .fill(&mut bytes)
                .expect("invariant: the operating system has randomness"),
        }
        bytes
    }
}

/// The QUIC library's own needs to be called inside a runtime, but handles may be dropped anywhere.
#[derive(Debug)]
struct Tokio(tokio::runtime::Handle);

impl quinn::Runtime for Tokio {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        let _inside = self.0.enter();
        quinn::TokioRuntime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        let _inside = self.0.enter();
        Ok(Arc::new(PlainSocket::new(socket)?))
    }

    fn now(&self) -> Instant {
        quinn::TokioRuntime.now()
    }
}

#[derive(Debug)]
struct Custom(Arc<dyn runtime::Runtime>);

impl quinn::Runtime for Custom {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        Box::pin(CustomTimer(self.0.new_timer(deadline)))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

#[derive(Debug)]
struct CustomTimer(Pin<Box<dyn runtime::Timer>>);

impl quinn::AsyncTimer for CustomTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.0.as_mut().reset(deadline);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// A socket of the application's own.
#[derive(Debug)]
pub(super) struct CustomSocket(pub(super) Arc<dyn runtime::Socket>);

impl quinn::AsyncUdpSocket for CustomSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &quinn::udp::Transmit<'_>) -> io::Result<()> {
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(size) {
            self.0.send(transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [quinn::udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            match self.0.poll_recv(cx, buffer) {
                Poll::Ready((len, from)) => {
                    *meta = quinn::udp::RecvMeta {
                        addr: from,
                        len,
                        stride: len,
                        ecn: None,
                        dst_ip: None,
                    };
                    received += 1;
                }
                Poll::Pending if received == 0 => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl quinn::UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A timer.
pub(crate) struct Sleep(Pin<Box<dyn quinn::AsyncTimer>>);

impl Sleep {
    /// Lets it complete at `deadline` instead.
    pub(crate) fn reset(&mut self, deadline: Instant) {
        self.0.as_mut().reset(deadline);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").finish_non_exhaustive()
    }
}
