//! `kwik completions` and `kwik man`: what shells and readers know of the command line, made of its
//! one definition.

use std::io;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use crate::{
    args::{Arguments, CompletionsArguments, ManArguments},
    failure::{Failure, Kind},
    print,
};

pub(crate) fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "kwik", &mut text);
    print(&String::from_utf8_lossy(&text))
}

pub(crate) fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let mut command = Arguments::command();
    if let Some(folder) = &arguments.dir {
        return clap_mangen::generate_to(command, folder).map_err(|error| {
            let folder = folder.display();
            Failure::new(Kind::Disk, format!("cannot write into {folder}: {error}"))
        });
    }
    command.build();
    let page = match &arguments.command {
        None => &command,
        Some(name) => command.find_subcommand(name).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("there is no command {name}: see kwik --help"))
        })?,
    };
    let text = rendered(page.clone())
        .map_err(|error| Failure::new(Kind::Transfer, format!("cannot make the page: {error}")))?;
    print(&text)
}

fn rendered(command: Command) -> io::Result<String> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
