//! A scenario: servers on links, what the client fetches, and what goes wrong when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kwik::{Config, ConnectionError, DuplicateStats, PathStatus, Session};
use kwik_sim::{Shape, Sim, Trace};

use crate::cluster::{Cluster, FetchError, Reading, Request};
use crate::hostile::Crime;

/// Packets that the trace of a replayed seed shows.
const TRACED_PACKETS: usize = 10_000;

/// What goes wrong, or right again. The number is a server's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    Crash(usize),
    /// It starts anew.
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    /// Nothing passes, either way.
    Cut(usize),
    /// Nothing passes from the server.
    CutUp(usize),
    /// Nothing passes to the server.
    CutDown(usize),
    /// Its link is as it was at first.
    Mend(usize),
    /// It sends at a part of its rate.
    Slow(usize, u64),
    /// The client gets another address.
    Rebind,
    /// The primary removes its path.
    Leave(usize),
    /// The primary adds a path to it.
    Join(usize),
}

impl Fault {
    /// Whom it hits.
    pub(crate) fn server(self) -> usize {
        match self {
            Self::Crash(server) | Self::Start(server) | Self::Freeze(server) => server,
            Self::Thaw(server) | Self::Cut(server) | Self::CutUp(server) => server,
            Self::CutDown(server) | Self::Mend(server) | Self::Slow(server, _) => server,
            Self::Leave(server) | Self::Join(server) => server,
            // All of them, the primary first.
            Self::Rebind => 0,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    pub(crate) request: Request,
    /// When it begins, after the session stands.
    pub(crate) at: Duration,
    /// The reader pauses after so many bytes.
    pub(crate) pace: Option<(u64, Duration)>,
}

/// See the module. Server 0 is the primary.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    /// From the server, and to it.
    pub(crate) links: Vec<[Shape; 2]>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) faults: Vec<(Duration, Fault)>,
    pub(crate) settings: Config,
    /// When all fetches have to be over.
    pub(crate) limit: Duration,
    /// Links lose datagrams by chance.
    pub(crate) lossy: bool,
    /// An edge that does not serve.
    pub(crate) hostile: Option<(usize, Crime)>,
    /// QUIC's idle timeout.
    pub(crate) idle: Duration,
}

/// How it went.
pub(crate) struct Outcome {
    pub(crate) fetched: Vec<(Duration, Result<Reading, FetchError>)>,
    pub(crate) trace: Trace,
    pub(crate) took: Duration,
    /// What came twice; none where no session stood.
    pub(crate) duplicates: Option<DuplicateStats>,
    /// How often another connection took up the primary's path.
    pub(crate) resumptions: u64,
    /// The primary has let the client in: from then on there is a session.
    pub(crate) joined: bool,
    /// Why the session was over although nobody had closed it.
    pub(crate) lost: Option<ConnectionError>,
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Scenario {
    fn apply(&self, cluster: &Cluster, fault: Fault) {
        let shape = |server: usize| self.links[server];
        let relink = |server: usize, [up, down]: [Shape; 2]| {
            cluster.servers[server].link_up(up);
            cluster.servers[server].link_down(down);
        };
        match fault {
            Fault::Crash(server) => cluster.servers[server].crash(),
            Fault::Start(server) => {
                cluster.servers[server].crash();
                cluster.start(server);
            }
            Fault::Freeze(server) => cluster.servers[server].freeze(),
            Fault::Thaw(server) => cluster.servers[server].thaw(),
            Fault::Cut(server) => cluster.servers[server].cut(true),
            Fault::CutUp(server) => cluster.servers[server].link_up(shape(server)[0].cut(true)),
            Fault::CutDown(server) => cluster.servers[server].link_down(shape(server)[1].cut(true)),
            Fault::Mend(server) => relink(server, shape(server)),
            Fault::Slow(server, part) => {
                cluster.servers[server].link_up(shape(server)[0].slowed(part));
            }
            Fault::Rebind => cluster.client.rebind(),
            Fault::Leave(server) => cluster.leave(server),
            Fault::Join(server) => cluster.join(server),
        }
    }

    /// Lets it happen.
    pub(crate) fn run(self, seed: u64) -> Outcome {
        let sim = Sim::new(seed);
        if std::env::var_os("KWIK_SEED").is_some() {
            sim.keep_packets(TRACED_PACKETS);
        }
        let cluster = Cluster::new(&sim, self.links.len()).with_hostile(self.hostile);
        let cluster = cluster.with_idle(self.idle);
        for server in 0..self.links.len() {
            self.apply(&cluster, Fault::Mend(server));
            cluster.start(server);
        }
        for (time, fault) in self.faults.clone() {
            let (scenario, cluster) = (self.clone(), cluster.clone());
            sim.at(time, move || scenario.apply(&cluster, fault));
        }
        let (fetched, duplicates, resumptions, joined, lost) = sim.block_on({
            let (sim, cluster) = (sim.clone(), cluster);
            async move {
                let results = Arc::new(Mutex::new(Results::default()));
                let fetching = fetch_all(self.clone(), cluster.clone(), results.clone());
                cluster.client.spawn(fetching);
                while results.lock().unwrap().missing(self.fetches.len()) {
                    let late = sim.elapsed() > self.limit;
                    if late && let Some(session) = &results.lock().unwrap().session {
                        eprintln!("{:#?} {:#?}", session.stats(), session.stream_stats());
                        let primary = (cluster.primary_stats(), cluster.primary_streams());
                        eprintln!("{primary:#?} {:#?}", cluster.events.lock().unwrap());
                    }
                    assert!(!late, "hangs: {:?}", results.lock().unwrap().hanging(&self.fetches));
                    results.lock().unwrap().check_memory();
                    sim.sleep(ms(100)).await;
                }
                let Results { fetched, session } = std::mem::take(&mut *results.lock().unwrap());
                if let Some(session) = &session {
                    nothing_left(&cluster, session).await;
                    check_duplicates(session);
                }
                let lost = session.as_ref().and_then(Session::close_reason);
                let stats = session.map(|session| session.stats());
                let resumptions = stats.as_ref().map_or(0, |stats| stats.resumptions);
                let joined = stats.as_ref().is_some_and(|stats| {
                    let mut paths = stats.paths.iter();
                    paths.any(|path| path.id.is_primary() && path.status != PathStatus::Connecting)
                });
                let duplicates = stats.map(|stats| stats.duplicates);
                // A connection's end lasts three of QUIC's probe timeouts, which follow from round
                // trips that may have been as long as its idle timeout.
                let end = sim.elapsed() + Duration::from_secs(400);
                while cluster.client.tasks() > 0 {
                    assert!(sim.elapsed() < end, "{} tasks are left", cluster.client.tasks());
                    sim.sleep(ms(1000)).await;
                }
                (fetched.into_values().collect(), duplicates, resumptions, joined, lost)
            }
        });
        let (trace, took) = (sim.trace(), sim.elapsed());
        let outcome = Outcome { fetched, trace, took, duplicates, resumptions, joined, lost };
        sim.end();
        outcome
    }
}

/// Waits until neither end keeps anything of streams that are over.
async fn nothing_left(cluster: &Cluster, session: &Session) {
    let sim = &cluster.sim;
    let end = sim.elapsed() + Duration::from_secs(60);
    while session.close_reason().is_none() {
        let kept: Vec<_> = [Some(session.stats()), cluster.primary_stats()]
            .into_iter()
            .flatten()
            .filter(|stats| {
                (stats.streams, stats.leases, stats.pieces) != (0, 0, 0)
                    || stats.granted + stats.held + stats.unacknowledged > 0
            })
            .collect();
        // What was asked for has come, whichever connection brought it.
        let asked = session.schedule_stats().iter().map(|path| path.outstanding).sum::<u64>();
        if kept.is_empty() && asked == 0 {
            return;
        }
        let streams = [session.stream_stats(), cluster.primary_streams()];
        assert!(sim.elapsed() < end, "sessions keep {asked}, {kept:#?}: {streams:#?}");
        sim.sleep(ms(100)).await;
    }
}

/// What came twice was charged when its piece was taken back, and moves keep to their budget. A
/// session that ended early has pieces whose end is not known.
fn check_duplicates(session: &Session) {
    let resumed = session.stats().resumptions > 0;
    let stats = session.stats().duplicates;
    let charged = stats.moved + stats.reclaimed + stats.unasked;
    // What a connection that broke had brought comes again on the next, and is charged to nobody.
    let exact = session.close_reason().is_none() && !resumed;
    assert!(!exact || stats.received <= charged, "{stats:?}");
    assert!(stats.moved <= stats.budget, "{stats:?}");
}

#[derive(Default)]
struct Results {
    fetched: BTreeMap<usize, (Duration, Result<Reading, FetchError>)>,
    session: Option<Session>,
}

impl Results {
    fn hanging<'a>(&self, fetches: &'a [Fetch]) -> Vec<&'a Fetch> {
        let hangs = |(at, _): &(usize, _)| !self.fetched.contains_key(at);
        fetches.iter().enumerate().filter(hangs).map(|(_, fetch)| fetch).collect()
    }

    /// What waits to be read fits the window, and no stream is granted more than its allowance.
    fn check_memory(&self) {
        let Some(session) = &self.session else { return };
        let stats = session.stats();
        assert!(stats.held <= stats.window && stats.granted <= stats.window, "{stats:#?}");
        assert!(stats.duplicates.moved <= stats.duplicates.budget, "{stats:#?}");
        for stream in session.stream_stats() {
            let Some(recv) = stream.recv.filter(|recv| recv.allowance > 0) else { continue };
            let granted = recv.granted - recv.buffer.read_position;
            assert!(granted <= recv.allowance, "{} was granted {granted}: {recv:#?}", stream.id);
        }
    }

    fn missing(&self, all: usize) -> bool {
        self.fetched.len() < all
    }
}

async fn fetch_all(scenario: Scenario, cluster: Cluster, results: Arc<Mutex<Results>>) {
    let sim = cluster.sim.clone();
    let session = match cluster.connect(scenario.settings.clone()).await {
        Ok(session) => session,
        Err(error) => {
            let mut results = results.lock().unwrap();
            for at in 0..scenario.fetches.len() {
                results.fetched.insert(at, (sim.elapsed(), Err(error.clone())));
            }
            return;
        }
    };
    results.lock().unwrap().session.replace(session.clone());
    for (at, fetch) in scenario.fetches.into_iter().enumerate() {
        let (cluster, session, results) = (cluster.clone(), session.clone(), results.clone());
        let client = cluster.client.clone();
        client.spawn(async move {
            let sim = cluster.sim.clone();
            sim.sleep(fetch.at).await;
            let result = cluster.fetch(&session, fetch.request, fetch.pace).await;
            let mut results = results.lock().unwrap();
            let taken = results.fetched.insert(at, (sim.elapsed(), result));
            assert!(taken.is_none(), "a stream ends once");
        });
    }
}
