//! What an honest session keeps of its goodput while its server is attacked: on one machine, where
//! the attacker takes its share of the same processors, and over links of a network lab, where each
//! has a host of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use kwik::{Endpoint, Session};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, timeout_at};

use super::common::address;
use super::{AGAIN, ATTACK, ATTACKS, DONE, Reader, TURN, VICTIM};
use super::{dial, run_attacker, scene, serve_all, victim};

/// Pairs of a measurement without the attack and one beside it.
const ROUNDS: usize = 5;
/// Time for the attack to begin, and for the honest session to get up to speed, before its
/// bytes count.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(1);

/// The attacker's host, and how what runs there gives way to others on the processors that all
/// hosts have.
const ATTACKER: &[&str] = &["attacker", "chrt", "-r", "5"];

/// The attacks that the environment names a part of; all without it.
fn attacks() -> impl Iterator<Item = &'static (&'static str, Reader)> {
    let named = std::env::var(ATTACK).unwrap_or_default();
    ATTACKS.iter().filter(move |(attack, _)| attack.contains(&named))
}

/// Bytes that a session echoes, and the time that `used` counts meanwhile.
async fn goodput(session: &Session, used: impl Fn() -> Duration) -> [f64; 2] {
    let (mut send, mut recv) = session.open_bi().await.unwrap();
    let writer = tokio::spawn(async move {
        let frame = Bytes::from(vec![7; 64 * 1024]);
        while send.write_chunk(frame.clone()).await.is_ok() {}
    });
    let mut figures = [0.0; 2];
    for time in [WARM_UP, MEASURED] {
        let (before, end, mut bytes) = (used(), Instant::now() + time, 0);
        while let Ok(read) = timeout_at(end, recv.read_chunk(usize::MAX, true)).await {
            bytes += read.unwrap().map_or(0, |chunk| chunk.bytes.len() as u64);
        }
        figures = [bytes as f64, (used() - before).as_secs_f64()];
    }
    writer.abort();
    figures
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// This process's time on processors.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: needs a machine to itself, with a core for the attacker"]
async fn an_honest_session_keeps_its_goodput_beside_each_attack() {
    for (attack, reader) in attacks() {
        let _turn = TURN.lock().await;
        let (endpoint, _own, honest) = scene(*reader).await;
        let mut ratios = [vec![], vec![]];
        for _ in 0..ROUNDS {
            let [alone, alone_used] = goodput(&honest, own_time).await;
            let address = address(&endpoint);
            let attacks = tokio::spawn(async move {
                loop {
                    run_attacker(attack, address).await;
                }
            });
            let [beside, used] = goodput(&honest, own_time).await;
            attacks.abort();
            ratios[0].push(beside / alone * 100.0);
            ratios[1].push(beside / used / (alone / alone_used) * 100.0);
        }
        let [all, own] = ratios.map(median);
        println!("{attack}: {all:.0} % of the goodput without it, {own:.0} % by processor time");
    }
}

/// A process of this binary on a host of the lab, killed when it is dropped.
struct Part {
    process: Child,
    /// How often it said [`DONE`].
    done: Arc<AtomicUsize>,
}

impl Part {
    fn start(host: &[&str], test: &str, attack: &str, victim: SocketAddr) -> Self {
        let lab = std::env::var_os("LAB_IN").expect("runs inside a lab: bench/lab/attacks.sh");
        let mut process = Command::new(lab)
            .args(host)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .envs([(ATTACK, attack), (VICTIM, &victim.to_string()), (AGAIN, "")])
            .env("RUST_BACKTRACE", "0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (done, said) = (Arc::new(AtomicUsize::new(0)), process.stdout.take().unwrap());
        let counted = done.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                counted.fetch_add(usize::from(line.ends_with(DONE)), Relaxed);
            }
        });
        Self { process, done }
    }

    fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    fn done(&self) -> usize {
        self.done.load(Relaxed)
    }

    /// Its time on processors so far.
    fn time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        // Linux counts in hundredths of a second, whatever its clock.
        Duration::from_millis(10 * ticks.sum::<u64>())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The server of [`an_honest_session_keeps_its_goodput_over_links`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the other"]
async fn victim_on_a_host() {
    let (Some((_, reader)), Ok(address)) = (attacks().next(), std::env::var(VICTIM)) else {
        return;
    };
    let endpoint = victim(address.parse().unwrap());
    println!("{DONE}");
    serve_all(endpoint, *reader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, inside a network lab: bench/lab/attacks.sh"]
async fn an_honest_session_keeps_its_goodput_over_links() {
    let host = std::env::var("LAB_SERVER").expect("runs inside a lab: bench/lab/attacks.sh");
    let address = SocketAddr::new(host.parse().unwrap(), 4433);
    let number = std::env::var("ATTACKERS").map_or(1, |number| number.parse().unwrap());
    for (attack, _) in attacks() {
        let server = Part::start(&["server"], "goodput::victim_on_a_host", attack, address);
        while server.done() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let own = Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
        let honest = dial(&own, address).await;
        let mut figures = [const { vec![] }; 5];
        for _ in 0..ROUNDS {
            let [alone, alone_used] = goodput(&honest, || server.time()).await;
            let start = |_| Part::start(ATTACKER, "attacker", attack, address);
            let mut attackers = (0..number).map(start).collect::<Vec<_>>();
            let [beside, used] = goodput(&honest, || server.time()).await;
            let attacking = attackers.iter_mut().all(Part::is_alive);
            assert!(attacking, "{attack}: an attacker gave up");
            let attacks = attackers.iter().map(Part::done).sum::<usize>() as f64;
            let attacks = attacks / (WARM_UP + MEASURED).as_secs_f64();
            let kept = beside / alone * 100.0;
            let figure = [kept, alone * 8e-6, attacks, alone_used * 100.0, used * 100.0];
            figures.iter_mut().zip(figure).for_each(|(all, one)| all.push(one));
        }
        let [kept, alone, attacks, idle, busy] = figures.map(median);
        println!(
            "{attack}: {kept:.0} % of the goodput without it ({alone:.0} Mbit/s), {attacks:.1} \
             attacks a second; the server used {busy:.0} % of a core, {idle:.0} % without it"
        );
    }
}
