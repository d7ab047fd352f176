//! `kwik get`: one object into a file.

use std::{
    io,
    pin::pin,
    time::{Duration, Instant},
};

use kwik::escape;
use kwik_delivery::{Client, Fetch, FetchError, ObjectName, Progress};
use tokio::{task::spawn_blocking, time};

use crate::{
    args::Get,
    connect::{Trust, connect},
    failure::{Failure, Kind},
    print,
    progress::{Display, Waiting},
    say,
    summary::{Shares, Size, Summary},
    target::{self, Target},
};

/// How often a transfer is looked at.
const TICK: Duration = Duration::from_millis(20);

pub(crate) async fn run(arguments: Get) -> Result<(), Failure> {
    let name = &arguments.link.name;
    let target = Target::find(arguments.output.as_deref(), name, arguments.force)?;
    if arguments.json && matches!(target, Target::Stdout) {
        let message = "--json and -o - both want standard output: leave one of them out";
        return Err(Failure::new(Kind::Usage, message));
    }
    let patience = Duration::from_secs(arguments.timeout);
    let began = Instant::now();
    let trust = Trust::new(&arguments)?;
    let connection = connect(&arguments.link.host, arguments.link.port, trust, patience);
    let connection = connection.await?;
    let client = Client::new(connection.session.clone()).with_patience(patience);
    let summary = fetch(&client, name, &target, began, |_, _| {}).await?;
    connection.close().await;
    if arguments.verbose {
        summary.shares.explain().iter().for_each(|line| say(&escape(line).to_string()));
    }
    if arguments.json {
        return print(&summary.to_json(&target.to_string()));
    }
    say(&escape(&summary).to_string());
    Ok(())
}

/// Fetches an object and shows its progress; `on_progress` is told the verified bytes
/// and the size.
pub(crate) async fn fetch(
    client: &Client,
    name: &ObjectName,
    target: &Target,
    began: Instant,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<Summary, Failure> {
    let progress = Progress::default();
    let asking =
        Waiting::new().for_work(client.fetch_with(name, &progress), || match progress.hashed() {
            Some((hashed, size)) => {
                format!("the server is hashing the object: {} of {}", Size(hashed), Size(size))
            }
            None => "waiting for the server's answer".into(),
        });
    let fetch = asking.await?;
    let manifest = fetch.manifest().clone();
    let mut display = Display::new(manifest.size);
    let mut shares = Shares::default();
    let mut writing = pin!(write(fetch, target, &progress));
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
    let liars = client.liars_found().into_iter().map(|(_, address)| address).collect();
    Ok(Summary { manifest, elapsed: began.elapsed(), longest_stall, shares, liars })
}

async fn write(fetch: Fetch, target: &Target, progress: &Progress) -> Result<(), FetchError> {
    match target {
        Target::Stdout => {
            let stdout = target::stdout().map_err(FetchError::Output)?;
            fetch.write_to(Box::new(stdout), progress).await
        }
        Target::InOrder(path) => {
            let path = path.clone();
            // A pipe waits here for its reader.
            let opened = spawn_blocking(move || target::in_order(&path)).await;
            let opened = opened.map_err(io::Error::other).and_then(|opened| opened);
            fetch.write_to(Box::new(opened.map_err(FetchError::Output)?), progress).await
        }
        Target::File(path) => fetch.save(path, progress).await,
    }
}
