//! `kwik get`: one object into a file.

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use kwik_delivery::{Client, Fetch, FetchError, ObjectName, Progress};
use tokio::time;

use crate::{
    args::Get,
    connect::{Trust, connect},
    failure::{Failure, Kind},
    print,
    progress::Display,
    summary::{Shares, Summary},
};

/// How often a transfer is looked at.
const TICK: Duration = Duration::from_millis(20);

pub(crate) async fn run(arguments: Get) -> Result<(), Failure> {
    let name = &arguments.link.name;
    let output = arguments.output.clone().unwrap_or_else(|| PathBuf::from(name.file_name()));
    if arguments.json && is_stdout(&output) {
        let message = "--json and -o - both want standard output: leave one of them out";
        return Err(Failure::new(Kind::Usage, message));
    }
    let began = Instant::now();
    let trust = Trust::new(&arguments)?;
    let connection = connect(&arguments.link.host, arguments.link.port, trust).await?;
    let client = Client::new(connection.session.clone());
    let summary = fetch(&client, name, &output, began, |_, _| {}).await?;
    connection.close().await;
    if arguments.json {
        return print(&summary.to_json(&output.to_string_lossy()));
    }
    eprintln!("{summary}");
    Ok(())
}

/// Fetches an object and shows its progress; `on_progress` is told the verified bytes
/// and the size.
pub(crate) async fn fetch(
    client: &Client,
    name: &ObjectName,
    output: &Path,
    began: Instant,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<Summary, Failure> {
    let fetch = client.fetch(name).await?;
    let manifest = fetch.manifest().clone();
    let progress = Progress::default();
    let mut display = Display::new(manifest.size);
    let mut shares = Shares::default();
    let mut writing = pin!(write(fetch, output, &progress));
    let mut ticks = time::interval(TICK);
    let result = loop {
        tokio::select! {
            result = &mut writing => break result,
            _ = ticks.tick() => {
                shares.update(client.session());
                display.update(progress.verified(), &shares);
                on_progress(progress.verified(), manifest.size);
            }
        }
    };
    result?;
    shares.update(client.session());
    let longest_stall = progress.longest_stall();
    Ok(Summary { manifest, elapsed: began.elapsed(), longest_stall, shares })
}

async fn write(fetch: Fetch, output: &Path, progress: &Progress) -> Result<(), FetchError> {
    if is_stdout(output) {
        let stdout = raw_stdout().map_err(FetchError::Output)?;
        fetch.write_to(Box::new(stdout), progress).await
    } else {
        fetch.save(output, progress).await
    }
}

fn is_stdout(output: &Path) -> bool {
    output == Path::new("-")
}

/// Standard output without the line buffer.
fn raw_stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}
