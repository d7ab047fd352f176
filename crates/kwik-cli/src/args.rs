//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::{
    ctl::CtlArguments, doctor::DoctorArguments, identity::IdentityArguments, link::LinkArguments,
    ls::Ls, options::State,
};

pub(crate) mod admin;
pub(crate) mod get;
pub(crate) mod serve;
pub(crate) mod verify;

use get::Get;
use serve::Serve;
use verify::Verify;

const NOTES: &str = "\
Exit codes: 0 done, 1 the transfer failed, 2 wrong usage, 3 not found, 4 trust, 5 network, 6 disk,
130 interrupted (128 and its number for another signal), 141 nobody reads standard output.
KWIK_LOG=off, error, warn, info, debug or trace says how much is logged.
Each option may also be set by a variable, KWIK_ and its name (KWIK_STATE=DIR, KWIK_QUIET=yes).";

/// Fetch one file from several servers at once, verified.
#[derive(Debug, Parser)]
#[command(name = "kwik", version, disable_help_subcommand = true, after_help = NOTES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// A file with options, as `option = value`, of all commands or below `[command]` [default:
    /// $XDG_CONFIG_HOME/kwik/config].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a folder or a file, as a primary or as an edge of one.
    Serve(Box<Serve>),
    /// Look at a running server, and change it.
    Ctl(CtlArguments),
    /// Print this server's fingerprint, making its identity if it has none.
    Id(Id),
    /// Print the key by which servers know this client, making its identity if it has none.
    Identity(IdentityArguments),
    /// Make a link to a server of yours that ends after a while, or leads to a part alone.
    Link(LinkArguments),
    /// Fetch an object, verify it and write it to a file.
    Get(Get),
    /// List what is in a folder of a server.
    Ls(Ls),
    /// Compare a file with an object of a server, or with a hash.
    Verify(Verify),
    /// Run a primary and two edges on this machine, and fetch through all three.
    Demo(Demo),
    /// Look what of this machine, or of the way to a server, keeps transfers from doing well.
    Doctor(DoctorArguments),
    /// Print what a shell needs to complete command lines.
    Completions(CompletionsArguments),
    /// Print a manual page, or write all of them.
    Man(ManArguments),
}

#[derive(Debug, Args)]
pub(crate) struct Id {
    #[command(flatten)]
    pub(crate) state: State,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// The folder, or the file, whose largest file is fetched [default: random bytes].
    pub(crate) folder: Option<PathBuf>,
    /// Kill one edge half-way.
    #[arg(long)]
    pub(crate) kill: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// Whose: `kwik completions bash > ~/.local/share/bash-completion/completions/kwik`, say.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// The command whose page is printed [default: that of kwik].
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Option<String>,
    /// Write the pages of all commands into this folder.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
