//! Looking into an edge that a client accuses: the server becomes a client of its own, and has the
//! edge alone bring what it is said to have brought wrong. The edge sees a client like any other.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use kwik::{ClientConfig, Endpoint, PathId, Session};
use tokio::time::{sleep, timeout};

use crate::{
    Client, Fingerprint, Published, Repair, Server,
    limits::{GROUP_SIZE, MAX_EXCLUDED},
};

use super::edges::Peer;

/// From a path that is asked for to its end, and from a request to its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks whether the edge has joined.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Has `edge` bring the group that begins at `range`, through `server`, which listens on
/// `endpoint`: how it differs, if it does.
pub(super) async fn find_lie(
    server: &Server,
    endpoint: &Endpoint,
    edge: &Peer,
    published: &Published,
    range: &Range<u64>,
) -> Result<Option<String>, String> {
    let manifest = published.manifest();
    let index = range.start / GROUP_SIZE;
    let group = index * GROUP_SIZE..((index + 1) * GROUP_SIZE).min(manifest.size);
    if group.is_empty() {
        return Err("it is accused of bytes that the object does not have".into());
    }
    let dialer = Endpoint::client((any_address(endpoint)?, 0).into());
    let dialer = dialer.map_err(|error| failed(&error))?;
    let port = dialer.local_addr().map_err(|error| failed(&error))?.port();
    let _probed = Probed::note(server, port, edge.fingerprint);
    let session = timeout(PATIENCE, connect(server, &dialer, endpoint)).await;
    let session = session.map_err(|_| "no answer of our own")??;
    let client = Client::new(session).with_patience(PATIENCE);
    let joining = timeout(PATIENCE, joined(client.session(), edge)).await;
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

/// The server has this edge alone join the session of the client at this port. A stranger's client
/// of the same port gets that edge, too, which does no harm.
struct Probed<'a> {
    server: &'a Server,
    port: u16,
}

impl<'a> Probed<'a> {
    fn note(server: &'a Server, port: u16, edge: Fingerprint) -> Self {
        server.probed().insert(port, edge);
        Self { server, port }
    }
}

impl Drop for Probed<'_> {
    fn drop(&mut self) {
        self.server.probed().remove(&self.port);
    }
}

fn failed(error: &dyn std::fmt::Display) -> String {
    format!("cannot be a client of our own: {error}")
}

/// An address of the family of the server's own.
fn any_address(endpoint: &Endpoint) -> Result<IpAddr, String> {
    Ok(match endpoint.local_addr().map_err(|error| failed(&error))? {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

async fn connect(
    server: &Server,
    dialer: &Endpoint,
    endpoint: &Endpoint,
) -> Result<Session, String> {
    let own = endpoint.fingerprint().ok_or("this server has no key")?;
    let mut address = endpoint.local_addr().map_err(|error| failed(&error))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut config = ClientConfig::pinned(own);
    if let Some(door) = &server.door {
        config.credentials = Some(Arc::new(door.own_visitor()));
    }
    let connecting = dialer.connect_with(config, address, "");
    let session = connecting.map_err(|error| failed(&error))?.await;
    session.map_err(|error| failed(&error))
}

/// Waits until `edge` has a path.
async fn joined(session: &Session, edge: &Peer) -> PathId {
    loop {
        let paths = session.stats().paths;
        let found = paths.into_iter().find(|path| edge.is_at(&path.address));
        match found.filter(|path| path.status.is_usable()) {
            Some(path) => return path.id,
            None => sleep(LOOK_EVERY).await,
        }
    }
}
