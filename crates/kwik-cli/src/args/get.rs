//! What `kwik get` takes.

use std::{num::NonZeroU64, path::PathBuf, time::Duration};

use blake3::Hash;
use clap::{Args, ValueEnum};

use crate::{
    options::{TrustOptions, duration, rate},
    remote::Remote,
    sessions::Dialing,
    state,
    target::Manner,
    voice::Form,
};

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// What to fetch: kwik://FINGERPRINT@HOST:PORT/NAME, as `kwik serve` prints it. With a / at its
    /// end it is a folder, with all that is in it; without a name, all that is served. In names, *,
    /// ? and [a-z] stand for others, as in a shell. Further servers that have the same may follow
    /// the port, each as ,FINGERPRINT@HOST:PORT.
    #[arg(value_name = "LINK", required = true)]
    pub(crate) links: Vec<Remote>,
    /// Where to write it: a file, a folder, a pipe or a device, or - for standard output; of a
    /// folder, the folder that gets what is in it [default: its own name, here].
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The folder to write it to under its own name; what has none, as all that is served, goes
    /// straight into it.
    #[arg(short, long, value_name = "DIR", conflicts_with = "output")]
    pub(crate) dir: Option<PathBuf>,
    /// Replace a file that has the object's own name already, or is write-protected.
    #[arg(long)]
    pub(crate) force: bool,
    /// Fetch nothing when the file is there already.
    #[arg(short, long, conflicts_with = "force")]
    pub(crate) no_clobber: bool,
    #[command(flatten)]
    pub(crate) writing: Writing,
    #[command(flatten)]
    pub(crate) choice: Choice,
    #[command(flatten)]
    pub(crate) effort: Effort,
    /// The BLAKE3 hash that the object has to have, as b3sum prints it.
    #[arg(long, value_name = "HASH")]
    pub(crate) expect: Option<Hash>,
    /// Print the summary as one JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// How progress and messages show on standard error.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Shown::Auto)]
    pub(crate) progress: Shown,
    /// Say nothing but why it failed.
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say what limits the get as it goes on, and of each server at the end what it brought, and
    /// why so much.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// A folder that gets a qlog of each connection, for qvis, and one of what happens to the
    /// session: 1 GiB at the most, the oldest go first.
    #[arg(long, value_name = "DIR")]
    pub(crate) qlog: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trust: TrustOptions,
}

// How files are written.
#[derive(Debug, Args)]
pub(crate) struct Writing {
    /// Use nothing that an earlier get left, and leave nothing for a later one.
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Give files and folders the modes that they have at the server.
    #[arg(short = 'p', long)]
    pub(crate) modes: bool,
    /// Leave holes where the object has nothing but zeros, and reserve no room.
    #[arg(long)]
    pub(crate) sparse: bool,
}

// What of a folder is fetched, and whether anything is.
#[derive(Debug, Args)]
pub(crate) struct Choice {
    /// Of a folder: compare the hashes of files that are there, and not their times.
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Of a folder: only files that match this pattern; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
    /// Of a folder: no files and folders that match this pattern, whatever else says so.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Of a folder: say what would be fetched, and fetch nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

// How long and how hard a server is tried.
#[derive(Debug, Args)]
pub(crate) struct Effort {
    /// Try again when the session or the server fails, up to so many times in a row that bring
    /// nothing.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u32).range(..=1000)
    )]
    pub(crate) retry: u32,
    /// Give a try up when nothing has come for so long: 30, 30s, 5m or 1h.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Fetch at most so many bytes a second: 500K, 20M or 1G.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_rate: Option<NonZeroU64>,
}

impl Get {
    /// How servers are dialed.
    pub(crate) const fn dialing(&self) -> Dialing<'_> {
        let Effort { timeout, retry, limit_rate } = self.effort;
        Dialing { trust: &self.trust, timeout, retry, limit_rate }
    }

    /// How files are written.
    pub(crate) fn manner(&self) -> Manner {
        let folder = state::folder(self.trust.state.folder.as_deref()).ok();
        Manner {
            resume: !self.writing.no_resume,
            sparse: self.writing.sparse,
            modes: self.writing.modes,
            other_folder: folder.map(|folder| folder.join("parts")),
        }
    }

    /// The form of what it says.
    pub(crate) const fn form(&self) -> Form {
        match self.progress {
            _ if self.quiet => Form::Quiet,
            Shown::Auto => Form::Auto,
            Shown::Lines => Form::Lines,
            Shown::Json => Form::Json,
            Shown::None => Form::Silent,
        }
    }
}

/// How progress shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// A bar on a terminal, lines elsewhere.
    Auto,
    /// A line now and then.
    Lines,
    /// An object a line.
    Json,
    /// Not at all; messages do.
    None,
}
