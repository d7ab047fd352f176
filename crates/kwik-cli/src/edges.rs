//! The edges of a server: which ones, and where they are now.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use kwik_delivery::{Edge, Server};
use tokio::time::{self, Instant};

use crate::{
    connect::resolve,
    failure::{Failure, Kind},
    options::{Again, EdgeLink},
    say,
    voice::count,
};

/// How long the name server may take.
const RESOLVE: Duration = Duration::from_secs(10);
/// Between two looks at whether a name has to be looked up.
const LOOK: Duration = Duration::from_secs(1);
/// Wait before a name that was not found is looked up again: doubled each time, up to the largest.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
/// See [`AGAIN_FIRST`].
const AGAIN_LAST: Duration = Duration::from_secs(60);
/// Wait before the name of an edge that was found and cannot be reached is looked up again.
const MOVED: Duration = Duration::from_secs(10);
/// Bytes of a list of edges.
const MAX_LIST: u64 = 1024 * 1024;

/// The edges as they are configured, and where they are.
#[derive(Debug)]
pub(crate) struct EdgeList {
    given: Vec<EdgeLink>,
    file: Option<PathBuf>,
    edges: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    link: EdgeLink,
    addresses: Vec<SocketAddr>,
    /// Its name is to be looked up, whether it is reached or not.
    stale: bool,
    /// Not before that.
    next: Instant,
    wait: Duration,
}

impl Known {
    fn new(link: EdgeLink) -> Self {
        let address = link.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, link.port));
        let (stale, addresses) = (address.is_none(), address.into_iter().collect());
        Self { link, addresses, stale, next: Instant::now(), wait: AGAIN_FIRST }
    }

    fn is_named(&self) -> bool {
        self.link.host.parse::<IpAddr>().is_err()
    }

    fn is_same(&self, link: &EdgeLink) -> bool {
        let EdgeLink { fingerprint, host, port } = &self.link;
        (*fingerprint, &**host, *port) == (link.fingerprint, &*link.host, link.port)
    }
}

impl EdgeList {
    /// Those that were `given`, and those that a file lists.
    pub(crate) fn new(given: Vec<EdgeLink>, file: Option<PathBuf>) -> Result<Self, Failure> {
        let mut list = Self { given, file, edges: Vec::new() };
        list.read()?;
        Ok(list)
    }

    /// Reads the file again. Those that stay keep their addresses.
    fn read(&mut self) -> Result<(), Failure> {
        let listed = self.file.as_deref().map(read_list).transpose()?;
        let links = self.given.iter().cloned().chain(listed.into_iter().flatten());
        let mut before = std::mem::take(&mut self.edges);
        for link in links {
            if self.edges.iter().any(|known| known.is_same(&link)) {
                continue;
            }
            let found = before.iter().position(|known| known.is_same(&link));
            let known = found.map(|at| before.swap_remove(at));
            self.edges.push(known.unwrap_or_else(|| Known::new(link)));
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// For the server, in their order. One that several links name has all their addresses.
    pub(crate) fn edges(&self) -> Vec<Edge> {
        let mut edges: Vec<Edge> = Vec::new();
        for Known { link, addresses, .. } in &self.edges {
            match edges.iter_mut().find(|edge| edge.fingerprint == link.fingerprint) {
                Some(edge) => edge.addresses.extend(addresses),
                None => edges.push(Edge::at(addresses.clone(), link.fingerprint)),
            }
        }
        edges
    }

    /// A file was changed, or names lead elsewhere: reads and looks up all of them again.
    /// `again` is what the configuration file names now, where the command line names none.
    pub(crate) fn reload(&mut self, again: Result<Option<Again>, Failure>, server: &Server) {
        let given = again.and_then(|again| again.map(|again| again.parse()).transpose());
        let read = given.and_then(|given| {
            self.given = given.unwrap_or_else(|| std::mem::take(&mut self.given));
            self.read()
        });
        match read {
            Ok(()) => {
                let now = Instant::now();
                for known in self.edges.iter_mut().filter(|known| known.is_named()) {
                    (known.stale, known.next, known.wait) = (true, now, AGAIN_FIRST);
                }
                server.set_edges(self.edges());
                say(&format!("kwik: reloaded: {}", count(self.edges.len(), "edge")));
            }
            Err(failure) => say(&format!("kwik: {failure}: the edges stay as they are")),
        }
    }

    /// Looks names up when they are due, and tells the server where its edges are. Runs for ever.
    /// Cancel safe.
    pub(crate) async fn keep_resolved(&mut self, server: &Server) {
        if !self.edges.iter().any(Known::is_named) {
            return std::future::pending().await;
        }
        loop {
            let now = Instant::now();
            let lost: BTreeSet<_> = server.unreached_edges().into_iter().collect();
            let due = |known: &Known| {
                let lost = known.is_named() && lost.contains(&known.link.fingerprint);
                known.next <= now && (known.stale || lost)
            };
            let looking = self.edges.iter().enumerate().filter(|(_, known)| due(known));
            let looking = looking.map(async |(at, Known { link, .. })| {
                (at, resolve(&link.host, link.port, RESOLVE).await)
            });
            let mut changed = false;
            for (at, found) in join_all(looking).await {
                changed |= self.on_resolved(at, found);
            }
            if changed {
                server.set_edges(self.edges());
            }
            time::sleep(LOOK).await;
        }
    }

    /// Whether an edge is somewhere else now.
    fn on_resolved(&mut self, at: usize, found: Result<Vec<SocketAddr>, Failure>) -> bool {
        let known = &mut self.edges[at];
        let now = Instant::now();
        match found {
            Ok(mut addresses) => {
                // Name servers turn the order round.
                addresses.sort_unstable();
                addresses.dedup();
                (known.stale, known.wait, known.next) = (false, AGAIN_FIRST, now + MOVED);
                let changed = known.addresses != addresses;
                known.addresses = addresses;
                changed
            }
            Err(failure) => {
                if known.wait == AGAIN_FIRST {
                    say(&format!("kwik: an edge is left out for now: {failure}"));
                }
                known.next = now + known.wait;
                known.wait = (known.wait * 2).min(AGAIN_LAST);
                // Where it was is better than nothing.
                false
            }
        }
    }
}

/// A link a line; empty lines and those that begin with `#` count for nothing.
fn read_list(path: &Path) -> Result<Vec<EdgeLink>, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| {
        Failure::new(Kind::Disk, format!("cannot read the list of edges {shown}: {error}"))
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_LIST + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > MAX_LIST {
        return Err(failed(io::Error::other("it is longer than 1 MiB")));
    }
    let lines = (1..).zip(text.lines().map(str::trim));
    let links = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let link = |(number, line): (usize, &str)| {
        line.parse().map_err(|error| {
            Failure::new(Kind::Usage, format!("line {number} of {shown}: {error}"))
        })
    };
    links.map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(pin: u8, place: &str) -> EdgeLink {
        format!("kwik://{}@{place}", format!("{pin:02x}").repeat(32)).parse().unwrap()
    }

    #[test]
    fn an_edge_of_several_links_has_all_their_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("list");
        std::fs::write(&file, format!("kwik://{}@127.0.0.1:3\n", "01".repeat(32))).unwrap();
        let given = vec![
            link(1, "127.0.0.1:1"),
            link(2, "h.invalid:2"),
            link(1, "[::1]:1"),
            link(1, "127.0.0.1:1"),
        ];
        let mut list = EdgeList::new(given, Some(file)).unwrap();
        let edges = list.edges();
        let found: Vec<_> = edges[0].addresses.iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.1:1", "[::1]:1", "127.0.0.1:3"]);
        assert_eq!((edges.len(), edges[1].addresses.len()), (2, 0));

        // A name that was found stays so when the list is read again, and when it is not found.
        assert!(list.on_resolved(1, Ok(vec!["192.0.2.2:2".parse().unwrap()])));
        assert!(!list.on_resolved(1, Ok(vec!["192.0.2.2:2".parse().unwrap()])));
        list.read().unwrap();
        let failure = Failure::new(Kind::Network, "not found");
        assert!(!list.on_resolved(1, Err(failure)));
        assert_eq!(list.edges()[1].addresses.len(), 1);
        // It has moved.
        assert!(list.on_resolved(1, Ok(vec!["192.0.2.3:2".parse().unwrap()])));
    }
}
