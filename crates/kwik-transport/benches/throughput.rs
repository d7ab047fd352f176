//! One server, one stream, loopback: a KWIK session next to bare QUIC with the same settings, in turn.
//!
//! `cargo bench -p kwik-transport --bench throughput [-- MIB ROUNDS]` prints each round, the
//! medians, and the median of the rounds' ratios. Client and server have a runtime of one worker each.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, reason = "a bench")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kwik::{ClientConfig, Endpoint, Identity, QuicConfig, ServerConfig};
use tokio::runtime::Runtime;

const FRAME: usize = 64 * 1024;
const BATCH: usize = 64;
const LOOPBACK: &str = "127.0.0.1:0";

fn main() {
    // `cargo bench` passes a flag of its own.
    let mut numbers = std::env::args().skip(1).filter_map(|arg| arg.parse::<usize>().ok());
    let mib = numbers.next().unwrap_or(1024);
    let rounds = numbers.next().unwrap_or(7);
    let (server, client) = (runtime(), runtime());
    let bytes = mib * 1024 * 1024;
    let mut seconds = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let kwik = client.block_on(kwik(&server, bytes));
        let quic = client.block_on(bare(&server, bytes));
        // The first round warms up.
        if round > 0 {
            let ratio = quic.as_secs_f64() / kwik.as_secs_f64();
            println!(
                "round {round}: kwik {}, quic {}, ratio {ratio:.3}",
                rate(bytes, kwik),
                rate(bytes, quic)
            );
            ratios.push(ratio);
            seconds[0].push(kwik);
            seconds[1].push(quic);
        }
    }
    let [kwik, quic] = seconds.map(median);
    ratios.sort_by(f64::total_cmp);
    println!(
        "median:  kwik {}, quic {}, ratio of the pairs {:.3}",
        rate(bytes, kwik),
        rate(bytes, quic),
        ratios[ratios.len() / 2]
    );
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn rate(bytes: usize, time: Duration) -> String {
    format!("{:.2} Gbit/s", bytes as f64 * 8e-9 / time.as_secs_f64())
}

/// The client's work runs on a worker, not in `block_on`, which costs it dearly.
async fn on_worker<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap()
}

async fn kwik(server: &Runtime, bytes: usize) -> Duration {
    let identity = Arc::new(Identity::from_seed([9; 32]));
    let key = identity.fingerprint();
    let endpoint = {
        let _inside = server.enter();
        Endpoint::server(ServerConfig::new(identity), LOOPBACK.parse().unwrap()).unwrap()
    };
    let address = endpoint.local_addr().unwrap();
    server.spawn(async move {
        let session = endpoint.accept().await.unwrap().await.unwrap();
        let mut stream = session.open_uni().await.unwrap();
        let frame = Bytes::from(vec![7; FRAME]);
        for _ in 0..bytes / FRAME {
            stream.write_chunk(frame.clone()).await.unwrap();
        }
        stream.finish().unwrap();
        session.closed().await;
    });
    on_worker(async move {
        let endpoint = Endpoint::client(LOOPBACK.parse().unwrap()).unwrap();
        let config = ClientConfig::pinned(key);
        let session = endpoint.connect_with(config, address, "").unwrap().await.unwrap();
        let mut stream = session.accept_uni().await.unwrap();
        let start = Instant::now();
        let (mut chunks, mut read) = (vec![Bytes::new(); BATCH], 0);
        while let Some(filled) = stream.read_chunks(&mut chunks).await.unwrap() {
            read += chunks[..filled].iter_mut().map(|c| std::mem::take(c).len()).sum::<usize>();
        }
        assert_eq!(read, bytes);
        let took = start.elapsed();
        session.close(0, b"");
        endpoint.wait_idle().await;
        took
    })
    .await
}

async fn bare(server: &Runtime, bytes: usize) -> Duration {
    let (server_config, client_config) = bare_configs();
    let endpoint = {
        let _inside = server.enter();
        bare_endpoint(Some(server_config))
    };
    let address = endpoint.local_addr().unwrap();
    server.spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let mut stream = connection.open_uni().await.unwrap();
        let frame = Bytes::from(vec![7; FRAME]);
        for _ in 0..bytes / FRAME {
            stream.write_chunk(frame.clone()).await.unwrap();
        }
        stream.finish().unwrap();
        connection.closed().await;
    });
    on_worker(async move {
        let endpoint = bare_endpoint(None);
        let connecting = endpoint.connect_with(client_config, address, "kwik").unwrap();
        let connection = connecting.await.unwrap();
        let mut stream = connection.accept_uni().await.unwrap();
        let start = Instant::now();
        let (mut chunks, mut read) = (vec![Bytes::new(); BATCH], 0);
        while let Some(filled) = stream.read_chunks(&mut chunks).await.unwrap() {
            read += chunks[..filled].iter_mut().map(|c| std::mem::take(c).len()).sum::<usize>();
        }
        assert_eq!(read, bytes);
        let took = start.elapsed();
        connection.close(0u32.into(), b"");
        endpoint.wait_idle().await;
        took
    })
    .await
}

/// The settings that KWIK gives QUIC.
fn transport() -> Arc<quinn::TransportConfig> {
    let config = QuicConfig::default();
    let varint = |value: u64| quinn::VarInt::from_u64(value).unwrap();
    let mut transport = quinn::TransportConfig::default();
    transport
        .stream_receive_window(varint(config.stream_receive_window))
        .receive_window(varint(config.receive_window))
        .send_window(config.send_window);
    Arc::new(transport)
}

fn bare_configs() -> (quinn::ServerConfig, quinn::ClientConfig) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(vec!["kwik".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut server = quinn::ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
    server.transport_config(transport());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    client.transport_config(transport());
    (server, client)
}

fn bare_endpoint(server: Option<quinn::ServerConfig>) -> quinn::Endpoint {
    let address: SocketAddr = LOOPBACK.parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(QuicConfig::default().socket_buffer).unwrap();
    socket.set_send_buffer_size(QuicConfig::default().socket_buffer).unwrap();
    socket.bind(&address.into()).unwrap();
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(quinn::EndpointConfig::default(), server, socket.into(), runtime).unwrap()
}
