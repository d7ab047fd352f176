//! Transfers through one link.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kwik_sim::{Fate, Shape, Sim};

use crate::flow::{self, Flow, Reads};

/// What happened.
pub(crate) struct Outcome {
    pub(crate) reads: Vec<Reads>,
    /// What waited at the bottleneck, every 5 ms.
    pub(crate) queue: Vec<Duration>,
    /// At every second: datagrams, and those that queues dropped.
    fates: Vec<(u64, u64)>,
}

impl Outcome {
    /// Mean queue since then, in seconds.
    pub(crate) fn mean_queue(&self, from: f64) -> f64 {
        let part = &self.queue[(from * 200.0) as usize..];
        part.iter().map(Duration::as_secs_f64).sum::<f64>() / part.len() as f64
    }

    /// Share of datagrams that queues dropped since that second.
    pub(crate) fn dropped(&self, from: usize) -> f64 {
        let (first, last) = (self.fates[from], self.fates[self.fates.len() - 1]);
        (last.1 - first.1) as f64 / (last.0 - first.0) as f64
    }

    /// Mbit/s of a flow between two seconds.
    pub(crate) fn mbit(&self, flow: usize, from: f64, to: f64) -> f64 {
        let (from, to) = (Duration::from_secs_f64(from), Duration::from_secs_f64(to));
        flow::rate(&self.reads[flow], from, to) / 1e6
    }
}

/// Changes of the link, by time.
pub(crate) type Changes<'a> = &'a [(Duration, Shape)];

pub(crate) fn run(
    seed: u64,
    shape: Shape,
    flows: &[Flow],
    seconds: u64,
    changes: Changes<'_>,
) -> Outcome {
    let sim = Sim::new(seed);
    let client = sim.host("client");
    client.link_down(shape);
    let mut reads = Vec::new();
    for (index, flow) in flows.iter().enumerate() {
        let server = sim.host(&format!("server {index}"));
        let way = Shape::default().delay(flow.rtt / 2);
        server.link_up(way);
        server.link_down(way);
        reads.push(flow::start(&sim, index as u8 + 1, &client, &server, *flow));
    }
    for (at, shape) in changes {
        let (client, shape) = (client.clone(), *shape);
        sim.at(*at, move || client.link_down(shape));
    }
    let queue = Arc::new(Mutex::new(Vec::new()));
    let fates = Arc::new(Mutex::new(Vec::new()));
    let (watch, queues, all) = (sim.clone(), queue.clone(), fates.clone());
    sim.block_on(async move {
        for tick in 0..=seconds * 200 {
            if tick % 200 == 0 {
                let trace = watch.trace();
                let count = trace.fates.values().sum::<u64>();
                all.lock().unwrap().push((count, trace.count(Fate::Dropped)));
            }
            queues.lock().unwrap().push(client.queued_down());
            watch.sleep(Duration::from_millis(5)).await;
        }
    });
    sim.end();
    let queue = std::mem::take(&mut *queue.lock().unwrap());
    let fates = std::mem::take(&mut *fates.lock().unwrap());
    Outcome { reads, queue, fates }
}
