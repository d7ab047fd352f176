//! `kwik demo`: a primary and two edges as processes of their own, and a download through all.

use std::{
    env,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use kwik::escape;
use kwik_delivery::{
    Client, Fingerprint, Link, ObjectName, Output, PartFile, Place, Progress, Source, Visitor,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::spawn_blocking,
    time::timeout,
};

use crate::{
    args::Demo,
    connect::{Trust, Whom, connect},
    failure::{Failure, Kind},
    get::{self, What},
    print, state,
    summary::{Size, Summary},
    tally::Tally,
};

/// Size of the object that is made when there is none: long enough to see all servers at work.
const OBJECT_SIZE: u64 = 256 * 1024 * 1024;
/// Objects of a folder that are looked at for the largest.
const MAX_LISTED: usize = 10_000;
/// How long a server may take to start.
const START: Duration = Duration::from_secs(10);

pub(crate) async fn run(arguments: Demo) -> Result<(), Failure> {
    let scratch = tempfile::Builder::new().prefix("kwik-demo-").tempdir().map_err(|error| {
        disk(&format!("cannot use {}: {error}: set TMPDIR", env::temp_dir().display()))
    })?;
    let folder = match arguments.folder {
        Some(folder) => folder,
        None => random_object(&scratch).await?,
    };
    let source = Source::folder(&folder)?;
    let (name, size) = largest(&source, &folder).await?;
    print(&format!("object   {}, {}\n", escape(&name), Size(size)))?;

    let primary_state = scratch.path().join("primary");
    let pin = state::identity(&primary_state)?.fingerprint();
    let trust = ["--trust".to_owned(), pin.to_string()];
    let mut edges = Vec::new();
    for number in 1..=2 {
        let state = scratch.path().join(format!("edge-{number}"));
        let edge = Process::start(&folder, &state, &trust).await?;
        print(&format!("edge {number}   {}\n", edge.link))?;
        edges.push(edge);
    }
    let links = edges.iter().flat_map(|edge| ["--edge".to_owned(), edge.link.to_string()]);
    let primary = Process::start(&folder, &primary_state, &links.collect::<Vec<_>>()).await?;
    print(&format!("primary  {}\n", primary.link))?;

    let output = scratch.path().join("download");
    let victim = if arguments.kill { edges.pop() } else { None };
    download(&primary, &name, &output, pin, victim).await?;
    let original = if folder.is_dir() { name.under(&folder) } else { folder };
    compare(original, output).await
}

async fn download(
    primary: &Process,
    name: &ObjectName,
    output: &Path,
    pin: Fingerprint,
    mut victim: Option<Process>,
) -> Result<(), Failure> {
    let began = Instant::now();
    let Link { host, port, .. } = &primary.link;
    let (trust, visitor) = (Trust::Link(pin), Visitor::default());
    let whom = Whom { host, port: *port, trust, visitor, named_by: None };
    let connection = connect(whom, START).await?;
    let client = Client::new(connection.session.clone());
    let mut killed = None;
    let output = Output::file(PartFile::claim(Place::new(output), false)?);
    let what = What { name, expected: None, output: &output };
    let (progress, tally) = (Progress::default(), Tally::new(false));
    tally.begin_session(&connection.session);
    let manifest = get::fetch(&client, what, &progress, &tally, |verified, size| {
        if verified >= size / 2 {
            // Dropping it kills it.
            killed = victim.take().map(|_| verified).or(killed);
        }
    })
    .await?;
    tally.keep_liars(&client);
    let (shares, liars) = tally.take_shares();
    let summary = Summary::new(manifest, began.elapsed(), &progress, shares, liars);
    connection.close().await;
    if let Some(verified) = killed {
        print(&format!("killed   edge 2, when {} were there\n", Size(verified)))?;
    }
    print(&format!("result   {}\n", escape(&summary)))
}

/// A server, killed when dropped.
#[derive(Debug)]
struct Process {
    link: Link,
    _child: Child,
}

impl Process {
    /// Starts `kwik serve` on a free port and waits until it says where.
    async fn start(folder: &Path, state: &Path, options: &[String]) -> Result<Self, Failure> {
        let failed = |error: io::Error| disk(&format!("cannot start a server: {error}"));
        let mut command = Command::new(env::current_exe().map_err(failed)?);
        // What is configured for servers is not for these.
        for (name, _) in
            env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KWIK_"))
        {
            command.env_remove(name);
        }
        let mut child = command
            .args(["--config", "/dev/null", "serve"])
            .arg(folder)
            // It ends with this process, however that ends.
            .args(["--end-with-stdin", "--drain", "0", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .args(options)
            .env("KWIK_LOG", env::var_os("KWIK_LOG").unwrap_or("error".into()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("invariant: it is piped");
        let link = timeout(START, read_link(stdout)).await.ok().flatten();
        let link = link.ok_or_else(|| Failure::new(Kind::Transfer, "a server did not start"))?;
        Ok(Self { link, _child: child })
    }
}

/// The server that the greeting names.
async fn read_link(stdout: impl AsyncRead + Unpin) -> Option<Link> {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // A link for clients, or of an edge for its primary.
        if let Some(at) = line.find("kwik://") {
            return Some(Link { name: None, ..line[at..].parse().ok()? });
        }
    }
    None
}

/// Makes a file that cannot be compressed.
async fn random_object(scratch: &TempDir) -> Result<PathBuf, Failure> {
    let folder = scratch.path().join("files");
    let path = folder.join("random.bin");
    let made = folder.clone();
    let work = move || {
        std::fs::create_dir(&made)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let mut bytes = blake3::Hasher::new_keyed(&seed).finalize_xof();
        let mut file = File::create(path)?;
        let mut block = vec![0; 1024 * 1024];
        for _ in 0..OBJECT_SIZE / block.len() as u64 {
            bytes.fill(&mut block);
            file.write_all(&block)?;
        }
        Ok(())
    };
    let failed = |error: io::Error| disk(&format!("cannot make an object: {error}: set TMPDIR"));
    blocking(work).await.map_err(failed)?;
    Ok(folder)
}

async fn largest(source: &Source, folder: &Path) -> Result<(ObjectName, u64), Failure> {
    let mut largest = None;
    for name in source.list(MAX_LISTED).await? {
        let size = source.head(&name).await?.size;
        if largest.as_ref().is_none_or(|(_, most)| size > *most) {
            largest = Some((name, size));
        }
    }
    largest.ok_or_else(|| {
        Failure::new(Kind::NotFound, format!("there is no file in {}", folder.display()))
    })
}

/// Compares the download with its original, by their BLAKE3 hashes.
async fn compare(original: PathBuf, download: PathBuf) -> Result<(), Failure> {
    let hash = |path: PathBuf| -> io::Result<blake3::Hash> {
        Ok(blake3::Hasher::new().update_reader(File::open(path)?)?.finalize())
    };
    let work = move || Ok((hash(original)?, hash(download)?));
    let failed = |error: io::Error| disk(&format!("cannot compare the files: {error}"));
    let (original, download) = blocking(work).await.map_err(failed)?;
    if original != download {
        let message = format!("the download hashes to {download}, the original to {original}");
        return Err(Failure::new(Kind::Transfer, message));
    }
    print(&format!("verified BLAKE3 {download}, as the original\n"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn disk(message: &str) -> Failure {
    Failure::new(Kind::Disk, message)
}
