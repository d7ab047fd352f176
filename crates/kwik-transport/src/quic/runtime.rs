//! Where the whole crate gets time, timers, tasks and randomness, so that virtual time reaches
//! everything.

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Instant, SystemTime},
};

use kwik_proto::presentation::ReceiveMemory;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::runtime::{EnterGuard, Handle};

use crate::runtime;

/// Time, timers, tasks and randomness. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    inner: Arc<dyn quinn::Runtime>,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Tokio(Handle),
    Custom(Arc<dyn runtime::Runtime>),
}

impl Runtime {
    /// The tokio runtime in which this is called; used from anywhere.
    pub(crate) fn tokio() -> Self {
        let handle = Handle::current();
        Self { inner: Arc::new(Tokio(handle.clone())), kind: Kind::Tokio(handle) }
    }

    /// One of the application's own.
    pub(crate) fn custom(runtime: Arc<dyn runtime::Runtime>) -> Self {
        Self { inner: Arc::new(Custom(runtime.clone())), kind: Kind::Custom(runtime) }
    }

    /// What the QUIC library is given.
    pub(super) fn inner(&self) -> &Arc<dyn quinn::Runtime> {
        &self.inner
    }

    /// The application's own, if it is not tokio.
    fn own(&self) -> Option<&Arc<dyn runtime::Runtime>> {
        match &self.kind {
            Kind::Tokio(_) => None,
            Kind::Custom(runtime) => Some(runtime),
        }
    }

    /// Makes this tokio runtime the one that sockets are made in. None where the application brings
    /// its own.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        match &self.kind {
            Kind::Tokio(handle) => Some(handle.enter()),
            Kind::Custom(_) => None,
        }
    }

    /// A seed for the QUIC library's own chance; none: it asks the system.
    pub(super) fn seed(&self) -> Option<[u8; 32]> {
        self.own().is_some().then(|| self.random_bytes())
    }

    /// Where received bytes are: with a socket of the application's own, each datagram by itself.
    pub(crate) fn receive_memory(&self) -> ReceiveMemory {
        match self.own() {
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
        self.own().map_or_else(SystemTime::now, |runtime| runtime.wall_clock())
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
        match self.own() {
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
struct Tokio(Handle);

impl quinn::Runtime for Tokio {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        let _inside = self.0.enter();
        quinn::TokioRuntime.new_timer(deadline)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    // Endpoints are given sockets that are wrapped already.
    fn wrap_udp_socket(&self, _: UdpSocket) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
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

/// Goes on behind all tasks that are ready. Not tokio's, which a runtime of others does not know.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    let turn = std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    turn.await;
}
