//! Dialing a server, and whom to take it for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kwik::{
    ClientConfig, ConnectError, ConnectionError, DialPolicy, Endpoint, EndpointError, ServerTrust,
    Session,
};
use kwik_delivery::{Fingerprint, Visitor};
use tokio::{net::lookup_host, time};

use crate::{
    failure::{Failure, Kind},
    known::KnownServers,
    options::{ObjectLink, TrustOptions},
    progress::Waiting,
    qlog, state,
    voice::note,
};

/// Each further address of a name is tried this much later (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of a name that are tried: more than any host has that is not meant to be a flood.
const MAX_ADDRESSES: usize = 32;
/// How long a goodbye's answer is waited for: it has left long before, and a server that is far
/// away hears it without us.
const GOODBYE: Duration = Duration::from_millis(5);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(1);
/// How long a server that was away may take to hear that its client has left. Until then it would
/// keep the session for it.
const FAREWELL: Duration = Duration::from_secs(1);
/// Before a goodbye, what was said last leaves: that all has come, say.
const LAST_WORDS: Duration = Duration::from_millis(2);

/// A session and the socket under it.
#[derive(Debug)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    pub(crate) session: Session,
}

impl Connection {
    /// Where the server is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.session.remote_address()
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        time::sleep(LAST_WORDS).await;
        self.session.close(0, b"done");
        time::timeout(FAREWELL, self.endpoint.wait_farewells()).await.ok();
        let heard = async {
            while !self.session.is_end_heard() {
                time::sleep(LOOK).await;
            }
        };
        time::timeout(GOODBYE, heard).await.ok();
        self.endpoint.close(0, b"done");
    }
}

/// A server that is to be dialed.
#[derive(Debug)]
pub(crate) struct Whom<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) trust: Trust,
    pub(crate) visitor: Visitor,
    /// Where the server is that named it, if one did. That one is trusted with a transfer, and not
    /// with this network.
    pub(crate) named_by: Option<IpAddr>,
}

impl<'a> Whom<'a> {
    /// The server of a link.
    pub(crate) fn new(
        link: &'a ObjectLink,
        options: &TrustOptions,
        named_by: Option<IpAddr>,
    ) -> Result<Self, Failure> {
        let (trust, visitor) = (Trust::new(link, options)?, visitor(link, options)?);
        Ok(Self { host: &link.host, port: link.port, trust, visitor, named_by })
    }

    /// Those of its addresses that may be dialed.
    fn allowed(&self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Failure> {
        let Some(by) = self.named_by else { return Ok(addresses) };
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in addresses {
            match DialPolicy::default().check(address, by) {
                Ok(address) => allowed.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if allowed.is_empty() => {
                let server = server(self.host, self.port);
                let message = format!("a server may not send its clients to {server}: {error}");
                Err(Failure::new(Kind::Trust, message))
            }
            _ => Ok(allowed),
        }
    }
}

/// Whom the dialed server has to be.
#[derive(Debug)]
pub(crate) enum Trust {
    /// The link says.
    Link(Fingerprint),
    /// An earlier use says.
    Known(Fingerprint, KnownServers),
    /// Whoever answers is remembered.
    FirstUse(KnownServers),
}

impl Trust {
    /// As the link says, or else the known servers.
    pub(crate) fn new(link: &ObjectLink, options: &TrustOptions) -> Result<Self, Failure> {
        if let Some(pin) = link.fingerprint {
            return Ok(Self::Link(pin));
        }
        let known = KnownServers::open(state::folder(options.state.folder.as_deref())?)?;
        let server = server(&link.host, link.port);
        match known.find(&server) {
            Some(pin) => Ok(Self::Known(pin, known)),
            None if options.trust_on_first_use => Ok(Self::FirstUse(known)),
            None => {
                let message = format!(
                    "the link has no fingerprint and {server} is not known: take the link that \
                     `kwik serve` prints, or trust whoever answers with --trust-on-first-use"
                );
                Err(Failure::new(Kind::Trust, message))
            }
        }
    }
}

/// What the server of `link` is shown: the link's pass, and who this client is.
fn visitor(link: &ObjectLink, options: &TrustOptions) -> Result<Visitor, Failure> {
    let folder = state::folder(options.state.folder.as_deref()).ok().filter(|_| !options.anonymous);
    let identity = folder.as_deref().map(state::find_client_identity).transpose()?.flatten();
    Ok(Visitor { pass: link.pass.clone(), identity: identity.map(Arc::new) })
}

/// Dials a server, by all its addresses, for `patience` at the most.
pub(crate) async fn connect(whom: Whom<'_>, patience: Duration) -> Result<Connection, Failure> {
    let Whom { host, port, ref trust, ref visitor, .. } = whom;
    let server = server(host, port);
    let mut config = ClientConfig::new(match trust {
        Trust::Link(pin) | Trust::Known(pin, _) => ServerTrust::Pin(*pin),
        Trust::FirstUse(_) => ServerTrust::Capture,
    });
    // Whoever answers first is shown nothing.
    if !matches!(trust, Trust::FirstUse(_)) {
        config.credentials = Some(Arc::new(visitor.clone()));
    }
    let end = time::Instant::now() + patience;
    let resolving = resolve(host, port, patience);
    let addresses =
        Waiting::new().for_work(resolving, || format!("looking for the host {host}")).await?;
    let addresses = whom.allowed(addresses)?;
    let endpoint = bind().map_err(|error| {
        Failure::new(Kind::Network, format!("cannot open a UDP socket: {error}"))
    })?;
    // TLS knows no zones.
    let name = host.split('%').next().unwrap_or(host);
    let dialing = dial(&endpoint, &addresses, name, &config, end);
    let session = Waiting::new().for_work(dialing, || format!("waiting for {server} to answer"));
    let session = session.await.map_err(|error| match error {
        Some(error) => failure(&error, &server, trust),
        None => {
            let waited = patience.as_secs();
            let message = format!(
                "no answer from {server} for {waited} s: check the address, and that UDP gets \
                 through"
            );
            Failure::new(Kind::Network, message)
        }
    })?;
    if let Trust::FirstUse(known) = trust {
        remember(known, &server, &session)?;
    }
    Ok(Connection { endpoint, session })
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub(crate) fn server(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// All addresses of a name.
pub(crate) async fn resolve(
    host: &str,
    port: u16,
    patience: Duration,
) -> Result<Vec<SocketAddr>, Failure> {
    let failed = |reason: String| {
        let message = format!("cannot find the host {host}: {reason}: check its name");
        Failure::new(Kind::Network, message)
    };
    let found = time::timeout(patience, lookup_host((host, port))).await;
    let found = found.map_err(|_| failed("no answer from the name server".into()))?;
    let addresses: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
    if addresses.is_empty() { Err(failed("it has no address".into())) } else { Ok(addresses) }
}

/// The first of `addresses` that answers until `end`; no error when none did.
async fn dial(
    endpoint: &Endpoint,
    addresses: &[SocketAddr],
    host: &str,
    config: &ClientConfig,
    end: time::Instant,
) -> Result<Session, Option<ConnectError>> {
    let dials = (0..).zip(addresses.iter().take(MAX_ADDRESSES)).map(async |(nth, &address)| {
        time::sleep(STAGGER * nth).await;
        // One deadline for all: within it, the library begins a handshake anew that takes long, but
        // gives up after QUIC's idle timeout by itself.
        loop {
            let connecting = endpoint.connect_with(config.clone(), address, host)?;
            match time::timeout_at(end, connecting).await {
                Err(_) => return Ok(None),
                Ok(Ok(session)) => return Ok(Some(session)),
                Ok(Err(ConnectError::Connection(ConnectionError::TimedOut))) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    });
    let mut dials: FuturesUnordered<_> = dials.collect();
    let mut error = None;
    while let Some(result) = dials.next().await {
        match result {
            Ok(Some(session)) => return Ok(session),
            Ok(None) => {}
            // A wrong key says more than another address that does not answer.
            Err(_) if matches!(error, Some(ConnectError::PinMismatch { .. })) => {}
            Err(new) => error = Some(new),
        }
    }
    Err(error)
}

/// A socket for both address families where the system has them: edges may be of the other one.
fn bind() -> Result<Endpoint, EndpointError> {
    let quic = qlog::quic();
    Endpoint::bind((Ipv6Addr::UNSPECIFIED, 0).into(), None, &quic)
        .or_else(|_| Endpoint::bind((Ipv4Addr::UNSPECIFIED, 0).into(), None, &quic))
}

fn failure(error: &ConnectError, server: &str, trust: &Trust) -> Failure {
    let ConnectError::PinMismatch { expected, actual } = error else {
        let failure = Failure::new(Kind::Network, format!("cannot connect to {server}: {error}"));
        return match error {
            ConnectError::Connection(ConnectionError::Busy) => failure.passing(),
            _ => failure,
        };
    };
    let message = match trust {
        Trust::Known(_, known) => format!(
            "the key of {server} has changed from {expected} to {actual}: if its owner confirms \
             that, remove its line from {}",
            known.path().display()
        ),
        _ => format!(
            "{server} has the key {actual}, not {expected} as the link says: take a new link from \
             the server's owner"
        ),
    };
    Failure::new(Kind::Trust, message)
}

fn remember(known: &KnownServers, server: &str, session: &Session) -> Result<(), Failure> {
    let pin = session.peer_fingerprint().ok_or_else(|| {
        Failure::new(Kind::Trust, format!("{server} showed no key: take a link with a fingerprint"))
    })?;
    known.remember(server, pin)?;
    note(&format!("{server} has the key {pin}; remembered in {}", known.path().display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, sync::Arc};

    use kwik::{Identity, ServerConfig};

    use super::*;

    #[test]
    fn a_server_may_not_send_its_clients_anywhere() {
        let allowed = |by: &str, addresses: &[&str]| {
            let trust = Trust::Link(Fingerprint([1; 32]));
            let named_by = Some(by.parse().unwrap());
            let visitor = Visitor::default();
            let whom = Whom { host: "h", port: 1, trust, visitor, named_by };
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            whom.allowed(addresses).map(|allowed| allowed.len())
        };
        for elsewhere in ["127.0.0.1:1", "10.0.0.1:1", "[::1]:1", "169.254.1.1:1", "224.0.0.1:1"] {
            let refused = allowed("192.0.2.1", &[elsewhere]).unwrap_err();
            assert_eq!(refused.kind, Kind::Trust, "{elsewhere}");
            assert!(refused.message.contains("may not send its clients to h:1"), "{refused}");
            assert_eq!(allowed("192.0.2.1", &[elsewhere, "192.0.2.2:1"]).unwrap(), 1);
        }
        assert_eq!(allowed("10.0.0.1", &["10.0.0.2:1", "192.0.2.2:1"]).unwrap(), 2);
        assert_eq!(allowed("127.0.0.1", &["127.0.0.1:1"]).unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_addresses_the_one_that_answers_is_found() {
        let config = ServerConfig::new(Arc::new(Identity::from_seed([7; 32])));
        let pin = config.identity.fingerprint();
        let server = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let silent: Vec<_> = (0..7).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut addresses: Vec<_> =
            silent.iter().map(|socket| socket.local_addr().unwrap()).collect();
        addresses.push(server.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                let accepted = incoming.accept_any().await;
                tokio::spawn(async move {
                    let _held = accepted;
                    std::future::pending::<()>().await;
                });
            }
        });
        let client = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let end = time::Instant::now() + Duration::from_secs(60);
        let dialed = dial(&client, &addresses, "h", &ClientConfig::pinned(pin), end).await;
        assert_eq!(dialed.unwrap().remote_address(), *addresses.last().unwrap());
        serving.abort();
    }
}
