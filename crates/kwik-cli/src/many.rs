//! Many objects over one session at a time: some under way at once, each of them whole or not at
//! all.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use kwik_delivery::{
    Attributes, Client, Manifest, ObjectName, Output, SmallFile, limits::MAX_INLINE, sync_names,
    write_small,
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time,
};

use crate::{
    args::get::Get,
    failure::{Failure, Kind},
    progress::{Overall, TICK, Waiting},
    sessions::Sessions,
    tally::{Tally, UnderWay},
    target::{Manner, Target},
    verify::hash_file,
};

/// Packs of small objects under way at once: as many as a server answers, and four megabytes at the
/// most, so that a round trip costs little.
const MAX_PACKS: usize = 16;
/// Small objects under way at once with a server that knows no packs.
const MAX_SMALL: usize = 64;
/// Others up to [`LARGE`]: each has a file open, and a few blocks in memory.
const MAX_MEDIUM: usize = 12;
/// Others: each may fill the session's window, and keeps some megabytes.
const MAX_LARGE: usize = 4;
/// Larger objects are large, and so are those of which nothing is known.
const LARGE: u64 = 1024 * 1024;
/// Small files that are written at once: what is written together takes one turn of the disk, and a
/// descriptor for each.
const MAX_WRITES: usize = 128;
/// Of the descriptors that the process may have, one in so many is for them.
const WRITES_SHARE: usize = 8;
/// Folders whose new names are not durable yet.
const MAX_UNSYNCED: usize = 256;

mod pack;

/// An object that is wanted, and where.
pub(crate) struct Job {
    pub(crate) name: ObjectName,
    pub(crate) size: Option<u64>,
    pub(crate) target: Target,
    /// Only when the file that is there has another hash, `--checksum`: when it has not, it gets
    /// what else is known of it.
    pub(crate) check: Option<Attributes>,
}

/// How one ended.
enum Ended {
    Fetched(Manifest),
    Equal,
}

/// Fetches what comes as `jobs`.
pub(crate) struct Crew<'a> {
    arguments: &'a Get,
    sessions: &'a Sessions<'a>,
    tally: &'a Tally,
    manner: Manner,
    /// Small objects are asked for in packs.
    packs: AtomicBool,
    most_writes: usize,
    writes: Semaphore,
    /// Folders that have new names.
    unsynced: Mutex<Vec<PathBuf>>,
}

/// What waits, and how many of its kind are under way.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    running: usize,
}

impl<'a> Crew<'a> {
    pub(crate) fn new(arguments: &'a Get, sessions: &'a Sessions<'a>, tally: &'a Tally) -> Self {
        let most_writes = writes();
        Self {
            arguments,
            sessions,
            tally,
            manner: arguments.manner(),
            packs: AtomicBool::new(true),
            most_writes,
            writes: Semaphore::new(most_writes),
            unsynced: Mutex::default(),
        }
    }

    /// Until no more jobs come, and all are done. What fails is said, and keeps the others from
    /// nothing, but for a failure that all would have.
    pub(crate) async fn run(&self, mut jobs: mpsc::Receiver<Vec<Job>>) -> Result<(), Failure> {
        let mut queues: [Queue; 3] = Default::default();
        let mut running = FuturesUnordered::new();
        let mut overall = Overall::new();
        let mut ticks = time::interval(TICK);
        let mut open = true;
        loop {
            let packs = self.packs.load(Relaxed);
            let small = if packs { MAX_PACKS } else { MAX_SMALL };
            let limits = [small, MAX_MEDIUM, MAX_LARGE];
            for (kind, (queue, limit)) in queues.iter_mut().zip(limits).enumerate() {
                while queue.running < limit
                    && let Some(jobs) = queue.next(packs && kind == SMALL)
                {
                    queue.running += 1;
                    running.push(self.fetch_some(jobs).map(move |ended| (kind, ended)));
                }
            }
            // Some wait: no more are taken before.
            let room = queues.iter().all(|queue| queue.jobs.is_empty());
            tokio::select! {
                Some((kind, ended)) = running.next() => {
                    ended?;
                    queues[kind].running -= 1;
                }
                more = jobs.recv(), if open && room => match more {
                    Some(more) => for job in more {
                        self.tally.want(job.size);
                        queues[kind(&job)].jobs.push_back(job);
                    },
                    None => open = false,
                },
                _ = ticks.tick(), if !running.is_empty() => {
                    self.sessions.look();
                    self.tally.show(&mut overall);
                }
                else => break,
            }
        }
        drop(overall);
        self.sync_folders().await
    }

    /// An error when there is no use in going on with others.
    async fn fetch(&self, job: Job) -> Result<(), Failure> {
        let under_way = self.tally.begin(&job.name);
        let ended = self.try_all(&job, &under_way).await;
        drop(under_way);
        self.settle(&job, ended).await
    }

    /// Says how one ended: an error when there is no use in going on with others.
    async fn settle(&self, job: &Job, ended: Result<Ended, Failure>) -> Result<(), Failure> {
        match ended {
            Ok(Ended::Fetched(manifest)) => {
                let output = job.target.to_string();
                self.tally.on_fetched(&manifest, &output, self.arguments.json)
            }
            Ok(Ended::Equal) => {
                self.tally.on_skipped();
                Ok(())
            }
            Err(failure) if failure.kind == Kind::Unread => Err(failure),
            // Others would have no room either, and be fetched for nothing.
            Err(failure)
                if failure.kind == Kind::Full && job.size.is_some_and(|size| size <= LARGE) =>
            {
                Err(failure)
            }
            Err(failure) if self.sessions.is_over().await => Err(failure),
            Err(failure) => {
                self.tally.on_failed(&job.name, &failure);
                Ok(())
            }
        }
    }

    async fn try_all(&self, job: &Job, under_way: &UnderWay<'_>) -> Result<Ended, Failure> {
        let progress = &under_way.progress;
        let mut output = None;
        let mut tries = self.sessions.tries(0).of(kwik::escape(&job.name).to_string());
        loop {
            let client = tries.client().await?;
            let attempt = self.attempt(&client, job, under_way, &mut output).await;
            let failed = match attempt {
                Ok(ended) => {
                    self.tally.keep_liars(&client);
                    return Ok(ended);
                }
                Err(failure) => tries.failed(&client, failure, progress.verified()).await,
            };
            failed.map_err(|failure| match &output {
                Some(output) => failure.with_kept(output),
                None => failure,
            })?;
        }
    }

    async fn attempt(
        &self,
        client: &Client,
        job: &Job,
        under_way: &UnderWay<'_>,
        output: &mut Option<Output>,
    ) -> Result<Ended, Failure> {
        let Job { name, target, .. } = job;
        let progress = &*under_way.progress;
        if let Some(attributes) = job.check
            && let Target::File { path, .. } = target
        {
            let asking = client.describe(name, progress);
            let what = || format!("{}: waiting for its hash", kwik::escape(name));
            let manifest = Waiting::new().for_work(asking, what).await?;
            if hash_file(path).await.ok() == Some(manifest.root) {
                let (path, modes) = (path.clone(), self.manner.modes);
                blocking(move || adopt(&path, attributes, modes)).await?;
                return Ok(Ended::Equal);
            }
        }
        if kind(job) == SMALL
            && output.is_none()
            && let Some(place) = target.place(&self.manner)
        {
            let fetch = client.fetch_small(name, progress).await?;
            let (manifest, attributes) = (fetch.manifest().clone(), fetch.attributes());
            if let Some(data) = fetch.here(progress) {
                let small = SmallFile { place, manifest: manifest.clone(), attributes, data };
                self.write(small).await?;
                self.on_new_name(target).await?;
                return Ok(Ended::Fetched(manifest));
            }
            // It has grown since, or did not verify.
            let opened = self.open(target).await?;
            let opened = output.insert(opened);
            fetch.write(opened, progress).await?;
            return Ok(Ended::Fetched(manifest));
        }
        let opened = match output {
            Some(opened) => opened,
            None => output.insert(self.open(target).await?),
        };
        let fetch = client.fetch_to(name, opened, progress).await?;
        let manifest = fetch.manifest().clone();
        fetch.write(opened, progress).await?;
        Ok(Ended::Fetched(manifest))
    }

    async fn open(&self, target: &Target) -> Result<Output, Failure> {
        let (target, manner) = (target.clone(), self.manner.clone());
        blocking(move || target.open(&manner)).await
    }

    /// Waits for the turn to write.
    async fn write(&self, file: SmallFile) -> Result<(), Failure> {
        let _turn = self.writes.acquire().await;
        let write = move || write_small(&[file]).into_iter().collect::<Result<(), _>>();
        blocking(move || write().map_err(Failure::from)).await
    }

    /// Its folder's names are made durable later, for many files at once.
    async fn on_new_name(&self, target: &Target) -> Result<(), Failure> {
        let Target::File { path, .. } = target else { return Ok(()) };
        let folder = path.parent().unwrap_or(path).to_path_buf();
        let full = {
            // The list is whole between statements, so a panic elsewhere leaves it usable.
            let mut unsynced = self.unsynced.lock().unwrap_or_else(|error| error.into_inner());
            if !unsynced.contains(&folder) {
                unsynced.push(folder);
            }
            unsynced.len() >= MAX_UNSYNCED
        };
        if full { self.sync_folders().await } else { Ok(()) }
    }

    async fn sync_folders(&self) -> Result<(), Failure> {
        let folders = {
            let mut unsynced = self.unsynced.lock().unwrap_or_else(|error| error.into_inner());
            std::mem::take(&mut *unsynced)
        };
        let sync = move || folders.iter().try_for_each(|folder| sync_names(folder));
        blocking(move || sync().map_err(Failure::from)).await
    }
}

/// Small files that are written at once.
fn writes() -> usize {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = descriptors.and_then(|most| usize::try_from(most).ok());
    descriptors.map_or(MAX_WRITES, |most| (most / WRITES_SHARE).clamp(1, MAX_WRITES))
}

const SMALL: usize = 0;

/// What kind of job it is, for how many of it are under way at once.
fn kind(job: &Job) -> usize {
    match job.size {
        _ if job.check.is_some() => 1,
        Some(size) if size <= MAX_INLINE => SMALL,
        Some(size) if size <= LARGE => 1,
        _ => 2,
    }
}

/// Gives a file that has the bytes it should have the time, and by option the mode, that goes with
/// them.
fn adopt(path: &Path, attributes: Attributes, modes: bool) -> Result<(), Failure> {
    let adopted = fs::File::open(path).and_then(|file| {
        if let Some(mode) = attributes.mode.filter(|_| modes) {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        attributes.modified.map_or(Ok(()), |modified| file.set_modified(modified))
    });
    adopted.map_err(|error| {
        let message = format!("cannot change the time of {}: {error}", path.display());
        Failure::new(Kind::Disk, message)
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    spawn_blocking(work).await.unwrap_or_else(|error| {
        Err(Failure::new(Kind::Disk, format!("cannot write the target: {error}")))
    })
}
