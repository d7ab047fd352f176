//! What an endpoint runs on, for those who bring their own: time, timers, tasks, randomness and a
//! socket. Endpoints run on tokio and UDP unless made by [`Endpoint::with_runtime`].
//!
//! [`Endpoint::with_runtime`]: crate::Endpoint::with_runtime

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

/// Time, timers, tasks and randomness.
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// The present moment.
    fn now(&self) -> Instant;

    /// The present date, which only grants need.
    fn wall_clock(&self) -> SystemTime;

    /// A timer that expires at `deadline`.
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn Timer>>;

    /// Drives `task` to its end.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>);

    /// Fills `bytes` with what nobody can guess: ids and keys are made of it.
    fn fill_random(&self, bytes: &mut [u8]);
}

/// A timer of a [`Runtime`].
pub trait Timer: fmt::Debug + Send + 'static {
    /// Lets it expire at `deadline` instead.
    fn reset(self: Pin<&mut Self>, deadline: Instant);

    /// Whether it has expired; the task is woken once it has.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
}

/// A socket for datagrams.
pub trait Socket: fmt::Debug + Send + Sync + 'static {
    /// Where it is bound.
    ///
    /// # Errors
    /// It does not say.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Sends a datagram, or loses it, but never waits.
    fn send(&self, to: SocketAddr, datagram: &[u8]);

    /// Receives a datagram into `buffer`: its length, and from whom. The last task that asked is
    /// woken when there is one.
    fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<(usize, SocketAddr)>;
}
