//! One server that writes to one client for as long as it is read.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kwik::{
    Accepted, ClientConfig, CongestionControl, Endpoint, Identity, PrimarySession, QuicConfig,
    ServerConfig,
};
use kwik_sim::{Host, Sim};

use crate::content::content;

/// A transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) control: CongestionControl,
    pub(crate) rtt: Duration,
    /// When it begins.
    pub(crate) starts: Duration,
    /// Bytes that the server writes each second at first, and for how long.
    pub(crate) slowly: Option<(u64, Duration)>,
}

impl Flow {
    pub(crate) fn new(control: CongestionControl, rtt: Duration) -> Self {
        Self { control, rtt, starts: Duration::ZERO, slowly: None }
    }
}

/// Bytes that were read, with the time of each.
pub(crate) type Reads = Arc<Mutex<Vec<(Duration, u64)>>>;

const PORT: u16 = 4433;
const PART: u64 = 20_000;
/// Parts a second of who writes slowly.
const PARTS: u64 = 20;

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

async fn write(sim: Sim, session: PrimarySession, flow: Flow) {
    let Ok((mut send, _recv)) = session.session().accept_bi().await else { return };
    let (began, mut at) = (sim.elapsed(), 0);
    loop {
        let slowly = flow.slowly.filter(|(_, time)| sim.elapsed() < began + *time);
        let part = slowly.map_or(PART, |(rate, _)| rate / PARTS);
        if send.write_chunk(content(1, at, part)).await.is_err() {
            return;
        }
        at += part;
        if slowly.is_some() {
            sim.sleep(Duration::from_secs(1) / PARTS as u32).await;
        }
    }
}

async fn serve(sim: Sim, host: Host, endpoint: Endpoint, flow: Flow) {
    while let Some(incoming) = endpoint.accept().await {
        if let Ok(Accepted::Primary(session)) = incoming.accept_any().await {
            host.spawn(write(sim.clone(), session, flow));
        }
    }
}

/// Starts both ends.
pub(crate) fn start(sim: &Sim, index: u8, client: &Host, server: &Host, flow: Flow) -> Reads {
    let identity = Arc::new(Identity::from_seed([index; 32]));
    let key = identity.fingerprint();
    let quic = QuicConfig { congestion: flow.control, ..QuicConfig::default() };
    let endpoint = server.endpoint(PORT, Some(ServerConfig::new(identity)), &quic).unwrap();
    server.spawn(serve(sim.clone(), server.clone(), endpoint, flow));
    let (reads, address) = (Reads::default(), SocketAddr::new(server.address(), PORT));
    let (noted, sim) = (reads.clone(), sim.clone());
    let endpoint = client.endpoint(0, None, &quic).unwrap();
    client.spawn(async move {
        sim.sleep(flow.starts).await;
        let connecting = endpoint.connect_with(ClientConfig::pinned(key), address, "").unwrap();
        let session = connecting.await.unwrap();
        let (mut send, mut recv) = session.open_bi().await.unwrap();
        send.write_all(b"go").await.unwrap();
        while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
            noted.lock().unwrap().push((sim.elapsed(), chunk.bytes.len() as u64));
        }
    });
    reads
}

/// Bits a second that came between two times.
pub(crate) fn rate(reads: &Reads, from: Duration, to: Duration) -> f64 {
    let reads = reads.lock().unwrap();
    let bytes = reads.iter().filter(|(at, _)| *at >= from && *at < to).map(|(_, len)| len);
    bytes.sum::<u64>() as f64 * 8.0 / (to - from).as_secs_f64()
}
