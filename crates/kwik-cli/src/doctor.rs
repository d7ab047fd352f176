//! `kwik doctor`: what of this machine, and of the way to a server, keeps KWIK from doing well.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use clap::Args;
use kwik::escape;
use kwik_delivery::{Client, Link, Primaries, Visitor, limits::CLOCK_SKEW};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    connect::{Connection, Trust, Whom, connect},
    failure::{Failure, Kind},
    known::KnownServers,
    options::{State, duration},
    print, state,
};

mod machine;

/// How long the size of packets may be looked for: it takes some round trips.
const PROBING: Duration = Duration::from_secs(3);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// UDP payload that every QUIC path takes (RFC 9000 section 14.1).
const LEAST_MTU: u16 = 1200;

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// The server to which the way is looked at: kwik://FINGERPRINT@HOST:PORT, or any link to it;
    /// of a link with several, each.
    #[arg(value_name = "LINK")]
    link: Option<AnyLink>,
    /// How long the server has to answer: 30, 30s, 5m or 1h.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    state: State,
}

/// A link to servers, a folder or an object.
#[derive(Debug, Clone)]
struct AnyLink(Primaries);

impl FromStr for AnyLink {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let link = text.strip_suffix('/').unwrap_or(text).parse();
        link.map(Self).map_err(|error| format!("{error}"))
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Ok,
    /// It works, and not as well as it could.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    health: Health,
    what: &'static str,
    /// How it is and, unless it is well, what to do.
    text: String,
}

impl Finding {
    fn new(health: Health, what: &'static str, text: impl Into<String>) -> Self {
        Self { health, what, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let health = match self.health {
            Health::Ok => "ok",
            Health::Warn => "warn",
            Health::Fail => "FAIL",
        };
        write!(f, "{health:<5} {:<12} {}", self.what, escape(&self.text))
    }
}

pub(crate) async fn run(arguments: DoctorArguments) -> Result<(), Failure> {
    let mut failed = 0;
    let mut show = |finding: Finding| {
        failed += usize::from(finding.health == Health::Fail);
        print(&format!("{finding}\n"))
    };
    for finding in machine::findings(arguments.state.folder.as_deref()).await {
        show(finding)?;
    }
    match &arguments.link {
        Some(AnyLink(primaries)) => {
            for link in primaries.servers() {
                for finding in way(link, &arguments).await {
                    show(finding)?;
                }
            }
        }
        None => show(Finding::new(
            Health::Ok,
            "way",
            "not looked at: give the link of a server to look at the way there",
        ))?,
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::new(Kind::Transfer, "1 thing does not work: its line says what to do")),
        _ => {
            let message = format!("{failed} things do not work: their lines say what to do");
            Err(Failure::new(Kind::Transfer, message))
        }
    }
}

/// The way to a server, and whether that lets this client in.
async fn way(link: &Link, arguments: &DoctorArguments) -> Vec<Finding> {
    let trust = match trust(link, arguments) {
        Ok(trust) => trust,
        Err(failure) => return vec![Finding::new(Health::Fail, "trust", failure.to_string())],
    };
    let identity = state::folder(arguments.state.folder.as_deref()).ok();
    let identity = identity.and_then(|folder| state::find_client_identity(&folder).ok().flatten());
    let visitor = Visitor { pass: link.pass.clone(), identity: identity.map(Into::into) };
    let began = Instant::now();
    let whom = Whom { host: &link.host, port: link.port, trust, visitor, named_by: None };
    let connected = connect(whom, arguments.timeout).await;
    let connection = match connected {
        Ok(connection) => connection,
        Err(failure) => {
            let what = if failure.kind == Kind::Trust { "trust" } else { "way" };
            return vec![Finding::new(Health::Fail, what, failure.to_string())];
        }
    };
    let took = began.elapsed().as_millis();
    let text = format!("{} answers, {took} ms after the first packet", connection.address());
    let mut findings = vec![Finding::new(Health::Ok, "way", text)];
    findings.extend(admission(&connection).await);
    findings.extend(clock(&connection).await);
    findings.push(packets(&connection).await);
    connection.close().await;
    findings
}

fn trust(link: &Link, arguments: &DoctorArguments) -> Result<Trust, Failure> {
    if let Some(pin) = link.fingerprint {
        return Ok(Trust::Link(pin));
    }
    let known = KnownServers::open(state::folder(arguments.state.folder.as_deref())?)?;
    let server = crate::connect::server(&link.host, link.port);
    match known.find(&server) {
        Some(pin) => Ok(Trust::Known(pin, known)),
        None => {
            let message = format!(
                "the link has no fingerprint and {server} is not known: take the link that `kwik \
                 serve` prints"
            );
            Err(Failure::new(Kind::Trust, message))
        }
    }
}

/// Whether the server lets this client in: it says so after a round trip.
async fn admission(connection: &Connection) -> Option<Finding> {
    let session = &connection.session;
    let refused = timeout(PROBING, async {
        tokio::select! {
            error = session.closed() => Some(error),
            // A stream comes to its end once the session stands; nothing is asked on it.
            opened = answered(session) => opened.err(),
        }
    });
    let error = refused.await.ok().flatten()?;
    let failure = Failure::from(kwik_delivery::FetchError::Session(error));
    Some(Finding::new(Health::Fail, "trust", failure.to_string()))
}

/// How far this machine's clock is from the server's, where that says what it is.
async fn clock(connection: &Connection) -> Option<Finding> {
    let client = Client::new(connection.session.clone()).with_patience(PROBING);
    let (here, began) = (SystemTime::now(), Instant::now());
    let news = client.news().await.ok()?;
    // It was read at some time in between.
    let here = here + began.elapsed() / 2;
    Some(compare_clocks(here, news.about().time))
}

fn compare_clocks(here: SystemTime, there: SystemTime) -> Finding {
    let (apart, ahead) = match here.duration_since(there) {
        Ok(apart) => (apart, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let apart_for_people = match apart.as_secs() {
        0..120 => format!("{:.1} s", apart.as_secs_f64()),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    };
    let text = format!("this machine's clock is {apart_for_people} {ahead} the server's");
    if apart < CLOCK_SKEW {
        return Finding::new(Health::Ok, "clocks", text);
    }
    let advice = format!(
        "{text}: of two servers that are so far apart neither serves as the other's edge, and \
         links end at the wrong time: run timedatectl set-ntp true where it is wrong"
    );
    Finding::new(Health::Warn, "clocks", advice)
}

/// Waits until the server has answered the client's introduction.
async fn answered(session: &kwik::Session) -> Result<(), kwik::ConnectionError> {
    loop {
        if let Some(error) = session.close_reason() {
            return Err(error);
        }
        if session.stats().paths.iter().any(|path| path.data.is_some()) {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

/// How large the packets are that get through.
async fn packets(connection: &Connection) -> Finding {
    let session = &connection.session;
    let end = Instant::now() + PROBING;
    let mut largest = session.path_mtu();
    // It grows in steps, until larger ones are lost.
    let mut still = 0;
    while Instant::now() < end && still < 25 && session.close_reason().is_none() {
        sleep(LOOK).await;
        let now = session.path_mtu();
        still = if now > largest || now <= LEAST_MTU { 0 } else { still + 1 };
        largest = largest.max(now);
    }
    let text = format!("packets of {largest} bytes get through");
    match largest > LEAST_MTU {
        true => Finding::new(Health::Ok, "packets", text),
        false => Finding::new(
            Health::Warn,
            "packets",
            format!(
                "{text} and no larger ones were seen to, so transfers cost more: look at the MTU \
                 of tunnels and VPNs on the way"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_be_half_a_minute_apart() {
        let there = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for (behind, seconds, text) in [
            (false, 0.04, "ok    clocks       this machine's clock is 0.0 s ahead of the server's"),
            (true, 29.9, "ok    clocks       this machine's clock is 29.9 s behind the server's"),
            (true, 30.1, "warn  clocks       this machine's clock is 30.1 s behind the server's: "),
            (false, 150.0, "warn  clocks       this machine's clock is 2 min ahead of"),
            (false, 7200.0, "warn  clocks       this machine's clock is 2 h ahead of"),
        ] {
            let apart = Duration::from_secs_f64(seconds);
            let here = if behind { there - apart } else { there + apart };
            let found = compare_clocks(here, there).to_string();
            assert!(found.starts_with(text), "{found}");
        }
    }

    #[test]
    fn a_finding_is_one_line_in_columns() {
        let finding = Finding::new(Health::Warn, "sockets", "small\nbuffers");
        assert_eq!(finding.to_string(), "warn  sockets      small\\nbuffers");
    }
}
