//! `kwik get`: objects into files.

use std::{path::Path, time::Instant};

use blake3::Hash;
use kwik::escape;
use kwik_delivery::{Client, Manifest, ObjectName, Output, Progress};
use tokio::{sync::mpsc, task::spawn_blocking, time};

use crate::{
    args::get::Get,
    connect::Trust,
    failure::{Failure, Kind},
    folder,
    many::{Crew, Job},
    options::ObjectLink,
    print,
    progress::{Display, TICK, Waiting},
    qlog,
    remote::{Remote, Several},
    sessions::Sessions,
    signals::Signals,
    summary::{Size, Summary},
    tally::Tally,
    target::{Target, Wish},
    voice::{self, note},
};

pub(crate) async fn run(arguments: Get) -> Result<(), Failure> {
    voice::choose(arguments.form());
    check(&arguments)?;
    qlog::open(arguments.qlog.as_deref())?;
    let mut signals = Signals::listen()?;
    let [Remote::Object(link)] = &arguments.links[..] else {
        return get_all(&arguments, &mut signals).await;
    };
    get(&arguments, link, &mut signals).await
}

/// What does not go together.
fn check(arguments: &Get) -> Result<(), Failure> {
    let usage = |message: &str| Err(Failure::new(Kind::Usage, message));
    let output = arguments.output.as_deref();
    let several = arguments.links.len() > 1;
    let folder = arguments.links.iter().any(|link| matches!(link, Remote::Several(_)));
    if several && output.is_some_and(|output| !output.is_dir()) {
        return usage("-o names one file, and there are several links: give a folder with -d");
    }
    if folder && output == Some(Path::new("-")) {
        return usage("a folder cannot go to standard output: give a folder with -d");
    }
    if (several || folder) && arguments.expect.is_some() {
        return usage("--expect is one hash, and there are several objects: get one at a time");
    }
    if arguments.json && output == Some(Path::new("-")) {
        return usage("--json and -o - both want standard output: leave one of them out");
    }
    if arguments.choice.dry_run && !folder {
        return usage("--dry-run is for folders: end the link in /");
    }
    Ok(())
}

/// What is fetched at once: from one server, and to different names.
enum Group<'a> {
    Objects(Vec<&'a ObjectLink>),
    Several(&'a Several),
}

impl<'a> Group<'a> {
    fn of(links: &'a [Remote]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for remote in links {
            let link = match remote {
                Remote::Several(several) => {
                    groups.push(Self::Several(several));
                    continue;
                }
                Remote::Object(link) => link,
            };
            let fits = |group: &&mut Self| match group {
                Self::Objects(links) => links.iter().all(|other| {
                    other.leads_to_server_of(link)
                        && other.name.file_name() != link.name.file_name()
                }),
                Self::Several(_) => false,
            };
            match groups.iter_mut().find(fits) {
                Some(Self::Objects(links)) => links.push(link),
                _ => groups.push(Self::Objects(vec![link])),
            }
        }
        groups
    }

    fn server(&self) -> &'a ObjectLink {
        match self {
            Self::Objects(links) => links[0],
            Self::Several(several) => &several.server,
        }
    }
}

/// Over one session for each server. What fails does not keep the others from being fetched.
async fn get_all(arguments: &Get, signals: &mut Signals) -> Result<(), Failure> {
    let tally = Tally::new(arguments.verbose);
    let groups = Group::of(&arguments.links);
    let mut sessions: Option<Sessions<'_>> = None;
    let work = async {
        for group in &groups {
            let server = group.server();
            if let Some(before) = sessions.take_if(|held| !held.are_with(server)) {
                before.close().await;
            }
            let sessions =
                sessions.get_or_insert_with(|| Sessions::new(arguments.dialing(), server, &tally));
            let result = get_group(arguments, group, sessions, &tally).await;
            match result {
                Ok(()) => {}
                Err(failure) if failure.kind == Kind::Unread || groups.len() == 1 => {
                    return Err(failure);
                }
                Err(failure) => {
                    tally.on_failed(&format!("{}:{}", server.host, server.port), &failure);
                }
            }
        }
        Ok(())
    };
    let result = tokio::select! {
        result = work => result,
        signal = signals.next() => Err(Failure::new(Kind::Signal(signal), "interrupted")),
    };
    if let Some(sessions) = sessions {
        sessions.close().await;
    }
    result.map_err(|failure| tally.explain(failure))?;
    let what = if groups.iter().all(|group| matches!(group, Group::Several(_))) {
        "files"
    } else {
        "objects"
    };
    if arguments.choice.dry_run {
        return tally.finish_plan();
    }
    tally.finish(what, arguments.json, arguments.verbose)
}

async fn get_group(
    arguments: &Get,
    group: &Group<'_>,
    sessions: &Sessions<'_>,
    tally: &Tally,
) -> Result<(), Failure> {
    let links = match group {
        Group::Several(several) => {
            return folder::fetch(arguments, several, sessions, tally).await;
        }
        Group::Objects(links) => links,
    };
    let mut jobs = Vec::new();
    for link in links {
        match Target::find(wish(arguments), &link.name) {
            Ok(target @ Target::Kept(_)) => {
                note(&format!("{} is there already, and stays", escape(&target)));
                tally.on_skipped();
            }
            Ok(target) => {
                jobs.push(Job { name: link.name.clone(), size: None, target, check: None });
            }
            Err(failure) => tally.on_failed(&link.name, &failure),
        }
    }
    if jobs.is_empty() {
        return Ok(());
    }
    let (sender, receiver) = mpsc::channel(1);
    // There is room for it.
    sender.try_send(jobs).ok();
    drop(sender);
    Crew::new(arguments, sessions, tally).run(receiver).await
}

fn wish(arguments: &Get) -> Wish<'_> {
    Wish {
        output: arguments.output.as_deref(),
        folder: arguments.dir.as_deref(),
        force: arguments.force,
        no_clobber: arguments.no_clobber,
    }
}

async fn get(arguments: &Get, link: &ObjectLink, signals: &mut Signals) -> Result<(), Failure> {
    let target = Target::find(wish(arguments), &link.name)?;
    if matches!(target, Target::Kept(_)) {
        note(&format!("{} is there already, and stays", escape(&target)));
        return Ok(());
    }
    // The key first: it may be that nothing is to be fetched at all.
    Trust::new(link, &arguments.trust)?;
    let output = open(&target, arguments).await?;
    let tally = Tally::new(arguments.verbose);
    let sessions = Sessions::new(arguments.dialing(), link, &tally).alone();
    let what = What { name: &link.name, expected: arguments.expect, output: &output };
    let result = tokio::select! {
        result = download(what, &sessions, &tally) => result,
        signal = signals.next() => Err(Failure::new(Kind::Signal(signal), "interrupted")),
    };
    let shown = result
        .map_err(|failure| failure.with_kept(&output))
        .and_then(|summary| show(arguments, &summary, &target));
    // The goodbye last: until then the server may hear that all has come.
    sessions.close().await;
    shown
}

fn show(arguments: &Get, summary: &Summary, target: &Target) -> Result<(), Failure> {
    if arguments.verbose {
        summary.shares.explain().iter().for_each(|line| note(&escape(line).to_string()));
    }
    voice::event(&summary.to_event());
    if arguments.json {
        return print(&summary.to_json(&target.to_string()));
    }
    if arguments.form() != voice::Form::Json {
        note(&escape(summary).to_string());
    }
    Ok(())
}

async fn open(target: &Target, arguments: &Get) -> Result<Output, Failure> {
    let (manner, target) = (arguments.manner(), target.clone());
    spawn_blocking(move || target.open(&manner)).await.unwrap_or_else(|error| {
        Err(Failure::new(Kind::Disk, format!("cannot open the target: {error}")))
    })
}

/// Fetches an object, over as many sessions as it takes.
async fn download(
    what: What<'_>,
    sessions: &Sessions<'_>,
    tally: &Tally,
) -> Result<Summary, Failure> {
    let began = Instant::now();
    let under_way = tally.begin(what.name);
    let progress = &*under_way.progress;
    let mut tries = sessions.tries(0);
    loop {
        let client = tries.client().await?;
        match fetch(&client, what, progress, tally, |_, _| {}).await {
            Ok(manifest) => {
                tally.keep_liars(&client);
                let (shares, liars) = tally.take_shares();
                return Ok(Summary::new(manifest, began.elapsed(), progress, shares, liars));
            }
            Err(failure) => tries.failed(&client, failure, progress.verified()).await?,
        }
    }
}

/// What is fetched, and where to.
#[derive(Clone, Copy)]
pub(crate) struct What<'a> {
    pub(crate) name: &'a ObjectName,
    /// The hash that it has to have.
    pub(crate) expected: Option<Hash>,
    pub(crate) output: &'a Output,
}

/// Fetches an object in one session, and shows its progress; `on_progress` is told the verified
/// bytes and the size.
pub(crate) async fn fetch(
    client: &Client,
    what: What<'_>,
    progress: &Progress,
    tally: &Tally,
    mut on_progress: impl FnMut(u64, u64),
) -> Result<Manifest, Failure> {
    let What { name, expected, output } = what;
    let asking =
        Waiting::new().for_work(client.fetch_to(name, output, progress), || {
            match progress.hashed() {
                Some((hashed, size)) => {
                    format!("the server is hashing the object: {} of {}", Size(hashed), Size(size))
                }
                None => "waiting for the server's answer".into(),
            }
        });
    let fetch = asking.await?;
    let manifest = fetch.manifest().clone();
    if let Some(expected) = expected.filter(|expected| *expected != manifest.root) {
        let message = format!(
            "the object's BLAKE3 hash is {}, and not {expected} as --expect says: nothing was \
             written",
            manifest.root
        );
        return Err(Failure::new(Kind::Trust, message));
    }
    let mut display = Display::new(manifest.size, progress);
    let mut writing = Box::pin(fetch.write(output, progress));
    let mut ticks = time::interval(TICK);
    let result = loop {
        tokio::select! {
            result = &mut writing => break result,
            _ = ticks.tick() => {
                tally.look(client.session());
                tally.with_shares(|shares| display.update(progress, shares));
                on_progress(progress.verified(), manifest.size);
            }
        }
    };
    tally.look(client.session());
    // Also what is over before it was looked at.
    display.tell_takeover(progress);
    result?;
    Ok(manifest)
}
