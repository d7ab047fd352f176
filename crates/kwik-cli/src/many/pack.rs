//! Small files, many at once: one request, one turn of the disk.

use std::sync::atomic::Ordering::Relaxed;

use futures_util::{TryStreamExt, stream};
use kwik_delivery::{
    FailureCode, FetchError, Manifest, ObjectName, Progress, SmallFile, Whole,
    limits::{MAX_PACK, MAX_PACK_NAMES, MAX_PACK_SIZE},
    write_small,
};

use super::{Crew, Ended, Job, Queue, blocking};
use crate::{failure::Failure, tally::UnderWay};

/// Fewer are fetched one by one: that takes a round trip less.
const LEAST: usize = 4;
/// Of a pack, so many are fetched one by one at once when they did not come with it.
const ALONE: usize = 16;

/// A file that came, and where in its pack it stood.
type Came<'a> = (Job, UnderWay<'a>, SmallFile);

impl Queue {
    /// What is fetched as one: many small ones, or one.
    pub(super) fn next(&mut self, together: bool) -> Option<Vec<Job>> {
        let mut jobs = vec![self.jobs.pop_front()?];
        let (mut size, mut names) = measure(&jobs[0]);
        while together
            && jobs.len() < MAX_PACK
            && let Some(job) = self.jobs.front()
        {
            let (more, name) = measure(job);
            (size, names) = (size + more, names + name);
            if size > MAX_PACK_SIZE || names > MAX_PACK_NAMES {
                break;
            }
            jobs.extend(self.jobs.pop_front());
        }
        Some(jobs)
    }
}

fn measure(job: &Job) -> (u64, usize) {
    (job.size.unwrap_or(u64::MAX), job.name.as_bytes().len())
}

impl<'a> Crew<'a> {
    /// Several small ones, or one. An error when there is no use in going on with others.
    pub(super) async fn fetch_some(&self, jobs: Vec<Job>) -> Result<(), Failure> {
        let left = if jobs.len() < LEAST { jobs } else { self.fetch_pack(jobs).await? };
        let each = stream::iter(left.into_iter().map(|job| Ok(self.fetch(job))));
        each.try_buffer_unordered(ALONE).try_collect().await
    }

    /// Those that did not come so.
    async fn fetch_pack(&self, jobs: Vec<Job>) -> Result<Vec<Job>, Failure> {
        // What is wrong with the session is found out, and said, by whoever tries again.
        let Ok(client) = self.sessions.client().await else { return Ok(jobs) };
        let mut places = Vec::new();
        for job in &jobs {
            places.extend(job.target.place(&self.manner));
        }
        if places.len() < jobs.len() {
            return Ok(jobs);
        }
        let under_way: Vec<_> = jobs.iter().map(|job| self.tally.begin(&job.name)).collect();
        let names: Vec<ObjectName> = jobs.iter().map(|job| job.name.clone()).collect();
        let progress: Vec<&Progress> = under_way.iter().map(|it| &*it.progress).collect();
        let fetched = match client.fetch_pack(&names, &progress).await {
            Ok(fetched) => fetched,
            Err(error) => {
                // An older server does not know what that is.
                if matches!(&error, FetchError::Refused(failure)
                    if failure.code == FailureCode::InvalidRequest)
                {
                    self.packs.store(false, Relaxed);
                }
                return Ok(jobs);
            }
        };
        if fetched.damaged {
            // What is fetched alone shows who lies.
            self.packs.store(false, Relaxed);
        }
        let (mut came, mut left) = (Vec::new(), Vec::new());
        let each = jobs.into_iter().zip(under_way).zip(fetched.files).zip(places);
        for (((job, under_way), whole), place) in each {
            match whole {
                Some(Whole { manifest, attributes, data }) => {
                    let file = SmallFile { place, manifest, attributes, data };
                    came.push((job, under_way, file));
                }
                None => left.push(job),
            }
        }
        self.keep(came).await?;
        Ok(left)
    }

    /// Writes what came, as much at once as descriptors are there for.
    async fn keep(&self, mut came: Vec<Came<'_>>) -> Result<(), Failure> {
        while !came.is_empty() {
            let count = came.len().min(self.most_writes);
            let rest = came.split_off(count);
            let (files, jobs): (Vec<_>, Vec<_>) =
                came.into_iter().map(|(job, under_way, file)| (file, (job, under_way))).unzip();
            came = rest;
            let manifests: Vec<Manifest> = files.iter().map(|it| it.manifest.clone()).collect();
            let turn = self.writes.acquire_many(u32::try_from(count).unwrap_or(u32::MAX)).await;
            let results = blocking(move || Ok(write_small(&files))).await?;
            drop(turn);
            for (((job, under_way), manifest), result) in
                jobs.into_iter().zip(manifests).zip(results)
            {
                let ended = match result {
                    Ok(()) => {
                        self.on_new_name(&job.target).await.map(|()| Ended::Fetched(manifest))
                    }
                    Err(error) => Err(error.into()),
                };
                drop(under_way);
                self.settle(&job, ended).await?;
            }
        }
        Ok(())
    }
}
