//! Where the whole crate gets time, timers and tasks, so that virtual time reaches everything.

use std::{
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use super::socket::PlainSocket;

/// Time, timers and tasks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Runtime(Arc<dyn quinn::Runtime>);

impl Runtime {
    /// The tokio runtime in which this is called; used from anywhere.
    pub(crate) fn tokio() -> Self {
        Self(Arc::new(Tokio(tokio::runtime::Handle::current())))
    }

    /// What the QUIC library is given.
    pub(super) fn inner(&self) -> &Arc<dyn quinn::Runtime> {
        &self.0
    }

    /// The present moment of this runtime's clock.
    pub(crate) fn now(&self) -> Instant {
        self.0.now()
    }

    /// Completes at `deadline`.
    pub(crate) fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep(self.0.new_timer(deadline))
    }

    /// Drives `future` to its end in a task of its own.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(Box::pin(future));
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

/// A timer.
#[derive(Debug)]
pub(crate) struct Sleep(Pin<Box<dyn quinn::AsyncTimer>>);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}
