//! Bare quinn, told what KWIK tells it.

use std::net::SocketAddr;
use std::sync::Arc;

use kwik::QuicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::version::TLS13;

use super::{Settings, Stack, stack::implement};

pub struct Bare;

implement!(
    Connection,
    quinn::SendStream,
    quinn::RecvStream,
    VarInt::from_u32(0),
    |connection: &Connection| {
        let stats = connection.stats();
        stats.udp_tx.bytes + stats.udp_rx.bytes
    },
    |connection: &Connection| connection.stats().path.lost_packets
);

impl Stack for Bare {
    type Server = Endpoint;
    type Client = Endpoint;
    type Incoming = Incoming;
    type Session = Connection;

    fn server(settings: &Settings) -> Endpoint {
        let mut tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate()], key().into())
            .unwrap();
        // Like KWIK it resumes nothing: each handshake verifies the server's key.
        tls.send_tls13_tickets = 0;
        let tls = QuicServerConfig::try_from(tls).unwrap();
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(transport(settings));
        endpoint(settings.server, &settings.quic, Some(config))
    }

    fn client(settings: &Settings) -> Endpoint {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.resumption = Resumption::disabled();
        let tls = QuicClientConfig::try_from(tls).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(transport(settings));
        let mut endpoint = endpoint(settings.client, &settings.quic, None);
        endpoint.set_default_client_config(config);
        endpoint
    }

    fn address(server: &Endpoint) -> SocketAddr {
        server.local_addr().unwrap()
    }

    fn close(server: &Endpoint) {
        server.close(VarInt::from_u32(0), b"");
    }

    async fn accept(server: &Endpoint) -> Option<Incoming> {
        server.accept().await
    }

    async fn establish(incoming: Incoming) -> Option<Connection> {
        incoming.await.ok()
    }

    async fn connect(client: &Endpoint, address: SocketAddr) -> Connection {
        client.connect(address, "kwik").unwrap().await.unwrap()
    }

    async fn wait_idle(client: &Endpoint) {
        client.wait_idle().await;
    }
}

/// The same in each process: that of KWIK's first server.
fn key() -> PrivatePkcs8KeyDer<'static> {
    super::kwik::identity(0).pkcs8_der().to_vec().into()
}

/// What clients trust.
fn certificate() -> CertificateDer<'static> {
    let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key(), &rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(vec!["kwik".to_owned()]).unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What KWIK tells QUIC, but for the number of streams: that which KWIK's applications have.
fn transport(Settings { quic: config, session, .. }: &Settings) -> Arc<quinn::TransportConfig> {
    let varint = |value: u64| VarInt::from_u64(value).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window(varint(config.stream_receive_window))
        .receive_window(varint(config.receive_window))
        .send_window(config.send_window)
        .max_concurrent_uni_streams(varint(session.max_streams_uni()))
        .max_concurrent_bidi_streams(varint(session.max_streams_bidi()))
        .max_idle_timeout(Some(config.idle_timeout.try_into().unwrap()))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(config.datagram_send_buffer);
    Arc::new(transport)
}

fn endpoint(
    address: SocketAddr,
    config: &QuicConfig,
    server: Option<quinn::ServerConfig>,
) -> Endpoint {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(config.socket_buffer).unwrap();
    socket.set_send_buffer_size(config.socket_buffer).unwrap();
    socket.bind(&address.into()).unwrap();
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(quinn::EndpointConfig::default(), server, socket.into(), runtime).unwrap()
}
