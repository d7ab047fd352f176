//! Gets that are killed, again and again.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use crate::common::{Place, Server, names};

const SIZE: usize = 24 << 20;
/// Bytes a second.
const RATE: &str = "16M";
/// What a get takes at that rate, and a little more: some come to their end before they are killed.
const LONGEST: Duration = Duration::from_millis(1900);
/// Kills, unless `KWIK_KILLS` says how many.
const KILLS: u32 = 20;
/// Downloads at once, each with its share of the kills.
const AT_ONCE: u32 = 4;
/// What may be fetched again after each, of 100.
const AGAIN: u64 = 5;

/// What a get said before it ended.
#[derive(Debug, Default)]
struct Said {
    /// Of what was there.
    kept: u64,
    damaged: u64,
    received: u64,
    done: bool,
}

struct Get(Child);

impl Get {
    fn start(place: &Place, server: &Server, folder: &str) -> Self {
        let target = place.path("out").join(folder);
        let target = target.to_str().unwrap();
        let link = server.link("x");
        let get = ["get", &link, "-d", target, "--progress", "json", "--limit-rate", RATE];
        Self(place.kwik(&get).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Kills it after a while, if it is not done by then: what it said.
    fn kill_after(mut self, wait: Duration) -> Said {
        let stderr = BufReader::new(self.0.stderr.take().unwrap());
        let listening = thread::spawn(move || {
            let mut said = Said::default();
            for line in stderr.lines().map_while(Result::ok) {
                // The last one may be cut.
                let Ok(event) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                let number = |name: &str| event[name].as_u64().unwrap();
                match event["event"].as_str().unwrap() {
                    "takeover" => (said.kept, said.damaged) = (number("kept"), number("damaged")),
                    "progress" => said.received = number("received"),
                    "done" => (said.received, said.done) = (number("received"), true),
                    _ => {}
                }
            }
            said
        });
        let end = Instant::now() + wait;
        while Instant::now() < end && self.0.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        self.0.kill().unwrap();
        let status = self.0.wait().unwrap();
        let said = listening.join().unwrap();
        assert!(status.success() == said.done || status.code().is_none(), "{status} {said:?}");
        said
    }
}

/// Numbers that look random and come again.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        most.mul_f64((self.0 >> 33) as f64 / f64::from(1_u32 << 31))
    }
}

/// One download after another, until so many were killed.
fn kill(place: &Place, server: &Server, number: u32, kills: u32, seed: u64) {
    let folder = number.to_string();
    let path = place.path("out").join(&folder);
    fs::create_dir(&path).unwrap();
    let data = fs::read(place.path("files/x")).unwrap();
    let whole = || {
        assert_eq!(names(&path), ["x"], "nothing else stays");
        assert!(fs::read(path.join("x")).unwrap() == data, "no byte is wrong");
        fs::remove_file(path.join("x")).unwrap();
    };
    let mut dice = Dice(seed ^ u64::from(number) << 32);
    let (mut killed, mut had) = (0, 0);
    while killed < kills {
        let said = Get::start(place, server, &folder).kill_after(dice.up_to(LONGEST));
        // What is read of the events is a little old, so that this is a lower bound of the loss.
        let least = if said.received > 0 || said.kept > 0 { said.kept } else { had };
        assert!(least + SIZE as u64 * AGAIN / 100 >= had, "{had} bytes were there, then {said:?}");
        assert_eq!(said.damaged, 0, "a process that ends damages nothing");
        if path.join("x").exists() {
            // Whole, whether or not it could say so.
            whole();
            had = 0;
        } else {
            killed += 1;
            had = if said.received > 0 { said.kept + said.received } else { had };
        }
    }
    let said = Get::start(place, server, &folder).kill_after(LONGEST * 30);
    assert!(said.done, "{said:?}");
    assert!(said.received + had <= SIZE as u64 * (100 + AGAIN) / 100, "{had}, then {said:?}");
    whole();
}

#[test]
fn whatever_kills_it_little_is_fetched_again_and_nothing_stays() {
    let number = |name: &str| env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = number("KWIK_SEED").unwrap_or(clock);
    let kills = number("KWIK_KILLS").map_or(KILLS, |kills| kills.try_into().unwrap());
    eprintln!("KWIK_SEED={seed} KWIK_KILLS={kills}");
    let place = Place::new();
    place.file("x", SIZE);
    let server = place.serve("state", &[]);
    thread::scope(|scope| {
        for number in 0..AT_ONCE {
            let (place, server) = (&place, &server);
            scope.spawn(move || kill(place, server, number, kills.div_ceil(AT_ONCE), seed));
        }
    });
}
