//! What `kwik serve` takes for its administration.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use kwik_admin::Place;

use crate::options::duration;

#[derive(Debug, Args)]
pub(crate) struct AdminOptions {
    /// Show what the server does and take commands there: 127.0.0.1:PORT, or the path of a socket;
    /// an address that other machines reach needs --admin-cert, --admin-key and
    /// --admin-token-file. A page, /metrics for Prometheus, and `kwik ctl`.
    #[arg(long, value_name = "PLACE")]
    pub(crate) admin: Option<Place>,
    /// A file with the token that is asked for there: 32 letters and digits or more, of
    /// `openssl rand -hex 32`, say.
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// A file with the certificate chain for that, the server's own first, as PEM.
    #[arg(long, value_name = "FILE", requires_all = ["admin", "admin_key"])]
    pub(crate) admin_cert: Option<PathBuf>,
    /// A file with its private key, as PEM.
    #[arg(long, value_name = "FILE", requires_all = ["admin", "admin_cert"])]
    pub(crate) admin_key: Option<PathBuf>,
    /// When an alert is raised: degraded=30 (seconds), memory=0.8 (share) or failures=60
    /// (handshakes a minute). May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = threshold, requires = "admin")]
    pub(crate) alert: Vec<(String, f64)>,
    /// Log a line of figures this often: 1m, say.
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "admin")]
    pub(crate) report_every: Option<Duration>,
    /// In what form the log is.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    /// An object a line.
    Json,
}

fn threshold(text: &str) -> Result<(String, f64), String> {
    // Of what comes twice clients alone know.
    let wrong = || format!("{text} is no threshold here: degraded=30, memory=0.8 or failures=60");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let value: f64 = value.parse().map_err(|_| wrong())?;
    let most = match name {
        "memory" => 1.0,
        "degraded" | "failures" => 1e6,
        _ => return Err(wrong()),
    };
    if (0.0..=most).contains(&value) { Ok((name.to_owned(), value)) } else { Err(wrong()) }
}
