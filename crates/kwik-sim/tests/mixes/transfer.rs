//! One client that fetches one object.

use std::time::Duration;

use crate::network::{Client, Kind, Link, Network, Reading};
use crate::seeds::{DETAILS, show_details};

/// How an object comes, and when its request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// On a stream without leases, over the first link.
    Plain,
    /// Leased to all servers, whose paths are ACTIVE.
    Leased,
    /// Leased to all servers, which are still being dialed.
    Dialing,
}

/// How it went.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) len: u64,
    pub(crate) reading: Reading,
    /// UDP payload that any host received since the request, late copies included, in bytes.
    pub(crate) wire: u64,
}

impl Outcome {
    pub(crate) fn took(&self) -> f64 {
        self.reading.took()
    }

    /// Bytes a second.
    pub(crate) fn rate(&self) -> f64 {
        self.len as f64 / self.took()
    }

    /// Stream bytes that came beyond the object's, as a share of it.
    pub(crate) fn twice(&self) -> f64 {
        let received = self.reading.stats.paths.iter().map(|path| path.figures.received);
        received.sum::<u64>() as f64 / self.len as f64 - 1.0
    }

    /// Bytes that the stream counted as duplicates, as a share of it.
    pub(crate) fn duplicates(&self) -> f64 {
        self.reading.stats.duplicates.received as f64 / self.len as f64
    }

    /// UDP payload for each of its bytes.
    pub(crate) fn wire(&self) -> f64 {
        self.wire as f64 / self.len as f64
    }

    /// The rate of the last 5 % of the bytes over that of all.
    pub(crate) fn tail(&self) -> f64 {
        self.reading.rate_since(self.reading.tail) / self.rate()
    }

    /// Seconds that `len` bytes would take: what lies beyond this object comes at the rate of its
    /// second half.
    pub(crate) fn extended(&self, len: u64) -> f64 {
        let beyond = len.saturating_sub(self.len) as f64;
        self.took() + beyond / self.reading.rate_since(self.reading.half)
    }
}

/// For what handshakes leave behind, such as the search for the path's MTU.
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// Less than that in a second is no data.
const SILENCE: u64 = 4000;
/// What is on its way when an object is whole ends by then.
const LONGEST_REST: u64 = 60;

/// Waits until what is still on its way has come: UDP payload that was delivered since `before`.
pub(crate) async fn drained(network: &Network, before: u64) -> u64 {
    let mut bytes = network.sim.trace().bytes;
    for _ in 0..LONGEST_REST {
        network.sim.sleep(Duration::from_secs(1)).await;
        let passed = network.sim.trace().bytes - bytes;
        bytes += passed;
        if passed < SILENCE {
            break;
        }
    }
    bytes - before
}

/// How long a transfer may take: far longer than any server needs.
pub(crate) fn limit(links: &[Link], len: u64) -> Duration {
    let rate = links.iter().map(|link| link.rate).min().unwrap_or(1);
    Duration::from_secs(120 + len * 8 * 10 / rate)
}

/// Fetches one object of `len` bytes over these links.
pub(crate) fn transfer(seed: u64, links: &[Link], way: Way, len: u64) -> Outcome {
    let links = if way == Way::Plain { &links[..1] } else { links };
    let network = Network::new(seed, links);
    let limit = limit(links, len);
    let kind = if way == Way::Plain { Kind::Plain } else { Kind::Leased };
    let sim = network.sim.clone();
    let outcome = sim.block_on(async move {
        let client: Client = network.client().await;
        if way != Way::Dialing {
            client.joined().await;
            network.sim.sleep(QUIET).await;
        }
        let before = network.sim.trace().bytes;
        let reading = network.sim.within(limit, client.fetch(kind, len)).await;
        let reading = reading.unwrap_or_else(|_| panic!("{way:?}: {len} bytes hang"));
        let wire = drained(&network, before).await;
        client.close();
        Outcome { len, reading, wire }
    });
    sim.end();
    if *DETAILS {
        show_details(links, way, &outcome);
    }
    outcome
}

/// Each server alone writes this many bytes to a stream without leases.
pub(crate) fn alone(seed: u64, links: &[Link], lens: &[u64]) -> Vec<Outcome> {
    let single = |(link, len): (&Link, &u64)| transfer(seed, &[*link], Way::Plain, *len);
    links.iter().zip(lens).map(single).collect()
}
