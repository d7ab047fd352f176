//! The `kwik` command.

use std::{
    env,
    io::{ErrorKind as ErrorOfIo, Write},
    process::ExitCode,
    time::Duration,
};

use clap::{CommandFactory, FromArgMatches, error::ErrorKind};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

mod access;
mod admin;
mod args;
mod config;
mod connect;
mod ctl;
mod demo;
mod doctor;
mod door;
mod edges;
mod failure;
mod filter;
mod folder;
mod get;
mod identity;
mod known;
mod limit;
mod link;
mod listen;
mod log;
mod ls;
mod manual;
mod many;
mod notify;
mod options;
mod progress;
mod qlog;
mod remote;
mod route;
mod serve;
mod sessions;
mod signals;
mod sources;
mod state;
mod successors;
mod summary;
mod tally;
mod target;
mod verify;
mod voice;

use args::{Arguments, Command};
use config::Defaults;
use failure::{Failure, Kind};
use voice::say;

/// What a write that cannot be interrupted may take, so that no partial file stays.
const SHUTDOWN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let parsed = parse();
    log::start(parsed.as_ref().ok());
    match parsed {
        Ok(command) => run(command),
        Err(failure) => end(Err(failure)),
    }
}

/// Says why it failed, if it did.
fn end(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if failure.kind != Kind::Unread {
        say(&format!("kwik: {failure}"));
    }
    failure.exit_code()
}

/// The command, or what is wrong with it on one line.
fn parse() -> Result<Command, Failure> {
    let given: Vec<_> = env::args_os().collect();
    let command = Arguments::command();
    let defaults = Defaults::find(&command, &given)?;
    let parsed = defaults.apply(command, &given).try_get_matches_from(&given);
    let error = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => return Ok(arguments.command),
        Err(error) => error,
    };
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let text = error.to_string();
    let ends = ["\n\nUsage:", "\n\nFor more information"];
    let end = ends.iter().filter_map(|end| text.find(end)).min().unwrap_or(text.len());
    let text = text[..end].trim_start_matches("error: ").replace("\n\n", ": ");
    let words: Vec<_> = text.split_whitespace().collect();
    let text = link::without_passes(&words.join(" "));
    let origin = defaults.origin(&text).map(|origin| format!("{origin}: ")).unwrap_or_default();
    Err(Failure::new(Kind::Usage, format!("{origin}{text}: see kwik --help")))
}

fn run(command: Command) -> ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            return end(Err(Failure::new(Kind::Transfer, format!("cannot start: {error}"))));
        }
    };
    // On a worker thread: one that only blocks costs bulk transfers a seventh of their speed.
    let result = runtime.block_on(async { tokio::spawn(dispatch(command)).await });
    let result =
        result.unwrap_or_else(|error| Err(Failure::new(Kind::Transfer, format!("a bug: {error}"))));
    // Before a write is waited for that takes its time.
    let code = end(result);
    runtime.shutdown_timeout(SHUTDOWN);
    qlog::finish();
    code
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    outlive_size_limits();
    match command {
        Command::Serve(arguments) => serve::run(*arguments).await,
        Command::Ctl(arguments) => ctl::run(&arguments),
        Command::Id(arguments) => id(&arguments),
        Command::Identity(arguments) => identity::run(&arguments),
        Command::Link(arguments) => link::run(arguments),
        Command::Get(arguments) => get::run(arguments).await,
        Command::Ls(arguments) => ls::run(arguments).await,
        Command::Verify(arguments) => verify::run(arguments).await,
        Command::Demo(arguments) => or_interrupted(demo::run(arguments)).await,
        Command::Doctor(arguments) => or_interrupted(doctor::run(arguments)).await,
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
    }
}

/// A write beyond a file size limit (`ulimit -f`) fails then, and what fails says so. Else the
/// signal ends the program.
fn outlive_size_limits() {
    #[cfg(target_os = "linux")]
    {
        // Its handler stays when the listener is gone.
        const SIGXFSZ: i32 = 25;
        signal(SignalKind::from_raw(SIGXFSZ)).ok();
    }
}

async fn or_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        ended = interrupted() => {
            ended?;
            Err(Failure::new(Kind::Signal(SignalKind::interrupt().as_raw_value()), "interrupted"))
        }
    }
}

fn id(arguments: &args::Id) -> Result<(), Failure> {
    let folder = state::folder(arguments.state.folder.as_deref())?;
    print(&format!("{}\n", state::identity(&folder)?.fingerprint()))
}

/// Waits for Ctrl-C, or until the system asks to end.
async fn interrupted() -> Result<(), Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(Kind::Transfer, format!("cannot wait for signals: {error}"))
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Prints to standard output, which may be closed or full.
fn print(text: &str) -> Result<(), Failure> {
    let printed = target::stdout().and_then(|mut output| output.write_all(text.as_bytes()));
    printed.map_err(|error| {
        let kind = match error.kind() {
            ErrorOfIo::BrokenPipe => Kind::Unread,
            _ => Kind::Disk,
        };
        Failure::new(kind, format!("cannot write to standard output: {error}"))
    })
}
