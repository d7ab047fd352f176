//! `kwik verify`: whether a file is what it should be.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use blake3::{Hash, Hasher};
use kwik::escape;
use kwik_delivery::Progress;
use tokio::{task::spawn_blocking, try_join};

use crate::{
    args::verify::{Original, Verify},
    failure::{Failure, Kind},
    options::ObjectLink,
    or_interrupted, print,
    progress::Waiting,
    sessions::{Dialing, Sessions},
    summary::Size,
    tally::Tally,
};

/// Bytes that are read and hashed at once.
const BLOCK: usize = 1024 * 1024;

pub(crate) async fn run(arguments: Verify) -> Result<(), Failure> {
    let file = match (&arguments.file, &arguments.original) {
        (Some(file), _) => file.clone(),
        (None, Original::Link(link)) => PathBuf::from(link.name.file_name()),
        (None, Original::Hash(_)) => {
            return Err(Failure::new(Kind::Usage, "a hash says no name: give the file, too"));
        }
    };
    let (expected, actual) = match &arguments.original {
        Original::Hash(hash) => (*hash, or_interrupted(hash_file(&file)).await?),
        Original::Link(link) => compare(link, &file, &arguments).await?,
    };
    let shown = file.display();
    if actual != expected {
        let message = format!(
            "{shown} is not as it should be: its BLAKE3 hash is {actual}, and not {expected}: \
             fetch it again"
        );
        return Err(Failure::new(Kind::Transfer, message));
    }
    print(&format!("{}: as it should be, BLAKE3 {actual}\n", escape(shown)))
}

/// The hash of an object, as its server says it, and that of a file.
async fn compare(
    link: &ObjectLink,
    file: &Path,
    arguments: &Verify,
) -> Result<(Hash, Hash), Failure> {
    let Verify { trust, timeout, .. } = arguments;
    let dialing = Dialing { trust, timeout: *timeout, retry: 0, limit_rate: None };
    let tally = Tally::new(false);
    let sessions = Sessions::new(dialing, link, &tally).alone();
    let both = async { try_join!(ask(link, &sessions), hash_file(file)) };
    let both = or_interrupted(both).await;
    sessions.close().await;
    both
}

async fn ask(link: &ObjectLink, sessions: &Sessions<'_>) -> Result<Hash, Failure> {
    let progress = Progress::default();
    let mut tries = sessions.tries(0);
    loop {
        let client = tries.client().await?;
        let asking = client.describe(&link.name, &progress);
        let answer = Waiting::new().for_work(asking, || "waiting for the server's answer".into());
        match answer.await {
            Ok(manifest) => return Ok(manifest.root),
            Err(error) => tries.failed(&client, error.into(), 0).await?,
        }
    }
}

pub(crate) async fn hash_file(path: &Path) -> Result<Hash, Failure> {
    let done = Arc::new(AtomicU64::new(0));
    let (counted, opened) = (Arc::clone(&done), path.to_path_buf());
    let hashing = spawn_blocking(move || hash(&opened, &counted));
    let what = || format!("hashing {}: {}", path.display(), Size(done.load(Ordering::Relaxed)));
    let hashed = Waiting::new().for_work(hashing, what).await;
    hashed.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Disk,
        };
        Failure::new(kind, format!("cannot read {}: {error}", path.display()))
    })
}

fn hash(path: &Path, done: &AtomicU64) -> io::Result<Hash> {
    let mut file: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let (mut hasher, mut block) = (Hasher::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(length) => {
                hasher.update(&block[..length]);
                done.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
