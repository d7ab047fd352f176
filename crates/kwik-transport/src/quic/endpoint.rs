//! A UDP socket with its QUIC connections.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use kwik_proto::{PathId, limits};
use tokio::sync::watch;

use super::connection::Sending;
use super::qlog::{Trace, TraceName, Traced};
use super::{
    ClientTls, ConnectError, Connection, ConnectionError, Qlog, QuicConfig, Runtime, ServerTls,
    UdpSocket, connection::unmapped, socket::HandshakeSocket, socket::ID_LEN, tls::PinCheck,
    varint,
};

/// A UDP socket that dials, and accepts while it has a server's TLS. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    inner: quinn::Endpoint,
    transport: Arc<quinn::TransportConfig>,
    /// For paths to secondaries, which carry no datagrams.
    path_transport: Arc<quinn::TransportConfig>,
    datagram_buffer: usize,
    receive_window: u64,
    sending: Sending,
    idle_timeout: Duration,
    made: Arc<Made>,
}

/// What an endpoint was made with, for another socket, and for connections that are traced.
#[derive(Debug)]
struct Made {
    config: QuicConfig,
    runtime: Runtime,
    server: Option<quinn::ServerConfig>,
    /// Goodbyes that are being said on connections of their own.
    farewells: watch::Sender<usize>,
}

/// A goodbye that is being said, until it is dropped.
#[derive(Debug)]
pub(crate) struct Farewell(Arc<Made>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.farewells.send_modify(|count| *count -= 1);
    }
}

impl Made {
    /// Settings of connections whose window grows to so much at first, and that keep so many bytes
    /// of datagrams.
    fn transport(
        &self,
        window: u64,
        datagrams: usize,
        trace: Option<Trace>,
    ) -> Arc<quinn::TransportConfig> {
        let receive_window = self.config.receive_window.min(window);
        let config = QuicConfig {
            receive_window,
            datagram_receive_buffer: datagrams,
            ..self.config.clone()
        };
        config.transport(&self.runtime, trace)
    }

    /// Begins to trace a connection, where connections are.
    fn trace(&self, of: Traced<'_>) -> Option<(Trace, TraceName)> {
        self.config.qlog()?.trace(of, &self.runtime)
    }
}

impl Endpoint {
    /// Binds a UDP socket to `address`; accepts connections if there is a `server`.
    pub(crate) fn bind(
        address: SocketAddr,
        server: Option<&ServerTls>,
        config: &QuicConfig,
        runtime: &Runtime,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind(address, config, runtime)?;
        Self::new(socket, server, config, runtime)
    }

    /// On a socket that is bound already.
    pub(crate) fn new(
        socket: UdpSocket,
        server: Option<&ServerTls>,
        config: &QuicConfig,
        runtime: &Runtime,
    ) -> io::Result<Self> {
        let datagram_buffer = config.datagram_receive_buffer;
        let mut made = Made {
            config: config.clone(),
            runtime: runtime.clone(),
            server: None,
            farewells: watch::Sender::new(0),
        };
        // It grows with what comes.
        let transport = made.transport(limits::CONNECTION_WINDOW, datagram_buffer, None);
        let path_transport = made.transport(limits::CONNECTION_WINDOW, 0, None);
        // A client that has not authenticated may not make a server hold more than this.
        let cautious = made.transport(limits::UNAUTHENTICATED_WINDOW, datagram_buffer, None);
        made.server = server.map(|tls| tls.quic_config(cautious));
        let mut endpoint = quinn::EndpointConfig::default();
        if let Some(tls) = server {
            let runtime = runtime.clone();
            endpoint.reset_key(tls.reset_key());
            endpoint.cid_generator(move || Box::new(ConnectionIds(runtime.clone())));
        }
        endpoint.rng_seed(runtime.seed());
        let socket = serving(socket, server.is_some());
        let inner = quinn::Endpoint::new_with_abstract_socket(
            endpoint,
            made.server.clone(),
            socket,
            Arc::clone(runtime.inner()),
        )?;
        let (receive_window, send_window) = (config.receive_window, config.send_window);
        let idle_timeout = config.idle_timeout;
        Ok(Self {
            inner,
            transport,
            path_transport,
            datagram_buffer,
            receive_window,
            sending: Sending { send_window, windows_ahead: config.congestion.windows_ahead() },
            idle_timeout,
            made: made.into(),
        })
    }

    /// Goes on on another socket: connections move there.
    pub(crate) fn rebind(&self, socket: std::net::UdpSocket, runtime: &Runtime) -> io::Result<()> {
        self.rebind_abstract(UdpSocket::from_std(socket, &self.made.config, runtime)?)
    }

    /// The same on a socket of any kind.
    pub(crate) fn rebind_abstract(&self, socket: UdpSocket) -> io::Result<()> {
        self.inner.rebind_abstract(serving(socket, self.made.server.is_some()))
    }

    /// Where connections are traced, if they are.
    pub(crate) fn qlog(&self) -> Option<&Qlog> {
        self.made.config.qlog()
    }

    /// Bytes of received datagrams that wait for the application; 0 where they are off.
    pub(crate) fn datagram_buffer(&self) -> usize {
        self.datagram_buffer
    }

    /// A connection that heard nothing for this long is over.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// What the receive window of a connection may grow to, in bytes.
    pub(crate) fn receive_window(&self) -> u64 {
        self.receive_window
    }

    /// Dials `address`. `server_name` is the TLS name, which matters to [`ServerTrust::WebPki`]
    /// alone.
    ///
    /// [`ServerTrust::WebPki`]: super::ServerTrust::WebPki
    pub(crate) fn connect(
        &self,
        address: SocketAddr,
        server_name: &str,
        tls: &ClientTls,
    ) -> Result<Connecting, ConnectError> {
        self.dial((address, PathId::PRIMARY), server_name, tls)
    }

    /// Dials `address` as a further path of a session.
    pub(crate) fn connect_path(
        &self,
        to: (SocketAddr, PathId),
        server_name: &str,
        tls: &ClientTls,
    ) -> Result<Connecting, ConnectError> {
        self.dial(to, server_name, tls)
    }

    fn dial(
        &self,
        (address, path): (SocketAddr, PathId),
        server_name: &str,
        tls: &ClientTls,
    ) -> Result<Connecting, ConnectError> {
        let (transport, datagrams) = match path.is_primary() {
            true => (&self.transport, self.datagram_buffer),
            false => (&self.path_transport, 0),
        };
        let place = format_args!("client-path{path}");
        let traced = Traced { side: "client", name: Some(&place), remote: &address };
        let transport = match self.made.trace(traced) {
            Some((trace, _)) => {
                self.made.transport(limits::CONNECTION_WINDOW, datagrams, Some(trace))
            }
            None => Arc::clone(transport),
        };
        let (config, pin) = tls.quic_config(transport);
        let inner = self
            .inner
            .connect_with(config, address, server_name)
            .map_err(ConnectError::from_quic)?;
        Ok(Connecting { inner, pin: Some(pin), sending: self.sending, trace: None })
    }

    /// The next connection attempt, or `None` once the endpoint is closed. Cancel safe.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        let incoming = self.inner.accept().await?;
        Some(Incoming(incoming, self.sending, Arc::clone(&self.made)))
    }

    /// Where the socket is bound.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Closes all connections at once and accepts no more.
    pub(crate) fn close(&self, code: u64, reason: &[u8]) {
        self.inner.close(varint(code), reason);
    }

    /// A goodbye begins for which connections are made.
    pub(crate) fn begin_farewell(&self) -> Farewell {
        self.made.farewells.send_modify(|count| *count += 1);
        Farewell(Arc::clone(&self.made))
    }

    /// Waits until none is being said. Cancel safe.
    pub(crate) async fn farewells_over(&self) {
        // Never closed: this handle has the sender.
        self.made.farewells.subscribe().wait_for(|count| *count == 0).await.ok();
    }

    /// Waits until every connection is gone, with its closing told to the peer. Cancel safe.
    pub(crate) async fn wait_idle(&self) {
        self.inner.wait_idle().await;
    }
}

/// What the QUIC library is given of a socket.
fn serving(socket: UdpSocket, serves: bool) -> Arc<dyn quinn::AsyncUdpSocket> {
    let socket = socket.into_inner();
    if serves { Arc::new(HandshakeSocket::new(socket)) } else { socket }
}

/// Random connection ids. The library's own have a mark of the process that made them, and the next
/// process of a server would not answer for those of this one.
struct ConnectionIds(Runtime);

impl ConnectionIds {
    const LEN: usize = ID_LEN;
}

impl quinn::ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        quinn::ConnectionId::new(&self.0.random_bytes::<{ Self::LEN }>())
    }

    fn cid_len(&self) -> usize {
        Self::LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A client's attempt, not yet answered. Dropping it refuses it.
#[derive(Debug)]
pub(crate) struct Incoming(quinn::Incoming, Sending, Arc<Made>);

impl Incoming {
    /// Whence it comes; the address is not validated yet.
    pub(crate) fn remote_address(&self) -> SocketAddr {
        unmapped(self.0.remote_address())
    }

    /// Whether its sender has shown that it receives at that address.
    pub(crate) fn is_validated(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Has its sender come again, with a token that shows that it receives at its address.
    pub(crate) fn validate(self) {
        if let Err(error) = self.0.retry() {
            error.into_incoming().refuse();
        }
    }

    /// Goes on with the handshake.
    pub(crate) fn accept(self) -> Result<Connecting, ConnectError> {
        let Self(incoming, sending, made) = self;
        let remote = unmapped(incoming.remote_address());
        // What it is will be known once its client has introduced itself.
        let traced = Traced { side: "server", name: None, remote: &remote };
        let traced = made.server.as_ref().and_then(|server| Some((server, made.trace(traced)?)));
        let (inner, trace) = match traced {
            Some((server, (trace, name))) => {
                let mut server = server.clone();
                let datagrams = made.config.datagram_receive_buffer;
                let window = limits::UNAUTHENTICATED_WINDOW;
                server.transport_config(made.transport(window, datagrams, Some(trace)));
                (incoming.accept_with(server.into()), Some(name))
            }
            None => (incoming.accept(), None),
        };
        let inner = inner.map_err(ConnectionError::from_quic)?;
        Ok(Connecting { inner, pin: None, sending, trace })
    }

    /// Tells the client that it is not accepted.
    pub(crate) fn refuse(self) {
        self.0.refuse();
    }

    /// Leaves the client without an answer.
    pub(crate) fn ignore(self) {
        self.0.ignore();
    }
}

/// A handshake under way: a future of its [`Connection`]. Dropping it gives the connection up.
#[derive(Debug)]
pub(crate) struct Connecting {
    inner: quinn::Connecting,
    pin: Option<PinCheck>,
    sending: Sending,
    /// The name of its trace, if a server has one.
    trace: Option<TraceName>,
}

impl Connecting {
    /// The name of its trace, which is to be set once its client is let in.
    pub(crate) fn trace(&self) -> Option<TraceName> {
        self.trace.clone()
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        Pin::new(&mut this.inner).poll(cx).map(|result| match result {
            Ok(connection) => Ok(Connection::new(connection, this.sending)),
            Err(error) => {
                let mismatch = this.pin.as_ref().and_then(PinCheck::mismatch);
                Err(mismatch.unwrap_or_else(|| ConnectionError::from_quic(error).into()))
            }
        })
    }
}
