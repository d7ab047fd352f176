//! `kwik identity`: by what servers know this client.

use clap::Args;

use crate::{failure::Failure, options::State, print, state};

#[derive(Debug, Args)]
pub(crate) struct IdentityArguments {
    #[command(flatten)]
    state: State,
}

pub(crate) fn run(arguments: &IdentityArguments) -> Result<(), Failure> {
    let folder = state::folder(arguments.state.folder.as_deref())?;
    print(&format!("{}\n", state::client_identity(&folder)?.fingerprint()))
}
