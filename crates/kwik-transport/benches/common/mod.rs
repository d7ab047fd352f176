//! What all benches share: runtimes, the two stacks behind one face, figures and their report.

pub mod bare;
pub mod heap;
pub mod kwik;
pub mod report;
pub mod stack;

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ::kwik::{Config, QuicConfig};
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;

pub use self::bare::Bare;
pub use self::kwik::Kwik;
pub use self::report::{Metric, Options, Report};
pub use self::stack::{Recv, Send, Session, Stack};

/// Bytes a write: one KWIK packet.
pub const FRAME: usize = 64 * 1024;
/// Chunks a read.
pub const BATCH: usize = 64;
pub const GIB: f64 = (1u64 << 30) as f64;
/// What no run takes, however busy the machine is.
const HANGS: Duration = Duration::from_secs(120);

/// What both stacks are told.
#[derive(Debug, Clone)]
pub struct Settings {
    pub quic: QuicConfig,
    pub session: Config,
    /// Where endpoints are bound: servers, and clients.
    pub server: SocketAddr,
    pub client: SocketAddr,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = ([127, 0, 0, 1], 0).into();
        let (quic, session) = (QuicConfig::default(), Config::default());
        Self { quic, session, server: loopback, client: loopback }
    }
}

/// The runtimes: one for the client and one for each server, of one worker each.
pub struct Bed {
    pub client: Runtime,
    pub servers: [Runtime; 3],
    pub settings: Settings,
}

impl Bed {
    pub fn new(settings: Settings) -> Self {
        Self { client: runtime(), servers: [runtime(), runtime(), runtime()], settings }
    }

    /// Runs the client's part on a worker, since `block_on` costs whoever works in it dearly.
    pub fn run<T: std::marker::Send + 'static>(
        &self,
        work: impl Future<Output = T> + std::marker::Send + 'static,
    ) -> T {
        let work = async { tokio::time::timeout(HANGS, work).await.expect("the run hangs") };
        self.client.block_on(self.client.spawn(work)).unwrap()
    }

    /// A client's endpoint.
    pub fn client<S: Stack>(&self) -> S::Client {
        let _inside = self.client.enter();
        S::client(&self.settings)
    }

    /// A server's endpoint that does `serve` with each session.
    pub fn serve<S: Stack, F>(
        &self,
        serve: impl Fn(S::Session) -> F + Clone + std::marker::Send + 'static,
    ) -> Served<S>
    where
        F: Future<Output = ()> + std::marker::Send + 'static,
    {
        self.serve_on::<S, F>(&self.servers[0], serve)
    }

    /// The same in a runtime.
    pub fn serve_on<S: Stack, F>(
        &self,
        runtime: &Runtime,
        serve: impl Fn(S::Session) -> F + Clone + std::marker::Send + 'static,
    ) -> Served<S>
    where
        F: Future<Output = ()> + std::marker::Send + 'static,
    {
        let _inside = runtime.enter();
        let server = S::server(&self.settings);
        let endpoint = server.clone();
        tokio::spawn(async move {
            while let Some(incoming) = S::accept(&endpoint).await {
                let serve = serve.clone();
                tokio::spawn(async move {
                    if let Some(session) = S::establish(incoming).await {
                        serve(session).await;
                    }
                });
            }
        });
        Served(server)
    }
}

/// A server's endpoint, which closes when it is dropped.
pub struct Served<S: Stack>(S::Server);

impl<S: Stack> Deref for Served<S> {
    type Target = S::Server;

    fn deref(&self) -> &S::Server {
        &self.0
    }
}

impl<S: Stack> Drop for Served<S> {
    fn drop(&mut self) {
        S::close(&self.0);
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// What a piece of work takes: the time, and the whole process's time on processors.
pub struct Meter {
    start: Instant,
    cpu: Duration,
}

impl Meter {
    pub fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu() }
    }

    /// Seconds: by the clock, and on processors.
    pub fn stop(&self) -> (f64, f64) {
        (self.start.elapsed().as_secs_f64(), (cpu() - self.cpu).as_secs_f64())
    }
}

/// User and system time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The value below which this share of `values` lies.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() as f64 * share) as usize]
}

pub fn median(values: &[f64]) -> f64 {
    percentile(&mut values.to_vec(), 0.5)
}

/// What is written, over and over: one memory for all streams, or those that send many at once
/// would read from more of it, and so from further away, than those that send one after the other.
pub fn frame() -> Bytes {
    static DATA: OnceLock<Bytes> = OnceLock::new();
    DATA.get_or_init(|| vec![7; FRAME].into()).clone()
}

/// Writes this many bytes, and the end.
pub async fn write_all(stream: &mut impl Send, bytes: usize) {
    let frame = frame();
    let mut left = bytes;
    while left > 0 {
        let len = left.min(FRAME);
        if !stream.write_chunk(frame.slice(..len)).await {
            return;
        }
        left -= len;
    }
    stream.finish();
}

/// Reads to the end: how much it was.
pub async fn read_all(stream: &mut impl Recv) -> usize {
    let (mut chunks, mut read) = (vec![Bytes::new(); BATCH], 0);
    while let Some(filled) = stream.read_chunks(&mut chunks).await {
        read += chunks[..filled].iter_mut().map(|c| std::mem::take(c).len()).sum::<usize>();
    }
    read
}

/// Reads this many bytes; false when the stream ends before.
pub async fn read_exact(stream: &mut impl Recv, bytes: usize) -> bool {
    let mut read = 0;
    while read < bytes {
        let Some(chunk) = stream.read_chunk(bytes - read).await else { return false };
        read += chunk.len();
    }
    true
}

/// Answers each bidirectional stream with what it carries.
pub async fn serve_echo<S: Session>(session: S) {
    while let Some((mut send, mut recv)) = session.accept_bi().await {
        tokio::spawn(async move {
            while let Some(chunk) = recv.read_chunk(usize::MAX).await {
                if !send.write_chunk(chunk).await {
                    return;
                }
            }
            send.finish();
        });
    }
}
