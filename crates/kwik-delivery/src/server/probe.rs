//! Looking into an edge that a client accuses: the server becomes a client of its own, and has the
//! edge alone bring what it is said to have brought wrong. The edge sees a client like any other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    time::Duration,
};

use kwik::{ClientConfig, Endpoint, PathId, Session};
use tokio::time::{sleep, timeout};

use crate::{
    Client, Edge, Published, Repair,
    limits::{GROUP_SIZE, MAX_EXCLUDED},
};

/// From a path that is asked for to its end, and from a request to its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks whether the edge has joined.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Has `edge` bring the group that begins at `range`, through the server that listens on
/// `endpoint`: how it differs, if it does.
pub(super) async fn find_lie(
    endpoint: &Endpoint,
    edge: Edge,
    published: &Published,
    range: &Range<u64>,
) -> Result<Option<String>, String> {
    let manifest = published.manifest();
    let index = range.start / GROUP_SIZE;
    let group = index * GROUP_SIZE..((index + 1) * GROUP_SIZE).min(manifest.size);
    if group.is_empty() {
        return Err("it is accused of bytes that the object does not have".into());
    }
    let session =
        timeout(PATIENCE, connect(endpoint)).await.map_err(|_| "no answer of our own")??;
    let client = Client::new(session).with_patience(PATIENCE);
    let joining = timeout(PATIENCE, joined(client.session(), edge.address)).await;
    let path = joining.map_err(|_| "it does not join a session")?;
    let most = u32::try_from(MAX_EXCLUDED).unwrap_or(u32::MAX);
    let excluded = (0..=most).map(PathId).filter(|other| *other != path);
    let excluded = excluded.take(MAX_EXCLUDED).collect();
    let (root, blamed) = (manifest.root, Vec::new());
    let repair = Repair { root, range: group.clone(), excluded, blamed };
    let block = client.fetch_again(manifest, repair).await;
    client.session().close(0, b"done");
    let data = block.map_err(|error| format!("it does not bring the object: {error}"))?.data;
    let page = published.outline().map_err(|error| error.to_string())?.page_of(group.start);
    let (verifier, _) = published.page(page).await.map_err(|error| error.to_string())?;
    let verified = verifier.verify_group(index, &data);
    Ok(verified.err().map(|corrupt| format!("bytes {:?} are others", corrupt.range)))
}

async fn connect(endpoint: &Endpoint) -> Result<Session, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot be a client of our own: {error}");
    let own = endpoint.fingerprint().ok_or("this server has no key")?;
    let mut address = endpoint.local_addr().map_err(|error| failed(&error))?;
    let (loopback, any): (IpAddr, IpAddr) = match address {
        SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()),
    };
    if address.ip().is_unspecified() {
        address.set_ip(loopback);
    }
    let client = Endpoint::client((any, 0).into()).map_err(|error| failed(&error))?;
    let connecting = client.connect_with(ClientConfig::pinned(own), address, "");
    let session = connecting.map_err(|error| failed(&error))?.await;
    session.map_err(|error| failed(&error))
}

/// Waits until the edge at `address` has a path.
async fn joined(session: &Session, address: SocketAddr) -> PathId {
    let address = address.to_string();
    loop {
        let paths = session.stats().paths;
        let found = paths.into_iter().find(|path| path.address == address);
        match found.filter(|path| path.status.is_usable()) {
            Some(path) => return path.id,
            None => sleep(LOOK_EVERY).await,
        }
    }
}
