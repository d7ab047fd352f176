//! What a get of many objects came to, so far and in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use kwik::{PathId, Session, escape};
use kwik_delivery::{Client, Manifest, ObjectName, Progress, Takeover};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Kind},
    print,
    progress::Overall,
    summary::{Shares, Size, mbit},
    voice::{self, note},
};

/// Liars that are named at the end: more than a server has edges.
const MAX_LIARS: usize = 64;

/// Counts of one get. Who fetches and who shows look at it at once.
pub(crate) struct Tally {
    began: Instant,
    /// Known to be wanted: files, and bytes of those whose size is known.
    wanted: [AtomicU64; 2],
    fetched: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    /// Bytes of those that were fetched.
    size: AtomicU64,
    /// Bytes of what is over, however it ended.
    verified: AtomicU64,
    received: AtomicU64,
    taken_over: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    /// What is under way: as many as are fetched at once.
    active: BTreeMap<u64, Active>,
    shares: Shares,
    liars: BTreeSet<String>,
    /// Why the first one failed.
    first: Option<Kind>,
}

struct Active {
    name: ObjectName,
    progress: Arc<Progress>,
    told: bool,
}

/// An object that is under way.
pub(crate) struct UnderWay<'a> {
    tally: &'a Tally,
    number: u64,
    pub(crate) progress: Arc<Progress>,
}

impl Tally {
    /// Of a get that says what limits it, or does not.
    pub(crate) fn new(verbose: bool) -> Self {
        let zero = AtomicU64::default;
        Self {
            began: Instant::now(),
            wanted: [zero(), zero()],
            fetched: zero(),
            skipped: zero(),
            failed: zero(),
            size: zero(),
            verified: zero(),
            received: zero(),
            taken_over: zero(),
            inner: Mutex::new(Inner { shares: Shares::new(verbose), ..Inner::default() }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Counts are right enough between statements, so a panic elsewhere leaves them usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn want(&self, size: Option<u64>) {
        self.wanted[0].fetch_add(1, Relaxed);
        self.wanted[1].fetch_add(size.unwrap_or_default(), Relaxed);
    }

    pub(crate) fn begin(&self, name: &ObjectName) -> UnderWay<'_> {
        let mut inner = self.inner();
        inner.next += 1;
        let (number, progress) = (inner.next, Arc::<Progress>::default());
        let active = Active { name: name.clone(), progress: Arc::clone(&progress), told: false };
        inner.active.insert(number, active);
        UnderWay { tally: self, number, progress }
    }

    pub(crate) fn begin_session(&self, session: &Session) {
        self.inner().shares.begin_session(session);
    }

    /// Looks at what the session has brought by now, path by path.
    pub(crate) fn look(&self, session: &Session) -> BTreeMap<PathId, u64> {
        let mut inner = self.inner();
        let writing = inner.active.values().any(|active| active.progress.is_writing());
        inner.shares.update(session, writing)
    }

    /// The same of one before, which had `brought` so much.
    pub(crate) fn look_again(&self, session: &Session, brought: &mut BTreeMap<PathId, u64>) {
        self.inner().shares.update_before(session, brought);
    }

    /// Who was found to lie in a session.
    pub(crate) fn keep_liars(&self, client: &Client) {
        let mut inner = self.inner();
        for (_, address) in client.liars_found() {
            if inner.liars.len() < MAX_LIARS {
                inner.liars.insert(address);
            }
        }
    }

    /// It is here whole.
    pub(crate) fn on_fetched(
        &self,
        manifest: &Manifest,
        output: &str,
        json: bool,
    ) -> Result<(), Failure> {
        let Manifest { name, size, root } = manifest;
        self.fetched.fetch_add(1, Relaxed);
        self.size.fetch_add(*size, Relaxed);
        let root = root.to_hex();
        voice::event(&json!({
            "event": "done", "name": name.to_string(), "size": size, "blake3": root.as_str(),
            "sessions": self.inner().shares.sessions(),
        }));
        if !json {
            return Ok(());
        }
        let object = json!({
            "name": name.to_string(), "output": output, "size": size, "blake3": root.as_str(),
            "verified": true,
        });
        print(&format!("{}\n", voice::json_line(&object)))
    }

    /// It would be fetched.
    pub(crate) fn on_planned(&self, size: u64) {
        self.fetched.fetch_add(1, Relaxed);
        self.size.fetch_add(size, Relaxed);
    }

    pub(crate) fn on_skipped(&self) {
        self.skipped.fetch_add(1, Relaxed);
    }

    /// Says why it is not here.
    pub(crate) fn on_failed(&self, name: &impl fmt::Display, failure: &Failure) {
        voice::say(&format!("kwik: {}: {failure}", escape(name)));
        self.failed.fetch_add(1, Relaxed);
        self.inner().first.get_or_insert(failure.kind);
    }

    /// With what came all the same.
    pub(crate) fn explain(&self, mut failure: Failure) -> Failure {
        let [fetched, wanted] = [&self.fetched, &self.wanted[0]].map(|count| count.load(Relaxed));
        if wanted > 0 {
            failure.message = format!(
                "{}: {fetched} of {wanted} came whole: the same command goes on with the rest",
                failure.message
            );
        }
        failure
    }

    /// Bytes that came from servers.
    pub(crate) fn received(&self) -> u64 {
        let inner = self.inner();
        let active: u64 = inner.active.values().map(|active| active.progress.received()).sum();
        self.received.load(Relaxed) + active
    }

    /// How much has come of what counts: no server can make it rise for ever.
    pub(crate) fn came(&self) -> u64 {
        self.verified() + self.fetched.load(Relaxed)
    }

    /// What servers brought so far.
    pub(crate) fn with_shares<T>(&self, look: impl FnOnce(&Shares) -> T) -> T {
        look(&self.inner().shares)
    }

    /// What servers brought, and who of them lied.
    pub(crate) fn take_shares(&self) -> (Shares, Vec<String>) {
        let mut inner = self.inner();
        let shares = std::mem::take(&mut inner.shares);
        (shares, std::mem::take(&mut inner.liars).into_iter().collect())
    }

    fn verified(&self) -> u64 {
        let inner = self.inner();
        let active: u64 = inner.active.values().map(|active| active.progress.verified()).sum();
        self.verified.load(Relaxed) + active
    }

    /// Shows how far it is, and says once of each object what became of what was there of it.
    pub(crate) fn show(&self, overall: &mut Overall) {
        let mut news = Vec::new();
        for active in self.inner().active.values_mut().filter(|active| !active.told) {
            let Some(takeover) = active.progress.takeover() else { continue };
            active.told = true;
            let name = escape(&active.name);
            news.push(match takeover {
                Takeover::Kept { bytes, .. } => {
                    format!("{name}: going on: {} are here and verified", Size(bytes))
                }
                _ => format!("{name}: another version than the one begun here: fetching it anew"),
            });
        }
        news.iter().for_each(|text| overall.say(text));
        let [files, size] = self.wanted.each_ref().map(|wanted| wanted.load(Relaxed));
        let done = self.fetched.load(Relaxed) + self.failed.load(Relaxed);
        let (paths, hashing, limit) = {
            let inner = self.inner();
            let limit = inner.shares.limit().map(str::to_owned);
            (inner.shares.paths(), inner.hashing(), limit)
        };
        let verified = self.verified();
        // Of what comes there is more to say.
        let hashing = hashing.filter(|_| verified < size && self.received() == overall.received());
        overall.update(self.received(), (verified, size), (done, files), (paths, hashing, limit));
    }

    /// Says what it would come to.
    pub(crate) fn finish_plan(&self) -> Result<(), Failure> {
        let [fetched, size, skipped] =
            [&self.fetched, &self.size, &self.skipped].map(|count| count.load(Relaxed));
        let files = things("files", fetched);
        note(&format!("{fetched} {files} to fetch, {}; {skipped} are here already", Size(size)));
        self.failure("files")
    }

    /// Why not all went well.
    fn failure(&self, what: &str) -> Result<(), Failure> {
        let [failed, fetched, skipped] =
            [&self.failed, &self.fetched, &self.skipped].map(|count| count.load(Relaxed));
        let said = format!("{failed} of {} {what} were not fetched", failed + fetched + skipped);
        self.inner().first.map_or(Ok(()), |kind| Err(Failure::new(kind, said)))
    }

    /// Says what it came to; an error when anything failed. `what` are the things it counts.
    pub(crate) fn finish(&self, what: &str, json: bool, verbose: bool) -> Result<(), Failure> {
        let inner = self.inner();
        if verbose {
            inner.shares.explain().iter().for_each(|line| note(&escape(line).to_string()));
        }
        let summary = self.to_json(&inner);
        voice::event(&summary);
        if json {
            print(&format!("{summary}\n"))?;
        } else if voice::form() != voice::Form::Json {
            note(&escape(self.text(&inner, what)).to_string());
        }
        drop(inner);
        self.failure(what)
    }

    fn text(&self, inner: &Inner, what: &str) -> String {
        let count = |count: &AtomicU64| count.load(Relaxed);
        let (elapsed, size) = (self.began.elapsed(), count(&self.size));
        let mut text = format!(
            "{} {} fetched: {} in {:.2} s, {:.0} Mbit/s, each verified",
            count(&self.fetched),
            things(what, count(&self.fetched)),
            Size(size),
            elapsed.as_secs_f64(),
            mbit(size.saturating_sub(count(&self.taken_over)), elapsed),
        );
        for (counted, word) in [(&self.skipped, "skipped"), (&self.failed, "failed")] {
            if count(counted) > 0 {
                text += &format!("; {} {word}", count(counted));
            }
        }
        for (address, _, share) in inner.shares.iter() {
            text += &format!("; {address} {:.1} %", share * 100.0);
        }
        text
    }

    fn to_json(&self, inner: &Inner) -> Value {
        let count = |count: &AtomicU64| count.load(Relaxed);
        let shown = |address: &str| escape(address).to_string();
        let paths = inner.shares.iter().map(|(address, bytes, share)| {
            json!({ "address": shown(address), "bytes": bytes, "share": share })
        });
        json!({
            "event": "all",
            "fetched": count(&self.fetched),
            "skipped": count(&self.skipped),
            "failed": count(&self.failed),
            "size": count(&self.size),
            "received": count(&self.received),
            "taken_over": count(&self.taken_over),
            "seconds": self.began.elapsed().as_secs_f64(),
            "sessions": inner.shares.sessions(),
            "paths": paths.collect::<Vec<_>>(),
            "liars": inner.liars.iter().map(|liar| shown(liar)).collect::<Vec<_>>(),
        })
    }
}

impl Inner {
    /// What the server has to hash before it sends it.
    fn hashing(&self) -> Option<String> {
        self.active.values().find_map(|Active { name, progress, .. }| {
            let (hashed, size) = progress.hashed().filter(|_| progress.received() == 0)?;
            let name = escape(name);
            Some(format!("the server is hashing {name}: {} of {}", Size(hashed), Size(size)))
        })
    }
}

/// What came of it counts, whether it is whole or not.
impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let (tally, progress) = (self.tally, &self.progress);
        // At once, so that nothing is counted twice in between.
        let mut inner = tally.inner();
        inner.active.remove(&self.number);
        tally.received.fetch_add(progress.received(), Relaxed);
        tally.verified.fetch_add(progress.verified(), Relaxed);
        if let Some(Takeover::Kept { bytes, .. }) = progress.takeover() {
            tally.taken_over.fetch_add(bytes, Relaxed);
        }
        drop(inner);
    }
}

/// What so many are called.
fn things(what: &str, count: u64) -> &str {
    if count == 1 { what.trim_end_matches('s') } else { what }
}
