//! A small protocol of its own between a primary and a secondary, carried by raw packets through a
//! client that cannot read it (6.1).
//!
//! The primary keeps a table at the secondary: `Set` and `Drop` are raw packets. Then it leases the
//! secondary a stream of the client with the command to write one entry. So the client reads what
//! the primary said to the secondary, and never saw a packet.
//!
//! Run it with `cargo run -p kwik-transport --example raw_protocol`.

#![allow(clippy::disallowed_methods, reason = "an application on tokio")]

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use kwik::{
    Accepted, ClientConfig, Endpoint, Identity, LeaseOutcome, PrimarySession, SecondarySession,
    ServerConfig,
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What the primary says to the secondary. On the wire: a version, an operation, the length of the
/// key, the key, and the value to the end.
#[derive(Debug, PartialEq, Eq)]
enum Order {
    Set(String, Bytes),
    Drop(String),
}

const VERSION: u8 = 1;

impl Order {
    fn encode(&self) -> Result<Bytes> {
        let (operation, key, value) = match self {
            Self::Set(key, value) => (1, key, value.clone()),
            Self::Drop(key) => (2, key, Bytes::new()),
        };
        let mut packet = BytesMut::new();
        packet.put_slice(&[VERSION, operation, u8::try_from(key.len())?]);
        packet.put_slice(key.as_bytes());
        packet.put_slice(&value);
        Ok(packet.freeze())
    }

    /// None of what a later version says.
    fn decode(packet: &Bytes) -> Option<Self> {
        let (&[version, operation, len], rest) = packet.split_first_chunk()?;
        let (key, value) = rest.split_at_checked(usize::from(len))?;
        let key = String::from_utf8(key.to_vec()).ok()?;
        match (version, operation) {
            (VERSION, 1) => Some(Self::Set(key, packet.slice_ref(value))),
            (VERSION, 2) => Some(Self::Drop(key)),
            _ => None,
        }
    }
}

/// The secondary: it keeps what it is told, and writes entries where it is leased.
async fn serve_edge(edge: SecondarySession) -> Result<()> {
    let mut table = BTreeMap::new();
    loop {
        tokio::select! {
            packet = edge.recv_raw() => match Order::decode(&packet?) {
                Some(Order::Set(key, value)) => drop(table.insert(key, value)),
                Some(Order::Drop(key)) => drop(table.remove(&key)),
                None => {}
            },
            writer = edge.accept_lease() => {
                let mut writer = writer?;
                let key = String::from_utf8_lossy(&writer.command()).into_owned();
                let Some(value) = table.get(&key) else { continue };
                while let Some(piece) = writer.activated().await? {
                    let place = usize::try_from(piece.start)?..usize::try_from(piece.end)?;
                    writer.write_chunk(value.slice(place)).await?;
                }
            }
        }
    }
}

/// The primary: it fills the table, then has the secondary write `key` into a stream.
async fn serve_client(
    primary: &PrimarySession,
    edge: &Endpoint,
    key: &str,
    len: u64,
) -> Result<()> {
    let server = edge.fingerprint().ok_or("an endpoint that serves has a key")?;
    let path = primary.add_path(edge.local_addr()?, server).await?;
    let orders = [
        Order::Set("greeting".into(), Bytes::from_static(b"said to the edge alone")),
        Order::Set("mistake".into(), Bytes::from_static(b"never to be read")),
        Order::Drop("mistake".into()),
    ];
    for order in &orders {
        let sequence = primary.send_raw(path, order.encode()?)?;
        let report = primary.relay_report().await?;
        if report.sequence != sequence || report.error.is_some() {
            return Err(format!("the client did not relay {order:?}: {report:?}").into());
        }
    }
    let mut stream = primary.session().open_uni().await?;
    let extent = stream.reserve(len)?;
    stream.finish()?;
    // Raw packets and leases travel on different streams: a lease that overtakes its packets is
    // given up at the edge, and leased again.
    loop {
        let command = Bytes::copy_from_slice(key.as_bytes());
        let mut lease = primary.lease(stream.id(), extent.clone(), path, command)?;
        if lease.outcome().await?.outcome == Some(LeaseOutcome::Done) {
            break;
        }
    }
    Ok(())
}

/// All three of them, in one process: what the client reads of `key`.
pub(crate) async fn run(key: &str, len: u64) -> Result<String> {
    let (own, other) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
    let key_of_primary = own.fingerprint();
    let server = Endpoint::server(ServerConfig::new(Arc::new(own)), "127.0.0.1:0".parse()?)?;
    let mut config = ServerConfig::new(Arc::new(other));
    config.trusted.insert(key_of_primary);
    let edge = Endpoint::server(config, "127.0.0.1:0".parse()?)?;

    let (serving, key_wanted) = (edge.clone(), key.to_owned());
    let address = server.local_addr()?;
    tokio::spawn(async move {
        if let Some(Ok(Accepted::Secondary(session))) = accept(&serving).await {
            serve_edge(session).await.ok();
        }
    });
    let primary = tokio::spawn(async move {
        let Some(Ok(Accepted::Primary(primary))) = accept(&server).await else {
            return Err("a client came as a secondary path".into());
        };
        serve_client(&primary, &edge, &key_wanted, len).await?;
        primary.session().closed().await;
        Result::Ok(())
    });

    let client = Endpoint::client("127.0.0.1:0".parse()?)?;
    let config = ClientConfig::pinned(key_of_primary);
    let session = client.connect_with(config, address, "")?.await?;
    let read = session.accept_uni().await?.read_to_end(1 << 16).await?;
    session.close(0, b"done");
    primary.await??;
    Ok(String::from_utf8(read)?)
}

async fn accept(endpoint: &Endpoint) -> Option<Result<Accepted>> {
    Some(endpoint.accept().await?.accept_any().await.map_err(Into::into))
}

#[tokio::main]
#[allow(dead_code, reason = "a test runs all of this without it")]
async fn main() -> Result<()> {
    let read = run("greeting", 22).await?;
    println!("the client read: {read}");
    Ok(())
}
