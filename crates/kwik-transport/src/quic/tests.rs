//! The seam over loopback.

use std::{
    future::poll_fn,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use ring::{rand::SystemRandom, signature::Ed25519KeyPair};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::PrivatePkcs8KeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use kwik_proto::auth::Fingerprint;

use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const MIB: usize = 1024 * 1024;

fn pkcs8() -> Vec<u8> {
    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
}

fn endpoint(server: Option<&ServerTls>) -> Endpoint {
    let config = QuicConfig { datagram_receive_buffer: 256 * 1024, ..QuicConfig::default() };
    Endpoint::bind(LOOPBACK, server, &config, &Runtime::tokio()).unwrap()
}

fn server() -> (Endpoint, ServerTls) {
    let tls = ServerTls::self_signed(&pkcs8()).unwrap();
    (endpoint(Some(&tls)), tls)
}

fn pinning(tls: &ServerTls) -> ClientTls {
    ClientTls::new(ServerTrust::Pin(tls.fingerprint())).unwrap()
}

/// Dials `server` and answers there: what each end got.
async fn dial(
    client: &Endpoint,
    server: &Endpoint,
    name: &str,
    tls: &ClientTls,
) -> (Result<Connection, ConnectError>, Result<Connection, ConnectError>) {
    let connecting = client.connect(server.local_addr().unwrap(), name, tls).unwrap();
    let accept = async { server.accept().await.unwrap().accept()?.await };
    tokio::join!(connecting, accept)
}

struct Pair {
    client: Connection,
    server: Connection,
    _endpoints: [Endpoint; 2],
}

async fn pair() -> Pair {
    let (acceptor, tls) = server();
    let dialer = endpoint(None);
    let (client, server) = dial(&dialer, &acceptor, "kwik", &pinning(&tls)).await;
    Pair { client: client.unwrap(), server: server.unwrap(), _endpoints: [dialer, acceptor] }
}

#[tokio::test]
async fn pinned_key_is_accepted_and_known() {
    let (acceptor, tls) = server();
    let dialer = endpoint(None);
    let (client, server) = dial(&dialer, &acceptor, "kwik", &pinning(&tls)).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer_key(), Some(tls.fingerprint()));
    assert_eq!(server.peer_key(), None);
    assert_eq!(client.remote_address(), acceptor.local_addr().unwrap());
    assert_eq!(server.remote_address(), dialer.local_addr().unwrap());
}

#[tokio::test]
async fn wrong_pin_is_refused_with_both_keys() {
    let (acceptor, tls) = server();
    let expected = Fingerprint([7; 32]);
    let pinning = ClientTls::new(ServerTrust::Pin(expected)).unwrap();
    let (client, server) = dial(&endpoint(None), &acceptor, "kwik", &pinning).await;
    let actual = tls.fingerprint();
    assert_eq!(client.unwrap_err(), ConnectError::PinMismatch { expected, actual });
    assert!(matches!(
        server.unwrap_err(),
        ConnectError::Connection(ConnectionError::ConnectionClosed { code: 0x100..=0x1ff, .. })
    ));
}

#[tokio::test]
async fn capture_accepts_any_key_and_tells_it() {
    let (acceptor, tls) = server();
    let capturing = ClientTls::new(ServerTrust::Capture).unwrap();
    let (client, _server) = dial(&endpoint(None), &acceptor, "127.0.0.1", &capturing).await;
    assert_eq!(client.unwrap().peer_key(), Some(tls.fingerprint()));
}

/// Presents a certificate of which it does not hold the key.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesServerCert for Thief {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn stolen_certificate_fails_at_the_handshake_signature() {
    let owner = PrivatePkcs8KeyDer::from(pkcs8());
    let signer = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&owner, &rcgen::PKCS_ED25519);
    let params = rcgen::CertificateParams::default();
    let certificate = params.self_signed(&signer.unwrap()).unwrap().der().clone();
    let mut tls =
        ServerTls::from_chain(vec![certificate.to_vec()], owner.secret_pkcs8_der().to_vec())
            .unwrap();
    let key = any_supported_type(&PrivatePkcs8KeyDer::from(pkcs8()).into()).unwrap();
    let mut config = (*tls.config).clone();
    config.cert_resolver = Arc::new(Thief(CertifiedKey::new(vec![certificate], key).into()));
    tls.config = Arc::new(config);
    for trust in [ServerTrust::Pin(tls.fingerprint()), ServerTrust::Capture] {
        let trusting = ClientTls::new(trust).unwrap();
        let (client, _) = dial(&endpoint(None), &endpoint(Some(&tls)), "kwik", &trusting).await;
        // TLS alert decrypt_error (51).
        assert!(matches!(
            client.unwrap_err(),
            ConnectError::Connection(ConnectionError::TransportError { code: 0x133, .. })
        ));
    }
}

#[tokio::test]
async fn ca_certificates_are_checked_for_root_and_name() {
    let root_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap().der().to_vec();
    let issuer = rcgen::Issuer::new(params, root_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["edge.example".to_owned()]).unwrap();
    let own = own.signed_by(&key, &issuer).unwrap().der().to_vec();
    let tls = ServerTls::from_chain(vec![own], key.serialize_der()).unwrap();
    let acceptor = endpoint(Some(&tls));

    let trusting = ClientTls::new(ServerTrust::WebPki(vec![root])).unwrap();
    let (client, _server) = dial(&endpoint(None), &acceptor, "edge.example", &trusting).await;
    assert_eq!(client.unwrap().peer_key(), Some(tls.fingerprint()));
    let (client, _server) = dial(&endpoint(None), &acceptor, "other.example", &trusting).await;
    assert!(matches!(client.unwrap_err(), ConnectError::Connection(_)));
    assert!(matches!(ClientTls::new(ServerTrust::WebPki(vec![])), Err(TlsError::Roots(_))));
}

#[test]
fn unusable_keys_are_refused() {
    assert!(matches!(ServerTls::self_signed(b"no key"), Err(TlsError::Key(_))));
    assert!(matches!(ServerTls::from_chain(vec![], pkcs8()), Err(TlsError::Certificate(_))));
}

#[tokio::test]
async fn other_application_protocol_is_refused() {
    let (acceptor, tls) = server();
    let other = pinning(&tls).with_alpn(b"other/1");
    let (client, server) = dial(&endpoint(None), &acceptor, "kwik", &other).await;
    // TLS alert no_application_protocol (120).
    assert!(matches!(
        client.unwrap_err(),
        ConnectError::Connection(ConnectionError::ConnectionClosed { code: 0x178, .. })
    ));
    assert!(server.is_err());
}

#[tokio::test]
async fn exporter_is_equal_at_both_ends_and_bound_to_its_context() {
    let pair = pair().await;
    let key = pair.client.export_keying_material(b"kwik test", b"path 1");
    assert_eq!(key, pair.server.export_keying_material(b"kwik test", b"path 1"));
    assert_ne!(key, pair.server.export_keying_material(b"kwik test", b"path 2"));
}

#[tokio::test]
async fn streams_and_datagrams_go_both_ways() {
    let Pair { client, server, _endpoints } = pair().await;
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_chunk(Bytes::from_static(b"ping")).await.unwrap();
    send.finish().unwrap();
    let (mut answer, mut question) = server.accept_bi().await.unwrap();
    let chunk = question.read_chunk(MIB, true).await.unwrap().unwrap();
    assert_eq!((chunk.offset, &chunk.bytes[..]), (0, &b"ping"[..]));
    assert_eq!(question.read_chunk(MIB, true).await.unwrap(), None);
    answer.write_all_chunks(&mut [Bytes::from_static(b"po"), "ng".into()]).await.unwrap();
    answer.finish().unwrap();
    assert_eq!(&recv.read_chunk(MIB, false).await.unwrap().unwrap().bytes[..], b"pong");
    assert_eq!(send.stopped().await.unwrap(), None);

    let mut uni = server.open_uni().await.unwrap();
    uni.set_priority(1).unwrap();
    uni.write_chunks(&mut [Bytes::from_static(b"x")]).await.unwrap();
    let mut stopped = client.accept_uni().await.unwrap();
    stopped.stop(17).unwrap();
    assert_eq!(uni.stopped().await.unwrap(), Some(17));
    assert_eq!(uni.write_chunk("y".into()).await, Err(WriteError::Stopped(17)));

    let mut uni = client.open_uni().await.unwrap();
    uni.write_chunk("x".into()).await.unwrap();
    let mut reset = server.accept_uni().await.unwrap();
    reset.read_chunk(1, true).await.unwrap();
    uni.reset(18).unwrap();
    assert_eq!(uni.finish(), Err(ClosedStream));
    assert_eq!(reset.read_chunk(1, true).await, Err(ReadError::Reset(18)));

    assert!(client.max_datagram_size().unwrap() > 1000);
    client.send_datagram("gram".into()).unwrap();
    assert_eq!(&server.read_datagram().await.unwrap()[..], b"gram");
    let large = Bytes::from(vec![0; 64 * 1024]);
    assert_eq!(client.send_datagram(large), Err(SendDatagramError::TooLarge));
}

#[tokio::test]
async fn close_is_told_with_code_and_reason() {
    let Pair { client, server, _endpoints } = pair().await;
    assert_eq!(client.close_reason(), None);
    server.close(0x4b00, b"done");
    let closed = ConnectionError::ApplicationClosed { code: 0x4b00, reason: "done".into() };
    assert_eq!(client.closed().await, closed);
    assert_eq!(client.close_reason(), Some(closed.clone()));
    assert_eq!(server.close_reason(), Some(ConnectionError::LocallyClosed));
    assert!(matches!(client.open_uni().await, Err(error) if error == closed));
    assert_eq!(client.accept_uni().await.unwrap_err(), closed);
}

#[tokio::test]
async fn refused_clients_are_told_and_closed_endpoints_do_not_dial() {
    let (acceptor, tls) = server();
    let (dialer, pinning) = (endpoint(None), pinning(&tls));
    let address = acceptor.local_addr().unwrap();
    let refuse = async { acceptor.accept().await.unwrap().refuse() };
    let (client, ()) = tokio::join!(dialer.connect(address, "kwik", &pinning).unwrap(), refuse);
    assert!(matches!(client.unwrap_err(), ConnectError::Connection(ConnectionError::Busy)));

    dialer.close(0, b"");
    dialer.wait_idle().await;
    assert!(matches!(
        dialer.connect(address, "kwik", &pinning),
        Err(ConnectError::EndpointStopping)
    ));
}

#[tokio::test]
async fn invalid_targets_are_refused_at_once() {
    let (_, tls) = server();
    let (dialer, tls) = (endpoint(None), pinning(&tls));
    assert!(matches!(
        dialer.connect(LOOPBACK, "kwik", &tls),
        Err(ConnectError::InvalidRemoteAddress(_))
    ));
    assert!(matches!(
        dialer.connect("127.0.0.1:9".parse().unwrap(), "no name", &tls),
        Err(ConnectError::InvalidServerName(_))
    ));
}

/// 64 MiB from several tasks' polls: whole, in order, and with the sender's buffers untouched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_transfer_by_polls() {
    const TOTAL: usize = 64 * MIB;
    let Pair { client, server, _endpoints } = pair().await;
    let pattern: Bytes = (0..251).cycle().take(MIB).collect::<Vec<u8>>().into();
    let payload = pattern.clone();
    let sender = async {
        let mut send = server.open_uni().await.unwrap();
        let mut blocked = 0;
        for _ in 0..TOTAL / MIB {
            let mut bufs = [payload.slice(..10), payload.slice(10..)];
            let mut left = &mut bufs[..];
            while !left.is_empty() {
                let written = poll_fn(|cx| {
                    let poll = send.poll_write_chunks(cx, left);
                    blocked += usize::from(poll.is_pending());
                    poll
                });
                let written = written.await.unwrap();
                left = &mut left[written.chunks..];
            }
        }
        send.finish().unwrap();
        assert_eq!(send.stopped().await.unwrap(), None);
        assert!(blocked > 0, "the send window is smaller than the transfer");
    };
    let receiver = async {
        let mut recv = client.accept_uni().await.unwrap();
        let mut bufs = vec![Bytes::new(); 64];
        let mut offset = 0;
        while let Some(filled) = recv.read_chunks(&mut bufs).await.unwrap() {
            for chunk in &bufs[..filled] {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let at = offset % MIB;
                    let (head, tail) = rest.split_at(rest.len().min(MIB - at));
                    assert_eq!(head, &pattern[at..at + head.len()]);
                    offset += head.len();
                    rest = tail;
                }
            }
        }
        assert_eq!(offset, TOTAL);
    };
    tokio::join!(sender, receiver);
    let stats = server.stats();
    assert!(stats.sent_bytes > TOTAL as u64 && stats.sent_datagrams > 0);
    assert!(stats.sent_packets >= stats.sent_datagrams && stats.cwnd > 0 && stats.mtu >= 1200);
    assert!(client.stats().received_bytes > TOTAL as u64);
    assert!(stats.rtt > Duration::ZERO && client.rtt() > Duration::ZERO);
}

/// A waker given to a poll wakes although nothing of the poll is kept.
#[tokio::test]
async fn window_growth_wakes_a_polled_writer() {
    let (acceptor, tls) = server();
    let small = QuicConfig { receive_window: 64 * 1024, ..QuicConfig::default() };
    let dialer = Endpoint::bind(LOOPBACK, None, &small, &Runtime::tokio()).unwrap();
    let (client, server) = dial(&dialer, &acceptor, "kwik", &pinning(&tls)).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    let mut send = server.open_uni().await.unwrap();
    let mut bufs = [Bytes::from(vec![1; MIB])];
    let first = send.write_chunks(&mut bufs).await.unwrap();
    assert_eq!((first.bytes, first.chunks, bufs[0].len()), (64 * 1024, 0, MIB - 64 * 1024));
    let mut raised = false;
    let second = poll_fn(|cx| {
        let poll = send.poll_write_chunks(cx, &mut bufs);
        if !raised {
            assert!(poll.is_pending());
            client.set_receive_window(256 * 1024);
            raised = true;
            return Poll::Pending;
        }
        poll
    });
    assert_eq!(second.await.unwrap().bytes, 192 * 1024);
}

#[tokio::test]
async fn timers_follow_the_runtime() {
    let runtime = Runtime::tokio();
    let start = runtime.now();
    runtime.sleep_until(start + Duration::from_millis(5)).await;
    assert!(runtime.now() >= start + Duration::from_millis(5));
    let (send, recv) = tokio::sync::oneshot::channel();
    runtime.spawn(async move { send.send(3).unwrap() });
    assert_eq!(recv.await.unwrap(), 3);
}
