//! What random scenarios contained: a net in which something never happens proves nothing of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use kwik_sim::{Fate, Trace};

use crate::cluster::{FetchError, Kind};
use crate::hostile::Crime;
use crate::scenario::{Fault, Outcome, Scenario};

#[derive(Debug, Default)]
pub(crate) struct Coverage {
    counts: BTreeMap<&'static str, u64>,
    /// Of all traces, whatever their order.
    digest: u64,
    /// The longest time from the first fault, or the dial, to an error.
    slowest_error: Duration,
}

/// Out of a hundred datagrams, how many were lost by chance.
fn loss(trace: &Trace) -> &'static str {
    let all: u64 = trace.fates.values().sum();
    match trace.count(Fate::Lost) * 100 / all.max(1) {
        0 if trace.count(Fate::Lost) == 0 => "no loss by chance",
        0..2 => "loss below 2 %",
        2..5 => "loss of 2 to 5 %",
        5..10 => "loss of 5 to 10 %",
        _ => "loss of 10 % or more",
    }
}

fn name(fault: Fault) -> &'static str {
    match fault {
        Fault::Crash(0) => "the primary crashes",
        Fault::Crash(_) => "an edge crashes",
        Fault::Start(_) => "a restart",
        Fault::Freeze(_) => "a freeze",
        Fault::Thaw(_) => "a thaw",
        Fault::Cut(0) => "a partition of the primary",
        Fault::Cut(_) => "a partition of an edge",
        Fault::CutUp(_) | Fault::CutDown(_) => "a partition one way",
        Fault::Mend(_) => "a link mended",
        Fault::Slow(..) => "a slow server",
        Fault::Leave(_) => "a path removed",
        Fault::Join(_) => "a path added",
        Fault::Rebind => "another address of the client",
    }
}

impl Coverage {
    pub(crate) fn of(seed: u64, scenario: &Scenario, outcome: &Outcome) -> Self {
        let mut covered = Self::default();
        let servers = ["1 server", "2 servers", "3 servers", "4 servers", "5 servers"];
        covered.count(servers[scenario.links.len() - 1]);
        covered.count(match scenario.fetches.len() {
            1 => "1 stream",
            2..=8 => "2 to 8 streams",
            9..=32 => "9 to 32 streams",
            _ => "33 to 64 streams",
        });
        covered.count(loss(&outcome.trace));
        if let Some((_, crime)) = scenario.hostile {
            covered.count(crime.name());
        }
        if outcome.resumptions > 0 {
            covered.count("taken up on another connection");
        }
        if outcome.lost.is_some() {
            covered.count("a session lost");
        }
        let end = outcome.fetched.iter().map(|(at, _)| *at).max().unwrap_or_default();
        // What goes wrong once all is over counts for nothing.
        for (_, fault) in scenario.faults.iter().filter(|(at, _)| *at < end) {
            covered.count(name(*fault));
        }
        for (fetch, (at, result)) in scenario.fetches.iter().zip(&outcome.fetched) {
            covered.note_fetch(scenario, fetch.request.kind, *at, result.as_ref().err());
            if fetch.pace.is_some() {
                covered.count("a slow reader");
            }
        }
        let duplicates = outcome.duplicates.unwrap_or_default();
        for (what, bytes) in [
            ("bytes that came twice", duplicates.received),
            ("bytes charged to moves", duplicates.moved),
            ("bytes charged to pieces taken back", duplicates.reclaimed),
            ("bytes sent unasked beside others", duplicates.unasked),
        ] {
            *covered.counts.entry(what).or_default() += bytes;
        }
        for (fate, times) in &outcome.trace.fates {
            *covered.counts.entry(fate_name(*fate)).or_default() += times;
        }
        covered.digest = mix(seed, outcome.trace.digest);
        covered
    }

    fn note_fetch(&mut self, all: &Scenario, kind: Kind, at: Duration, error: Option<&FetchError>) {
        let Some(error) = error else {
            return self.count(match kind {
                Kind::Leased => "fetched, leased to all",
                Kind::LeasedToEdges => "fetched, leased to edges",
                Kind::Plain => "fetched, plain",
                Kind::Upload => "uploaded",
            });
        };
        self.count(match error {
            FetchError::Dial(_) => "failed: not dialed",
            FetchError::Read(_) => "failed: reading",
            FetchError::Write(_) => "failed: writing",
            FetchError::Lost(_) => "failed: opening",
        });
        let first = all.faults.first().map_or(Duration::ZERO, |(at, _)| *at);
        self.slowest_error = self.slowest_error.max(at.saturating_sub(first));
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (what, times) in &other.counts {
            *self.counts.entry(what).or_default() += times;
        }
        self.digest = self.digest.wrapping_add(other.digest);
        self.slowest_error = self.slowest_error.max(other.slowest_error);
    }

    /// Everything that the scenarios are there for has happened, and not by a rare chance.
    pub(crate) fn check(&self) {
        let expected = [
            "1 server",
            "5 servers",
            "1 stream",
            "33 to 64 streams",
            "no loss by chance",
            "loss of 10 % or more",
            "the primary crashes",
            "an edge crashes",
            "a restart",
            "a freeze",
            "a partition of the primary",
            "a partition of an edge",
            "a partition one way",
            "a slow server",
            "a path removed",
            "a path added",
            "a slow reader",
            "taken up on another connection",
            "a session lost",
            "fetched, leased to all",
            "fetched, leased to edges",
            "fetched, plain",
            "uploaded",
            "failed: reading",
        ];
        let crimes = Crime::ALL.map(Crime::name);
        for (what, least) in
            expected.map(|what| (what, 20)).into_iter().chain(crimes.map(|name| (name, 10)))
        {
            let times = self.counts.get(what).copied().unwrap_or_default();
            assert!(times >= least, "{what}: {times} times of {self}");
        }
    }
}

fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Delivered => "packets delivered",
        Fate::Corrupted => "packets corrupted",
        Fate::Cut => "packets cut off",
        Fate::Lost => "packets lost",
        Fate::Dropped => "packets dropped by full queues",
        Fate::TooLarge => "packets too large",
        Fate::Unreachable => "packets to nobody",
    }
}

/// SplitMix64's last step.
fn mix(seed: u64, digest: u64) -> u64 {
    let mut z = digest ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> =
            self.counts.iter().map(|(what, times)| format!("{what} {times}")).collect();
        writeln!(f, "{}", counts.join(", "))?;
        let (slowest, digest) = (self.slowest_error, self.digest);
        write!(f, "slowest error {slowest:.1?} after the first fault, traces {digest:016x}")
    }
}
