//! The interface over TLS: who has not the token stays out.

#![allow(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;

use kwik::Endpoint;
use kwik_admin::{Admin, Bound, Place, Tls, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn over_tls_who_has_the_token_comes_in_and_nobody_else() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    assert!(Tls::from_pem(b"", key.as_bytes()).is_err());
    assert!(Tls::from_pem(chain.as_bytes(), b"no key").is_err());
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let others = other.signing_key.serialize_pem();
    assert!(Tls::from_pem(chain.as_bytes(), others.as_bytes()).is_err());

    let tls = Tls::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
    let loopback = "127.0.0.1:0".parse().unwrap();
    // Also without a word of the token to the interface itself.
    let bound = Bound::with_tls(loopback, tls, Token::new(TOKEN).unwrap()).await.unwrap();
    let Some(Place::Tcp(address)) = bound.place() else { panic!("no port") };
    let endpoint = Endpoint::client(loopback).unwrap();
    tokio::spawn(async move { Admin::new(endpoint).run(&bound).await });

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec())).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let ask = async |method: &str, path: &str, head: &str| {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: admin.example:9433\r\nContent-Type: \
             application/json\r\nContent-Length: 2\r\n{head}\r\n{{}}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok();
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let wrong = format!("Authorization: Bearer {}\r\n", TOKEN.replace('f', "e"));
    for (method, path, head, status) in [
        ("GET", "/metrics", "", 401),
        ("GET", "/metrics", &wrong[..], 401),
        ("GET", "/metrics", &right, 200),
        ("GET", "/healthz", "", 200),
        ("PATCH", "/api/v1/settings", "", 401),
        ("PATCH", "/api/v1/settings", &right, 200),
        ("GET", "/metrics", &format!("{right}Origin: https://evil.example\r\n"), 403),
        ("GET", "/metrics", &format!("{right}Origin: http://admin.example:9433\r\n"), 403),
        ("GET", "/metrics", &format!("{right}Origin: https://admin.example:9433\r\n"), 200),
    ] {
        assert_eq!(ask(method, path, head).await, status, "{method} {path} {head}");
    }
    // Who asks again and again keeps no place: a connection has one answer.
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let twice = "GET /healthz HTTP/1.1\r\nHost: admin.example:9433\r\n\r\n".repeat(2);
    stream.write_all(twice.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).await.ok();
    assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 200").count(), 1);
    // In the clear there is no answer.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert!(!answer.starts_with(b"HTTP"));
}
