//! KWIK.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use kwik::{ClientConfig, Endpoint, Identity, Incoming, ServerConfig, Session};

use super::{Settings, Stack, stack::implement};

pub struct Kwik;

implement!(
    Session,
    kwik::SendStream,
    kwik::RecvStream,
    0,
    |session: &Session| {
        session.stats().paths.iter().map(|path| path.udp_sent + path.udp_received).sum()
    },
    |session: &Session| session.stats().paths.iter().map(|path| path.figures.lost_packets).sum()
);

impl Stack for Kwik {
    type Server = Endpoint;
    type Client = (Endpoint, ClientConfig);
    type Incoming = Incoming;
    type Session = Session;

    fn server(settings: &Settings) -> Endpoint {
        server(settings, 0)
    }

    fn client(settings: &Settings) -> (Endpoint, ClientConfig) {
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.settings = settings.session.clone();
        (Endpoint::bind(settings.client, None, &settings.quic).unwrap(), config)
    }

    fn address(server: &Endpoint) -> SocketAddr {
        server.local_addr().unwrap()
    }

    fn close(server: &Endpoint) {
        server.close(0, b"");
    }

    async fn accept(server: &Endpoint) -> Option<Incoming> {
        server.accept().await
    }

    async fn establish(incoming: Incoming) -> Option<Session> {
        incoming.await.ok()
    }

    async fn connect((endpoint, config): &(Endpoint, ClientConfig), to: SocketAddr) -> Session {
        endpoint.connect_with(config.clone(), to, "").unwrap().await.unwrap()
    }

    async fn wait_idle((endpoint, _): &(Endpoint, ClientConfig)) {
        endpoint.wait_idle().await;
    }
}

/// A server that honours the grants of number 0.
pub fn server(settings: &Settings, number: u8) -> Endpoint {
    let config = ServerConfig {
        trusted: BTreeSet::from([identity(0).fingerprint()]),
        settings: settings.session.clone(),
        quic: settings.quic.clone(),
        // All come from one address, and more than half of the default.
        max_sessions: 4096,
        max_network_sessions: 4096,
        ..ServerConfig::new(identity(number))
    };
    Endpoint::server(config, settings.server).unwrap()
}

/// Of a server by its number.
pub fn identity(number: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed([100 + number; 32]))
}
