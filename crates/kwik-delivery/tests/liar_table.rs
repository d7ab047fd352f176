//! Each kind of lying edge beside one and two good servers, again and again: what it costs, whether
//! all is verified, and whether client and primary name it.
//!
//! `KWIK_GETS` is the number of gets in each row (1), `KWIK_LIAR` a part of the names of the rows
//! to run, `Garbage 2` say (all); the figures show with `--nocapture`.

#![allow(clippy::unwrap_used, reason = "tests and their fixtures may panic")]

mod common;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    Running, connect, content,
    liar::{Liar, Lie, asked_twice, fetch_checked, groups, one_byte, save_checked},
    source, start, start_in,
};
use kwik_delivery::{AtOnce, Edge, Source};
use tempfile::{TempDir, tempdir};
use tokio::time::{sleep, timeout};

/// As in the reports that began this table.
const SIZE: usize = 60_000_000;

/// What client and primary log.
#[derive(Clone, Copy)]
struct Log;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl Log {
    fn start() {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
        log.with_ansi(false).with_writer(|| Self).init();
    }

    /// How many lines say `what` of `whom`.
    fn says(what: &str, whom: &str) -> usize {
        let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = String::from_utf8_lossy(&lines);
        lines.lines().filter(|line| line.contains(what) && line.contains(whom)).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        LINES.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What lies.
#[derive(Debug, Clone, Copy)]
enum Kind {
    OneByte,
    AnotherFile,
    Garbage,
    EverySecondGroup,
    WhatIsAskedTwice,
}

const KINDS: [Kind; 5] = [
    Kind::OneByte,
    Kind::AnotherFile,
    Kind::Garbage,
    Kind::EverySecondGroup,
    Kind::WhatIsAskedTwice,
];

/// A lying edge: one by hand, or one that serves another file as it should.
enum Lying {
    ByHand(Liar),
    Honest(Box<Running>),
}

impl Lying {
    fn start(kind: Kind, scene: &Scene) -> Self {
        let lie: Lie = match kind {
            Kind::OneByte => one_byte(),
            Kind::Garbage => Arc::new(|_, _, bytes| bytes.fill(0x55)),
            Kind::EverySecondGroup => groups(|_, group| group % 2 == 1),
            Kind::WhatIsAskedTwice => asked_twice(),
            Kind::AnotherFile => {
                return Self::Honest(start(9, scene.other.clone(), Vec::new()).into());
            }
        };
        Self::ByHand(Liar::start(9, scene.object.clone(), lie))
    }

    fn edge(&self) -> Edge {
        match self {
            Self::ByHand(liar) => liar.edge.clone(),
            Self::Honest(server) => server.edge.clone(),
        }
    }
}

/// What stays the same in a row.
struct Scene {
    object: Bytes,
    source: Source,
    other: Source,
    good: Vec<Running>,
    /// Of the primary, which has hashed the object.
    state: Arc<TempDir>,
}

impl Scene {
    fn new(edges: u8) -> Self {
        let object = content(SIZE);
        let source = source(&[("x", object.clone())]);
        let other = common::source(&[("x", vec![7; SIZE].into())]);
        let good = (1..=edges).map(|seed| start(seed, source.clone(), Vec::new())).collect();
        Self { object, source, other, good, state: tempdir().unwrap().into() }
    }

    /// A primary that knows of no lie yet.
    fn primary(&self, lying: Option<Edge>) -> Running {
        let edges = self.good.iter().map(|server| server.edge.clone()).chain(lying).collect();
        let (state, source) = (Arc::clone(&self.state), self.source.clone());
        start_in(state, 0, source, edges, |server| server.with_join_policy(AtOnce))
    }

    /// Gets the object `times` times in one session, to a file or in order; who was found out.
    async fn get(
        &self,
        lying: Option<Edge>,
        number: usize,
        times: usize,
    ) -> (Vec<f64>, Vec<String>) {
        let servers = [self.primary(lying.clone())];
        let client = connect(&servers).await;
        let paths = 1 + self.good.len() + usize::from(lying.is_some());
        while client.session().stats().paths.len() < paths {
            sleep(Duration::from_millis(1)).await;
        }
        let mut seconds = Vec::new();
        for _ in 0..times {
            let began = Instant::now();
            match number % 2 {
                0 => save_checked(&client, &self.object).await.unwrap(),
                _ => fetch_checked(&client, &self.object).await.unwrap(),
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        if let Some(lying) = lying {
            let address = lying.addresses[0].to_string();
            let named = async {
                while Log::says("it is leased nothing for now", &address) == 0 {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            if timeout(Duration::from_secs(60), named).await.is_err() {
                let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
                panic!("the primary names nobody: {}", String::from_utf8_lossy(&lines));
            }
        }
        (seconds, client.liars_found().into_iter().map(|(_, address)| address).collect())
    }
}

/// The median of ratios, and the worst one with its seconds.
fn told(mut times: Vec<[f64; 2]>) -> String {
    times.sort_by(|one, two| (one[0] / one[1]).total_cmp(&(two[0] / two[1])));
    let ([beside, without], [worst, of]) = (times[times.len() / 2], times[times.len() - 1]);
    format!("{:.2} (worst {:.2}: {worst:.2} s for {of:.2} s)", beside / without, worst / of)
}

async fn row(kind: Kind, edges: u8, gets: usize) {
    let scene = Scene::new(edges);
    // The object is hashed once, and that is not measured.
    scene.get(None, 0, 1).await;
    let (mut finding, mut found_out) = (Vec::new(), Vec::new());
    for number in 0..gets {
        let lying = Lying::start(kind, &scene);
        let edge = lying.edge();
        let (without, _) = scene.get(None, number, 2).await;
        // By the second time at the latest all kinds have lied.
        let (beside, found) = scene.get(Some(edge.clone()), number, 3).await;
        let address = edge.addresses[0].to_string();
        assert_eq!(found, [address.as_str()], "{kind:?}");
        assert_eq!(Log::says("a server sent other bytes", &address), 1, "the client names it");
        for line in ["a client says that this edge", "it is leased nothing for now"] {
            assert_eq!(Log::says(line, &address), 1, "the primary names it once");
            assert_eq!(Log::says(line, &edge.fingerprint.to_string()), 1, "{line}");
        }
        // A port may come again.
        LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
        finding.push([beside[0], without[0]]);
        found_out.push([beside[2], without[1]]);
    }
    println!(
        "{:<17} {} good: {gets} of {gets} verified and named; times of those without it: {} as it \
         is found out, {} once it is",
        format!("{kind:?}"),
        edges + 1,
        told(finding),
        told(found_out),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_liar_costs_little_and_is_named() {
    Log::start();
    let gets = std::env::var("KWIK_GETS").map_or(1, |gets| gets.parse().unwrap());
    let named = std::env::var("KWIK_LIAR").unwrap_or_default();
    for kind in KINDS {
        for edges in [0, 1] {
            if format!("{kind:?} {}", edges + 1).contains(&named) {
                row(kind, edges, gets).await;
            }
        }
    }
}
