//! What `kwik verify` takes.

use std::{path::PathBuf, str::FromStr, time::Duration};

use blake3::Hash;
use clap::Args;

use crate::options::{ObjectLink, TrustOptions, duration};

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// What the file should be: the link of an object, or a BLAKE3 hash as b3sum prints it.
    #[arg(value_name = "LINK or HASH")]
    pub(crate) original: Original,
    /// The file, or - for standard input [default: the object's own name, here].
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Give up when nothing has come for so long: 30, 30s, 5m or 1h.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) trust: TrustOptions,
}

/// What a file is compared with.
#[derive(Debug, Clone)]
pub(crate) enum Original {
    Link(ObjectLink),
    Hash(Hash),
}

impl FromStr for Original {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(hash) => Ok(Self::Hash(hash)),
            Err(_) => text.parse().map(Self::Link),
        }
    }
}
