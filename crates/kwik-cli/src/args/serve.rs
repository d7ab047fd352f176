//! What `kwik serve` takes.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use kwik::CongestionControl;
use kwik_delivery::{Fingerprint, ObjectName};

use super::admin::AdminOptions;
use crate::link::lifetime;
use crate::options::{EdgeLink, Listen, PeerLink, State, duration_or_none, rate};

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The folder, or the file, to serve, or - for standard input. Of several, each is a folder of
    /// its own name, or of the one in NAME=PATH.
    #[arg(value_name = "SOURCE", required = true)]
    pub(crate) sources: Vec<PathBuf>,
    /// The name of what comes on standard input, which is read to its end and kept in a file in
    /// $TMPDIR.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<ObjectName>,
    /// Address and UDP port to listen on: an IP address, a host name, or the port alone for all
    /// addresses; port 0 takes a free one. May be given several times [default: :4433].
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<Listen>,
    /// How long an edge that sent wrong bytes is asked for nothing, as 30m or 7d; at most until the
    /// next start.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = quarantine)]
    pub(crate) quarantine: Duration,
    /// Serve files and folders whose names begin with a dot, too.
    #[arg(long)]
    pub(crate) hidden: bool,
    #[command(flatten)]
    pub(crate) peers: Peers,
    #[command(flatten)]
    pub(crate) entry: Entry,
    /// How long clients have to finish what they fetch, once the server is to end: 0, 30s or 5m.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration_or_none)]
    pub(crate) drain: Duration,
    #[command(flatten)]
    pub(crate) load: Load,
    #[command(flatten)]
    pub(crate) records: Records,
    #[command(flatten)]
    pub(crate) admin: AdminOptions,
    /// End when standard input does: for a program that starts servers and may be killed.
    #[arg(long, hide = true)]
    pub(crate) end_with_stdin: bool,
    #[command(flatten)]
    pub(crate) state: State,
}

// Servers with the same objects, and which of them this one is an edge of.
#[derive(Debug, Args)]
pub(crate) struct Peers {
    /// An edge that brings parts of every object: kwik://FINGERPRINT@HOST:PORT.
    #[arg(long = "edge", value_name = "LINK")]
    pub(crate) edges: Vec<EdgeLink>,
    /// A file that lists such links, one a line; SIGHUP has it read again.
    #[arg(long = "edges", value_name = "FILE")]
    pub(crate) edge_file: Option<PathBuf>,
    /// A server with the same objects, for clients to go on with once this one has ended:
    /// kwik://FINGERPRINT@HOST:PORT, the first choice first; what lets them in there may stand
    /// before the @. SIGHUP has it read again in the configuration file.
    #[arg(long = "successor", value_name = "LINK")]
    pub(crate) successors: Vec<PeerLink>,
    /// Another primary with the same objects, which the printed links name, too, for clients that
    /// do not reach this one: kwik://FINGERPRINT@HOST:PORT, the next choice first; what lets them
    /// in there may stand before the @.
    #[arg(long, value_name = "LINK")]
    pub(crate) also: Vec<PeerLink>,
    /// A primary that this server is an edge of.
    #[arg(long = "trust", value_name = "FINGERPRINT")]
    pub(crate) trusted: Vec<Fingerprint>,
}

// Who may come in to fetch.
#[derive(Debug, Args)]
pub(crate) struct Entry {
    /// Let in only who has the secret that the printed links have; it is made once, and kept in the
    /// state folder.
    #[arg(long, conflicts_with_all = ["secret_file", "public"])]
    pub(crate) secret: bool,
    /// The same with the secret in this file: 16 to 128 letters, digits, - and _.
    #[arg(long, value_name = "FILE", conflicts_with = "public")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Let in this client, by the key that `kwik identity` prints there; others only with a secret.
    #[arg(long, value_name = "KEY", conflicts_with = "public")]
    pub(crate) allow: Vec<Fingerprint>,
    /// A file that lists such keys, one a line; SIGHUP has it read again.
    #[arg(long, value_name = "FILE", conflicts_with = "public")]
    pub(crate) allow_file: Option<PathBuf>,
    /// Let in only who has a link that this server made, and print links that end after so long:
    /// 30m, 2h or 7d.
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = lifetime,
        conflicts_with_all = ["secret", "secret_file", "public"]
    )]
    pub(crate) link_expires: Option<Duration>,
    /// Let in everybody, also at an edge: without it, an edge serves its primaries' clients alone.
    #[arg(long)]
    pub(crate) public: bool,
}

// How much it does at once.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Sessions and paths at once; more are told that the server is busy.
    #[arg(long, value_name = "COUNT", value_parser = parse_count)]
    pub(crate) max_sessions: Option<usize>,
    /// Hash all objects from the start, small ones first, and not only when one is asked for.
    #[arg(long)]
    pub(crate) hash_ahead: bool,
    /// Bytes a second to send at the most, to all clients together: 500k, 10M or 1G, say.
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    pub(crate) rate: Option<NonZeroU64>,
    /// What decides how much is in flight to a client: CUBIC that tells loss by chance from a full
    /// queue, plain CUBIC, or a model of the path.
    #[arg(long, value_enum, default_value_t = Congestion::Tolerant)]
    pub(crate) congestion: Congestion,
}

// What it writes down of what it does.
#[derive(Debug, Args)]
pub(crate) struct Records {
    /// A file that gets a line of JSON for each request; SIGHUP has it opened again.
    #[arg(long, value_name = "FILE")]
    pub(crate) access_log: Option<PathBuf>,
    /// A folder that gets a qlog of each connection, for qvis, and one of what happens to sessions:
    /// 1 GiB at the most, the oldest go first.
    #[arg(long, value_name = "DIR")]
    pub(crate) qlog: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Congestion {
    Tolerant,
    Cubic,
    Model,
}

impl From<Congestion> for CongestionControl {
    fn from(congestion: Congestion) -> Self {
        match congestion {
            Congestion::Tolerant => Self::Tolerant,
            Congestion::Model => Self::Model,
            Congestion::Cubic => Self::Cubic,
        }
    }
}

/// Also a number of seconds alone.
fn quarantine(text: &str) -> Result<Duration, String> {
    lifetime(&if text.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{text}s")
    } else {
        text.into()
    })
}

fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "a number from 1 on: --max-sessions 100".into())
}
