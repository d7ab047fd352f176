//! A host: what runs on it, and its link.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use kwik::{Endpoint, EndpointError, QuicConfig, ServerConfig, runtime};

use crate::executor::{HostId, Work};
use crate::link::{Link, Shape};
use crate::sim::Sim;
use crate::socket::{Inbox, Socket};
use crate::timer::Timer;

/// Ports that nobody chose begin here.
const FIRST_FREE_PORT: u16 = 50_000;
/// When virtual time begins, in seconds of Unix time.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// What the network knows of a host.
#[derive(Debug)]
pub(crate) struct HostState {
    name: String,
    pub(crate) address: IpAddr,
    pub(crate) up: Link,
    pub(crate) down: Link,
    pub(crate) sockets: BTreeMap<u16, Arc<Inbox>>,
    next_port: u16,
    random: Rng,
}

impl HostState {
    pub(crate) fn new(name: &str, address: IpAddr, random: Rng) -> Self {
        Self {
            name: name.to_owned(),
            address,
            up: Link::default(),
            down: Link::default(),
            sockets: BTreeMap::new(),
            next_port: FIRST_FREE_PORT,
            random,
        }
    }
}

/// A host of a [`Sim`]. Cheap to clone: a handle to the same one.
#[derive(Clone)]
pub struct Host {
    sim: Sim,
    id: HostId,
}

impl Host {
    pub(crate) fn new(sim: Sim, id: HostId) -> Self {
        Self { sim, id }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.sim.state().hosts[self.id].address
    }

    /// The shape of its link both ways, from now on.
    pub fn link(&self, shape: Shape) {
        self.link_up(shape);
        self.link_down(shape);
    }

    /// The shape of its link to the network.
    pub fn link_up(&self, shape: Shape) {
        self.sim.state().hosts[self.id].up.shape = shape;
    }

    /// The shape of its link from the network.
    pub fn link_down(&self, shape: Shape) {
        self.sim.state().hosts[self.id].down.shape = shape;
    }

    /// How long a datagram from the network would wait now before it passes this host's link.
    #[must_use]
    pub fn queued_down(&self) -> Duration {
        let state = self.sim.state();
        Duration::from_nanos(state.hosts[self.id].down.queued(state.now))
    }

    /// Cuts its link both ways, or mends it.
    pub fn cut(&self, cut: bool) {
        let mut state = self.sim.state();
        let host = &mut state.hosts[self.id];
        host.up.shape = host.up.shape.cut(cut);
        host.down.shape = host.down.shape.cut(cut);
    }

    /// Gives it another address, as a translator that forgets does: it does not notice, and what is
    /// on its way to the old one is lost.
    pub fn rebind(&self) {
        let mut state = self.sim.state();
        state.moves += 1;
        let [high, low] = state.moves.to_be_bytes();
        state.hosts[self.id].address = IpAddr::V4(Ipv4Addr::new(10, 1, high, low));
    }

    /// Runs `work` on it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.sim.spawn(self.id, Box::pin(work));
    }

    /// Number of tasks that run on it.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.sim.executor().live(self.id)
    }

    /// Its power fails: every task and socket on it is gone, and nobody is told. It may be used
    /// again at once, as if it had started anew.
    pub fn crash(&self) {
        let sockets = std::mem::take(&mut self.sim.state().hosts[self.id].sockets);
        drop(sockets);
        self.sim.executor().kill(self.id);
        self.thaw();
    }

    /// Nothing on it moves until [`Self::thaw`]; what arrives waits in its sockets.
    pub fn freeze(&self) {
        self.sim.executor().freeze(self.id);
    }

    /// It goes on.
    pub fn thaw(&self) {
        self.sim.executor().thaw(self.id);
    }

    /// An endpoint of this host, on `port`, or on a free one if that is 0.
    ///
    /// # Errors
    /// As those of [`Endpoint::bind`].
    ///
    /// # Panics
    /// The port is taken.
    pub fn endpoint(
        &self,
        port: u16,
        server: Option<ServerConfig>,
        quic: &QuicConfig,
    ) -> Result<Endpoint, EndpointError> {
        Endpoint::with_runtime(Arc::new(self.clone()), self.socket(port), server, quic)
    }

    /// A socket of this host, on `port`, or on a free one if that is 0: for peers that speak
    /// something else than KWIK.
    ///
    /// # Panics
    /// The port is taken.
    #[must_use]
    pub fn socket(&self, port: u16) -> Arc<dyn runtime::Socket> {
        let inbox = Arc::new(Inbox::default());
        let address = {
            let mut state = self.sim.state();
            let host = &mut state.hosts[self.id];
            let port = if port == 0 { host.next_port } else { port };
            if port == host.next_port {
                host.next_port += 1;
            }
            let taken = host.sockets.insert(port, inbox.clone());
            assert!(taken.is_none(), "port {port} is taken");
            SocketAddr::new(host.address, port)
        };
        Arc::new(Socket::new(self.sim.clone(), self.id, address, inbox))
    }
}

impl runtime::Runtime for Host {
    fn now(&self) -> Instant {
        self.sim.now()
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + EPOCH + self.sim.elapsed()
    }

    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn runtime::Timer>> {
        Box::pin(Timer::new(self.sim.clone(), deadline))
    }

    fn spawn(&self, task: Work) {
        self.sim.spawn(self.id, task);
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.sim.state().hosts[self.id].random.fill(bytes);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.sim.state();
        let host = &state.hosts[self.id];
        f.debug_struct("Host").field("name", &host.name).field("address", &host.address).finish()
    }
}
