//! Each kind of hostile edge beside an honest one, in virtual time: what it costs a reader, and
//! what its primary hears of it.

use std::time::Duration;

use kwik::{Code, Config, PathStatus};
use kwik_sim::{Shape, Sim};

use crate::cluster::{Cluster, Kind, Reading, Request};
use crate::hostile::Crime;
use crate::scenario::ms;

/// What two honest links of 10 Mbit/s bring in 3.2 s.
const LEN: u64 = 8_000_000;
/// The hostile edge's server, and its path: the first that the primary makes.
const HOSTILE: usize = 1;

/// The code for which its path ends, none if it stays, and how long a reader waits at most.
fn sentence(crime: Crime) -> (Option<Code>, Duration) {
    match crime {
        Crime::Unasked | Crime::Twice => (Some(Code::SecondaryStreamIsolation), ms(500)),
        Crime::GarbageControl | Crime::GarbageData => (Some(Code::InvalidFrame), ms(500)),
        _ => (None, ms(500)),
    }
}

/// A stream that all may bring, and what the primary heard of the hostile edge's paths.
fn run(crime: Crime) -> (Reading, Vec<String>) {
    let sim = Sim::new(crime as u64);
    let cluster = Cluster::new(&sim, 3).with_hostile(Some((HOSTILE, crime)));
    for server in 0..3 {
        cluster.servers[server].link(Shape::rate_mbit(10).delay(ms(20)));
        cluster.start(server);
    }
    let outcome = sim.block_on(async move {
        let session = cluster.connect(Config::default()).await.unwrap();
        let request = Request { kind: Kind::Leased, tag: 1, len: LEN };
        let reading = cluster.fetch(&session, request, None).await.unwrap();
        let stats = session.stats();
        assert!(stats.held <= stats.window && stats.granted <= stats.window, "{stats:?}");
        let address = cluster.address(HOSTILE).to_string();
        let primary = cluster.primary_session().unwrap();
        let own = primary.all_paths().into_iter().filter(|path| path.address == address);
        let dead = own.filter(|path| path.status == PathStatus::Dead).map(|path| path.reason);
        (reading, dead.collect())
    });
    sim.end();
    outcome
}

#[test]
fn no_kind_of_hostile_edge_holds_a_reader_up_beside_an_honest_one() {
    for crime in Crime::ALL {
        let (code, most) = sentence(crime);
        let (reading, dead) = run(crime);
        let (wait, _) = reading.longest_wait();
        println!("{}: {:?}, a wait of {wait:?}, {dead:?}", crime.name(), reading.took());
        // With the honest edge and the primary alone it takes 3.2 s, and a path has to be made.
        assert!(reading.took() < Duration::from_secs(5), "{crime:?}: {:?}", reading.took());
        assert!(wait < most, "{crime:?}: a wait of {wait:?}");
        let told = |code: Code| dead.iter().any(|reason| reason.contains(code.name()));
        assert!(code.is_none_or(told), "{crime:?}: {dead:?}");
    }
}
