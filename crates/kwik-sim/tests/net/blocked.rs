//! What limits a session, in a situation for each cause (8.8): every look in the time that is
//! watched names the cause, and nothing else.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kwik::{Accepted, Bottleneck, ClientConfig, Config, PathId, QuicConfig, ServerConfig, Session};
use kwik_sim::{Shape, Sim};

use crate::cluster::{Cluster, Kind, Request, identity};
use crate::hostile::Crime;
use crate::scenario::ms;

/// A situation: what the client fetches over which links, and when it is looked at.
struct Stage {
    /// From each server, and to it.
    links: Vec<[Shape; 2]>,
    request: Option<Kind>,
    pace: Option<(u64, Duration)>,
    settings: Config,
    /// What all sessions of the client may be granted.
    memory: Option<u64>,
    hostile: Option<(usize, Crime)>,
    /// When the link of server 0 is cut.
    cut: Option<Duration>,
    watched: Range<u64>,
}

impl Stage {
    /// One server at 20 Mbit/s and 20 ms, which the client fetches from.
    fn alone() -> Self {
        let link = Shape::rate_mbit(20).delay(ms(10));
        Self {
            links: vec![[link, link]],
            request: Some(Kind::Leased),
            pace: None,
            settings: Config::default(),
            memory: None,
            hostile: None,
            cut: None,
            watched: 1_000..4_000,
        }
    }

    fn with_edges(edges: usize) -> Self {
        let alone = Self::alone();
        Self { links: vec![alone.links[0]; edges + 1], ..alone }
    }

    /// What each look said.
    fn looks(self) -> Vec<Bottleneck> {
        let sim = Sim::new(1);
        let cluster = Cluster::new(&sim, self.links.len()).with_hostile(self.hostile);
        for (server, [up, down]) in self.links.iter().enumerate() {
            cluster.servers[server].link_up(*up);
            cluster.servers[server].link_down(*down);
            cluster.start(server);
        }
        if let Some(at) = self.cut {
            let cluster = cluster.clone();
            sim.at(at, move || cluster.servers[0].cut(true));
        }
        let looks = sim.block_on({
            let sim = sim.clone();
            async move {
                let session = self.dial(&cluster).await;
                if let Some(kind) = self.request {
                    let request = Request { kind, tag: 1, len: 64 << 20 };
                    let (cluster, session) = (cluster.clone(), session.clone());
                    cluster.client.clone().spawn(async move {
                        cluster.fetch(&session, request, self.pace).await.ok();
                    });
                }
                watch(&sim, &session, self.watched).await
            }
        });
        sim.end();
        looks
    }

    async fn dial(&self, cluster: &Cluster) -> Session {
        let endpoint = cluster.client.endpoint(0, None, &QuicConfig::default()).unwrap();
        if let Some(memory) = self.memory {
            endpoint.set_memory_budget(memory);
        }
        let mut config = ClientConfig::pinned(identity(0).fingerprint());
        config.session.settings = self.settings.clone();
        endpoint.connect_with(config, cluster.address(0), "").unwrap().await.unwrap()
    }
}

async fn watch(sim: &Sim, session: &Session, watched: Range<u64>) -> Vec<Bottleneck> {
    let mut looks = Vec::new();
    while sim.elapsed() < ms(watched.end) {
        let look = session.blocked_on();
        if sim.elapsed() >= ms(watched.start) {
            looks.push(look);
        }
        sim.sleep(ms(100)).await;
    }
    looks
}

/// All looks are like this.
fn all(looks: &[Bottleneck], is_right: impl Fn(&Bottleneck) -> bool) {
    let named: Vec<_> = looks.iter().map(ToString::to_string).collect();
    assert!(!looks.is_empty() && looks.iter().all(is_right), "{named:#?}");
}

fn near(rate: u64, mbit: u64) -> bool {
    let payload = mbit * 1_000_000 / 8;
    (payload * 8 / 10..=payload * 11 / 10).contains(&rate)
}

#[test]
fn the_handshake() {
    // QUIC's takes a round trip of 200 ms, the primary's answer another one.
    let link = Shape::rate_mbit(20).delay(ms(100));
    let stage = Stage { links: vec![[link, link]], watched: 0..350, ..Stage::alone() };
    let looks = Stage { request: None, ..stage }.looks();
    all(&looks, |look| *look == Bottleneck::Handshake);
}

#[test]
fn nothing_to_do() {
    let looks = Stage { request: None, ..Stage::alone() }.looks();
    all(&looks, |look| *look == Bottleneck::Nothing);
}

#[test]
fn a_slow_reader() {
    for request in [Kind::Leased, Kind::Plain] {
        let request = Some(request);
        let looks = Stage { request, pace: Some((32 << 10, ms(50))), ..Stage::alone() }.looks();
        all(&looks, |look| matches!(look, Bottleneck::Reader { unread } if *unread > 100_000));
    }
}

#[test]
fn the_memory_of_all_sessions() {
    let link = Shape::rate_mbit(200).delay(ms(50));
    let stage = Stage { links: vec![[link, link]], memory: Some(300_000), ..Stage::alone() };
    all(&stage.looks(), |look| *look == Bottleneck::Memory);
}

#[test]
fn a_window_that_is_less_than_the_link_holds() {
    let link = Shape::rate_mbit(200).delay(ms(50));
    for request in [Kind::Leased, Kind::Plain] {
        let mut stage = Stage { links: vec![[link, link]], ..Stage::alone() };
        stage.request = Some(request);
        stage.settings.set_stream_buffer(256 << 10).unwrap();
        stage.settings.set_max_stream_buffer(256 << 10).unwrap();
        all(&stage.looks(), |look| matches!(look, Bottleneck::Window { .. }));
    }
}

#[test]
fn a_path_that_is_silent() {
    let stage = Stage { cut: Some(ms(1_000)), watched: 1_500..6_000, ..Stage::alone() };
    let primary = PathId::PRIMARY;
    let is_silent =
        |look: &Bottleneck| matches!(look, Bottleneck::SilentPath { path, .. } if *path == primary);
    all(&stage.looks(), is_silent);
}

#[test]
fn a_server_that_brings_nothing() {
    let mut stage = Stage::with_edges(1);
    (stage.request, stage.hostile) = (Some(Kind::LeasedToEdges), Some((1, Crime::Silence)));
    stage.watched = 1_500..3_000;
    let is_server =
        |look: &Bottleneck| matches!(look, Bottleneck::Server { path, .. } if *path == PathId(1));
    all(&stage.looks(), is_server);
}

#[test]
fn loss() {
    // Far less comes than the link carries.
    let link = Shape::rate_mbit(200).delay(ms(30));
    let links = vec![[link.loss(0.05), link]];
    let looks = Stage { links, watched: 3_000..10_000, ..Stage::alone() }.looks();
    let is_lost =
        |look: &Bottleneck| matches!(look, Bottleneck::Loss { share, .. } if *share < 0.2);
    all(&looks, is_lost);
}

#[test]
fn the_link_of_the_primary() {
    for request in [Kind::Leased, Kind::Plain] {
        let stage = Stage { request: Some(request), ..Stage::alone() };
        let looks = stage.looks();
        all(&looks, |look| matches!(look, Bottleneck::PrimaryLink { rate } if near(*rate, 20)));
    }
}

#[test]
fn the_links_of_all_servers() {
    let is_all =
        |look: &Bottleneck| matches!(look, Bottleneck::Links { paths: 3, rate } if near(*rate, 60));
    all(&Stage::with_edges(2).looks(), is_all);
}

#[test]
fn the_link_of_the_only_edge() {
    let stage = Stage { request: Some(Kind::LeasedToEdges), ..Stage::with_edges(1) };
    let is_one =
        |look: &Bottleneck| matches!(look, Bottleneck::Links { paths: 1, rate } if near(*rate, 20));
    all(&stage.looks(), is_one);
}

#[test]
fn a_path_that_is_being_made() {
    let mut stage = Stage::with_edges(1);
    stage.request = Some(Kind::LeasedToEdges);
    stage.links[1] = stage.links[1].map(|shape| shape.cut(true));
    // Its handshake fails after three seconds, and the primary asks for it again a second later.
    stage.watched = 500..2_500;
    all(&stage.looks(), |look| *look == Bottleneck::Joining { path: PathId(1) });
}

#[test]
fn a_lease_that_nobody_gives() {
    let stage = Stage { request: Some(Kind::LeasedToEdges), ..Stage::alone() };
    all(&stage.looks(), |look| *look == Bottleneck::Lease);
}

#[test]
fn the_link_to_the_peer() {
    let stage = Stage { request: Some(Kind::Upload), ..Stage::alone() };
    all(&stage.looks(), |look| *look == Bottleneck::Uplink);
}

#[test]
fn a_peer_that_reads_slowly() {
    let sim = Sim::new(1);
    let (server, client) = (sim.host("server"), sim.host("client"));
    let config = ServerConfig::new(identity(0));
    let endpoint = server.endpoint(4433, Some(config), &QuicConfig::default()).unwrap();
    let seen = Arc::new(Mutex::new(None));
    server.spawn({
        let seen = seen.clone();
        async move {
            let accepted = endpoint.accept().await.unwrap().accept_any().await.unwrap();
            let Accepted::Primary(session) = accepted else { panic!("{accepted:?}") };
            let streams = session.session().accept_bi().await.unwrap();
            seen.lock().unwrap().replace(session.clone());
            session.session().closed().await;
            drop(streams);
        }
    });
    let (looks, there) = sim.block_on({
        let sim = sim.clone();
        async move {
            let endpoint = client.endpoint(0, None, &QuicConfig::default()).unwrap();
            let config = ClientConfig::pinned(identity(0).fingerprint());
            let address = std::net::SocketAddr::new(server.address(), 4433);
            let session = endpoint.connect_with(config, address, "").unwrap().await.unwrap();
            let (mut send, recv) = session.open_bi().await.unwrap();
            client.spawn(async move {
                while send.write_all(&[0; 10_000]).await.is_ok() {}
                drop(recv);
            });
            let looks = watch(&sim, &session, 1_000..2_000).await;
            let there = seen.lock().unwrap().take().unwrap();
            let there = watch(&sim, there.session(), 2_000..3_000).await;
            (looks, there)
        }
    });
    sim.end();
    all(&looks, |look| matches!(look, Bottleneck::Peer { .. }));
    // At the other end the same is its own reader.
    all(&there, |look| matches!(look, Bottleneck::Reader { .. }));
}

/// What the primary says of a download from its edges, and of itself.
#[test]
fn a_primary_tells_what_limits_its_client_until_all_has_come() {
    for (kind, paths) in [(Kind::LeasedToEdges, 2), (Kind::Leased, 3)] {
        let stage = Stage::with_edges(2);
        let sim = Sim::new(1);
        let cluster = Cluster::new(&sim, 3);
        for (server, [up, down]) in stage.links.iter().enumerate() {
            cluster.servers[server].link_up(*up);
            cluster.servers[server].link_down(*down);
            cluster.start(server);
        }
        let (during, after) = sim.block_on({
            let sim = sim.clone();
            async move {
                let session = stage.dial(&cluster).await;
                let ended = Arc::new(Mutex::new(false));
                let request = Request { kind, tag: 1, len: 32 << 20 };
                let (fetching, of, end) = (cluster.clone(), session.clone(), ended.clone());
                cluster.client.clone().spawn(async move {
                    fetching.fetch(&of, request, None).await.ok();
                    *end.lock().unwrap() = true;
                });
                sim.sleep(ms(200)).await;
                let primary = cluster.primary_session().unwrap();
                let rate = |snapshot: &kwik::Snapshot| {
                    let paths = snapshot.session.paths.iter();
                    paths.filter_map(|path| path.figures.goodput).sum::<u64>()
                };
                let mut looks = [Vec::new(), Vec::new()];
                while !*ended.lock().unwrap() {
                    let (snapshot, limit) = primary.session().judged();
                    if sim.elapsed() >= ms(2_500) && sim.elapsed() < ms(4_000) {
                        looks[0].push((limit, rate(&snapshot)));
                    }
                    sim.sleep(ms(300)).await;
                }
                // The client tells of paths while it fetches: without reports they are idle.
                sim.sleep(ms(3_500)).await;
                for _ in 0..10 {
                    let (snapshot, limit) = primary.session().judged();
                    looks[1].push((limit, rate(&snapshot)));
                    sim.sleep(ms(500)).await;
                }
                drop(session);
                let [during, after] = looks;
                (during, after)
            }
        });
        sim.end();
        let links = |look: &Bottleneck| {
            matches!(look, Bottleneck::Links { paths: of, rate }
                if *of == paths && near(*rate, 20 * paths as u64))
        };
        assert!(!during.is_empty(), "{kind:?}");
        // Of a queue that overflowed and is empty again a primary hears a second later, and takes
        // what was lost there for chance.
        let lost =
            |look: &Bottleneck| matches!(look, Bottleneck::Loss { share, .. } if *share < 0.05);
        assert!(during.iter().any(|(look, _)| links(look)), "{kind:?} {during:#?}");
        assert!(during.iter().all(|(look, _)| links(look) || lost(look)), "{kind:?} {during:#?}");
        let fast = |rate: u64| near(rate, 20 * paths as u64);
        assert!(during.iter().all(|(_, rate)| fast(*rate)), "{kind:?} {during:#?}");
        let idle = (Bottleneck::Nothing, 0);
        // The first look is at the time in which it ended.
        assert!(after[1..].iter().all(|look| *look == idle), "{kind:?} {after:#?}");
    }
}
